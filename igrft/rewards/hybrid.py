"""The hybrid dense reward (paper, section IV-B, Eq. 4-7).

Frames are f = 0 ... T-1; the paper's step is t = f + 1. The reward at frame f is the one earned by
the action taken there, on the way from f to f + 1. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

Normalise = Literal["joint", "each"]


def trajectory_rewards(length: int, success: bool) -> np.ndarray:
    """Eq. 4: 1/T on every frame of a success, else 0.

    Args:
        length: T, at least 1.

    Returns:
        float64 [T], in [0, 1], summing to 1 on a success.
    """
    _check_length(length)
    return np.full(length, 1.0 / length if success else 0.0)


def potential(
    rho: np.ndarray,
    ends: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    sharpness: float,
) -> np.ndarray:
    """Eq. 5 without C: the weighted mixture of sigmoids at progress ``rho``.

    Args:
        rho: progress, float [n], in [0, 1].
        ends: completions k_i = end_i / T of the done subtasks, float [K].
        weights: w_i, float [K].
        sharpness: epsilon, in parts of the episode, > 0.

    Returns:
        float64 [n], never falling.
    """
    k = np.asarray(ends, dtype=np.float64)
    z = (np.asarray(rho, dtype=np.float64)[:, None] - k[None, :]) / sharpness
    return _sigmoid(z) @ np.asarray(weights, dtype=np.float64)


def subtask_rewards(
    length: int,
    ends: Sequence[int] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    done: Sequence[bool] | np.ndarray | None = None,
    *,
    sharpness: float = 0.02,
    normalise: Normalise = "joint",
) -> np.ndarray:
    """Eq. 5 and 6: r_sub(f) = Phi((f+1)/T) - Phi(f/T), paid by done subtasks alone.

    The last subtask ends at rho = 1, where half of its sigmoid is cut off: under the paper's single
    constant C (``joint``) it pays about half of the others. ``each`` (ours) scales every sigmoid so
    that it pays exactly its weight.

    Args:
        length: T, at least 1.
        ends: end frames (exclusive) of the K listed subtasks, int [K], in [0, T].
        weights: w_i, float [K], not negative; they sum to 1 over the listed subtasks.
        done: bool [K]; None means all done.
        sharpness: epsilon, in parts of the episode, > 0 (ours: 0.02; the paper gives none).
        normalise: ``joint`` or ``each``.

    Returns:
        float64 [T], not negative, summing to the weights of the done subtasks.

    Raises:
        ValueError: shapes that differ, a sharpness that is not positive, an unknown ``normalise``.
    """
    _check_length(length)
    if not sharpness > 0:
        raise ValueError(f"sharpness must be positive, got {sharpness}")
    if normalise not in ("joint", "each"):
        raise ValueError(f"normalise must be 'joint' or 'each', got {normalise!r}")
    e = np.asarray(ends, dtype=np.float64)
    w = np.asarray(weights, dtype=np.float64)
    d = np.ones(len(e), dtype=bool) if done is None else np.asarray(done, dtype=bool)
    if not e.shape == w.shape == d.shape:
        raise ValueError(f"ends, weights and done differ in shape: {e.shape}, {w.shape}, {d.shape}")
    paid = d & (w > 0)
    if not paid.any():
        return np.zeros(length)
    e, w = e[paid], w[paid]
    grid = np.arange(length + 1, dtype=np.float64) / length
    k = e / length
    if normalise == "each":
        limits = _sigmoid((np.array([[0.0], [1.0]]) - k[None, :]) / sharpness)
        w = w / (limits[1] - limits[0])
        return np.diff(potential(grid, k, w, sharpness))
    phi = potential(grid, k, w, sharpness)
    return np.diff(phi) * (w.sum() / (phi[-1] - phi[0]))


def combine(
    trajectory: np.ndarray,
    subtask: np.ndarray,
    trajectory_weight: float = 0.4,
    subtask_weight: float = 0.6,
) -> np.ndarray:
    """Eq. 7: the weighted sum of the two components; also of their returns and values.

    Returns:
        float64, of the inputs' shape.
    """
    t = np.asarray(trajectory, dtype=np.float64)
    s = np.asarray(subtask, dtype=np.float64)
    return trajectory_weight * t + subtask_weight * s


def subtask_weights(
    names: Sequence[str],
    done: Sequence[bool] | np.ndarray,
    given: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Importance weights w_i of an episode's segments, summing to 1 over its K subtasks.

    A name that repeats (a retry) is one subtask: it is paid at its last done segment, else it stands
    at its last segment; its other segments weigh 0 and do not count in K.

    Args:
        names: of the segments, in order.
        done: of the segments, bool.
        given: weight by name, renormalised over the episode's names; None is uniform (ours).

    Returns:
        float64 [segments].

    Raises:
        ValueError: a name that ``given`` lacks, or weights that are negative or all zero.
    """
    carrier: dict[str, int] = {}
    for i, (name, finished) in enumerate(zip(names, done, strict=True)):
        if name not in carrier or finished or not done[carrier[name]]:
            carrier[name] = i
    weights = np.zeros(len(names))
    if not carrier:
        return weights
    if given is None:
        weights[list(carrier.values())] = 1.0 / len(carrier)
        return weights
    missing = [n for n in carrier if n not in given]
    if missing:
        raise ValueError(f"no weight is given for subtask {missing[0]!r}")
    raw = np.array([float(given[n]) for n in carrier])
    if (raw < 0).any() or not np.isfinite(raw).all() or raw.sum() <= 0:
        raise ValueError(f"weights must be finite, not negative and not all zero, got {dict(given)}")
    weights[list(carrier.values())] = raw / raw.sum()
    return weights


def _sigmoid(z: np.ndarray) -> np.ndarray:
    """The logistic function; exp never sees a positive argument, so nothing overflows."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def _check_length(length: int) -> None:
    if length < 1:
        raise ValueError(f"an episode has at least one frame, got {length}")
