"""The one place that writes parquet.

Data files are laid out as LeRobot writes them: one row group per episode, snappy. A file appears
under its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that is renamed to it if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two machines may have a process of this number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file at once, or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, indent: int | None = 4) -> None:
    """Write JSON at once, or not at all. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a small table (metadata) in one row group."""
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, compression="snappy")


class DataWriter:
    """Writes a data file of a dataset, one row group per episode.

    Dictionary encoding is left to columns that repeat values; on high-entropy float columns it
    costs time and is given up by the encoder anyway.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=_columns_that_repeat(schema))

    def write(self, table: pa.Table, lengths: Sequence[int] | np.ndarray) -> None:
        """Append whole episodes: ``table`` holds ``lengths[0]`` rows of the first, and so on."""
        start = 0
        for length in lengths:
            if length:
                self._writer.write_table(table.slice(start, int(length)), row_group_size=int(length))
            start += int(length)

    def close(self) -> None:
        self._writer.close()

    def __enter__(self) -> DataWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _columns_that_repeat(schema: pa.Schema) -> list[str]:
    """Leaf paths worth a dictionary: anything but floats inside lists and per-frame float labels."""
    from igrft import columns as c

    names: list[str] = []
    for field in schema:
        if field.name == c.LANGUAGE_PERSISTENT:
            names += [f"{field.name}.list.element.{leaf}" for leaf in _LANGUAGE_LEAVES]
        elif pa.types.is_integer(field.type) or pa.types.is_string(field.type) or field.name == c.REWARD_TRAJECTORY:
            names.append(field.name)
    return names


_LANGUAGE_LEAVES = ("role", "content", "style", "timestamp", "camera", "tool_calls.list.element")


def with_pandas_index(table: pa.Table, index: str) -> pa.Table:
    """Mark column ``index`` as the pandas index, as LeRobot's tasks.parquet has it."""

    def entry(name: str, kind: pa.DataType) -> dict[str, object]:
        text = pa.types.is_string(kind)
        return {
            "name": name,
            "field_name": name,
            "pandas_type": "unicode" if text else str(kind),
            "numpy_type": "object" if text else str(kind),
            "metadata": None,
        }

    pandas = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [entry(f.name, f.type) for f in table.schema],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": None,
    }
    return table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})
