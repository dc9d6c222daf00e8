"""Who solves a task by script: they act on where things are now, so they can take over anywhere.

Meta-World's own policies are made for clean starts. From where another hand has left things (a puck at the edge
of its bin, a closed gripper on top of a handle) they get stuck in one of four cases, and on box-close in one of
seven from clean starts. So the tasks that have a table are solved by :class:`PickAndPlace`; Meta-World's policy does
the others.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np

from igrft.simulation.catalogue import expert_class
from igrft.simulation.pick_and_place import ROUTES, PickAndPlace
from igrft.simulation.tasks import Scene


class Expert(Protocol):
    """A script that solves a task."""

    def reset(self) -> None:
        """Forget what was done so far: a new episode, or another hand drove."""
        ...

    def action(self, scene: Scene) -> np.ndarray:
        """float32 [4] in [-1, 1] for where things are now."""
        ...


class MetaWorldExpert:
    """Meta-World's scripted policy of a task, by LeRobot's table."""

    def __init__(self, task: str) -> None:
        """
        Args:
            task: as "shelf-place-v3".
        """
        self._policy = expert_class(task)()

    def reset(self) -> None:
        """It remembers nothing."""

    def action(self, scene: Scene) -> np.ndarray:
        with warnings.catch_warnings():
            # It warns at every step that the environment would clip, which is done here.
            warnings.simplefilter("ignore")
            wanted = self._policy.get_action(scene.observation)
        return np.clip(np.asarray(wanted, dtype=np.float32), -1.0, 1.0)


def make_expert(task: str) -> Expert:
    """The expert of ``task``, a name that Meta-World has."""
    return PickAndPlace(ROUTES[task]) if task in ROUTES else MetaWorldExpert(task)
