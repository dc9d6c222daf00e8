"""What inference takes for granted about LeRobot and transformers. A failure after an upgrade names it."""

from __future__ import annotations

import inspect

import pytest
import torch
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.pi05.modeling_pi05 import PI05Config, PI05Policy
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from lerobot.policies.smolvla.smolvlm_with_expert import SmolVLMWithExpertModel
from tiny_pi05 import CHUNK, WIDTH, draws, tiny_batch, tiny_policy

from igrft.models.guidance import Guidance
from igrft.models.pi05_inference import Pi05Inference, _Eyes
from igrft.models.pi05_passes import How


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(dtype="float32")


def test_euler_asks_for_the_flow_once_a_step_at_fixed_times():
    times = []

    def flow(x, t):
        times.append(t)
        return torch.ones_like(x)

    left_over, noise = torch.zeros(2, 3, 1), torch.ones(2, 3, 1)
    for enabled in (False, True):
        out = euler_integrate(
            flow, noise, 4, rtc_processor=RTCProcessor(RTCConfig()), rtc_enabled=enabled,
            inference_delay=0, prev_chunk_left_over=left_over, execution_horizon=1,
        )  # fmt: skip
        assert torch.equal(out[:, 1:], torch.zeros(2, 2, 1))
    assert all(t.shape == (2,) and t.dtype == torch.float32 for t in times)
    assert [float(t[0]) for t in times] == [1.0, 0.75, 0.5, 0.25] * 2


def test_guidance_takes_no_derivative_of_the_network():
    """So that the flow may be run without gradient, and from a recording. With one through it, ours would differ."""
    noise, rest = torch.ones(1, 3, 1), torch.full((1, 3, 1), 2.0)
    weight = torch.tensor(3.0, requires_grad=True)
    out = []
    for flow in (lambda x: weight * x, torch.no_grad()(lambda x: weight * x)):
        processor = RTCProcessor(RTCConfig(max_guidance_weight=5.0))
        out.append(
            processor.denoise_step(
                x_t=noise, prev_chunk_left_over=rest, inference_delay=3, time=0.5,
                original_denoise_step_partial=flow, execution_horizon=3,
            )
        )  # fmt: skip
    torch.testing.assert_close(out[0], out[1])
    # v - w·(rest - (x - t·v)), w = (1-tau)/tau · ((1-tau)² + tau²)/(1-tau)² at tau = 1/2.
    torch.testing.assert_close(out[1], 3.0 - 2.0 * (rest - (noise - 0.5 * 3.0)))


def test_guidance_of_lerobot_has_the_defaults_that_ours_names():
    ours, theirs = Guidance(torch.zeros(1, 1, 1), 0), RTCConfig()
    assert ours.horizon == theirs.execution_horizon and ours.max_weight == theirs.max_guidance_weight
    assert ours.schedule == theirs.prefix_attention_schedule.value


def test_adaptive_norms_are_scale_shift_and_gate_of_one_linear_layer(policy):
    norm = policy.model.paligemma_with_expert.gemma_expert.model.layers[0].input_layernorm
    x, cond = torch.randn(2, 3, 16), torch.randn(2, 16)
    out, gate = norm(x, cond)
    scale, shift, expected = (y[:, None] for y in norm.dense(cond).chunk(3, dim=-1))
    normed = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + norm.eps)
    torch.testing.assert_close(out, normed * (1 + scale) + shift)
    torch.testing.assert_close(gate, expected)


def test_times_reach_the_action_expert_by_its_norms_alone(policy):
    noise = draws(2)[0][:, 0]
    first, second = (policy.model.embed_suffix(noise, torch.full((2,), t)) for t in (0.3, 0.9))
    assert torch.equal(first[0], second[0]) and not torch.equal(first[3], second[3])
    assert torch.equal(first[0], policy.model.action_in_proj(noise))
    other = policy.model.embed_suffix(noise + 1, torch.full((2,), 0.3))
    assert torch.equal(other[3], first[3])


def test_the_table_of_times_is_what_the_norms_make(policy):
    """[steps, norms, 3, W]: scale, shift, gate, in the order in which the norms are met."""
    table = Pi05Inference(policy)._expert.table
    expert = policy.model.paligemma_with_expert.gemma_expert.model
    assert table.shape == (3, 2 * 3 + 1, 3, 16)
    for step, time in enumerate((1.0, 2 / 3, 1 / 3)):
        cond = policy.model.embed_suffix(torch.zeros(1, CHUNK, WIDTH), torch.tensor([time]))[3]
        for i, norm in ((0, expert.layers[0].input_layernorm), (3, expert.layers[1].post_attention_layernorm)):
            torch.testing.assert_close(table[step, i].flatten(), norm.dense(cond)[0])
        torch.testing.assert_close(table[step, -1].flatten(), expert.norm.dense(cond)[0])


def test_pictures_are_embedded_layer_by_layer_as_the_tower_does(policy):
    both = policy.model.paligemma_with_expert
    images, _ = policy._preprocess_images(tiny_batch())
    found = _Eyes(both.paligemma.model, None)(torch.cat(images), How())
    expected = torch.cat([both.embed_image(image) for image in images])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_lerobot_keeps_the_picture_encoder_and_norms_in_float32():
    """Why ours copies the one and makes the others' tables in float32."""
    half = tiny_policy(dtype="bfloat16").model.paligemma_with_expert
    vision = half.paligemma.model.vision_tower.vision_model
    assert vision.encoder.layers[0].mlp.fc1.weight.dtype == torch.float32
    layer = half.gemma_expert.model.layers[0]
    assert layer.input_layernorm.dense.weight.dtype == torch.float32
    assert layer.self_attn.q_proj.weight.dtype == torch.bfloat16


def test_lerobot_compiles_with_graphs_of_its_own():
    """What the benchmark holds ours against."""
    assert PI05Config(device="cpu").compile_mode == "max-autotune"
    assert "noise" in inspect.signature(PI05Policy.predict_action_chunk).parameters or any(
        p.kind is p.VAR_KEYWORD for p in inspect.signature(PI05Policy.predict_action_chunk).parameters.values()
    )


def test_smolvlas_layers_ask_a_cache_for_keys_values_and_nothing_else():
    """An object of ours stands in its place."""
    used = inspect.getsource(SmolVLMWithExpertModel)
    for line in used.splitlines():
        if "past_key_values." in line:
            assert "past_key_values.update(" in line or "past_key_values.layers[layer_idx]." in line, line
