"""The memory estimate: counted by hand on tiny modules."""

from __future__ import annotations

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from tiny_actor import LinearActor, step_batch
from torch import nn

from igrft.models.critic import Critic, CriticConfig
from igrft.models.state_flow import StateFlowActor, StateFlowConfig, StateFlowPolicy
from igrft.training.memory import MemoryEstimate, estimate, kept_by_autograd, meta_batch, parameters
from igrft.training.module import ACTION, TrainingModule
from igrft.training.recipe import Recipe


def recipe(kind: str = "sft", **optimizer) -> Recipe:
    made = Recipe()
    made.objective.type = kind
    for name, value in optimizer.items():
        setattr(made.optimizer, name, value)
    return made


def linear(kind: str = "sft", **critic) -> TrainingModule:
    actor = LinearActor()
    made = recipe(kind)
    for name, value in critic.items():
        setattr(made.critic, name, value)
    sizes = CriticConfig(feature_width=6, blocks=1, queries=2, width=8, heads=2, hidden=4)
    return TrainingModule(actor, Critic(sizes), (0,), made)


def test_the_parts_by_hand():
    """float32: 4 bytes of weight, 4 of gradient, 8 of AdamW's moments, 4 of average a trained parameter."""
    module = linear()
    module.policy.encoder.requires_grad_(False)
    total, trained = (sum(p.numel() for p in x) for x in (module.parameters(), wanted(module)))
    found = estimate(module, recipe(), 1000)
    assert found == MemoryEstimate(4 * total, 4 * trained, 8 * trained, 4 * trained, 1000)
    assert found.total == 4 * total + 16 * trained + 1000 + 1e9
    assert parameters(module.policy)["trained"] < parameters(module.policy)["parameters"]


def wanted(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def test_averages_elsewhere_or_nowhere_take_nothing():
    module = linear()
    assert estimate(module, recipe(ema=None), None).averages == 0
    assert estimate(module, recipe(ema_device="cpu"), None).averages == 0
    assert estimate(module, recipe(ema=None), None).total == estimate(module, recipe(ema=None), 0).total


def test_half_precision_takes_half_but_for_the_averages():
    single = estimate(linear(), recipe(), 0)
    half = estimate(linear().bfloat16(), recipe(), 0)
    assert (half.weights, half.gradients, half.optimizer) == (
        single.weights // 2,
        single.gradients // 2,
        single.optimizer // 2,
    )
    assert half.averages == single.averages


def test_copies_take_weights_and_nothing_else():
    plain, copied = estimate(linear(), recipe(), 0), estimate(linear(patience=3), recipe(), 0)
    critic = 4 * sum(p.numel() for p in linear().critic.parameters())
    assert copied.weights == plain.weights + critic
    assert (copied.gradients, copied.averages) == (plain.gradients, plain.averages)


def test_sharding_divides_all_but_activations():
    made = recipe()
    alone = estimate(linear(), made, 600, processes=4)
    made.sharding = "fsdp"
    spread = estimate(linear(), made, 600, processes=4)
    assert (spread.weights, spread.optimizer) == (alone.weights // 4, alone.optimizer // 4)
    assert spread.activations == alone.activations == 600


def test_what_autograd_keeps_grows_with_the_batch():
    module = linear()
    actor = module.__dict__["actor"]
    kept = [kept_by_autograd(module, step_batch(torch.randn(n, 3), actor=actor)) for n in (1, 2, 4)]
    assert 0 < kept[0] < kept[1] < kept[2]
    assert kept[2] - kept[1] == pytest.approx(2 * (kept[1] - kept[0]), rel=0.1)


def test_frozen_layers_keep_less():
    module = linear()
    batch = step_batch(torch.randn(4, 3), actor=module.__dict__["actor"])
    whole = kept_by_autograd(module, batch)
    module.critic.requires_grad_(False)
    assert kept_by_autograd(module, batch) < whole


def state_flow(kind: str, device: str) -> tuple[StateFlowActor, TrainingModule]:
    config = StateFlowConfig(
        device="cpu",
        chunk_size=4,
        n_action_steps=4,
        width=16,
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (3,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
    )
    config.device = device  # LeRobot would not hear of "meta"
    with torch.device(device):
        actor = StateFlowActor(StateFlowPolicy(config))
        q = {"chunk_size": 4, "action_dim": 2} if kind == "iql" else {}
        critic = Critic(CriticConfig(feature_width=16, blocks=2, queries=2, width=8, heads=2, hidden=4, **q))
        return actor, TrainingModule(actor, critic, (1, 2), recipe(kind))


@pytest.mark.parametrize("kind", ["sft", "ig_awr", "iql"])
def test_a_run_on_shapes_alone_keeps_what_a_real_one_does(kind):
    actor, module = state_flow(kind, "meta")
    batch = meta_batch(actor, module.recipe, 5, 1, 1)
    assert batch.noise.is_meta and batch.observation[ACTION].shape == (5, 4, 2)
    assert (batch.next_observation is not None) is module.needs_next is (kind != "sft")
    assert batch.targets is None
    found = kept_by_autograd(module, batch)
    real_actor, real = state_flow(kind, "cpu")
    like = meta_batch(real_actor, real.recipe, 5, 1, 1)
    for part in (like.observation, like.next_observation or {}, like.labels):
        part.update({n: torch.zeros_like(t, device="cpu") for n, t in part.items()})
    like.padded, like.noise, like.time = (
        torch.zeros_like(t, device="cpu") for t in (like.padded, like.noise, like.time)
    )
    assert found == pytest.approx(kept_by_autograd(real, like), rel=0.05)
