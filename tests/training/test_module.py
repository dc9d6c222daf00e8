"""Objectives: what the losses of a step are made of, and what must not touch what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_actor import STATE, LinearActor, gradients, same_gradients, step_batch
from torch import Tensor, nn

from igrft import rewards
from igrft.models.critic import Critic, CriticConfig, CriticOutput
from igrft.models.protocol import Features, TextTargets
from igrft.training.lora import trainable
from igrft.training.losses import expectile_loss, masked_flow_loss
from igrft.training.module import ACTION, TrainingModule, value_weights
from igrft.training.recipe import Recipe

LAYERS = (0, 2)


def recipe(**settings: Any) -> Recipe:
    """Dotted settings, with two underscores for the dot."""
    made = Recipe()
    for key, value in settings.items():
        holder, _, name = key.rpartition("__")
        target = getattr(made, holder) if holder else made
        assert hasattr(target, name), key
        setattr(target, name, value)
    return made


class ReadingActor(LinearActor):
    """Its features are the state itself."""

    def prefix(self, batch, layers, targets=None):
        prefix = super().prefix(batch, layers, targets)
        tokens = batch[STATE][:, None]
        prefix.features = Features([tokens], [tokens], torch.ones(tokens.shape[:2], dtype=torch.bool))
        return prefix


class ReadingCritic(nn.Module):
    """Values that stand in the first two numbers of the state, times ``scale``."""

    chunk_q = None

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, features: Features) -> CriticOutput:
        seen = features.detached().keys[0][:, 0] * self.scale
        return CriticOutput(seen[:, 0], seen[:, 1], seen[:, 2], seen)


def reading(critic: ReadingCritic | None = None, **settings: Any) -> tuple[ReadingActor, TrainingModule]:
    actor = ReadingActor()
    return actor, TrainingModule(actor, critic or ReadingCritic(), (0,), recipe(**settings))


def trained(actor: LinearActor | None = None, q: bool = False, **settings: Any) -> tuple[LinearActor, TrainingModule]:
    """The linear actor with a small critic of the real kind."""
    actor = actor or LinearActor()
    torch.manual_seed(1)
    sizes = CriticConfig(
        feature_width=actor.feature_width,
        blocks=len(LAYERS),
        queries=2,
        width=8,
        heads=2,
        hidden=4,
        chunk_size=actor.chunk_size if q else 0,
        action_dim=actor.action_width if q else 0,
    )
    return actor, TrainingModule(actor, Critic(sizes), LAYERS, recipe(**settings))


def flows(actor: LinearActor, batch) -> Tensor:
    """The flow loss of each sample, by the actor itself."""
    prefix = actor.prefix(batch.observation, LAYERS)
    error = actor.flow_error(prefix, batch.observation[ACTION], batch.noise, batch.time)
    return masked_flow_loss(error, batch.padded).detach()


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


# The actor's loss.


def test_the_weighted_loss_by_hand():
    actor, module = trained(objective__type="awr", advantage__source="columns", objective__beta=0.5)
    advantage = torch.tensor([0.3, -0.2, 5.0, 0.0])
    batch = step_batch(torch.randn(4, 3), actor=actor, advantage=advantage)
    out = module(batch)
    weights = torch.tensor([np.exp(0.6), np.exp(-0.4), 10.0, 1.0], dtype=torch.float32)
    torch.testing.assert_close(out["sample/weight"], weights)
    torch.testing.assert_close(out["sample/loss"], flows(actor, batch))
    torch.testing.assert_close(out["loss_flow"], (flows(actor, batch) * weights).mean())


def test_sft_weighs_everything_alike():
    actor, module = trained(objective__type="sft")
    assert not module.needs_next
    batch = step_batch(torch.randn(4, 3), actor=actor, intervention=[True, False, True, False])
    out = module(batch)
    torch.testing.assert_close(out["loss_flow"], flows(actor, batch).mean())
    assert "sample/advantage" not in out and "sample/weight" not in out
    assert len(actor.seen) == 2  # one is this test's own


def test_the_floor_of_interventions():
    settings = {"objective__type": "ig_awr", "advantage__source": "columns"}
    advantage, corrected = [-1.0, -1.0, 1.0, 0.0], [True, False, True, False]
    weights = {}
    for floor in (0.0, 1.0):
        actor, module = trained(**settings, objective__intervention_floor=floor)
        batch = step_batch(torch.zeros(4, 3), actor=actor, advantage=advantage, intervention=corrected)
        weights[floor] = module(batch)["sample/weight"].tolist()
    low = float(np.exp(-20))
    assert weights[0.0] == pytest.approx([low, low, 10, 1], rel=1e-4)
    assert weights[1.0] == pytest.approx([1, low, 10, 1], rel=1e-4)


def test_normalised_weights_have_a_mean_of_one():
    settings = {"objective__type": "ig_awr", "advantage__source": "columns"}
    found = {}
    for normalise in (False, True):
        actor, module = trained(**settings, objective__normalise_weights=normalise)
        batch = step_batch(torch.ones(3, 3), actor=actor, advantage=[0.0, 0.05, -0.1])
        found[normalise] = module(batch)
    weights = found[True]["sample/weight"]
    # What is recorded is Eq. 3's weight, in both.
    assert torch.equal(weights, found[False]["sample/weight"])
    expected = (found[True]["sample/loss"] * weights).sum() / weights.sum()
    assert found[True]["loss_flow"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert found[False]["loss_flow"].item() == pytest.approx(expected.item() * weights.mean().item(), rel=1e-6)


def test_normalising_weights_that_are_all_nothing_stays_finite():
    actor, module = trained(
        objective__type="awr", advantage__source="columns", objective__normalise_weights=True, objective__beta=0.01
    )
    batch = step_batch(torch.ones(2, 3), actor=actor, advantage=[-50.0, -60.0])
    assert torch.isfinite(module(batch)["loss"])


@pytest.mark.parametrize("insulate", [True, False])
def test_insulation_keeps_the_flow_loss_out_of_the_encoder(insulate):
    actor, module = trained(objective__insulate=insulate)
    found = gradients(module, module(step_batch(torch.randn(3, 3), actor=actor))["loss"])
    assert actor.insulated == [insulate]
    felt = found["policy.encoder.2.weight"]
    assert (felt is not None and bool(felt.any())) is not insulate
    assert found["policy.flow.weight"].any()


@pytest.mark.parametrize(("insulate", "text", "graded"), [(1, 1, True), (1, 0, False), (0, 1, True), (0, 0, True)])
def test_a_prefix_that_learns_nothing_keeps_no_gradient(insulate, text, graded):
    """Nor does the later observation's; the critic and the expert learn all the same."""
    actor, module = trained(objective__type="ig_awr", objective__insulate=bool(insulate))
    targets = TextTargets(torch.ones(3, 1, dtype=torch.int64), torch.ones(3, 1, dtype=torch.bool)) if text else None
    out = module(step_batch(torch.randn(3, 3), torch.randn(3, 3), actor=actor, targets=targets))
    assert actor.graded == [graded, False]
    found = gradients(module, out["loss"])
    assert found["policy.flow.weight"].any() and found["critic.trajectory.0.weight"].any()
    with torch.no_grad():
        assert not module(step_batch(torch.randn(3, 3), torch.randn(3, 3), actor=actor))["loss"].requires_grad


