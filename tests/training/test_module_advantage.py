"""Advantages in the loop: those of the pure maths, whoever judges, and what an ablation changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_actor import LinearActor, gradients, step_batch
from tiny_modules import flows, reading, recipe, trained

from igrft import rewards
from igrft.training.lora import trainable
from igrft.training.module import TrainingModule, value_weights


def episode(
    length: int, steps: int, gamma: float, weights: tuple[float, float], seed: int
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Batch of all frames of an episode, its weighted rewards and weighted values, float64 [T]."""
    random = np.random.default_rng(seed)
    parts = random.uniform(0, 1, size=(2, length))
    values = random.normal(size=(length, 3))
    reward = rewards.combine(parts[0], parts[1], *weights)
    value = rewards.combine(values[:, 0], values[:, 1], *weights)
    frames = np.arange(length)
    states = torch.tensor(values, dtype=torch.float32)
    batch = {
        "states": states,
        "later": states[np.minimum(frames + steps, length - 1)],
        "reward_sum": rewards.n_step_advantages(reward, np.zeros(length), steps, gamma).astype(np.float32),
        "bootstrap": np.where(frames + steps < length, gamma**steps, 0).astype(np.float32),
    }
    return batch, reward, value


# The advantage.


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 35),
    st.sampled_from([1.0, 0.97, 0.5]),
    st.sampled_from([(0.4, 0.6), (0.0, 1.0), (1.0, 0.0), (0.25, 2.0)]),
    st.integers(0, 1000),
)
def test_advantages_in_the_loop_are_those_of_the_pure_maths(length, steps, gamma, weights, seed):
    inputs, reward, value = episode(length, steps, gamma, weights, seed)
    actor, module = reading(
        objective__type="ig_awr",
        objective__beta=0.7,
        rewards__trajectory_weight=weights[0],
        rewards__subtask_weight=weights[1],
    )
    out = module(step_batch(actor=actor, **inputs))
    expected = rewards.n_step_advantages(reward, value, steps, gamma)
    np.testing.assert_allclose(out["sample/advantage"].numpy(), expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(
        out["sample/weight"].numpy(), rewards.advantage_weights(expected, 0.7, 10.0), rtol=1e-3, atol=1e-5
    )


def test_past_the_end_nothing_is_awaited():
    """With a bootstrap of 0 the later observation has no word, whatever its value."""
    actor, module = reading(objective__type="ig_awr")
    states = torch.tensor([[0.5, 0.25, 0.0], [1.0, 2.0, 0.0]])
    later = torch.tensor([[2.0, 1.0, 0.0], [1e6, -1e6, 0.0]])
    batch = step_batch(states, later, actor=actor, reward_sum=[0.125, 0.25], bootstrap=[1.0, 0.0])
    first = 0.125 + (0.4 * 2 + 0.6 * 1) - (0.4 * 0.5 + 0.6 * 0.25)
    last = 0.25 - (0.4 * 1 + 0.6 * 2)
    assert module(batch)["sample/advantage"].tolist() == pytest.approx([first, last], rel=1e-6)


def test_advantages_of_columns_are_taken_as_they_stand():
    """No second look, no later observation; the critic learns alongside all the same."""
    actor, module = trained(objective__type="ig_awr", advantage__source="columns")
    assert not module.needs_next and module.judge is None
    batch = step_batch(torch.randn(4, 3), actor=actor, advantage=[-0.1, 0.0, 0.05, 1.0])
    out = module(batch)
    assert out["sample/advantage"].tolist() == pytest.approx([-0.1, 0.0, 0.05, 1.0])
    assert out["sample/weight"].tolist() == pytest.approx([np.exp(-2), 1.0, np.e, 10.0], rel=1e-5)
    assert len(actor.seen) == 1 and "loss_critic" in out


def test_columns_need_no_critic():
    actor = LinearActor()
    settings = recipe(objective__type="awr", advantage__source="columns", critic__enabled=False)
    module = TrainingModule(actor, None, (), settings)
    batch = step_batch(torch.randn(3, 3), actor=actor, advantage=[0.0, 0.05, -0.05])
    out = module(batch)
    expected = (flows(actor, batch) * torch.tensor([1, np.e, 1 / np.e])).mean()
    assert out["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert "loss_critic" not in out and "sample/value_trajectory" not in out


def test_the_judge_looks_once_now_and_once_later():
    actor, module = trained(objective__type="ig_awr")
    batch = step_batch(torch.randn(3, 3), torch.randn(3, 3), actor=actor)
    assert module.needs_next
    module(batch)
    assert actor.seen == [batch.observation, batch.next_observation]


def test_no_gradient_flows_through_weights_or_values():
    """Neither the critic's parameters nor the later observation feel the actor's loss."""
    actor, module = trained(objective__type="ig_awr", objective__beta=1.0)
    later = torch.randn(4, 3, requires_grad=True)
    batch = step_batch(torch.randn(4, 3), later, actor=actor, critic=torch.zeros(4, dtype=torch.bool))
    found = gradients(module, module(batch)["loss"])
    assert later.grad is None
    assert all(g is None or not g.any() for n, g in found.items() if n.startswith("critic."))
    assert found["policy.flow.weight"].any()


# Ablations.


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0)])
def test_an_ablation_changes_the_advantage_and_nothing_else(weights):
    inputs, reward, value = episode(12, 4, 1.0, weights, 3)
    full, _, _ = episode(12, 4, 1.0, (0.4, 0.6), 3)
    found = {}
    for name, (a, b), given_ in (("full", (0.4, 0.6), full), ("ablation", weights, inputs)):
        actor, module = reading(
            objective__type="ig_awr", rewards__trajectory_weight=a, rewards__subtask_weight=b, objective__beta=1.0
        )
        out = module(step_batch(actor=actor, **given_))
        found[name] = out, gradients(module, out["loss"])
    one, other = found["full"][0], found["ablation"][0]
    assert {k for k in one if not torch.equal(one[k], other[k])} == {
        "loss",
        "loss_flow",
        "sample/advantage",
        "sample/weight",
    }
    assert torch.equal(found["full"][1]["critic.scale"], found["ablation"][1]["critic.scale"])
    np.testing.assert_allclose(
        other["sample/advantage"], rewards.n_step_advantages(reward, value, 4), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("kind", "reward", "expected"),
    [
        ("ig_awr", "hybrid", (0.3, 0.7)),
        ("sft", "hybrid", (0.3, 0.7)),
        ("awr", "sparse", (1.0, 0.0)),
        ("iql", "sparse", (1.0, 0.0)),
        ("iql", "hybrid", (1.0, 0.0)),
    ],
)
def test_which_heads_make_the_value(kind, reward, expected):
    settings = recipe(
        objective__type=kind, rewards__kind=reward, rewards__trajectory_weight=0.3, rewards__subtask_weight=0.7
    )
    assert value_weights(settings) == expected


