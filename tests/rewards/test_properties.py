"""Properties of the maths over generated episodes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igrft.rewards import (
    advantage_weights,
    n_step_advantages,
    return_to_go,
    subtask_rewards,
    subtask_weights,
    trajectory_rewards,
)


@st.composite
def episodes(draw):
    length = draw(st.integers(1, 400))
    ends = sorted(draw(st.lists(st.integers(1, length), min_size=1, max_size=8)))
    ends[-1] = length
    raw = np.array(draw(st.lists(st.floats(0.01, 10), min_size=len(ends), max_size=len(ends))))
    done = draw(st.lists(st.booleans(), min_size=len(ends), max_size=len(ends)))
    return length, ends, raw / raw.sum(), np.array(done)


@settings(deadline=None)
@given(episodes(), st.floats(1e-3, 1.0), st.sampled_from(["joint", "each"]))
def test_subtask_rewards_sum_to_the_done_weights(episode, sharpness, normalise):
    length, ends, weights, done = episode
    rewards = subtask_rewards(length, ends, weights, done, sharpness=sharpness, normalise=normalise)
    assert rewards.shape == (length,)
    assert (rewards >= -1e-15).all()
    assert rewards.sum() == pytest.approx(weights[done].sum(), abs=1e-9)


def test_each_pays_every_subtask_its_weight():
    """Under one constant the last subtask pays about half of the others; `each` mends that."""
    joint = subtask_rewards(300, [100, 200, 300], [1 / 3] * 3)
    each = subtask_rewards(300, [100, 200, 300], [1 / 3] * 3, normalise="each")
    # Sum around each end, +- 15 % of the episode: 7 epsilons on either side.
    around = lambda r, e: r[max(0, e - 45) : e + 45].sum()  # noqa: E731
    assert around(joint, 300) / around(joint, 100) == pytest.approx(0.5, abs=0.01)
    assert around(each, 300) / around(each, 100) == pytest.approx(1.0, abs=0.01)


@given(st.integers(1, 500), st.booleans())
def test_trajectory_rewards_sum_to_success(length, success):
    assert trajectory_rewards(length, success).sum() == pytest.approx(float(success))


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=600), st.floats(0, 1))
def test_return_to_go_is_the_recursion(rewards, discount):
    found = return_to_go(np.array(rewards), discount)
    expected, total = [], 0.0
    for r in reversed(rewards):
        total = r + discount * total
        expected.append(total)
    np.testing.assert_allclose(found, expected[::-1], rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.integers(1, 80), st.floats(0, 1), st.integers(0, 2**32))
def test_n_step_advantages_are_the_sum(rewards, steps, discount, seed):
    r = np.array(rewards)
    v = np.random.default_rng(seed).normal(size=len(r))
    at = lambda a, i: a[i] if i < len(a) else 0.0  # noqa: E731
    expected = [
        sum(discount**j * at(r, f + j) for j in range(steps)) + discount**steps * at(v, f + steps) - v[f]
        for f in range(len(r))
    ]
    np.testing.assert_allclose(n_step_advantages(r, v, steps, discount), expected, rtol=1e-6, atol=1e-6)


def test_a_perfect_value_has_no_advantage():
    rewards = subtask_rewards(120, [40, 120], [0.5, 0.5])
    np.testing.assert_allclose(n_step_advantages(rewards, return_to_go(rewards), 30), 0, atol=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_weights_stay_in_their_range(advantages):
    weights = advantage_weights(np.array(advantages))
    assert ((weights >= 0) & (weights <= 10)).all()


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=12))
def test_weights_sum_to_one_over_distinct_names(segments):
    names, done = zip(*segments, strict=True)
    weights = subtask_weights(names, done)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights > 0).sum() == len(set(names))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subtask_rewards(0, [], []), "at least one frame"),
        (lambda: subtask_rewards(5, [5], [1.0], sharpness=0.0), "sharpness"),
        (lambda: subtask_rewards(5, [5, 5], [1.0]), "shape"),
        (lambda: subtask_rewards(5, [5], [1.0], normalise="x"), "normalise"),
        (lambda: return_to_go(np.ones(3), 1.5), "discount"),
        (lambda: n_step_advantages(np.ones(3), np.ones(3), 0), "steps"),
        (lambda: advantage_weights(np.ones(3), beta=0.0), "beta"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
