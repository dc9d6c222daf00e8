"""Statistics of the episodes recorded so far, and of the dataset that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from igrft.dataset.files import read_episodes
from igrft.dataset.statistics import aggregate, episode_statistics

_PREFIX = "stats/"
#: By feature and LeRobot's name of the statistic: an array; ``count`` is [1].
Statistics = dict[str, dict[str, np.ndarray]]


def column_statistics(columns: Mapping[str, np.ndarray]) -> Statistics:
    """Statistics of the columns of one episode, each [T] or [T, n], as LeRobot computes them: [n] each."""
    groups: dict[np.dtype, list[str]] = {}
    for name, values in columns.items():
        groups.setdefault(np.result_type(values.dtype, np.float32), []).append(name)
    out: Statistics = {}
    for kind, names in groups.items():
        blocks = [columns[name].reshape(len(columns[name]), -1).T for name in names]
        found = episode_statistics(np.ascontiguousarray(np.concatenate(blocks), dtype=kind))
        at = 0
        for name, block in zip(names, blocks, strict=True):
            part = {statistic: values[at : at + len(block)] for statistic, values in found.items()}
            out[name] = part | {"count": part["count"][:1]}
            at += len(block)
    return {name: out[name] for name in columns}


@dataclass
class DatasetStatistics:
    """Statistics of every episode, in order."""

    episodes: list[Statistics] = field(default_factory=list)

    @classmethod
    def read(cls, root: Path) -> DatasetStatistics:
        """Those in the episodes' table of the dataset at ``root``."""
        table = read_episodes(root, statistics=True)
        return cls([_of_row(table, row) for row in range(table.num_rows)])

    def totals(self) -> dict[str, Any]:
        """What ``meta/stats.json`` holds, by LeRobot's formulas, as nested lists."""
        out: dict[str, Any] = {}
        for feature, first in (self.episodes[0] if self.episodes else {}).items():
            parts = {name: np.stack([e[feature][name] for e in self.episodes]) for name in first}
            out[feature] = {name: value.tolist() for name, value in aggregate(parts).items()}
        return out


def _of_row(table: pa.Table, row: int) -> Statistics:
    out: Statistics = {}
    for name in table.column_names:
        if name.startswith(_PREFIX):
            feature, _, statistic = name.removeprefix(_PREFIX).rpartition("/")
            out.setdefault(feature, {})[statistic] = np.array(table.column(name)[row].as_py())
    return out


def as_row(statistics: Statistics) -> dict[str, pa.Array]:
    """Columns of one row of the episodes' table, in the types that LeRobot writes."""
    row = {}
    for feature, found in statistics.items():
        for statistic, values in found.items():
            kind: pa.DataType = pa.int64() if statistic == "count" else pa.float64()
            for _ in range(values.ndim):
                kind = pa.list_(kind)
            row[f"{_PREFIX}{feature}/{statistic}"] = pa.array([values.tolist()], kind)
    return row
