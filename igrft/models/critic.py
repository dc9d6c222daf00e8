"""The critic (paper, Appendix A): a Q-Former over the actor's key/value cache, with three heads.

Ours, where the appendix is silent: one cross-attention block a layer, in the layers' order, residual
with LayerNorm; keys and values of a block are the layer's own, each projected to the critic's width;
padding masked; the mean over the queries goes to the heads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igrft.models.protocol import Features


@dataclass(frozen=True)
class CriticConfig:
    """Sizes of a critic.

    Attributes:
        feature_width: W of the features it reads.
        blocks: layers of features, one cross-attention block each.
        chunk_size, action_dim: of the actions that a Q reads; 0 where there is no Q.
    """

    feature_width: int
    blocks: int = 3
    queries: int = 8
    width: int = 256
    heads: int = 8
    hidden: int = 128
    chunk_size: int = 0
    action_dim: int = 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass
class CriticOutput:
    """What the critic says of each observation, float32 [B] each.

    Attributes:
        trajectory: V_traj, the unweighted return-to-go of the trajectory reward (Eq. 8).
        subtask: V_sub, the unweighted return-to-go of the subtask reward (Eq. 9).
        interaction_logit: p_int is its sigmoid (Eq. 10).
        pooled: [B, width], what the heads read.
    """

    trajectory: Tensor
    subtask: Tensor
    interaction_logit: Tensor
    pooled: Tensor

    @property
    def interaction_probability(self) -> Tensor:
        """p_int in [0, 1], float32 [B]."""
        return self.interaction_logit.sigmoid()


class CrossAttention(nn.Module):
    """Queries attend to one layer's keys and values; LayerNorm before, residual around."""

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.feature_width, config.width)
        self.value = nn.Linear(config.feature_width, config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """queries [B, Q, width], keys and values [B, N, W], mask bool [B, 1, 1, N] → [B, Q, width]."""
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.query(self.norm(queries)), self.key(keys), self.value(values))
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return queries + self.out(attended.transpose(1, 2).flatten(-2))


class QFormer(nn.Module):
    """Learned queries gather one vector from the features."""

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(config.queries, config.width) * 0.02)
        self.blocks = nn.ModuleList(CrossAttention(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, features: Features) -> Tensor:
        """[B, width], in the parameters' dtype."""
        if len(features.keys) != len(self.blocks):
            raise ValueError(f"features of {len(features.keys)} layers for a critic of {len(self.blocks)} blocks")
        dtype = self.queries.dtype
        x = self.queries.expand(features.mask.shape[0], -1, -1)
        mask = features.mask[:, None, None, :]
        for block, keys, values in zip(self.blocks, features.keys, features.values, strict=True):
            x = block(x, keys.to(dtype), values.to(dtype), mask)
        return self.norm(x).mean(dim=1)


def head(inputs: int, hidden: int) -> nn.Sequential:
    """A head of Appendix A: inputs → hidden → 1."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, 1))


class Critic(nn.Module):
    """V_traj, V_sub and the interaction logit of an observation; gradients stop at its input."""

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        self.former = QFormer(config)
        self.trajectory = head(config.width, config.hidden)
        self.subtask = head(config.width, config.hidden)
        self.interaction = head(config.width, config.hidden)
        self.chunk_q = ChunkQ(config) if config.chunk_size else None

    def forward(self, features: Features) -> CriticOutput:
        pooled = self.former(features.detached())
        return CriticOutput(
            trajectory=self.trajectory(pooled).squeeze(-1).float(),
            subtask=self.subtask(pooled).squeeze(-1).float(),
            interaction_logit=self.interaction(pooled).squeeze(-1).float(),
            pooled=pooled,
        )


class ChunkQ(nn.Module):
    """Two Q functions over action chunks (IQL), each with queries of its own.

    Steps past the end of the episode are blanked and marked, so that their padding cannot speak.
    """

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        actions = config.chunk_size * (config.action_dim + 1)
        self.formers = nn.ModuleList(QFormer(config) for _ in range(2))
        self.actions = nn.ModuleList(
            nn.Sequential(nn.Linear(actions, config.width), nn.GELU(), nn.Linear(config.width, config.width))
            for _ in range(2)
        )
        self.heads = nn.ModuleList(head(2 * config.width, config.hidden) for _ in range(2))

    def forward(self, features: Features, actions: Tensor, padded: Tensor) -> Tensor:
        """actions [B, chunk, dim], padded bool [B, chunk] → float32 [B, 2]."""
        real = (~padded).to(actions.dtype).unsqueeze(-1)
        flat = torch.cat([actions * real, real], dim=-1).flatten(1)
        features = features.detached()
        return torch.cat(
            [
                q(torch.cat([former(features), embed(flat)], dim=-1))
                for former, embed, q in zip(self.formers, self.actions, self.heads, strict=True)
            ],
            dim=-1,
        ).float()
