"""Exponential moving average of the trained weights (Table V: decay 0.999)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Ema:
    """Averages of a module's trainable parameters, in float32.

    The decay grows to its value over the first steps, min(decay, (1 + n) / (10 + n)), so that the average of a
    short run is not its random start (ours).

    Args:
        device: where the averages lie; None is beside the parameters.

    Attributes:
        average: by the parameter's name.
        updates: made so far.
    """

    def __init__(self, module: nn.Module, decay: float, device: str | None = None) -> None:
        self.decay = decay
        self.updates = 0
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.average: dict[str, Tensor] = {
            n: p.detach().to(device=device or p.device, dtype=torch.float32, copy=True)
            for n, p in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the parameters as they are now."""
        self.updates += 1
        rate = 1.0 - min(self.decay, (1.0 + self.updates) / (10.0 + self.updates))
        averages, values = [], []
        for name, parameter in self._parameters.items():
            average = self.average[name]
            if average.dtype == parameter.dtype and average.device == parameter.device:
                averages.append(average)
                values.append(parameter.detach())
            else:
                average.lerp_(parameter.detach().to(average.device, torch.float32), rate)
        if averages:
            torch._foreach_lerp_(averages, values, rate)

    @torch.no_grad()
    def load(self, held: Callable[[str, Tensor], Tensor], updates: int) -> None:
        """Restore what a checkpoint held: ``held(name, average)``, laid out as the average is."""
        self.updates = updates
        for name, value in self.average.items():
            value.copy_(held(name, value))
