"""The figures behind the page of a run: arrays in, numbers out. NaN stands for "not known" and counts nowhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from igrft.rewards.idle import idle_frames

#: A reference that varies less than this has no variance to explain.
_NO_VARIANCE = 1e-12


def r_squared(predicted: np.ndarray, reference: np.ndarray) -> float | None:
    """Coefficient of determination: 1 - sum (y - p)^2 / sum (y - mean y)^2, at most 1.

    0 is as good as the constant mean of the reference, below 0 is worse.

    Args:
        predicted, reference: float [n]; pairs with NaN are left out.

    Returns:
        None where fewer than two pairs are left, or the reference does not vary.
    """
    p, y = _pairs(predicted, reference)
    if len(y) < 2:
        return None
    spread = float(((y - y.mean()) ** 2).sum())
    if spread <= _NO_VARIANCE * len(y):
        return None
    return 1.0 - float(((y - p) ** 2).sum()) / spread


def precision_recall(
    probability: np.ndarray, label: np.ndarray, threshold: float = 0.5
) -> tuple[float | None, float | None]:
    """Precision and recall of ``probability > threshold`` against labels.

    Args:
        probability: float [n].
        label: 0 or 1, float [n]; pairs with NaN are left out.

    Returns:
        Precision is None where nothing is predicted, recall where nothing is labelled.
    """
    p, y = _pairs(probability, label)
    said, true = p > threshold, y > 0.5
    hits = int((said & true).sum())
    precision = hits / int(said.sum()) if said.any() else None
    recall = hits / int(true.sum()) if true.any() else None
    return precision, recall


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same probability: their mean, the observed share of the label, their number."""

    predicted: float
    observed: float
    count: int


def calibration(probability: np.ndarray, label: np.ndarray, bins: int = 10) -> list[Bin]:
    """Predicted against observed frequency in ``bins`` equal parts of [0, 1]; empty ones are left out.

    Args:
        probability: float [n], in [0, 1].
        label: 0 or 1, float [n]; pairs with NaN are left out.
    """
    p, y = _pairs(probability, label)
    at = np.clip((p * bins).astype(np.int64), 0, bins - 1)
    return [Bin(float(p[at == i].mean()), float(y[at == i].mean()), int((at == i).sum())) for i in np.unique(at)]


def calibration_error(found: list[Bin]) -> float | None:
    """Mean of |predicted - observed|, weighted by count (the expected calibration error); None without a bin."""
    total = sum(b.count for b in found)
    return sum(b.count * abs(b.predicted - b.observed) for b in found) / total if total else None


@dataclass(frozen=True)
class Group:
    """Values whose key lies in [low, high]: how many, their mean, and the share above 0."""

    low: float
    high: float
    count: int
    mean: float
    positive: float


def by_quantile(key: np.ndarray, values: np.ndarray, groups: int = 10) -> list[Group]:
    """Values grouped by quantiles of their key: ten groups are its deciles.

    Equal keys stay together, so there are fewer groups where many are equal.

    Args:
        key, values: float [n]; pairs with NaN are left out.
    """
    k, v = _pairs(key, values)
    if not len(k):
        return []
    edges = np.quantile(k, np.linspace(0.0, 1.0, groups + 1)[1:-1])
    at = np.searchsorted(edges, k, side="left")
    return [summary(k[at == i], v[at == i]) for i in np.unique(at)]


def summary(key: np.ndarray, values: np.ndarray) -> Group:
    """One group of all the values: float [n], n >= 1, finite."""
    return Group(float(key.min()), float(key.max()), len(values), float(values.mean()), float((values > 0).mean()))


