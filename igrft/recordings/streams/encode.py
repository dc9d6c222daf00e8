"""Encodes one camera of an episode, with LeRobot's encoder settings, while its pictures are decoded.

No picture is kept: memory does not grow with the episode. The statistics are those that LeRobot's own
writer takes, from the same frames. Nothing here needs LeRobot, which takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.dataset.priority import usual_priority
from igrft.errors import EpisodeError, UsageError
from igrft.recordings.statistics import PictureCounts, sampled_rows
from igrft.recordings.streams.frame import Frame

if TYPE_CHECKING:
    from lerobot.configs.video import RGBEncoderConfig

_PIXELS = "yuv420p"
#: Rows from one key frame to the next: training reads single frames.
_KEY_FRAMES = 10
#: By codec: its encoder, quality, speed, and the worst quality that it has a number for.
_CODECS: dict[str, tuple[str, int, str, int]] = {
    "h264": ("h264", 20, "veryfast", 51),
    "hevc": ("hevc", 23, "veryfast", 51),
    "av1": ("libsvtav1", 30, "12", 63),
}


@dataclass(frozen=True)
class Encoded:
    """A camera's video: its size in pixels, its statistics as ``picture_statistics`` has them; kept or encoded here."""

    height: int
    width: int
    statistics: dict[str, np.ndarray]
    kept: bool = False


@dataclass(frozen=True)
class Encoder:
    """Settings of the encoder, in LeRobot's and FFmpeg's terms."""

    vcodec: str
    crf: int
    preset: str

    def options(self, threads: int) -> dict[str, str]:
        """For FFmpeg, as LeRobot would give them; a test holds the two equal."""
        common = {"g": str(_KEY_FRAMES), "crf": str(self.crf), "preset": self.preset}
        if self.vcodec == "libsvtav1":
            return common | {"svtav1-params": f"fast-decode=0:lp={threads}"}
        return common | {"threads": str(threads)}

    def for_lerobot(self) -> RGBEncoderConfig:
        """The same, for LeRobot's writer."""
        from lerobot.configs.video import RGBEncoderConfig

        preset = int(self.preset) if self.preset.isdigit() else self.preset
        return RGBEncoderConfig(
            vcodec=self.vcodec, pix_fmt=_PIXELS, preset=preset, crf=self.crf, g=_KEY_FRAMES, fast_decode=0
        )


def encoder(codec: str | None = None, crf: int | None = None, preset: str | None = None) -> Encoder:
    """An encoder by what was asked of it.

    H.264 is decoded everywhere (AV1, LeRobot's default, is not).

    Raises:
        UsageError: no such codec, a quality that it has not, or FFmpeg has no encoder for it.
    """
    import av

    codec = codec or "h264"
    if codec not in _CODECS:
        raise UsageError(f"--codec {codec} is unknown (known: {', '.join(_CODECS)})")
    name, usual, speed, worst = _CODECS[codec]
    if crf is not None and not 0 <= crf <= worst:
        raise UsageError(f"--crf {crf}: the quality of {codec} is from 0, the best, to {worst}")
    try:
        av.Codec(name, "w")
    except ValueError:
        raise UsageError(f"--codec {codec}: this FFmpeg has no encoder {name}; choose another") from None
    return Encoder(name, usual if crf is None else crf, preset or speed)


def encode(
    path: Path, pictures: Iterable[np.ndarray | Frame], length: int, fps: int, settings: Encoder, threads: int
) -> Encoded:
    """Write an mp4 of ``length`` pictures, RGB uint8 [H, W, 3] or as they were decoded.

    Args:
        threads: of the encoder.

    Raises:
        EpisodeError: fewer pictures, one of another size, or a size that cannot be encoded.
        UsageError: a preset that the encoder does not know.
    """
    import av

    sampled = set(sampled_rows(length)) if length else set()
    counts = PictureCounts()
    shape: tuple[int, ...] | None = None
    number = -1
    with av.open(str(path), "w") as container:
        stream: Any = None
        for number, picture in enumerate(pictures):
            if stream is None:
                shape = picture.shape
                if shape[0] % 2 or shape[1] % 2:
                    raise EpisodeError(f"its pictures are {shape[1]}x{shape[0]}, and odd sizes cannot be encoded")
                stream = _stream(container, settings, fps, threads, shape)
            elif picture.shape != shape:
                raise EpisodeError(f"its pictures change their size at row {number}")
            frame = picture.frame if isinstance(picture, Frame) else av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
            if number in sampled:
                counts.add(picture.rgb if isinstance(picture, Frame) else picture)
        if stream is not None:
            container.mux(stream.encode())
    if shape is None or number + 1 != length:
        raise EpisodeError(f"it has {number + 1} pictures where {length} are needed")
    return Encoded(shape[0], shape[1], counts.statistics())


def _stream(container: Any, settings: Encoder, fps: int, threads: int, shape: tuple[int, ...]) -> Any:
    """A stream of the file, its encoder open. Raises UsageError: it cannot be opened with these settings."""
    import av

    stream = container.add_stream(settings.vcodec, fps, options=settings.options(threads))
    stream.pix_fmt, stream.height, stream.width = _PIXELS, shape[0], shape[1]
    stream.time_base = Fraction(1, fps)
    try:
        with usual_priority():
            stream.codec_context.open()
    except av.FFmpegError as error:
        raise UsageError(
            f"{settings.vcodec} cannot encode {shape[1]}x{shape[0]} with --preset {settings.preset} ({error.strerror})"
        ) from None
    return stream
