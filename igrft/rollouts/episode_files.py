"""From a LeRobot dataset of one episode to the files of the episode in a larger dataset."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from igrft import columns as c
from igrft.dataset.files import INFO, TASKS, read_json, read_table
from igrft.dataset.parquet import DataWriter, write_table
from igrft.errors import IgrftError
from igrft.recordings.statistics import numeric_statistics
from igrft.recordings.video_facts import frame_times
from igrft.rollouts.commit import data_path, episodes_path, place, video_path
from igrft.rollouts.statistics import row_statistics, with_statistics


@dataclass(frozen=True)
class EpisodeFiles:
    """An episode whose files lie under ``tree`` by their names in the dataset.

    Attributes:
        frames: T.
        info: ``meta/info.json`` of the dataset it was taken from: features as LeRobot declares them.
        statistics: by feature and statistic.
    """

    tree: Path
    frames: int
    info: dict[str, Any]
    statistics: dict[str, dict[str, np.ndarray]]


def take_over(staged: Path, tree: Path, *, index: int, first_frame: int, success: bool) -> EpisodeFiles:
    """Move the one episode of the finished LeRobot dataset at ``staged`` to ``tree`` under its new number.

    Args:
        index: its ``episode_index``.
        first_frame: ``index`` of its first frame.
        success: fills ``next.success``: true on the last frame, or nowhere. ``next.done`` is filled likewise.

    Raises:
        IgrftError: a video does not hold a picture for every frame.
    """
    info = read_json(staged / INFO)
    table = read_table(staged / data_path(0))
    frames = table.num_rows
    last = np.arange(frames) == frames - 1
    columns = {
        c.INDEX: np.arange(first_frame, first_frame + frames),
        c.EPISODE_INDEX: np.full(frames, index),
        c.DONE: last,
        c.SUCCESS: last & success,
    }
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    with DataWriter(tree / data_path(index), table.schema) as writer:
        writer.write(table, [frames])
    row = read_table(staged / episodes_path(0))
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    numbers = {"episode_index": index, "dataset_from_index": first_frame, "dataset_to_index": first_frame + frames}
    for kind in ("data", "meta/episodes", *(f"videos/{camera}" for camera in cameras)):
        numbers |= {f"{kind}/{key}": number for key, number in place(index).items()}
    for name, number in numbers.items():
        row = row.set_column(row.column_names.index(name), name, pa.array([number], pa.int64()))
    for name, values in columns.items():
        row = with_statistics(row, name, numeric_statistics(values))
    write_table(tree / episodes_path(index), row)
    for camera in cameras:
        _move_video(staged / video_path(camera, 0), tree / video_path(camera, index), camera, frames)
    if index == 0:
        os.replace(staged / TASKS, tree / TASKS)
    return EpisodeFiles(tree, frames, info, row_statistics(row, 0))


def _move_video(source: Path, target: Path, camera: str, frames: int) -> None:
    pictures = len(frame_times(source))
    if pictures != frames:
        raise IgrftError(f"the video of {camera} holds {pictures} pictures of {frames} frames; record it again")
    target.parent.mkdir(parents=True)
    os.replace(source, target)
