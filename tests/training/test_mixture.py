"""Batches as a function of the step: shares, epochs, slices."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igrft.errors import UsageError
from igrft.training.mixture import BatchPlan

arguments = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(1, 60), min_size=n, max_size=n),
        st.lists(st.sampled_from([0.1, 0.25, 0.3, 1.0, 2.0, 7.5]), min_size=n, max_size=n),
        st.integers(1, 24),
        st.integers(0, 5),
    )
)
plans = arguments.map(lambda a: BatchPlan(*a))


def drawn(plan: BatchPlan, steps: int) -> list[np.ndarray]:
    """Positions drawn from each dataset, in order."""
    batches = [plan.batch(s) for s in range(steps)]
    dataset, position = (np.concatenate(x) for x in zip(*batches, strict=True))
    return [position[dataset == d] for d in range(len(plan.sizes))]


def test_equal_parts_are_exact() -> None:
    plan = BatchPlan([100, 7], [1, 1], 8, seed=0)
    for step in range(50):
        dataset, position = plan.batch(step)
        assert np.bincount(dataset).tolist() == [4, 4]
        assert (position < np.array([100, 7])[dataset]).all()


def test_a_share_that_is_no_integer_is_met_over_time() -> None:
    plan = BatchPlan([5, 5, 5], [1, 1, 1], 4, seed=0)
    counts = np.array([np.bincount(plan.batch(s)[0], minlength=3) for s in range(300)])
    assert counts.sum(axis=0).tolist() == [400, 400, 400]
    assert counts.min() >= 0 and counts.max() <= 2
    # An integer share stays exact beside others that are not.
    mixed = BatchPlan([9, 9, 9], [0.5, 0.2, 0.3], 6, seed=0)
    assert {int((mixed.batch(s)[0] == 0).sum()) for s in range(100)} == {3}


@given(plans, st.integers(0, 10**7))
def test_shares_hold_in_the_long_run(plan: BatchPlan, step: int) -> None:
    found = plan.drawn(step)
    assert sum(found) == step * plan.batch_size
    for count, share in zip(found, plan.shares, strict=True):
        assert abs(Fraction(count) - step * plan.batch_size * share) < len(plan.shares)
    after = plan.drawn(step + 1)
    for before, later, share in zip(found, after, plan.shares, strict=True):
        assert later >= before
        if (plan.batch_size * share).denominator == 1:
            assert later - before == plan.batch_size * share


@settings(max_examples=60)
@given(plans)
def test_every_frame_is_seen_once_an_epoch(plan: BatchPlan) -> None:
    steps = 3 * max(plan.sizes) // plan.batch_size + 3
    for size, positions in zip(plan.sizes, drawn(plan, steps), strict=True):
        for start in range(0, len(positions), size):
            epoch = positions[start : start + size]
            assert len(np.unique(epoch)) == len(epoch)
            assert ((epoch >= 0) & (epoch < size)).all()


@settings(max_examples=60)
@given(plans, st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_slices_partition_the_batch(plan: BatchPlan, step: int, world: int, accumulation: int) -> None:
    if plan.batch_size % (world * accumulation):
        with pytest.raises(UsageError, match=rf"batch_size {plan.batch_size} cannot be divided by {world} processes"):
            plan.part(step, 0, world, 0, accumulation)
        return
    parts = [plan.part(step, r, world, a, accumulation) for a in range(accumulation) for r in range(world)]
    whole = plan.batch(step)
    for i in range(2):
        np.testing.assert_array_equal(np.concatenate([p[i] for p in parts]), whole[i])


@settings(max_examples=30)
@given(arguments, st.integers(0, 10**6))
def test_a_batch_is_a_function_of_its_step(arguments: tuple, step: int) -> None:
    used = BatchPlan(*arguments)
    for earlier in (step + 3, 0, step // 2):
        used.batch(earlier)
    for a, b in zip(used.batch(step), BatchPlan(*arguments).batch(step), strict=True):
        np.testing.assert_array_equal(a, b)


def test_slices_are_mixed_alike() -> None:
    plan = BatchPlan([1000, 1000], [3, 1], 32, seed=0)
    for rank in range(4):
        assert np.bincount(plan.part(5, rank, 4)[0]).tolist() == [6, 2]


def test_epochs_datasets_and_seeds_differ() -> None:
    plan = BatchPlan([50, 50], [1, 1], 100, seed=0)
    first, second = plan.batch(0), plan.batch(1)
    orders = [p[d == k] for d, p in (first, second) for k in (0, 1)]
    orders.append(BatchPlan([50, 50], [1, 1], 100, seed=1).batch(0)[1][first[0] == 0])
    assert len({tuple(o.tolist()) for o in orders}) == 5
    assert all(sorted(o.tolist()) == list(range(50)) for o in orders)


def test_a_late_step_is_cheap() -> None:
    plan = BatchPlan([200_000, 300_000], [0.7, 0.3], 64, seed=0)
    start = time.perf_counter()
    dataset, _ = plan.batch(1_000_000)
    assert time.perf_counter() - start < 1.0
    assert len(dataset) == 64


def test_what_cannot_be_planned_is_refused() -> None:
    for sizes, weights, size in (([], [], 4), ([3], [1, 1], 4), ([0], [1], 4), ([3], [0.0], 4), ([3], [1], 0)):
        with pytest.raises(ValueError, match="weights|must be"):
            BatchPlan(sizes, weights, size, 0)
    with pytest.raises(ValueError, match="not be negative"):
        BatchPlan([3], [1], 2, 0).batch(-1)
