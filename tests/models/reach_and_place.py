"""A small closed-loop problem: a hand in the plane fetches an object and carries it past a pillar to its goal.

The demonstrator passes the pillar left or right as it likes and moves unsteadily; a policy that learnt the
mean of the two would run into the pillar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

HORIZON = 90
STATE, ENV = 3, 4
ACTION_DIM = 3
_STEP, _REACH, _PILLAR = 0.08, 0.08, 0.3


@dataclass
class Episode:
    """state float32 [T, 3] (hand x, y, holding), env float32 [T, 4] (object, goal), action float32 [T, 3]."""

    state: np.ndarray
    env: np.ndarray
    action: np.ndarray


class Plane:
    """``n`` copies of the problem at once.

    Attributes:
        hand, thing, goal: float64 [n, 2], metres in about [-1, 1].
        holding: bool [n].
    """

    def __init__(self, rng: np.random.Generator, n: int) -> None:
        self.hand = _outside(rng.uniform(-1, 1, (n, 2)))
        sides = rng.uniform(0.55, 0.9, (2, n)) * np.array([[-1], [1]])
        self.thing, self.goal = (np.stack([x, rng.uniform(-0.6, 0.6, n)], axis=1) for x in sides)
        self.holding = np.zeros(n, dtype=bool)

    def step(self, action: np.ndarray) -> None:
        """Velocity of the hand and grip (closed above 0), clipped to [-1, 1]; float [n, 3]."""
        action = np.clip(action, -1, 1)
        self.hand = _outside(np.clip(self.hand + _STEP * action[:, :2], -1.2, 1.2))
        near = np.linalg.norm(self.hand - self.thing, axis=1) < _REACH
        self.holding = (action[:, 2] > 0) & (self.holding | near)
        self.thing = np.where(self.holding[:, None], self.hand, self.thing)

    @property
    def success(self) -> np.ndarray:
        """bool [n]: the object lies at its goal and the hand has let go."""
        return ~self.holding & (np.linalg.norm(self.thing - self.goal, axis=1) < _REACH)

    @property
    def state(self) -> np.ndarray:
        return np.concatenate([self.hand, self.holding[:, None]], axis=1).astype(np.float32)

    @property
    def env(self) -> np.ndarray:
        return np.concatenate([self.thing, self.goal], axis=1).astype(np.float32)

    def expert(self, rng: np.random.Generator, side: np.ndarray) -> np.ndarray:
        """What the demonstrator does, passing the pillar on ``side`` (1 or -1, [n]); float [n, 3]."""
        way = np.where(self.holding[:, None], self.goal, self.thing) - self.hand
        distance = np.linalg.norm(way, axis=1, keepdims=True)
        ahead = way / np.maximum(distance, 1e-6)
        nearest = np.clip(-(self.hand * ahead).sum(axis=1, keepdims=True), 0, distance)
        closest = np.linalg.norm(self.hand + nearest * ahead, axis=1, keepdims=True)
        blocked = (closest < _PILLAR + 0.1) & (nearest > 0) & (nearest < distance)
        radius = np.linalg.norm(self.hand, axis=1, keepdims=True)
        out = self.hand / np.maximum(radius, 1e-6)
        around = _left(out) * side[:, None]
        far = np.clip((radius - _PILLAR - 0.1) / 0.3, 0, 1)
        detour = 0.8 * far * (ahead - 0.8 * side[:, None] * _left(ahead)) + (1 - far) * around
        detour += 6 * out * np.clip(_PILLAR + 0.15 - radius, 0, 1)
        move = np.where(blocked, detour, ahead * np.minimum(1, distance / _STEP))
        move /= np.maximum(1, np.linalg.norm(move, axis=1, keepdims=True))
        move = np.where(self.success[:, None], 0, move) + rng.normal(0, 0.15, move.shape)
        grip = np.where(self.holding ^ (distance[:, 0] < 0.6 * _REACH) & ~self.success, 1.0, -1.0)
        return np.clip(np.concatenate([move, grip[:, None]], axis=1), -1, 1)


def demonstrations(seed: int, n: int) -> list[Episode]:
    """``n`` episodes of the demonstrator, each three frames longer than its success."""
    rng = np.random.default_rng(seed)
    plane, side = Plane(rng, n), rng.choice([-1.0, 1.0], n)
    rows, done = [], []
    for _ in range(HORIZON):
        action, held = plane.expert(rng, side), plane.holding
        rows.append((plane.state, plane.env, action.astype(np.float32)))
        plane.step(action)
        done.append(plane.success)
        side = np.where(plane.holding & ~held, rng.choice([-1.0, 1.0], n), side)
    state, env, action = (np.stack(x, axis=1) for x in zip(*rows, strict=True))
    success = np.stack(done, axis=1)
    ends = np.where(success.any(axis=1), np.minimum(success.argmax(axis=1) + 4, HORIZON), HORIZON)
    return [Episode(state[i, :t], env[i, :t], action[i, :t]) for i, t in enumerate(ends)]


def success_rate(act: Callable[[np.ndarray, np.ndarray], np.ndarray], *, seed: int, n: int, take: int) -> float:
    """Share of ``n`` episodes that a policy solves.

    Args:
        act: state [n, 3] and env [n, 4] to actions [n, chunk, 3] in the problem's units.
        take: actions of a chunk that are carried out.
    """
    plane = Plane(np.random.default_rng(seed), n)
    solved = np.zeros(n, dtype=bool)
    for _ in range(0, HORIZON, take):
        chunk = act(plane.state, plane.env)
        for i in range(take):
            plane.step(chunk[:, i])
            solved |= plane.success
    return float(solved.mean())


def _outside(points: np.ndarray) -> np.ndarray:
    """The pillar stands at the origin; what would be inside is pushed to its rim."""
    radius = np.linalg.norm(points, axis=1, keepdims=True)
    return np.where(radius < _PILLAR, points / np.maximum(radius, 1e-6) * _PILLAR, points)


def _left(way: np.ndarray) -> np.ndarray:
    return np.stack([-way[:, 1], way[:, 0]], axis=1)