def test_the_text_loss_has_its_weight():
    targets = TextTargets(torch.tensor([[1, 2], [3, 0], [0, 0]]), torch.tensor([[1, 1], [1, 0], [0, 0]]).bool())
    losses = {}
    for weight in (0.0, 1.0, 2.5):
        actor, module = trained(objective__text_weight=weight, critic__enabled=False)
        out = module(step_batch(torch.ones(3, 3), actor=actor, targets=targets))
        losses[weight] = out["loss"].item()
        assert 0 <= out["text_correct"] <= 1
    text = out["loss_text"].item()
    assert losses[1.0] - losses[0.0] == pytest.approx(text, rel=1e-4)
    assert losses[2.5] - losses[0.0] == pytest.approx(2.5 * text, rel=1e-4)
    assert "loss_text" not in module(step_batch(torch.ones(3, 3), actor=actor))


@pytest.mark.parametrize("kind", ["sft", "ig_awr", "iql"])
def test_the_loss_is_the_sum_of_its_parts(kind):
    actor, module = trained(q=kind == "iql", objective__type=kind, objective__text_weight=0.5)
    targets = TextTargets(torch.ones(4, 1, dtype=torch.int64), torch.ones(4, 1, dtype=torch.bool))
    out = module(step_batch(torch.randn(4, 3), torch.randn(4, 3), actor=actor, targets=targets))
    parts = {
        "sft": ("value_trajectory", "value_subtask", "interaction"),
        "ig_awr": ("value_trajectory", "value_subtask", "interaction"),
        "iql": ("v", "q", "interaction"),
    }[kind]
    assert {k for k in out if k.startswith("loss_")} == {
        "loss_flow",
        "loss_text",
        "loss_critic",
        *(f"loss_{p}" for p in parts),
    }
    torch.testing.assert_close(out["loss_critic"], sum(out[f"loss_{p}"] for p in parts))
    torch.testing.assert_close(
        out["loss"].detach(), out["loss_flow"] + 0.5 * out["loss_text"] + out["loss_critic"], rtol=1e-6, atol=1e-6
    )
    assert out["loss"].requires_grad
    assert not any(v.requires_grad for k, v in out.items() if k != "loss")
    shapes = {k: tuple(v.shape) for k, v in out.items()}
    assert all(s == ((4,) if k.startswith("sample/") else ()) for k, s in shapes.items())