def idle(episode: np.ndarray, motion: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Samples that stand still: :func:`igrft.rewards.idle.idle_frames` of each episode's samples, bool [n].

    Args:
        episode: a key of the sample's episode, int [n].
        motion: float [n], >= 0; NaN is never idle, and counts in no median.
        share: of the median of the episode, at or below which a sample is idle.
    """
    out = np.zeros(len(motion), dtype=bool)
    known = np.flatnonzero(np.isfinite(motion))
    order = known[np.argsort(episode[known], kind="stable")]
    starts = np.flatnonzero(np.diff(episode[order])) + 1
    for at in np.split(order, starts):
        out[at] = idle_frames(motion[at], share)
    return out


@dataclass(frozen=True)
class EpisodeShares:
    """Per episode of a dataset, arrays [E]: samples seen, share with positive advantage, mean advantage."""

    dataset: np.ndarray
    episode: np.ndarray
    count: np.ndarray
    positive: np.ndarray
    mean: np.ndarray


def by_episode(dataset: np.ndarray, episode: np.ndarray, values: np.ndarray) -> EpisodeShares:
    """Values grouped by (dataset, episode), in that order; NaN counts nowhere.

    Args:
        dataset, episode: int [n].
        values: float [n].
    """
    good = np.isfinite(values)
    keys = np.stack([dataset[good], episode[good]], axis=1).astype(np.int64).reshape(-1, 2)
    v = values[good].astype(np.float64)
    unique, at = np.unique(keys, axis=0, return_inverse=True)
    at = at.reshape(-1)
    count = np.bincount(at, minlength=len(unique))
    least = np.maximum(count, 1)
    return EpisodeShares(
        dataset=unique[:, 0],
        episode=unique[:, 1],
        count=count,
        positive=np.bincount(at, v > 0, len(unique)) / least,
        mean=np.bincount(at, v, len(unique)) / least,
    )


def phase_edges(steps: np.ndarray, most: int = 24) -> np.ndarray:
    """Edges of up to ``most`` equal stretches of training, float [phases + 1]: phase i is (edge i, edge i + 1].

    Args:
        steps: of the samples, int [n], n >= 1.
    """
    first, last = int(steps.min()), int(steps.max())
    phases = max(1, min(most, last - first + 1))
    return np.linspace(first - 1, last, phases + 1)


def phase_histogram(
    steps: np.ndarray, values: np.ndarray, step_edges: np.ndarray, value_edges: np.ndarray
) -> np.ndarray:
    """Share of each phase's values by bin, float64 [phases, bins]; a phase without values is 0 throughout.

    What lies outside the bins counts in the outermost.

    Args:
        steps: int [n]; values: float [n], NaN left out.
        step_edges: of :func:`phase_edges`. value_edges: float [bins + 1], ascending.
    """
    good = np.isfinite(values)
    inside = np.clip(values[good], value_edges[0], value_edges[-1])
    row = np.clip(np.searchsorted(step_edges, steps[good], side="left") - 1, 0, len(step_edges) - 2)
    column = np.clip(np.searchsorted(value_edges, inside, side="right") - 1, 0, len(value_edges) - 2)
    bins = len(value_edges) - 1
    counts = np.bincount(row * bins + column, minlength=(len(step_edges) - 1) * bins).reshape(-1, bins)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def phase_median(steps: np.ndarray, values: np.ndarray, step_edges: np.ndarray) -> np.ndarray:
    """Median of each phase's values, float64 [phases]; NaN where there are none."""
    good = np.isfinite(values)
    row = np.clip(np.searchsorted(step_edges, steps[good], side="left") - 1, 0, len(step_edges) - 2)
    held = values[good].astype(np.float64)
    return np.array([np.median(held[row == i]) if (row == i).any() else np.nan for i in range(len(step_edges) - 1)])


def beta_for_clipping(advantages: np.ndarray, limit: float, share: float) -> float | None:
    """The temperature at which ``share`` of the weights exp(A / beta) reach ``limit``.

    Args:
        advantages: float [n]; NaN left out.
        limit: upper clip of the weights, > 1.

    Returns:
        None where no temperature does: that quantile of the advantages is not positive.
    """
    held = advantages[np.isfinite(advantages)]
    if not len(held) or limit <= 1:
        return None
    high = float(np.quantile(held, 1.0 - share))
    return high / math.log(limit) if high > 0 else None


def moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over ``width`` values (fewer at the ends), float64 [n]; NaN counts nowhere.

    NaN where a window holds nothing.
    """
    v = np.asarray(values, dtype=np.float64)
    if width <= 1 or not len(v):
        return v.copy()
    good = np.isfinite(v)
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, v, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    at = np.arange(len(v))
    low, high = np.maximum(at - (width - 1) // 2, 0), np.minimum(at + width // 2 + 1, len(v))
    number = counts[high] - counts[low]
    return np.where(number > 0, (sums[high] - sums[low]) / np.maximum(number, 1), np.nan)


def mean(values: np.ndarray) -> float | None:
    """The mean of what is finite, or None where nothing is."""
    held = values[np.isfinite(values)]
    return float(held.mean()) if len(held) else None


def _pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    good = np.isfinite(a) & np.isfinite(b)
    return a[good], b[good]
