"""From what the datasets give to what the module takes: processors, pictures, text targets, noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from igrft.columns import ACTION
from igrft.models.protocol import Batch
from igrft.training.draws import flow_draws
from igrft.training.frames import ACTION_IS_PAD
from igrft.training.module import StepBatch

if TYPE_CHECKING:
    from igrft.training.data import RawBatch
    from igrft.training.setup import Built


@dataclass
class Inputs:
    """Makes step batches for one process."""

    built: Built
    device: torch.device

    def step_batch(self, raw: RawBatch, step: int, part: slice) -> StepBatch:
        """The batch of a step, or of one process and accumulation part of it.

        Args:
            part: which samples of the whole batch ``raw`` holds; noise is drawn for all and cut.
        """
        recipe, actor = self.built.recipe, self.built.actor
        padded = raw.observation[ACTION_IS_PAD]
        observation = self.processed({k: v for k, v in raw.observation.items() if k != ACTION_IS_PAD})
        following = self.processed(raw.next_observation) if raw.next_observation is not None else None
        targets = None
        if actor.has_text and recipe.objective.text_weight > 0:
            targets = actor.text_targets(raw.subtasks, observation[ACTION])
        noise, time = flow_draws(
            actor.policy.config,
            recipe.seed,
            step,
            batch=recipe.batch_size,
            samples=recipe.objective.flow_samples,
            chunk=actor.chunk_size,
            width=actor.action_width,
            scale=(recipe.objective.noise_scale[0], recipe.objective.noise_scale[1]),
        )
        return StepBatch(
            observation=observation,
            next_observation=following,
            targets=targets,
            labels={k: self._here(v) for k, v in raw.labels.items()},
            padded=self._here(padded),
            noise=self._here(noise[part]),
            time=self._here(time[part]),
        )

    def processed(self, observation: dict[str, Any]) -> Batch:
        """LeRobot's preprocessor; pictures cross to the device as bytes and become [0, 1] there."""
        batch: Batch = self.built.preprocess(dict(observation))
        for name, value in batch.items():
            if isinstance(value, Tensor):
                value = self._here(value)
                batch[name] = value.float() / 255.0 if value.dtype == torch.uint8 else value
        return batch

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)
