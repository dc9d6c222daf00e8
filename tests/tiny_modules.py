"""Training modules around the linear actor: one whose values stand in the state, one with a critic of the real kind."""

from __future__ import annotations

from typing import Any

import torch
from tiny_actor import STATE, LinearActor
from torch import Tensor, nn

from igrft.models.critic import Critic, CriticConfig, CriticOutput
from igrft.models.protocol import Features
from igrft.training.losses import masked_flow_loss
from igrft.training.module import ACTION, StepBatch, TrainingModule
from igrft.training.recipe import Recipe

LAYERS = (0, 2)


def recipe(**settings: Any) -> Recipe:
    """Dotted settings, with two underscores for the dot."""
    made = Recipe()
    for key, value in settings.items():
        holder, _, name = key.rpartition("__")
        target = getattr(made, holder) if holder else made
        assert hasattr(target, name), key
        setattr(target, name, value)
    return made


class ReadingActor(LinearActor):
    """Its features are the state itself."""

    def prefix(self, batch: Any, layers: Any, targets: Any = None) -> Any:
        prefix = super().prefix(batch, layers, targets)
        tokens = batch[STATE][:, None]
        prefix.features = Features([tokens], [tokens], torch.ones(tokens.shape[:2], dtype=torch.bool))
        return prefix


class ReadingCritic(nn.Module):
    """Values that stand in the first two numbers of the state, times ``scale``."""

    chunk_q = None

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, features: Features) -> CriticOutput:
        seen = features.detached().keys[0][:, 0] * self.scale
        return CriticOutput(seen[:, 0], seen[:, 1], seen[:, 2], seen)


def reading(critic: Any = None, **settings: Any) -> tuple[ReadingActor, TrainingModule]:
    actor = ReadingActor()
    chosen: Any = critic or ReadingCritic()
    return actor, TrainingModule(actor, chosen, (0,), recipe(**settings))


def trained(actor: LinearActor | None = None, q: bool = False, **settings: Any) -> tuple[LinearActor, TrainingModule]:
    """The linear actor with a small critic of the real kind."""
    actor = actor or LinearActor()
    torch.manual_seed(1)
    sizes = CriticConfig(
        feature_width=actor.feature_width,
        blocks=len(LAYERS),
        queries=2,
        width=8,
        heads=2,
        hidden=4,
        chunk_size=actor.chunk_size if q else 0,
        action_dim=actor.action_width if q else 0,
    )
    return actor, TrainingModule(actor, Critic(sizes), LAYERS, recipe(**settings))


def flows(actor: LinearActor, batch: StepBatch) -> Tensor:
    """The flow loss of each sample, by the actor itself."""
    prefix = actor.prefix(batch.observation, LAYERS)
    error = actor.flow_error(prefix, batch.observation[ACTION], batch.noise, batch.time)
    return masked_flow_loss(error, batch.padded).detach()
