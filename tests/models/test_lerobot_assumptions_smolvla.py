"""What the SmolVLA actor takes for granted about LeRobot and transformers. A failure after an upgrade names it."""

from __future__ import annotations

import inspect

import pytest
import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, VLAFlowMatching
from lerobot.policies.smolvla.smolvlm_with_expert import SmolVLMWithExpertModel
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from models.tiny_smolvlm import CAMERAS, CHUNK, SIDE, WIDTH, draws, tiny_batch, tiny_policy, write_backbone
from transformers import DynamicCache


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("smolvlm"))


@pytest.fixture(scope="module")
def policy(backbone):
    return tiny_policy(backbone, train_expert_only=False)


def prefix(policy, batch):
    images, masks = policy.prepare_images(batch)
    words = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
    return policy.model.embed_prefix(images, masks, *words, state=policy.prepare_state(batch))


def fill(policy, embedded, real, breaks):
    return policy.model.vlm_with_expert.forward(
        attention_mask=make_att_2d_masks(real, breaks),
        position_ids=torch.cumsum(real, dim=1) - 1,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )


def test_the_defaults_are_those_that_the_equalities_are_tested_with():
    config = SmolVLAConfig(device="cpu")
    assert (config.attention_mode, config.self_attn_every_n_layers, config.num_expert_layers) == ("cross_attn", 2, -1)
    assert config.train_expert_only and config.train_state_proj and config.prefix_length == -1
    assert config.observation_delta_indices == [0]


def test_the_functions_take_what_they_are_given():
    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(VLAFlowMatching.embed_prefix)[1:] == ["images", "img_masks", "lang_tokens", "lang_masks", "state"]
    assert names(VLAFlowMatching.embed_suffix)[1:] == ["noisy_actions", "timestep"]
    assert names(SmolVLMWithExpertModel.forward)[1:] == [
        "attention_mask",
        "position_ids",
        "past_key_values",
        "inputs_embeds",
        "use_cache",
    ]
    assert names(SmolVLMWithExpertModel.forward_attn_layer)[1:] == [
        "model_layers",
        "inputs_embeds",
        "layer_idx",
        "position_ids",
        "attention_mask",
        "batch_size",
        "head_dim",
        "use_cache",
        "past_key_values",
    ]
    assert names(SmolVLAPolicy.predict_action_chunk)[1:3] == ["batch", "noise"]


def test_a_prefix_is_cameras_words_and_a_state_that_they_do_not_see(policy):
    batch = tiny_batch()
    embedded, real, breaks = prefix(policy, batch)
    assert embedded.shape == (3, 2 + 12 + 1, 32) and real.dtype == torch.bool
    assert torch.equal(real[:, 2:14], batch[OBS_LANGUAGE_ATTENTION_MASK])
    assert breaks.tolist() == [[False] * 14 + [True]] * 3
    words = policy.model.vlm_with_expert.embed_language_tokens(batch[OBS_LANGUAGE_TOKENS])
    torch.testing.assert_close(embedded[:, 2:14], words * 32**0.5)
    sees = make_att_2d_masks(real, breaks)
    assert not sees[:, :14, 14].any() and sees[1, 14].all()


def test_prefix_length_pads_behind_the_state(backbone):
    made = tiny_policy(backbone, prefix_length=20)
    embedded, real, breaks = prefix(made, tiny_batch())
    assert embedded.shape[1] == 20 and real[:, 14].all() and not real[:, 15:].any() and not breaks[:, 15:].any()


def test_a_suffix_is_causal_in_every_chunk(policy):
    noise, time = draws()
    embedded, real, breaks = policy.model.embed_suffix(noise[:, 0], time[:, 0])
    assert embedded.shape[:2] == (3, CHUNK) and real.all() and (breaks == 1).all()
    assert torch.equal(make_att_2d_masks(real, breaks)[0], torch.ones(CHUNK, CHUNK).tril().bool())


