"""The critic of Appendix A: sizes, what it sees, and what must not reach it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_actor import one_thread  # noqa: F401
from torch import Tensor

from igrft.models.critic import ChunkQ, Critic, CriticConfig, CrossAttention
from igrft.models.protocol import Features

SMALL = CriticConfig(feature_width=6, blocks=2, queries=3, width=8, heads=2, hidden=5)
WITH_Q = CriticConfig(feature_width=6, blocks=2, queries=3, width=8, heads=2, hidden=5, chunk_size=4, action_dim=3)


def features(rows: int = 2, tokens: int = 5, width: int = 6, layers: int = 2, seed: int = 0) -> Features:
    """All tokens are real but the last two of the last row."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    mask[-1, -2:] = False
    return Features(
        [torch.randn(rows, tokens, width, generator=random) for _ in range(layers)],
        [torch.randn(rows, tokens, width, generator=random) for _ in range(layers)],
        mask,
    )


def critic(config: CriticConfig = SMALL) -> Critic:
    torch.manual_seed(1)
    return Critic(config)


def said(output) -> Tensor:
    return torch.stack([output.trajectory, output.subtask, output.interaction_logit])


def test_sizes_are_those_of_appendix_a():
    """8 queries of width 256, 8 heads, three layers, heads 256 → 128 → 1; π0.5's cache is 256 wide."""
    made = Critic(CriticConfig(feature_width=256))
    assert made.former.queries.shape == (8, 256)
    assert len(made.former.blocks) == 3 and {b.heads for b in made.former.blocks} == {8}
    for head in (made.trajectory, made.subtask, made.interaction):
        assert [tuple(p.shape) for p in head.parameters()] == [(128, 256), (128,), (1, 128), (1,)]
    block = 512 + 4 * (256 * 256 + 256)
    head = 256 * 128 + 128 + 128 + 1
    assert sum(p.numel() for p in made.parameters()) == 8 * 256 + 3 * block + 512 + 3 * head == 892_675
    assert made.chunk_q is None


def test_three_numbers_an_observation_in_float32():
    out = critic()(features(rows=4))
    assert [(x.shape, x.dtype) for x in (out.trajectory, out.subtask, out.interaction_logit)] == [
        ((4,), torch.float32)
    ] * 3
    assert out.pooled.shape == (4, 8)
    assert torch.equal(out.interaction_probability, out.interaction_logit.sigmoid())
    half = features(rows=4)
    half.keys, half.values = [k.bfloat16() for k in half.keys], [v.bfloat16() for v in half.values]
    assert critic()(half).trajectory.dtype == torch.float32
    assert critic().bfloat16()(half).trajectory.dtype == torch.float32


def test_no_gradient_reaches_the_features():
    seen = features()
    for tensor in (*seen.keys, *seen.values):
        tensor.requires_grad_(True)
    made = critic(WITH_Q)
    loss = said(made(seen)).sum() + made.chunk_q(seen, torch.randn(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool)).sum()
    loss.backward()
    assert all(t.grad is None for t in (*seen.keys, *seen.values))
    assert all(p.grad is not None for p in made.parameters())
    # Adding the same to every key moves no attention, so their bias alone learns nothing.
    still = [n for n, p in made.named_parameters() if p.grad.abs().max() < 1e-6]
    assert all(n.endswith("key.bias") for n in still)


@settings(max_examples=25, deadline=None)
@given(st.floats(-1e4, 1e4), st.integers(0, 10_000))
def test_masked_tokens_say_nothing(scale, seed):
    made, seen = critic(WITH_Q), features()
    other = features()
    noise = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed)) * scale
    for tensor in (*other.keys, *other.values):
        tensor[-1, -2:] += noise
    assert torch.equal(said(made(other)), said(made(seen)))
    actions, padded = torch.ones(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool)
    assert torch.equal(made.chunk_q(other, actions, padded), made.chunk_q(seen, actions, padded))


def test_more_padding_changes_nothing():
    made, seen = critic(), features()
    pad = torch.nn.functional.pad
    wider = Features([pad(k, (0, 0, 0, 3)) for k in seen.keys], [pad(v, (0, 0, 0, 3)) for v in seen.values], seen.mask)
    wider.mask = pad(seen.mask, (0, 3))
    torch.testing.assert_close(said(made(wider)), said(made(seen)), rtol=0, atol=1e-6)


