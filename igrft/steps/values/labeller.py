"""The model at work: frames in, the critic's columns out."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError
from igrft.rewards import combine, n_step_advantages
from igrft.steps.base import Episode, EpisodeLabels
from igrft.steps.values.checkpoint import Inputs
from igrft.steps.values.frames import EpisodeFrames

if TYPE_CHECKING:
    from igrft.models.load import Loaded


@dataclass(frozen=True)
class Judging:
    """How values become V and an advantage: see :class:`~igrft.steps.values.Values`."""

    trajectory_weight: float
    subtask_weight: float
    discount: float
    steps: int
    reward: str = "hybrid"
    value: str = "weighted"

    def columns(self, found: np.ndarray, trajectory: np.ndarray, subtask: np.ndarray) -> dict[str, np.ndarray]:
        """Label columns of an episode, float32 [T] each.

        Args:
            found: V_traj, V_sub and p_int, float [T, 3].
            trajectory, subtask: the reward's components, float [T].
        """
        value_trajectory, value_subtask, probability = found.T
        weights = (self.trajectory_weight, self.subtask_weight)
        if self.reward == "sparse":
            last = np.arange(len(trajectory)) == len(trajectory) - 1
            trajectory, subtask = (last & (trajectory > 0).any()).astype(np.float64), np.zeros(len(last))
        if self.value == "single":
            value_subtask = np.zeros_like(value_subtask)
            value = value_trajectory
        else:
            value = combine(value_trajectory, value_subtask, *weights)
        advantage = n_step_advantages(combine(trajectory, subtask, *weights), value, self.steps, self.discount)
        made = {
            c.VALUE_TRAJECTORY: value_trajectory,
            c.VALUE_SUBTASK: value_subtask,
            c.VALUE: value,
            c.INTERACTION_PROBABILITY: probability,
            c.ADVANTAGE: advantage,
        }
        return {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in made.items()}


class ValueLabeller:
    """Labels episodes with a loaded checkpoint, and reads the next one's frames while the last are computed.

    Args:
        loaded: a checkpoint with a critic, on its device.
        dataset: where episodes come from.
        inputs: what the policy reads; no pictures are decoded where it has no cameras.
        batch_size: frames a pass.
        half: compute in bfloat16, by autocast.
    """

    def __init__(
        self,
        loaded: Loaded,
        dataset: DatasetReader,
        inputs: Inputs,
        judging: Judging,
        batch_size: int,
        *,
        half: bool = False,
    ) -> None:
        assert loaded.critic is not None
        self._loaded, self._critic = loaded, loaded.critic
        self._dataset, self._inputs = dataset, inputs
        self._judging, self._batch_size, self._half = judging, batch_size, half
        self._device = next(loaded.actor.policy.parameters()).device
        # Pictures cross to a GPU beside the batch before them, not behind it.
        self._crossing = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._following: int | None = None
        self._reading: EpisodeFrames | None = None

    def expect(self, row: int) -> None:
        """Episode ``row`` comes after the one that is labelled next."""
        self._following = row

    def __call__(self, episode: Episode) -> EpisodeLabels:
        """Label one episode.

        Raises:
            EpisodeError: its pictures or rewards cannot be read, or the critic gives no number.
            IgrftError: a batch does not fit into the device's memory.
        """
        rewards = [_rewards(episode, name) for name in (c.REWARD_TRAJECTORY, c.REWARD_SUBTASK)]
        found = self.values(episode.row)
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            raise EpisodeError(
                f"episode {episode.index}: the critic gives no number at frame {bad[0]} ({len(bad)} frames in all); "
                "the checkpoint is damaged, or the recording is not a number there"
            )
        return EpisodeLabels(columns=self._judging.columns(found, *rewards))

    def values(self, row: int) -> np.ndarray:
        """V_traj, V_sub and p_int of every frame of an episode: float32 [T, 3]."""
        frames = self._frames(row)
        following, self._following = self._following, None
        found: list[Tensor] = []
        try:
            with torch.inference_mode():
                for batch in frames:
                    if frames.remaining == 0 and following is not None:
                        # All of this episode is decoded: the next may use the cores.
                        self._read_ahead(following)
                    found.append(self.judge(batch))
                # Fetched once an episode: meanwhile a GPU is handed batch after batch.
                joined: np.ndarray = torch.cat(found).cpu().numpy()
        except torch.OutOfMemoryError:
            raise IgrftError(
                f"step 'values': a batch of {self._batch_size} frames does not fit into the memory of "
                f"{self._device}; give --steps.values.batch_size={max(self._batch_size // 2, 1)}"
            ) from None
        finally:
            frames.close()
        return joined

    def judge(self, batch: dict[str, Any]) -> Tensor:
        """One pass over raw frames: float32 [n, 3] on the device, not waited for."""
        for camera in self._inputs.cameras:
            # As LeRobot's dataset gives them: [n, 3, H, W] in 0 … 1.
            batch[camera] = self._cross(batch[camera]).permute(0, 3, 1, 2).contiguous().float().div_(255)
        # Vectors stay where they are: the preprocessor reads them to write the prompt, and moves them itself.
        ready = self._loaded.preprocess(batch)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            output = self._critic(self._loaded.actor.prefix(ready, self._loaded.critic_layers).features)
        probability = output.interaction_logit.sigmoid()
        return torch.stack([output.trajectory, output.subtask, probability], dim=1).float()

    def _cross(self, pictures: Tensor) -> Tensor:
        """Bring pictures to the device."""
        if self._crossing is None:
            return pictures.to(self._device)
        with torch.cuda.stream(self._crossing):
            there = pictures.to(self._device, non_blocking=True)
        here = torch.cuda.current_stream(self._device)
        here.wait_stream(self._crossing)
        # Their memory is the other stream's: it must not be given away before this one has read it.
        there.record_stream(here)
        return there

    def _read_ahead(self, row: int) -> None:
        """Begin with the next episode. What is wrong with it is said when it is its turn."""
        with contextlib.suppress(EpisodeError):
            self._reading = self._open(row)

    def _frames(self, row: int) -> EpisodeFrames:
        """The frames of an episode, from its first on; they may be on their way already."""
        ready, self._reading = self._reading, None
        if ready is not None:
            if ready.row == row:
                return ready
            ready.close()
        return self._open(row)

    def _open(self, row: int) -> EpisodeFrames:
        return EpisodeFrames(self._dataset, row, self._inputs, self._batch_size, pinned=self._device.type == "cuda")


def _rewards(episode: Episode, name: str) -> np.ndarray:
    values = episode.given(name).reshape(-1).astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise EpisodeError(
            f"episode {episode.index}: {name} is {values[bad[0]]} at frame {bad[0]}; label the source again with a "
            "step 'rewards'"
        )
    return values
