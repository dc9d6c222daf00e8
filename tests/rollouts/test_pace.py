"""Keeping to a rate. Bounds are wide: the machine may be busy."""

from __future__ import annotations

import time

from igrft.rollouts.pace import Pacer, PaceReport


def test_periods_do_not_drift() -> None:
    pacer = Pacer(50.0)
    begun = time.perf_counter()
    pacer.start()
    for _ in range(25):
        pacer.wait()
    took = time.perf_counter() - begun
    assert took >= 0.5 - 1e-3
    assert pacer.report().steps == 25


def test_late_steps_are_counted_and_not_caught_up() -> None:
    pacer = Pacer(20.0)
    pacer.start()
    time.sleep(0.2)
    pacer.wait()
    report = pacer.report()
    assert (report.overruns, pacer.overruns) == (1, 1) and report.worst >= 0.15 - 1e-3
    begun = time.perf_counter()
    pacer.wait()
    assert time.perf_counter() - begun >= 0.05 - 2e-3


def test_a_pause_that_was_meant_is_not_late() -> None:
    pacer = Pacer(20.0)
    time.sleep(0.2)
    pacer.skip()
    begun = time.perf_counter()
    pacer.wait()
    assert pacer.overruns == 0 and time.perf_counter() - begun >= 0.04


def test_the_report_is_a_line() -> None:
    assert str(PaceReport(300, 0, 0.0, 30.0)) == "300 steps at 30 Hz, none late"
    assert str(PaceReport(300, 6, 0.0421, 30.0)) == "6 of 300 steps (2%) were late at 30 Hz, the worst by 42 ms"
