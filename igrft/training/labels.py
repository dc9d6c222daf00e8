"""What the trainer knows of every frame of a dataset, and what a recipe needs to know.

:mod:`igrft.training.labelling` makes it of the label columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from igrft import columns as c
from igrft.training.blocks import BLOCK
from igrft.training.episodes import Episodes
from igrft.training.recipe import Recipe

#: Objectives that weight samples by their advantage.
WEIGHTED = ("awr", "ig_awr", "iql")


class LabelSource(Protocol):
    """Labels of every frame, wherever they lie: :class:`FrameLabels`, or a file of them.

    Attributes:
        episodes: facts of the episodes.
        subtask_names: by ``subtask``.
    """

    @property
    def episodes(self) -> Episodes: ...
    @property
    def subtask_names(self) -> Sequence[str]: ...

    def __len__(self) -> int:
        """Frames."""
        ...

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays at some frames, [B] each, by name; all but ``subtask``."""
        ...

    def subtasks(self, index: np.ndarray) -> list[str]:
        """Names of some frames' subtasks, "" where there is none."""
        ...

    def parts(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Every array over all frames, in pieces, in the frames' order."""
        ...


@dataclass(frozen=True)
class FrameLabels:
    """Arrays [N] over the frames of a dataset, whose absolute index is their place here.

    NaN stands where the dataset has no such label, and throughout episodes that are not used.

    Attributes:
        episode, frame, length: ``episode_index``, frame in it and its number of frames T, int32.
        return_trajectory, return_subtask: unweighted returns-to-go with the recipe's discount, float32.
        reward_sum: sum over j < N of gamma^j r(f+j), float32; past the end of the episode r is 0.
        bootstrap: gamma^N where f + N < T, else 0, float32: the factor of V(f+N).
        next_index: absolute index of the frame N later, at most the episode's last, int64.
        interaction: 0 or 1, float32.
        intervention: a human overrode a policy, bool.
        motion: speed of the state in standard deviations a frame, float32.
        advantage: N-step, of the dataset's value columns, float32; NaN unless ``advantage.source`` is columns.
        trained: used by the actor, bool.
        critic: the critic may train on it (where it is drawn for the actor), bool.
        success: of its episode, bool.
        subtask: ``subtask_index``, int32; -1 where there is none.
        episodes: facts of the episodes.
        subtask_names: by ``subtask``.
    """

    episode: np.ndarray
    frame: np.ndarray
    length: np.ndarray
    return_trajectory: np.ndarray
    return_subtask: np.ndarray
    reward_sum: np.ndarray
    bootstrap: np.ndarray
    next_index: np.ndarray
    interaction: np.ndarray
    intervention: np.ndarray
    motion: np.ndarray
    advantage: np.ndarray
    trained: np.ndarray
    critic: np.ndarray
    success: np.ndarray
    subtask: np.ndarray
    episodes: Episodes
    subtask_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.episode)

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """See :class:`LabelSource`."""
        return {name: getattr(self, name)[index] for name in ARRAYS}

    def subtasks(self, index: np.ndarray) -> list[str]:
        """See :class:`LabelSource`."""
        return named(self.subtask[index], self.subtask_names)

    def parts(self) -> Iterator[Mapping[str, np.ndarray]]:
        """See :class:`LabelSource`."""
        for start in range(0, len(self), BLOCK):
            yield {name: getattr(self, name)[start : start + BLOCK] for name in DTYPES}


def named(subtask: np.ndarray, names: Sequence[str]) -> list[str]:
    """Names by ``subtask_index``, "" where there is none."""
    return [names[i] if 0 <= i < len(names) else "" for i in subtask.tolist()]


_INTEGERS = {"episode": np.int32, "frame": np.int32, "length": np.int32, "next_index": np.int64, "subtask": np.int32}
_BOOLS = ("intervention", "trained", "critic", "success")
#: Every array by name, with its type.
DTYPES: dict[str, np.dtype] = {
    f.name: np.dtype(_INTEGERS.get(f.name, np.bool_ if f.name in _BOOLS else np.float32))
    for f in fields(FrameLabels)
    if f.type == "np.ndarray"
}
#: Names of the arrays that a batch carries.
ARRAYS = tuple(name for name in DTYPES if name != "subtask")


def reward_weights(recipe: Recipe) -> tuple[float, float]:
    """Weights of the two components (Eq. 7). The sparse reward has one, which pays 1 (METHOD)."""
    if recipe.rewards.kind == "sparse":
        return 1.0, 0.0
    return recipe.rewards.trajectory_weight, recipe.rewards.subtask_weight


def needs_next(recipe: Recipe) -> bool:
    """Whether the loop judges by V of the observation N frames later."""
    return recipe.objective.type in WEIGHTED and (recipe.objective.type == "iql" or recipe.advantage.source == "critic")


def required_columns(recipe: Recipe, has_text: bool) -> dict[str, str]:
    """Label columns that a recipe cannot do without, each with what needs it and how to do without.

    ``next.success`` stands for any record of the episodes' success.

    Args:
        has_text: whether the policy has a language model.
    """
    needed: dict[str, str] = {}
    objective = recipe.objective
    weighted = objective.type in WEIGHTED
    if weighted or recipe.critic.enabled:
        why = (
            f"objective {objective.type} weights by it; --objective.type=sft --critic.enabled=false does without"
            if weighted
            else "the critic learns its return; --critic.enabled=false does without"
        )
        if recipe.rewards.kind == "sparse":
            needed[c.SUCCESS] = why
        else:
            needed |= {c.REWARD_TRAJECTORY: why, c.REWARD_SUBTASK: why}
    if recipe.critic.enabled:
        needed[c.INTERACTION] = "the critic learns it; --critic.enabled=false does without"
    if weighted and objective.type != "iql" and recipe.advantage.source == "columns":
        why = "advantage.source is columns; --advantage.source=critic does without"
        needed |= {c.VALUE_TRAJECTORY: why} | ({} if recipe.rewards.kind == "sparse" else {c.VALUE_SUBTASK: why})
    if objective.frames != "all":
        needed.setdefault(c.SUCCESS, f"objective.frames is {objective.frames}; --objective.frames=all does without")
    if has_text and objective.text_weight > 0:
        needed[c.SUBTASK_INDEX] = "the language model learns its text; --objective.text_weight=0 does without"
    return needed
