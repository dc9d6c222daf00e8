"""The files of one episode, as LeRobot lays them out: rows, the episodes' table, videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from igrft import columns as c
from igrft.dataset.files import TASKS
from igrft.dataset.parquet import DataWriter, with_pandas_index, write_table
from igrft.errors import IgrftError
from igrft.recordings.video_facts import TOLERANCE_S, frame_times, time_deviation
from igrft.rollouts.commit import Files, data_path, episodes_path, place, video_path
from igrft.rollouts.layout import Layout
from igrft.rollouts.statistics import Statistics, as_row, column_statistics


@dataclass(frozen=True)
class EpisodeFiles:
    """Attributes:
    files: where each lies now, by its place in the dataset.
    statistics: of every feature.
    """

    files: Files
    statistics: Statistics


def write_episode(
    layout: Layout,
    columns: Mapping[str, np.ndarray],
    videos: Mapping[str, Path],
    video_statistics: Mapping[str, dict[str, np.ndarray]],
    *,
    folder: Path,
    index: int,
    first_frame: int,
) -> EpisodeFiles:
    """Write what an episode adds to the dataset into ``folder``.

    Args:
        columns: of every feature that is no video, [T] or [T, n].
        videos: finished files by camera; they stay where they are.
        index: ``episode_index``.
        first_frame: ``index`` of the first frame.

    Raises:
        IgrftError: a video does not hold a picture for every frame.
    """
    frames = len(columns[c.ACTION])
    frame = np.arange(frames)
    whole = {
        **columns,
        # LeRobot takes the statistics before it rounds to float32.
        c.TIMESTAMP: frame / layout.fps,
        c.FRAME_INDEX: frame,
        c.EPISODE_INDEX: np.full(frames, index),
        c.INDEX: first_frame + frame,
        c.TASK_INDEX: np.zeros(frames, dtype=np.int64),
    }
    files = {data_path(index): folder / "data.parquet", episodes_path(index): folder / "episodes.parquet"}
    arrays = [_to_arrow(whole[field.name]).cast(field.type) for field in layout.schema]
    table = pa.table(arrays, schema=layout.schema)
    with DataWriter(files[data_path(index)], layout.schema) as writer:
        writer.write(table, [frames])
    row: dict[str, object] = {
        "episode_index": index,
        "tasks": [layout.task],
        "length": frames,
        **_placed("data", index),
        "dataset_from_index": first_frame,
        "dataset_to_index": first_frame + frames,
    }
    for camera, path in videos.items():
        _check_video(camera, path, frames, layout.fps)
        files[video_path(camera, index)] = path
        row |= _placed(f"videos/{camera}", index)
        row |= {f"videos/{camera}/from_timestamp": 0.0, f"videos/{camera}/to_timestamp": frames / layout.fps}
    statistics = {**column_statistics(whole), **video_statistics}
    held = {name: pa.array([value]) for name, value in row.items()}
    meta = {name: pa.array([value]) for name, value in _placed("meta/episodes", index).items()}
    write_table(files[episodes_path(index)], pa.table({**held, **as_row(statistics), **meta}))
    if index == 0:
        files[TASKS] = folder / "tasks.parquet"
        tasks = pa.table({"task_index": pa.array([0], pa.int64()), "task": pa.array([layout.task], pa.string())})
        write_table(files[TASKS], with_pandas_index(tasks, "task"))
    return EpisodeFiles(files, statistics)


def _placed(kind: str, index: int) -> dict[str, object]:
    return {f"{kind}/{key}": number for key, number in place(index).items()}


def _to_arrow(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def _check_video(camera: str, path: Path, frames: int, fps: int) -> None:
    times = frame_times(path)
    if len(times) != frames or times[0] != 0 or time_deviation(times, fps) > TOLERANCE_S:
        raise IgrftError(
            f"the video of {camera} holds {len(times)} pictures where the episode has {frames} frames at {fps} a "
            "second; choose another encoder"
        )
