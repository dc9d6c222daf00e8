"""What is left to do after LeRobot wrote a v3.0 dataset: row groups, the frame rate, times in videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from igrft.dataset.files import INFO, read_episodes, read_json
from igrft.dataset.parquet import DataWriter, whole_file, write_json, write_table
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.recordings.video_facts import frame_times

#: A start that is off by less than this needs no correction: LeRobot's tolerance is 1e-4 s.
_START_TOLERANCE_S = 1e-5


def finish_dataset(
    root: Path, fps: float, types: Mapping[str, pa.DataType | None], pictures: Mapping[tuple[str, int], int]
) -> None:
    """Finish the v3.0 dataset at ``root``, in place.

    Args:
        fps: as recorded; LeRobot's converter keeps whole numbers only.
        types: Arrow type by column; None leaves a column as it is.
        pictures: by camera and episode, how many pictures its video has (at least as many as rows).
    """
    _restore_fps(root / INFO, fps)
    reader = DatasetReader.open(root)
    for relative, rows in reader.data_files:
        _rewrite(root / relative, reader.lengths[rows], types, reader.features)
    correct_video_starts(reader, pictures)


def _restore_fps(path: Path, fps: float) -> None:
    info = read_json(path)
    value = int(fps) if fps == int(fps) else fps
    if info["fps"] == value:
        return
    info["fps"] = value
    for feature in info["features"].values():
        if "fps" in feature:
            feature["fps"] = value
    write_json(path, info)


def _rewrite(
    path: Path, lengths: np.ndarray, types: Mapping[str, pa.DataType | None], features: Mapping[str, dict[str, Any]]
) -> None:
    """Write a data file again with one row group per episode, in the types LeRobot's own writer uses."""
    table = pq.read_table(path)
    if table.num_rows != int(lengths.sum()):
        raise IgrftError(f"LeRobot's converter wrote {table.num_rows} rows of {int(lengths.sum())} to {path.name}")
    fields = [
        pa.field(name, types.get(name) or table.schema.field(name).type)
        for name in features
        if name in table.column_names
    ]
    schema = pa.schema(fields, metadata=_huggingface(features, types))
    table = table.select(schema.names).cast(schema)
    with whole_file(path) as temporary, DataWriter(temporary, schema) as writer:
        writer.write(table, lengths)


def _huggingface(
    features: Mapping[str, dict[str, Any]], types: Mapping[str, pa.DataType | None]
) -> dict[bytes, bytes] | None:
    """Schema metadata that tells Hugging Face ``datasets`` which columns are pictures.

    Left out where a column is a matrix: its extension type would not match the plain lists in the file.
    """
    from lerobot.datasets.feature_utils import get_hf_features_from_features

    if any(types.get(n) is None and f["dtype"] not in ("image", "video") for n, f in features.items()):
        return None
    shaped = {name: {**f, "shape": tuple(f["shape"])} for name, f in features.items()}
    return get_hf_features_from_features(shaped).arrow_schema.metadata


def correct_video_starts(reader: DatasetReader, pictures: Mapping[tuple[str, int], int]) -> None:
    """Set ``from_timestamp`` to when the episode's first picture is really shown.

    LeRobot adds up durations, and FFmpeg joins files in whole microseconds: at 30 frames a second the
    two part by up to a third of one with every episode, so that frames may come to lie outside
    LeRobot's tolerance after three hundred episodes in one file, and cannot be read any more.

    Args:
        pictures: by camera and episode, how many pictures its video has.

    Raises:
        IgrftError: a video holds another number of pictures than its episodes.
    """
    changed: dict[str, np.ndarray] = {}
    for camera in sorted({camera for camera, _ in pictures}):
        start_name, end_name = (f"videos/{camera}/{edge}_timestamp" for edge in ("from", "to"))
        starts = reader.table.column(start_name).to_numpy().astype(np.float64)
        ends = reader.table.column(end_name).to_numpy().astype(np.float64)
        true_starts, true_ends = starts.copy(), ends.copy()
        by_file: dict[Path, list[int]] = {}
        for row in range(reader.num_episodes):
            by_file.setdefault(reader.video(row, camera).path, []).append(row)
        for path, rows in by_file.items():
            counts = np.array([pictures[camera, int(reader.episode_indices[r])] for r in rows])
            times = frame_times(path)
            if len(times) != counts.sum():
                raise IgrftError(
                    f"{path.name} of {camera} holds {len(times)} pictures where its episodes have {counts.sum()}"
                )
            first = np.concatenate([[0], np.cumsum(counts)[:-1]])
            true_starts[rows] = times[first]
            true_ends[rows] = np.append(times[first[1:]], times[-1] + 1 / reader.fps)
        if np.abs(true_starts - starts).max() > _START_TOLERANCE_S:
            changed |= {start_name: true_starts, end_name: true_ends}
    if changed:
        _replace_in_episodes(reader.root, changed)


def _replace_in_episodes(root: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Replace columns of the episodes' table, which LeRobot's converter and writer leave in one file."""
    table = read_episodes(root, statistics=True)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    paths = sorted((root / "meta/episodes").glob("*/*.parquet"))
    write_table(paths[0], table)
    for path in paths[1:]:
        path.unlink()