def test_a_prefix_alone_fills_the_cache_of_every_layer(policy):
    embedded, real, breaks = prefix(policy, tiny_batch())
    (states, nothing), cache = fill(policy, embedded, real, breaks)
    assert nothing is None and isinstance(cache, DynamicCache) and len(cache.layers) == 4
    assert {tuple(layer.keys.shape) for layer in cache.layers} == {(3, 2, 15, 8)}
    assert cache.layers[0].keys.requires_grad
    text = policy.model.vlm_with_expert.get_vlm_model().text_model
    # The states are behind the final norm, so that lm_head reads them as they are.
    plain = states / text.norm.weight
    torch.testing.assert_close(plain.square().mean(dim=-1), torch.ones(3, 15), atol=1e-2, rtol=0)


def test_an_expert_pass_adds_to_its_cache_and_leaves_the_tensors_of_another(policy):
    embedded, real, breaks = prefix(policy, tiny_batch())
    _, cache = fill(policy, embedded, real, breaks)
    keys = [layer.keys for layer in cache.layers]
    before = [k.clone() for k in keys]
    own = DynamicCache([(layer.keys, layer.values) for layer in cache.layers])
    assert bool(own)  # LeRobot asks for its truth, which is its number of layers
    noise, time = draws()
    suffix, _, _ = policy.model.embed_suffix(noise[:, 0], time[:, 0])
    policy.model.vlm_with_expert.forward(
        attention_mask=torch.ones(3, CHUNK, 15 + CHUNK, dtype=torch.bool),
        position_ids=torch.arange(15, 15 + CHUNK).expand(3, -1),
        past_key_values=own,
        inputs_embeds=[None, suffix],
        use_cache=True,
    )
    # Layers 0 and 2 attend to themselves too, and write; 1 and 3 only read.
    assert [layer.keys.shape[2] for layer in own.layers] == [15 + CHUNK, 15, 15 + CHUNK, 15]
    assert all(torch.equal(a, b) and a.shape[2] == 15 for a, b in zip(keys, before, strict=True))


def test_the_expert_projects_the_cache_where_it_only_reads(policy):
    layers = policy.model.vlm_with_expert.lm_expert.layers
    widths = [layer.self_attn.k_proj.in_features for layer in layers]
    assert widths == [24, 16, 24, 16]


def test_missing_cameras_come_behind_the_others_and_are_masked(backbone):
    made = tiny_policy(backbone, empty_cameras=1)
    images, masks = made.prepare_images(tiny_batch(cameras=1))
    assert len(images) == 2 and [bool(m.all()) for m in masks] == [True, False]
    assert images[0].shape == (3, 3, SIDE, SIDE) and (images[1] == -1).all()
    assert list(made.config.image_features)[:2] == list(CAMERAS)


def test_states_and_actions_are_padded_without_being_copied(policy):
    batch = tiny_batch()
    assert policy.prepare_state(batch).shape == (3, WIDTH)
    wide = {OBS_STATE: torch.rand(2, WIDTH)}
    assert policy.prepare_state(wide) is wide[OBS_STATE]  # hence the actor's own copy for adapt_to_pi_aloha


def test_lerobot_freezes_what_its_loss_does_not_reach(policy, backbone):
    frozen = {n for n, p in policy.named_parameters() if not p.requires_grad}
    parts = ("lm_head", "text_model.norm.weight", "text_model.layers.3.", "vision_model")
    assert frozen and all(any(p in n for p in parts) for n in frozen)
    expert_only = tiny_policy(backbone)
    assert not any(p.requires_grad for p in expert_only.model.vlm_with_expert.vlm.parameters())
    assert all(p.requires_grad for p in expert_only.model.state_proj.parameters())


def test_inference_leaves_a_policy_in_evaluation_mode(backbone):
    made = tiny_policy(backbone)
    made.predict_action_chunk(tiny_batch(), noise=draws()[0][:, 0])
    assert not made.training
