"""The `rewards` and `returns` steps: the maths of igrft.rewards, applied to labelled episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, UsageError
from igrft.rewards.hybrid import combine, subtask_rewards, subtask_weights, trajectory_rewards
from igrft.rewards.returns import return_to_go
from igrft.steps.base import SEGMENTS, Episode, EpisodeLabels, Labeller, StepDefaults


@dataclass(frozen=True)
class Rewards(StepDefaults):
    """Eq. 4-7.

    Attributes:
        sharpness: epsilon of Eq. 5, in parts of the episode (ours: 0.02).
        weights: ``uniform`` (ours), ``duration`` (mean share of the episode, over done segments of
            successes), or ``task`` (importance weights of the task file).
        normalise: ``joint`` is the paper's single constant; ``each`` pays every subtask its weight.
        trajectory_weight: omega_traj of Eq. 7.
        subtask_weight: omega_sub of Eq. 7.
    """

    type: ClassVar[str] = "rewards"

    sharpness: float = 0.02
    weights: Literal["uniform", "duration", "task"] = "uniform"
    normalise: Literal["joint", "each"] = "joint"
    trajectory_weight: float = 0.4
    subtask_weight: float = 0.6

    def __post_init__(self) -> None:
        if not self.sharpness > 0:
            raise UsageError(f"step 'rewards': sharpness must be positive, got {self.sharpness}")
        if self.trajectory_weight < 0 or self.subtask_weight < 0:
            raise UsageError("step 'rewards': trajectory_weight and subtask_weight must not be negative")

    @property
    def needs(self) -> tuple[str, ...]:
        return (SEGMENTS,)

    @property
    def makes(self) -> tuple[str, ...]:
        return (c.REWARD_TRAJECTORY, c.REWARD_SUBTASK, c.REWARD)

    @property
    def reduces(self) -> bool:
        return self.weights == "duration"

    def reduce(self, records: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[str, float]:
        """Mean share of the episode by subtask name, over done segments of successes."""
        shares: dict[str, list[float]] = {}
        for _, record in records:
            if not record["success"]:
                continue
            length = max(s["end"] for s in record["subtasks"])
            for s in record["subtasks"]:
                if s["done"]:
                    shares.setdefault(s["name"], []).append((s["end"] - s["start"]) / length)
        return {name: float(np.mean(values)) for name, values in shares.items()}

    def open(self, dataset: DatasetReader, reduced: dict[str, float] | None) -> Labeller:
        def label(episode: Episode) -> EpisodeLabels:
            record = episode.record
            segments = record["subtasks"]
            given = reduced
            if self.weights == "task":
                given = record.get("importance")
                if given is None:
                    raise EpisodeError(f"episode {episode.index}: weights: task, but its task file gives no weights")
            names, done = [s["name"] for s in segments], [s["done"] for s in segments]
            try:
                weights = subtask_weights(names, done, given)
            except ValueError as error:
                hint = "; no success finishes it: set weights to uniform or task" if reduced is not None else ""
                raise EpisodeError(f"episode {episode.index}: {error} (weights: {self.weights}{hint})") from None
            sub = subtask_rewards(
                episode.length,
                [s["end"] for s in segments],
                weights,
                done,
                sharpness=self.sharpness,
                normalise=self.normalise,
            )
            trajectory = trajectory_rewards(episode.length, record["success"])
            reward = combine(trajectory, sub, self.trajectory_weight, self.subtask_weight)
            weighted = [{**s, "weight": float(w)} for s, w in zip(segments, weights, strict=True)]
            return EpisodeLabels(
                columns={c.REWARD_TRAJECTORY: trajectory, c.REWARD_SUBTASK: sub, c.REWARD: reward},
                record={"subtasks": weighted},
            )

        return label


@dataclass(frozen=True)
class Returns(StepDefaults):
    """Return-to-go of the reward and of its two components.

    Attributes:
        discount: gamma.
    """

    type: ClassVar[str] = "returns"

    discount: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1:
            raise UsageError(f"step 'returns': discount must lie in [0, 1], got {self.discount}")

    @property
    def needs(self) -> tuple[str, ...]:
        return (c.REWARD_TRAJECTORY, c.REWARD_SUBTASK, c.REWARD)

    @property
    def makes(self) -> tuple[str, ...]:
        return (c.RETURN_TRAJECTORY, c.RETURN_SUBTASK, c.RETURN)

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        def label(episode: Episode) -> EpisodeLabels:
            streams = np.stack([episode.labels[n] for n in self.needs], axis=1)
            totals = return_to_go(streams, self.discount)
            return EpisodeLabels(columns={n: totals[:, i] for i, n in enumerate(self.makes)})

        return label
