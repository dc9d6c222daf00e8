"""Episodes on their way through a stream: rows read once, pictures decoded in order, kept while a frame needs them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from igrft import columns as c
from igrft.dataset.clips import walk
from igrft.dataset.decoders import Backend
from igrft.dataset.files import to_numpy
from igrft.dataset.pictures import image_values
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError
from igrft.training.frames import place_of

#: Pictures closer ahead than this are reached by decoding on, others by seeking.
_NEAR = 24

Pictures = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """What is read of a dataset.

    Attributes:
        columns: read of every frame.
        cameras: those to decode.
        backend: decoder.
    """

    dataset: DatasetReader
    columns: tuple[str, ...]
    cameras: tuple[str, ...]
    backend: Backend

    def row_of(self, index: int) -> int:
        """Row of the episodes' table that holds an absolute frame index."""
        return int(np.searchsorted(self.dataset.from_index, index, side="right")) - 1

    def rows(self, row: int) -> Rows:
        """The columns of an episode.

        Raises:
            IgrftError: they cannot be read.
        """
        try:
            table = self.dataset.rows(row, list(self.columns))
            values: dict[str, Any] = {}
            for name in self.columns:
                column = table.column(name)
                language = column.type == c.language_type()
                values[name] = column.to_pylist() if language else to_numpy(column)
        except (EpisodeError, OSError) as error:
            raise self._unread(row, 0, error) from error
        return Rows(row, int(self.dataset.from_index[row]), int(self.dataset.lengths[row]), values)

    def pictures(self, row: int, first: int) -> Iterator[Callable[[], Pictures]]:
        """Pictures of an episode from a frame on, not yet made; uint8 [3, H, W] of every camera.

        Raises:
            IgrftError: one cannot be read.
        """
        streams = [self._camera(row, camera, first) for camera in self.cameras]
        for frame in range(first, int(self.dataset.lengths[row])):
            try:
                makes = [next(stream) for stream in streams]
            except StopIteration:
                raise self._unread(row, frame, EpisodeError("its pictures end before it does")) from None
            except (EpisodeError, OSError) as error:
                raise self._unread(row, frame, error) from error
            yield partial(self._made, makes)

    def _made(self, makes: Sequence[Callable[[], Tensor]]) -> Pictures:
        return dict(zip(self.cameras, (make() for make in makes), strict=True))

    def _camera(self, row: int, camera: str, first: int) -> Iterator[Callable[[], Tensor]]:
        dataset = self.dataset
        count = int(dataset.lengths[row]) - first
        if dataset.features[camera]["dtype"] == "image":
            for value in image_values(dataset, row, camera, first, count):
                yield partial(_decoded, dataset, value)
            return
        window = dataset.video(row, camera)
        start = window.start + first / dataset.fps
        for make in walk(window.path, start, dataset.fps, count, None, "rgb", self.backend, 1):
            yield partial(_channels_first, make)

    def _unread(self, row: int, frame: int, error: Exception) -> IgrftError:
        root, line = self.dataset.root, str(error).strip().splitlines()[0]
        where = place_of(self.dataset, int(self.dataset.from_index[row]) + frame)
        return IgrftError(f"{root}: {where} cannot be read ({line}); run: igrft validate {root}")


def _channels_first(make: Callable[[], np.ndarray]) -> Tensor:
    return torch.from_numpy(make()).permute(2, 0, 1)


def _decoded(dataset: DatasetReader, value: dict[str, Any] | None) -> Tensor:
    """A picture that lies in the table, as LeRobot decodes it."""
    from PIL import Image

    data, name = (value or {}).get("bytes"), (value or {}).get("path")
    with suppress(OSError):
        data = data or (dataset.root / str(name)).read_bytes()
    try:
        picture = np.array(Image.open(io.BytesIO(data or b"")))
    except (OSError, ValueError) as error:
        raise EpisodeError(f"a picture ({name or 'in the table'}) does not decode: {error}") from None
    return torch.from_numpy(picture if picture.ndim == 3 else picture[..., None]).permute(2, 0, 1)


