"""Boundaries moved onto gripper events and changes of motion."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from igrft.steps.subtasks.proprio import ProprioSignals
from igrft.steps.subtasks.snap import motion_changes, snap_boundaries


def signals(events: list[int], motion: np.ndarray | None = None, length: int = 100) -> ProprioSignals:
    return ProprioSignals(
        np.zeros((length, 1)) if motion is None else motion, np.zeros((length, 1)), np.array(events, np.int64)
    )


def test_a_rest_and_a_turn_are_changes_of_motion() -> None:
    rest = np.concatenate([np.linspace(0, 1, 30), np.ones(20), np.linspace(1, 2, 30)])[:, None]
    first, second = motion_changes(rest, 30.0).tolist()
    assert abs(first - 30) <= 1 and abs(second - 49) <= 1
    turn = np.sin(np.linspace(0, 2 * np.pi, 120))[:, None]  # slowest at a quarter and at three quarters
    found = motion_changes(turn, 30.0).tolist()
    assert len(found) == 2 and abs(found[0] - 30) <= 1 and abs(found[1] - 89) <= 1
    assert motion_changes(np.zeros((50, 2)), 30.0).tolist() == []
    assert motion_changes(np.linspace(0, 1, 50)[:, None], 30.0).tolist() == []


def test_gripper_events_win_over_changes_of_motion() -> None:
    rest = np.concatenate([np.linspace(0, 1, 30), np.ones(20), np.linspace(1, 2, 50)])[:, None]
    with_event = snap_boundaries([32], signals([36], rest), 30.0, window=0.3, shortest=0.1, length=100)
    assert with_event == [36]
    without = snap_boundaries([32], signals([], rest), 30.0, window=0.3, shortest=0.1, length=100)
    assert abs(without[0] - 30) <= 1


def test_nothing_in_reach_and_no_window_leave_a_boundary_alone() -> None:
    assert snap_boundaries([50], signals([80]), 30.0, window=0.5, shortest=0.1, length=100) == [50]
    assert snap_boundaries([50], signals([51]), 30.0, window=0.0, shortest=0.1, length=100) == [50]
    # Two boundaries do not fall onto one event, and no subtask becomes shorter than asked for.
    assert snap_boundaries([48, 52], signals([50]), 10.0, window=1.0, shortest=0.2, length=100) == [50, 52]
    assert snap_boundaries([48, 51], signals([50]), 10.0, window=1.0, shortest=0.2, length=100) == [48, 50]


@given(
    st.sets(st.integers(1, 99), max_size=8),
    st.sets(st.integers(0, 99), max_size=8),
    st.floats(0, 2),
    st.floats(0.01, 1),
    st.integers(0, 2**32 - 1),
)
def test_order_number_reach_and_length_hold(starts, events, window, shortest, seed) -> None:
    motion = np.cumsum(np.random.default_rng(seed).normal(size=(100, 2)), axis=0)
    given_starts = sorted(starts)
    found = snap_boundaries(
        given_starts, signals(sorted(events), motion), 10.0, window=window, shortest=shortest, length=100
    )
    assert len(found) == len(given_starts)
    assert all(a < b for a, b in zip([0, *found], [*found, 100], strict=True))
    assert all(abs(a - b) <= round(window * 10) for a, b in zip(found, given_starts, strict=True))
    before, after = np.diff([0, *given_starts, 100]), np.diff([0, *found, 100])
    least = max(1, round(shortest * 10))
    assert all(b >= min(a, least) for a, b in zip(before, after, strict=True))
