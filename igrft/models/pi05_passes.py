"""π0.5's two passes over its layers: the language model over the prefix, the action expert over its cache.

LeRobot trains on one joint pass. The prefix never attends to the actions, so two passes are the same
function: the same losses and gradients. Layers are called as modules, so that hooks (FSDP's, for instance) run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb

from igrft.errors import IgrftError
from igrft.models import pi05_attention as attend


@dataclass
class Seen:
    """Keys and values of every layer.

    Attributes:
        keys, values: a layer each, [B, K, N, D]; keys with their positions in them.
    """

    keys: list[Tensor]
    values: list[Tensor]


class _Record:
    """Stands where a cache stands: hands on a layer's keys and values, and keeps them."""

    key: Tensor | None = None
    value: Tensor | None = None

    def update(self, key: Tensor, value: Tensor, layer_idx: int, cache_kwargs: Any = None) -> tuple[Tensor, Tensor]:
        self.key, self.value = key, value
        return key, value

    def kept(self) -> tuple[Tensor, Tensor]:
        if self.key is None or self.value is None:
            raise IgrftError(
                "a layer of the language model kept no keys: Hugging Face's own gradient checkpointing is on; "
                "set policy.gradient_checkpointing instead"
            )
        return self.key, self.value


class _Given:
    """Stands where a cache stands: a layer attends over these keys and values, not over its own."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value

    def update(self, key: Tensor, value: Tensor, layer_idx: int, cache_kwargs: Any = None) -> tuple[Tensor, Tensor]:
        return self.key, self.value


class Growing:
    """A layer's cache with room to write token by token.

    Args:
        key, value: [B, K, N, D], of the prefix.
        room: tokens that can be added.
    """

    def __init__(self, key: Tensor, value: Tensor, room: int) -> None:
        self.length = key.shape[2]
        self._key, self._value = (nn.functional.pad(x, (0, 0, 0, room)) for x in (key, value))

    def update(self, key: Tensor, value: Tensor, layer_idx: int, cache_kwargs: Any = None) -> tuple[Tensor, Tensor]:
        end = self.length + key.shape[2]
        self._key[:, :, self.length : end] = key
        self._value[:, :, self.length : end] = value
        self.length = end
        return self._key[:, :, :end], self._value[:, :, :end]


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
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def prefix_pass(
    model: Any,
    embedded: Tensor,
    prompt_mask: Tensor,
    targets: Tensor | None,
    *,
    padded: bool = True,
    write: bool = False,
    recompute: bool = False,
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
        recompute: keep no activations of a layer but its input, its keys and its values.

    Returns:
        Keys and values of all N + L tokens, and, where ``write``, the final states of the last real prompt token
        and the targets, [B, 1 + L, W].
    """
    hidden = embedded.to(compute_dtype(model))
    prompt = prompt_mask.shape[1]
    positions = _positions(prompt_mask, targets)
    turn = model.rotary_emb(hidden, positions)
    mask = prompt_mask[:, None, None] if padded else None
    group = model.config.num_attention_heads // model.config.num_key_value_heads
    rows_mask = attend.target_mask(prompt_mask, targets, group) if write or targets is not None else None
    last = (prompt_mask * torch.arange(prompt, device=prompt_mask.device)).argmax(dim=1) if write else None

    def whole(layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        record = _Record()
        seen = None if targets is None or rows_mask is None else rows_mask[:, :, group:]
        with attend.attention(layer, attend.PREFIX):
            hidden = layer(
                hidden,
                attention_mask=mask,
                past_key_values=record,
                position_embeddings=turn,
                prompt=prompt,
                target_mask=seen,
            )
        return hidden, *record.kept()

    def rows(x: Tensor) -> Tensor:
        assert last is not None
        first = x.gather(1, last[:, None, None].expand(-1, 1, x.shape[2]))
        return torch.cat([first, x[:, prompt:]], dim=1)

    def tail(layer: Any, hidden: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        key, value = _keys_values(layer, hidden, turn)
        if not write:
            return None, key, value
        with attend.attention(layer, attend.PREFIX):
            out = layer(
                rows(hidden),
                attention_mask=None,
                past_key_values=_Given(key, value),
                position_embeddings=(rows(turn[0]), rows(turn[1])),
                prompt=0,
                target_mask=rows_mask,
            )
        return out, key, value

    layers = list(model.layers)
    seen = Seen([], [])
    for layer in layers[:-1]:
        hidden, key, value = _run(whole, recompute, layer, hidden)
        seen.keys.append(key)
        seen.values.append(value)
    if _is_bare(layers[-1]):
        written, key, value = _run(tail, recompute, layers[-1], hidden)
    else:
        hidden, key, value = _run(whole, recompute, layers[-1], hidden)
        written = rows(hidden) if write else None
        if not write:
            key, value = _Hold.apply(key, hidden), _Hold.apply(value, hidden)
    seen.keys.append(key)
    seen.values.append(value)
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
    recompute: bool = False,
) -> Tensor:
    """The action expert over noisy chunks and the prefix's cache.

    Args:
        model: LeRobot's PiGemmaModel with adaptive norms.
        rotary_emb: the language model's, as in LeRobot's joint pass.
        embedded: float [B·S, C, W], the S draws of an observation behind each other.
        cond: float [B·S, W], what the norms adapt to.
        seen: of :func:`prefix_pass`, the prompt's N tokens only.
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

    def step(layer: Any, hidden: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with attend.attention(layer, attend.SUFFIX):
            out: Tensor = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=turn,
                adarms_cond=cond,
                seen_keys=key,
                seen_values=value,
            )
        return out

    for layer, key, value in zip(model.layers, seen.keys, seen.values, strict=True):
        hidden = _run(step, recompute, layer, hidden, key, value)
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


def _positions(prompt_mask: Tensor, targets: Tensor | None) -> Tensor:
    """int64 [B, N + L]: real tokens are counted from 0."""
    mask = prompt_mask if targets is None else torch.cat([prompt_mask, targets], dim=1)
    return torch.cumsum(mask, dim=1) - 1


def _keys_values(layer: Any, hidden: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
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


def _run(function: Callable[..., Any], recompute: bool, *args: Any) -> Any:
    if recompute:
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return function(*args)