@dataclass(frozen=True)
class Rows:
    """The columns of one episode.

    Attributes:
        row: of the episodes' table. first: absolute index of its first frame. length: frames.
        columns: by name [T], [T, …] or, of language, a list.
    """

    row: int
    first: int
    length: int
    columns: dict[str, Any]

    def ahead(self, name: str, frames: np.ndarray, deltas: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """A column at some distances from frames: ([B, D, …], whether each lies outside of the episode bool [B, D]).

        As LeRobot pads: what lies outside is what stands at the end that is nearest.
        """
        wanted = frames[:, None] + np.asarray(deltas, dtype=np.int64)
        inside = np.clip(wanted, 0, self.length - 1)
        return self.columns[name][inside], wanted != inside


class Visit:
    """One pass over an episode. Frames enter in ascending order, and leave in any.

    Args:
        later: frames at this distance are needed with each, at most the episode's last; None needs none.
        first: frame with which the pass begins, if no other is asked for before.
    """

    def __init__(self, source: Source, row: int, later: int | None, first: int) -> None:
        self.source, self.later = source, later
        self.rows = source.rows(row)
        self.pictures: dict[int, Pictures] = {}
        self.reached = first
        self.pending: Counter[int] = Counter()
        self._wanted: Counter[int] = Counter()
        self._walk: Iterator[Callable[[], Pictures]] | None = None
        self._at = 0

    def needed(self, frame: int) -> tuple[int, ...]:
        """Frames whose pictures a frame needs."""
        if not self.source.cameras:
            return ()
        return (frame,) if self.later is None else (frame, min(frame + self.later, self.rows.length - 1))

    def enter(self, frames: Iterable[int]) -> None:
        """Read what some frames need, which are not before :attr:`reached`."""
        for frame in frames:
            self.reached = frame
            self._take(frame)
        self.reached += 1

    def enter_again(self, frames: Sequence[int], following: int) -> None:
        """Read what some frames need, ascending, of a pass that goes on at ``following`` or is over."""
        self.reached = max(following, frames[-1] + 1)
        wanted = sorted({g for frame in frames for g in self.needed(frame)})
        for frame in wanted:
            self._read(frame)
        for frame in frames:
            self._take(frame)

    def leave(self, frame: int) -> None:
        """A frame was drawn: let go of what no other needs."""
        self.pending[frame] -= 1
        if not self.pending[frame]:
            del self.pending[frame]
        for needed in self.needed(frame):
            self._wanted[needed] -= 1
            if not self._wanted[needed]:
                del self._wanted[needed]
                # Later ones are still to enter.
                if needed < self.reached:
                    self.pictures.pop(needed, None)

    def close(self) -> None:
        """Let go of decoders."""
        self._walk = None

    def _take(self, frame: int) -> None:
        self.pending[frame] += 1
        for needed in self.needed(frame):
            self._read(needed)
            self._wanted[needed] += 1

    def _read(self, frame: int) -> None:
        if frame in self.pictures:
            return
        if self._walk is None or not 0 <= frame - self._at <= _NEAR:
            self._walk, self._at = self.source.pictures(self.rows.row, frame), frame
        while self._at <= frame:
            make = next(self._walk)
            # What lies between is on its way, too, unless it entered long ago.
            if self._at == frame or (self._at >= self.reached and self._at not in self.pictures):
                self.pictures[self._at] = make()
            self._at += 1


class LaneReader:
    """What is in the buffer of one lane, read.

    Args:
        later: see :class:`Visit`.
    """

    def __init__(self, source: Source, later: int | None) -> None:
        self.source, self.later = source, later
        self._visits: dict[int, list[Visit]] = {}
        self._current: Visit | None = None

    def restore(self, buffered: np.ndarray, following: int) -> None:
        """Read what a buffer holds. ``following`` is the absolute index with which the lane goes on."""
        index = np.sort(buffered)
        row = np.searchsorted(self.source.dataset.from_index, index, side="right") - 1
        going_on = self.source.row_of(max(following - 1, 0))
        for number in np.unique(row).tolist():
            first = int(self.source.dataset.from_index[number])
            frames = (index[row == number] - first).tolist()
            visit = Visit(self.source, number, self.later, frames[0])
            visit.enter_again(frames, following - first if number == going_on else 0)
            self._visits.setdefault(number, []).append(visit)
            if number == going_on and visit.reached == following - first:
                self._current = visit

    def enter(self, index: np.ndarray) -> None:
        """Read frames that enter the buffer, by their absolute indices."""
        for run in np.split(index, np.flatnonzero(np.diff(index) != 1) + 1):
            # Episodes may follow each other without a gap.
            rows = np.searchsorted(self.source.dataset.from_index, run, side="right") - 1
            for row in dict.fromkeys(rows.tolist()):
                first = int(self.source.dataset.from_index[row])
                frames = (run[rows == row] - first).tolist()
                self._visit(row, frames[0]).enter(frames)

    def find(self, index: int) -> tuple[Visit, int] | None:
        """(the visit that holds a frame, the frame in it); None where it was never read."""
        row = self.source.row_of(index)
        frame = index - int(self.source.dataset.from_index[row])
        for visit in self._visits.get(row, ()):
            if visit.pending[frame]:
                return visit, frame
        return None

    def let_go(self, visit: Visit, frame: int) -> None:
        """A frame was drawn: let go of it, and of its visit with the last."""
        visit.leave(frame)
        self._forget(visit)

    def _forget(self, visit: Visit) -> None:
        if not visit.pending and visit is not self._current:
            visit.close()
            held = self._visits[visit.rows.row]
            held.remove(visit)
            if not held:
                del self._visits[visit.rows.row]

    def _visit(self, row: int, frame: int) -> Visit:
        current = self._current
        if current is not None and current.rows.row == row and current.reached == frame:
            return current
        made = Visit(self.source, row, self.later, frame)
        self._visits.setdefault(row, []).append(made)
        self._current = made
        if current is not None:
            current.close()
            self._forget(current)
        return made
