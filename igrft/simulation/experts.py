"""Meta-World's scripted policies: they act on where things are now, so they can take over anywhere."""

from __future__ import annotations

import warnings

import numpy as np

from igrft.simulation.catalogue import expert_class, known_task


class Expert:
    """The scripted policy of a task."""

    def __init__(self, task: str) -> None:
        """
        Args:
            task: as "shelf-place-v3".
        """
        self._policy = expert_class(known_task(task))()

    def reset(self) -> None:
        """Forget what was done so far: a new episode, or another hand drove."""

    def action(self, full_observation: np.ndarray) -> np.ndarray:
        """What to do.

        Args:
            full_observation: float64 [39], :attr:`igrft.simulation.metaworld.MetaWorld.full_observation`.

        Returns:
            float32 [4] in [-1, 1].
        """
        with warnings.catch_warnings():
            # It warns at every step that the environment would clip, which is done here.
            warnings.simplefilter("ignore")
            wanted = self._policy.get_action(full_observation)
        return np.clip(np.asarray(wanted, dtype=np.float32), -1.0, 1.0)
