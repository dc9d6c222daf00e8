"""Around a video encoder, threads keep their priority."""

from __future__ import annotations

import os
import threading

import pytest

from igrft.dataset import priority

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux alone tells")


def test_a_thread_that_ends_meanwhile_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads come and go between the list of them and the question."""
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(threading.get_native_id()))
    thread.start()
    thread.join()
    listed = priority._threads
    monkeypatch.setattr(priority, "_threads", lambda: [*ended, *listed()])
    with priority.usual_priority():
        pass
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="real-time priority is root's")
def test_real_time_priority_is_taken_back() -> None:
    with priority.usual_priority():
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        except PermissionError:
            pytest.skip("not permitted in this container")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
