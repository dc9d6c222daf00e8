"""Advantages and weights of IG-AWR (paper, section IV-A.3, Eq. 3, and Table V)."""

from __future__ import annotations

import numpy as np


def n_step_advantages(rewards: np.ndarray, values: np.ndarray, steps: int, discount: float = 1.0) -> np.ndarray:
    """A(f) = sum_{j<N} discount^j r(f+j) + discount^N V(f+N) - V(f), within one episode.

    Past the end of the episode r and V are 0, also after a failure.

    Args:
        rewards: float [T].
        values: float [T].
        steps: N, at least 1 (ours: the action chunk).
        discount: gamma, in [0, 1].

    Returns:
        float64 [T].

    Raises:
        ValueError: shapes that differ, or a number of steps below 1.
    """
    r = np.asarray(rewards, dtype=np.float64)
    v = np.asarray(values, dtype=np.float64)
    if r.shape != v.shape or r.ndim != 1:
        raise ValueError(f"rewards and values must both be [T], got {r.shape} and {v.shape}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    n = min(steps, len(r))
    padded = np.concatenate([r, np.zeros(n)])
    if discount == 1.0:
        total = np.concatenate([[0.0], np.cumsum(padded)])
        gained = total[n : n + len(r)] - total[: len(r)]
    else:
        gained = np.convolve(padded, discount ** np.arange(n)[::-1], mode="full")[n - 1 : n - 1 + len(r)]
    later = np.zeros_like(v)
    if steps < len(v):
        later[:-steps] = v[steps:]
    return gained + discount**steps * later - v


def advantage_weights(
    advantages: np.ndarray,
    beta: float = 0.05,
    limit: float = 10.0,
    *,
    interventions: np.ndarray | None = None,
    intervention_floor: float = 0.0,
) -> np.ndarray:
    """Weights of the policy loss: clip(exp(A / beta), 0, limit).

    Table V's "Advantage Clipping [0, 10]" is read as a clip of the weight (ours).

    Args:
        advantages: float, any shape.
        beta: AWR's temperature, > 0.
        limit: upper clip of the weight, > 0.
        interventions: bool, of the same shape: frames on which a human overrode a policy.
        intervention_floor: least weight of those frames; 0 (as the formula says) is off, 1 is the
            other choice (ours).

    Returns:
        float64, in [0, limit] (or up to the floor, if that is larger).

    Raises:
        ValueError: beta or limit not positive.
    """
    if not beta > 0 or not limit > 0:
        raise ValueError(f"beta and limit must be positive, got {beta} and {limit}")
    a = np.asarray(advantages, dtype=np.float64)
    # The exponent is clipped first, so that a large advantage cannot overflow.
    weights = np.minimum(np.exp(np.minimum(a / beta, np.log(limit) + 1.0)), limit)
    if interventions is not None and intervention_floor > 0:
        weights = np.where(np.asarray(interventions, dtype=bool), np.maximum(weights, intervention_floor), weights)
    return weights


def effective_sample_size(weights: np.ndarray) -> float:
    """(sum w)^2 / (n sum w^2): the share of n samples that the weighted sum rests on, in [1/n, 1].

    1 where all weights are equal, 1/n where one sample has them all.

    Args:
        weights: float >= 0, any shape.

    Returns:
        NaN where there is no weight, or all are 0.

    Raises:
        ValueError: a negative weight, or one that is not finite.
    """
    w = np.asarray(weights, dtype=np.float64).ravel()
    if not np.isfinite(w).all() or (w < 0).any():
        raise ValueError("weights must be finite and not negative")
    squares = float((w * w).sum())
    return float(w.sum()) ** 2 / (len(w) * squares) if squares > 0 else float("nan")
