"""Low-rank adapters: put into a policy by peft, and merged out of it where a checkpoint is saved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from igrft.errors import UsageError

if TYPE_CHECKING:
    from lerobot.policies.pretrained import PreTrainedPolicy

    from igrft.training.recipe import LoraSettings

#: By type of policy: modules that get adapters, and parameters trained in full beside them.
_TARGETS = {
    "pi05": r".*\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
    "smolvla": r".*\.text_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
}
_FULL = {
    "pi05": r".*\.gemma_expert\..*|model\.(action_in_proj|action_out_proj|time_mlp_in|time_mlp_out)\..*",
    "smolvla": r".*\.lm_expert\..*|model\.(state_proj|action_in_proj|action_out_proj|action_time_mlp_\w+)\..*",
}
_ADAPTER = "default"


def add_adapters(policy: PreTrainedPolicy, settings: LoraSettings) -> None:
    """Freeze a policy, put adapters into it, and train them and what ``settings.full`` names.

    Raises:
        UsageError: the policy has no module that the expression names.
    """
    from peft import LoraConfig, inject_adapter_in_model

    kind = policy.config.type.removesuffix("_tiny")
    targets = settings.targets or _TARGETS.get(kind)
    if targets is None:
        raise UsageError(f"lora: name the modules of a {kind!r} policy that get adapters: --lora.targets=REGEX")
    found = [n for n, m in policy.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(targets, n)]
    if not found:
        raise UsageError(f"lora: no linear module of the {kind!r} policy matches {targets!r}")
    policy.requires_grad_(False)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or settings.rank,
        lora_dropout=settings.dropout,
        target_modules=found,
    )
    inject_adapter_in_model(config, policy, adapter_name=_ADAPTER)
    full = settings.full or _FULL.get(kind, r"(?!)")
    for name, parameter in policy.named_parameters():
        if ".lora_" in name or re.fullmatch(full, name):
            parameter.requires_grad_(True)


def merged_state(
    policy: nn.Module, values: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype] | None = None
) -> dict[str, Tensor]:
    """A policy's state under its stock names, adapters merged into the weights they stand on.

    The policy itself is left alone: merging and taking apart again would not give the same bits.

    Args:
        values: by the policy's own names, in place of its own tensors (averages, for instance).
        dtypes: by the same names, in which to give them; else each tensor's own.
    """
    from peft.tuners.lora import LoraLayer

    own = policy.state_dict()
    kinds = {n: (dtypes or {}).get(n, t.dtype) for n, t in own.items()}
    state = {n: values.get(n, t).detach().to(kinds[n]) for n, t in own.items()}
    for name, module in policy.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        a, b = (values.get(key, own[key]) for key in (f"{name}.lora_{x}.{_ADAPTER}.weight" for x in "AB"))
        delta = (b.detach().float() @ a.detach().float()) * module.scaling[_ADAPTER]
        key = f"{name}.base_layer.weight"
        state[key] = (state[key].float() + delta.to(state[key].device)).to(kinds[key])
    return {n.replace(".base_layer.", "."): t for n, t in state.items() if ".lora_" not in n}


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, by name."""
    return {n: p for n, p in module.named_parameters() if p.requires_grad}


def count(module: nn.Module) -> tuple[int, int]:
    """(parameters, trained ones)."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be spread over processes, gathered. Every process must call it."""
    full = getattr(tensor, "full_tensor", None)
    # Cloned: where a dimension does not divide by the processes, what was gathered is a view of a larger buffer.
    return full().clone() if full is not None else torch.as_tensor(tensor)
