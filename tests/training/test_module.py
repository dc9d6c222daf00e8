"""What the losses of a step are made of, and what must not touch what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_actor import gradients, same_gradients, step_batch
from tiny_modules import flows, reading, trained

from igrft.models.protocol import TextTargets
from igrft.training.module import ACTION

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
