"""What an episode's mp4 is and when its frames are shown, without decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from igrft.errors import EpisodeError

#: LeRobot's ``tolerance_s``: how far a timestamp may be off before it refuses to read a frame.
TOLERANCE_S = 1e-4


@dataclass(frozen=True)
class VideoFacts:
    """Of the first video stream. Files are joined without encoding only where all of these agree."""

    codec: str
    width: int
    height: int
    pix_fmt: str
    time_base: Fraction

    def __str__(self) -> str:
        return f"{self.codec} {self.width}x{self.height} {self.pix_fmt}, time base {self.time_base}"


def lfs_pointer(path: Path) -> bool:
    """Whether the file is a Git LFS pointer, left in place of the real one by a clone without LFS."""
    with path.open("rb") as file:
        return file.read(43) == b"version https://git-lfs.github.com/spec/v1\n"


def unreadable(path: Path, error: BaseException) -> EpisodeError:
    """The reason for which an episode is set aside when ``path`` cannot be read."""
    if lfs_pointer(path):
        return EpisodeError(f"{path.name} is a Git LFS pointer, not the file itself; run: git lfs pull")
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # FFmpeg's and Arrow's messages end in the path, which is already said.
    text = text.split(": '/", maxsplit=1)[0]
    return EpisodeError(f"{path.name} cannot be read ({text}): truncated or damaged")


def video_facts(path: Path) -> VideoFacts:
    """Facts from the header of ``path``.

    Raises:
        EpisodeError: no video in it, or not readable.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise EpisodeError(f"{path.name} holds no video")
            stream = container.streams.video[0]
            if stream.pix_fmt is None or not stream.width:
                raise EpisodeError(f"{path.name} has an incomplete header: truncated or damaged")
            facts = VideoFacts(
                codec=stream.codec.canonical_name,
                width=stream.width,
                height=stream.height,
                pix_fmt=stream.pix_fmt,
                time_base=Fraction(stream.time_base or 0),
            )
    except (av.FFmpegError, OSError) as error:
        raise unreadable(path, error) from None
    return facts


def frame_times(path: Path) -> np.ndarray:
    """When each frame of ``path`` is shown, float64 seconds [frames], ascending. Nothing is decoded.

    Raises:
        EpisodeError: not readable.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            shown = [
                packet.pts
                for packet in container.demux(stream)
                if packet.pts is not None and packet.size and not packet.is_discard
            ]
            base = float(stream.time_base or 0)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise unreadable(path, error) from None
    return np.sort(np.asarray(shown, dtype=np.int64)) * base


def time_deviation(times: np.ndarray, fps: float) -> float:
    """Worst deviation, in seconds, of frame times [frames] from the frame rate, counted from the first."""
    if len(times) == 0:
        return 0.0
    return float(np.abs(times - times[0] - np.arange(len(times)) / fps).max())
