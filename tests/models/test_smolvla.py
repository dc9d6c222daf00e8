"""SmolVLA as an actor: two passes equal LeRobot's joint training forward, and the stock policy acts as ever."""

from __future__ import annotations

import copy

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION, OBS_STATE
from models.tiny_smolvlm import CAMERAS, CHUNK, DIM, STATE, WIDTH, draws, tiny_batch, tiny_policy, write_backbone

from igrft.errors import UsageError
from igrft.models.actors import make_actor
from igrft.models.critic import Critic, CriticConfig
from igrft.models.load import load_checkpoint
from igrft.models.processors import make_processors, save_processors
from igrft.models.protocol import Actor
from igrft.models.smolvla import SmolVLAActor

LAYERS = (1, 3)
KINDS = {
    "expert_only": {},
    "whole": {"train_expert_only": False, "freeze_vision_encoder": False},
    "frozen_vision": {"train_expert_only": False},
    "self_attention": {"train_expert_only": False, "attention_mode": "self_attn"},
    "every_layer_crosses": {"train_expert_only": False, "self_attn_every_n_layers": -1},
    "half_expert": {"train_expert_only": False, "self_attn_every_n_layers": -1, "num_expert_layers": 2},
    "padded_prefix": {"train_expert_only": False, "prefix_length": 40},
    "image_tokens": {"train_expert_only": False, "add_image_special_tokens": True},
}


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
def shared(backbone):
    """Not to be changed by tests."""
    return SmolVLAActor(tiny_policy(backbone, train_expert_only=False))


def joint_error(policy, batch, noise, time):
    """Squared error of LeRobot's own training forward, float [B, chunk, dim]."""
    images, masks = policy.prepare_images(batch)
    words = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    state, actions = policy.prepare_state(batch), policy.prepare_action(batch)
    return policy.model.forward(images, masks, *words, state, actions, noise, time)[..., :DIM]


def gradients(policy):
    """A missing gradient counts as zero."""
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in policy.named_parameters()}
    policy.zero_grad(set_to_none=True)
    return found


