"""Success rates and their differences, with intervals. Numpy alone (quantiles of t: SciPy).

Rates of one checkpoint have Wilson's interval. Two checkpoints on the same episode seeds are compared pair by pair;
where several runs (tasks, training seeds) are put together, the runs are what varies, not the episodes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

CONFIDENCE = 0.95

#: Lower and upper end.
Interval = tuple[float, float]


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion (1927), without continuity correction.

    Args:
        successes: of ``n`` independent episodes, 0 <= successes <= n.
        confidence: in (0, 1).

    Returns:
        (low, high), within [0, 1]; (0, 1) where n is 0: nothing is known.

    Raises:
        ValueError: counts or confidence that cannot be.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in [0, {n}], got {successes}")
    if n == 0:
        return 0.0, 1.0
    z2 = _z(confidence) ** 2
    p = successes / n
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At the ends the formula is exact, and rounding is not.
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == n else middle + half)


@dataclass(frozen=True)
class PairCounts:
    """Episodes of two checkpoints on the same seeds.

    Attributes:
        both, first, second, neither: how many succeeded with both, with the first alone, the second alone, none.
    """

    both: int
    first: int
    second: int
    neither: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> PairCounts:
        """Count pairs: bool [n] each, in the same order of seeds."""
        a, b = _pairs(first, second)
        return cls(int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))

    @property
    def n(self) -> int:
        return self.both + self.first + self.second + self.neither


def newcombe(counts: PairCounts, confidence: float = CONFIDENCE) -> Interval:
    """Interval of rate(first) - rate(second) of paired episodes: Newcombe (1998), method 10.

    Wilson's intervals of the two rates, put together with their correlation. Never empty and never outside
    [-1, 1], also where no pair differs.

    Returns:
        (low, high); (-1, 1) without pairs.
    """
    n = counts.n
    if n == 0:
        return -1.0, 1.0
    a, b = counts.both + counts.first, counts.both + counts.second
    (l1, u1), (l2, u2) = wilson(a, n, confidence), wilson(b, n, confidence)
    p1, p2 = a / n, b / n
    phi = _phi(counts)

    def distance(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    low = p1 - p2 - distance(p1 - l1, u2 - p2)
    high = p1 - p2 + distance(u1 - p1, p2 - l2)
    return max(-1.0, low), min(1.0, high)


def _phi(counts: PairCounts) -> float:
    """Correlation of the pairs, with Newcombe's continuity correction; 0 where a margin is empty."""
    a, b, n = counts.both + counts.first, counts.both + counts.second, counts.n
    margins = a * (n - a) * b * (n - b)
    if margins == 0:
        return 0.0
    product = counts.both * counts.neither - counts.first * counts.second
    corrected = product if product < 0 else max(0.0, product - n / 2)
    return corrected / math.sqrt(margins)


def mcnemar(counts: PairCounts) -> float:
    """Exact two-sided p-value that both rates are equal: of the pairs that differ, half go either way.

    Holds for these two checkpoints on seeds like these; it knows nothing of other training seeds.
    """
    n, least = counts.first + counts.second, min(counts.first, counts.second)
    below = sum(math.comb(n, k) for k in range(least + 1))
    return float(min(1.0, 2 * below / 2**n))


