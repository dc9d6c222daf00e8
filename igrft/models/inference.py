"""An actor and its critic, made ready to act as fast as they can."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from igrft.models.critic import Critic, CriticOutput
from igrft.models.graphs import Capture, Recorded, cuda_capture
from igrft.models.protocol import Features

if TYPE_CHECKING:
    from igrft.models.pi05_inference import InferenceOptions
    from igrft.models.protocol import Actor

#: What the critic says of features; the critic itself is one.
Judge = Callable[[Features], CriticOutput]


class RecordedCritic:
    """A critic without gradient whose kernels are recorded once a shape and replayed.

    Args:
        capture: how; None runs the critic as it is.
    """

    def __init__(self, critic: Critic, capture: Capture | None) -> None:
        self.critic = critic
        device = next(critic.parameters()).device
        self._judge = Recorded(self._flat, device, capture)

    def __call__(self, features: Features) -> CriticOutput:
        return CriticOutput(*self._judge(features.mask, *features.keys, *features.values))

    def _flat(self, mask: Tensor, *layers: Tensor) -> tuple[Tensor, ...]:
        half = len(layers) // 2
        out = self.critic(Features(list(layers[:half]), list(layers[half:]), mask))
        return out.trajectory, out.subtask, out.interaction_logit, out.pooled


def for_inference(
    actor: Actor, critic: Critic | RecordedCritic | None = None, options: InferenceOptions | None = None
) -> tuple[Actor, Judge | None]:
    """What makes the same actions and judgements as these, faster where there is a way.

    A π0.5 becomes :class:`igrft.models.pi05_inference.Pi05Inference`; on CUDA a critic's kernels are recorded. Other
    actors, and what was made ready before, are given back. Weights are taken as they are now; policy and critic are
    in evaluation mode afterwards.

    Args:
        options: None chooses by the device.

    Raises:
        UsageError: a π0.5 with adapters in its action expert.
    """
    from igrft.models.pi05 import Pi05Actor
    from igrft.models.pi05_inference import InferenceOptions, Pi05Inference

    options = options or InferenceOptions()
    actor.policy.eval()
    device: torch.device = next(actor.policy.parameters()).device
    if isinstance(actor, Pi05Actor) and not isinstance(actor, Pi05Inference):
        actor = Pi05Inference.of(actor, options)
    if critic is None or isinstance(critic, RecordedCritic):
        return actor, critic
    critic.eval()
    recorded = options.recorded if options.recorded is not None else device.type == "cuda"
    return actor, RecordedCritic(critic, cuda_capture if recorded else None)
