"""The replay says what the rollout's own monitor says, value by value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igrft.reports.rollouts.replay import Replay, Takeover, Track, judged, judging_interval
from igrft.rollouts.stagnation import StagnationMonitor, replay

# Few levels, so that values stand, rise and meet margins exactly.
levels = st.integers(0, 16).map(lambda k: k / 16)
series = st.lists(st.one_of(levels, st.just(float("nan"))), min_size=1, max_size=70).map(np.array)
monitors = st.builds(
    StagnationMonitor,
    st.integers(1, 15),
    st.integers(0, 6).map(lambda k: k / 16),
    st.one_of(st.none(), st.integers(1, 8).map(lambda k: k / 16)),
    st.integers(0, 12),
)


@given(series, monitors)
@settings(max_examples=400, deadline=None)
def test_it_fires_where_the_monitor_does(values: np.ndarray, monitor: StagnationMonitor) -> None:
    assert Replay([Track(values)], every=1).firings(monitor) == [replay(values, monitor)]


@given(st.lists(st.tuples(levels, st.integers(1, 4)), min_size=1, max_size=25), monitors)
@settings(max_examples=200, deadline=None)
def test_words_that_come_now_and_then(words: list[tuple[float, int]], monitor: StagnationMonitor) -> None:
    """Fed to the monitor when the value changes, which is what it hears of values that never come twice."""
    said = [v + i / 2**20 for i, (v, _) in enumerate(words)]
    values = np.repeat(said, [n for _, n in words])
    steps = np.cumsum([0, *(n for _, n in words)])[:-1]
    monitor.restart()
    expected = []
    for step, value in zip(steps.tolist(), said, strict=True):
        if monitor.add(step, value):
            expected.append(step)
            monitor.restart(step + 1)
    assert Replay([Track(values)], every=99).firings(monitor) == [expected]


def test_the_monitor_starts_anew_where_the_policy_drives_again() -> None:
    monitor = StagnationMonitor(5, 0.1, None, 3)
    values = np.full(40, 0.5)
    # Alone: at 5, and again six frames after each.
    assert Replay([Track(values)], 1).firings(monitor) == [[5, 11, 17, 23, 29, 35]]
    helped = Track(values, (Takeover(11, 20),))
    # What it saw on the first frame of the takeover made it call; then the window begins at 20.
    assert Replay([helped], 1).firings(monitor) == [[5, 11, 25, 31, 37]]
    assert Replay([Track(values, (Takeover(10, 40),))], 1).firings(monitor) == [[5]]
    assert Replay([Track(values, (Takeover(0, 40),))], 1).firings(monitor) == [[]]
    # One takeover right after the other.
    assert Track(values, (Takeover(4, 8), Takeover(8, 12))).stretches == [(0, 5), (8, 9), (12, 40)]


def test_the_critic_is_heard_when_it_spoke() -> None:
    held = np.repeat([0.9, 0.8, 0.7, 0.7, 0.7, 0.2], 4)
    assert judging_interval([Track(held)]) == 4
    assert judged(held, 4).tolist() == [0, 4, 8, 12, 16, 20]
    assert judged(np.array([0.9, 0.9, np.nan, np.nan, 0.5]), 1).tolist() == [0, 1, 4]
    # Single frames, and a stretch without a change, of which nothing can be told.
    assert judging_interval([Track(np.linspace(1, 0, 50))]) == 1
    assert judging_interval([Track(np.full(50, 0.3))]) == judging_interval([]) == 1
    # A word that a takeover cuts off is no interval.
    cut = Track(np.repeat([0.9, 0.8, 0.7, 0.6], [5, 2, 5, 5]), (Takeover(6, 7),))
    assert judging_interval([cut]) == 5


def test_a_value_that_is_held_does_not_fire_before_the_next_word() -> None:
    # The window passes the fall from 0.9 at frame 10; the next word, at 12, has fallen on.
    values = np.repeat([0.9, 0.6, 0.3, 0.1], 6)
    monitor = StagnationMonitor(4, 0.05, None, 0)
    assert Replay([Track(values)]).firings(monitor) == [[]]
    assert Replay([Track(values)], every=1).firings(monitor)[0]


def test_what_is_asked_at_a_takeover_counts() -> None:
    # The takeover comes two frames after the last word, and the critic is asked again.
    values = np.concatenate([np.repeat([1.0, 0.9, 0.8], 4), [0.8, 0.8, 0.8], np.full(5, 0.8)])
    track = Track(values, (Takeover(14, 20),))
    assert Replay([track]).firings(StagnationMonitor(6, 0.05, None, 0)) == [[14]]


@pytest.mark.parametrize("length", [0, 1])
def test_hardly_anything(length: int) -> None:
    assert Replay([Track(np.full(length, 0.5))]).firings(StagnationMonitor(1, 0.1, 0.1, 0)) == [[]]


def test_a_million_frames_take_seconds() -> None:
    """Not the speed, but that nothing grows with the square of the length: this would not end otherwise."""
    rng = np.random.default_rng(0)
    values = np.linspace(1, 0, 300_000) + 0.01 * rng.normal(size=300_000)
    fires = Replay([Track(values)]).firings(StagnationMonitor(60, 0.02, 0.1, 60))[0]
    assert len(fires) > 2000
    assert np.diff(fires).min() > 60
