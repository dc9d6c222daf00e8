"""What the π0.5 actor takes for granted about LeRobot and transformers. A failure after an upgrade names it."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PaliGemmaWithExpertModel, PI05Policy, PI05Pytorch
from lerobot.policies.pi_gemma import PiGemmaModel
from lerobot.processor import TokenizerProcessorStep
from lerobot.processor.tokenizer_processor import ActionTokenizerProcessorStep
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from tiny_pi05 import draws, joint_error, tiny_batch, tiny_policy
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from igrft.models.pi05_processors import PALIGEMMA_TOKENIZER
from igrft.models.pi05_tiny import HEADS, TinyPaliGemmaWithExpert, TinyPI05Policy, TinyPI05Pytorch
from igrft.models.text import FAST_SKIP_TOKENS


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(cameras=3)


def both(policy):
    return policy.model.paligemma_with_expert


def test_missing_cameras_come_behind_the_others_and_are_masked(policy):
    images, masks = policy._preprocess_images(tiny_batch(cameras=2))
    assert len(images) == 3 and [bool(m.all()) for m in masks] == [True, True, False]
    assert not masks[2].any() and bool((images[2] == -1).all())


def test_a_prefix_is_cameras_then_words(policy):
    batch = tiny_batch(cameras=2)
    images, masks = policy._preprocess_images(batch)
    words = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
    embedded, real, causal = policy.model.embed_prefix(images[:2], masks[:2], *words)
    assert embedded.shape == (3, 2 * 4 + 24, 32) and not causal.any()
    assert torch.equal(real[:, 8:], words[1]) and bool(real[:, :8].all())
    scaled = both(policy).embed_language_tokens(words[0])
    assert torch.equal(embedded[:, 8:], scaled)
    weight = both(policy).paligemma.model.language_model.embed_tokens.weight
    torch.testing.assert_close(scaled, weight[words[0]] * 32**0.5)


def test_layers_take_a_cache_object_and_hand_on_what_attention_is_to_know(policy):
    """Extra arguments reach the attention function, keys come rotated, and a layer gives back one tensor."""
    layer = both(policy).paligemma.model.language_model.layers[1]
    told, cached = {}, []

    class Cache:
        def update(self, key, value, layer_idx, cache_kwargs=None):
            cached.append((key.shape, layer_idx))
            return key, value

    def spy(module, query, key, value, attention_mask, **more):
        told.update(more, mask=attention_mask)
        return query.transpose(1, 2), None

    AttentionInterface.register("igrft_test", spy)
    config = layer.self_attn.config
    before, config._attn_implementation = config._attn_implementation, "igrft_test"
    turn = (torch.ones(2, 3, 16), torch.zeros(2, 3, 16))
    out = layer(torch.ones(2, 3, 32), attention_mask="m", past_key_values=Cache(), position_embeddings=turn, prompt=7)
    config._attn_implementation = before
    assert out.shape == (2, 3, 32)
    assert cached == [((2, 1, 3, 16), 1)]
    assert told["prompt"] == 7 and told["mask"] == "m" and told["scaling"] == 16**-0.5


def test_layers_share_one_configuration_each(policy):
    for model in (both(policy).paligemma.model.language_model, both(policy).gemma_expert.model):
        assert isinstance(model, PiGemmaModel)
        assert len({id(layer.self_attn.config) for layer in model.layers}) == 1
        assert model.layers[0].self_attn.config is model.config and model.config.attention_dropout == 0.0


def test_norms_give_their_output_first(policy):
    model = both(policy).paligemma.model.language_model
    states = torch.ones(2, 3, 32)
    for norm in (model.norm, model.layers[0].input_layernorm):
        out, gate = norm(states)
        assert out.shape == states.shape and gate is None


def test_lerobots_checkpointing_leaves_the_layers_own_flag_off():
    policy = tiny_policy(gradient_checkpointing=True)
    assert policy.model.gradient_checkpointing_enabled
    for model in (both(policy).paligemma.model.language_model, both(policy).gemma_expert.model):
        assert all(isinstance(layer, GradientCheckpointingLayer) for layer in model.layers)
        assert not any(layer.gradient_checkpointing for layer in model.layers)


def test_stock_inference_chooses_eager_attention_itself(policy):
    """So that another setting of ours could not reach it; we leave none in any case."""
    batch, noise = tiny_batch(cameras=2), draws(3)[0][:, 0]
    configs = [both(policy).paligemma.model.language_model.config, both(policy).gemma_expert.model.config]
    expected = policy.predict_action_chunk(batch, noise=noise)
    for config in configs:
        config._attn_implementation = "sdpa"
    assert torch.equal(policy.predict_action_chunk(batch, noise=noise), expected)
    assert [c._attn_implementation for c in configs] == ["eager", "eager"]
    policy.train()


def test_the_joint_forward_gives_the_last_layers_query_a_gradient_of_zero():
    """The two passes give it none."""
    policy = tiny_policy()
    joint_error(policy, tiny_batch(), *(x[:, 0] for x in draws(3))).mean().backward()
    layer = both(policy).paligemma.model.language_model.layers[-1]
    assert not layer.self_attn.q_proj.weight.grad.any() and layer.self_attn.o_proj.weight.grad is None


def test_the_joint_forward_takes_eight_heads_for_granted():
    assert f"1 * {HEADS} * head_dim" in inspect.getsource(modeling_pi05.compute_layer_complete)


def test_the_tiny_classes_set_what_lerobots_constructors_set():
    """Attributes of the constructors that are passed by."""

    def assigned(cls) -> set[str]:
        source = inspect.getsource(cls.__init__)
        return {
            line.split("=")[0].strip().split(".")[1]
            for line in source.splitlines()
            if " = " in line and line.strip().startswith("self.") and line.split("=")[0].count(".") == 1
        }

    for tiny, stock in (
        (TinyPaliGemmaWithExpert, PaliGemmaWithExpertModel),
        (TinyPI05Pytorch, PI05Pytorch),
        (TinyPI05Policy, PI05Policy),
    ):
        missing = assigned(stock) - assigned(tiny)
        # Only where `compile_model` is set.
        assert missing <= {"sample_actions", "forward"}, (tiny, missing)


def test_the_tiny_model_has_the_full_models_parts():
    """Names of parameters, and which of them stay float32 in a bfloat16 model, on the meta device."""
    with torch.device("meta"):
        stock = PI05Pytorch(PI05Config(device="cpu", dtype="bfloat16"))
    tiny = tiny_policy(depth=18, vision_depth=27, dtype="bfloat16").model
    ours, theirs = ({n: p.dtype for n, p in m.named_parameters()} for m in (tiny, stock))
    assert ours == theirs


def test_action_tokens_count_down_from_the_end_of_the_vocabulary():
    step = object.__new__(ActionTokenizerProcessorStep)
    step._paligemma_tokenizer = SimpleNamespace(vocab_size=257152)
    step.fast_skip_tokens = ActionTokenizerProcessorStep.fast_skip_tokens
    assert ActionTokenizerProcessorStep.fast_skip_tokens == FAST_SKIP_TOKENS == 128
    assert step._act_tokens_to_paligemma_tokens(torch.tensor([0, 5])).tolist() == [257023, 257018]
    assert "AutoProcessor.from_pretrained" in inspect.getsource(ActionTokenizerProcessorStep.__post_init__)


def test_the_stock_processor_names_paligemmas_tokenizer():
    from lerobot.policies.pi05 import processor_pi05

    assert f'tokenizer_name="{PALIGEMMA_TOKENIZER}"' in inspect.getsource(processor_pi05.make_pi05_pre_post_processors)
    assert TokenizerProcessorStep.padding_side == "right"