# Padding.


@pytest.mark.parametrize("kind", ["sft", "ig_awr", "iql"])
def test_padded_actions_change_no_loss_and_no_gradient(kind):
    padded = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    states, later = torch.randn(3, 3), torch.randn(3, 3)
    found = []
    for fill in (0.0, -7.5, 1e4):
        actor, module = trained(q=kind == "iql", objective__type=kind, objective__insulate=False)
        batch = step_batch(states, later, actor=actor, padded=padded)
        batch.observation[ACTION][padded] = fill
        out = module(batch)
        found.append((out["loss"].item(), out["sample/loss"], gradients(module, out["loss"])))
    for loss, each, felt in found[1:]:
        assert loss == found[0][0] and torch.equal(each, found[0][1])
        assert same_gradients(felt, found[0][2])


# The critic's loss.


def test_the_critic_learns_unweighted_returns_of_the_frames_that_are_its_own():
    actor, module = reading(rewards__trajectory_weight=0.1, rewards__subtask_weight=0.2)
    states = torch.tensor([[0.5, 0.0, 0.0], [1.0, 3.0, 9.0], [0.0, 0.25, 0.0], [7.0, 7.0, 7.0]])
    mask = [True, False, True, False]
    batch = step_batch(
        states,
        actor=actor,
        return_trajectory=[1.0, 0, 0, 0],
        return_subtask=[0.0, 0, 0.75, 0],
        interaction=[1.0, 0, 0, 0],
        critic=mask,
    )
    out = module(batch)
    assert out["loss_value_trajectory"].item() == pytest.approx(0.25 / 4)
    assert out["loss_value_subtask"].item() == pytest.approx(0.25 / 4)
    assert out["loss_interaction"].item() == pytest.approx(2 * np.log(2) / 4)
    assert out["sample/value_trajectory"].tolist() == [0.5, 1, 0, 7]
    assert out["sample/value_subtask"].tolist() == [0, 3, 0.25, 7]
    assert out["sample/interaction_probability"][1].item() == pytest.approx(1 / (1 + np.exp(-9)))


