"""The decoders behind :mod:`igrft.dataset.video`: PyAV, torchcodec, decord.

Each is a generator of ``(time, picture)``: the time stamp in seconds of the file, and a function
that makes the picture, so that frames between the key frame and the first one wanted are decoded
but never converted. The packages are imported when first used.

Frames/s on one thread of the project's 2-core machine, gray / RGB, best of 3 interleaved runs
(torchcodec on PyAV's own FFmpeg 7):

==============================  ===========  ===========  ===========
file                            pyav         torchcodec   decord
==============================  ===========  ===========  ===========
g1, AV1 640x480, LeRobot's GOP  750 / 734    688 / 686    refuses AV1
gr00t, h264 256x256             4323 / 3668  3733 / 3993  2514 / 2794
roboengine, h264 960x544        561 / 482    473 / 506    388 / 427
==============================  ===========  ===========  ===========

PyAV is the fastest for gray, within a tenth of the fastest for RGB, decodes every codec, and needs
neither torch nor the system's FFmpeg: it is what ``auto`` means, for every file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from igrft.errors import EpisodeError, IgrftError
from igrft.remote.mirror import here, reading

Color = Literal["gray", "rgb"]
Backend = Literal["auto", "pyav", "torchcodec", "decord"]
BACKENDS: tuple[Backend, ...] = ("auto", "pyav", "torchcodec", "decord")
#: What ``auto`` means.
FASTEST: Backend = "pyav"

Timed = tuple[float, Callable[[], np.ndarray]]

# Pixel formats whose first plane is 8-bit luma (or gray): no conversion is needed for gray.
_LUMA_FIRST = frozenset(
    ["gray", "nv12", "nv16", "nv21", "nv24"]
    + [f"yuv{chroma}p" for chroma in (410, 411, 420, 422, 440, 444)]
    + [f"yuvj{chroma}p" for chroma in (411, 420, 422, 440, 444)]
    + [f"yuva{chroma}p" for chroma in (420, 422, 444)]
)
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG

# FFmpeg hands out pictures in the order of display, but some demuxers seek in the order of
# decoding, and so land behind the picture wanted: try again from further back, then from the start.
_SEEK_BACK = (0.0, 2.0, float("inf"))


def pyav(
    path: Path, start: float, fps: float, size: tuple[int, int] | None, color: Color, threads: int
) -> Iterator[Timed]:
    """Decode with PyAV from the key frame before ``start`` on."""
    with reading(path) as source:
        yield from _pyav(path, source, start, fps, size, color, threads)


def _pyav(
    path: Path, source: Any, start: float, fps: float, size: tuple[int, int] | None, color: Color, threads: int
) -> Iterator[Timed]:
    import av

    try:
        container = av.open(source)
    except av.error.FFmpegError as error:
        raise damaged(path, error) from None
    with container:
        stream: Any = next(iter(container.streams.video), None)
        if stream is None:
            raise EpisodeError(f"{path} holds no video; restore it from the source")
        if stream.codec_context is None:
            raise EpisodeError(f"{path} has a codec that PyAV does not know; encode it as h264 or AV1")
        stream.thread_type = "NONE" if threads == 1 else "AUTO"
        stream.codec_context.thread_count = threads
        convert = partial(_from_pyav, size=size, color=color)
        try:
            frames = _from_key_frame(container, stream, start, 0.5 / fps)
            for frame in frames:
                if frame.is_corrupt:
                    raise EpisodeError(
                        f"{path}: the picture at {frame.time:.3f} s is damaged; restore it from the source"
                    )
                yield frame.time, partial(convert, frame)
        except av.error.FFmpegError as error:
            raise damaged(path, error) from None


def _from_key_frame(container: Any, stream: Any, start: float, slack: float) -> Iterator[Any]:
    first = None
    for back in _SEEK_BACK:
        target = max(start - back, 0.0)
        if target > slack or back:
            container.seek(int(target / stream.time_base), stream=stream, backward=True)
        frames = (f for f in container.decode(stream) if f.time is not None)
        first = next(frames, None)
        if target == 0.0 or (first is not None and first.time <= start + slack):
            break
    if first is not None:
        yield first
        yield from frames


def _from_pyav(frame: Any, *, size: tuple[int, int] | None, color: Color) -> np.ndarray:
    if color == "rgb":
        return resize(frame.to_ndarray(format="rgb24"), size)
    name = frame.format.name
    if name not in _LUMA_FIRST:
        return to_color(frame.to_ndarray(format="rgb24"), size, color)
    plane = frame.planes[0]
    luma = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    small = resize(luma, size)
    if name == "gray" or name.startswith("yuvj") or frame.color_range == _FULL_RANGE:
        return small if small.base is None else small.copy()
    import cv2

    # Luma 16 … 235, as video has it, to 0 … 255, as pictures have it; saturates, and takes half of a table's time.
    return cv2.addWeighted(small, 255 / 219, small, 0, -16 * 255 / 219)


def torchcodec(
    path: Path, start: float, fps: float, size: tuple[int, int] | None, color: Color, threads: int
) -> Iterator[Timed]:
    """Decode with torchcodec, 16 pictures at a time."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        raise IgrftError(
            f"video_backend: torchcodec cannot be loaded ({_first_line(error)}); install FFmpeg's libraries "
            "(apt install ffmpeg) or set video_backend: pyav"
        ) from None
    try:
        decoder = VideoDecoder(str(here(path)), dimension_order="NHWC", num_ffmpeg_threads=threads)
        total = int(decoder.metadata.num_frames or 0)
        index = _first_index(lambda i: decoder.get_frame_at(i).pts_seconds, total, start, fps)
        for at in range(index, total, 16):
            batch = decoder.get_frames_in_range(at, min(at + 16, total))
            for time, picture in zip(batch.pts_seconds.tolist(), batch.data.numpy(), strict=True):
                yield time, partial(to_color, picture, size, color)
    except (RuntimeError, ValueError, IndexError) as error:
        raise damaged(path, error) from None


