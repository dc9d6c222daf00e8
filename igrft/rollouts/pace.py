"""Keeping a control loop to its rate."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class PaceReport:
    """How well a rate was kept.

    Attributes:
        steps: that were waited for.
        overruns: of them, those that took longer than a period.
        worst: seconds by which the longest one was late.
        fps: what was meant.
    """

    steps: int
    overruns: int
    worst: float
    fps: float

    def __str__(self) -> str:
        if not self.overruns:
            return f"{self.steps} steps at {self.fps:g} Hz, none late"
        share = self.overruns / self.steps
        return (
            f"{self.overruns} of {self.steps} steps ({share:.0%}) were late at {self.fps:g} Hz, "
            f"the worst by {self.worst * 1000:.0f} ms"
        )


class Pacer:
    """Sleeps between the steps of a loop, through LeRobot's ``precise_sleep``.

    Periods follow each other without drift. After a late step the next one has a whole period again: a robot is
    never sent a burst of actions to catch up.

    Attributes:
        fps: steps a second.
        overruns: steps since :meth:`start` that took longer than a period.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.start()

    def start(self) -> None:
        """The first step begins now; what was counted is forgotten."""
        self._steps = self.overruns = 0
        self._worst = 0.0
        self.skip()

    def skip(self) -> None:
        """A step begins now: after a pause that was meant (a handover, a reset phase)."""
        self._next = time.perf_counter() + 1.0 / self.fps

    def wait(self) -> None:
        """Sleep until the next step begins; a step that is late begins at once and is counted."""
        from lerobot.utils.robot_utils import precise_sleep

        late = time.perf_counter() - self._next
        self._steps += 1
        if late > 0:
            self.overruns += 1
            self._worst = max(self._worst, late)
            self.skip()
            return
        precise_sleep(-late)
        self._next += 1.0 / self.fps

    def report(self) -> PaceReport:
        """What has been counted since :meth:`start`."""
        return PaceReport(self._steps, self.overruns, self._worst, self.fps)