def test_real_tokens_speak_in_any_order():
    made, seen = critic(), features(rows=1)
    seen.mask[:] = True
    order = torch.tensor([3, 0, 4, 2, 1])
    turned = Features([k[:, order] for k in seen.keys], [v[:, order] for v in seen.values], seen.mask)
    torch.testing.assert_close(said(made(turned)), said(made(seen)), rtol=0, atol=1e-6)
    for i in (0, 1):
        for part in ("keys", "values"):
            other = features(rows=1)
            other.mask[:] = True
            getattr(other, part)[i] = getattr(other, part)[i] + 1.5 * torch.arange(5.0)[None, :, None]
            assert not torch.allclose(said(made(other)), said(made(seen))), (part, i)


def test_layers_are_read_in_their_order():
    made, seen = critic(), features()
    swapped = Features(seen.keys[::-1], seen.values[::-1], seen.mask)
    assert not torch.allclose(said(made(swapped)), said(made(seen)))


def test_layers_that_the_critic_has_no_block_for():
    with pytest.raises(ValueError, match="features of 3 layers for a critic of 2 blocks"):
        critic()(features(layers=3))


def test_cross_attention_by_hand():
    """softmax(q k / sqrt(d)) v of each head over the real tokens, LayerNorm before, residual around."""
    torch.manual_seed(2)
    block = CrossAttention(SMALL)
    queries, seen = torch.randn(2, 3, 8), features()
    found = block(queries, seen.keys[0], seen.values[0], seen.mask[:, None, None, :])
    q, k, v = block.query(block.norm(queries)), block.key(seen.keys[0]), block.value(seen.values[0])
    mixed = torch.zeros(2, 3, 8)
    for row in range(2):
        real = seen.mask[row]
        for head in (slice(0, 4), slice(4, 8)):
            scores = q[row, :, head] @ k[row, real][:, head].T / math.sqrt(4)
            mixed[row, :, head] = scores.softmax(dim=-1) @ v[row, real][:, head]
    torch.testing.assert_close(found, queries + block.out(mixed), rtol=1e-5, atol=1e-5)


def test_each_sample_is_judged_alone():
    made, seen = critic(WITH_Q), features(rows=3)
    actions, padded = torch.randn(3, 4, 3), torch.rand(3, 4) > 0.5
    whole, q = said(made(seen)), made.chunk_q(seen, actions, padded)
    for i in range(3):
        one = Features([k[i : i + 1] for k in seen.keys], [v[i : i + 1] for v in seen.values], seen.mask[i : i + 1])
        torch.testing.assert_close(said(made(one))[:, 0], whole[:, i], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            made.chunk_q(one, actions[i : i + 1], padded[i : i + 1])[0], q[i], rtol=1e-5, atol=1e-6
        )


def test_the_sizes_survive_json():
    assert CriticConfig(**WITH_Q.to_json()) == WITH_Q


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=8, max_size=8), st.floats(-1e6, 1e6))
def test_a_chunks_padding_cannot_speak(padded, noise):
    made, seen = critic(WITH_Q), features()
    mask = torch.tensor(padded).view(2, 4)
    actions = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(3))
    other = torch.where(mask[..., None], torch.full_like(actions, noise), actions)
    assert torch.equal(made.chunk_q(seen, other, mask), made.chunk_q(seen, actions, mask))


def test_padding_is_not_an_action_of_zeros():
    made, seen = critic(WITH_Q), features()
    zeros, none = torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool)
    cut = none.clone()
    cut[:, 2:] = True
    assert not torch.allclose(made.chunk_q(seen, zeros, cut), made.chunk_q(seen, zeros, none))


def test_two_qs_that_share_nothing():
    torch.manual_seed(4)
    q = ChunkQ(WITH_Q)
    out = q(features(), torch.randn(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool))
    assert out.shape == (2, 2) and out.dtype == torch.float32
    assert not torch.allclose(out[:, 0], out[:, 1])
    out[:, 0].sum().backward()
    first = {n for n, p in q.named_parameters() if p.grad.abs().max() > 1e-9}
    assert first and {n.split(".")[1] for n in first} == {"0"}


def test_every_step_and_dimension_of_the_chunk_counts():
    made, seen = critic(WITH_Q), features()
    actions = torch.randn(2, 4, 3, requires_grad=True)
    made.chunk_q(seen, actions, torch.zeros(2, 4, dtype=torch.bool)).sum().backward()
    assert (actions.grad != 0).all()
