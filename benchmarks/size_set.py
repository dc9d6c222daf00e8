"""A dataset of many short episodes without video, laid out as LeRobot's recorder leaves it.

    python benchmarks/size_set.py FOLDER EPISODES

Data files: one row group an episode, closed at 100 MB. ``meta/episodes``: one row group for ten episodes (LeRobot
flushes its buffer so), every statistic of every column in it, closed by LeRobot's own rule. ``FOLDER.subtasks.json``
beside it holds the subtasks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from igrft.dataset.statistics import NAMES, aggregate, episode_statistics

TASK = "put the cup on the shelf"
SUBTASKS = ("reach the cup", "grasp the cup", "move to the shelf", "place the cup", "retreat")
FPS, WIDTH = 30, 14
#: Frames of an episode: from, to (inclusive).
FRAMES = (50, 100)
#: LeRobot's defaults: size of a file, and episodes that it writes to the episodes' table together.
FILE_BYTES, BUFFER = 100 * 1024**2, 10
_BLOCK = 1000
INDICES = ("frame_index", "episode_index", "index", "task_index")
FEATURES: dict[str, dict[str, Any]] = {
    **{n: {"dtype": "float32", "shape": [WIDTH], "names": None} for n in ("observation.state", "action")},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    **{n: {"dtype": "int64", "shape": [1], "names": None} for n in INDICES},
}


def write_set(root: Path, episodes: int, file_bytes: int = FILE_BYTES) -> None:
    """Write the set and its subtask file. ``root`` must not exist."""
    (root / "meta").mkdir(parents=True)
    lengths = np.random.default_rng(0).integers(FRAMES[0], FRAMES[1] + 1, episodes)
    starts = np.cumsum(lengths) - lengths
    data = _DataFiles(root, file_bytes)
    table = _EpisodeFiles(root, file_bytes)
    totals: list[dict[str, np.ndarray]] = []
    for first in range(0, episodes, _BLOCK):
        taken = range(first, min(first + _BLOCK, episodes))
        values = [_columns(e, int(lengths[e]), int(starts[e])) for e in taken]
        places = [data.write(v) for v in values]
        found = [_statistics(v) for v in values]
        statistics = {n: {s: np.stack([f[n][s] for f in found]) for s in NAMES} for n in FEATURES}
        table.write(np.array(taken), lengths[first : taken[-1] + 1], int(starts[first]), places, statistics)
        totals.append({f"{n}/{s}": v for n, parts in statistics.items() for s, v in parts.items()})
    data.close()
    table.close()
    _write_rest(root, lengths, totals)


def _columns(episode: int, length: int, start: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([1, episode])
    frame = np.arange(length)
    return {
        "observation.state": rng.standard_normal((length, WIDTH), dtype=np.float32),
        "action": rng.standard_normal((length, WIDTH), dtype=np.float32),
        "timestamp": (frame / FPS).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(length, episode),
        "index": frame + start,
        "task_index": np.zeros(length, dtype=np.int64),
    }


def _statistics(columns: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """By column and statistic, [width]; ``count`` is [1]."""
    names = list(columns)
    rows = [columns[n].reshape(len(columns[n]), -1).T.astype(np.float64) for n in names]
    found = episode_statistics(np.ascontiguousarray(np.concatenate(rows)))
    out: dict[str, dict[str, np.ndarray]] = {}
    at = 0
    for name, part in zip(names, rows, strict=True):
        out[name] = {s: v[at : at + (1 if s == "count" else len(part))] for s, v in found.items()}
        at += len(part)
    return out


class _DataFiles:
    """``data/``: a new file before the present one would pass its limit, as LeRobot's writer decides."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit, self.number, self.held = root, limit, -1, 0
        self.writer: pq.ParquetWriter | None = None

    def write(self, columns: dict[str, np.ndarray]) -> int:
        """Append an episode; the number of its file."""
        frames = len(columns["index"])
        if self.writer is not None:
            size = self._path().stat().st_size
            if size + size / self.held * frames >= self.limit:
                self.close()
        schema = _schema()
        if self.writer is None:
            self.number, self.held = self.number + 1, 0
            self._path().parent.mkdir(parents=True, exist_ok=True)
            self.writer = pq.ParquetWriter(self._path(), schema, compression="snappy", use_dictionary=True)
        arrays = [
            pa.array(v) if v.ndim == 1 else pa.FixedSizeListArray.from_arrays(pa.array(v.reshape(-1)), WIDTH)
            for v in columns.values()
        ]
        self.writer.write_table(pa.table(arrays, schema=schema))
        self.held += frames
        return self.number

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer = None

    def _path(self) -> Path:
        return self.root / f"data/chunk-{self.number // 1000:03d}/file-{self.number % 1000:03d}.parquet"


