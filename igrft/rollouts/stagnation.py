"""When the value stagnates (section IV-B.3). The paper says "stagnates" and gives no rule; this one is ours.

The value is a return-to-go: 1 where a success begins, 0 where it ends. So it falls while the policy makes progress.
Pure: numbers in, numbers out. The same monitor runs in a rollout and over recorded values.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from igrft.errors import UsageError

if TYPE_CHECKING:
    from igrft.rollouts.settings import MonitorSettings


@dataclass
class StagnationMonitor:
    """Tells, value by value, whether the policy needs help.

    It fires where the value has fallen by less than ``margin`` over the last ``window``, or has risen by ``rise`` above
    its least in that time (which needs no full window). In the first ``grace`` of an episode, and after
    :meth:`restart`, it says nothing, and what came before is forgotten. A value that has no ``margin`` left to fall
    (the task is nearly done) does not stagnate.

    Attributes:
        window, grace: steps.
        margin, rise: of the value; ``rise`` None looks at the margin alone.
    """

    window: int
    margin: float
    rise: float | None
    grace: int
    _seen: deque[tuple[int, float]] = field(default_factory=deque, repr=False)
    _start: int = 0

    @classmethod
    def of(cls, settings: MonitorSettings, fps: float) -> StagnationMonitor:
        """From a recipe's settings, whose times are seconds.

        Raises:
            UsageError: a setting that cannot be.
        """
        for name in ("window", "margin", "grace"):
            if not getattr(settings, name) >= 0:
                raise UsageError(f"monitor.{name} must not be negative, got {getattr(settings, name)}")
        if settings.rise is not None and not settings.rise > 0:
            raise UsageError(f"monitor.rise must be positive, or null, got {settings.rise}")
        window = max(1, round(settings.window * fps))
        return cls(window, settings.margin, settings.rise, round(settings.grace * fps))

    def restart(self, step: int = 0) -> None:
        """An episode begins, or the policy drives again."""
        self._seen.clear()
        self._start = step

    def add(self, step: int, value: float) -> bool:
        """Whether the value stagnates at ``step``; steps rise, and need not be next to each other.

        A value that is not a number (there is no critic) never stagnates.
        """
        if not np.isfinite(value):
            return False
        self._seen.append((step, float(value)))
        # One value from before the window is kept: it is what stood at its start.
        while len(self._seen) > 1 and self._seen[1][0] <= step - self.window:
            self._seen.popleft()
        if step - self._start < self.grace:
            return False
        if self.rise is not None and value - min(v for _, v in self._seen) >= self.rise:
            return True
        first, before = self._seen[0]
        if first > step - self.window or before <= self.margin:
            return False
        return before - value < self.margin


def replay(values: np.ndarray, monitor: StagnationMonitor) -> list[int]:
    """Where a monitor would have fired over the recorded values of one episode.

    After it has fired it starts anew, with its grace period, as it does after a handover.

    Args:
        values: float [T], one a frame; NaN where nothing was judged.

    Returns:
        Frames, rising.
    """
    monitor.restart()
    fired = []
    for frame, value in enumerate(np.asarray(values, dtype=np.float64).reshape(-1)):
        if monitor.add(frame, float(value)):
            fired.append(frame)
            monitor.restart(frame + 1)
    return fired
