"""Writes the labelled dataset: the source's files, the label columns, and what is recorded of them."""

from __future__ import annotations

import functools
import json
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from igrft import columns as c
from igrft.dataset.files import EPISODES, INFO, STATS, SUBTASKS, read_json, read_table
from igrft.dataset.language import language_column
from igrft.dataset.links import link_or_copy, link_tree
from igrft.dataset.memory import give_back
from igrft.dataset.parquet import DataWriter, with_pandas_index, write_json, write_table
from igrft.dataset.reader import DatasetReader
from igrft.dataset.statistics import NAMES, aggregate, episode_statistics, stacked_columns

#: What one episode's labels are, by table row: columns by name and the record; None if set aside.
LabelSource = Callable[[int], "tuple[Mapping[str, np.ndarray], Mapping[str, Any]] | None"]

_REWRITTEN = ("data", "meta")
#: Frames labelled and written together; with labels and text they take a KB each in memory, in three batches at a time.
_BATCH_FRAMES = 32768


@dataclass
class LabelStatistics:
    """Statistics of label columns, one row an episode: by column and statistic, float64 [episodes]."""

    columns: list[str]
    episodes: int
    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.columns:
            self.values[name] = {s: np.full(self.episodes, np.nan) for s in NAMES}
            self.values[name]["count"] = np.zeros(self.episodes)

    def put(self, row: int, columns: Mapping[str, np.ndarray]) -> None:
        """Take in an episode's columns, each [T] of its final dtype."""
        for names, values in stacked_columns(columns):
            found = episode_statistics(values)
            for statistic, numbers in found.items():
                for name, number in zip(names, numbers.tolist(), strict=True):
                    self.values[name][statistic][row] = number

    def total(self, name: str) -> dict[str, Any]:
        """The column's entry in ``meta/stats.json``; empty where every episode was set aside."""
        parts = self.values[name]
        counted = parts["count"] > 0
        if not counted.any():
            return {}
        found = aggregate({s: v[counted][:, None] for s, v in parts.items()})
        return {s: v.tolist() for s, v in found.items()}


