"""The prefix pass against the stock language model: cache, text loss, generated subtasks, precisions."""

from __future__ import annotations

import pytest
import torch
from lerobot.policies.common.vla_utils import prepare_attention_masks_4d
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from tiny_pi05 import draws, gradients, joint_error, largest_difference, tiny_batch, tiny_policy
from torch import nn

from igrft.errors import IgrftError
from igrft.models.pi05 import Pi05Actor
from igrft.models.protocol import TextTargets


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stock_states(policy, batch, targets: TextTargets | None = None):
    """The stock model's cache, final states [B, N + L, W] and prompt mask, with every mask written out."""
    both = policy.model.paligemma_with_expert
    images, masks = policy._preprocess_images(batch)
    embedded, prompt, _ = policy.model.embed_prefix(
        images, masks, batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
    )
    real, length = prompt, prompt.shape[1]
    if targets is not None:
        embedded = torch.cat([embedded, both.embed_language_tokens(targets.tokens)], dim=1)
        real = torch.cat([prompt, targets.mask], dim=1)
    places = torch.arange(embedded.shape[1])
    in_prompt = places < length
    seen = real[:, None, :] & (in_prompt[None, None, :] | (places[None, :] <= places[:, None])[None])
    seen = seen & ~(in_prompt[:, None] & ~in_prompt[None, :])
    model = both.paligemma.model.language_model
    model.config._attn_implementation = "eager"
    was = policy.training
    policy.eval()
    out = model.forward(
        inputs_embeds=embedded,
        attention_mask=prepare_attention_masks_4d(seen),
        position_ids=torch.cumsum(real, dim=1) - 1,
        use_cache=True,
    )
    policy.train(was)
    return out.past_key_values, out.last_hidden_state, prompt


def stock_text_loss(policy, batch, targets: TextTargets):
    _, states, prompt = stock_states(policy, batch, targets)
    head = policy.model.paligemma_with_expert.paligemma.lm_head
    losses = []
    for i in range(len(states)):
        words = targets.tokens[i][targets.mask[i]]
        if not len(words):
            losses.append(states.new_zeros(()))
            continue
        last = int(prompt[i].nonzero().max())
        start = prompt.shape[1]
        rows = torch.cat([states[i, last : last + 1], states[i, start : start + len(words) - 1]])
        losses.append(nn.functional.cross_entropy(head(rows), words))
    return torch.stack(losses)


TARGETS = TextTargets(
    torch.tensor([[7, 200, 31, 1], [0, 0, 0, 0], [90, 1, 0, 0]]),
    torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool),
)


def test_features_are_the_keys_and_values_of_the_stock_cache():
    policy, batch = tiny_policy(), tiny_batch((24, 19, 14))
    features = Pi05Actor(policy).prefix(batch, (0, 2)).features
    cache, _, mask = stock_states(policy, batch)
    assert torch.equal(features.mask, mask)
    for layer, key, value in zip((0, 2), features.keys, features.values, strict=True):
        for ours, stock in ((key, cache.layers[layer].keys), (value, cache.layers[layer].values)):
            torch.testing.assert_close(ours[mask], stock[:, 0][mask], rtol=1e-5, atol=1e-5)


def test_text_loss_and_its_gradients_are_the_stock_models():
    policy, batch = tiny_policy(), tiny_batch()
    prefix = Pi05Actor(policy).prefix(batch, (), TARGETS)
    expected = stock_text_loss(policy, batch, TARGETS)
    torch.testing.assert_close(prefix.text_loss, expected, rtol=1e-5, atol=1e-5)
    assert prefix.text_loss.dtype == torch.float32 and float(prefix.text_loss[1].detach()) == 0.0
    assert prefix.text_correct is not None and not prefix.text_correct.requires_grad
    first = gradients(policy, prefix.text_loss.sum())
    assert largest_difference(first, gradients(policy, stock_text_loss(policy, batch, TARGETS).sum())) < 1e-5


def test_a_layer_with_hooks_is_called_whole_and_gives_the_same():
    """What FSDP's hooks see: every layer once, the last one, too."""
    policy, batch = tiny_policy(), tiny_batch()
    actor = Pi05Actor(policy)
    expected = actor.prefix(batch, (2,), TARGETS)
    called = []
    layers = policy.model.paligemma_with_expert.paligemma.model.language_model.layers
    for i, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda *_, i=i: called.append(i))
    found = actor.prefix(batch, (2,), TARGETS)
    assert called == [0, 1, 2]
    torch.testing.assert_close(found.text_loss, expected.text_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.features.keys[0], expected.features.keys[0], rtol=1e-5, atol=1e-6)
    assert actor.prefix(batch, (2,)).text_loss is None


