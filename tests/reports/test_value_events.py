"""Rises and dips of a value against its reference: exact on series made for it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.reports.value_events import size, smoothed, value_events

FPS = 10.0
#: No averaging: the frames below are the ones of the events.
SHARP = {"smoothing": 0.0}


def falling(length: int = 200) -> np.ndarray:
    return np.linspace(1.0, 0.0, length)


def test_a_value_that_follows_its_reference_has_none() -> None:
    reference = falling()
    assert value_events(reference, reference, FPS) == []
    # Nor one that is off by a constant, or by noise of single frames.
    assert value_events(reference + 0.3, reference, FPS) == []
    noise = np.random.default_rng(0).normal(0.0, 0.02, 200)
    assert value_events(reference + noise, reference, FPS) == []


def test_a_rise_is_found_from_its_low_to_its_high() -> None:
    value = np.concatenate([np.full(50, 0.5), np.linspace(0.5, 0.7, 11), np.full(39, 0.7)])
    assert value_events(value, np.full(100, 0.5), FPS, **SHARP) == [(50, 61, "rise")]
    assert value_events(value, np.full(100, 0.5), FPS, threshold=0.21, **SHARP) == []


def test_a_rise_of_the_reference_is_expected() -> None:
    # With a discount below 1 the reference rises towards a reward.
    rising = np.linspace(0.2, 0.8, 100)
    assert value_events(rising, rising, FPS, **SHARP) == []
    assert value_events(rising, np.full(100, 0.5), FPS, **SHARP) == [(0, 100, "rise")]


def test_what_takes_back_a_rise_is_no_dip() -> None:
    hump = np.concatenate([np.full(60, 0.5), np.full(20, 0.8), np.full(60, 0.5)])
    assert value_events(hump, np.full(140, 0.5), FPS, **SHARP) == [(59, 61, "rise")]
    # What falls lower than the rise began does count.
    lower = np.concatenate([np.full(60, 0.5), np.full(20, 0.8), np.full(60, 0.2)])
    assert value_events(lower, np.full(140, 0.5), FPS, **SHARP) == [(59, 61, "rise"), (79, 81, "dip")]


def test_a_dip_is_the_shortest_stretch_that_holds_it() -> None:
    value = np.concatenate([np.full(70, 0.6), np.full(70, 0.4)])
    assert value_events(value, np.full(140, 0.6), FPS, **SHARP) == [(69, 71, "dip")]
    assert value_events(value, np.full(140, 0.6), FPS, threshold=0.21, **SHARP) == []


def test_a_slow_fall_is_an_offset_and_no_dip() -> None:
    value = np.linspace(1.0, 0.6, 400)
    assert value_events(value, np.full(400, 1.0), FPS, **SHARP) == []


@pytest.mark.parametrize("shift", [-5, 0, 5])
def test_a_subtask_seen_half_a_second_early_or_late_is_no_dip(shift: int) -> None:
    step = np.where(np.arange(200) < 100, 1.0, 0.7)
    seen = np.where(np.arange(200) < 100 + shift, 1.0, 0.7)
    assert value_events(seen, step, FPS, **SHARP) == []


def test_a_subtask_seen_long_before_it_ends_is_a_dip() -> None:
    step = np.where(np.arange(200) < 100, 1.0, 0.7)
    seen = np.where(np.arange(200) < 50, 1.0, 0.7)
    assert value_events(seen, step, FPS, **SHARP) == [(49, 51, "dip")]


def test_two_rises_stay_two() -> None:
    value = np.concatenate([np.full(40, 0.5), np.full(20, 0.7), np.full(40, 0.5), np.full(20, 0.7)])
    found = value_events(value, np.full(120, 0.5), FPS, **SHARP)
    assert found == [(39, 41, "rise"), (99, 101, "rise")]


def test_sizes() -> None:
    reference = falling(100)
    value = reference.copy()
    value[60:] += 0.3
    (event,) = value_events(value, reference, FPS)
    assert event[2] == "rise"
    # The averaged value climbs over three frames, in which the reference comes down by 3/99.
    assert size(value, reference, FPS, event) == pytest.approx(0.3 - 3 / 99)
    value[60:] -= 0.6
    (event,) = value_events(value, reference, FPS)
    assert event[2] == "dip"
    assert size(value, reference, FPS, event) == pytest.approx(-0.3, abs=0.06)


def test_smoothing_keeps_a_plateau_exactly() -> None:
    values = np.array([0.0, 0.0, 3.0, 0.0, 0.0, 0.0])
    assert smoothed(values, 3.0).tolist() == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert smoothed(values, 1.0) is values
    assert len(set(smoothed(np.full(50, 0.1), 7.0)[3:-3].tolist())) == 1
    assert smoothed(np.array([1.0, 3.0]), 99.0).tolist() == [2.0, 2.0]


def test_nan_and_short_episodes() -> None:
    assert value_events(np.array([0.5]), np.array([0.5]), FPS) == []
    assert value_events(np.zeros(0), np.zeros(0), FPS) == []
    assert value_events(np.full(30, np.nan), falling(30), FPS) == []
    with pytest.raises(ValueError, match="must both be"):
        value_events(np.zeros(3), np.zeros(4), FPS)


@given(st.lists(st.floats(-1, 2), min_size=2, max_size=80), st.sampled_from([5.0, 10.0, 30.0]))
def test_events_lie_in_the_episode_and_move_as_they_say(values: list[float], fps: float) -> None:
    value = np.array(values)
    found = value_events(value, np.zeros(len(value)), fps)
    assert found == sorted(found)
    for start, end, kind in found:
        assert 0 <= start < end <= len(value)
        if kind == "rise":
            assert size(value, np.zeros(len(value)), fps, (start, end, kind)) > 0.079
    rises = [e for e in found if e[2] == "rise"]
    assert all(a[1] <= b[0] + 1 for a, b in pairwise(rises))
