"""Which geoms of a model are the robot, its fingers, and things that can be moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: Root of the robot's bodies in every model of Meta-World, and roots of its two fingers.
_ROBOT, _LEFT, _RIGHT = "base", "leftclaw", "rightclaw"
#: A handle that pulls the hand about, not a thing.
_MOCAP = "mocap"


@dataclass(frozen=True)
class Bodies:
    """Of one model.

    Attributes:
        robot, left, right: bool [ngeom], geoms of the whole robot (its stand included) and of each finger.
        things: bool [ngeom], geoms of what can be moved and is not the robot.
        robot_bodies: bool [nbody], bodies of the whole robot.
        thing_bodies: int [n], bodies of those things.
        radius: float64 [n], of a ball around each such body's centre of mass that holds its geoms, metres.
    """

    robot: np.ndarray
    left: np.ndarray
    right: np.ndarray
    things: np.ndarray
    robot_bodies: np.ndarray
    thing_bodies: np.ndarray
    radius: np.ndarray


def survey(model: Any) -> Bodies:
    """Sort the geoms of an ``mujoco.MjModel``: geom to body to ancestor."""
    parents = np.asarray(model.body_parentid)

    def below(root: int) -> np.ndarray:
        inside = np.zeros(model.nbody, dtype=bool)
        inside[root] = True
        for body in range(root + 1, model.nbody):  # a parent's number is less than its children's
            inside[body] = inside[parents[body]]
        return inside

    robot = below(model.body(_ROBOT).id)
    moved = np.zeros(model.nbody, dtype=bool)
    for body in np.unique(model.jnt_bodyid):
        if not robot[body]:
            moved |= below(int(body))
    moved &= ~robot
    moved[model.body(_MOCAP).id] = False
    body_of = np.asarray(model.geom_bodyid)
    thing_bodies = np.flatnonzero(moved)
    return Bodies(
        robot=robot[body_of],
        left=below(model.body(_LEFT).id)[body_of],
        right=below(model.body(_RIGHT).id)[body_of],
        things=moved[body_of],
        robot_bodies=robot,
        thing_bodies=thing_bodies,
        radius=np.array([_radius(model, int(b)) for b in thing_bodies]),
    )


def _radius(model: Any, body: int) -> float:
    geoms = np.flatnonzero(np.asarray(model.geom_bodyid) == body)
    if len(geoms) == 0:
        return 0.0
    away = np.linalg.norm(model.geom_pos[geoms] - model.body_ipos[body], axis=1)
    return float((away + model.geom_rbound[geoms]).max())
