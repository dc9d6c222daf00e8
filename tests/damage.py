"""Ways to damage the labelled set, and how findings read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from labelled_set import DATA_FILES, EPISODES, to_arrow

from igrft.dataset.parquet import DataWriter
from igrft.reports.validate import Validation

INFO, STATS, IGRFT = "meta/info.json", "meta/stats.json", "meta/igrft.json"
TABLE = "meta/episodes/chunk-000/file-000.parquet"
Damage = Callable[[Path], None]


def messages(found: Validation, level: str = "error") -> str:
    """The findings of a level as lines of text."""
    return "\n".join(f"[{f.check}] {f.message}" for f in found.findings if f.level == level)


def set_at(column: str, frame: int, value: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of an episode's rows: one value."""

    def edit(columns: dict[str, Any]) -> None:
        columns[column][frame] = value

    return edit


def truncate(name: str) -> Damage:
    """Cut a file in half."""

    def damage(root: Path) -> None:
        path = root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def remove(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def in_json(name: str, edit: Callable[[Any], Any]) -> Damage:
    """Edit a JSON file in place."""
    return lambda root: edit_json(root / name, edit)


def in_table(name: str, edit: Callable[[dict[str, list[Any]]], Any]) -> Damage:
    """Edit a metadata table in place."""
    return lambda root: edit_table(root / name, edit)


def put(columns: dict[str, list[Any]], name: str, row: int, value: Any) -> None:
    columns[name][row] = value


def segments(episode: int, at: int, **values: Any) -> Damage:
    """Change one recorded subtask."""
    return in_json(IGRFT, lambda record: record["episodes"][str(episode)]["subtasks"][at].update(values))


def edit_rows(
    root: Path, episode: int, edit: Callable[[dict[str, Any]], None], *, types: dict[str, pa.DataType] | None = None
) -> None:
    """Change the rows of one episode: ``edit`` gets its columns as lists and alters them in place.

    ``types`` casts columns of the whole data file afterwards.
    """
    number = next(n for n, held in enumerate(DATA_FILES) if episode in held)
    path = root / f"data/chunk-000/file-{number:03d}.parquet"
    table = pq.read_table(path)
    lengths = [EPISODES[i][0] for i in DATA_FILES[number]]
    at = DATA_FILES[number].index(episode)
    parts, start = [], 0
    for length in lengths:
        parts.append(table.slice(start, length))
        start += length
    columns = parts[at].to_pydict()
    edit(columns)
    parts[at] = pa.table({n: to_arrow(columns[n], table.schema.field(n).type) for n in table.column_names})
    schema = table.schema
    for name, kind in (types or {}).items():
        schema = schema.set(schema.get_field_index(name), pa.field(name, kind))
    with DataWriter(path, schema) as writer:
        for part in parts:
            writer.write(part.cast(schema), [part.num_rows])


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    """Change a JSON file: ``edit`` alters its content in place."""
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value, indent=2))


def edit_table(path: Path, edit: Callable[[dict[str, list[Any]]], None]) -> None:
    """Change a metadata table: ``edit`` gets its columns as lists and alters them in place."""
    table = pq.read_table(path)
    columns = table.to_pydict()
    edit(columns)
    kinds = {f.name: f.type for f in table.schema}
    pq.write_table(pa.table({n: pa.array(v, type=kinds.get(n)) for n, v in columns.items()}), path)
