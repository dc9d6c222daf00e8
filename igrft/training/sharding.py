"""Parameters spread over processes by PyTorch's FSDP2: weights, gradients, optimizer and averages.

What is gathered and let go together is a single layer with weights of its own (a linear one, an embedding). accelerate
would also take whole decoder layers, and LeRobot's policies never call those: they call what is inside, and the norms
would be found in pieces. What is too small to be worth it is gathered once a step with the module itself.

Weights are gathered as they are held (float32 where they are trained), so a step has the numbers of a run that
replicates them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from igrft.errors import UsageError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from igrft.training.recipe import Recipe

#: Parameters from which a layer is gathered by itself, where accelerate's configuration does not say.
_FEWEST = 1_000_000
#: Layers that use the weights of others inside them without calling those.
_WHOLE = (nn.MultiheadAttention,)


def asked_for(recipe: Recipe) -> bool:
    """Whether parameters are to be spread: by the recipe, or by the configuration of ``accelerate launch``."""
    return recipe.sharding == "fsdp" or _flag("ACCELERATE_USE_FSDP")


def is_sharded(module: nn.Module) -> bool:
    """Whether :func:`shard` was here."""
    return any(hasattr(p, "full_tensor") for p in module.parameters())


def shard(module: nn.Module, accelerator: Accelerator) -> None:
    """Spread the parameters of ``module`` over all processes, in place. Before optimizers and averages are made.

    Raises:
        UsageError: accelerate's configuration asks for something that is not done here.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    _refuse_settings()
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    lets_go = _flag("FSDP_RESHARD_AFTER_FORWARD")
    for layer in layers(module, int(os.environ.get("FSDP_MIN_NUM_PARAMS", _FEWEST))):
        fully_shard(layer, mesh=mesh, reshard_after_forward=lets_go)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)


def layers(module: nn.Module, fewest: int) -> Iterator[nn.Module]:
    """Layers that are gathered by themselves: those with ``fewest`` parameters of their own."""
    for child in module.children():
        if isinstance(child, _WHOLE):
            own = sum(p.numel() for p in child.parameters())
        else:
            own = sum(p.numel() for p in child.parameters(recurse=False))
            yield from layers(child, fewest)
        if own >= fewest:
            yield child


def clip(parameters: list[torch.Tensor], limit: float) -> torch.Tensor:
    """Clip the gradients of spread parameters; returns their norm, whole."""
    from torch.nn.utils import clip_grad_norm_

    return clip_grad_norm_(parameters, limit)


def let_go(module: nn.Module) -> None:
    """Spread again what a pass without a backward pass left whole."""
    for part in module.modules():
        reshard = getattr(part, "reshard", None)  # that of FSDPModule, whose import costs time
        if reshard is not None:
            reshard()


def _refuse_settings() -> None:
    """What accelerate's configuration may say and is not done here."""
    if not _flag("ACCELERATE_USE_FSDP"):
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UsageError("accelerate's configuration asks for FSDP 1; set fsdp_version: 2, as in recipes/accelerate")
    for key in ("FSDP_OFFLOAD_PARAMS", "FSDP_ACTIVATION_CHECKPOINTING", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        if _flag(key):
            instead = " (policy.gradient_checkpointing does it)" if "CHECKPOINTING" in key else ""
            raise UsageError(
                f"accelerate's configuration sets {key.lower()}, which is not done here{instead}; take it out"
            )


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true")
