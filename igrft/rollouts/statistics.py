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
#: By feature and LeRobot's name of the statistic.
Statistics = dict[str, dict[str, np.ndarray]]


def column_statistics(columns: Mapping[str, np.ndarray]) -> Statistics:
    """Statistics of the columns of one episode, each [T] or [T, n], by LeRobot's formulas: [n], ``count`` [1]."""
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


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics of every episode, in order.

    Attributes:
        parts: by feature and statistic, [episodes, ...]; empty where there is no episode.
    """

    parts: Statistics = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> DatasetStatistics:
        """Those in the episodes' table of the dataset at ``root``."""
        table = read_episodes(root, statistics=True).combine_chunks()
        parts: Statistics = {}
        for name in table.column_names:
            if name.startswith(_PREFIX):
                feature, _, statistic = name.removeprefix(_PREFIX).rpartition("/")
                parts.setdefault(feature, {})[statistic] = np.array(table.column(name).to_pylist())
        return cls(parts)

    def and_one(self, episode: Statistics) -> DatasetStatistics:
        """With another episode's at the end."""
        new = {feature: {s: v[None] for s, v in found.items()} for feature, found in episode.items()}
        if not self.parts:
            return DatasetStatistics(new)
        joined = {
            feature: {s: np.concatenate([held, new[feature][s]]) for s, held in found.items()}
            for feature, found in self.parts.items()
        }
        return DatasetStatistics(joined)

    def totals(self) -> dict[str, Any]:
        """What ``meta/stats.json`` holds, by LeRobot's formulas, as nested lists."""
        return {
            feature: {statistic: value.tolist() for statistic, value in aggregate(parts).items()}
            for feature, parts in self.parts.items()
        }


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
