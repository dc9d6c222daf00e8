"""Replay buffers of diffusion policy and UMI: a zarr group, in a folder or a zip.

``data/NAME`` hold the steps of all episodes one after another, ``meta/episode_ends`` says where each ends.
Cameras are ``data/camera0_rgb`` or the like, [N, H, W, 3].
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.errors import EpisodeError, IgrftError, UsageError
from igrft.recordings.streams.array_source import ArrayRecording, arrays_of, is_pictures
from igrft.recordings.streams.model import Facts, Feature, Mapping, Part, file_identity

_ENDS = "meta/episode_ends"
_TIMES = "timestamp"
#: What diffusion policy's own buffers call the robot's state.
_STATES = ("state", "agent_pos")


def zarr_path(source: Path) -> Path | None:
    """The replay buffer at ``source``: it itself, or the only ``*.zarr`` or ``*.zarr.zip`` in the folder."""
    if source.is_file():
        return source if source.name.endswith(".zarr.zip") else None
    if (source / "meta/episode_ends").is_dir():
        return source
    found = [p for p in sorted(source.iterdir()) if p.name.endswith((".zarr", ".zarr.zip"))]
    return zarr_path(found[0]) if len(found) == 1 else None


class _Buffer:
    """A replay buffer, opened once: the index of a zip with a picture an entry takes seconds to read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._arrays: dict[str, Any] | None = None
        self._store: Any = None

    @contextmanager
    def __call__(self) -> Iterator[dict[str, Any]]:
        with self._lock:
            if self._arrays is None:
                self._arrays = self._open()
        yield self._arrays

    def _open(self) -> dict[str, Any]:
        import zarr

        _register_codecs()
        if self._path.is_file():
            self._store = zarr.storage.ZipStore(self._path, mode="r")
        else:
            self._store = zarr.storage.LocalStore(self._path, read_only=True)
        root = zarr.open_group(self._store, mode="r")
        data = root["data"]
        if not isinstance(data, zarr.Group):
            raise EpisodeError(f"{self._path.name} has no group data, so it is no replay buffer")
        return {**dict(data.arrays()), _ENDS: root[_ENDS]}

    def __del__(self) -> None:
        if self._store is not None:
            self._store.close()


def _register_codecs() -> None:
    """UMI's pictures are JPEG XL, which imagecodecs decodes where it is installed."""
    try:
        from imagecodecs.numcodecs import register_codecs
    except ImportError:
        return
    register_codecs(verbose=False)


def zarr_recordings(path: Path, mapping: Mapping | None, fps: float | None) -> tuple[list[ArrayRecording], Mapping]:
    """Episodes of a replay buffer, and how its arrays become features.

    Args:
        fps: as asked for, or None.

    Raises:
        IgrftError: not readable, or no replay buffer. UsageError: nobody says at which rate it was recorded.
    """
    opened = _Buffer(path)
    try:
        with arrays_of(path, opened) as arrays:
            ends = np.asarray(arrays[_ENDS][:])
            named = {name: array for name, array in arrays.items() if name != _ENDS}
            if not named or ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends):
                raise EpisodeError(f"{path.name} has no episode")
            mapped = mapping or _features(path, named)
            timed = _TIMES in named
    except EpisodeError as error:
        text = str(error)
        if "codec" in text or "imagecodecs" in text:
            text += "; its pictures may need: pip install 'igrft[zarr]'"
        raise IgrftError(text) from None
    if np.any(np.diff(ends) <= 0) or ends[0] <= 0:
        raise IgrftError(f"{path.name}: {_ENDS} does not ascend, so episodes cannot be told apart")
    if fps is None and not timed:
        raise UsageError(f"{path.name} does not say its frame rate; give --fps (UMI records 60, PushT 10)")
    begins = np.append(0, ends[:-1])
    recording = ArrayRecording(
        "", path, opened, Facts(), fps or 1.0, file_identity(path), times=_TIMES if timed else None
    )
    episodes = [
        replace(recording, name=f"episode {i}", begin=int(begin), end=int(end))
        for i, (begin, end) in enumerate(zip(begins, ends, strict=True))
    ]
    return episodes, mapped


def _features(path: Path, arrays: dict[str, Any]) -> Mapping:
    """Cameras, state and action by the names that diffusion policy and UMI give them.

    The state is ``state`` or ``agent_pos``, else all numbers whose name begins with ``robot`` in the order of
    their names, but for UMI's poses of the demonstration's ends, which are known only afterwards.

    Raises:
        UsageError: there is no action.
    """
    features = [Feature(c.IMAGE_PREFIX + name, (Part((name,)),)) for name, a in arrays.items() if is_pictures(a)]
    flat = [name for name, a in sorted(arrays.items()) if a.ndim in (1, 2) and a.dtype.kind in "fiub"]
    state = next(([name] for name in _STATES if name in flat), None)
    if state is None:
        state = [n for n in flat if n.startswith("robot") and "demo_start" not in n and "demo_end" not in n]
    # Nothing is interpolated: the rows are the steps that were recorded.
    if state:
        features.append(Feature(c.STATE, tuple(Part((name,), align="nearest") for name in state)))
    if not features and "action" not in flat:
        raise EpisodeError("it has no camera, state or action by a name that is known; give --mapping FILE.yaml")
    if "action" not in flat:
        known = "umi" if "robot0_eef_pos" in flat else "FILE.yaml with action: {next: observation.state}"
        raise UsageError(
            f"{path.name} has no array action; to take the next step's state for it, give --mapping {known}"
        )
    features.append(Feature(c.ACTION, (Part(("action",), align="nearest"),)))
    return Mapping(features=tuple(features))
