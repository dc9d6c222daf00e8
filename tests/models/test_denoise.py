"""Actions made of a prefix that exists already: the policies' own inference from the same noise, guided or not."""

from __future__ import annotations

import copy

import models.tiny_smolvlm as smol
import pytest
import tiny_pi05 as pi
import torch
from lerobot.configs import FeatureType, PolicyFeature, RTCAttentionSchedule
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.utils.constants import OBS_STATE
from tiny_actor import STATE, LinearActor, one_thread  # noqa: F401

from igrft.errors import UsageError
from igrft.models.guidance import Guidance
from igrft.models.pi05 import Pi05Actor
from igrft.models.smolvla import SmolVLAActor
from igrft.models.state_flow import StateFlowActor, StateFlowConfig, StateFlowPolicy

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def left_over(n: int = 3, rows: int = 3, dim: int = 6, seed: int = 5) -> torch.Tensor:
    return torch.randn(rows, n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return smol.write_backbone(tmp_path_factory.mktemp("smolvlm"))


def state_flow(**changes):
    torch.manual_seed(0)
    config = StateFlowConfig(
        device="cpu",
        width=32,
        chunk_size=4,
        n_action_steps=4,
        input_features={STATE: PolicyFeature(FeatureType.STATE, (5,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        **changes,
    )
    policy = StateFlowPolicy(config)
    with torch.no_grad():
        policy.model.head.out.weight.normal_(0, 0.3)  # untrained, it says nothing
    return StateFlowActor(policy)


def states(rows: int = 3):
    draw = torch.Generator().manual_seed(1)
    return {STATE: torch.randn(rows, 5, generator=draw)}, torch.randn(rows, 4, 6, generator=draw)


@pytest.mark.parametrize("lengths", [(11, 19, 14), (16, 16, 16), (24, 3, 24), (7,)], ids=str)
@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_pi05_equals_the_stock_inference(lengths, missing, steps):
    policy = pi.tiny_policy(cameras=2 + missing, num_inference_steps=steps)
    actor, batch, noise = Pi05Actor(policy), pi.tiny_batch(lengths), pi.draws(len(lengths))[0][:, 0]
    expected = actor.sample(batch, noise)
    prefix = actor.prefix(batch, (1,))
    found = actor.denoise(prefix, noise)
    assert policy.training and not found.requires_grad and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, **CLOSE)
    # Nothing of the first chunk is left in the prefix.
    actor.denoise(prefix, noise + 1)
    assert torch.equal(actor.denoise(prefix, noise), found)


def test_steps_and_noise_matter():
    """So that the comparisons above compare something."""
    policy = pi.tiny_policy()
    actor, batch, noise = Pi05Actor(policy), pi.tiny_batch(), pi.draws(3)[0][:, 0]
    three = actor.denoise(actor.prefix(batch, ()), noise)
    policy.config.num_inference_steps = 10
    ten = actor.denoise(actor.prefix(batch, ()), noise)
    other = actor.denoise(actor.prefix(pi.tiny_batch(seed=9), ()), noise)
    assert (three - ten).abs().max() > 1e-3 and (other - ten).abs().max() > 1e-3


@pytest.mark.parametrize("schedule", ["LINEAR", "EXP", "ONES", "ZEROS"])
@pytest.mark.parametrize(("n", "delay", "horizon"), [(3, 1, 10), (4, 0, 2), (2, 2, 2), (4, 6, 3), (1, 0, 1)])
def test_pi05_is_guided_as_lerobot_guides(schedule, n, delay, horizon):
    config = RTCConfig(prefix_attention_schedule=RTCAttentionSchedule[schedule], max_guidance_weight=5.0)
    policy = pi.tiny_policy(cameras=3)
    actor, batch, noise = Pi05Actor(policy), pi.tiny_batch(), pi.draws(3)[0][:, 0]
    free = actor.sample(batch, noise)
    policy.config.rtc_config = config
    policy.init_rtc_processor()
    rest = left_over(n)
    expected = policy.predict_action_chunk(
        batch, noise=noise, inference_delay=delay, prev_chunk_left_over=rest, execution_horizon=horizon
    )
    policy.train()
    guidance = Guidance(rest, delay, horizon, schedule, 5.0)
    found = actor.denoise(actor.prefix(batch, ()), noise, guidance=guidance)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert schedule == "ZEROS" or (found - free).abs().max() > 1e-2
    assert not found.requires_grad and all(p.grad is None for p in policy.parameters())


@pytest.mark.parametrize(
    "kind",
    [{}, {"attention_mode": "self_attn"}, {"self_attn_every_n_layers": -1}, {"prefix_length": 40}, {"num_steps": 7}],
    ids=str,
)
@pytest.mark.parametrize("cameras", [1, 2])
def test_smolvla_equals_the_stock_inference(backbone, kind, cameras):
    policy = smol.tiny_policy(backbone, empty_cameras=2 - cameras, **kind)
    actor, batch, noise = SmolVLAActor(policy), smol.tiny_batch(cameras=cameras), smol.draws()[0][:, 0]
    expected = actor.sample(batch, noise)
    prefix = actor.prefix(batch, (1,))
    found = actor.denoise(prefix, noise)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert torch.equal(actor.denoise(prefix, noise), found) and policy.training

    policy.config.rtc_config = RTCConfig()
    policy.init_rtc_processor()
    rest = left_over()
    expected = policy.predict_action_chunk(
        copy.copy(batch), noise=noise, inference_delay=1, prev_chunk_left_over=rest, execution_horizon=3
    )
    guided = actor.denoise(prefix, noise, guidance=Guidance(rest, 1, 3))
    torch.testing.assert_close(guided, expected, **CLOSE)
    assert (guided - found).abs().max() > 1e-2


def test_smolvla_on_aloha_is_guided_in_its_own_units(backbone):
    """Chunks leave in Aloha's joints; what is left of one goes back in as the flow knows it."""
    policy = smol.tiny_policy(backbone, adapt_to_pi_aloha=True, max_state_dim=16, max_action_dim=16)
    policy.config.input_features[OBS_STATE] = PolicyFeature(FeatureType.STATE, (14,))
    policy.config.output_features["action"] = PolicyFeature(FeatureType.ACTION, (14,))
    actor, batch = SmolVLAActor(policy), smol.tiny_batch(state=14)
    noise = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(3)) * 0.1
    rest = actor.sample(batch, noise)
    prefix = actor.prefix(batch, ())
    torch.testing.assert_close(actor.denoise(prefix, noise), rest, **CLOSE)
    policy.config.rtc_config = RTCConfig()
    policy.init_rtc_processor()
    expected = policy.predict_action_chunk(
        {**batch, OBS_STATE: batch[OBS_STATE].clone()},
        noise=noise + 0.1,
        inference_delay=2,
        prev_chunk_left_over=policy._pi_aloha_encode_actions_inv(rest.clone()),
        execution_horizon=4,
    )
    before = rest.clone()
    found = actor.denoise(prefix, noise + 0.1, guidance=Guidance(rest, 2, 4))
    torch.testing.assert_close(found, expected, **CLOSE)
    assert torch.equal(rest, before)


@pytest.mark.parametrize("steps", [1, 10])
def test_state_flow_equals_the_policys_inference(steps):
    actor = state_flow(num_inference_steps=steps)
    batch, noise = states()
    assert torch.equal(actor.denoise(actor.prefix(batch, (0,)), noise), actor.sample(batch, noise))


def test_guidance_pulls_the_first_actions_and_leaves_those_behind_the_horizon():
    """Hand calculation of one step from t = 1: x - v + w·max_weight·(rest - (x - v)), w = 1, ½, 0, 0."""
    actor = state_flow(num_inference_steps=1)
    batch, noise = states()
    prefix = actor.prefix(batch, ())
    free, rest = actor.denoise(prefix, noise), left_over(2)
    guided = actor.denoise(prefix, noise, guidance=Guidance(rest, 1, 2, max_weight=0.5))
    torch.testing.assert_close(guided[:, 0], free[:, 0] + 0.5 * (rest[:, 0] - free[:, 0]))
    torch.testing.assert_close(guided[:, 1], free[:, 1] + 0.25 * (rest[:, 1] - free[:, 1]))
    assert torch.equal(guided[:, 2:], free[:, 2:])


def test_a_state_flow_chunk_agrees_with_what_it_was_guided_to():
    actor = state_flow()
    batch, noise = states()
    prefix, rest = actor.prefix(batch, ()), left_over(4)
    free = actor.denoise(prefix, noise)
    guided = actor.denoise(prefix, noise, guidance=Guidance(rest, 2, 4))
    before, after = ((x - rest).abs().mean(dim=(0, 2)) for x in (free, guided))
    assert bool((after[:2] < 0.2 * before[:2]).all()) and after[3] < before[3]
    assert torch.equal(actor.denoise(prefix, noise, guidance=Guidance(rest[:, :0], 0)), free)


def test_guidance_works_in_inference_mode():
    actor = Pi05Actor(pi.tiny_policy())
    batch, noise, guidance = pi.tiny_batch(), pi.draws(3)[0][:, 0], Guidance(left_over(), 1, 3)
    expected = actor.denoise(actor.prefix(batch, ()), noise, guidance=guidance)
    with torch.inference_mode():
        found = actor.denoise(actor.prefix(batch, ()), noise * 1, guidance=guidance)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left_over": torch.zeros(3, 6)}, "left_over must be"),
        ({"delay": -1}, "delay must be"),
        ({"horizon": 0}, "horizon at least 1"),
        ({"max_weight": 0.0}, "max_weight positive"),
        ({"schedule": "LINEARLY"}, "unknown schedule 'LINEARLY'; one of ZEROS"),
    ],
)
def test_a_wrong_guidance_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        Guidance(**{"left_over": left_over(), "delay": 0, **changes})


@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 4, 7), (2, 4, 6)])
def test_a_guidance_that_does_not_fit_is_refused(shape):
    actor = state_flow()
    batch, noise = states()
    with pytest.raises(UsageError, match="does not fit a chunk of \\(3, 4, 6\\)"):
        actor.denoise(actor.prefix(batch, ()), noise, guidance=Guidance(torch.zeros(shape), 0))


def test_the_actor_of_the_tests_denoises_as_it_samples():
    actor = LinearActor()
    noise = torch.randn(2, 4, 2)
    batch = {STATE: torch.randn(2, 3)}
    assert torch.equal(actor.denoise(actor.prefix(batch, ()), noise), actor.sample(batch, noise))
