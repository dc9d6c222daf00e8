"""What the simulator knows and a camera has to guess: contacts, motion of things, robot masks.

Contact is not motion: a thing that is held still is touched and does not move. Eq. 1 sees motion, so its ground
truth is :func:`motion`; contact is a second label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from igrft.simulation.bodies import Bodies

#: Columns of a dataset that holds the truth, each [1], and their dtypes: the subtask that is going on (as many as
#: there are when all are done); whether the robot touches a thing, and with what normal force in newtons; the same
#: of things and what cannot be moved; and how far a thing moves from this frame to the next, metres.
TRUTH = {
    "truth.subtask": "int64",
    "truth.contact": "bool",
    "truth.contact_force": "float32",
    "truth.world_force": "float32",
    "truth.object_motion": "float32",
}


@dataclass(frozen=True)
class Contacts:
    """Normal forces of a moment, newtons.

    Attributes:
        left, right: between a finger and things.
        robot: between the whole robot and things.
        world: between things and what cannot be moved (table, box, shelf), their weight included.
    """

    left: float
    right: float
    robot: float
    world: float

    @property
    def gripped(self) -> bool:
        """Both fingers press."""
        return self.left > 0 and self.right > 0


def contacts(env: Any, bodies: Bodies) -> Contacts:
    """Who presses against what now.

    Meta-World's own ``touching_main_object`` is not used: it fails on box-close with this MuJoCo, and reads the
    force of a contact that the solver left out from the end of the array.
    """
    import mujoco

    data = env.data
    pairs = np.asarray(data.contact.geom).reshape(-1, 2)
    left = right = robot = world = 0.0
    thing = bodies.things[pairs]
    force = np.zeros(6)
    for i in np.flatnonzero(thing[:, 0] != thing[:, 1]):
        mujoco.mj_contactForce(env.model, data, int(i), force)
        other = pairs[i, 1] if thing[i, 0] else pairs[i, 0]
        pressure = float(force[0])
        if bodies.robot[other]:
            robot += pressure
            left += pressure * bool(bodies.left[other])
            right += pressure * bool(bodies.right[other])
        else:
            world += pressure
    return Contacts(left, right, robot, world)


def poses(env: Any, bodies: Bodies) -> tuple[np.ndarray, np.ndarray]:
    """Where the things are: centres of mass float64 [n, 3] in metres, rotations float64 [n, 3, 3]."""
    data = env.data
    return data.xipos[bodies.thing_bodies].copy(), data.xmat[bodies.thing_bodies].reshape(-1, 3, 3).copy()


def motion(before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray], radius: np.ndarray) -> float:
    """How far any point of any thing moved at most, metres: its centre's way, and its radius times the turn.

    Args:
        before, after: from :func:`poses`.
        radius: float64 [n], of each thing.
    """
    if len(radius) == 0:
        return 0.0
    way = np.linalg.norm(after[0] - before[0], axis=1)
    # The trace of a rotation by an angle is 1 + 2 cos(angle).
    trace = np.einsum("nij,nij->n", before[1], after[1])
    angle = np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0))
    return float((way + radius * angle).max())


def robot_mask(seen: np.ndarray, bodies: Bodies) -> np.ndarray:
    """bool [H, W] of the robot's pixels, exact to the edge.

    Args:
        seen: int [H, W], from :meth:`igrft.simulation.cameras.Cameras.bodies`.
    """
    return (seen >= 0) & bodies.robot_bodies[np.maximum(seen, 0)]