@dataclass(frozen=True)
class Assembly:
    """All that the labelled dataset consists of.

    Attributes:
        dataset: the source.
        columns: label columns to write, in order.
        vocabulary: rows of ``meta/subtasks.parquet``, or None where no step found subtasks.
        labels: gives an episode's labels.
        set_aside: table rows that count in no statistic.
        take_over: gives TARGET a picture or video of the source as it is.
    """

    dataset: DatasetReader
    columns: list[str]
    vocabulary: list[str] | None
    labels: LabelSource
    set_aside: frozenset[int]
    take_over: Callable[[Path, Path], None] = link_or_copy

    @property
    def written(self) -> list[str]:
        """Label columns that end up in parquet: recorded facts only where the source has none."""
        return [n for n in self.columns if not (n in c.RECORDED_FACTS and n in self.dataset.recorded)]

    def write(self, out: Path, progress: Callable[[int, int], None]) -> None:
        """Write everything to the folder ``out``, which must not exist.

        Args:
            progress: called with (episodes, frames) as they are written.
        """
        out.mkdir(parents=True)
        link_tree(self.dataset.root, out, skip=_REWRITTEN, link=self.take_over)
        ours = {"episodes", "info.json", "stats.json", "igrft.json", "igrft"}
        if self.vocabulary is not None:
            ours.add("subtasks.parquet")
        link_tree(self.dataset.root / "meta", out / "meta", skip=tuple(ours), copy=True)
        statistics = self.label_statistics()
        for relative, rows in self.dataset.data_files:
            self.write_file(relative, rows, out / relative, statistics, progress)
            give_back()
        self._write_episodes(out, statistics)
        self._write_statistics(out, statistics)
        self._write_info(out)
        if self.vocabulary is not None:
            table = pa.table(
                {
                    c.SUBTASK_INDEX: pa.array(np.arange(len(self.vocabulary)), pa.int64()),
                    "subtask": pa.array(self.vocabulary, pa.string()),
                }
            )
            write_table(out / SUBTASKS, with_pandas_index(table, "subtask"))

    # Data files.

    def label_statistics(self) -> LabelStatistics:
        """To be filled as files are written."""
        numeric = [n for n in self.written if n != c.LANGUAGE_PERSISTENT]
        return LabelStatistics(numeric, self.dataset.num_episodes)

    def write_file(
        self,
        relative: Path,
        rows: np.ndarray,
        path: Path,
        statistics: LabelStatistics,
        progress: Callable[[int, int], None],
        frames: int | None = None,
    ) -> int:
        """Write the source's data file ``relative``, which holds the episodes ``rows``, with their labels to ``path``.

        Args:
            frames: stop after about so many, to see how long it takes.

        Returns:
            Frames that were written.
        """
        written = 0
        source = self.dataset.parquet(relative).schema_arrow
        names = [n for n in source.names if n not in self.written] + self.written
        fields = [label_field(n) if n in self.written else source.field(n) for n in names]
        schema = pa.schema(fields, metadata=_metadata(source, self.written))
        with DataWriter(path, schema) as writer, _Background() as background:
            for taken, table in self.dataset.iter_file(relative, rows, frames=_BATCH_FRAMES):
                labelled = self._label_table(taken, table, schema, statistics)
                lengths = self.dataset.lengths[taken]
                background.run(functools.partial(writer.write, labelled, lengths))
                progress(len(taken), int(lengths.sum()))
                written += int(lengths.sum())
                if frames is not None and written >= frames:
                    break
        return written

    def _label_table(
        self, taken: np.ndarray, table: pa.Table, schema: pa.Schema, statistics: LabelStatistics
    ) -> pa.Table:
        lengths = self.dataset.lengths[taken]
        arrays: dict[str, np.ndarray] = {
            n: np.empty(int(lengths.sum()), dtype=c.LABELS[n].dtype) for n in self.written if n != c.LANGUAGE_PERSISTENT
        }
        segments: list[list[Mapping[str, Any]]] = []
        start = 0
        for row, length in zip(taken.tolist(), lengths.tolist(), strict=True):
            found = self.labels(row)
            segments.append(list(found[1].get("subtasks", [])) if found else [])
            for name, values in arrays.items():
                # The cast to the column's dtype happens here and only here.
                values[start : start + length] = found[0][name] if found else c.LABELS[name].unset
            if found and length:
                statistics.put(row, {n: v[start : start + length] for n, v in arrays.items()})
            start += length
        built: dict[str, pa.Array | pa.ChunkedArray] = {n: pa.array(v) for n, v in arrays.items()}
        if c.LANGUAGE_PERSISTENT in self.written:
            built[c.LANGUAGE_PERSISTENT] = language_column(table, lengths, segments)
        columns = [built[n] if n in built else table.column(n) for n in schema.names]
        return pa.table(columns, schema=schema)

    # Metadata.

    def _write_episodes(self, out: Path, statistics: LabelStatistics) -> None:
        row_of = {int(index): row for row, index in enumerate(self.dataset.episode_indices)}
        for path in sorted((self.dataset.root / EPISODES).glob("*/*.parquet")):
            table = read_table(path)
            give_back()
            stale = [n for n in table.column_names if n.startswith("stats/") and n.split("/")[1] in self.columns]
            table = table.drop_columns([n for n in stale if n.split("/")[1] in statistics.values])
            rows = [row_of[i] for i in table.column("episode_index").to_pylist()]
            for name, parts in statistics.values.items():
                for statistic, values in parts.items():
                    kind = pa.int64() if statistic == "count" else pa.float64()
                    flat = pa.array(values[rows].astype(np.int64 if statistic == "count" else np.float64), kind)
                    column = pa.ListArray.from_arrays(pa.array(np.arange(len(rows) + 1), pa.int32()), flat)
                    table = table.append_column(f"stats/{name}/{statistic}", column)
            write_table(out / path.relative_to(self.dataset.root), table.replace_schema_metadata(None))

    def _write_statistics(self, out: Path, statistics: LabelStatistics) -> None:
        path = self.dataset.root / STATS
        totals: dict[str, Any] = read_json(path) if path.is_file() else {}
        earlier = (self.dataset.igrft or {}).get("episodes", {})
        if self.set_aside or any("set_aside" in e for e in earlier.values()):
            totals |= self._without_set_aside(totals)
        for name in statistics.values:
            totals.pop(name, None)
            if total := statistics.total(name):
                totals[name] = total
        write_json(out / STATS, totals)

    def _without_set_aside(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """Statistics of the recorded columns, made again from those of the episodes that count."""
        from igrft.dataset.files import read_episodes

        table = read_episodes(self.dataset.root, statistics=True)
        keep = np.array([row not in self.set_aside for row in range(self.dataset.num_episodes)])
        if not keep.any():
            return {}
        found: dict[str, Any] = {}
        for feature in totals:
            names = {s: f"stats/{feature}/{s}" for s in NAMES if f"stats/{feature}/{s}" in table.column_names}
            if not {"min", "max", "mean", "std", "count"} <= set(names):
                continue
            rows = np.flatnonzero(keep)
            counts = [table.column(names["count"])[r].as_py() for r in rows.tolist()]
            # An episode that an earlier labelling set aside has no statistics of that labelling's columns.
            rows = rows[[bool(n and n[0]) for n in counts]]
            if not len(rows):
                continue
            counted = table.take(pa.array(rows))
            parts = {s: np.array(counted.column(n).to_pylist(), dtype=float) for s, n in names.items()}
            found[feature] = {s: v.tolist() for s, v in aggregate(parts).items()}
        return found

    def _write_info(self, out: Path) -> None:
        info = json.loads(json.dumps(self.dataset.info))
        for name in self.written:
            info["features"].pop(name, None)
            info["features"][name] = c.LABELS[name].feature
        write_json(out / INFO, info)


def label_field(name: str) -> pa.Field:
    """A label column's Arrow field."""
    return pa.field(name, c.arrow_type(name))


def _metadata(schema: pa.Schema, written: list[str]) -> dict[bytes, bytes] | None:
    """The file's metadata: Hugging Face's description of columns, if any, completed by the labels."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    described = json.loads(text)
    features = described.get("info", {}).get("features")
    if features is None:
        return None
    for name in written:
        features.pop(name, None)
        if name != c.LANGUAGE_PERSISTENT:
            features[name] = {"dtype": c.LABELS[name].dtype, "_type": "Value"}
        else:
            # datasets spells JSON columns differently from release to release: let it infer them all.
            return None
    return {b"huggingface": json.dumps(described).encode()}


class _Background:
    """Runs writes in order on one thread: parquet encoding releases the GIL, labelling goes on."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            if self._error is None:
                try:
                    job()
                except BaseException as error:
                    self._error = error

    def run(self, job: Callable[[], None]) -> None:
        if self._error is not None:
            raise self._error
        self._queue.put(job)

    def __enter__(self) -> _Background:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error
