"""Adapters: who is trained, and that what is saved is the policy that was trained."""

from __future__ import annotations

import re

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from tiny_pi05 import draws, tiny_batch, tiny_policy
from torch import nn

from igrft.errors import UsageError
from igrft.models.pi05 import Pi05Actor
from igrft.models.protocol import TextTargets
from igrft.models.state_flow import StateFlowConfig, StateFlowPolicy
from igrft.training.ema import Ema
from igrft.training.lora import add_adapters, count, merged_state, trainable, whole
from igrft.training.recipe import LoraSettings

LANGUAGE = "model.paligemma_with_expert.paligemma.model.language_model"
PROJECTIONS = (*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down")))
LAYERS = (1, 2)


def adapted(random: bool = True, **settings):
    """A tiny π0.5 with adapters that say something, if ``random``; peft's own say nothing at first."""
    policy = tiny_policy(cameras=1)
    add_adapters(policy, LoraSettings(**{"rank": 4, "alpha": 6, **settings}))
    if random:
        torch.manual_seed(3)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.3)
    return policy


def outputs(policy) -> list[torch.Tensor]:
    actor, batch = Pi05Actor(policy), tiny_batch(cameras=1)
    targets = TextTargets(torch.full((3, 2), 9), torch.ones(3, 2, dtype=torch.bool))
    with torch.no_grad():
        prefix = actor.prefix(batch, LAYERS, targets)
        error = actor.flow_error(prefix, batch["action"], *draws(3))
    return [error, prefix.text_loss, *prefix.features.keys, *prefix.features.values]


def state_flow() -> StateFlowPolicy:
    torch.manual_seed(0)
    return StateFlowPolicy(
        StateFlowConfig(
            device="cpu",
            chunk_size=4,
            n_action_steps=4,
            width=8,
            input_features={"observation.state": PolicyFeature(FeatureType.STATE, (3,))},
            output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        )
    )


def test_adapters_start_as_nothing():
    plain, made = tiny_policy(cameras=1), adapted(random=False)
    for a, b in zip(outputs(plain), outputs(made), strict=True):
        assert torch.equal(a, b)


def test_adapters_stand_on_every_projection_of_the_language_model():
    names = [n for n, _ in adapted().named_parameters() if ".lora_A." in n]
    expected = {f"{LANGUAGE}.layers.{i}.{p}" for i in range(3) for p in PROJECTIONS}
    assert {n.removesuffix(".lora_A.default.weight") for n in names} == expected
    assert len(names) == 3 * 7


def test_only_adapters_and_the_action_expert_are_trained():
    policy = adapted()
    names = set(trainable(policy))
    full = {n for n in names if ".lora_" not in n}
    assert {n for n in names if ".lora_" in n} == {n for n, _ in policy.named_parameters() if ".lora_" in n}
    assert all(".gemma_expert." in n or n.split(".")[1].startswith(("action_", "time_mlp_")) for n in full)
    for part in ("action_in_proj", "action_out_proj", "time_mlp_in", "time_mlp_out"):
        assert {f"model.{part}.weight", f"model.{part}.bias"} <= full
    own = {n for n, _ in policy.named_parameters() if ".gemma_expert." in n}
    assert own and own <= full
    assert not any(".paligemma." in n for n in full)
    total, trained = count(policy)
    assert trained == sum(p.numel() for p in trainable(policy).values()) < total


def test_a_step_moves_what_is_trained_and_nothing_else():
    policy = adapted()
    before = {n: t.clone() for n, t in policy.state_dict().items()}
    actor, batch = Pi05Actor(policy), tiny_batch(cameras=1)
    optimizer = torch.optim.SGD(trainable(policy).values(), lr=0.1)
    prefix = actor.prefix(batch, LAYERS, TextTargets(torch.full((3, 2), 9), torch.ones(3, 2, dtype=torch.bool)))
    loss = actor.flow_error(prefix, batch["action"], *draws(3), insulated=True).mean() + prefix.text_loss.mean()
    loss.backward()
    assert all(p.grad is None for n, p in policy.named_parameters() if n not in trainable(policy))
    optimizer.step()
    moved = {n for n, t in policy.state_dict().items() if not torch.equal(t, before[n])}
    assert moved <= set(trainable(policy))
    # The text loss reaches every adapter, though the flow loss is kept out of the language model.
    assert sum(".lora_A." in n for n in moved) == sum(".lora_B." in n for n in moved) == 3 * 7
    assert any(".gemma_expert." in n for n in moved) and "model.action_out_proj.weight" in moved


