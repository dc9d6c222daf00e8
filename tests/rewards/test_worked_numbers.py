"""The worked numbers of the method, digit by digit, and figures from other projects' tests."""

from __future__ import annotations

import json

import numpy as np
import pytest

from igrft.rewards import (
    advantage_weights,
    combine,
    exploration_temperature,
    leaves_training_range,
    n_step_advantages,
    return_to_go,
    subtask_rewards,
    subtask_weights,
    trajectory_rewards,
)

R_SUB = [
    0.00061462,
    0.00446165,
    0.02912897,
    0.11018847,
    0.11785336,
    0.08697144,
    0.22297835,
    0.22297835,
    0.08697144,
    0.11785336,
]
R = [
    0.04036877,
    0.04267699,
    0.05747738,
    0.10611308,
    0.11071202,
    0.09218286,
    0.17378701,
    0.17378701,
    0.09218286,
    0.11071202,
]
G = [1, 0.95963123, 0.91695424, 0.85947686, 0.75336377, 0.64265176, 0.5504689, 0.37668189, 0.20289488, 0.11071202]
R_SUB_UNDONE = [
    0.00053792,
    0.00390491,
    0.0254941,
    0.09643791,
    0.10313787,
    0.07604659,
    0.19462001,
    0.19127003,
    0.05077034,
    0.00778032,
]
ADVANTAGE = [
    0.014112,
    -0.15982735,
    -0.18682217,
    -0.04205355,
    0.14137891,
    0.19482825,
    0.0691534,
    -0.06569866,
    -0.09893582,
    -0.04121185,
]
WEIGHT = [1.32609697, 0.0409032, 0.02383874, 0.4312484, 10, 10, 3.98711522, 0.26875013, 0.13824656, 0.43856951]

ENDS, WEIGHTS = [4, 7, 10], [0.25, 0.5, 0.25]


def test_subtask_reward_of_a_success():
    np.testing.assert_allclose(subtask_rewards(10, ENDS, WEIGHTS, sharpness=0.05), R_SUB, atol=5e-9)


def test_hybrid_reward_and_return_of_a_success():
    reward = combine(trajectory_rewards(10, True), subtask_rewards(10, ENDS, WEIGHTS, sharpness=0.05))
    np.testing.assert_allclose(reward, R, atol=5e-9)
    np.testing.assert_allclose(return_to_go(reward), G, atol=5e-9)


def test_an_undone_subtask_earns_nothing():
    rewards = subtask_rewards(10, ENDS, WEIGHTS, [True, True, False], sharpness=0.05)
    np.testing.assert_allclose(rewards, R_SUB_UNDONE, atol=5e-9)
    assert rewards.sum() == pytest.approx(0.75, abs=1e-12)


def test_advantage_and_weight():
    reward = combine(trajectory_rewards(10, True), subtask_rewards(10, ENDS, WEIGHTS, sharpness=0.05))
    value = return_to_go(reward) + 0.1 * np.sin(np.arange(10))
    advantage = n_step_advantages(reward, value, 3)
    np.testing.assert_allclose(advantage, ADVANTAGE, atol=5e-9)
    np.testing.assert_allclose(advantage_weights(advantage), WEIGHT, atol=5e-8)


def test_intervention_floor_lifts_corrections_alone():
    weights = advantage_weights(
        np.array([-1.0, -1.0, 1.0]), interventions=np.array([True, False, True]), intervention_floor=1.0
    )
    np.testing.assert_allclose(weights, [1.0, np.exp(-20.0), 10.0])


def test_exploration_temperature():
    np.testing.assert_allclose(exploration_temperature(np.array([0, 0.25, 0.5, 1])), [1.7, 1.3625, 1.025, 0.35])
    assert leaves_training_range()
    assert not leaves_training_range(sigma_base=0.8)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        exploration_temperature(1.5)


def test_a_retry_is_paid_once_at_its_last_done_segment():
    names, done = ["grasp", "place", "grasp", "place", "place"], [True, False, True, True, False]
    np.testing.assert_allclose(subtask_weights(names, done), [0, 0, 0.5, 0.5, 0])


def test_given_weights_are_renormalised_over_the_episode():
    np.testing.assert_allclose(subtask_weights(["a", "c"], [True, True], {"a": 1, "b": 5, "c": 3}), [0.25, 0.75])
    with pytest.raises(ValueError, match="'c'"):
        subtask_weights(["a", "c"], [True, True], {"a": 1})


def test_returns_against_tianshou(shared_data):
    expected = json.loads((shared_data / "peer_expected_values" / "peer_expected.json").read_text())
    cases = [x for x in expected["tianshou_test_returns"]["cases"] if x["kind"] == "return_to_go"]
    assert len(cases) == 3
    for case in cases:
        rewards, ends = np.array(case["rew"], float), np.flatnonzero(case["done"]) + 1
        ends = ends if len(ends) and ends[-1] == len(rewards) else np.append(ends, len(rewards))
        starts = np.concatenate([[0], ends[:-1]])
        found = np.concatenate([return_to_go(rewards[a:b], case["gamma"]) for a, b in zip(starts, ends, strict=True)])
        np.testing.assert_allclose(found, case["expected"], rtol=1e-12)


def test_n_step_advantages_against_evo_rl(shared_data):
    expected = json.loads((shared_data / "peer_expected_values" / "peer_expected.json").read_text())
    case = expected["evo_rl_pistar06"]["n_step_advantage"]
    found = n_step_advantages(np.array(case["rewards"]), np.array(case["values"]), case["n_step"])
    np.testing.assert_allclose(found, case["expected"], atol=1e-12)
