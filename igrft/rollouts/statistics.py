"""Statistics of the episodes recorded so far, and of the dataset that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from igrft.dataset.files import read_episodes
from igrft.dataset.statistics import aggregate

_PREFIX = "stats/"


@dataclass
class EpisodeStatistics:
    """By episode, feature and LeRobot's name of the statistic: an array, ``count`` of shape [1]."""

    episodes: list[dict[str, dict[str, np.ndarray]]] = field(default_factory=list)

    @classmethod
    def read(cls, root: Path) -> EpisodeStatistics:
        """Those in the episodes' table of the dataset at ``root``."""
        table = read_episodes(root, statistics=True)
        return cls([row_statistics(table, row) for row in range(table.num_rows)])

    def totals(self) -> dict[str, Any]:
        """What ``meta/stats.json`` holds, by LeRobot's formulas, as nested lists."""
        if not self.episodes:
            return {}
        out: dict[str, Any] = {}
        for feature, first in self.episodes[0].items():
            parts = {name: np.stack([e[feature][name] for e in self.episodes]) for name in first}
            out[feature] = {name: value.tolist() for name, value in aggregate(parts).items()}
        return out


def row_statistics(table: pa.Table, row: int) -> dict[str, dict[str, np.ndarray]]:
    """Statistics in one row of an episodes' table."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for name in table.column_names:
        if name.startswith(_PREFIX):
            feature, _, statistic = name.removeprefix(_PREFIX).rpartition("/")
            out.setdefault(feature, {})[statistic] = np.array(table.column(name)[row].as_py())
    return out


def with_statistics(table: pa.Table, feature: str, values: Mapping[str, np.ndarray]) -> pa.Table:
    """An episodes' table of one row with a feature's statistics replaced, in the types they had."""
    for statistic, value in values.items():
        name = f"{_PREFIX}{feature}/{statistic}"
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array([value.tolist()], table.schema.field(name).type))
    return table
