"""The files of a LeRobot v3.0 dataset: their names, and how the small ones are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igrft.dataset.memory import give_back
from igrft.errors import EpisodeError, IgrftError

INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
SUBTASKS = "meta/subtasks.parquet"
EPISODES = "meta/episodes"
IGRFT = "meta/igrft.json"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
#: Above this the footers of the episodes' table take tens of megabytes.
_MANY_EPISODES = 4096


def read_json(path: Path) -> Any:
    """Parse a JSON file; the error names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IgrftError(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise IgrftError(f"{path} is not valid JSON ({error}); restore it from the source") from None


def dataset_version(root: Path) -> str | None:
    """``codebase_version`` of the LeRobot dataset at ``root``, or None where there is none."""
    path = root / INFO
    return str(read_json(path).get("codebase_version", "unknown")) if path.is_file() else None


def refuse_other_versions(root: Path) -> None:
    """Raise unless ``root`` holds a v3.x dataset; the message says how to get one."""
    if not root.is_dir():
        raise IgrftError(f"{root} is not a folder; give the folder of a LeRobot dataset, or its Hub id")
    version = dataset_version(root)
    if version is None:
        hint = f"; if it holds recordings, run: igrft convert {root} TARGET"
        raise IgrftError(f"{root} has no {INFO}, so it is not a LeRobot dataset{hint}")
    if not version.startswith("v3."):
        raise IgrftError(f"{root} is a LeRobot {version} dataset; run: igrft convert {root} TARGET")


def read_table(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """A small parquet file. Unlike ``pyarrow.parquet.read_table`` this does not import pandas."""
    with pq.ParquetFile(path) as parquet:
        return parquet.read(columns=None if names is None else list(names))


def read_episodes(root: Path, *, statistics: bool = False) -> pa.Table:
    """``meta/episodes`` as one table ordered by episode, with or without the ``stats/`` columns."""
    paths = sorted((root / EPISODES).glob("*/*.parquet"))
    if not paths:
        raise IgrftError(f"{root / EPISODES} holds no parquet file; restore it from the source")
    tables = []
    for path in paths:
        try:
            tables.append(_read_episode_file(path, statistics))
        except (pa.ArrowInvalid, OSError) as error:
            raise IgrftError(f"{path} cannot be read ({error}); restore it from the source") from None
    if sum(len(t) for t in tables) > _MANY_EPISODES:
        give_back()
    table = pa.concat_tables(tables, promote_options="permissive")
    if "episode_index" not in table.column_names:
        raise IgrftError(f"{paths[0]} has no column 'episode_index'; restore it from the source")
    order = np.argsort(table.column("episode_index").to_numpy(), kind="stable")
    return table if (np.diff(order) == 1).all() else table.take(order)


def _read_episode_file(path: Path, statistics: bool) -> pa.Table:
    # Opened once, and let go of before the next: LeRobot writes a row group for ten episodes, so that in a file of
    # 100 MB the footer takes 100 MB of memory and more time than the rows.
    with pq.ParquetFile(path) as parquet:
        names = parquet.schema_arrow.names
        return parquet.read(columns=names if statistics else [n for n in names if not n.startswith("stats/")])


def read_strings_by_index(path: Path, index_column: str, string_column: str) -> list[str]:
    """Strings of ``tasks.parquet`` or ``subtasks.parquet`` by their index.

    pandas writes its index as a column of its own name or as ``__index_level_0__``; both are read.
    """
    if not path.is_file():
        raise IgrftError(f"{path} is missing; restore it from the source")
    table = read_table(path)
    name = next((n for n in (string_column, "__index_level_0__") if n in table.column_names), None)
    if name is None or index_column not in table.column_names:
        raise IgrftError(f"{path} has no columns {index_column!r} and {string_column!r}")
    pairs = zip(table.column(index_column).to_pylist(), table.column(name).to_pylist(), strict=True)
    found = {int(i): str(s) for i, s in pairs}
    return [found.get(i, "") for i in range(max(found, default=-1) + 1)]


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """A parquet column as [T], or [T, width] for a list column of constant width.

    Raises:
        EpisodeError: lists of differing lengths.
    """
    array = column.combine_chunks()
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        return np.asarray(array.flatten()).reshape(len(array), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        widths = np.unique(pc.list_value_length(array).to_numpy(zero_copy_only=False))
        if len(widths) > 1:
            raise EpisodeError(f"rows of differing widths {widths[:4].tolist()} in one column")
        flat = array.flatten()
        inner = to_numpy(pa.chunked_array([flat]))
        width = int(widths[0]) if len(widths) else 0
        return inner.reshape(len(array), width, *inner.shape[1:])
    return array.to_numpy(zero_copy_only=False)
