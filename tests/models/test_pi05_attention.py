"""Attention of the two passes against transformers' eager attention with every mask written out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.gemma.modeling_gemma import eager_attention_forward

from igrft.models import pi05_attention as attend

SIZES = st.integers(1, 4)


def eager(query, key, value, seen, scale):
    """``seen`` bool [B, Nq, Nk] for every head."""
    module = SimpleNamespace(num_key_value_groups=query.shape[1] // key.shape[1], training=False)
    mask = torch.where(seen[:, None], 0.0, -1e30)
    return eager_attention_forward(module, query, key, value, mask, scale)[0]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def prompt_masks(data, batch: int, length: int) -> torch.Tensor:
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=batch * length, max_size=batch * length)))
    mask = mask.reshape(batch, length)
    mask[:, 0] = True
    return mask


@settings(max_examples=40, deadline=None)
@given(st.data(), SIZES, SIZES, st.integers(1, 3), st.integers(1, 2), st.integers(0, 3))
def test_prefix_attention(data, batch, prompt, group, kept, length):
    total, width = prompt + length, 4
    mask = prompt_masks(data, batch, prompt)
    targets = prompt_masks(data, batch, length) if length else None
    query, key = normal(batch, kept * group, total, width), normal(batch, kept, total, width)
    value = normal(batch, kept, total, width).flip(0)
    seen = torch.zeros(batch, total, total, dtype=torch.bool)
    seen[:, :, :prompt] = mask[:, None]
    for row in range(length):
        seen[:, prompt + row, prompt : prompt + row + 1] = targets[:, : row + 1]
    rows = attend.target_mask(mask, targets, group)
    assert rows.shape == (batch, 1, (1 + length) * group, total)
    found, _ = attend.prefix_attention(
        None, query, key, value, mask[:, None, None], scaling=0.3, prompt=prompt, target_mask=rows[:, :, group:]
    )
    torch.testing.assert_close(found, eager(query, key, value, seen, 0.3), rtol=1e-4, atol=1e-5)
    # The rows that write, by themselves.
    last = torch.zeros(batch, 1, dtype=torch.int64) + prompt - 1
    chosen = torch.cat([query[:, :, prompt - 1 : prompt], query[:, :, prompt:]], dim=2)
    written, _ = attend.prefix_attention(None, chosen, key, value, None, scaling=0.3, prompt=0, target_mask=rows)
    torch.testing.assert_close(written, found[:, int(last[0]) :], rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.data(), SIZES, SIZES, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.booleans())
def test_suffix_attention(data, batch, length, chunk, draws, kept, padded):
    group, width = 2, 4
    mask = prompt_masks(data, batch, length) if padded else torch.ones(batch, length, dtype=torch.bool)
    own = [normal(batch * draws, heads, chunk, width) for heads in (kept * group, kept, kept)]
    keys, values = normal(batch, kept, length, width), normal(batch, kept, length, width) + 1
    wanted = []
    for row in range(batch * draws):
        b = row // draws
        seen = torch.cat([mask[b].expand(chunk, -1), torch.ones(chunk, chunk, dtype=torch.bool)], dim=1)
        query, key, value = (x[row : row + 1] for x in own)
        key, value = torch.cat([keys[b : b + 1], key], dim=2), torch.cat([values[b : b + 1], value], dim=2)
        wanted.append(eager(query, key, value, seen[None], 0.3))
    allowed = attend.suffix_mask(mask, draws, chunk, group, padded=padded)
    assert (allowed is None) == (draws == 1 and not padded)
    told = {"scaling": 0.3, "prompt": length}
    found, _ = attend.suffix_attention(None, *own, allowed, seen_keys=keys, seen_values=values, **told)
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-4, atol=1e-5)
    # With room behind the prefix the chunks' own are written there, over what was there before.
    roomy = [torch.cat([x, normal(batch, kept, draws * chunk, width)], dim=2) for x in (keys, values)]
    found_too, _ = attend.suffix_attention(None, *own, allowed, seen_keys=roomy[0], seen_values=roomy[1], **told)
    assert torch.equal(found_too, found)
    assert torch.equal(roomy[0][:, :, :length], keys) and torch.equal(roomy[1][:, :, :length], values)


def test_target_mask_by_hand():
    """A prompt of two tokens, the first real; two targets, both real; one head."""
    mask = attend.target_mask(torch.tensor([[True, False]]), torch.tensor([[True, True]]), 1)
    assert mask.int().tolist() == [[[[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]]]


def test_suffix_mask_by_hand():
    """Two draws of chunks of one token, two heads a key head."""
    mask = attend.suffix_mask(torch.tensor([[True, False]]), 2, 1, 2)
    assert mask.int().tolist() == [[[[1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]]]]
    assert attend.suffix_mask(torch.ones(5, 2, dtype=torch.bool), 2, 1, 2, padded=False).shape == (1, 1, 4, 4)


def test_the_setting_of_a_layer_is_left_as_it_was():
    config = SimpleNamespace(_attn_implementation="eager")
    layer = SimpleNamespace(self_attn=SimpleNamespace(config=config))
    with pytest.raises(KeyError), attend.attention(layer, attend.PREFIX):
        assert config._attn_implementation == attend.PREFIX
        raise KeyError
    assert config._attn_implementation == "eager"
