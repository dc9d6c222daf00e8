"""Tiny π0.5 policies and batches, for the tests of the actor."""

from __future__ import annotations

from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.common.vla_utils import pad_vector
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor

from igrft.models.pi05_tiny import TinyPI05Config, TinyPI05Policy

STATE, DIM, CHUNK, WIDTH = 5, 6, 4, 8


def tiny_config(cameras: int = 2, **changes: Any) -> TinyPI05Config:
    """A configuration that knows its features: small enough for tests of gradients."""
    sizes: dict[str, Any] = {
        "depth": 3,
        "width": 32,
        "mlp_width": 48,
        "expert_width": 16,
        "expert_mlp_width": 32,
        "chunk_size": CHUNK,
        "n_action_steps": CHUNK,
        "max_action_dim": WIDTH,
        "max_state_dim": WIDTH,
        "tokenizer_max_length": 24,
        "num_inference_steps": 3,
    }
    inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))}
    for i in range(cameras):
        inputs[f"observation.images.cam{i}"] = PolicyFeature(FeatureType.VISUAL, (3, 20, 30))
    return TinyPI05Config(
        device="cpu",
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (DIM,))},
        **{**sizes, **changes},
    )


def tiny_policy(seed: int = 0, **changes: Any) -> TinyPI05Policy:
    """A policy in training mode, whose adaptive norms, zero at first, are random too."""
    torch.manual_seed(seed)
    policy = TinyPI05Policy(tiny_config(**changes))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    policy.train()
    return policy


def tiny_batch(
    lengths: tuple[int, ...] = (11, 19, 14), cameras: int = 2, length: int = 24, seed: int = 1
) -> dict[str, Any]:
    """Processed observations and actions; prompts of these lengths in ``length`` columns."""
    random = torch.Generator().manual_seed(seed)
    batch = len(lengths)
    mask = torch.arange(length)[None] < torch.tensor(lengths)[:, None]
    tokens = torch.randint(4, 260, (batch, length), generator=random) * mask
    return {
        **{f"observation.images.cam{i}": torch.rand(batch, 3, 20, 30, generator=random) for i in range(cameras)},
        OBS_LANGUAGE_TOKENS: tokens,
        OBS_LANGUAGE_ATTENTION_MASK: mask,
        ACTION: torch.randn(batch, CHUNK, DIM, generator=random),
    }


def draws(batch: int, samples: int = 1, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Noise [B, S, chunk, width] and time [B, S]."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, samples, CHUNK, WIDTH, generator=random)
    return noise, torch.rand(batch, samples, generator=random) * 0.99 + 0.01


def joint_error(policy: TinyPI05Policy, batch: dict[str, Any], noise: Tensor, time: Tensor) -> Tensor:
    """LeRobot's own training forward, [B, chunk, dim]."""
    images, masks = policy._preprocess_images(batch)
    tokens, mask = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
    error: Tensor = policy.model.forward(images, masks, tokens, mask, pad_vector(batch[ACTION], WIDTH), noise, time)
    return error[..., :DIM]


def gradients(policy: TinyPI05Policy, loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter; a missing one is zero."""
    policy.zero_grad(set_to_none=True)
    loss.backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in policy.named_parameters()}
    policy.zero_grad(set_to_none=True)
    return found


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Over all gradients, as a share of the largest one."""
    scale = max(float(g.abs().max()) for g in second.values())
    assert first.keys() == second.keys() and scale > 0
    return max(float((first[n] - second[n]).abs().max()) for n in first) / scale
