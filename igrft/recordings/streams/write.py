"""Puts finished episodes together to a dataset, by LeRobot's own writer."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa

from igrft import columns as c
from igrft.dataset.files import INFO, read_json
from igrft.dataset.parquet import DataWriter, write_json
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.recordings.finish import correct_video_starts
from igrft.recordings.quiet import is_disk_full
from igrft.recordings.streams.encode import Encoder
from igrft.recordings.streams.parts import Episode

#: How far each stream was from each row, in seconds: a column a stream, a row group an episode.
SKEW = "meta/igrft_skew.parquet"


@contextmanager
def import_ahead() -> Iterator[None]:
    """Import LeRobot's writer, which takes seconds, while the block reads and encodes."""
    # What both use is imported here: threads that import the same libraries at once may meet halfway.
    for name in ("av", "cv2", "pyarrow.parquet"):
        import_module(name)
    thread = Thread(target=_import_writer, name="import-lerobot")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _import_writer() -> None:
    # What fails here fails again, and is told, where it is used.
    with suppress(Exception):
        import_module("igrft.recordings.streams.lerobot_writer")


class FinishedVideos:
    """Stands where LeRobot's writer has its encoder, and hands it videos that are encoded already.

    LeRobot's own one takes pictures as they come and drops them where it cannot keep up. That is right for a
    recorder; a conversion can wait, and can keep videos that are encoded already.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._part: Episode | None = None

    def give(self, part: Episode) -> None:
        """The episode that is saved next."""
        self._part = part

    def finish_episode(self) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
        """A video and its statistics, in values of 0 to 255, by camera. LeRobot moves the file away."""
        assert self._part is not None
        out = {}
        for camera in self._part.cameras:
            path = Path(tempfile.mkdtemp(dir=self._root)) / "episode.mp4"
            try:
                os.link(self._part.video(camera), path)
            except OSError:
                shutil.copyfile(self._part.video(camera), path)
            stats = {k: np.asarray(v) for k, v in self._part.statistics[camera].items()}
            out[camera] = (path, {k: v if k == "count" else v * 255.0 for k, v in stats.items()})
        return out

    def cancel_episode(self) -> None:
        self._part = None

    def close(self) -> None:
        self._part = None


def assemble(
    target: Path, parts: list[Episode], fps: int, tasks: list[str], robot_type: str | None, encoder: Encoder
) -> None:
    """Write the dataset ``target``: episodes in the order of ``parts``, which agree in their layout.

    Args:
        encoder: by which the videos were made that were not kept.

    Raises:
        IgrftError: LeRobot's writer failed. OSError: the disk is full.
    """
    with_success = any(part.success is not None for part in parts)
    with ExitStack() as stack:
        meta, writer, videos = _create(target, parts[0], fps, robot_type, encoder, success=with_success)
        stack.callback(writer.close_writer)
        for part, task in zip(parts, tasks, strict=True):
            videos.give(part)
            try:
                writer.save_episode(_buffer(meta, part, task, fps, success=with_success))
            except Exception as error:
                if is_disk_full(error):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                raise IgrftError(f"LeRobot could not write {part.name} ({type(error).__name__}: {error})") from error
        writer.finalize()
    shutil.rmtree(target / "images", ignore_errors=True)
    if parts[0].kept:
        _forget_settings(target, list(parts[0].kept))
    if parts[0].cameras:
        counts = {(k, i): p.length for k in parts[0].cameras for i, p in enumerate(parts)}
        correct_video_starts(DatasetReader.open(target), counts)
    _write_skew(target / SKEW, parts)


def _forget_settings(target: Path, cameras: list[str]) -> None:
    """LeRobot notes the settings of its encoder with every video; those that were kept were not made with them."""
    from lerobot.configs.video import VIDEO_ENCODER_INFO_FIELD_NAMES

    info = read_json(target / INFO)
    for camera in cameras:
        for name in VIDEO_ENCODER_INFO_FIELD_NAMES:
            info["features"][camera]["info"].pop(f"video.{name}", None)
    write_json(target / INFO, info)


def _create(
    target: Path, first: Episode, fps: int, robot_type: str | None, encoder: Encoder, *, success: bool
) -> tuple[Any, Any, Any]:
    from igrft.recordings.streams.lerobot_writer import EpisodeMetadata, EpisodeWriter

    features: dict[str, dict[str, Any]] = {
        name: {"dtype": "float32", "shape": (width,), "names": first.names[name]}
        for name, width in first.widths.items()
    }
    for name, (height, width) in first.cameras.items():
        features[name] = {"dtype": "video", "shape": (height, width, 3), "names": ["height", "width", "channels"]}
    if success:
        features[c.SUCCESS] = {"dtype": "bool", "shape": (1,), "names": None}
    meta = EpisodeMetadata.create(
        repo_id="igrft/convert", fps=fps, features=features, robot_type=robot_type, root=target, use_videos=True
    )
    videos = FinishedVideos(target)
    # Not through LeRobotDataset.create: it takes no encoder but its own.
    writer = EpisodeWriter(
        meta=meta,
        root=meta.root,
        rgb_encoder=encoder.for_lerobot(),
        depth_encoder=None,
        encoder_threads=None,
        batch_encoding_size=1,
        streaming_encoder=videos,
    )
    return meta, writer, videos


def _buffer(meta: Any, part: Episode, task: str, fps: int, *, success: bool) -> dict[str, Any]:
    """An episode as LeRobot's writer collects it, without adding every row by itself."""
    columns, _ = part.numbers()
    rows = range(part.length)
    buffer: dict[str, Any] = {name: [] for name in meta.features}
    buffer |= {"size": part.length, "task": [task] * part.length, c.EPISODE_INDEX: meta.total_episodes}
    buffer |= {c.FRAME_INDEX: list(rows), c.TIMESTAMP: [t / fps for t in rows]}
    buffer |= {name: list(values) for name, values in columns.items()}
    buffer |= {camera: [None] * part.length for camera in part.cameras}
    if success:
        won = part.success is not False
        buffer[c.SUCCESS] = [np.array([won and t == part.length - 1]) for t in rows]
    return buffer


def _write_skew(path: Path, parts: list[Episode]) -> None:
    streams = sorted({name for part in parts for name in part.facts["skew"]})
    schema = pa.schema(
        [(c.EPISODE_INDEX, pa.int64()), (c.FRAME_INDEX, pa.int64()), *((name, pa.float32()) for name in streams)]
    )
    with DataWriter(path, schema) as writer:
        for index, part in enumerate(parts):
            skew = part.numbers()[1]
            columns: list[Any] = [np.full(part.length, index), np.arange(part.length)]
            columns += [pa.array(skew[n]) if n in skew else pa.nulls(part.length, pa.float32()) for n in streams]
            writer.write(pa.table(columns, schema=schema), [part.length])
