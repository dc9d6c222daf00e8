"""What the tests of training do to datasets and recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.training.recipe import DatasetEntry, Recipe


def make_recipe(*roots: Path | DatasetEntry, **settings: Any) -> Recipe:
    """A recipe over some datasets; settings are dotted, with two underscores for the dot."""
    entries = [r if isinstance(r, DatasetEntry) else DatasetEntry(root=str(r)) for r in roots]
    recipe = Recipe(datasets=entries, batch_size=8)
    for key, value in settings.items():
        *path, last = key.split("__")
        holder: Any = recipe
        for part in path:
            holder = getattr(holder, part)
        assert hasattr(holder, last), key
        setattr(holder, last, value)
    return recipe


def edit_info(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change ``meta/info.json`` in place."""
    edit_json(root / "meta/info.json", change)


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_column(root: Path, name: str, change: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Replace a column of one number, or of a list, on every episode: ``change(values, episode_index)``."""
    dataset = DatasetReader.open(root)
    for path, rows in dataset.data_files:
        table = pq.ParquetFile(root / path).read()
        at = table.column_names.index(name)
        kind = table.schema.field(at).type
        old = np.array(table.column(name).to_pylist())
        ends = np.cumsum(dataset.lengths[rows])
        new = np.concatenate(
            [
                np.asarray(change(old[e - dataset.lengths[r] : e].copy(), int(dataset.episode_indices[r])))
                for r, e in zip(rows, ends, strict=True)
            ]
        )
        values = pa.array(list(new) if new.ndim > 1 else new, type=kind)
        write_data(root / path, table.set_column(at, table.schema.field(at), values), dataset.lengths[rows])


def add_column(root: Path, name: str, values: Callable[[int, int], np.ndarray], dtype: str = "float32") -> None:
    """Add a column: ``values(length, episode_index)``."""
    dataset = DatasetReader.open(root)
    for path, rows in dataset.data_files:
        table = pq.ParquetFile(root / path).read()
        parts = [np.asarray(values(int(dataset.lengths[r]), int(dataset.episode_indices[r]))) for r in rows]
        whole = np.concatenate(parts).astype(dtype)
        column = pa.array(list(whole) if whole.ndim > 1 else whole)
        write_data(root / path, table.append_column(name, column), dataset.lengths[rows])
    shape = list(whole.shape[1:]) or [1]
    edit_info(root, lambda info: info["features"].update({name: {"dtype": dtype, "shape": shape, "names": None}}))


def drop_columns(root: Path, *names: str) -> None:
    """Take columns out of files and metadata."""
    dataset = DatasetReader.open(root)
    for path, rows in dataset.data_files:
        table = pq.ParquetFile(root / path).read()
        write_data(
            root / path, table.drop_columns([n for n in names if n in table.column_names]), dataset.lengths[rows]
        )
    edit_info(root, lambda info: [info["features"].pop(n, None) for n in names])


def write_data(path: Path, table: pa.Table, lengths: np.ndarray) -> None:
    """One row group an episode."""
    with pq.ParquetWriter(path, table.schema) as writer:
        start = 0
        for length in lengths.tolist():
            writer.write_table(table.slice(start, length))
            start += length


def set_success(root: Path, success: dict[int, bool]) -> None:
    """Change the success of episodes in the record, and their trajectory reward with it."""

    def change(record: dict[str, Any]) -> None:
        for episode, value in success.items():
            record["episodes"][str(episode)]["success"] = value

    edit_json(root / "meta/igrft.json", change)
    edit_column(
        root,
        c.REWARD_TRAJECTORY,
        lambda v, e: np.full(len(v), success[e] / len(v), np.float32) if e in success else v,
    )