def decord(
    path: Path, start: float, fps: float, size: tuple[int, int] | None, color: Color, threads: int
) -> Iterator[Timed]:
    """Decode with decord, which knows h264 but not AV1. The caller refuses AV1."""
    try:
        import decord as package
    except (ImportError, OSError) as error:
        raise IgrftError(
            f"video_backend: decord cannot be loaded ({_first_line(error)}); pip install decord, or set "
            "video_backend: pyav"
        ) from None
    try:
        reader = package.VideoReader(str(here(path)), num_threads=threads)
        times = reader.get_frame_timestamp(list(range(len(reader))))[:, 0]
        for index in range(_first_index(lambda i: float(times[i]), len(reader), start, fps), len(reader)):
            yield float(times[index]), partial(to_color, reader[index].asnumpy(), size, color)
    except (package.DECORDError, RuntimeError, IndexError) as error:
        raise damaged(path, error) from None


def _first_index(time_of: Callable[[int], float], total: int, start: float, fps: float) -> int:
    """Index of the picture nearest ``start``, found by correcting a guess; ``total`` if there is none."""
    index = round(start * fps)
    for _ in range(4):
        if index >= total:
            # Past the end, or a file whose rate is lower than the dataset's: the caller tells which.
            return total
        index = max(index, 0)
        step = round((start - time_of(index)) * fps)
        if step == 0 or (index == 0 and step < 0):
            break
        index += step
    return index


def to_color(rgb: np.ndarray, size: tuple[int, int] | None, color: Color) -> np.ndarray:
    """An RGB picture [h, w, 3] as ``color`` and ``size`` want it."""
    if color == "rgb":
        return resize(rgb, size)
    import cv2

    return cv2.cvtColor(resize(rgb, size), cv2.COLOR_RGB2GRAY)


def resize(picture: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """``picture`` at ``size`` (width, height); area averages downwards, so that nothing aliases."""
    height, width = picture.shape[:2]
    if size is None or size == (width, height):
        return picture
    import cv2

    shrinks = size[0] <= width and size[1] <= height
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def damaged(path: Path, error: BaseException) -> EpisodeError:
    """The error for a file that does not open or decode."""
    reason = _first_line(error).removesuffix(f": '{path}'")
    return EpisodeError(f"{path} cannot be decoded ({reason}); it is damaged or truncated: restore it from the source")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__
