"""Reads one ALOHA-style HDF5 episode.

Layout: ``/action`` [T, n]; ``/observations/qpos`` [T, n], and where recorded ``qvel`` and ``effort``;
``/observations/images/CAMERA``, either raw uint8 [T, H, W, 3] or JPEG, one row of bytes a frame, padded
with zeros to one length (root attribute ``compress``). Root attributes that are read where they are
there: ``fps``, ``success``, and the task under one of several names.

Colours. ALOHA hands its RGB pictures to ``cv2.imencode`` as they are, which takes them for BGR;
``cv2.imdecode`` undoes exactly that, so what it returns is RGB. A recorder that converted to BGR first
wrote ordinary JPEGs: those come out with red and blue swapped unless read with ``bgr_jpeg``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.errors import EpisodeError, IgrftError
from igrft.recordings.options import listing
from igrft.recordings.video_facts import unreadable

if TYPE_CHECKING:
    import h5py

ACTION, QPOS, QVEL, EFFORT, IMAGES = (
    "action",
    "observations/qpos",
    "observations/qvel",
    "observations/effort",
    "observations/images",
)
_TASK_ATTRIBUTES = ("task", "language_instruction", "instruction", "task_description", "task_name")
_FPS_ATTRIBUTES = ("fps", "frame_rate")


@dataclass(frozen=True)
class AlohaLayout:
    """What must be the same in all episodes of a dataset.

    Attributes:
        widths: numbers a frame, by HDF5 path; only what is there.
        cameras: name, height and width of each, sorted by name.
        fps: frames a second, None where the file does not say.
    """

    widths: tuple[tuple[str, int], ...]
    cameras: tuple[tuple[str, int, int], ...]
    fps: float | None

    def __str__(self) -> str:
        parts = [f"{path} of {width}" for path, width in self.widths]
        parts += [f"camera {name} {width}x{height}" for name, height, width in self.cameras]
        return ", ".join([*parts, f"fps {self.fps:g}"] if self.fps else parts)


@dataclass(frozen=True)
class AlohaEpisode:
    """One file that passed the checks.

    Attributes:
        length: frames. success: as recorded, or None. task: as recorded, or None.
        compressed: whether any camera holds JPEGs. unread: what else the file holds.
    """

    path: Path
    layout: AlohaLayout
    length: int
    success: bool | None
    task: str | None
    compressed: bool
    unread: list[str] = field(default_factory=list)


def require_h5py() -> None:
    """Raise an error with the install line where h5py is absent."""
    try:
        import h5py  # noqa: F401
    except ImportError:
        raise IgrftError("HDF5 recordings need h5py; run: pip install 'igrft[hdf5]'") from None


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise unreadable(path, error) from None


def look(path: Path) -> AlohaEpisode:
    """Check an episode, all but its pictures after the first frame.

    Raises:
        EpisodeError: not readable, parts missing or of differing lengths, no frame, NaN.
    """
    with _opened(path) as file:
        length, widths = _check_numbers(file)
        cameras, compressed = _check_cameras(file, length)
        attributes = dict(file.attrs)
        layout = AlohaLayout(tuple(widths.items()), cameras, _number(attributes, _FPS_ATTRIBUTES))
        known = {*widths, *(f"{IMAGES}/{name}" for name, _, _ in cameras), "compress_len"}
        return AlohaEpisode(
            path=path,
            layout=layout,
            length=length,
            success=bool(np.any(attributes["success"])) if "success" in attributes else None,
            task=_text(attributes, _TASK_ATTRIBUTES),
            compressed=compressed,
            unread=[name for name in _datasets(file) if name not in known],
        )


def _check_numbers(file: h5py.File) -> tuple[int, dict[str, int]]:
    widths: dict[str, int] = {}
    length = -1
    for name in (ACTION, QPOS, QVEL, EFFORT):
        if name not in file:
            if name in (ACTION, QPOS):
                raise EpisodeError(f"it has no /{name}, so it is no ALOHA episode")
            continue
        shape = file[name].shape
        if len(shape) != 2:
            raise EpisodeError(f"/{name} has the shape {list(shape)} where [frames, numbers] is expected")
        if name == ACTION:
            length = shape[0]
            if length == 0:
                raise EpisodeError("it has no frame")
        if shape[0] != length:
            raise EpisodeError(f"/{name} has {shape[0]} frames where /{ACTION} has {length}")
        bad = np.flatnonzero(~np.isfinite(np.asarray(file[name][:], dtype=np.float64)).all(axis=1))
        if len(bad):
            raise EpisodeError(f"/{name} holds NaN or infinity at frame {bad[0]}")
        widths[name] = int(shape[1])
    return length, widths


def _check_cameras(file: h5py.File, length: int) -> tuple[tuple[tuple[str, int, int], ...], bool]:
    cameras, compressed = [], False
    for name in sorted(file[IMAGES]) if IMAGES in file else []:
        data = file[IMAGES][name]
        if data.shape[0] != length:
            raise EpisodeError(f"camera {name} has {data.shape[0]} frames where /{ACTION} has {length}")
        compressed |= _is_jpeg(data)
        first = _picture(data, 0, name, bgr_jpeg=False)
        cameras.append((name, int(first.shape[0]), int(first.shape[1])))
    if not cameras:
        raise EpisodeError(f"it has no camera under /{IMAGES}")
    return tuple(cameras), compressed


def _is_jpeg(data: h5py.Dataset) -> bool:
    """Raw pictures are [T, H, W, 3]; JPEGs are rows of bytes, padded or of free length."""
    return data.ndim <= 2


def _picture(data: h5py.Dataset, frame: int, camera: str, *, bgr_jpeg: bool) -> np.ndarray:
    import cv2

    row = np.asarray(data[frame])
    if not _is_jpeg(data):
        if row.ndim != 3 or row.shape[2] != 3 or row.dtype != np.uint8:
            raise EpisodeError(f"camera {camera} holds {row.dtype} {list(row.shape)} a frame, not uint8 [H, W, 3]")
        return row
    # JPEG ends by its own marker, so the padding does no harm.
    buffer = np.frombuffer(bytes(data[frame]), np.uint8) if row.ndim == 0 else row.astype(np.uint8)
    picture = cv2.imdecode(buffer, cv2.IMREAD_COLOR) if len(buffer) else None
    if picture is None:
        raise EpisodeError(f"camera {camera} holds no JPEG at frame {frame}")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if bgr_jpeg else picture


@dataclass(frozen=True)
class AlohaFrame:
    """One frame: numbers by HDF5 path, float32 [n]; pictures by camera, RGB uint8 [H, W, 3]."""

    numbers: dict[str, np.ndarray]
    pictures: dict[str, np.ndarray]


def frames(episode: AlohaEpisode, *, bgr_jpeg: bool) -> Iterator[AlohaFrame]:
    """Read an episode frame by frame.

    Args:
        bgr_jpeg: the JPEGs were made from BGR arrays; see the head of this module.

    Raises:
        EpisodeError: damaged on the way.
    """
    with _opened(episode.path) as file:
        numbers = {name: np.asarray(file[name][:], dtype=np.float32) for name, _ in episode.layout.widths}
        for t in range(episode.length):
            pictures = {}
            for name, height, width in episode.layout.cameras:
                picture = _picture(file[IMAGES][name], t, name, bgr_jpeg=bgr_jpeg)
                if picture.shape[:2] != (height, width):
                    raise EpisodeError(f"camera {name} changes its size at frame {t}")
                pictures[name] = picture
            yield AlohaFrame({name: values[t] for name, values in numbers.items()}, pictures)


def _datasets(file: h5py.File) -> list[str]:
    import h5py

    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _number(attributes: dict[str, Any], names: tuple[str, ...]) -> float | None:
    for name in names:
        if name in attributes:
            try:
                value = float(np.asarray(attributes[name]).reshape(-1)[0])
            except (TypeError, ValueError, IndexError):
                continue
            if np.isfinite(value) and value > 0:
                return value
    return None


def _text(attributes: dict[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def describe_difference(layout: AlohaLayout, common: AlohaLayout) -> str:
    """What ``layout`` has that ``common`` has not, and the other way about."""
    mine, theirs = set(str(layout).split(", ")), set(str(common).split(", "))
    return f"it has {listing(sorted(mine - theirs)) or 'nothing more'} where most have {listing(sorted(theirs - mine))}"
