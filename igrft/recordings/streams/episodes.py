"""Aligns and encodes all episodes of a source, as many recordings at a time as keep the cores busy.

Threads do, where processes would each take memory and time to start: decoders and encoders let go of Python's
lock, and what they leave to Python is a thirtieth of the work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from igrft.errors import EpisodeError
from igrft.progress import progress
from igrft.recordings.streams.cameras import encode_cameras
from igrft.recordings.streams.encode import Encoder
from igrft.recordings.streams.keep import kind
from igrft.recordings.streams.model import Mapping, Recording, Streams
from igrft.recordings.streams.parts import Episode, RecordingParts, recording_parts, statistics_json, write_numbers
from igrft.recordings.streams.plan import plan
from igrft.recordings.streams.split import Window, windows

#: So many cameras are encoded at a time at most: each takes memory, however many cores there are.
_MOST_CAMERAS = 16

Found = tuple[list[Episode], dict[str, str]]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def together(recordings: int, cameras: int, available: int) -> tuple[int, int]:
    """How many recordings are converted at a time, and how many threads the encoder of each camera has.

    One recording more than has cores to itself: what reads and aligns leaves some to it.

    Args:
        recordings: that there are. cameras: of each. available: cores.
    """
    cameras = max(1, cameras)
    number = min(recordings, -(-available // cameras) + 1, max(1, _MOST_CAMERAS // cameras))
    return number, max(1, available // (number * cameras))


@dataclass(frozen=True)
class Work:
    """What the conversion of all recordings shares.

    Attributes:
        kept: folder of finished episodes. again: cameras that are encoded even where their videos could be kept.
        threads: of each encoder.
        stop: set where a recording brought all to an end.
    """

    mapping: Mapping
    fps: int
    kept: Path
    encoder: Encoder
    again: frozenset[str]
    threads: int
    stop: Event

    def recording(self, recording: Recording) -> Found:
        """All episodes of a recording, as an earlier run left them or made now; and why some are set aside."""
        # Neither changes what an episode holds.
        key = replace(self.mapping, task=None, robot_type=None)
        depends_on = f"{recording.identity()}\n{key!r}\n{self.fps}\n{sorted(self.again)}\n{self.encoder}"
        folder = recording_parts(self.kept, recording.name, depends_on)
        found = folder.done()
        if found is None:
            found = self._make(recording, folder)
            folder.finish(*found)
        return found

    def _make(self, recording: Recording, folder: RecordingParts) -> Found:
        parts: list[Episode] = []
        set_aside: dict[str, str] = {}
        by = self.mapping.episodes.by
        try:
            with recording.open() as streams:
                cut = windows(streams, self.mapping.episodes)
                for number, window in enumerate(cut):
                    name = recording.name if by == "file" else f"{recording.name}#{number}"
                    try:
                        parts.append(folder.episode(number, _Make(self, streams, recording, name, window)))
                    except EpisodeError as error:
                        set_aside[name] = str(error)
        except EpisodeError as error:
            set_aside[recording.name] = str(error)
        return parts, set_aside


@dataclass(frozen=True)
class _Make:
    """Makes one episode in a folder."""

    work: Work
    streams: Streams
    recording: Recording
    name: str
    window: Window

    def __call__(self, folder: Path) -> dict[str, Any]:
        work = self.work
        planned = plan(self.streams, self.recording, work.mapping, work.fps, self.window)
        videos = encode_cameras(folder, planned.cameras, work.fps, work.again, work.encoder, work.threads, work.stop)
        write_numbers(folder, planned.columns, planned.skew)
        return {
            "name": self.name,
            "length": planned.length,
            "widths": {name: values.shape[1] for name, values in planned.columns.items()},
            "names": planned.names,
            "cameras": {name: [video.height, video.width] for name, video in videos.items()},
            "statistics": statistics_json({name: video.statistics for name, video in videos.items()}),
            "kept": {name: kind(folder / f"{name}.mp4") for name, video in videos.items() if video.kept},
            "success": planned.success,
            "task": self.recording.facts().task,
            "facts": planned.facts,
        }


def make_episodes(
    recordings: Sequence[Recording],
    mapping: Mapping,
    fps: int,
    kept: Path,
    encoder: Encoder,
    again: frozenset[str],
    *,
    show: bool,
) -> Found:
    """Every episode, aligned and encoded, in the order of the recordings; and why some are set aside.

    Args:
        kept: folder of finished episodes, to go on from.
        again: cameras that are encoded even where their videos could be kept.
        show: a bar on standard error.
    """
    number, threads = together(len(recordings), sum(f.picture for f in mapping.features), cores())
    stop = Event()
    work = Work(mapping, fps, kept, encoder, again, threads, stop)
    with progress("convert", len(recordings), 0, show=show) as advance, ThreadPoolExecutor(number) as pool:
        running = [pool.submit(work.recording, recording) for recording in recordings]
        try:
            for future in as_completed(running):
                advance(1, sum(part.length for part in future.result()[0]))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        found = [future.result() for future in running]
    return [part for parts, _ in found for part in parts], {k: v for _, aside in found for k, v in aside.items()}