def _schema() -> pa.Schema:
    """LeRobot's, with the description of columns that `datasets` reads."""
    kinds = {n: pa.type_for_alias(f["dtype"]) for n, f in FEATURES.items()}
    values = {n: {"dtype": f["dtype"], "_type": "Value"} for n, f in FEATURES.items()}
    wide = [n for n, f in FEATURES.items() if f["shape"] != [1]]
    for name in wide:
        kinds[name] = pa.list_(kinds[name], WIDTH)
        values[name] = {"feature": values[name], "length": WIDTH, "_type": "List"}
    described = json.dumps({"info": {"features": values}})
    return pa.schema([pa.field(n, k) for n, k in kinds.items()], {"huggingface": described})


class _EpisodeFiles:
    """``meta/episodes``."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit, self.number = root, limit, 0
        self.writer: pq.ParquetWriter | None = None

    def write(
        self,
        index: np.ndarray,
        lengths: np.ndarray,
        start: int,
        places: list[int],
        statistics: dict[str, dict[str, np.ndarray]],
    ) -> None:
        """Append a block of episodes, ten to a row group."""
        ends = start + np.cumsum(lengths)
        columns: dict[str, Any] = {
            "episode_index": index,
            "tasks": [[TASK]] * len(index),
            "length": lengths,
            "data/chunk_index": np.array(places) // 1000,
            "data/file_index": np.array(places) % 1000,
            "dataset_from_index": ends - lengths,
            "dataset_to_index": ends,
        }
        for name, parts in statistics.items():
            for statistic, values in parts.items():
                offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
                columns[f"stats/{name}/{statistic}"] = pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))
        whole = pa.table(columns)
        for at in range(0, len(index), BUFFER):
            part = whole.slice(at, BUFFER)
            last = int(index[at])
            if self.writer is not None:
                size = self._path().stat().st_size
                # LeRobot multiplies its size an episode by the frames of one: files end a little early.
                if size + size / last * int(lengths[at]) >= self.limit:
                    self.close()
                    self.number += 1
            for key, number in (("chunk", self.number // 1000), ("file", self.number % 1000)):
                part = part.append_column(f"meta/episodes/{key}_index", pa.array(np.full(part.num_rows, number)))
            if self.writer is None:
                self._path().parent.mkdir(parents=True, exist_ok=True)
                self.writer = pq.ParquetWriter(self._path(), part.schema, compression="snappy", use_dictionary=True)
            self.writer.write_table(part)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer = None

    def _path(self) -> Path:
        return self.root / f"meta/episodes/chunk-{self.number // 1000:03d}/file-{self.number % 1000:03d}.parquet"


def _write_rest(root: Path, lengths: np.ndarray, totals: list[dict[str, np.ndarray]]) -> None:
    import pandas as pd

    found: dict[str, dict[str, list]] = {}
    for name in FEATURES:
        parts = {s: np.concatenate([t[f"{name}/{s}"] for t in totals]) for s in NAMES}
        found[name] = {s: v.tolist() for s, v in aggregate(parts).items()}
    (root / "meta/stats.json").write_text(json.dumps(found, indent=4))
    pd.DataFrame({"task_index": [0]}, index=pd.Index([TASK], name="task")).to_parquet(root / "meta/tasks.parquet")
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "features": FEATURES,
        "total_episodes": len(lengths),
        "total_frames": int(lengths.sum()),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "robot_type": None,
        "splits": {"train": f"0:{len(lengths)}"},
    }
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))
    with (root.parent / f"{root.name}.subtasks.json").open("w") as stream:
        stream.write('{"episodes": {')
        for i, text in enumerate(_subtasks(lengths)):
            stream.write((",\n" if i else "\n") + f'"{i}": {text}')
        stream.write("\n}}\n")


def _subtasks(lengths: np.ndarray) -> Iterator[str]:
    rng = np.random.default_rng(2)
    for length in lengths.tolist():
        cuts = np.sort(rng.choice(np.arange(1, length), len(SUBTASKS) - 1, replace=False)).tolist()
        edges = [0, *cuts, length]
        segments = [{"name": n, "start": a, "end": b} for n, a, b in zip(SUBTASKS, edges[:-1], edges[1:], strict=True)]
        yield json.dumps({"success": bool(rng.random() > 0.2), "subtasks": segments})


if __name__ == "__main__":
    write_set(Path(sys.argv[1]), int(sys.argv[2]))
