"""Ordered subtasks of tasks, as predicates on the simulator's state.

The names are those of ``pipelines/tasks/metaworld-TASK.yaml``; a test holds them equal. Lengths are in metres, z
points up, y away from the robot. Distances are chosen so that an expert passes every predicate in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scene:
    """What the predicates look at.

    Attributes:
        hand: where the hand is, float64 [3].
        thing: where the thing is held, float64 [3], as the observation gives it.
        piece: the point of the thing that has to reach the goal, float64 [3].
        goal: where to, float64 [3].
        gripped: both fingers press against it.
        success: by Meta-World's own measure, settled.
        observation: what Meta-World's own policies read, float64 [39].
    """

    hand: np.ndarray
    thing: np.ndarray
    piece: np.ndarray
    goal: np.ndarray
    gripped: bool
    success: bool
    observation: np.ndarray


Predicate = Callable[[Scene], bool]


@dataclass(frozen=True)
class TaskTable:
    """A task: its subtasks, each with when it is done; the last is done by success alone.

    Attributes:
        subtasks: (name, done when) in order.
        piece: MuJoCo site that has to reach the goal; None is the thing itself.
        max_steps: control steps that an episode may take: what an operator of little skill needs.
    """

    subtasks: tuple[tuple[str, Predicate], ...]
    piece: str | None = None
    max_steps: int = 400

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.subtasks)


def _across(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def _reached(radius: float, height: float) -> Predicate:
    """The hand is above the thing, and low enough to take it."""
    return lambda s: _across(s.hand, s.thing) < radius and abs(s.hand[2] - s.thing[2]) < height


def _gripped(s: Scene) -> bool:
    return s.gripped


def _higher(height: float) -> Predicate:
    # Above the table, not above the start: the cover of box-close starts in the air and falls.
    return lambda s: bool(s.thing[2] > height)


def _above_goal(radius: float) -> Predicate:
    return lambda s: _across(s.piece, s.goal) < radius


def _success(s: Scene) -> bool:
    return s.success


TABLES: dict[str, TaskTable] = {
    "shelf-place-v3": TaskTable(
        (
            ("reach the puck", _reached(0.04, 0.07)),
            ("grasp the puck", _gripped),
            ("lift the puck to the shelf", _higher(0.22)),
            ("place the puck onto the shelf", _success),
        ),
    ),
    "box-close-v3": TaskTable(
        (
            ("reach the cover", _reached(0.03, 0.11)),
            ("grasp the cover", _gripped),
            ("lift the cover", _higher(0.05)),
            ("close the box with the cover", _success),
        ),
    ),
    "bin-picking-v3": TaskTable(
        (
            ("reach the puck", _reached(0.04, 0.07)),
            ("grasp the puck", _gripped),
            ("lift the puck out of the bin", _higher(0.09)),
            ("carry the puck over the other bin", _above_goal(0.06)),
            ("place the puck into the other bin", _success),
        ),
    ),
    "assembly-v3": TaskTable(
        (
            ("reach the nut", _reached(0.04, 0.07)),
            ("grasp the nut", _gripped),
            ("lift the nut", _higher(0.07)),
            ("carry the nut over the peg", _above_goal(0.03)),
            ("place the nut onto the peg", _success),
        ),
        piece="RoundNut",
    ),
}