def assert_close(ours, stock):
    scale = max(g.abs().max() for g in stock.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, stock[name], atol=float(1e-5 * scale), rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_two_passes_equal_the_joint_forward(backbone, kind):
    policy = tiny_policy(backbone, **KINDS[kind])
    actor, batch, (noise, time) = SmolVLAActor(policy), tiny_batch(), draws()
    weight = torch.rand(3, 1, CHUNK, 1)
    stock = joint_error(policy, batch, noise[:, 0], time[:, 0])
    (stock[:, None] * weight).mean().backward()
    expected = gradients(policy)
    ours = actor.flow_error(actor.prefix(batch, LAYERS), batch[ACTION], noise, time)
    assert ours.shape == (3, 1, CHUNK, DIM) and ours.dtype == torch.float32
    torch.testing.assert_close(ours[:, 0], stock, atol=1e-5, rtol=1e-5)
    (ours * weight).mean().backward()
    found = gradients(policy)
    assert_close(found, expected)
    moving = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert all(found[n].abs().sum() > 0 for n in moving if "lm_expert.layers" in n or "action_" in n)


@pytest.mark.parametrize("changes", [{}, {"attention_mode": "self_attn"}])
def test_an_expert_with_gaps_that_lerobot_cannot_run_is_refused(backbone, changes):
    policy = tiny_policy(backbone, num_expert_layers=2, **changes)
    with pytest.raises((RuntimeError, ValueError)):
        policy.predict_action_chunk(tiny_batch(), noise=draws()[0][:, 0])
    with pytest.raises(UsageError, match="num_expert_layers=-1"):
        SmolVLAActor(policy)


def test_a_camera_that_is_missing_is_left_out(backbone):
    policy = tiny_policy(backbone, empty_cameras=1, train_expert_only=False)
    actor, batch, (noise, time) = SmolVLAActor(policy), tiny_batch(cameras=1), draws()
    prefix = actor.prefix(batch, LAYERS)
    assert prefix.features.mask.shape[1] == 1 + 12 + 1
    stock = joint_error(policy, batch, noise[:, 0], time[:, 0])
    torch.testing.assert_close(actor.flow_error(prefix, batch[ACTION], noise, time)[:, 0], stock, atol=1e-5, rtol=1e-5)


def test_several_draws_equal_the_mean_of_separate_calls(shared):
    batch, (noise, time) = tiny_batch(), draws(samples=3)
    policy = shared.policy
    together = shared.flow_error(shared.prefix(batch, ()), batch[ACTION], noise, time)
    together.mean().backward()
    found = gradients(policy)
    parts = []
    for i in range(3):
        one = slice(i, i + 1)
        parts.append(shared.flow_error(shared.prefix(batch, ()), batch[ACTION], noise[:, one], time[:, one]))
        (parts[-1].mean() / 3).backward()
    torch.testing.assert_close(together, torch.cat(parts, dim=1), atol=1e-5, rtol=1e-5)
    assert_close(found, gradients(policy))


def test_insulation_leaves_the_language_model_without_any_gradient(shared):
    batch, (noise, time) = tiny_batch(), draws(samples=2)
    prefix = shared.prefix(batch, LAYERS)
    shared.flow_error(prefix, batch[ACTION], noise, time, insulated=True).mean().backward()
    found = gradients(shared.policy)
    inside = [n for n in found if ".vlm." in n or "state_proj" in n]
    assert len(inside) > 30 and all((found[n] == 0).all() for n in inside)
    # The expert's own projections of the cache learn all the same.
    reads = [n for n in found if "lm_expert" in n and ("k_proj" in n or "v_proj" in n)]
    assert reads and all(found[n].abs().sum() > 0 for n in reads)
    free = shared.flow_error(shared.prefix(batch, ()), batch[ACTION], noise, time)
    kept = shared.flow_error(shared.prefix(batch, ()), batch[ACTION], noise, time, insulated=True)
    assert torch.equal(free, kept)


def test_the_cache_of_a_prefix_serves_many_passes(shared):
    batch, (noise, time) = tiny_batch(), draws()
    prefix = shared.prefix(batch, ())
    first, second = (shared.flow_error(prefix, batch[ACTION], noise, time) for _ in range(2))
    assert torch.equal(first, second)


def test_features_are_the_caches_keys_and_values(shared):
    batch = tiny_batch()
    prefix = shared.prefix(batch, LAYERS)
    features, (n, tokens) = prefix.features, prefix.cache.mask.shape
    assert tokens == 2 + 12 + 1  # a token a camera, the longest prompt, the state
    assert shared.feature_width == 16 and shared.depth == 4
    assert [k.shape for k in features.keys + features.values] == [(n, tokens, 16)] * 4
    for i, layer in enumerate(LAYERS):
        key = prefix.cache.keys[layer]
        assert torch.equal(features.keys[i][:, :, :8], key[:, 0]) and torch.equal(features.keys[i][:, :, 8:], key[:, 1])
    assert features.mask[:, :2].all() and features.mask[:, -1].all()
    assert features.mask[:, 2:-1].sum(dim=1).tolist() == [7, 12, 9]
    critic = Critic(CriticConfig(16, blocks=2, width=16, heads=2))
    assert critic(features).trajectory.shape == (3,)


def test_padding_of_a_prompt_changes_nothing(shared):
    whole, (noise, time) = tiny_batch(), draws()
    alone = {k: v[:1] for k, v in whole.items()}
    for key in ("observation.language.tokens", "observation.language.attention_mask"):
        alone[key] = alone[key][:, :7]
    one = shared.flow_error(shared.prefix(alone, ()), alone[ACTION], noise[:1], time[:1])
    padded = shared.flow_error(shared.prefix(whole, ()), whole[ACTION], noise, time)[:1]
    torch.testing.assert_close(one, padded, atol=1e-5, rtol=1e-5)


def test_it_is_an_actor(shared, backbone):
    made = make_actor(shared.policy)
    assert isinstance(made, SmolVLAActor) and isinstance(made, Actor) and made.type == "smolvla"
    assert (made.uses_images, made.has_text, made.chunk_size, made.action_width) == (True, True, CHUNK, WIDTH)


def test_sampling_is_the_stock_inference(shared):
    batch, (noise, _) = tiny_batch(), draws()
    reference = copy.deepcopy(shared.policy)
    expected = reference.predict_action_chunk(dict(batch), noise=noise[:, 0])
    found = shared.sample(batch, noise[:, 0])
    assert torch.equal(found, expected) and found.shape == (3, CHUNK, DIM) and not found.requires_grad
    assert shared.policy.training
    torch.manual_seed(3)
    drawn = shared.sample(batch)
    torch.manual_seed(3)
    assert torch.equal(drawn, reference.predict_action_chunk(dict(batch)))


def test_pictures_of_bytes_are_scaled(shared):
    batch, (noise, time) = tiny_batch(), draws()
    raw = {**batch, **{k: (batch[k] * 255).round().to(torch.uint8) for k in CAMERAS}}
    scaled = {**batch, **{k: raw[k].float() / 255 for k in CAMERAS}}
    errors = [shared.flow_error(shared.prefix(b, ()), b[ACTION], noise, time) for b in (raw, scaled)]
    assert torch.equal(*errors)
    assert torch.equal(*(shared.sample(b, noise[:, 0]) for b in (raw, scaled)))
    assert raw[CAMERAS[0]].dtype == torch.uint8


def test_aloha_is_turned_around_as_the_stock_forward_does(backbone):
    fourteen = {
        "input_features": {
            OBS_STATE: PolicyFeature(FeatureType.STATE, (14,)),
            CAMERAS[0]: PolicyFeature(FeatureType.VISUAL, (3, 20, 30)),
        },
        "output_features": {ACTION: PolicyFeature(FeatureType.ACTION, (14,))},
    }
    policy = tiny_policy(backbone, adapt_to_pi_aloha=True, max_state_dim=16, max_action_dim=16, **fourteen)
    actor, batch = SmolVLAActor(policy), tiny_batch(cameras=1, state=14)
    batch[ACTION] = torch.rand(3, CHUNK, 14)
    noise, time = torch.randn(3, 1, CHUNK, 16), torch.rand(3, 1)
    before = {k: v.clone() for k, v in batch.items()}
    ours = actor.flow_error(actor.prefix(batch, ()), batch[ACTION], noise, time).mean()
    chunk = actor.sample(batch, noise[:, 0])
    assert all(torch.equal(batch[k], before[k]) for k in batch)
    stock, _ = policy.forward({k: v.clone() for k, v in batch.items()}, noise=noise[:, 0], time=time[:, 0])
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)
    assert torch.equal(chunk, policy.predict_action_chunk({k: v.clone() for k, v in batch.items()}, noise=noise[:, 0]))


