"""Progress bars: episodes and frames per second."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Called with (episodes, frames) that were done since the last call.
Advance = Callable[[int, int], None]


def _silent(episodes: int, frames: int) -> None:
    """For callers that want no bar."""


@contextmanager
def progress(what: str, episodes: int, frames: int, *, show: bool = True) -> Iterator[Advance]:
    """A bar over frames with the episodes beside it, on stderr; nothing where ``show`` is false.

    Off a terminal the bar is drawn every ten seconds, so that a cluster's log stays readable.
    """
    if not show or not episodes:
        yield _silent
        return
    from tqdm import tqdm

    done = 0
    interactive = sys.stderr.isatty()
    with tqdm(
        total=frames, unit="frame", desc=what, dynamic_ncols=True, mininterval=0.1 if interactive else 10.0
    ) as bar:

        def advance(more_episodes: int, more_frames: int) -> None:
            nonlocal done
            done += more_episodes
            bar.set_postfix_str(f"{done}/{episodes} episodes", refresh=False)
            bar.update(more_frames)

        yield advance
