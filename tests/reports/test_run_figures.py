"""Figures of a run: exact on small arrays."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.reports.run import figures

NAN = math.nan


def test_r_squared() -> None:
    y = np.array([1.0, 2.0, 3.0, 4.0])
    assert figures.r_squared(y, y) == 1.0
    assert figures.r_squared(np.full(4, 2.5), y) == 0.0
    # Residuals 1, 0, 0, 1 against a spread of 2.25 + 0.25 + 0.25 + 2.25 = 5.
    assert figures.r_squared(np.array([2.0, 2.0, 3.0, 3.0]), y) == pytest.approx(1 - 2 / 5)
    assert figures.r_squared(y[::-1], y) == pytest.approx(1 - 20 / 5)
    assert figures.r_squared(np.array([NAN, 1.0, 2.0]), np.array([5.0, 1.0, 2.0])) == 1.0


def test_r_squared_is_undefined_without_variance() -> None:
    assert figures.r_squared(np.array([0.0, 1.0]), np.array([3.0, 3.0])) is None
    assert figures.r_squared(np.array([0.0]), np.array([3.0])) is None
    assert figures.r_squared(np.full(3, NAN), np.arange(3.0)) is None


def test_precision_and_recall() -> None:
    p = np.array([0.9, 0.8, 0.2, 0.6, 0.1, NAN])
    y = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    assert figures.precision_recall(p, y) == (2 / 3, 2 / 3)
    assert figures.precision_recall(p, np.zeros(6)) == (0.0, None)
    assert figures.precision_recall(np.zeros(6), y) == (None, 0.0)
    # At the threshold itself nothing is predicted, as in training.
    assert figures.precision_recall(np.array([0.5]), np.array([1.0])) == (None, 0.0)


def test_calibration() -> None:
    p = np.array([0.05, 0.15, 0.12, 0.18, 1.0, NAN])
    y = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    bins = figures.calibration(p, y)
    assert [b.count for b in bins] == [1, 3, 1]
    assert [b.observed for b in bins] == pytest.approx([0.0, 1 / 3, 1.0])
    assert [b.predicted for b in bins] == pytest.approx([0.05, 0.15, 1.0])
    assert figures.calibration_error(bins) == pytest.approx((0.05 + 3 * (1 / 3 - 0.15) + 0.0) / 5)
    assert figures.calibration(np.array([NAN]), np.array([1.0])) == []
    assert figures.calibration_error([]) is None


def test_deciles() -> None:
    key = np.arange(20.0)
    groups = figures.by_quantile(key[::-1], np.where(key[::-1] < 4, -1.0, 2.0))
    assert [g.count for g in groups] == [2] * 10
    assert [g.mean for g in groups] == [-1.0, -1.0] + [2.0] * 8
    assert [g.positive for g in groups] == [0.0, 0.0] + [1.0] * 8
    assert (groups[0].low, groups[0].high, groups[9].low, groups[9].high) == (0.0, 1.0, 18.0, 19.0)
    assert figures.by_quantile(np.full(3, NAN), np.zeros(3)) == []


def test_equal_keys_stay_together() -> None:
    key = np.array([0.0] * 15 + [1.0, 2.0, 3.0, 4.0, 5.0])
    groups = figures.by_quantile(key, np.ones(20), groups=4)
    assert [g.count for g in groups] == [15, 5]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.integers(1, 12))
def test_groups_hold_every_value_once_and_in_order(values: list[float], groups: int) -> None:
    key = np.array(values)
    found = figures.by_quantile(key, key, groups)
    assert sum(g.count for g in found) == len(key)
    assert len(found) <= groups
    assert all(a.high < b.low for a, b in pairwise(found))


def test_idle_is_against_the_episodes_own_median() -> None:
    episode = np.array([7, 3, 7, 3, 7, 3, 7, 3])
    motion = np.array([1.0, 100.0, 0.05, 5.0, 1.0, 100.0, NAN, 5.1])
    # Medians 1 of episode 7 and 52.55 of episode 3; at most 5 % of it is idle, NaN never.
    assert figures.idle(episode, motion).tolist() == [False, False, True, False, False, False, False, False]
    assert figures.idle(episode, motion, 0.1).tolist() == [False, False, True, True, False, False, False, True]
    assert figures.idle(np.zeros(0, dtype=int), np.zeros(0)).tolist() == []


def test_by_episode() -> None:
    dataset = np.array([1, 0, 0, 0, 1])
    episode = np.array([5, 5, 5, 2, 5])
    values = np.array([1.0, -1.0, 3.0, NAN, 2.0])
    found = figures.by_episode(dataset, episode, values)
    assert list(zip(found.dataset, found.episode, strict=True)) == [(0, 5), (1, 5)]
    assert found.count.tolist() == [2, 2]
    assert found.positive.tolist() == [0.5, 1.0]
    assert found.mean.tolist() == [1.0, 1.5]
    assert figures.by_episode(dataset[:0], episode[:0], values[:0]).count.tolist() == []


def test_phases_hold_whole_steps() -> None:
    steps = np.array([1, 2, 3, 4])
    assert figures.phase_edges(steps, 2).tolist() == [0.0, 2.0, 4.0]
    assert figures.phase_edges(np.array([5, 5]), 24).tolist() == [4.0, 5.0]
    shares = figures.phase_histogram(
        steps, np.array([0.1, 9.0, -3.0, NAN]), np.array([0.0, 2.0, 4.0]), np.array([0.0, 0.5, 1.0])
    )
    assert shares.tolist() == [[0.5, 0.5], [1.0, 0.0]]
    assert figures.phase_histogram(steps[:1], np.array([NAN]), np.array([0.0, 2.0]), np.array([0.0, 1.0])).sum() == 0
    medians = figures.phase_median(steps, np.array([1.0, 3.0, NAN, NAN]), np.array([0.0, 2.0, 4.0]))
    assert medians[0] == 2.0 and math.isnan(medians[1])


def test_a_temperature_that_clips_less() -> None:
    advantages = np.linspace(0.0, 1.0, 101)
    beta = figures.beta_for_clipping(advantages, 10.0, 0.05)
    assert beta == pytest.approx(0.95 / math.log(10))
    assert float((np.exp(advantages / beta) >= 10.0 - 1e-9).mean()) == pytest.approx(0.05, abs=0.011)
    assert figures.beta_for_clipping(-advantages, 10.0, 0.05) is None
    assert figures.beta_for_clipping(advantages, 1.0, 0.05) is None
    assert figures.beta_for_clipping(np.array([NAN]), 10.0, 0.05) is None


def test_moving_average() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert figures.moving_average(values, 1).tolist() == values.tolist()
    assert figures.moving_average(values, 3).tolist() == [1.5, 2.0, 3.0, 3.5]
    holes = figures.moving_average(np.array([NAN, 2.0, NAN, NAN, NAN]), 3)
    assert holes[:3].tolist() == [2.0, 2.0, 2.0]
    assert np.isnan(holes[3:]).all()


def test_mean_of_what_is_finite() -> None:
    assert figures.mean(np.array([1.0, NAN, np.inf, 3.0])) == 2.0
    assert figures.mean(np.array([NAN])) is None