def test_saved_and_loaded_it_acts_the_same(shared, tmp_path):
    batch, (noise, _) = tiny_batch(), draws()
    shared.policy.save_pretrained(tmp_path)
    again = type(shared.policy).from_pretrained(tmp_path, strict=True)
    assert torch.equal(SmolVLAActor(again).sample(batch, noise[:, 0]), shared.sample(batch, noise[:, 0]))


def test_a_checkpoint_is_read_back_whole(shared, tmp_path):
    stats = {
        OBS_STATE: {"mean": torch.full((STATE,), 0.5), "std": torch.full((STATE,), 2.0)},
        ACTION: {"mean": torch.ones(DIM), "std": torch.full((DIM,), 3.0)},
    }
    before, after, tokenizer = make_processors(shared.policy.config, stats)
    shared.policy.save_pretrained(tmp_path)
    save_processors(before, after, tmp_path)
    loaded = load_checkpoint(tmp_path, device="cpu")
    raw = {k: v for k, v in tiny_batch().items() if "language" not in k} | {"task": ["reach", "lift it up", "put"]}
    seen = before(dict(raw))
    assert seen["observation.language.tokens"].shape == (3, 11)  # "lift it up" and a newline
    torch.testing.assert_close(seen[OBS_STATE], (raw[OBS_STATE] - 0.5) / 2)
    noise = draws()[0][:, 0]
    expected = after(shared.sample(seen, noise))
    assert torch.equal(loaded.postprocess(loaded.actor.sample(loaded.preprocess(dict(raw)), noise)), expected)
    assert isinstance(loaded.actor, SmolVLAActor)
    assert torch.equal(loaded.actor.text_targets(["put"]).tokens, shared.text_targets(["put"]).tokens)
    assert tokenizer is not None


def test_autocast_stays_close_to_full_precision(shared):
    batch, (noise, time) = tiny_batch(), draws(samples=2)
    targets = shared.text_targets(["reach", "", "grasp it"])
    full = shared.prefix(batch, LAYERS, targets)
    exact = shared.flow_error(full, batch[ACTION], noise, time)
    with torch.autocast("cpu", torch.bfloat16):
        prefix = shared.prefix(batch, LAYERS, targets)
        rough = shared.flow_error(prefix, batch[ACTION], noise, time)
    assert rough.dtype == torch.float32 and prefix.text_loss.dtype == torch.float32
    torch.testing.assert_close(rough.mean(), exact.mean(), rtol=0.05, atol=0.05)
    torch.testing.assert_close(prefix.text_loss, full.text_loss, rtol=0.05, atol=0.1)