def test_the_sparse_reward_is_judged_by_the_trajectory_head_alone():
    actor, module = reading(objective__type="awr", rewards__kind="sparse")
    states, later = torch.tensor([[0.25, 100.0, 0.0]]), torch.tensor([[0.5, -100.0, 0.0]])
    out = module(step_batch(states, later, actor=actor, reward_sum=[0.0], bootstrap=[1.0]))
    assert out["sample/advantage"].tolist() == [0.25]


# Who judges.


def test_the_latest_critic_judges_unless_told_otherwise():
    actor, module = reading(objective__type="ig_awr")
    assert module.judge is None and module.frozen() == {}
    batch = step_batch(torch.ones(1, 3), torch.ones(1, 3), actor=actor, reward_sum=[0.0], bootstrap=[0.0])
    assert module(batch)["sample/advantage"].tolist() == [-1.0]
    module.critic.scale.data.fill_(3.0)
    assert module(batch)["sample/advantage"].tolist() == [-3.0]


def test_a_judge_is_renewed_every_n_updates():
    actor, module = reading(objective__type="ig_awr", advantage__refresh=3)
    batch = step_batch(torch.ones(1, 3), torch.full((1, 3), 2.0), actor=actor, reward_sum=[0.0], bootstrap=[1.0])
    judged = []
    for update in range(1, 8):
        module.critic.scale.data.fill_(float(10 * update))
        module.refresh(update)
        out = module(batch)
        # (2 - 1) times the judge's scale; what is recorded and learnt is the critic's own.
        judged.append(out["sample/advantage"].item())
        assert out["sample/value_trajectory"].tolist() == [10 * update]
    assert judged == pytest.approx([1, 1, 30, 30, 30, 60, 60])
    assert list(module.frozen()) == ["judge"]


def test_copies_are_no_part_of_what_is_trained():
    actor, module = trained(q=True, objective__type="iql", critic__patience=2)
    assert set(module.frozen()) == {"target_q", "best"}
    names = set(trainable(module))
    assert not any(n.split(".")[0] in ("judge", "target_q", "best") for n in names)
    assert {n.split(".")[0] for n in names} == {"policy", "critic"}
    out = module(step_batch(torch.randn(3, 3), torch.randn(3, 3), actor=actor))
    found = gradients(module, out["loss"])
    assert all(g is None for n, g in found.items() if n.split(".")[0] in ("target_q", "best"))
    for mine, copied in ((module.critic.chunk_q, module.target_q), (module.critic, module.best)):
        pairs = zip(mine.state_dict().values(), copied.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)


def test_no_copy_where_the_advantage_comes_from_columns():
    _, module = trained(objective__type="ig_awr", advantage__source="columns", advantage__refresh=10)
    assert module.frozen() == {}
