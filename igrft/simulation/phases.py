"""Which subtask is going on: a count that only rises, and the segments that it makes of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from igrft.simulation.tasks import Scene, TaskTable


class Phases:
    """Counts the subtasks of one episode that are done, at most one more a step.

    A puck that was lifted and slips does not unmake the lift: what goes on is what has yet to be done for the
    first time. So no subtask is without a frame, except where success comes before its turn.
    """

    def __init__(self, table: TaskTable) -> None:
        self._done_when = [done for _, done in table.subtasks]
        self.current = 0

    def update(self, scene: Scene) -> int:
        """Look at the scene after a step.

        Returns:
            Number of the subtask that is going on; the number of subtasks when the episode is a success.
        """
        last = len(self._done_when) - 1
        if scene.success:
            self.current = last + 1
        elif self.current < last and self._done_when[self.current](scene):
            self.current += 1
        return self.current


def segments(phases: Sequence[int], names: Sequence[str], success: bool) -> list[dict[str, Any]]:
    """Segments of an episode of T frames, in the shape of a subtask file.

    Args:
        phases: T + 1 values of :attr:`Phases.current`: before the first action, and after each one.
        names: of the K subtasks.
        success: whether the episode counts as one.

    Returns:
        K entries ``{name, start, end, done}`` that cover the episode; subtasks never begun are [T, T) and not
        done. In a success every subtask has at least one frame, where T allows.
    """
    length, count = len(phases) - 1, len(names)
    # Subtask i ends at the first frame at which the count is above i.
    ends = [int(np.searchsorted(phases, i, side="right")) for i in range(count)]
    ends = [min(end, length) for end in ends]
    ends[-1] = length  # what comes after the last is done belongs to it
    done = [phases[-1] > i for i in range(count)]
    if success:
        done = [True] * count
        for i in range(count - 2, -1, -1):
            ends[i] = max(min(ends[i], ends[i + 1] - 1), min(i + 1, length))
    starts = [0, *ends[:-1]]
    return [
        {"name": n, "start": s, "end": e, "done": bool(d)} for n, s, e, d in zip(names, starts, ends, done, strict=True)
    ]
