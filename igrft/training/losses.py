"""Losses of a step: tensors in, tensors out. One value a sample, so that any weighting comes after."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from igrft.models.critic import CriticOutput


def masked_flow_loss(error: Tensor, padded: Tensor) -> Tensor:
    """Mean squared error of each sample over its real action steps (inner expectation of Eq. 3).

    Args:
        error: float [B, S, chunk, dim], squared.
        padded: bool [B, chunk], true past the end of the episode: those steps count in no loss.

    Returns:
        float32 [B]; 0 where every step is padded.
    """
    real = (~padded).to(error.dtype)[:, None, :, None]
    steps = real.sum(dim=(1, 2, 3)) * error.shape[1] * error.shape[3]
    # Chosen, not multiplied: whatever stands in a padded step must not get through.
    kept = torch.where(padded[:, None, :, None], torch.zeros((), dtype=error.dtype, device=error.device), error)
    return kept.sum(dim=(1, 2, 3)) / steps.clamp_min(1)


def critic_losses(
    output: CriticOutput, return_trajectory: Tensor, return_subtask: Tensor, interaction: Tensor
) -> dict[str, Tensor]:
    """Eq. 8, 9 and 10 for each sample, float32 [B] each.

    Args:
        return_trajectory, return_subtask: unweighted returns-to-go, float [B].
        interaction: the label, 0 or 1, float [B].
    """
    return {
        "value_trajectory": (output.trajectory - return_trajectory) ** 2,
        "value_subtask": (output.subtask - return_subtask) ** 2,
        "interaction": F.binary_cross_entropy_with_logits(output.interaction_logit, interaction, reduction="none"),
    }


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """IQL's value loss |expectile - 1(u < 0)| u² of u = Q - V, elementwise."""
    return torch.where(difference < 0, 1.0 - expectile, expectile) * difference**2


def advantage_weights(
    advantages: Tensor, beta: float, limit: float, interventions: Tensor | None = None, floor: float = 0.0
) -> Tensor:
    """clip(exp(A / beta), 0, limit): :func:`igrft.rewards.advantage_weights` on tensors, float32 [B]."""
    ceiling = torch.log(torch.tensor(limit)).item() + 1.0
    weights = (advantages / beta).clamp_max(ceiling).exp().clamp_max(limit)
    if interventions is not None and floor > 0:
        weights = torch.where(interventions, weights.clamp_min(floor), weights)
    return weights


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the masked samples divided by the size of the batch.

    Not by their number: so that processes with different numbers of them average to the mean of the whole
    batch, which is what one process would have.
    """
    return torch.where(mask.bool(), values, torch.zeros_like(values)).sum() / values.shape[0]