def test_without_gradients_nothing_is_kept():
    policy = tiny_policy(gradient_checkpointing=True)
    with torch.no_grad():
        features = Pi05Actor(policy).prefix(tiny_batch(), (2,)).features
    assert not features.keys[0].requires_grad


def test_hugging_faces_own_checkpointing_is_refused():
    policy = tiny_policy()
    policy.model.paligemma_with_expert.paligemma.gradient_checkpointing_enable()
    with pytest.raises(IgrftError, match=r"set policy\.gradient_checkpointing instead"):
        Pi05Actor(policy).prefix(tiny_batch(), ())


def test_writing_with_a_cache_is_writing_without():
    """Greedy tokens equal those of a whole pass over prompt and tokens so far, one after the other."""
    policy, batch = tiny_policy().eval(), tiny_batch()
    for layer in policy.model.paligemma_with_expert.paligemma.model.language_model.layers:
        layer.self_attn.q_proj.weight.data *= 30  # so that places matter
    written = Pi05Actor(policy)._write(batch, 12, end=-1)
    assert written.shape == (3, 12)
    head = policy.model.paligemma_with_expert.paligemma.lm_head
    so_far = torch.zeros(3, 0, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(12):
            targets = TextTargets(so_far, torch.ones_like(so_far, dtype=torch.bool)) if so_far.shape[1] else None
            _, states, prompt = stock_states(policy, batch, targets)
            last = (prompt * torch.arange(prompt.shape[1])).argmax(dim=1)
            state = states[:, -1] if targets is not None else states[torch.arange(3), last]
            so_far = torch.cat([so_far, head(state).argmax(dim=-1, keepdim=True)], dim=1)
    assert written.tolist() == so_far.tolist()
    assert len({tuple(row) for row in written.tolist()}) > 1


def test_writing_stops_when_all_have_ended():
    policy, batch = tiny_policy().eval(), tiny_batch()
    first = Pi05Actor(policy)._write(batch, 1, end=-1)
    stopped = Pi05Actor(policy)._write({k: v[:1] for k, v in batch.items()}, 6, end=int(first[0]))
    assert stopped.shape == (1, 1)


def test_two_subtasks_are_learnt_and_written():
    torch.manual_seed(0)
    policy = tiny_policy(cameras=1)
    actor, batch = Pi05Actor(policy), tiny_batch((12, 15), cameras=1)
    texts = ["reach the cup", "put it down"]
    targets = actor.text_targets(texts)
    assert targets is not None and targets.tokens.shape == (2, 14)
    optimizer = torch.optim.AdamW(policy.parameters(), 3e-3)
    for _ in range(60):
        loss = actor.prefix(batch, (), targets).text_loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert actor.prefix(batch, (), targets).text_correct.tolist() == [1.0, 1.0]
    assert actor.generate_subtasks(batch) == texts and policy.training
    assert actor.generate_subtasks(batch, max_tokens=5) == ["reach", "put i"]
    assert actor.text_targets(["", ""]) is None


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_precisions(dtype, autocast, checkpointing):
    """bfloat16 in the configuration, under autocast, and both: losses near float32's, gradients everywhere."""
    exact = tiny_policy()
    policy = tiny_policy(dtype=dtype, gradient_checkpointing=checkpointing)
    policy.load_state_dict(exact.state_dict())
    batch, (noise, time) = tiny_batch(), draws(3, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        actor = Pi05Actor(policy)
        prefix = actor.prefix(batch, (1,), TARGETS)
        error = actor.flow_error(prefix, batch["action"], noise, time)
    assert error.dtype == torch.float32 and prefix.text_loss.dtype == torch.float32
    assert prefix.features.keys[0].dtype == (torch.float32 if dtype == "float32" and not autocast else torch.bfloat16)
    expected = joint_error(exact, batch, noise[:, 0], time[:, 0])
    assert float((error[:, 0] - expected).detach().abs().mean()) < 0.05 * float(expected.detach().abs().mean())
    torch.testing.assert_close(prefix.text_loss, stock_text_loss(exact, batch, TARGETS), rtol=0.05, atol=0.05)
    (error.mean() + prefix.text_loss.mean()).backward()
    unused = {n for n, p in policy.named_parameters() if p.grad is None}
    assert unused == {"model.paligemma_with_expert.gemma_expert.lm_head.weight"}
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in policy.parameters())


@pytest.mark.parametrize("autocast", [False, True])
def test_subtasks_are_written_in_bfloat16(autocast):
    policy = tiny_policy(dtype="bfloat16")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert len(Pi05Actor(policy).generate_subtasks(tiny_batch(), max_tokens=3)) == 3
