"""Idle frames, and reward without credit for them (ours).

With r_traj = 1/T a pause collects reward on every frame while the value stands still, so its advantage is
positive. Moving the trajectory reward to the frames on which something moves takes that away.
"""

from __future__ import annotations

import numpy as np


def state_speed(state: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """How far the state moves from each frame to the next, within one episode.

    Args:
        state: float [T, d].
        scale: standard deviation of each dimension over the dataset, float [d]; a dimension of 0 is left out.

    Returns:
        float64 [T], not negative, in standard deviations a frame: the norm of the scaled difference to the
        next frame. The last frame repeats the one before it; a single frame has 0.
    """
    s = np.asarray(state, dtype=np.float64)
    if s.ndim != 2 or s.shape[1:] != np.shape(scale):
        raise ValueError(f"state must be [T, d] and scale [d], got {s.shape} and {np.shape(scale)}")
    if len(s) < 2:
        return np.zeros(len(s))
    known = np.asarray(scale, dtype=np.float64) > 0
    step = np.linalg.norm(np.diff(s[:, known], axis=0) / np.asarray(scale, dtype=np.float64)[known], axis=1)
    return np.append(step, step[-1])


def idle_frames(speed: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Frames of an episode on which nothing moves: speed at most ``share`` of the episode's median.

    Args:
        speed: float [T], not negative.
        share: not negative.

    Returns:
        bool [T]. Where more than half of the frames stand still the median is 0, and exactly those are idle.
    """
    v = np.asarray(speed, dtype=np.float64)
    if share < 0:
        raise ValueError(f"share must not be negative, got {share}")
    return v <= share * np.median(v) if len(v) else np.zeros(0, dtype=bool)


def without_idle_credit(rewards: np.ndarray, idle: np.ndarray) -> np.ndarray:
    """Move the reward of idle frames to the others, in equal parts.

    Args:
        rewards: float [T].
        idle: bool [T].

    Returns:
        float64 [T] of the same sum, 0 on idle frames. Unchanged where every frame is idle.

    Raises:
        ValueError: shapes that differ.
    """
    r = np.asarray(rewards, dtype=np.float64)
    still = np.asarray(idle, dtype=bool)
    if r.shape != still.shape or r.ndim != 1:
        raise ValueError(f"rewards and idle must both be [T], got {r.shape} and {still.shape}")
    if still.all() or not still.any():
        return r.copy()
    return np.where(still, 0.0, r + r[still].sum() / np.count_nonzero(~still))
