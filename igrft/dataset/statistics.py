"""Statistics of label columns, equal to LeRobot's and computed over many columns at once.

LeRobot estimates quantiles from a histogram of 5,000 bins per column and episode. The same numbers
follow from sorted values: only the bin that a quantile falls into has to be counted. A test holds
every figure equal to ``lerobot.datasets.compute_stats``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
QUANTILE_NAMES = tuple(f"q{round(q * 100):02d}" for q in QUANTILES)
NAMES = ("min", "max", "mean", "std", "count", *QUANTILE_NAMES)
_BINS = 5000


def episode_statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of the columns of one episode.

    Args:
        values: float32 or float64 [columns, T], C-contiguous, T at least 1.

    Returns:
        By LeRobot's name of the statistic: [columns] (``count``: int64, T throughout).
    """
    width, length = values.shape
    ordered = np.sort(values, axis=1)
    mean = values.mean(axis=1)
    out = {
        "min": ordered[:, 0],
        "max": ordered[:, -1],
        "mean": mean,
        "std": np.sqrt(np.maximum(0, np.square(values).mean(axis=1) - mean**2)),
        "count": np.full(width, length, dtype=np.int64),
    }
    # LeRobot has no histogram for a single row; every quantile is the mean.
    quantiles = _histogram_quantiles(ordered) if length > 1 else np.repeat(mean[:, None], len(QUANTILES), axis=1)
    return out | {name: quantiles[:, i] for i, name in enumerate(QUANTILE_NAMES)}


def _histogram_quantiles(ordered: np.ndarray) -> np.ndarray:
    """[columns, quantiles] of ``ordered`` [columns, T], sorted along T, as LeRobot's histogram has them."""
    length = ordered.shape[1]
    low, high = ordered[:, :1], ordered[:, -1:]
    start, stop = low - 1e-10, high + 1e-10
    step = (stop - start) / np.asarray(_BINS, dtype=ordered.dtype)

    def edge(number: np.ndarray) -> np.ndarray:
        return np.where(number >= _BINS, stop, number.astype(ordered.dtype) * step + start)

    # The bin in which the cumulative count reaches the target is that of the k-th smallest value.
    targets = np.array(QUANTILES) * length
    picked = ordered[:, np.ceil(targets).astype(np.int64).clip(1, length) - 1]
    number = ((picked - start) / np.where(step > 0, step, 1)).astype(np.int64).clip(0, _BINS - 1)
    # Rounding may put a value one bin off; the edges decide, as they do in numpy.histogram.
    number -= (picked < edge(number)) & (number > 0)
    number += (picked >= edge(number + 1)) & (number < _BINS - 1)
    lower, upper = edge(number), edge(number + 1)
    before, upto = np.empty_like(number), np.empty_like(number)
    for i, column in enumerate(ordered):
        before[i] = column.searchsorted(lower[i])
        upto[i] = column.searchsorted(upper[i])
    inside = np.where(number == _BINS - 1, length, upto) - before
    found = lower + (targets - before) / np.maximum(inside, 1) * (upper - lower)
    return np.where(high == low, low, np.where(number == 0, start, found))


def aggregate(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Statistics of the dataset from those of its episodes, by LeRobot's formulas.

    Args:
        parts: by name, [episodes, ...]; ``count`` is [episodes, 1].

    Returns:
        By name, [...]; quantiles are the count-weighted means of the episodes'.
    """
    counts = np.asarray(parts["count"], dtype=np.float64)
    total = counts.sum(axis=0)
    means = np.asarray(parts["mean"], dtype=np.float64)
    weight = counts.reshape(len(counts), *([1] * (means.ndim - 1)))
    mean = (means * weight).sum(axis=0) / total
    variance = ((np.square(np.asarray(parts["std"], dtype=np.float64)) + (means - mean) ** 2) * weight).sum(
        axis=0
    ) / total
    out = {
        "min": np.min(parts["min"], axis=0),
        "max": np.max(parts["max"], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": total.astype(np.int64),
    }
    for name in parts:
        if name.startswith("q") and name[1:].isdigit():
            out[name] = (np.asarray(parts[name], dtype=np.float64) * weight).sum(axis=0) / total
    return out


def stacked_columns(columns: Mapping[str, np.ndarray]) -> list[tuple[Sequence[str], np.ndarray]]:
    """Group the label columns of an episode by the dtype LeRobot computes in: float32, or float64 for int64."""
    groups: dict[np.dtype, list[str]] = {}
    for name, values in columns.items():
        groups.setdefault(np.result_type(values.dtype, np.float32), []).append(name)
    return [(names, np.stack([columns[n] for n in names]).astype(kind, copy=False)) for kind, names in groups.items()]
