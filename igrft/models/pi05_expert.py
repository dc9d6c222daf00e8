"""π0.5's action expert at the fixed times of inference.

The Euler steps are always at the same times, so what the adaptive norms make of a time is computed once for all
(LeRobot does it in every step and norm, with float32 weights that are more than a third of what a step reads). Weights
that are applied to the same input stand behind each other: at a chunk's few rows the number of products counts, not
their size. Everything else is LeRobot's inference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igrft.errors import UsageError
from igrft.models.compiled import Compiling, as_they_are
from igrft.models.pi05_passes import compute_dtype

#: How the expert attends: PyTorch's fused attention, or two products around a softmax.
ATTENTIONS = ("sdpa", "matmul")
#: The cache's length is a multiple of it: fused attention would else pad its mask in every layer and step.
ALIGNED = 16


def room_for(chunk: int, prompt: int) -> int:
    """Places behind a prefix of ``prompt`` tokens for a chunk's own keys and values."""
    return -(-(prompt + chunk) // ALIGNED) * ALIGNED - prompt


@dataclass(frozen=True)
class _Sizes:
    """heads: of queries; kept: of keys and values; width: of one; eps: of the norms; scale: of attention."""

    heads: int
    kept: int
    width: int
    eps: float
    scale: float

    @property
    def group(self) -> int:
        return self.heads // self.kept


@dataclass(frozen=True)
class _Layer:
    """Weights, as nn.Linear has them: query, key and value in one; gate and up in one."""

    attend: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor
    act: Callable[[Tensor], Tensor]


class FixedExpert:
    """The flow at the times of Euler's steps. Weights are taken as they are now.

    Args:
        model: LeRobot's PI05Pytorch.
        rotary_emb: the language model's.
        steps: Euler steps.
        compiled: what compiles the parts of a layer.

    Attributes:
        attention: one of ``ATTENTIONS``, may be changed.
        table: what every norm makes of every time: scale, shift and gate, float32 [steps, norms, 3, W].

    Raises:
        UsageError: a layer that has adapters in it.
    """

    def __init__(
        self,
        model: Any,
        rotary_emb: nn.Module,
        steps: int,
        compiled: Compiling = as_they_are,
    ) -> None:
        expert = model.paligemma_with_expert.gemma_expert.model
        config = expert.config
        self._sizes = _Sizes(
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            expert.norm.eps,
            expert.layers[0].self_attn.scaling,
        )
        self._dtype = compute_dtype(expert)
        self._rotary = rotary_emb
        self._first, self._last = model.action_in_proj, model.action_out_proj
        self._layers = [_layer(layer) for layer in expert.layers]
        self.attention = ATTENTIONS[0]
        self._into, self._out_of, self._velocity = compiled(_into), compiled(_out_of), compiled(_velocity)
        self._matmul = compiled(_by_matmul)
        self.table = _table(model, expert, steps)

    def integrate(self, noise: Tensor, cache: Tensor, mask: Tensor) -> tuple[Tensor]:
        """All Euler steps: noise float32 [B, C, W] to actions of that shape. ``cache``, ``mask``: as :meth:`flow`."""
        turn, seen = self._turn(noise, mask), self._seen(noise, cache, mask)
        x, dt = noise, -1.0 / self.table.shape[0]
        for change in self.table.unbind():
            x = x + dt * self._step(x, change, cache, mask.shape[1], turn, seen)
        return (x,)

    def flow(self, x: Tensor, change: Tensor, cache: Tensor, mask: Tensor) -> tuple[Tensor]:
        """Velocity at one of the times.

        Args:
            x: float32 [B, C, W].
            change: the time's part of the table, [norms, 3, W].
            cache: of the prefix with room for the chunk, [layers, 2, B, K, N + R, D]; the room is written over.
            mask: bool [B, N], real tokens of the prefix.
        """
        turn, seen = self._turn(x, mask), self._seen(x, cache, mask)
        return (self._step(x, change, cache, mask.shape[1], turn, seen),)

    def _step(
        self, x: Tensor, change: Tensor, cache: Tensor, prompt: int, turn: tuple[Tensor, Tensor], seen: Tensor
    ) -> Tensor:
        sizes, chunk = self._sizes, x.shape[1]
        hidden = self._first(x).to(self._dtype)
        for i, layer in enumerate(self._layers):
            before, after = change[2 * i], change[2 * i + 1]
            rows, own = self._into(hidden, before, layer.attend, *turn, sizes)
            cache[i, :, :, :, prompt : prompt + chunk] = own
            rows = self._attend(rows, cache[i, 0], cache[i, 1], seen)
            hidden = self._out_of(hidden, rows, before, after, layer.out, layer.gate_up, layer.down, layer.act, sizes)
        out: Tensor = self._velocity(hidden, change[-1], self._last.weight, self._last.bias, sizes)
        return out

    def _attend(self, rows: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        if self.attention == "matmul":
            out: Tensor = self._matmul(rows, keys, values, seen, self._sizes.scale)
            return out
        return F.scaled_dot_product_attention(rows, keys, values, attn_mask=seen, scale=self._sizes.scale)

    def _turn(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the chunk's positions, [B, C, 1, D]: it goes on behind the real tokens."""
        positions = mask.sum(dim=1)[:, None] + torch.arange(x.shape[1], device=x.device)
        cos, sin = self._rotary(x.to(self._dtype), positions)
        return cos[:, :, None], sin[:, :, None]

    def _seen(self, x: Tensor, cache: Tensor, mask: Tensor) -> Tensor:
        """What every query sees, to be added to the scores: 0 or minus infinity, [B, 1, 1, N + R]."""
        chunk, room = x.shape[1], cache.shape[4] - mask.shape[1]
        seen = F.pad(F.pad(mask, (0, chunk), value=True), (0, room - chunk), value=False)
        return torch.zeros_like(seen, dtype=self._dtype).masked_fill(~seen, float("-inf"))[:, None, None]


def _adapted(x: Tensor, change: Tensor, eps: float) -> Tensor:
    """LeRobot's adaptive RMS norm, with scale and shift given: in float32, in the end of the type of ``x``."""
    normed = x * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + eps)
    return (normed * (1 + change[0]) + change[1]).to(x.dtype)


def _into(
    hidden: Tensor, change: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, sizes: _Sizes
) -> tuple[Tensor, Tensor]:
    """Queries as rows (token, head of a group), [B, K, C·G, D], and own keys and values, [2, B, K, C, D]."""
    made = F.linear(_adapted(hidden, change, sizes.eps), weight).unflatten(-1, (-1, sizes.width))
    turned, value = made[:, :, : sizes.heads + sizes.kept], made[:, :, sizes.heads + sizes.kept :]
    half = sizes.width // 2
    turned = turned * cos + torch.cat([-turned[..., half:], turned[..., :half]], dim=-1) * sin
    query, key = turned[:, :, : sizes.heads], turned[:, :, sizes.heads :]
    rows = query.unflatten(2, (sizes.kept, sizes.group)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    return rows.contiguous(), torch.stack([key, value]).transpose(2, 3)


def _out_of(
    hidden: Tensor,
    rows: Tensor,
    before: Tensor,
    after: Tensor,
    out: Tensor,
    gate_up: Tensor,
    down: Tensor,
    act: Callable[[Tensor], Tensor],
    sizes: _Sizes,
) -> Tensor:
    """What follows attention in a layer, [B, C, W]."""
    attended = rows.unflatten(2, (-1, sizes.group)).permute(0, 2, 1, 3, 4).flatten(2)
    hidden = hidden + F.linear(attended, out) * before[2].to(hidden.dtype)
    gate, up = F.linear(_adapted(hidden, after, sizes.eps), gate_up).chunk(2, dim=-1)
    return hidden + F.linear(act(gate) * up, down) * after[2].to(hidden.dtype)


def _velocity(hidden: Tensor, change: Tensor, weight: Tensor, bias: Tensor, sizes: _Sizes) -> Tensor:
    """The final norm and the projection to actions, which LeRobot makes in float32."""
    return F.linear(_adapted(hidden, change, sizes.eps).to(weight.dtype), weight, bias).float()


def _by_matmul(rows: Tensor, keys: Tensor, values: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Attention whose scores are written out: at few rows that can be the faster way."""
    scores = (rows @ keys.transpose(2, 3)).float() * scale + seen
    return scores.softmax(dim=-1).to(values.dtype) @ values


def _layer(layer: Any) -> _Layer:
    attend, mlp = layer.self_attn, layer.mlp
    parts = (attend.q_proj, attend.k_proj, attend.v_proj, attend.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    if any(type(p) is not nn.Linear or p.bias is not None for p in parts):
        raise UsageError("fast inference takes the action expert as LeRobot makes it; merge adapters into it first")
    q, k, v, o, gate, up, down = (p.weight.detach() for p in parts)
    return _Layer(torch.cat([q, k, v]), o, torch.cat([gate, up]), down, mlp.act_fn)


@torch.no_grad()
def _table(model: Any, expert: Any, steps: int) -> Tensor:
    """Of every time, what every norm's linear layer makes of it."""
    weight = model.action_in_proj.weight
    times = torch.tensor([1.0 + i * (-1.0 / steps) for i in range(steps)], dtype=torch.float32, device=weight.device)
    nothing = torch.zeros(steps, model.config.chunk_size, weight.shape[1], device=weight.device)
    cond = model.embed_suffix(nothing, times)[3]
    norms = [n for layer in expert.layers for n in (layer.input_layernorm, layer.post_attention_layernorm)]
    made = [norm.dense(cond.to(norm.dense.weight.dtype)) for norm in (*norms, expert.norm)]
    return torch.stack(made, dim=1).float().unflatten(-1, (3, -1)).contiguous()
