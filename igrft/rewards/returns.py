"""Return-to-go (paper, section IV-B)."""

from __future__ import annotations

import numpy as np


def return_to_go(rewards: np.ndarray, discount: float = 1.0) -> np.ndarray:
    """G(f) = sum over j >= f of discount^(j-f) r(j), within one episode.

    Args:
        rewards: float [T] or [T, n] (n reward streams at once).
        discount: gamma, in [0, 1].

    Returns:
        float64, of the input's shape.

    Raises:
        ValueError: a discount outside [0, 1].
    """
    r = np.asarray(rewards, dtype=np.float64)
    if not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount must lie in [0, 1], got {discount}")
    if discount == 1.0:
        return np.cumsum(r[::-1], axis=0)[::-1].copy()
    if discount == 0.0 or not len(r):
        return r.copy()
    return _discounted(r, discount)


#: Frames of a block: discount^block is kept well above float64's smallest number.
_SMALLEST_POWER = 1e-8


def _discounted(r: np.ndarray, discount: float) -> np.ndarray:
    """Backwards over blocks; inside a block a scaled cumulative sum does the recursion.

    Dividing by discount^i is exact enough only while the power stays far from underflow, which is
    what bounds the block.
    """
    block = int(max(1, min(len(r), np.floor(np.log(_SMALLEST_POWER) / np.log(discount)))))
    out = np.empty_like(r)
    carry = np.zeros(r.shape[1:])
    powers = discount ** np.arange(block, dtype=np.float64)
    for end in range(len(r), 0, -block):
        start = max(0, end - block)
        p = powers[: end - start].reshape(-1, *([1] * (r.ndim - 1)))
        sums = np.cumsum((r[start:end] * p)[::-1], axis=0)[::-1] / p
        out[start:end] = sums + carry * (discount * p[::-1])
        carry = out[start]
    return out