@pytest.mark.parametrize("kind", ["sft", "ig_awr", "iql"])
def test_held_out_frames_train_the_actor_and_not_the_critic(kind):
    states, later = torch.randn(4, 3), torch.randn(4, 3)
    mask = torch.tensor([True, True, False, False])
    found = []
    for value in (0.5, 123.0):
        actor, module = trained(q=kind == "iql", objective__type=kind, objective__weight_limit=1.0)
        batch = step_batch(states, later, actor=actor, critic=mask)
        for name in ("return_trajectory", "return_subtask", "reward_sum"):
            batch.labels[name][2:] = value
        out = module(batch)
        found.append(gradients(module, out["loss"]))
        assert (out["sample/loss"] > 0).all()
    critic = [{n: g for n, g in f.items() if n.startswith("critic.")} for f in found]
    assert same_gradients(*critic) and any(g.any() for g in critic[0].values())


@pytest.mark.parametrize("kind", ["sft", "awr", "iql"])
def test_the_critics_loss_leaves_the_policy_alone(kind):
    """The policy's gradients are those of a run without critic loss; the critic's those without flow loss."""
    settings = {"objective__type": kind, "objective__insulate": False}
    states, later = torch.randn(4, 3), torch.randn(4, 3)
    actor, module = trained(q=kind == "iql", **settings)
    both = gradients(module, module(step_batch(states, later, actor=actor))["loss"])
    none = torch.zeros(4, dtype=torch.bool)
    alone = gradients(module, module(step_batch(states, later, actor=actor, critic=none))["loss"])
    policy = [{n: g for n, g in f.items() if n.startswith("policy.")} for f in (both, alone)]
    assert same_gradients(*policy)
    everything_padded = torch.ones(4, actor.chunk_size, dtype=torch.bool)
    if kind != "iql":
        flowless = gradients(module, module(step_batch(states, later, actor=actor, padded=everything_padded))["loss"])
        critic = [{n: g for n, g in f.items() if n.startswith("critic.")} for f in (both, flowless)]
        assert same_gradients(*critic)


@pytest.mark.parametrize("kind", ["sft", "ig_awr", "iql"])
def test_two_halves_average_to_the_whole_batch(kind):
    """Losses and gradients of two processes, whatever their masks, are those of one with both batches."""
    actor, module = trained(q=kind == "iql", objective__type=kind, objective__insulate=False)
    states, later = torch.randn(8, 3), torch.randn(8, 3)
    mask = torch.tensor([1, 1, 1, 0, 0, 0, 1, 0]).bool()
    whole = step_batch(states, later, actor=actor, critic=mask)
    parts = []
    for at in (slice(0, 4), slice(4, 8)):
        part = step_batch(states[at], later[at], actor=actor)
        part.observation = {k: v[at] for k, v in whole.observation.items()}
        part.labels = {k: v[at] for k, v in whole.labels.items()}
        part.padded, part.noise, part.time = whole.padded[at], whole.noise[at], whole.time[at]
        out = module(part)
        parts.append((out["loss"].item(), gradients(module, out["loss"])))
    out = module(whole)
    assert out["loss"].item() == pytest.approx((parts[0][0] + parts[1][0]) / 2, rel=1e-5)
    for name, g in gradients(module, out["loss"]).items():
        if g is not None:
            torch.testing.assert_close(g, (parts[0][1][name] + parts[1][1][name]) / 2, rtol=1e-4, atol=1e-6)


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


# IQL.


def iql(**settings: Any) -> tuple[LinearActor, TrainingModule]:
    actor, module = trained(q=True, objective__type="iql", rewards__kind="sparse", **settings)
    # The target lags behind.
    with torch.no_grad():
        for parameter in module.critic.chunk_q.parameters():
            parameter.add_(0.1)
    return actor, module


