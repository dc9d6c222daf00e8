"""meta/stats.json and the stats/ columns of the episodes' table, against the columns themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from igrft import columns as c
from igrft.dataset.files import EPISODES, STATS, read_json
from igrft.errors import EpisodeError, IgrftError
from igrft.reports.checks.findings import Context
from igrft.reports.checks.part import Part

_NEEDED = ("min", "max", "mean", "std", "count")
_QUANTILES = ("q01", "q10", "q50", "q90", "q99")


@dataclass
class Running:
    """Moments of a column over the frames seen so far; each [width]."""

    count: int
    low: np.ndarray
    high: np.ndarray
    total: np.ndarray

    def add(self, values: np.ndarray) -> None:
        """Take in frames, float64 [n, width], n at least 1."""
        self.count += len(values)
        self.low = np.minimum(self.low, values.min(axis=0))
        self.high = np.maximum(self.high, values.max(axis=0))
        self.total = self.total + values.sum(axis=0)


class StatisticsCheck:
    """Gathers the moments of all numeric columns as the rows go by; compares them at the end."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.running: dict[str, Running] = {}
        self.counted = 0
        self.without_quantiles: list[str] = []

    def add(self, part: Part) -> None:
        """Take in some episodes; those set aside count in no statistic."""
        aside = np.array([int(e) in self.context.aside for e in part.episodes], dtype=bool)
        keep = part.spread(~aside)
        self.counted += int(keep.sum())
        if not keep.any():
            return
        for name in part.table.column_names:
            shape = self.context.dataset.features[name].get("shape") or ()
            if self.context.dataset.features[name].get("dtype") in ("string", "language") or len(shape) > 1:
                continue
            try:
                values = part.values(name)
            except EpisodeError:
                continue  # widths differ: already said
            if values.dtype.kind not in "fiub":
                continue
            values = (values if keep.all() else values[keep]).astype(np.float64).reshape(int(keep.sum()), -1)
            if name not in self.running:
                inf = np.full(values.shape[1], np.inf)
                self.running[name] = Running(0, inf, -inf, np.zeros(values.shape[1]))
            self.running[name].add(values)

    def finish(self) -> None:
        """Compare with what is written."""
        context = self.context
        path = context.dataset.root / STATS
        try:
            written = read_json(path)
        except IgrftError as error:
            context.error("statistics", f"{error}; convert or label again")
            return
        for name, feature in context.dataset.features.items():
            if feature.get("dtype") in ("string", "language"):
                continue
            if name in c.LABELS and not self.counted:
                continue  # every episode was set aside
            self._one(name, written.get(name))
        if self.without_quantiles:
            names = ", ".join(self.without_quantiles)
            context.warn(
                "statistics",
                f"{STATS} has no quantiles of {names}; pi0.5 normalises by them: igrft convert writes them",
            )
        for name in written:
            if name not in context.dataset.features:
                context.warn("statistics", f"{STATS} has statistics of {name!r}, which no column holds; remove them")
        _episode_columns(context)

    def _one(self, name: str, said: dict[str, Any] | None) -> None:
        context = self.context
        lost = [k for k in _NEEDED if k not in (said or {})]
        if said is None or lost:
            what = f"nothing of {name!r}" if said is None else f"no {', '.join(lost)} of {name!r}"
            context.error("statistics", f"{STATS} has {what}, which training normalises by; convert or label again")
            return
        if any(q not in said for q in _QUANTILES):
            self.without_quantiles.append(name)
        if name not in self.running:
            return
        problem = _disagreement(self.running[name], said)
        if problem:
            message = f"{STATS}: {problem} of {name!r}; the statistics are stale: convert or label again"
            context.error("statistics", message) if name in c.LABELS else context.warn("statistics", message)


def _disagreement(found: Running, said: dict[str, Any]) -> str | None:
    """In words, the first statistic that is not what the frames give, or None."""
    mean = found.total / max(found.count, 1)
    spread = np.maximum(found.high - found.low, 0)
    for key, value, tolerance in (
        ("count", np.array([found.count]), np.array([0.0])),
        ("min", found.low, 1e-5 * np.maximum(1.0, np.abs(found.low))),
        ("max", found.high, 1e-5 * np.maximum(1.0, np.abs(found.high))),
        ("mean", mean, 1e-3 * spread + 1e-5 * np.maximum(1.0, np.abs(mean))),
    ):
        try:
            held = np.asarray(said[key], dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            return f"{key} is not a list of numbers"
        if held.shape != value.shape:
            return f"{key} has {held.size} numbers where the column has {value.size}"
        wrong = ~(np.abs(held - value) <= tolerance)
        # NaN in the column itself is another check's finding.
        wrong &= np.isfinite(value)
        if wrong.any():
            at = int(np.argmax(wrong))
            return f"{key}[{at}] is {held[at]:.6g} where the frames give {value[at]:.6g}"
    return None


def _episode_columns(context: Context) -> None:
    """Every column igrft wrote has its stats/ columns, whose counts are the lengths (0 where set aside)."""
    labels = [n for n in c.LABELS if context.made(n) and c.LABELS[n].dtype != "language"]
    told: set[str] = set()
    lengths = dict(zip(context.dataset.episode_indices.tolist(), context.dataset.lengths.tolist(), strict=True))
    for path in sorted((context.dataset.root / EPISODES).glob("*/*.parquet")):
        names = set(pq.read_schema(path).names)
        for name in labels:
            lost = [k for k in (*_NEEDED, *_QUANTILES) if f"stats/{name}/{k}" not in names]
            if lost and name not in told:
                told.add(name)
                context.error(
                    "statistics", f"{EPISODES} has no column 'stats/{name}/{lost[0]}'; label the dataset again"
                )
        held = [n for n in labels if f"stats/{n}/count" in names]
        table = pq.read_table(path, columns=["episode_index", *(f"stats/{n}/count" for n in held)])
        episodes = table.column("episode_index").to_pylist()
        for name in held:
            for episode, count in zip(episodes, table.column(f"stats/{name}/count").to_pylist(), strict=True):
                counted = int(np.sum(count)) if count else 0
                expected = 0 if episode in context.aside else lengths.get(episode, 0)
                if counted != expected:
                    context.error(
                        "statistics",
                        f"{EPISODES}: stats/{name}/count is {counted}, expected {expected}; label the dataset again",
                        int(episode),
                    )
