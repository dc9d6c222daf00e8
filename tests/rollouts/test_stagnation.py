"""The monitor on values whose stagnation is plain to see."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.errors import UsageError
from igrft.rollouts.settings import MonitorSettings
from igrft.rollouts.stagnation import StagnationMonitor, replay


def monitor(window=10, margin=0.1, rise=0.2, grace=0):
    return StagnationMonitor(window, margin, rise, grace)


def test_a_value_that_falls_is_left_alone():
    assert replay(np.linspace(1, 0, 101), monitor(margin=0.09)) == []


def test_a_value_that_stands_fires_when_the_window_is_full_and_again_after_the_next():
    assert replay(np.full(35, 0.5), monitor()) == [10, 21, 32]


def test_a_value_that_falls_too_slowly_fires():
    # 0.05 in ten frames, where 0.1 is asked for.
    assert replay(1 - 0.005 * np.arange(12), monitor())[0] == 10


def test_the_margin_is_met_exactly():
    falling = 1 - 0.125 * np.arange(8)
    assert replay(falling, monitor(window=1, margin=0.125)) == []
    assert replay(falling, monitor(window=1, margin=0.126)) != []


def test_a_rise_fires_before_the_window_is_full():
    values = np.array([0.9, 0.8, 0.7, 0.85, 0.95])
    assert replay(values, monitor(rise=0.2)) == [4]
    assert replay(values, monitor(rise=None)) == []


def test_a_rise_counts_from_the_least_of_the_window_alone():
    # The low value lies further back than the window when the high one comes.
    values = np.concatenate([[0.3], np.linspace(0.42, 0.45, 3), np.full(8, 0.44)])
    assert 11 not in replay(values[:12], monitor(window=3, margin=0.0, rise=0.2))


def test_grace_is_kept_at_the_start_and_after_a_handover():
    assert replay(np.full(40, 0.5), monitor(grace=15)) == [15, 31]
    one = monitor(window=2, grace=5)
    one.restart(100)
    assert [one.add(100 + i, 0.5) for i in range(7)] == [False] * 5 + [True] * 2


def test_nothing_is_left_to_fall_near_the_end():
    assert replay(np.full(40, 0.05), monitor()) == []


def test_values_that_come_now_and_then_are_looked_at_over_the_same_time():
    one = monitor()
    assert [one.add(step, 0.5) for step in (0, 4, 8, 12, 16)] == [False, False, False, True, True]


def test_without_a_critic_nothing_fires():
    assert replay(np.full(40, np.nan), monitor()) == []


def test_seconds_become_steps():
    one = StagnationMonitor.of(MonitorSettings(window=2.0, grace=0.5), fps=30)
    assert (one.window, one.grace) == (60, 15)


@pytest.mark.parametrize(
    ("name", "value"), [("window", -1.0), ("margin", float("nan")), ("grace", -0.1), ("rise", 0.0)]
)
def test_settings_that_cannot_be(name, value):
    with pytest.raises(UsageError, match=f"monitor.{name}"):
        StagnationMonitor.of(MonitorSettings(**{name: value}), 30)


values_ = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60).map(np.array)


@given(values_, st.integers(1, 12), st.floats(0, 0.3), st.integers(0, 8))
def test_two_firings_are_a_grace_period_apart(values, window, margin, grace):
    fired = replay(values, StagnationMonitor(window, margin, 0.2, grace))
    assert all(f >= grace for f in fired)
    assert all(b - a > grace for a, b in itertools.pairwise(fired))


@given(values_, st.floats(0, 0.3))
def test_a_larger_margin_fires_no_later(values, margin):
    small = replay(values, StagnationMonitor(5, margin, None, 0))
    # The floor below which nothing is left to fall rises with the margin, so values are kept above both.
    large = replay(values + 1, StagnationMonitor(5, margin + 0.1, None, 0))
    assert not small or (large and large[0] <= small[0])
