"""Between episodes: the scene is reset by somebody, and nothing is recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from igrft.rollouts.protocols import Event, Human

#: What the human is told.
RESET = "reset the scene"
#: Seconds between two looks for the human's keys.
_LOOK = 0.05


def reset_events(human: Human, seconds: float, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Ask for a reset, and give what is said until ``seconds`` are over or ``stop`` is true."""
    human.call(RESET)
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop():
        yield from human.events()
        time.sleep(_LOOK)
