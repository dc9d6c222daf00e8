"""Video files: what they say of themselves, and their pictures from a given time on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igrft.dataset import decoders
from igrft.dataset.decoders import BACKENDS, FASTEST, Backend, Color, Timed
from igrft.errors import EpisodeError, UsageError, did_you_mean
from igrft.remote.mirror import is_there, reading


@dataclass(frozen=True)
class VideoFacts:
    """What a video file says of itself. ``frames`` are counted, ``duration`` is in seconds."""

    codec: str
    width: int
    height: int
    fps: float
    frames: int
    duration: float


def probe(path: Path | str) -> VideoFacts:
    """Read a video's facts without decoding it.

    Raises:
        EpisodeError: missing or damaged file, no video in it, a codec that PyAV does not know.
    """
    import av

    path = _existing(path)
    with reading(path) as source:
        try:
            with av.open(source) as container:
                facts = _facts(path, container)
        except av.error.FFmpegError as error:
            raise decoders.damaged(path, error) from None
    return facts


def _facts(path: Path, container: Any) -> VideoFacts:
    stream = next(iter(container.streams.video), None)
    if stream is None:
        raise EpisodeError(f"{path} holds no video; restore it from the source")
    context = stream.codec_context
    if context is None:
        raise EpisodeError(f"{path} has a codec that PyAV does not know; encode it as h264 or AV1")
    frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.pts is not None)
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = frames / rate if rate else 0.0
    return VideoFacts(context.codec.canonical_name, context.width, context.height, rate, frames, duration)


def open_frames(
    path: Path | str,
    *,
    start: float,
    fps: float,
    count: int,
    size: tuple[int, int] | None = None,
    color: Color = "rgb",
    backend: Backend = "auto",
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Stream ``count`` consecutive pictures of a video; memory does not grow with ``count``.

    Args:
        path: the video file; it may hold other episodes before and after.
        start: seconds in the file; the first picture is the one whose time stamp is nearest.
        fps: pictures a second. Picture i must lie at ``start + i / fps`` within half a period.
        count: how many.
        size: (width, height) to resize to; None leaves the picture as it is.
        color: ``gray`` (full-range luma) or ``rgb``.
        backend: ``auto`` is the fastest that decodes the file.
        threads: decoder threads.

    Yields:
        uint8 [h, w] or [h, w, 3].

    Raises:
        EpisodeError: missing, damaged or truncated file, unknown codec, decord on AV1, pictures
            that are missing or off the rate.
        IgrftError: the backend's package cannot be loaded.
        UsageError: unknown backend.
    """
    for make in walk(Path(path), start, fps, count, size, color, backend, threads):
        yield make()


def walk(
    path: Path,
    start: float,
    fps: float,
    count: int,
    size: tuple[int, int] | None,
    color: Color,
    backend: Backend,
    threads: int,
) -> Iterator[Callable[[], np.ndarray]]:
    """The pictures of :func:`open_frames`, not yet made; holds each to its time."""
    path = _existing(path)
    if count <= 0:
        return
    found, half = 0, 0.5 / fps
    for time, make in _decoder(path, backend)(path, start, fps, size, color, threads):
        expected = start + found / fps
        if time < expected - half:
            if found == 0:
                continue
            raise EpisodeError(
                f"{path}: picture {found} of {count} is at {time:.3f} s, expected at {expected:.3f} s; the file has "
                f"more than {fps:g} pictures a second, or its time stamps drift: check fps in meta/info.json"
            )
        if time > expected + half:
            raise EpisodeError(
                f"{path}: pictures are missing: number {found} of {count} is expected at {expected:.3f} s, the next "
                f"one is at {time:.3f} s; convert the source again, or check fps in meta/info.json"
            )
        yield make
        found += 1
        if found == count:
            return
    raise EpisodeError(
        f"{path}: holds {found} of the {count} pictures expected from {start:.3f} s on; the file is truncated, or the "
        "episodes' table is wrong: convert the source again"
    )


def _decoder(path: Path, backend: str) -> Callable[..., Iterator[Timed]]:
    if backend not in BACKENDS:
        raise UsageError(f"unknown video_backend {backend!r}{did_you_mean(backend, BACKENDS)}")
    chosen = FASTEST if backend == "auto" else backend
    if chosen == "decord":
        refuse_decord(path)
    return {"pyav": decoders.pyav, "torchcodec": decoders.torchcodec, "decord": decoders.decord}[chosen]


def refuse_decord(path: Path) -> None:
    """Raise EpisodeError if decord cannot decode this file."""
    if probe(path).codec == "av1":
        raise EpisodeError(f"{path} is AV1, which decord cannot decode; set video_backend: pyav")


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if not is_there(path):
        raise EpisodeError(f"{path} is missing; restore it from the source")
    return path
