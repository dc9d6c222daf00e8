"""Flow times and noises as a function of seed and step.

Not of a generator's state: so that a resumed run, and any number of processes, draw the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Stream of the generator that draws noise; others of a run take other numbers.
_NOISE = 1


def flow_draws(
    config: Any,
    seed: int,
    step: int,
    *,
    batch: int,
    samples: int,
    chunk: int,
    width: int,
    scale: tuple[float, float] = (1.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """(noise float32 [batch, samples, chunk, width], time float32 [batch, samples]) of the whole batch.

    Times are the policy's own distribution: Beta(alpha, beta) * scale + offset, as LeRobot's π0.5.

    Args:
        config: the policy's configuration.
        scale: range from which each noise's standard deviation is drawn; (1, 1) is the flow's own.
    """
    rng = np.random.default_rng([seed, _NOISE, step])
    alpha = getattr(config, "time_sampling_beta_alpha", 1.5)
    beta = getattr(config, "time_sampling_beta_beta", 1.0)
    time = rng.beta(alpha, beta, size=(batch, samples))
    time = time * getattr(config, "time_sampling_scale", 0.999) + getattr(config, "time_sampling_offset", 0.001)
    noise = rng.standard_normal((batch, samples, chunk, width), dtype=np.float32)
    low, high = scale
    if (low, high) != (1.0, 1.0):
        noise *= rng.uniform(low, high, size=(batch, samples, 1, 1)).astype(np.float32)
    return torch.from_numpy(noise), torch.from_numpy(time.astype(np.float32))