def test_iql_by_hand():
    """V by the expectile of the target's smaller Q, both Q by r + V(later), weights by Q - V."""
    actor, module = iql(objective__expectile=0.8, objective__beta=0.5, objective__insulate=False)
    padded = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    batch = step_batch(
        torch.randn(4, 3),
        torch.randn(4, 3),
        actor=actor,
        padded=padded,
        reward_sum=[0.0, 0.0, 1.0, 0.5],
        bootstrap=[1.0, 0.9, 0.0, 1.0],
        critic=[True, True, True, False],
    )
    out = module(batch)
    found = gradients(module, out["loss"])

    actions = batch.observation[ACTION]
    features = actor.prefix(batch.observation, LAYERS).features
    later = actor.prefix(batch.next_observation, LAYERS).features
    critic = module.critic
    value = critic(features).trajectory
    target = batch.labels["reward_sum"] + batch.labels["bootstrap"] * critic(later).trajectory.detach()
    assert target[2].item() == 1.0  # at the end of an episode the reward is all there is
    judged = module.target_q(features, actions, padded).amin(dim=1).detach()
    q = critic.chunk_q(features, actions, padded)
    mask = batch.labels["critic"].float()
    loss_v = (expectile_loss(judged - value, 0.8) * mask).sum() / 4
    loss_q = (((q[:, 0] - target) ** 2 + (q[:, 1] - target) ** 2) * mask).sum() / 4
    assert out["loss_v"].item() == pytest.approx(loss_v.item(), rel=1e-5)
    assert out["loss_q"].item() == pytest.approx(loss_q.item(), rel=1e-5)
    torch.testing.assert_close(out["sample/advantage"], (judged - value).detach())
    weights = ((judged - value) / 0.5).exp().clamp_max(10.0).detach()
    torch.testing.assert_close(out["sample/weight"], weights)
    # The losses reach their own parameters alone: V's the trajectory head, Q's the chunk Q.
    for name, g in gradients(module, loss_v + loss_q).items():
        if name.startswith(("critic.trajectory", "critic.chunk_q")):
            torch.testing.assert_close(found[name], g, rtol=1e-4, atol=1e-6)
    assert found["critic.subtask.0.weight"] is None or not found["critic.subtask.0.weight"].any()
    only_v = gradients(module, expectile_loss(judged - critic(features).trajectory, 0.8).sum())
    assert all(g is None for n, g in only_v.items() if n.startswith(("critic.chunk_q", "target_q", "policy")))


def test_the_target_network_follows_at_its_rate():
    _, module = iql(objective__target_rate=0.25)
    source = {n: p.clone() for n, p in module.critic.chunk_q.named_parameters()}
    start = {n: p.clone() for n, p in module.target_q.named_parameters()}
    for update in (1, 2, 3):
        module.refresh(update)
        for name, parameter in module.target_q.named_parameters():
            expected = source[name] + (start[name] - source[name]) * 0.75**update
            torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(p, source[n]) for n, p in module.critic.chunk_q.named_parameters())


def test_the_papers_rate_hardly_moves_the_target():
    _, module = iql()
    before = module.target_q.heads[0][2].weight.clone()
    module.refresh(1)
    moved = (module.target_q.heads[0][2].weight - before) / (module.critic.chunk_q.heads[0][2].weight - before)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.005), rtol=1e-3, atol=0)


def test_iql_judges_in_the_loop_even_where_columns_are_named():
    """Nobody writes its Q into a dataset."""
    actor, module = iql(advantage__source="columns", advantage__refresh=5)
    assert module.needs_next and module.judge is None
    out = module(step_batch(torch.randn(2, 3), torch.randn(2, 3), actor=actor, advantage=[99.0, 99.0]))
    assert (out["sample/advantage"].abs() < 50).all()


def test_other_objectives_have_no_q():
    _, module = trained(objective__type="ig_awr")
    assert module.target_q is None and module.critic.chunk_q is None
    module.refresh(1)
