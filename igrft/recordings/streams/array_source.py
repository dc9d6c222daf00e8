"""Recordings whose streams are arrays with one row a step: replay buffers in zarr, robomimic's HDF5.

All streams of such a recording were sampled together, so their times are the same: as recorded where
the recording says, else steps at its frame rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igrft.errors import EpisodeError, IgrftError
from igrft.recordings.streams.align import ascending
from igrft.recordings.streams.model import Facts, Numbers, Part
from igrft.recordings.video_facts import unreadable

#: A block of pictures that is read at once is no larger, in bytes.
_BLOCK = 1 << 26


@dataclass(frozen=True)
class ArrayRecording:
    """Steps ``begin`` up to and without ``end`` of a set of arrays; ``end`` None is as many as there are.

    Attributes:
        path: for messages. opened: gives the arrays by name; every use opens them anew.
        times: name of the array of stamps, seconds; None is steps at ``fps``.
    """

    name: str
    path: Path
    opened: Callable[[], AbstractContextManager[dict[str, Any]]]
    said: Facts
    fps: float
    stamp: str
    begin: int = 0
    end: int | None = None
    times: str | None = None

    @property
    def file(self) -> str:
        return self.path.name

    def identity(self) -> str:
        return f"{self.stamp} {self.begin} {self.end} {self.fps}"

    def facts(self) -> Facts:
        return self.said

    @contextmanager
    def open(self) -> Iterator[ArrayStreams]:
        with self.arrays() as arrays:
            yield ArrayStreams(self, arrays)

    @contextmanager
    def arrays(self) -> Iterator[dict[str, Any]]:
        """The arrays by name."""
        with arrays_of(self.path, self.opened) as arrays:
            yield arrays


@contextmanager
def arrays_of(path: Path, opened: Callable[[], AbstractContextManager[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Open arrays. Raises EpisodeError: not readable."""
    with reading(path):
        manager = opened()
        arrays = manager.__enter__()
    try:
        yield arrays
    finally:
        manager.__exit__(None, None, None)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a library raises on damaged arrays, as the reason for which an episode is set aside."""
    try:
        yield
    except (IgrftError, MemoryError):
        raise
    except Exception as error:  # zarr and its codecs let anything through
        if path.is_file():
            raise unreadable(path, error) from None
        lines = str(error).replace(f"{path}/", "").replace(str(path), path.name).strip().splitlines()
        text = (lines or [type(error).__name__])[0]
        raise EpisodeError(f"{path.name} cannot be read ({text}): truncated or damaged") from None


class ArrayStreams:
    """The streams of an open :class:`ArrayRecording`."""

    def __init__(self, recording: ArrayRecording, arrays: dict[str, Any]) -> None:
        self._recording, self._arrays = recording, arrays

    def available(self) -> dict[str, str]:
        return {name: f"{a.dtype} {list(a.shape)}" for name, a in sorted(self._arrays.items())}

    def find(self, part: Part) -> str | None:
        return next((s for s in part.streams if s in self._arrays), None)

    def _rows(self, name: str) -> tuple[int, int]:
        """The recording's steps in an array."""
        begin, length = self._recording.begin, self._arrays[name].shape[0]
        if self._recording.end is None:
            common = Counter(a.shape[0] for a in self._arrays.values()).most_common(1)[0][0]
            if length != common:
                raise EpisodeError(f"{name} has {length} steps where most have {common}: truncated or damaged")
        end = length if self._recording.end is None else self._recording.end
        if end > length:
            raise EpisodeError(f"{name} has {length} steps where the episode ends at {end}: truncated or damaged")
        return begin, end

    def _array(self, part: Part) -> str:
        name = self.find(part)
        if name is None:
            raise EpisodeError(f"it has no {' or '.join(part.streams)}")
        return name

    def _times(self, count: int) -> np.ndarray:
        name = self._recording.times
        if name is None:
            return np.arange(count) / self._recording.fps
        begin, end = self._rows(name)
        with reading(self._recording.path):
            times = np.asarray(self._arrays[name][begin:end], np.float64).reshape(-1)
        if len(times) != count:
            raise EpisodeError(f"{name} has {len(times)} steps where there are {count}")
        return times

    def numbers(self, part: Part) -> Numbers:
        name = self._array(part)
        array = self._arrays[name]
        if array.ndim not in (1, 2) or array.dtype.kind not in "fiub":
            raise EpisodeError(f"{name} holds {array.dtype} {list(array.shape[1:])} a step, where numbers are expected")
        begin, end = self._rows(name)
        with reading(self._recording.path):
            values = np.asarray(array[begin:end]).reshape(end - begin, -1)
        times = self._times(len(values))
        keep = ascending(times, name)
        base = name.rsplit("/", maxsplit=1)[-1]
        names = (base,) if values.shape[1] == 1 else tuple(f"{base}_{i}" for i in range(values.shape[1]))
        return Numbers(times[keep], values[keep], names, late=int((~keep).sum()))

    def pictures(self, part: Part) -> ArrayPictures:
        name = self._array(part)
        array = self._arrays[name]
        if not is_pictures(array):
            raise EpisodeError(f"{name} holds {array.dtype} {list(array.shape[1:])} a step, which is no picture")
        begin, end = self._rows(name)
        times = self._times(end - begin)
        return ArrayPictures(self._recording, name, times, begin + np.flatnonzero(ascending(times, name)))


def is_pictures(array: Any) -> bool:
    """Whether an array holds a picture a step, [n, H, W, 3]: uint8, or floats."""
    return array.ndim == 4 and array.shape[3] == 3 and (array.dtype == np.uint8 or array.dtype.kind == "f")


class ArrayPictures:
    """A camera's array. ``rows`` are the steps of it whose stamps ascend, int64 [n]."""

    def __init__(self, recording: ArrayRecording, name: str, times: np.ndarray, rows: np.ndarray) -> None:
        self._recording, self._name, self._rows = recording, name, rows
        self.times = times[rows - recording.begin]
        self.late = len(times) - len(rows)
        self.encoded: Path | None = None

    def read(self, indices: Sequence[int] | np.ndarray) -> Generator[np.ndarray]:
        rows = self._rows[np.asarray(indices, np.int64)]
        # Opened anew: every camera is read by a thread of its own.
        with self._recording.arrays() as arrays:
            array = arrays[self._name]
            step = _block(array)
            first, block, scale = -1, np.zeros(0), 0.0
            for row in rows.tolist():
                if not first <= row < first + len(block):
                    # Blocks begin where the file's do, so that none is decompressed twice.
                    first = row // step * step
                    with reading(self._recording.path):
                        block = np.asarray(array[first : first + step])
                picture = block[row - first]
                if picture.dtype != np.uint8:
                    # Replay buffers hold floats of 0 to 255 or, rarely, of 0 to 1.
                    scale = scale or (255.0 if block.max(initial=0) <= 1 else 1.0)
                    picture = np.rint(picture * scale).clip(0, 255).astype(np.uint8)
                yield picture


def _block(array: Any) -> int:
    """How many steps are read at once: as the file keeps them together, or 16 where it does not say."""
    chunks = getattr(array, "chunks", None)
    size = max(1, int(np.prod(array.shape[1:])) * array.dtype.itemsize)
    return max(1, min(int(chunks[0]) if chunks else 16, _BLOCK // size))
