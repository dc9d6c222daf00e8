"""Exploration temperature of rollouts (paper, section IV-A.2, Eq. 2)."""

from __future__ import annotations

import numpy as np


def exploration_temperature(
    interaction_probability: np.ndarray | float,
    sigma_base: float = 1.5,
    alpha: float = 0.9,
    sigma_min: float = 0.2,
) -> np.ndarray:
    """Eq. 2: T(s) = sigma_base (1 - alpha p_int(s)) + sigma_min.

    The initial noise of the flow ODE is T(s) N(0, I) in rollouts; training uses 1.

    Args:
        interaction_probability: p_int, in [0, 1], any shape.

    Returns:
        float64, of the input's shape.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    p = np.asarray(interaction_probability, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("interaction probabilities must lie in [0, 1]")
    return sigma_base * (1.0 - alpha * p) + sigma_min


def leaves_training_range(
    sigma_base: float = 1.5,
    alpha: float = 0.9,
    sigma_min: float = 0.2,
    trained: tuple[float, float] = (0.0, 1.0),
) -> bool:
    """Whether T(s) can leave the noise scales that the flow was trained on, for some p in [0, 1].

    Training with standard deviation 1 covers scales up to 1. The paper's own values reach 1.7.
    """
    ends = exploration_temperature(np.array([0.0, 1.0]), sigma_base, alpha, sigma_min)
    return bool(ends.max() > trained[1] or ends.min() < trained[0])
