"""π0.5's two passes over its layers: the language model over the prefix, the action expert over its cache.

LeRobot trains on one joint pass. The prefix never attends to the actions, so two passes are the same
function: the same losses and gradients. Layers are called as modules, so that hooks (FSDP's, for instance) run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb

from igrft.models import pi05_attention as attend
from igrft.models.compiled import Compiling
from igrft.models.pi05_caches import Given, Growing, Record, Seen
from igrft.models.precision import autocast_dtype

#: Cosines and sines of rotary positions, [B, N, D] each.
Turn = tuple[Tensor, Tensor]


class _Hold(torch.autograd.Function):
    """The first tensor, with a gradient of zero for the second.

    FSDP gathers a layer's weights for the backward pass when a gradient reaches the layer's output. The last
    layer's output is not used where nothing is written, and its keys and values leave by another way.
    """

    @staticmethod
    def forward(ctx: Any, kept: Tensor, output: Tensor) -> Tensor:
        ctx.shape, ctx.kind = output.shape, output.dtype
        return kept.view_as(kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        return gradient, gradient.new_zeros((), dtype=ctx.kind).expand(ctx.shape)


def compute_dtype(model: Any) -> torch.dtype:
    """What a model's layers compute in: autocast's type where it is on, else that of their weights."""
    weight = model.layers[0].self_attn.q_proj.weight
    return autocast_dtype(weight.device) or weight.dtype


@dataclass(frozen=True)
class How:
    """How layers are run.

    Attributes:
        recompute: keep no activations of a layer but its input, its keys and its values.
        compiled: what compiles them, which fuses what lies between the matrix products; None runs them as they are,
            and so does a layer with hooks.
    """

    recompute: bool = False
    compiled: Compiling | None = None


def prefix_pass(
    model: Any,
    embedded: Tensor,
    prompt_mask: Tensor,
    targets: Tensor | None,
    *,
    padded: bool = True,
    write: bool = False,
    how: How = How(),
) -> tuple[Seen, Tensor | None]:
    """The language model over prompt and target tokens.

    Prompt tokens see the prompt. A target token sees the prompt and the targets up to itself. The last layer
    computes only what is asked for: keys and values, and the rows that write.

    Args:
        model: LeRobot's PiGemmaModel, without adaptive norms.
        embedded: float [B, N + L, W], targets last.
        prompt_mask: bool [B, N].
        targets: bool [B, L], or None where L is 0.
        padded: whether ``prompt_mask`` has a false.
        write: whether rows are wanted from which tokens are predicted.

    Returns:
        Keys and values of all N + L tokens, and, where ``write``, the final states of the last real prompt token
        and the targets, [B, 1 + L, W].
    """
    hidden = embedded.to(compute_dtype(model))
    prompt = prompt_mask.shape[1]
    turn = model.rotary_emb(hidden, _positions(prompt_mask, targets))
    mask = prompt_mask[:, None, None] if padded else None
    group = model.config.num_attention_heads // model.config.num_key_value_heads
    rows_mask = attend.target_mask(prompt_mask, targets, group) if write or targets is not None else None
    targets_mask = None if targets is None or rows_mask is None else rows_mask[:, :, group:]
    last = (prompt_mask * torch.arange(prompt, device=prompt_mask.device)).argmax(dim=1)
    seen, written = Seen([], []), None
    layers = list(model.layers)
    for layer in layers[:-1]:
        hidden, key, value = run_layer(_whole, how, layer, hidden, turn, mask, targets_mask, prompt)
        seen.add(key, value)
    if _is_bare(layers[-1]):
        written, key, value = run_layer(
            _tail, how, layers[-1], hidden, turn, last, rows_mask if write else None, prompt
        )
    else:
        hidden, key, value = run_layer(_whole, how, layers[-1], hidden, turn, mask, targets_mask, prompt)
        if write:
            written = _rows(hidden, last, prompt)
        else:
            key, value = _Hold.apply(key, hidden), _Hold.apply(value, hidden)
    seen.add(key, value)
    return seen, None if written is None else model.norm(written)[0]


def suffix_pass(
    model: Any,
    rotary_emb: Any,
    embedded: Tensor,
    cond: Tensor,
    seen: Seen,
    prompt_mask: Tensor,
    *,
    padded: bool = True,
    how: How = How(),
) -> Tensor:
    """The action expert over noisy chunks and the prefix's cache.

    Args:
        model: LeRobot's PiGemmaModel with adaptive norms.
        rotary_emb: the language model's, as in LeRobot's joint pass.
        embedded: float [B·S, C, W], the S draws of an observation behind each other.
        cond: float [B·S, W], what the norms adapt to.
        seen: of :func:`prefix_pass`, the prompt's N tokens only; or with room for S·C, which is written over.
        prompt_mask: bool [B, N].
        padded: whether ``prompt_mask`` has a false.

    Returns:
        float [B·S, C, W], after the final norm.
    """
    hidden = embedded.to(compute_dtype(model))
    draws, chunk = hidden.shape[0] // prompt_mask.shape[0], hidden.shape[1]
    positions = prompt_mask.sum(dim=1)[:, None] + torch.arange(chunk, device=hidden.device)
    turn = rotary_emb(hidden, positions.repeat_interleave(draws, dim=0))
    group = model.config.num_attention_heads // model.config.num_key_value_heads
    mask = attend.suffix_mask(prompt_mask, draws, chunk, group, padded=padded)
    for layer, key, value in zip(model.layers, seen.keys, seen.values, strict=True):
        hidden = run_layer(_adapted, how, layer, hidden, turn, cond, mask, key, value, prompt_mask.shape[1])
    out: Tensor = model.norm(hidden, cond)[0]
    return out


def write_token(model: Any, embedded: Tensor, position: Tensor, caches: Sequence[Growing], mask: Tensor) -> Tensor:
    """One token more through the language model.

    Args:
        embedded: float [B, 1, W]. ``position``: int64 [B, 1].
        caches: a layer each; the token is added to them.
        mask: bool [B, M], which of the cached tokens are real, this one (the last) included.

    Returns:
        float [B, 1, W], after the final norm.
    """
    hidden = embedded.to(compute_dtype(model))
    turn = model.rotary_emb(hidden, position)
    for layer, cache in zip(model.layers, caches, strict=True):
        with attend.attention(layer, attend.PREFIX):
            hidden = layer(
                hidden,
                attention_mask=None,
                past_key_values=cache,
                position_embeddings=turn,
                prompt=0,
                target_mask=mask[:, None, None],
            )
    out: Tensor = model.norm(hidden)[0]
    return out


def _whole(
    layer: Any, hidden: Tensor, turn: Turn, mask: Tensor | None, targets_mask: Tensor | None, prompt: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer of the language model over all tokens: states, keys, values."""
    record = Record()
    with attend.attention(layer, attend.PREFIX):
        hidden = layer(
            hidden,
            attention_mask=mask,
            past_key_values=record,
            position_embeddings=turn,
            prompt=prompt,
            target_mask=targets_mask,
        )
    return hidden, *record.kept()


