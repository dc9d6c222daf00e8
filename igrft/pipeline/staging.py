"""Work in progress, kept per episode so that a second run resumes.

A staged file is an Arrow file: the arrays of one or many episodes one after the other, and in its
metadata, for each episode, the key of what determined the result, its record, and the reason where it
was set aside. Files appear under their name only when whole, so a killed run leaves none in part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from igrft.dataset.fingerprint import digest_of
from igrft.dataset.parquet import whole_file
from igrft.steps.base import EpisodeLabels

_META = b"igrft"
_COLUMN, _STAGED = "column:", "staged:"


@dataclass(frozen=True, slots=True)
class Staged:
    """One episode's result of one step: where its arrays lie, and what was recorded.

    Attributes:
        row: row of the episodes' table.
        key: digest of all that determined the result.
        path: the staged file; ``batch``, ``offset`` and ``length`` say which of its rows.
        text: what the step recorded, as JSON: a tenth of the memory of the objects. None: it is in the file.
        reason: why the episode was set aside, or None.
    """

    row: int
    key: str
    path: Path
    batch: int
    offset: int
    length: int
    text: str | None
    reason: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What the step recorded."""
        text = self.read_text()
        return json.loads(text) if text != "{}" else {}

    def read_text(self) -> str:
        """The record as JSON, from the file where it is not held."""
        if self.text is not None:
            return self.text
        return _texts(str(self.path), _version(self.path))[self.row, self.key]

    def rows(self) -> pa.RecordBatch:
        """The arrays as Arrow; only their batch of the file is read."""
        reader = _open(str(self.path), _version(self.path))
        return reader.get_batch(self.batch).slice(self.offset, self.length)

    def labels(self) -> EpisodeLabels:
        """Read the arrays."""
        out = self.arrays()
        out.record = self.record
        return out

    def arrays(self) -> EpisodeLabels:
        """Read the arrays, and leave the record alone."""
        out = EpisodeLabels()
        batch = self.rows()
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_fixed_size_list(column.type):
                values = column.flatten().to_numpy(zero_copy_only=False).reshape(self.length, column.type.list_size)
            else:
                values = column.to_numpy(zero_copy_only=False)
            kind, _, plain = name.partition(":")
            (out.columns if kind + ":" == _COLUMN else out.staged)[plain] = values
        return out


@dataclass(frozen=True)
class Result:
    """What a step gave for one episode, not yet staged."""

    row: int
    key: str
    length: int
    labels: EpisodeLabels
    reason: str | None = None


def _version(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


#: A pass over the episodes has a file of every step open; a plan has up to a dozen.
@lru_cache(maxsize=16)
def _open(path: str, version: tuple[int, int, int]) -> pa.ipc.RecordBatchFileReader:
    """An open staged file. Another file under the same name is another ``version``."""
    return pa.ipc.open_file(pa.memory_map(path))


@lru_cache(maxsize=16)
def _texts(path: str, version: tuple[int, int, int]) -> dict[tuple[int, str], str]:
    """What was recorded of the episodes of a staged file, by row and key."""
    entries = json.loads(_open(path, version).schema.metadata[_META])
    return {(int(e["row"]), e["key"]): e["record"] for e in entries}


def write_staged(folder: Path, results: Sequence[Result]) -> list[Staged]:
    """Stage results in one file. Set-aside episodes have an entry and no rows."""
    kept = [r for r in results if r.reason is None]
    arrays: dict[str, pa.Array] = {}
    if kept:
        for prefix, pick in ((_COLUMN, "columns"), (_STAGED, "staged")):
            for name in getattr(kept[0].labels, pick):
                values = [getattr(r.labels, pick)[name] for r in kept]
                arrays[prefix + name] = _to_arrow(np.concatenate(values) if len(values) > 1 else values[0])
    entries, offset = [], 0
    for r in results:
        length = r.length if r.reason is None and arrays else 0
        entries.append(_entry(Staged(r.row, r.key, folder, 0, offset, length, json.dumps(r.labels.record), r.reason)))
        offset += length
    name = f"{results[0].row:06d}-{results[-1].row:06d}-{digest_of([r.key for r in results])}.arrow"
    path = folder / name
    schema = pa.schema([(n, a.type) for n, a in arrays.items()], {_META: json.dumps(entries).encode()})
    try:
        with whole_file(path) as temporary:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))
            _refuse_second(temporary, path)
    except _SecondError as second:
        return second.first
    return [_staged(e, path) for e in entries]


class _SecondError(Exception):
    """Another process, which was thought dead, has staged the same meanwhile: its result stands, others build on it."""

    def __init__(self, first: list[Staged]) -> None:
        self.first = first


def _refuse_second(temporary: Path, path: Path) -> None:
    """Give a file its name if no result has it. Raises _SecondError: one has."""
    try:
        # Unlike a rename, this never replaces.
        os.link(temporary, path)
        return
    except FileExistsError:
        pass
    except OSError:
        # A file system without links: of two that end in the same moment, the last stands there.
        if not path.exists():
            return
    try:
        there = list(read_entries(path))
    except (pa.ArrowInvalid, OSError, ValueError, KeyError):
        return
    if all(s.reason is None for s in there):
        raise _SecondError(there)


def read_entries(path: Path) -> Iterator[Staged]:
    """The entries of a staged file, without its arrays."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        entries = json.loads(reader.schema.metadata[_META])
    for entry in entries:
        yield _staged(entry, path)


def merge_staged(path: Path, staged: Sequence[Staged]) -> None:
    """Write many staged results as one compressed file, an episode at a time."""
    kept = [s for s in staged if s.reason is None]
    if not kept:
        return
    entries = [{**_entry(s), "batch": i, "offset": 0} for i, s in enumerate(kept)]
    schema = kept[0].rows().schema.with_metadata({_META: json.dumps(entries).encode()})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        whole_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema, options=options) as writer,
    ):
        for s in kept:
            writer.write_batch(s.rows().replace_schema_metadata(schema.metadata))


def _entry(s: Staged) -> dict[str, Any]:
    return {
        "row": s.row,
        "key": s.key,
        "batch": s.batch,
        "offset": s.offset,
        "length": s.length,
        "record": s.read_text(),
        "reason": s.reason,
    }


def _staged(entry: Mapping[str, Any], path: Path) -> Staged:
    numbers = {k: int(entry[k]) for k in ("row", "batch", "offset", "length")}
    return Staged(key=entry["key"], path=path, text=entry["record"], reason=entry["reason"], **numbers)


def _to_arrow(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