def test_merged_weights_act_as_the_adapted_policy():
    policy = adapted()
    expected = outputs(policy)
    before = {n: t.clone() for n, t in policy.state_dict().items()}
    merged = merged_state(policy, {})
    assert all(torch.equal(t, before[n]) for n, t in policy.state_dict().items())
    stock = tiny_policy(cameras=1)
    assert list(merged) == list(stock.state_dict())
    assert all(merged[n].dtype == t.dtype and merged[n].shape == t.shape for n, t in stock.state_dict().items())
    unlike = outputs(stock)
    stock.load_state_dict(merged, strict=True)
    for found, wanted, other in zip(outputs(stock), expected, unlike, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(other, wanted, rtol=1e-2, atol=1e-2)


def test_merging_by_hand():
    """W + alpha / rank · B·A, and what has no adapter as it was."""
    policy = adapted()
    merged, own = merged_state(policy, {}), policy.state_dict()
    name = f"{LANGUAGE}.layers.1.self_attn.q_proj"
    a, b = own[f"{name}.lora_A.default.weight"], own[f"{name}.lora_B.default.weight"]
    assert (a.shape[0], b.shape[1]) == (4, 4)
    torch.testing.assert_close(merged[f"{name}.weight"], own[f"{name}.base_layer.weight"] + 6 / 4 * b @ a)
    assert torch.equal(merged["model.action_in_proj.weight"], own["model.action_in_proj.weight"])


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (8, 2.0), (2, 0.5)])
def test_alpha_is_the_rank_unless_given(alpha, scale):
    policy = adapted(alpha=alpha)
    merged, own = merged_state(policy, {}), policy.state_dict()
    name = f"{LANGUAGE}.layers.0.mlp.up_proj"
    delta = own[f"{name}.lora_B.default.weight"] @ own[f"{name}.lora_A.default.weight"]
    torch.testing.assert_close(merged[f"{name}.weight"] - own[f"{name}.base_layer.weight"], scale * delta)


def test_averages_are_merged_in_place_of_the_weights():
    """Averages of the two factors, and of what is trained in full; what is frozen as it stands."""
    policy = adapted()
    ema = Ema(policy, 0.9)
    with torch.no_grad():
        for parameter in trainable(policy).values():
            parameter.add_(1.0)
    ema.update()
    merged, own = merged_state(policy, ema.average), policy.state_dict()
    name = f"{LANGUAGE}.layers.2.mlp.down_proj"
    a, b = (ema.average[f"{name}.lora_{x}.default.weight"] for x in "AB")
    torch.testing.assert_close(merged[f"{name}.weight"], own[f"{name}.base_layer.weight"] + 1.5 * b @ a)
    assert torch.equal(merged["model.action_out_proj.bias"], ema.average["model.action_out_proj.bias"])
    assert not torch.equal(merged["model.action_out_proj.bias"], own["model.action_out_proj.bias"])
    frozen = f"{LANGUAGE}.embed_tokens.weight"
    assert torch.equal(merged[frozen], own[frozen])


def test_merged_weights_keep_their_type():
    policy = adapted()
    policy.model.paligemma_with_expert.paligemma.bfloat16()
    merged = merged_state(policy, Ema(policy, 0.9).average)
    name = f"{LANGUAGE}.layers.0.self_attn.v_proj.weight"
    assert merged[name].dtype == torch.bfloat16
    assert merged["model.action_in_proj.weight"].dtype == torch.float32


def test_without_adapters_the_state_is_the_policys():
    policy = tiny_policy(cameras=1)
    merged = merged_state(policy, {})
    assert list(merged) == list(policy.state_dict())
    assert all(torch.equal(merged[n], t) and not merged[n].requires_grad for n, t in policy.state_dict().items())


def test_targets_and_full_parameters_of_ones_own():
    policy = adapted(targets=r".*language_model\.layers\.0\.self_attn\.q_proj", full=r"model\.action_out_proj\.bias")
    names = set(trainable(policy))
    assert {n for n in names if ".lora_" not in n} == {"model.action_out_proj.bias"}
    assert all("layers.0.self_attn.q_proj.lora_" in n for n in names if ".lora_" in n) and len(names) == 3


def test_a_policy_without_a_language_model():
    policy = state_flow()
    with pytest.raises(UsageError, match=r"name the modules of a 'state_flow' policy .*--lora.targets=REGEX"):
        add_adapters(policy, LoraSettings(rank=2))
    assert all(p.requires_grad for p in policy.parameters())
    batch = {"observation.state": torch.randn(2, 3)}
    noise = torch.randn(2, 4, 2)
    nn.init.normal_(policy.model.head.out.weight)
    add_adapters(policy, LoraSettings(rank=2, targets=r"model\.encoder\.blocks\.\d+\.linear"))
    with torch.no_grad():
        for parameter in trainable(policy).values():
            parameter.add_(0.2)
    assert set(trainable(policy)) == {n for n, _ in policy.named_parameters() if ".lora_" in n}
    expected = policy.predict_action_chunk(batch, noise=noise)
    stock = state_flow()
    stock.load_state_dict(merged_state(policy, {}), strict=True)
    torch.testing.assert_close(stock.predict_action_chunk(batch, noise=noise), expected)


@pytest.mark.parametrize("targets", [r"nothing", r"model", r".*language_model\.layers\.0\.input_layernorm"])
def test_targets_that_match_no_linear_module(targets):
    policy = tiny_policy(cameras=1)
    with pytest.raises(UsageError, match=f"no linear module of the 'pi05' policy matches {re.escape(repr(targets))}"):
        add_adapters(policy, LoraSettings(rank=4, targets=targets))
    assert not any(".lora_" in n for n, _ in policy.named_parameters())


def test_dropout_is_off_in_evaluation():
    policy = adapted(dropout=0.5)
    policy.eval()
    first, second = outputs(policy), outputs(policy)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    policy.train()
    assert not torch.equal(outputs(policy)[0], outputs(policy)[0])


def test_a_tensor_in_one_piece_is_itself():
    tensor = torch.ones(3)
    assert whole(tensor) is tensor
