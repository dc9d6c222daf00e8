"""What a run will need of an accelerator's memory, before it starts.

Parameters, gradients and optimizer are counted; activations are measured, by running the passes on shapes
alone (PyTorch's meta device) and adding up what autograd keeps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from igrft.columns import ACTION
from igrft.models.protocol import Actor
from igrft.training.labels import needs_next
from igrft.training.lora import count, trainable
from igrft.training.module import StepBatch, TrainingModule
from igrft.training.recipe import Recipe

#: What the accelerator's runtime and the allocator's fragments take beside tensors.
_OVERHEAD = 1.0e9


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each accelerator, by what takes them; ``activations`` is None where they could not be had."""

    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int | None

    @property
    def total(self) -> float:
        parts = (self.weights, self.gradients, self.optimizer, self.averages, self.activations or 0)
        return sum(parts) + _OVERHEAD


def estimate(module: TrainingModule, recipe: Recipe, activations: int | None, processes: int = 1) -> MemoryEstimate:
    """Add up a run's parts.

    Args:
        activations: bytes that autograd keeps of one accumulation part, from :func:`kept_by_autograd`.
        processes: over which ``sharding`` spreads parameters and optimizer.
    """
    shards = processes if recipe.sharding == "fsdp" else 1
    trained = trainable(module)
    held = sum(p.numel() * p.element_size() for p in module.parameters())
    gradients = sum(p.numel() * p.element_size() for p in trained.values())
    averages = 0
    if recipe.optimizer.ema is not None and recipe.optimizer.ema_device is None:
        averages = 4 * sum(p.numel() for p in trained.values())
    return MemoryEstimate(
        weights=held // shards,
        gradients=gradients // shards,
        optimizer=2 * gradients // shards,
        averages=averages // shards,
        activations=activations,
    )


def kept_by_autograd(module: TrainingModule, batch: StepBatch, recomputed: Sequence[nn.Module] = ()) -> int:
    """Bytes that a forward pass leaves for its backward pass; every storage is counted once.

    Works on the meta device, where nothing is computed.

    Args:
        recomputed: modules under gradient checkpointing. Of each call only the inputs stay, and once, while the
            backward pass is in one of them, all that the largest keeps. (They run as usual here: PyTorch's
            checkpoint refuses the meta device.)
    """
    seen: dict[int, int] = {}
    held: list[Any] = []
    # Also views of parameters are kept, and cost nothing: a linear layer keeps its transposed weight.
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    inside: list[dict[int, int]] = []
    largest = 0

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            (inside[-1] if inside else seen)[storage._cdata] = storage.nbytes()
            held.append(storage)
        return tensor

    def enter(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        for tensor in (x for x in (*arguments, *named.values()) if isinstance(x, Tensor)):
            pack(tensor)
        inside.append({})

    def leave(*_: Any) -> None:
        nonlocal largest
        largest = max(largest, sum(inside.pop().values()))

    hooks = [m.register_forward_pre_hook(enter, with_kwargs=True) for m in recomputed]
    hooks += [m.register_forward_hook(leave) for m in recomputed]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            module(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(seen.values()) + largest


def checkpointed(policy: nn.Module) -> list[nn.Module]:
    """Modules that π0.5 runs under gradient checkpointing: vision tower and decoder layers."""
    return [
        m
        for n, m in policy.named_modules()
        if n.endswith("vision_tower") or re.search(r"(language_model|gemma_expert\.model)\.layers\.\d+$", n)
    ]


def meta_batch(actor: Actor, recipe: Recipe, size: int, prompt: int, target: int) -> StepBatch:
    """A step's inputs without contents, on the meta device."""
    config = actor.policy.config
    observation: dict[str, Any] = {}
    for name, feature in (config.input_features or {}).items():
        observation[name] = torch.empty(size, *feature.shape, device="meta")
    action = config.action_feature
    assert action is not None
    observation[ACTION] = torch.empty(size, actor.chunk_size, action.shape[0], device="meta")
    observation["observation.language.tokens"] = torch.zeros(size, prompt, dtype=torch.long, device="meta")
    observation["observation.language.attention_mask"] = torch.ones(size, prompt, dtype=torch.bool, device="meta")
    targets = None
    if actor.has_text and recipe.objective.text_weight > 0:
        from igrft.models.protocol import TextTargets

        targets = TextTargets(
            torch.zeros(size, target, dtype=torch.long, device="meta"),
            torch.ones(size, target, dtype=torch.bool, device="meta"),
        )
    samples = recipe.objective.flow_samples
    names = ("return_trajectory", "return_subtask", "reward_sum", "bootstrap", "interaction", "advantage")
    labels = {n: torch.empty(size, device="meta") for n in names}
    labels["critic"] = labels["intervention"] = torch.ones(size, dtype=torch.bool, device="meta")
    return StepBatch(
        observation=observation,
        next_observation={k: v for k, v in observation.items() if k != ACTION} if needs_next(recipe) else None,
        targets=targets,
        labels=labels,
        padded=torch.zeros(size, actor.chunk_size, dtype=torch.bool, device="meta"),
        noise=torch.empty(size, samples, actor.chunk_size, actor.action_width, device="meta"),
        time=torch.empty(size, samples, device="meta"),
    )


def parameters(module: nn.Module) -> dict[str, int]:
    """Parameters in all and those trained, of policy and critic."""
    total, trained = count(module)
    return {"parameters": total, "trained": trained}
