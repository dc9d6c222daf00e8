"""Attention of the two passes, for transformers' own attention interface.

Gemma's query heads share one head of keys and values. Laid behind each other along the sequence they are one
long query, so neither keys nor values are repeated, and a mask that says only which keys are real serves
every query: no [N, N] mask is made. PyTorch's fused attention does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

#: Names under which transformers finds the functions below.
PREFIX = "igrft_prefix"
SUFFIX = "igrft_suffix"


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Softmax attention of H query heads over K key heads; query head h uses key head h // (H / K).

    Args:
        query: float [B, H, Nq, D].
        key, value: float [B, K, Nk, D].
        mask: bool [B or 1, 1, 1 or Nq·H/K, Nk], true where a key is seen; rows in the order (token, head of a
            group). None sees all.

    Returns:
        float [B, Nq, H, D].
    """
    batch, heads, length, width = query.shape
    kept = key.shape[1]
    group = heads // kept
    rows = query.transpose(1, 2).reshape(batch, length, kept, group, width).transpose(1, 2)
    rows = rows.reshape(batch, kept, length * group, width)
    out = scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scale)
    return out.reshape(batch, kept, length, group, width).transpose(1, 2).reshape(batch, length, heads, width)


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    prompt: int,
    target_mask: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The first ``prompt`` queries see the first ``prompt`` keys, the others what ``target_mask`` says.

    Args:
        attention_mask: bool [B, 1, 1, prompt], or None where every key of the prompt is real.
        target_mask: bool [B, 1, (Nq - prompt)·G, Nk], or with 1 row for all.
    """
    parts = []
    if prompt:
        parts.append(
            grouped_attention(query[:, :, :prompt], key[:, :, :prompt], value[:, :, :prompt], attention_mask, scaling)
        )
    if prompt < query.shape[2]:
        parts.append(grouped_attention(query[:, :, prompt:], key, value, target_mask, scaling))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), None


def suffix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    seen_keys: Tensor,
    seen_values: Tensor,
    prompt: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Chunks see the prefix of their observation and themselves.

    The draws of one observation are one sequence here, so that they share its keys and values.

    Args:
        query, key, value: [B·S, heads, C, D].
        attention_mask: of :func:`suffix_mask`.
        seen_keys, seen_values: [B, K, N, D], of the prefix; or with S·C places behind it, into which the chunks' own
            are written: then nothing is copied, and there is no gradient.
        prompt: N.
    """
    batch, draws = seen_keys.shape[0], query.shape[0] // seen_keys.shape[0]

    def side_by_side(x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(batch, draws * x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)

    if seen_keys.shape[2] > prompt:
        keys, values = seen_keys, seen_values
        keys[:, :, prompt:] = side_by_side(key)
        values[:, :, prompt:] = side_by_side(value)
    else:
        keys = torch.cat([seen_keys, side_by_side(key)], dim=2)
        values = torch.cat([seen_values, side_by_side(value)], dim=2)
    out = grouped_attention(side_by_side(query), keys, values, attention_mask, scaling)
    return out.reshape(query.shape[0], query.shape[2], *out.shape[2:]), None


def target_mask(prompt_mask: Tensor, targets: Tensor | None, group: int) -> Tensor:
    """What the prompt's last token and the target tokens see: the prompt, and targets up to themselves.

    Args:
        prompt_mask: bool [B, N].
        targets: bool [B, L], true where a target token is real.
        group: query heads a key head.

    Returns:
        bool [B, 1, (1 + L)·group, N + L]; the first ``group`` rows are the prompt's last token.
    """
    batch, length = prompt_mask.shape[0], 0 if targets is None else targets.shape[1]
    seen = prompt_mask[:, None, :].expand(-1, 1 + length, -1)
    if targets is not None:
        causal = torch.ones(1 + length, length, dtype=torch.bool, device=targets.device).tril(-1)
        seen = torch.cat([seen, causal & targets[:, None, :]], dim=2)
    return _repeat_rows(seen, group).reshape(batch, 1, (1 + length) * group, -1)


def suffix_mask(prompt_mask: Tensor, draws: int, chunk: int, group: int, *, padded: bool = True) -> Tensor | None:
    """What chunks see: the real tokens of the prompt, and their own chunk.

    Args:
        prompt_mask: bool [B, N].
        draws: S, chunks of an observation. ``chunk``: C, tokens of one.
        group: query heads a key head.
        padded: whether ``prompt_mask`` has a false.

    Returns:
        bool [B or 1, 1, 1 or S·C·group, N + S·C]; None where all is seen.
    """
    if draws == 1:
        return nn.functional.pad(prompt_mask, (0, chunk), value=True)[:, None, None] if padded else None
    own = torch.arange(draws, device=prompt_mask.device).repeat_interleave(chunk)
    same = own[:, None] == own[None, :]
    prompt = prompt_mask if padded else prompt_mask[:1]
    batch, rows = prompt.shape[0], draws * chunk
    seen = torch.cat([prompt[:, None].expand(-1, rows, -1), same.expand(batch, -1, -1)], dim=2)
    return _repeat_rows(seen, group)[:, None]


@contextmanager
def attention(layer: Any, name: str) -> Iterator[None]:
    """Let a Gemma layer attend by the function registered as ``name``, and leave its setting as it was.

    Set layer by layer, since gradient checkpointing runs layers again during the backward pass.
    """
    config = layer.self_attn.config
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def _repeat_rows(seen: Tensor, group: int) -> Tensor:
    """[B, R, N] to [B, R·group, N], each row ``group`` times."""
    batch, rows, keys = seen.shape
    return seen[:, :, None].expand(-1, -1, group, -1).reshape(batch, rows * group, keys)


AttentionInterface.register(PREFIX, prefix_attention)
AttentionInterface.register(SUFFIX, suffix_attention)
