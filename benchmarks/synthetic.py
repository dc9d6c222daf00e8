"""Synthetic datasets without video, for benchmarks and for tests that need many episodes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SUBTASKS = ("reach the cup", "grasp the cup", "move to the shelf", "place the cup", "retreat")


def episode_lengths(episodes: int, frames: int, seed: int = 0) -> np.ndarray:
    """int64 [episodes], between about half and one and a half of the mean, summing to ``frames``."""
    share = np.random.default_rng(seed).uniform(0.5, 1.5, episodes)
    lengths = np.maximum((share / share.sum() * frames).astype(np.int64), len(SUBTASKS))
    lengths[-1] += frames - lengths.sum()
    return lengths


def segments_of(length: int, rng: np.random.Generator) -> list[tuple[str, int, int]]:
    """The subtasks of one episode with random boundaries."""
    cuts = np.sort(rng.choice(np.arange(1, length), len(SUBTASKS) - 1, replace=False))
    edges = [0, *cuts.tolist(), length]
    return list(zip(SUBTASKS, edges[:-1], edges[1:], strict=True))


def write_dataset(
    root: Path,
    episodes: int,
    frames: int,
    *,
    width: int = 14,
    episodes_per_file: int = 1000,
    fps: int = 30,
    with_subtasks: bool = False,
    one_row_group: bool = False,
    seed: int = 0,
) -> np.ndarray:
    """Write a LeRobot v3.0 dataset of random state and action; return the episodes' lengths.

    Args:
        with_subtasks: add an older ``subtask_index`` and ``meta/subtasks.parquet``; else write them
            as a subtask file, ``root/../NAME.subtasks.json``.
        one_row_group: all episodes of a file in one row group, as LeRobot's converter leaves them.
    """
    rng = np.random.default_rng(seed)
    lengths = episode_lengths(episodes, frames, seed)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    features = {
        "observation.state": {"dtype": "float32", "shape": [width], "names": None},
        "action": {"dtype": "float32", "shape": [width], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{
            k: {"dtype": "int64", "shape": [1], "names": None}
            for k in ("frame_index", "episode_index", "index", "task_index")
        },
    }
    if with_subtasks:
        features["subtask_index"] = {"dtype": "int64", "shape": [1], "names": None}
    entries: dict[str, dict] = {}
    for first in range(0, episodes, episodes_per_file):
        last = min(first + episodes_per_file, episodes)
        path = root / f"data/chunk-000/file-{first // episodes_per_file:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer, pending = None, []
        for e in range(first, last):
            n = int(lengths[e])
            segments = segments_of(n, rng)
            entries[str(e)] = {
                "success": bool(rng.random() > 0.2),
                "subtasks": [{"name": s, "start": a, "end": b} for s, a, b in segments],
            }
            columns = {
                k: pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(n * width, dtype=np.float32)), width)
                for k in ("observation.state", "action")
            }
            columns["timestamp"] = pa.array((np.arange(n) / fps).astype(np.float32))
            columns["frame_index"] = pa.array(np.arange(n))
            columns["episode_index"] = pa.array(np.full(n, e))
            columns["index"] = pa.array(np.arange(n) + starts[e])
            columns["task_index"] = pa.array(np.zeros(n, np.int64))
            if with_subtasks:
                columns["subtask_index"] = pa.array(
                    np.repeat(np.arange(len(segments)), [b - a for _, a, b in segments])
                )
            table = pa.table(columns)
            if one_row_group:
                pending.append(table)
                continue
            writer = writer or pq.ParquetWriter(path, table.schema, compression="snappy")
            writer.write_table(table)
        if pending:
            pq.write_table(pa.concat_tables(pending), path, row_group_size=int(lengths.sum()))
        if writer:
            writer.close()
    _write_meta(root, lengths, starts, features, episodes_per_file, fps, width)
    if with_subtasks:
        _write_index(root / "meta/subtasks.parquet", "subtask_index", "subtask", SUBTASKS)
    else:
        (root.parent / f"{root.name}.subtasks.json").write_text(json.dumps({"episodes": entries}))
    return lengths


def _write_index(path: Path, index: str, name: str, values: tuple[str, ...]) -> None:
    import pandas as pd

    pd.DataFrame({index: range(len(values))}, index=pd.Index(values, name=name)).to_parquet(path)


def _write_meta(
    root: Path, lengths: np.ndarray, starts: np.ndarray, features: dict, per_file: int, fps: int, width: int
) -> None:
    episodes = len(lengths)
    index = np.arange(episodes)
    table = {
        "episode_index": index,
        "tasks": [["put the cup on the shelf"]] * episodes,
        "length": lengths,
        "data/chunk_index": np.zeros(episodes, np.int64),
        "data/file_index": index // per_file,
        "dataset_from_index": starts[:-1],
        "dataset_to_index": starts[1:],
        "meta/episodes/chunk_index": np.zeros(episodes, np.int64),
        "meta/episodes/file_index": np.zeros(episodes, np.int64),
    }
    stats: dict[str, dict[str, list]] = {}
    for key, feature in features.items():
        size = feature["shape"][0]
        stats[key] = {s: [0.0] * size for s in ("min", "mean")} | {s: [1.0] * size for s in ("max", "std")}
        stats[key] |= {q: [0.5] * size for q in ("q01", "q10", "q50", "q90", "q99")} | {"count": [int(lengths.sum())]}
        for name, value in stats[key].items():
            table[f"stats/{key}/{name}"] = [[int(n)] for n in lengths] if name == "count" else [value] * episodes
    (root / "meta/episodes/chunk-000").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), root / "meta/episodes/chunk-000/file-000.parquet")
    _write_index(root / "meta/tasks.parquet", "task_index", "task", ("put the cup on the shelf",))
    (root / "meta/stats.json").write_text(json.dumps(stats))
    info = {
        "codebase_version": "v3.0",
        "robot_type": "synthetic",
        "total_episodes": episodes,
        "total_frames": int(lengths.sum()),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))
