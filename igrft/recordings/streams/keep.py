"""Keeps a video that is encoded already: its stream is copied, bit by bit, into an mp4 of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from igrft.errors import EpisodeError
from igrft.recordings.pictures import video_pictures
from igrft.recordings.statistics import picture_statistics, sampled_rows
from igrft.recordings.streams.encode import Encoded
from igrft.recordings.video_facts import TOLERANCE_S, frame_times, time_deviation, unreadable, video_facts

#: What LeRobot's readers decode from an mp4.
_CODECS = ("h264", "hevc", "av1")


def keepable(path: Path, rows: np.ndarray, fps: int) -> bool:
    """Whether a video can stand in the dataset as it is.

    Its pictures must be the rows, all of them and once each, shown at the dataset's rate to LeRobot's
    tolerance, in a codec that LeRobot reads.

    Args:
        rows: which picture each row shows, int64 [T].

    Raises:
        EpisodeError: not readable.
    """
    times = frame_times(path)
    return (
        video_facts(path).codec in _CODECS
        and np.array_equal(rows, np.arange(len(times)))
        and time_deviation(times, fps) < TOLERANCE_S / 2
    )


def kind(path: Path) -> str:
    """What must be the same in files that are joined without encoding, the codec's own settings included."""
    import av

    with av.open(str(path)) as container:
        settings = bytes(container.streams.video[0].codec_context.extradata or b"")
    return f"{video_facts(path)} {hashlib.sha256(settings).hexdigest()[:12]}"


def keep(path: Path, source: Path, length: int, fps: int) -> Encoded:
    """Copy the stream of ``source`` into the mp4 ``path``, and take statistics of the pictures that LeRobot samples.

    Every picture up to the last one is decoded, so that damage is found.

    Raises:
        EpisodeError: damaged.
    """
    import av

    start = float(frame_times(source)[0])
    pictures = video_pictures(source, sampled_rows(length), start=start, fps=fps)
    facts = video_facts(source)
    try:
        statistics = picture_statistics(pictures)
    except EpisodeError as error:
        raise EpisodeError(str(error).replace(str(source), source.name)) from None
    try:
        with av.open(str(source)) as given, av.open(str(path), "w") as container:
            stream = given.streams.video[0]
            copied: Any = container.add_stream_from_template(stream, opaque=True)
            for packet in given.demux(stream):
                if packet.size:
                    packet.stream = copied
                    container.mux(packet)
    except av.FFmpegError as error:
        raise unreadable(source, error) from None
    return Encoded(facts.height, facts.width, statistics, kept=True)