def clustered_interval(
    values: np.ndarray, runs: np.ndarray, starts: np.ndarray | None = None, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of the mean over runs of each run's mean, where runs differ and may share their starts.

    The variance is the cluster-robust one over runs (of equal weight), plus what episodes from the same start have in
    common across runs (two-way clustering: Cameron, Gelbach and Miller, 2011), and never less than the first
    alone; the quantile is Student's with runs - 1 degrees of freedom.

    Args:
        values: of single episodes, float [n].
        runs: a label of each one's run (task, training seed), [n]; at least two runs.
        starts: a label of each one's start (task, episode seed), [n]; None: no run shares one with another.

    Raises:
        ValueError: one run alone, or shapes that differ.
    """
    from scipy.stats import t

    v = np.asarray(values, dtype=np.float64)
    run, number = _groups(runs, v.shape)
    if number < 2:
        raise ValueError("an interval over runs takes at least two runs")
    counts = np.bincount(run)
    mean = float((np.bincount(run, v) / counts).mean())
    part = (v - mean) / (number * counts[run])
    over_runs = float((np.bincount(run, part) ** 2).sum()) * number / (number - 1)
    shared = 0.0
    if starts is not None:
        start, many = _groups(starts, v.shape)
        cell, _ = _groups(run * many + start, v.shape)
        over_starts = float((np.bincount(start, part) ** 2).sum()) * many / max(many - 1, 1)
        shared = over_starts - float((np.bincount(cell, part) ** 2).sum())
    half = float(t.ppf(0.5 + confidence / 2, number - 1)) * math.sqrt(over_runs + max(0.0, shared))
    return mean - half, mean + half


def _groups(labels: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Number of each label in sorted order, int [n], and how many there are."""
    found = np.asarray(labels)
    if found.shape != shape:
        raise ValueError(f"labels of runs and starts must be {shape}, got {found.shape}")
    unique, at = np.unique(found, return_inverse=True)
    return at.reshape(-1), len(unique)


@dataclass(frozen=True)
class Comparison:
    """rate(first) - rate(second) of two checkpoints (or sets of runs) on the same episode seeds.

    Attributes:
        difference: mean over runs of each run's difference; every run counts the same.
        low, high: its interval.
        method: ``runs``: :func:`clustered_interval`, and never narrower than the episodes alone allow; ``episodes``:
            one run, Newcombe's interval, which speaks of these two checkpoints alone.
        runs: pairs of checkpoints put together.
        episodes: pairs of episodes.
        within_low, within_high: Newcombe's interval over all pairs: what other episodes of these very checkpoints
            would give.
        mcnemar: exact p-value over all pairs, of these very checkpoints.
        counts: pairs by outcome.
    """

    difference: float
    low: float
    high: float
    method: str
    runs: int
    episodes: int
    within_low: float
    within_high: float
    mcnemar: float
    counts: PairCounts

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    runs: np.ndarray,
    starts: np.ndarray | None = None,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compare two checkpoints on the same seeds, clustered by run (ours: the paper gives no intervals).

    Episodes of one run share its weights, and runs of one task share their starts: neither are independent
    witnesses of a method. With 12 runs :func:`clustered_interval` holds what it promises, where a bootstrap over the
    runs is too narrow (``tests/evaluation/test_coverage.py`` measures both). It is widened to Newcombe's
    interval over the episodes where that is wider: runs may agree by chance. It speaks of new training seeds and new
    starts on these tasks; of other tasks, four say little.

    Args:
        first, second: success, bool [n] each; entry i of both is the same run and episode seed.
        runs: a label of the run (task, training seed) of each pair, [n].
        starts: a label of the start (task, episode seed) of each pair, [n]; None: no run shares one with another.

    Raises:
        ValueError: no pairs, or shapes that differ.
    """
    a, b = _pairs(first, second)
    if not len(a):
        raise ValueError("there are no pairs of episodes to compare")
    counts = PairCounts.of(a, b)
    within = newcombe(counts, confidence)
    each = a.astype(np.float64) - b
    differences = run_means(each, runs)
    low, high = within
    if len(differences) > 1:
        ends = clustered_interval(each, runs, starts, confidence)
        low, high = max(-1.0, min(low, ends[0])), min(1.0, max(high, ends[1]))
    return Comparison(
        difference=float(differences.mean()),
        low=low,
        high=high,
        method="runs" if len(differences) > 1 else "episodes",
        runs=len(differences),
        episodes=len(a),
        within_low=within[0],
        within_high=within[1],
        mcnemar=mcnemar(counts),
        counts=counts,
    )


def run_means(values: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Mean of each run's values, float64 [G], by the runs' sorted labels.

    Args:
        values: float [n]. runs: labels, [n].
    """
    v = np.asarray(values, dtype=np.float64)
    at, _ = _groups(runs, v.shape)
    return np.bincount(at, v) / np.bincount(at)


def progress(completed: Sequence[int] | np.ndarray, subtasks: Sequence[int] | np.ndarray) -> float:
    """Table III: the mean over episodes of the share of subtasks completed, in [0, 1].

    Args:
        completed: of each episode, int [n]. subtasks: K of each episode, int [n], at least 1.

    Raises:
        ValueError: no episodes, or counts that cannot be.
    """
    done, total = np.asarray(completed, dtype=np.float64), np.asarray(subtasks, dtype=np.float64)
    if not len(done) or done.shape != total.shape:
        raise ValueError("progress takes the completed subtasks of at least one episode, and as many totals")
    if not ((total >= 1) & (done >= 0) & (done <= total)).all():
        raise ValueError("completed subtasks must lie between 0 and the episode's number of subtasks")
    return float((done / total).mean())


def _pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"both sides of a pair must be [n], got {a.shape} and {b.shape}")
    return a, b


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
