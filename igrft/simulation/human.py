"""A scripted expert that stands in for the human who takes over, skilled or not."""

from __future__ import annotations

import numpy as np

from igrft.errors import UsageError
from igrft.rollouts.protocols import Event, Observation, Status
from igrft.rollouts.settings import HumanSettings
from igrft.simulation.experts import Expert, make_expert
from igrft.simulation.metaworld import MetaWorld
from igrft.simulation.operators import Operator, OperatorSettings


class ExpertHuman:
    """An :class:`igrft.rollouts.protocols.Human` who comes when called, and drives the simulation.

    It looks at the simulator's state, not at observations. It hands back when the subtask that was going on when
    it took over is done, or the episode is, or at its limit. A task without ordered subtasks is driven to the end.
    """

    name = "expert"
    scripted = True
    can_drive = True

    def __init__(self, world: MetaWorld, settings: HumanSettings) -> None:
        """
        Args:
            world: what is driven.
            settings: ``limit`` in seconds of the simulation, ``until``, ``skill``.

        Raises:
            UsageError: a setting that makes no sense.
        """
        if settings.until not in ("subtask", "episode"):
            raise UsageError(f"human.until must be subtask or episode, got {settings.until!r}")
        if not settings.limit > 0:
            raise UsageError(f"human.limit must be a positive number of seconds, got {settings.limit}")
        if not 0 <= settings.skill <= 1:
            raise UsageError(f"human.skill must lie between 0 and 1, got {settings.skill}")
        self._world = world
        self._until = settings.until
        self._limit = max(1, round(settings.limit * world.fps))
        self._skill = settings.skill
        self.start(None)

    def start(self, seed: int | None) -> None:
        """A new episode; what goes wrong where ``skill`` is below 1 is drawn from ``seed``."""
        task = self._world.env_task
        self._expert: Expert = make_expert(task)
        if self._skill < 1:
            drawn = np.random.SeedSequence(seed).generate_state(4)
            self._expert = Operator(task, OperatorSettings(), self._skill, tuple(int(x) for x in drawn))
        self._driven = 0
        self._from: int | None = None

    def events(self) -> list[Event]:
        """Nothing: it comes when called, and whether the episode succeeded the simulation knows."""
        return []

    def call(self, reason: str) -> None:
        """It needs no telling: :meth:`take_over` comes next."""

    def take_over(self, observation: Observation, last_action: np.ndarray | None) -> None:
        self._expert.reset()
        self._driven = 0
        self._from = self._world.status().subtask

    def action(self, observation: Observation) -> np.ndarray:
        """float32 [4] for where the simulation is now; ``observation`` is not looked at."""
        self._driven += 1
        return self._expert.action(self._world.scene())

    def finished(self, status: Status) -> bool:
        if status.ended or status.success or self._driven >= self._limit:
            return True
        if self._until == "episode" or self._from is None or status.subtask is None:
            return False
        return status.subtask > self._from

    def hand_back(self) -> None:
        self._driven = 0
        self._from = None

    def close(self) -> None:
        """Nothing is held."""
