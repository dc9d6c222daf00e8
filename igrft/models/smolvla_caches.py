"""SmolVLA's keys and values of a prefix, what stands where transformers' cache stands, and what chunks see of it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers import DynamicCache


@dataclass
class SmolVLACache:
    """What the action expert reads of a prefix.

    Attributes:
        keys, values: a layer each, [B, K, N, D]; keys with their positions in them.
        mask: bool [B, N].
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor


class Roomy:
    """Stands where a cache stands: the prefix's keys and values are read, the chunk's own written behind them.

    LeRobot's inference puts both together anew in every layer and step.

    Args:
        keys, values: a layer each, [B, K, N, D].
        room: places behind them.
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor], room: int) -> None:
        self.layers = [SimpleNamespace(keys=k, values=v) for k, v in zip(keys, values, strict=True)]
        self._room = room
        self._whole: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        length = self.layers[layer_idx].keys.shape[2]
        if layer_idx not in self._whole:
            seen = self.layers[layer_idx]
            self._whole[layer_idx] = (_roomy(seen.keys, self._room), _roomy(seen.values, self._room))
        for whole, own in zip(self._whole[layer_idx], (key, value), strict=True):
            whole[:, :, length:] = own
        return self._whole[layer_idx]


def copied(cache: SmolVLACache, detached: bool) -> DynamicCache:
    """A cache of its own for one pass of the expert, which adds to it; ``detached`` stops gradients there."""
    pairs = zip(cache.keys, cache.values, strict=True)
    return DynamicCache([(k.detach(), v.detach()) if detached else (k, v) for k, v in pairs])


def suffix_mask(prefix: Tensor, chunk: Tensor, draws: int) -> Tensor:
    """What the S chunks of an observation attend to: its prefix, and each its own tokens.

    Args:
        prefix: bool [B, N], real tokens. ``chunk``: bool [C, C], within a chunk.

    Returns:
        bool [B, S·C, N + S·C].
    """
    own = torch.eye(draws, dtype=torch.bool, device=chunk.device)[:, None, :, None] & chunk[None, :, None]
    own = own.flatten(2).flatten(0, 1)
    rows = own.shape[0]
    return torch.cat([prefix[:, None].expand(-1, rows, -1), own.expand(prefix.shape[0], -1, -1)], dim=2)


def suffix_positions(prefix: Tensor, draws: int, chunk: int) -> Tensor:
    """int64 [B, S·C]: each chunk is counted on from the last real token of the prefix."""
    steps = torch.arange(chunk, device=prefix.device).repeat(draws)
    return prefix.sum(dim=1, keepdim=True) + steps


def _roomy(x: Tensor, places: int) -> Tensor:
    """[B, K, N, D] to [B, K, N + places, D]."""
    return nn.functional.pad(x, (0, 0, 0, places))
