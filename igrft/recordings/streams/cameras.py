"""Encodes the cameras of an episode side by side: each has a thread that decodes and feeds an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from threading import Event

import numpy as np

from igrft.errors import EpisodeError
from igrft.recordings.streams.encode import Encoded, Encoder, encode
from igrft.recordings.streams.frame import Frame
from igrft.recordings.streams.keep import keep, keepable
from igrft.recordings.streams.model import Pictures


class StoppedError(Exception):
    """The run ends before the episode does: it failed elsewhere, or was told to."""


def encode_cameras(
    folder: Path,
    cameras: dict[str, tuple[Pictures, np.ndarray]],
    fps: int,
    again: frozenset[str],
    settings: Encoder,
    threads: int,
    stop: Event,
) -> dict[str, Encoded]:
    """Write ``CAMERA.mp4`` for each camera.

    Args:
        cameras: by name, the pictures and which of them each row shows, int64 [T].
        again: cameras that are encoded even where their videos could be kept.
        threads: of each encoder.

    Raises:
        EpisodeError: damaged pictures, or of a kind that cannot be encoded. StoppedError: ``stop`` was set.
    """
    if not cameras:
        return {}
    failures: list[BaseException] = []

    def until_stopped(pictures: Iterator[np.ndarray | Frame]) -> Iterator[np.ndarray | Frame]:
        for picture in pictures:
            if failures or stop.is_set():
                raise StoppedError
            yield picture

    def one(name: str, pictures: Pictures, indices: np.ndarray) -> Encoded:
        try:
            path = folder / f"{name}.mp4"
            if name not in again and pictures.encoded is not None and keepable(pictures.encoded, indices, fps):
                return keep(path, pictures.encoded, len(indices), fps)
            with closing(pictures.read(indices)) as read:
                return encode(path, until_stopped(read), len(indices), fps, settings, threads)
        except EpisodeError as error:
            failures.append(EpisodeError(f"{name}: {error}"))
            raise
        except BaseException as error:
            failures.append(error)
            raise

    with ThreadPoolExecutor(len(cameras)) as pool:
        running = {name: pool.submit(one, name, *camera) for name, camera in cameras.items()}
        wait(running.values())
        # The first to fail says why; those that it stopped would only say that they were stopped.
        if failures:
            raise failures[0]
        return {name: future.result() for name, future in running.items()}