def _tail(
    layer: Any, hidden: Tensor, turn: Turn, last: Tensor, rows_mask: Tensor | None, prompt: int
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The last layer: keys and values of all tokens, states of the rows that write, if any do."""
    key, value = _keys_values(layer, hidden, turn)
    if rows_mask is None:
        return None, key, value
    with attend.attention(layer, attend.PREFIX):
        written = layer(
            _rows(hidden, last, prompt),
            attention_mask=None,
            past_key_values=Given(key, value),
            position_embeddings=(_rows(turn[0], last, prompt), _rows(turn[1], last, prompt)),
            prompt=0,
            target_mask=rows_mask,
        )
    return written, key, value


def _adapted(
    layer: Any, hidden: Tensor, turn: Turn, cond: Tensor, mask: Tensor | None, key: Tensor, value: Tensor, prompt: int
) -> Tensor:
    """A layer of the action expert."""
    with attend.attention(layer, attend.SUFFIX):
        out: Tensor = layer(
            hidden,
            attention_mask=mask,
            position_embeddings=turn,
            adarms_cond=cond,
            seen_keys=key,
            seen_values=value,
            prompt=prompt,
        )
    return out


def _rows(x: Tensor, last: Tensor, prompt: int) -> Tensor:
    """[B, N + L, W] to [B, 1 + L, W]: the prompt's last real token and the targets."""
    first = x.gather(1, last[:, None, None].expand(-1, 1, x.shape[2]))
    return torch.cat([first, x[:, prompt:]], dim=1)


def _positions(prompt_mask: Tensor, targets: Tensor | None) -> Tensor:
    """int64 [B, N + L]: real tokens are counted from 0."""
    mask = prompt_mask if targets is None else torch.cat([prompt_mask, targets], dim=1)
    return torch.cumsum(mask, dim=1) - 1


def _keys_values(layer: Any, hidden: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
    """What a layer would put into its cache, without attention and MLP."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)[0]
    shape = (*hidden.shape[:2], -1, attention.head_dim)
    key = attention.k_proj(normed).view(shape).transpose(1, 2)
    value = attention.v_proj(normed).view(shape).transpose(1, 2)
    return apply_rotary_pos_emb(key, key, *turn)[1], value


def _is_bare(layer: Any) -> bool:
    """Whether a layer's parts may be called by themselves: nothing gathers or moves its weights when it is called."""
    return "self_attn" in layer._modules and not layer._forward_pre_hooks and not hasattr(layer, "_hf_hook")


def run_layer(function: Callable[..., Any], how: How, layer: Any, *args: Any) -> Any:
    """``function(layer, *args)``, compiled and recomputed as ``how`` says."""
    if how.compiled is not None and _is_bare(layer):
        # One graph serves all layers of a model.
        function = how.compiled(function)
    if how.recompute:
        return checkpoint(function, layer, *args, use_reentrant=False, preserve_rng_state=False)
    return function(layer, *args)
