"""`igrft train --dry-run`: the recipe as resolved, the data it found, sizes and memory; nothing is written."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.errors import IgrftError
from igrft.models.actors import build_policy, make_actor
from igrft.models.critic import Critic
from igrft.models.protocol import at_fractions
from igrft.training import checkpoint
from igrft.training.memory import (
    MemoryEstimate,
    checkpointed,
    estimate,
    kept_by_autograd,
    meta_batch,
    parameters,
)
from igrft.training.module import TrainingModule
from igrft.training.recipe import Recipe
from igrft.training.recipe_file import load_recipe, resolved_yaml
from igrft.training.rules import check_recipe
from igrft.training.setup import (
    critic_config,
    effective_precision,
    freeze_idle,
    open_data,
    policy_config,
    put_features,
    run_folder,
    train_in_float32,
)

if TYPE_CHECKING:
    from igrft.training.data import TrainingData


@dataclass
class DryRun:
    """What a run would be.

    Attributes:
        data: rows of the datasets, JSON.
        policy, critic: parameters and trained ones; critic empty where there is none.
        memory: on each accelerator; None where it could not be estimated.
    """

    recipe: str
    run: Path
    resumes_at: int
    data: list[dict[str, Any]]
    policy: dict[str, int]
    critic: dict[str, int]
    memory: MemoryEstimate | None
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        import yaml

        memory = None if self.memory is None else {**self.memory.__dict__, "total": self.memory.total}
        return {
            "recipe": yaml.safe_load(self.recipe),
            "output_dir": str(self.run),
            "resumes_at": self.resumes_at,
            "datasets": self.data,
            "policy": self.policy,
            "critic": self.critic,
            "memory_bytes": memory,
            "notices": self.notices,
        }

    def to_text(self) -> str:
        lines = [self.recipe.rstrip(), "", "datasets"]
        for row in self.data:
            lines.append("  " + "  ".join(f"{k} {v}" for k, v in row.items()))
        lines += ["", f"policy    {_sizes(self.policy)}"]
        if self.critic:
            lines.append(f"critic    {_sizes(self.critic)}")
        lines.append(f"memory    {_memory(self.memory)}")
        state = f"goes on at step {self.resumes_at}" if self.resumes_at else "new"
        lines.append(f"run       {self.run} ({state})")
        lines += [f"note      {n}" for n in self.notices]
        return "\n".join(lines)


def dry_run(recipe: str | Path, overrides: Sequence[str] = ()) -> DryRun:
    """Look at everything that a run needs, and train nothing.

    Raises:
        UsageError, IgrftError: what :func:`igrft.training.run.train` would refuse before its first step.
    """
    loaded = load_recipe(str(recipe), overrides)
    check_recipe(loaded, str(recipe))
    run = run_folder(loaded, str(recipe)).absolute()
    data = open_data(loaded)
    notices = [*data.warnings, *_buffers(data)]
    newest = checkpoint.newest(run)
    module, memory = _on_meta(loaded, data, notices)
    return DryRun(
        recipe=resolved_yaml(loaded),
        run=run,
        resumes_at=int(newest.name) if newest is not None else 0,
        data=[dataclasses.asdict(row) for row in data.summary],
        policy=parameters(module.policy) if module is not None else {},
        critic=parameters(module.critic) if module is not None and module.critic is not None else {},
        memory=memory,
        notices=notices,
    )


def _buffers(data: TrainingData) -> list[str]:
    """What the pictures in the buffers of streams take of the memory beside the device, of all processes together."""
    told = []
    for number, held in enumerate(data.entries):
        if held.entry.streaming and held.cameras:
            frame = sum(int(np.prod(held.reader.features[camera]["shape"])) for camera in held.cameras)
            size = held.entry.buffer_size * frame * (2 if data.has_next else 1)
            told.append(f"datasets.{number} is streamed: its buffers hold about {size / 1e9:.1f} GB of pictures")
    return told


def _on_meta(
    recipe: Recipe, data: TrainingData, notices: list[str]
) -> tuple[TrainingModule | None, MemoryEstimate | None]:
    """The module on the meta device, and what it would take; a 3.6 billion parameter policy costs no memory."""
    import torch

    config, _ = policy_config(recipe, fetch=False)
    config = copy.deepcopy(config)
    config.device = "meta"
    recomputes = bool(getattr(config, "gradient_checkpointing", False))
    if recomputes:
        config.gradient_checkpointing = False  # PyTorch's checkpoint refuses the meta device; accounted for below
    put_features(config, data, recipe.init_from is not None)
    try:
        with torch.device("meta"):
            policy = build_policy(config)
            actor = make_actor(policy, recipe.text, None)
            if recipe.lora.rank > 0:
                from igrft.training.lora import add_adapters

                add_adapters(policy, recipe.lora)
            freeze_idle(policy)
            if effective_precision(recipe, config) == "bf16":
                train_in_float32(policy)
            layers = at_fractions(recipe.critic.layers, actor.depth)
            critic = Critic(critic_config(recipe, actor, data, layers)) if recipe.critic.enabled else None
            module = TrainingModule(actor, critic, layers, recipe)
    except (OSError, NotImplementedError, RuntimeError) as error:
        notices.append(f"sizes are unknown: the policy could not be laid out ({_short(error)})")
        return None, None
    part = max(1, recipe.batch_size // recipe.gradient_accumulation)
    try:
        module.train()
        prompt = int(getattr(config, "tokenizer_max_length", 1))
        # Two sizes, since a part of what is kept does not grow with the batch.
        recomputed = checkpointed(policy) if recomputes else ()
        small, large = (
            kept_by_autograd(module, meta_batch(actor, recipe, n, prompt, recipe.text.max_tokens), recomputed)
            for n in (1, 2)
        )
        activations: int | None = small + (part - 1) * (large - small)
    except (IgrftError, NotImplementedError, RuntimeError, ValueError) as error:
        notices.append(f"activations are not in the memory estimate: {_short(error)}")
        activations = None
    return module, estimate(module, recipe, activations)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]


def _sizes(sizes: dict[str, int]) -> str:
    if not sizes:
        return "unknown"
    return f"{_millions(sizes['parameters'])} parameters, {_millions(sizes['trained'])} trained"


def _millions(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.2f} million"


def _memory(memory: MemoryEstimate | None) -> str:
    if memory is None:
        return "unknown"
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "averages": memory.averages,
        "activations": memory.activations,
    }
    told = ", ".join(f"{k} {'unknown' if v is None else f'{v / 1e9:.2f}'}" for k, v in parts.items())
    return f"about {memory.total / 1e9:.1f} GB on each device ({told})"
