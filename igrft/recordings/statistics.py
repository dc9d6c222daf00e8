"""Statistics of an episode, quantiles included: by LeRobot's own functions, but for pictures.

LeRobot's v2.1 to v3.0 converter carries over what ``episodes_stats.jsonl`` holds, which in those
versions had no quantiles; v2.0 had none of it. So all of it is computed from what is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from igrft.dataset.statistics import QUANTILE_NAMES, QUANTILES

EpisodeStatistics = dict[str, dict[str, np.ndarray]]
#: Of LeRobot's histograms.
_BINS = 5000
# Of LeRobot's samples: so many of an episode's n rows (n to this power between them), and pictures of at least so
# many pixels a side are thinned to about so many.
_FEWEST, _MOST, _POWER = 100, 10_000, 0.75
_LARGE, _SMALL = 300, 150


def numeric_statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    """LeRobot's statistics of a column.

    Args:
        values: [T] or [T, width], numbers or bools. Rows that are not finite count in nothing.

    Returns:
        min, max, mean, std, count, q01, q10, q50, q90, q99: [width] ([1] for a plain column); ``count`` is [1].
    """
    from lerobot.datasets.compute_stats import get_feature_stats

    if values.dtype.kind == "f":
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            values = values[finite] if finite.any() else np.zeros_like(values[:1])
    return get_feature_stats(values, axis=0, keepdims=values.ndim == 1)


def sampled_rows(length: int) -> list[int]:
    """Rows of an episode from which LeRobot takes the statistics of its pictures; the last is among them.

    LeRobot's rule, held equal to it by a test: asking LeRobot takes seconds to import, and encoding need not wait.
    """
    number = max(min(_FEWEST, length), min(int(length**_POWER), _MOST))
    return np.rint(np.linspace(0, length - 1, number)).astype(int).tolist()


def _thinned(picture: np.ndarray) -> np.ndarray:
    """Every few rows and columns of a picture [H, W, 3], as LeRobot thins it for statistics; see :func:`sampled_rows`.

    Returns:
        a view.
    """
    height, width = picture.shape[:2]
    if max(height, width) < _LARGE:
        return picture
    step = int((width if width > height else height) / _SMALL)
    return picture[::step, ::step]


class PictureCounts:
    """Adds up pictures, one at a time, for their statistics per channel, in [0, 1], as LeRobot defines them.

    Counted by value instead of by LeRobot's function, which sums millions of pixels in float32: on a
    real episode that is 20 times as slow and its mean is off by 1.7 %. Quantiles interpolate in
    LeRobot's histogram of 5,000 bins. A test holds all of it equal to LeRobot's where that is exact.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), dtype=np.int64)
        self._number = 0

    def add(self, picture: np.ndarray) -> None:
        """Count a picture, RGB, uint8 [H, W, 3]; thinned out here as LeRobot does it."""
        small = _thinned(picture)
        for channel in range(3):
            self._counts[channel] += np.bincount(small[..., channel].ravel(), minlength=256)
        self._number += 1

    def statistics(self) -> dict[str, np.ndarray]:
        """As :func:`numeric_statistics`, each float64 [3, 1, 1]; ``count`` is [1]."""
        channels = [_of_counts(c) for c in self._counts]
        stats = {k: np.array([s[k] for s in channels]).reshape(3, 1, 1) / 255.0 for k in channels[0]}
        return {**stats, "count": np.array([self._number])}


def picture_statistics(pictures: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Statistics of pictures, RGB, uint8 [H, W, 3]: see :class:`PictureCounts`."""
    counts = PictureCounts()
    for picture in pictures:
        counts.add(picture)
    return counts.statistics()


def _of_counts(counts: np.ndarray) -> dict[str, float]:
    """Statistics of uint8 values, given how often each occurs, int64 [256]."""
    values = np.arange(256, dtype=np.float64)
    total = int(counts.sum())
    mean = float(values @ counts / total)
    low, high = np.flatnonzero(counts)[[0, -1]]
    edges = np.linspace(low - 1e-10, high + 1e-10, _BINS + 1)
    upto = np.cumsum(np.histogram(values, bins=edges, weights=counts)[0])
    out = {
        "min": float(low),
        "max": float(high),
        "mean": mean,
        "std": float(np.sqrt(np.square(values - mean) @ counts / total)),
    }
    for quantile, name in zip(QUANTILES, QUANTILE_NAMES, strict=True):
        bin_ = int(np.searchsorted(upto, quantile * total))
        before = upto[bin_ - 1] if bin_ else 0.0
        share = (quantile * total - before) / (upto[bin_] - before)
        out[name] = float(low) if bin_ == 0 else float(edges[bin_] + share * (edges[bin_ + 1] - edges[bin_]))
    return out


def as_json(stats: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Nested lists, as ``episodes_stats.jsonl`` holds them."""
    return {name: {k: np.asarray(v).tolist() for k, v in feature.items()} for name, feature in stats.items()}
