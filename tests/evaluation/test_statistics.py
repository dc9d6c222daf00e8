"""Intervals, paired differences and progress: numbers by hand or from the papers, and what must always hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, t

from igrft.evaluation.statistics import (
    PairCounts,
    clustered_interval,
    mcnemar,
    newcombe,
    paired_difference,
    progress,
    run_means,
    wilson,
)

COUNTS = st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
OUTCOMES = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4)), min_size=1, max_size=60)


# Wilson.


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), two-sided intervals for the single proportion, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 0, 0.0, 1.0),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_by_published_numbers(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(COUNTS, st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilson_inverts_the_score_test(counts, confidence):
    k, n = counts
    low, high = wilson(k, n, confidence)
    assert 0 <= low <= (k / n if n else low) <= high <= 1
    z = norm.ppf(0.5 + confidence / 2)
    for end in {low, high} - {0.0, 1.0}:
        assert abs(k / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-12)
    assert wilson(n - k, n, confidence) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("successes", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)])
def test_wilson_refuses(successes, n, confidence):
    with pytest.raises(ValueError):
        wilson(successes, n, confidence)


# Pairs.


def test_newcombe_by_hand():
    counts = PairCounts(both=20, first=12, second=2, neither=16)
    (l1, u1), (l2, u2) = wilson(32, 50), wilson(22, 50)
    phi = (20 * 16 - 12 * 2 - 25) / math.sqrt(32 * 18 * 22 * 28)
    low = 0.2 - math.sqrt((0.64 - l1) ** 2 - 2 * phi * (0.64 - l1) * (u2 - 0.44) + (u2 - 0.44) ** 2)
    high = 0.2 + math.sqrt((u1 - 0.64) ** 2 - 2 * phi * (u1 - 0.64) * (0.44 - l2) + (0.44 - l2) ** 2)
    assert newcombe(counts) == pytest.approx((low, high))
    assert newcombe(counts) == pytest.approx((0.0562, 0.3292), abs=5e-5)


def test_newcombe_where_no_pair_differs_still_has_a_width():
    for counts in (PairCounts(50, 0, 0, 0), PairCounts(0, 0, 0, 50), PairCounts(25, 0, 0, 25)):
        low, high = newcombe(counts)
        assert low == pytest.approx(-high) and 0.01 < high < 0.1
    assert newcombe(PairCounts(0, 0, 0, 0)) == (-1.0, 1.0)


@given(*[st.integers(0, 60)] * 4)
def test_newcombe_holds_the_difference_and_turns_with_the_sides(both, first, second, neither):
    counts = PairCounts(both, first, second, neither)
    low, high = newcombe(counts)
    assert -1 <= low <= high <= 1
    if counts.n:
        assert low - 1e-12 <= (first - second) / counts.n <= high + 1e-12
    assert newcombe(PairCounts(both, second, first, neither)) == pytest.approx((-high, -low), abs=1e-12)


@given(*[st.integers(0, 60)] * 4)
def test_mcnemar_is_the_sign_test_of_the_pairs_that_differ(both, first, second, neither):
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(PairCounts(both, first, second, neither)) == pytest.approx(expected)


def test_pairs_are_counted_by_outcome():
    first, second = np.array([1, 1, 1, 0, 0, 0], bool), np.array([1, 0, 0, 1, 0, 0], bool)
    assert PairCounts.of(first, second) == PairCounts(both=1, first=2, second=1, neither=2)


# Differences.


def test_one_run_is_compared_by_its_episodes():
    first = np.repeat([1, 1, 0, 0], [20, 12, 2, 16]).astype(bool)
    second = np.repeat([1, 0, 1, 0], [20, 12, 2, 16]).astype(bool)
    found = paired_difference(first, second, np.array(["shelf-place seed 0"] * 50))
    assert found.method == "episodes" and (found.runs, found.episodes) == (1, 50)
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == newcombe(PairCounts(20, 12, 2, 16)) == (found.within_low, found.within_high)
    assert found.mcnemar == pytest.approx(0.012939453125)


def test_runs_are_what_varies():
    # Differences of four runs of ten episodes: 0.4, 0.2, 0.0, 0.6.
    first = np.concatenate([np.arange(10) < k for k in (8, 6, 5, 9)])
    second = np.concatenate([np.arange(10) < k for k in (4, 4, 5, 3)])
    found = paired_difference(first, second, np.repeat([0, 1, 2, 3], 10))
    assert found.method == "runs" and found.runs == 4 and found.difference == pytest.approx(0.3)
    half = t.ppf(0.975, 3) * np.std([0.4, 0.2, 0.0, 0.6], ddof=1) / 2
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half))
    assert found.within_low > found.low and found.within_high < found.high


def test_every_run_counts_the_same_however_many_episodes_it_has():
    first, second = np.array([1] * 30 + [0, 0], bool), np.array([0] * 30 + [0, 0], bool)
    assert paired_difference(first, second, np.array([0] * 30 + [1] * 2)).difference == pytest.approx(0.5)


def test_runs_that_agree_by_chance_leave_the_episodes_doubt():
    same = np.ones(40, bool)
    found = paired_difference(same, same, np.repeat([0, 1, 2, 3], 10))
    assert found.difference == 0 and found.mcnemar == 1.0
    assert (found.low, found.high) == newcombe(PairCounts(40, 0, 0, 0)) and found.high > 0.02


@settings(max_examples=60)
@given(OUTCOMES)
def test_what_holds_of_every_comparison(outcomes):
    first, second, runs = (np.array(x) for x in zip(*outcomes, strict=True))
    found, turned = paired_difference(first, second, runs), paired_difference(second, first, runs)
    assert -1 <= found.low <= found.difference <= found.high <= 1
    assert (turned.difference, turned.low, turned.high) == pytest.approx(
        (-found.difference, -found.high, -found.low), abs=1e-12
    )
    order = np.random.default_rng(0).permutation(len(first))
    shuffled = paired_difference(first[order], second[order], runs[order])
    assert (shuffled.low, shuffled.high) == pytest.approx((found.low, found.high), abs=1e-12)


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference(np.zeros(0, bool), np.zeros(0, bool), np.zeros(0))
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        paired_difference(np.zeros(3, bool), np.zeros(2, bool), np.zeros(3))
    for runs, starts in ((np.zeros(2), None), (np.arange(3), np.zeros(2))):
        with pytest.raises(ValueError, match="labels of runs and starts must be"):
            paired_difference(np.zeros(3, bool), np.zeros(3, bool), runs, starts)
    with pytest.raises(ValueError, match="at least two runs"):
        clustered_interval(np.zeros(3), np.zeros(3))


def test_starts_that_runs_share_are_one_witness():
    """Two runs of the same four starts that agree on every one: the variance is that of four starts."""
    values = np.array([1.0, 0, 0, 0] * 2)
    runs, starts = np.repeat([0, 1], 4), np.tile([0, 1, 2, 3], 2)
    assert clustered_interval(values, runs) == (0.25, 0.25)
    low, high = clustered_interval(values, runs, starts)
    # Residuals over 8: 3/4, -1/4 ...; squared sums of a start are 4 times those of a pair.
    pairs = 2 * (0.75**2 + 3 * 0.25**2) / 64
    variance = (4 / 2 * pairs) * 4 / 3 - pairs
    assert high - 0.25 == pytest.approx(t.ppf(0.975, 1) * math.sqrt(variance)) == pytest.approx(0.25 - low)


def test_starts_of_their_own_change_little():
    """Where no run shares a start, the second clustering adds next to nothing."""
    rng = np.random.default_rng(0)
    values, runs = rng.random(400), np.repeat(np.arange(8), 50)
    alone = clustered_interval(values, runs)
    assert clustered_interval(values, runs, np.arange(400)) == pytest.approx(alone, rel=2e-3)


@settings(max_examples=60)
@given(OUTCOMES)
def test_shared_starts_never_narrow_an_interval(outcomes):
    first, second, runs = (np.array(x) for x in zip(*outcomes, strict=True))
    starts = np.arange(len(first)) // 3
    without, found = paired_difference(first, second, runs), paired_difference(first, second, runs, starts)
    assert found.low <= without.low + 1e-12 and without.high - 1e-12 <= found.high
    assert found.difference == without.difference


def test_run_means_by_label():
    assert run_means(np.array([1.0, 0.0, 3.0]), np.array(["b", "b", "a"])).tolist() == [3.0, 0.5]


# Progress (Table III).


def test_progress_is_the_mean_share_of_an_episode():
    assert progress([4, 2, 0], [4, 4, 4]) == pytest.approx(0.5)
    assert progress([1, 5], [2, 5]) == pytest.approx(0.75)


@pytest.mark.parametrize(("done", "total"), [([], []), ([5], [4]), ([-1], [4]), ([0], [0]), ([1, 2], [3])])
def test_progress_refuses(done, total):
    with pytest.raises(ValueError):
        progress(done, total)
