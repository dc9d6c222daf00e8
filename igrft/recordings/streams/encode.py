"""Encodes one camera of an episode, with LeRobot's encoder settings, while its pictures are decoded.

No picture is kept: memory does not grow with the episode. The statistics are those that LeRobot's own
writer takes, from the same frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.errors import EpisodeError
from igrft.recordings.statistics import PictureCounts, sampled_rows

if TYPE_CHECKING:
    from lerobot.configs.video import RGBEncoderConfig


@dataclass(frozen=True)
class Encoded:
    """A camera's video: its size in pixels, its statistics as ``picture_statistics`` has them; kept or encoded here."""

    height: int
    width: int
    statistics: dict[str, np.ndarray]
    kept: bool = False


def encoder() -> RGBEncoderConfig:
    """H.264, which is decoded everywhere (AV1, LeRobot's default, is not); a key frame every 10 rows."""
    from lerobot.configs.video import RGBEncoderConfig

    return RGBEncoderConfig(vcodec="h264", preset="veryfast", crf=20, g=10)


def encode(
    path: Path, pictures: Iterable[np.ndarray], length: int, fps: int, settings: RGBEncoderConfig, threads: int | None
) -> Encoded:
    """Write an mp4 of ``length`` pictures, RGB uint8 [H, W, 3].

    Args:
        threads: of the encoder; None lets it choose.

    Raises:
        EpisodeError: fewer pictures, one of another size, or a size that cannot be encoded.
    """
    import av

    sampled = set(sampled_rows(length))
    counts = PictureCounts()
    shape: tuple[int, ...] | None = None
    number = -1
    options = settings.get_codec_options(threads, as_strings=True)
    with av.open(str(path), "w") as container:
        stream: Any = None
        for number, picture in enumerate(pictures):
            if stream is None:
                shape = picture.shape
                if shape[0] % 2 or shape[1] % 2:
                    raise EpisodeError(f"its pictures are {shape[1]}x{shape[0]}, and odd sizes cannot be encoded")
                stream = container.add_stream(settings.vcodec, fps, options=options)
                stream.pix_fmt, stream.height, stream.width = settings.pix_fmt, shape[0], shape[1]
                stream.time_base = Fraction(1, fps)
            elif picture.shape != shape:
                raise EpisodeError(f"its pictures change their size at row {number}")
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
            if number in sampled:
                counts.add(picture)
        if stream is not None:
            container.mux(stream.encode())
    if shape is None or number + 1 != length:
        raise EpisodeError(f"it has {number + 1} pictures where {length} are needed")
    return Encoded(shape[0], shape[1], counts.statistics())
