"""One step's losses: everything with a gradient between a batch and a number.

A single module holds policy and critic, so that accelerate can wrap it (DDP, FSDP) and one backward pass
serves both; the critic's stop-gradient keeps their losses apart.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from igrft.columns import ACTION
from igrft.models.critic import Critic, CriticOutput
from igrft.models.protocol import Actor, Batch, Features, TextTargets
from igrft.training.labels import WEIGHTED, needs_next, reward_weights
from igrft.training.losses import advantage_weights, critic_losses, expectile_loss, masked_flow_loss, masked_mean
from igrft.training.recipe import Recipe


@dataclass
class StepBatch:
    """What a step is computed from, on the policy's device.

    Attributes:
        observation: LeRobot's processed batch with normalised actions.
        next_observation: the same N frames later, without actions; only where V of it is needed.
        targets: subtask text, or None.
        labels: [B] each; see :mod:`igrft.training.labels`.
        padded: bool [B, chunk], action steps past the end of the episode.
        noise: float32 [B, S, chunk, width]; time: float32 [B, S].
    """

    observation: Batch
    next_observation: Batch | None
    targets: TextTargets | None
    labels: dict[str, Tensor]
    padded: Tensor
    noise: Tensor
    time: Tensor


def value_weights(recipe: Recipe) -> tuple[float, float]:
    """Weights with which V_traj and V_sub make V.

    IQL learns one value, and the sparse reward has one component: both stand in the trajectory head.
    """
    return (1.0, 0.0) if recipe.objective.type == "iql" else reward_weights(recipe)


class TrainingModule(nn.Module):
    """Policy, critic and the losses of a recipe."""

    def __init__(self, actor: Actor, critic: Critic | None, layers: tuple[int, ...], recipe: Recipe) -> None:
        super().__init__()
        self.policy = actor.policy
        self.critic = critic
        # Not a child: it holds no parameters of its own.
        self.__dict__["actor"] = actor
        self.recipe = recipe
        self.layers = layers
        #: Dtypes in which the policy's tensors are saved, where they are trained in another; set by the setup.
        self.saved_dtypes: dict[str, torch.dtype] = {}
        self.weights = value_weights(recipe)
        objective = recipe.objective
        self.weighted = objective.type in WEIGHTED
        self.judged = needs_next(recipe)
        # The critic that judges: a copy where it is renewed less often than every step.
        self.judge = copy.deepcopy(critic) if self._needs_judge() else None
        self.target_q = copy.deepcopy(critic.chunk_q) if critic is not None and critic.chunk_q is not None else None
        # The best critic so far, where it may be stopped on its held-out fit.
        self.best = copy.deepcopy(critic) if critic is not None and recipe.critic.patience is not None else None
        for frozen in self.frozen().values():
            frozen.requires_grad_(False)

    def frozen(self) -> dict[str, nn.Module]:
        """Copies that no optimizer touches, by name; they belong to a run's state."""
        copies = {"judge": self.judge, "target_q": self.target_q, "best": self.best}
        return {name: module for name, module in copies.items() if module is not None}

    def _needs_judge(self) -> bool:
        return self.judged and self.recipe.objective.type != "iql" and self.recipe.advantage.refresh > 1

    @property
    def needs_next(self) -> bool:
        """Whether batches must hold the observation N frames later."""
        return self.judged

    def refresh(self, step: int) -> None:
        """After the critic's update number ``step``: renew the copies."""
        if self.judge is not None and self.critic is not None and step % self.recipe.advantage.refresh == 0:
            self.judge.load_state_dict(self.critic.state_dict())
        if self.target_q is not None and self.critic is not None and self.critic.chunk_q is not None:
            rate = self.recipe.objective.target_rate
            for target, source in zip(self.target_q.parameters(), self.critic.chunk_q.parameters(), strict=True):
                target.data.lerp_(source.data, rate)

    def forward(self, batch: StepBatch | Batch) -> dict[str, Tensor]:
        """Losses and figures; of observations alone, what the critic says of them.

        Everything that is computed goes through here: where parameters are spread over processes, they are put
        together when a module is called.

        Returns:
            ``loss`` and its parts as scalars (keys without a slash), and float32 [B] figures of each sample
            without gradient under ``sample/NAME``.
        """
        if not isinstance(batch, StepBatch):
            return self._judged(batch)
        actor: Actor = self.__dict__["actor"]
        # Insulated and with nothing to write, the prefix learns nothing: no gradient is kept for it.
        learns = batch.targets is not None or not self.recipe.objective.insulate
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            prefix = actor.prefix(batch.observation, self.layers, batch.targets)
        out: dict[str, Tensor] = {}
        critic_out = self.critic(prefix.features) if self.critic is not None else None
        actions = batch.observation[ACTION]
        total: Tensor | float = 0.0
        advantage = None
        if critic_out is not None:
            loss, advantage = self._critic_loss(batch, prefix.features, critic_out, actions, out)
            total = total + loss
        if self.weighted and advantage is None:
            advantage = batch.labels["advantage"]
        weights = self._weights(advantage, batch, out)
        error = actor.flow_error(prefix, actions, batch.noise, batch.time, insulated=self.recipe.objective.insulate)
        flow = masked_flow_loss(error.float(), batch.padded)
        loss_flow = (flow * weights).mean()
        out["loss_flow"] = loss_flow.detach()
        out["sample/loss"] = flow.detach()
        total = total + loss_flow
        if prefix.text_loss is not None:
            text = prefix.text_loss.mean()
            out["loss_text"] = text.detach()
            if prefix.text_correct is not None:
                out["text_correct"] = prefix.text_correct.mean().detach()
            total = total + self.recipe.objective.text_weight * text
        out["loss"] = total if isinstance(total, Tensor) else torch.tensor(total)
        return out

    @torch.no_grad()
    def _judged(self, observation: Batch) -> dict[str, Tensor]:
        """The critic's word on observations."""
        assert self.critic is not None
        actor: Actor = self.__dict__["actor"]
        output = self.critic(actor.prefix(observation, self.layers).features)
        names = ("trajectory", "subtask")
        values = {f"sample/value_{name}": getattr(output, name) for name in names}
        return values | {"sample/interaction_probability": output.interaction_probability}

    def _weights(self, advantage: Tensor | None, batch: StepBatch, out: dict[str, Tensor]) -> Tensor:
        if advantage is None:
            return torch.ones(batch.padded.shape[0], device=batch.padded.device)
        settings = self.recipe.objective
        advantage = advantage.detach().float()
        weights = advantage_weights(
            advantage, settings.beta, settings.weight_limit, batch.labels["intervention"], settings.intervention_floor
        )
        out["sample/advantage"], out["sample/weight"] = advantage, weights
        if settings.normalise_weights:
            weights = weights / mean_over_processes(weights).clamp_min(1e-6)
        return weights

    def _critic_loss(
        self, batch: StepBatch, features: Features, output: CriticOutput, actions: Tensor, out: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """(the critic's loss, the advantage where it is judged here)."""
        labels = batch.labels
        mask = labels["critic"]
        parts = critic_losses(output, labels["return_trajectory"], labels["return_subtask"], labels["interaction"])
        for name in ("trajectory", "subtask"):
            out[f"sample/value_{name}"] = getattr(output, name).detach()
        out["sample/interaction_probability"] = output.interaction_probability.detach()
        next_value = self._next_value(batch) if self.judged else None
        advantage = None
        if self.recipe.objective.type == "iql":
            assert next_value is not None
            parts, advantage = self._iql(batch, features, output, actions, next_value, parts["interaction"])
        elif self.judged:
            assert next_value is not None
            value = self._value(self.judge(features) if self.judge is not None else output)
            advantage = labels["reward_sum"] + labels["bootstrap"] * next_value - value.detach()
        loss: Tensor = torch.zeros((), device=mask.device)
        for name, values in parts.items():
            part = masked_mean(values, mask)
            out[f"loss_{name}"] = part.detach()
            loss = loss + part
        out["loss_critic"] = loss.detach()
        return loss, advantage

    @torch.no_grad()
    def _next_value(self, batch: StepBatch) -> Tensor:
        """V of the observation N frames later, float32 [B]."""
        assert batch.next_observation is not None and self.critic is not None
        actor: Actor = self.__dict__["actor"]
        features = actor.prefix(batch.next_observation, self.layers).features
        return self._value((self.judge or self.critic)(features))

    def _value(self, output: CriticOutput) -> Tensor:
        trajectory, subtask = self.weights
        return trajectory * output.trajectory + subtask * output.subtask

    def _iql(
        self,
        batch: StepBatch,
        features: Features,
        output: CriticOutput,
        actions: Tensor,
        next_value: Tensor,
        interaction: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Expectile value, twin Q over action chunks, and Q - V for the extraction."""
        assert self.critic is not None and self.critic.chunk_q is not None and self.target_q is not None
        q = self.critic.chunk_q(features, actions, batch.padded)
        target = batch.labels["reward_sum"] + batch.labels["bootstrap"] * next_value
        with torch.no_grad():
            judged = self.target_q(features, actions, batch.padded).min(dim=-1).values
        difference = judged - output.trajectory
        parts = {
            "v": expectile_loss(difference, self.recipe.objective.expectile),
            "q": ((q - target[:, None]) ** 2).sum(dim=-1),
            "interaction": interaction,
        }
        return parts, difference.detach()


def mean_over_processes(values: Tensor) -> Tensor:
    """Mean over the samples of all processes, which have equally many; without gradient."""
    mean = values.detach().mean()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean /= torch.distributed.get_world_size()
    return mean
