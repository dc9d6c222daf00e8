"""Work in progress, kept per episode so that a second run resumes.

A staged file is an Arrow file: the arrays of one or many episodes one after the other, and in its
metadata, for each episode, the key of what determined the result, its record, and the reason where it
was set aside. Files appear under their name only when whole, so a killed run leaves none in part.
"""

from __future__ import annotations

import json
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
        text: what the step recorded, as JSON: a tenth of the memory of the objects.
        reason: why the episode was set aside, or None.
    """

    row: int
    key: str
    path: Path
    batch: int
    offset: int
    length: int
    text: str
    reason: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What the step recorded."""
        return json.loads(self.text) if self.text != "{}" else {}

    def rows(self) -> pa.RecordBatch:
        """The arrays as Arrow; only their batch of the file is read."""
        stat = self.path.stat()
        reader = _open(str(self.path), (stat.st_ino, stat.st_mtime_ns, stat.st_size))
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


@lru_cache(maxsize=16)
def _open(path: str, version: tuple[int, int, int]) -> pa.ipc.RecordBatchFileReader:
    """An open staged file. Another file under the same name is another ``version``."""
    return pa.ipc.open_file(pa.memory_map(path))


class StageStore:
    """The staged results of one step in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[tuple[int, str], Staged] = {}

    def scan(self, *extra: Path, rows: Sequence[int] | None = None) -> None:
        """Find what earlier runs left, here and in ``extra`` files. What cannot be read is removed.

        Args:
            rows: look for these only; None is all. Files that hold none of them are not opened.
        """
        wanted = None if rows is None else frozenset(rows)
        for path in (*extra, *sorted(self.folder.glob("*.arrow"))):
            if path.parent == self.folder and wanted is not None and not _may_hold(path, wanted):
                continue
            try:
                for staged in read_entries(path):
                    if wanted is None or staged.row in wanted:
                        self._found[staged.row, staged.key] = staged
            except (pa.ArrowInvalid, OSError, ValueError, KeyError):
                if path.parent == self.folder:
                    path.unlink(missing_ok=True)

    def get(self, row: int, key: str) -> Staged | None:
        return self._found.get((row, key))

    def forget_set_aside(self, *, remove: bool = False) -> None:
        """A new run tries set-aside episodes again.

        Args:
            remove: their files too, so that other processes do not find them; what else lies in these is done again.
        """
        if remove:
            gone = {s.path for s in self._found.values() if s.reason is not None and s.path.parent == self.folder}
            for path in gone:
                path.unlink(missing_ok=True)
            self._found = {k: s for k, s in self._found.items() if s.path not in gone}
        self._found = {k: s for k, s in self._found.items() if s.reason is None}

    def add(self, staged: Sequence[Staged]) -> None:
        for s in staged:
            self._found[s.row, s.key] = s


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
    if (there := _whole(path)) is not None:
        return there
    schema = pa.schema([(n, a.type) for n, a in arrays.items()], {_META: json.dumps(entries).encode()})
    with (
        whole_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))
    return [_staged(e, path) for e in entries]


def _whole(path: Path) -> list[Staged] | None:
    """What a process that was thought dead has staged meanwhile: the first result stands, others build on it."""
    try:
        there = list(read_entries(path))
    except (pa.ArrowInvalid, OSError, ValueError, KeyError):
        return None
    return there if all(s.reason is None for s in there) else None


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


def _may_hold(path: Path, rows: frozenset[int]) -> bool:
    """Whether a staged file may hold one of these rows, by its name."""
    first, _, rest = path.name.partition("-")
    last = rest.partition("-")[0]
    if not (first.isdigit() and last.isdigit()):
        return True
    return not rows.isdisjoint(range(int(first), int(last) + 1))


def _entry(s: Staged) -> dict[str, Any]:
    return {
        "row": s.row,
        "key": s.key,
        "batch": s.batch,
        "offset": s.offset,
        "length": s.length,
        "record": s.text,
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
