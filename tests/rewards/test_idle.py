"""Idle frames: which they are, and what becomes of their reward."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from igrft.rewards.idle import idle_frames, state_speed, without_idle_credit


def test_the_reward_of_idle_frames_goes_to_the_others() -> None:
    rewards = np.full(5, 0.2)
    idle = np.array([False, True, False, True, False])
    np.testing.assert_allclose(without_idle_credit(rewards, idle), [1 / 3, 0, 1 / 3, 0, 1 / 3], rtol=1e-15)
    uneven = np.array([0.1, 0.4, 0.2, 0.3])
    moved = without_idle_credit(uneven, np.array([False, True, False, False]))
    np.testing.assert_allclose(moved, [0.1 + 0.4 / 3, 0, 0.2 + 0.4 / 3, 0.3 + 0.4 / 3], rtol=1e-15)


def test_an_episode_that_never_or_always_moves_keeps_its_reward() -> None:
    rewards = np.array([0.5, 0.25, 0.25])
    for idle in (np.zeros(3, dtype=bool), np.ones(3, dtype=bool)):
        np.testing.assert_array_equal(without_idle_credit(rewards, idle), rewards)
    assert without_idle_credit(np.zeros(0), np.zeros(0, dtype=bool)).shape == (0,)


@given(
    arrays(np.float64, st.shared(st.integers(1, 40), key="n"), elements=st.floats(0, 1)),
    arrays(np.bool_, st.shared(st.integers(1, 40), key="n")),
)
def test_the_sum_is_kept_and_idle_frames_earn_nothing(rewards: np.ndarray, idle: np.ndarray) -> None:
    moved = without_idle_credit(rewards, idle)
    assert moved.sum() == pytest.approx(rewards.sum(), rel=1e-12, abs=1e-300)
    if not idle.all():
        assert (moved[idle] == 0).all()
        assert (moved[~idle] >= rewards[~idle]).all()


def test_speed_is_the_scaled_difference_to_the_next_frame() -> None:
    state = np.array([[0.0, 0.0, 7.0], [3.0, 8.0, 7.0], [3.0, 8.0, 7.0]], dtype=np.float32)
    np.testing.assert_allclose(state_speed(state, np.array([1.0, 2.0, 0.0])), [5.0, 0.0, 0.0])
    np.testing.assert_allclose(state_speed(state[:2], np.array([1.0, 2.0, 0.0])), [5.0, 5.0])
    assert state_speed(state[:1], np.ones(3)).tolist() == [0.0]


def test_idle_is_slower_than_a_share_of_the_median() -> None:
    assert idle_frames(np.array([1.0, 2.0, 0.04, 3.0, 0.1]), 0.05).tolist() == [False, False, True, False, False]
    assert idle_frames(np.array([1.0, 0.05, 1.0]), 0.05).tolist() == [False, True, False]
    # Standing still for most of the episode: the median is 0, and those frames are found all the same.
    assert idle_frames(np.array([0.0, 0.0, 0.0, 1.0]), 0.05).tolist() == [True, True, True, False]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must both be \[T\]"):
        without_idle_credit(np.zeros(3), np.zeros(2, dtype=bool))
    with pytest.raises(ValueError, match="not be negative"):
        idle_frames(np.ones(3), -0.1)
    with pytest.raises(ValueError, match=r"scale \[d\]"):
        state_speed(np.zeros((3, 2)), np.ones(3))
