"""Watches the critic on episodes that it never trains on, and stops it at its best where that is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.training import heldout
from igrft.training.inputs import Inputs
from igrft.training.labels import reward_weights

if TYPE_CHECKING:
    from accelerate import Accelerator

    from igrft.training.ema import Ema
    from igrft.training.module import TrainingModule
    from igrft.training.recipe import Recipe


@dataclass
class CriticWatch:
    """What is known of the critic's held-out fit; belongs to a run's state.

    Attributes:
        stopped: step at which the critic was stopped, or None.
        best_fit: mean R² of the best evaluation so far; -inf before the first that is defined.
        best_step: its step.
        accelerator: where several processes look together.
    """

    recipe: Recipe
    module: TrainingModule
    inputs: Inputs
    ema: Ema | None
    stopped: int | None = None
    best_fit: float = -math.inf
    best_step: int = 0
    accelerator: Accelerator | None = None

    def due(self, step: int) -> bool:
        """Whether the critic is looked at after this step."""
        every = self.recipe.critic.evaluate_every
        wanted = every > 0 and (step % every == 0 or step == self.recipe.steps)
        return wanted and self.module.critic is not None and self.inputs.built.data.has_heldout

    def look(self, step: int, batch_size: int, updated: bool) -> tuple[dict[str, Any], np.ndarray]:
        """The fit after a step, and its rows; stops the critic if it is time.

        Args:
            updated: whether the critic has learnt anything yet.

        Returns:
            What to add to the step's line of metrics, and the rows of :func:`igrft.training.heldout.look`.
        """
        frames = self.recipe.critic.evaluate_frames
        rows = heldout.look(self.module, self.inputs, step, batch_size, frames, self.accelerator)
        one_value = reward_weights(self.recipe) if self.recipe.objective.type == "iql" else None
        found = heldout.fit(rows, one_value)
        line: dict[str, Any] = {"heldout": found}
        if self.module.best is not None and self.stopped is None and updated and self._stop(step, heldout.score(found)):
            line["critic_stopped"] = {"best_step": self.best_step, "fit": self.best_fit}
        return line, rows

    def _stop(self, step: int, score: float) -> bool:
        critic, best, settings = self.module.critic, self.module.best, self.recipe.critic
        assert critic is not None and best is not None
        if not math.isfinite(score):
            # A fit that is not defined (returns that do not vary) is no worse and no better.
            return False
        if score > self.best_fit:
            self.best_fit, self.best_step = score, step
            best.load_state_dict(critic.state_dict())
            return False
        if step - self.best_step < (settings.patience or 0) * settings.evaluate_every:
            return False
        self.stopped = step
        critic.load_state_dict(best.state_dict())
        # Whoever judges by a copy judges by the best one, too.
        if self.module.judge is not None:
            self.module.judge.load_state_dict(best.state_dict())
        if self.module.target_q is not None and best.chunk_q is not None:
            self.module.target_q.load_state_dict(best.chunk_q.state_dict())
        if self.ema is not None:
            for name, parameter in critic.named_parameters():
                self.ema.average[f"critic.{name}"].copy_(parameter.detach())
        return True

    def state(self) -> dict[str, Any]:
        """JSON for a checkpoint."""
        fit = None if math.isinf(self.best_fit) else self.best_fit
        return {"stopped": self.stopped, "best_fit": fit, "best_step": self.best_step}

    def restore(self, state: dict[str, Any]) -> None:
        """What :meth:`state` gave."""
        self.stopped, self.best_step = state["stopped"], int(state["best_step"])
        self.best_fit = -math.inf if state["best_fit"] is None else float(state["best_fit"])
