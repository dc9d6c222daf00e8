"""Alignment: exact numbers on small arrays, and what holds for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.errors import EpisodeError, UsageError
from igrft.recordings.streams import align as a
from igrft.recordings.streams.split import by_idle, by_marker

TIMES = np.array([0.0, 1.0, 2.0, 4.0])


def test_nearest_takes_the_earlier_of_two_as_near() -> None:
    at = np.array([-1.0, 0.4, 0.5, 0.6, 2.9, 3.1, 9.0])
    assert a.nearest(TIMES, at).tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert a.nearest(np.array([5.0]), at).tolist() == [0] * 7


def test_linear_and_beyond_the_ends() -> None:
    values = np.array([[0.0, 1.0], [10.0, 1.0], [20.0, 3.0], [0.0, 3.0]])
    out = a.resample(TIMES, values, np.array([-1, 0.25, 1.5, 3.0, 5.0]), "linear")
    assert out.tolist() == [[0, 1], [2.5, 1], [15, 2], [10, 3], [0, 3]]


def test_hold_takes_the_last_value_before() -> None:
    values = np.arange(4.0)[:, None]
    assert a.resample(TIMES, values, np.array([-1, 0.99, 1.0, 3.9]), "hold")[:, 0].tolist() == [0, 0, 1, 2]


def test_bools_keep_their_type_by_nearest() -> None:
    out = a.resample(TIMES, np.array([[True], [False], [True], [True]]), np.array([0.9]), "nearest")
    assert out.dtype == bool and not out[0, 0]


def test_angles_go_the_short_way_round() -> None:
    values = np.array([[3.0], [-3.0]])
    out = a.resample(np.array([0.0, 1.0]), values, np.array([0.25, 0.5, 0.75]), "angle")[:, 0]
    short = 2 * np.pi - 6
    expected = [3 + 0.25 * short, -np.pi, -3 - 0.25 * short]
    np.testing.assert_allclose(np.exp(1j * out), np.exp(1j * np.array(expected)), atol=1e-12)
    assert np.abs(out).max() <= np.pi


def test_angles_that_count_turns_go_on_counting() -> None:
    out = a.resample(np.array([0.0, 1.0]), np.array([[10.0], [11.0]]), np.array([0.5]), "angle")
    assert out[0, 0] == pytest.approx(10.5)


@given(st.floats(-np.pi, np.pi), st.floats(-3.1, 3.1), st.floats(0, 1))
def test_angles_move_evenly(start: float, turn: float, share: float) -> None:
    values = np.array([[start], [(start + turn + np.pi) % (2 * np.pi) - np.pi]])
    out = a.resample(np.array([0.0, 1.0]), values, np.array([share]), "angle")[0, 0]
    assert np.abs(np.exp(1j * out) - np.exp(1j * (start + share * turn))) < 1e-9


def about(axis: np.ndarray, angle: float) -> np.ndarray:
    return np.array([*(axis * np.sin(angle / 2)), np.cos(angle / 2)])


@given(
    st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1),
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.floats(0, 1),
    st.booleans(),
)
def test_quaternions_turn_evenly(axis: tuple[float, ...], one: float, turn: float, share: float, flip: bool) -> None:
    """Turns about one axis: slerp is then the turn at the share of the angle, whichever sign a quaternion has."""
    unit = np.array(axis) / np.linalg.norm(axis)
    values = np.stack([about(unit, one), about(unit, one + turn) * (-1 if flip else 1)])
    out = a.resample(np.array([0.0, 1.0]), values, np.array([share]), "quaternion")[0]
    assert np.linalg.norm(out) == pytest.approx(1)
    assert abs(out @ about(unit, one + share * turn)) == pytest.approx(1, abs=1e-9)


def test_quaternions_of_two_arms_and_wrong_ones() -> None:
    both = np.tile(about(np.array([0, 0, 1.0]), 0.4), (2, 2))
    np.testing.assert_allclose(a.resample(np.array([0.0, 1.0]), both, np.array([0.3]), "quaternion"), both[:1])
    with pytest.raises(EpisodeError, match="3 numbers are no quaternions"):
        a.resample(np.array([0.0, 1.0]), np.ones((2, 3)), np.array([0.5]), "quaternion")
    with pytest.raises(EpisodeError, match="all zeros"):
        a.resample(np.array([0.0, 1.0]), np.zeros((2, 4)), np.array([0.5]), "quaternion")


def test_skew_is_sample_minus_row() -> None:
    assert a.skew(TIMES, np.array([0.25, 1.9, 3.5]), "linear").tolist() == pytest.approx([-0.25, 0.1, 0.5])
    assert a.skew(TIMES, np.array([3.5]), "hold").tolist() == [-1.5]


@given(st.integers(2, 200), st.floats(1, 100), st.floats(0, 0.2), st.integers(0, 2**32 - 1))
def test_rate_is_measured_through_jitter(count: int, rate: float, jitter: float, seed: int) -> None:
    noise = np.random.default_rng(seed).uniform(-jitter, jitter, count) / rate
    noise[[0, -1]] = 0
    assert a.measured_rate(np.arange(count) / rate + noise) == pytest.approx(rate, rel=0.45 if count < 20 else 0.1)


def test_rate_leaves_gaps_out() -> None:
    times = np.delete(np.arange(100) / 30, [40, 41, 42, 70])
    assert a.measured_rate(times) == pytest.approx(30)
    rows = a.rows_of(times, 30, max_gap=0.5)
    assert (rows.missing, [row for row, _ in rows.gaps]) == (4, [39, 66])
    assert len(rows.rows) == 96


def test_rows_at_a_third_of_the_clock() -> None:
    rows = a.rows_of(np.arange(91) / 30, 10, max_gap=0.5)
    assert rows.rows.tolist() == list(range(0, 91, 3))


@pytest.mark.parametrize(
    ("times", "fps", "message"),
    [
        (np.array([0.0]), 30, "has 1 samples"),
        (np.arange(50) / 15, 30, r"runs at 15.00 a second where 30 are asked for; give --fps 15"),
        (np.append(np.arange(50), 80) / 30, 30, r"stops for 1.03 s after row 49, above max_gap 0.5 s"),
    ],
)
def test_clocks_that_do_not_do(times: np.ndarray, fps: int, message: str) -> None:
    with pytest.raises(EpisodeError, match=message):
        a.rows_of(times, fps, max_gap=0.5)


def test_whole_rates() -> None:
    assert (a.whole_rate(29.97), a.whole_rate(15.2)) == (30, 15)
    with pytest.raises(EpisodeError, match="near no whole frame rate"):
        a.whole_rate(12.5)
    with pytest.raises(UsageError, match="whole frame rates"):
        a.check_fps(29.97)


def test_what_all_streams_cover() -> None:
    clock = np.arange(11) / 10
    assert a.common_span({"x": (0.15, 0.8, 0.1)}, clock, 1) == slice(1, 9)
    with pytest.raises(EpisodeError, match=r"x begins 0.40 s after the clock, above max_trim 0.3 s"):
        a.common_span({"x": (0.4, 1, 0.1)}, clock, 0.3)
    with pytest.raises(EpisodeError, match=r"x stops 0.50 s before the clock"):
        a.common_span({"x": (0, 0.5, 0.1)}, clock, 0.3)
    with pytest.raises(EpisodeError, match=r"its clock stops 1.00 s before all other streams, above max_trim 0.3 s"):
        a.common_span({"x": (0, 2, 0.1), "y": (0, 3, 0.1), "held": (0, np.inf, 0)}, clock, 0.3)


def test_stamps_that_do_not_ascend() -> None:
    assert a.ascending(np.array([0, 1, 1, 2, 1.5, 3]), "x").tolist() == [True, True, False, True, False, True]
    with pytest.raises(EpisodeError, match=r"the clock of x jumps back by 3.000 s at sample 4"):
        a.ascending(np.array([0.0, 1, 2, 3, 0, 1]), "x")
    with pytest.raises(EpisodeError, match="no time at sample 1"):
        a.ascending(np.array([0.0, np.nan]), "x")


def test_episodes_by_a_marker() -> None:
    times, state = np.arange(8.0), np.array([0, 1, 1, 0, 0, 1, 1, 1.0])
    assert by_marker(times, state, 1, None) == [(1, 3), (5, np.inf)]
    # Starts and stops: the second start discards the first.
    assert by_marker(times, np.array([1, 1, 2, 0, 2, 1, 0, 2.0]), 1, 2) == [(1, 2), (5, 7)]


def test_episodes_by_idle_time() -> None:
    times = np.arange(0, 10, 0.5)
    moving = ((times >= 1) & (times < 3)) | ((times >= 7) & (times < 8))
    values = np.cumsum(np.append(0, moving[:-1] * 0.5))[:, None]
    assert by_idle(times, values, seconds=2, tolerance=0.01) == [(1, 3), (7, 8)]
    assert by_idle(times, values, seconds=5, tolerance=0.01) == [(1, 8)]
    assert by_idle(times, np.zeros((20, 1)), seconds=2, tolerance=0.01) == []
