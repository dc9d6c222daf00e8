"""Next-token cross-entropy of target tokens, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

#: Logits held at once; 2^26 are 256 MiB in float32. π0.5 writes one of 257,152 tokens.
MOST_LOGITS = 2**26


def next_token_loss(
    states: Tensor, tokens: Tensor, mask: Tensor, head: Any, most: int = MOST_LOGITS
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of each sample's target tokens, and how many were predicted.

    Args:
        states: float [B, 1 + L, W]: of the prompt's last token and the targets. Row j predicts target j.
        tokens: int64 [B, L]. ``mask``: bool [B, L], true where a token is real.
        head: states to logits [..., V].
        most: logits held at once; more are computed in parts, and again in the backward pass.

    Returns:
        loss float32 [B], 0 where a sample has no target; share predicted float32 [B], without gradient.
    """
    flat, wanted = states[:, :-1].flatten(0, 1), tokens.flatten()
    # A linear layer's weight is [V, W]; what wraps one (an adapter) says as much.
    rows = max(1, most // head.weight.shape[0])
    parts = []
    for start in range(0, flat.shape[0], rows):
        part = (flat[start : start + rows], wanted[start : start + rows])
        if flat.shape[0] > rows and torch.is_grad_enabled():
            parts.append(checkpoint(_losses, head, *part, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_losses(head, *part))
    loss, correct = (torch.cat(x).reshape(mask.shape) * mask for x in zip(*parts, strict=True))
    count = mask.sum(dim=1).clamp_min(1)
    return loss.sum(dim=1) / count, correct.sum(dim=1) / count


def _losses(head: Any, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    logits = head(states).float()
    correct = (logits.detach().argmax(dim=-1) == tokens).float()
    return cross_entropy(logits, tokens, reduction="none"), correct
