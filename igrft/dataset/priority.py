"""Threads keep the priority that they had: SVT-AV1 takes more than it should."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def usual_priority() -> Iterator[None]:
    """Around the opening of a video encoder.

    SVT-AV1, opened by root (as in most containers), gives the calling thread and its own the highest real-time
    priority, and the caller keeps it: whatever else the computer does then waits, such as the loop that drives a
    robot. Here both are given back their old one.
    """
    if not hasattr(os, "sched_getscheduler"):  # not Linux
        yield
        return
    mine = os.sched_getscheduler(0)
    before = {}
    for thread in _threads():
        with contextlib.suppress(OSError):  # it ended in the meantime
            before[thread] = os.sched_getscheduler(thread)
    try:
        yield
    finally:
        for thread in _threads():
            # A thread may end in the meantime, or be none of ours to change.
            with contextlib.suppress(OSError):
                usual = before.get(thread, mine)
                if usual == os.SCHED_OTHER != os.sched_getscheduler(thread):
                    os.sched_setscheduler(thread, usual, os.sched_param(0))


def _threads() -> list[int]:
    """Of this process, as the kernel numbers them."""
    return [int(entry.name) for entry in Path("/proc/self/task").iterdir()]
