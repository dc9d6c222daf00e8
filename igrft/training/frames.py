"""Where the frames of a batch come from: arrays in memory, for actors without pictures.

:class:`igrft.training.pictures.LeRobotFrames` gives the same and pictures. Both name and pad as LeRobot does.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from igrft import columns as c
from igrft.dataset.labels import load_labels
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError

ACTION_IS_PAD = "action_is_pad"
TASK = "task"
#: The low-dimensional columns that policies look at.
STATES = (c.STATE, c.ENVIRONMENT_STATE)

Observation = dict[str, Any]


class Frames(Protocol):
    """A source of batches from one dataset."""

    def gather(self, index: np.ndarray, *, next_too: bool = True) -> tuple[Observation, Observation | None]:
        """The observations of some frames.

        Args:
            index: absolute frame indices, int64 [B].
            next_too: False leaves the later observation out even where the source gives one.

        Returns:
            By LeRobot's names: states float32 [B, d], cameras uint8 [B, 3, H, W], ``action`` float32
            [B, chunk, d], ``action_is_pad`` bool [B, chunk], ``task`` list[str]; and the same without actions N
            frames later, at most the episode's last frame, or None.
        """
        ...


class MemoryFrames:
    """States and actions of a whole dataset in float32 arrays.

    Args:
        dataset: read once, here.
        chunk: actions of a sample.
        next_steps: N of the later observation; None gives none.

    Raises:
        IgrftError: the dataset has no action or no state, or a task that ``meta/tasks.parquet`` lacks.
    """

    def __init__(self, dataset: DatasetReader, chunk: int, next_steps: int | None = None) -> None:
        if c.ACTION not in dataset.features:
            raise IgrftError(f"{dataset.root} has no column {c.ACTION!r}, so there is nothing to imitate")
        names = [n for n in STATES if n in dataset.features]
        if not names:
            raise IgrftError(f"{dataset.root} has no column {c.STATE!r}; a policy without cameras needs it")
        self.states = {name: torch.from_numpy(read_matrix(dataset, name)) for name in names}
        self.action = read_matrix(dataset, c.ACTION)
        self.last = np.repeat(dataset.from_index + dataset.lengths - 1, dataset.lengths)
        self.next_steps = next_steps
        self._ahead = np.arange(chunk)
        self._tasks = np.array(dataset.tasks, dtype=object)
        self._task = read_tasks(dataset)

    def gather(self, index: np.ndarray, *, next_too: bool = True) -> tuple[Observation, Observation | None]:
        """See :meth:`Frames.gather`."""
        last = self.last[index]
        wanted = index[:, None] + self._ahead
        padded = wanted > last[:, None]
        observation = self._observe(index)
        observation[c.ACTION] = torch.from_numpy(self.action.take(np.minimum(wanted, last[:, None]), axis=0))
        observation[ACTION_IS_PAD] = torch.from_numpy(padded)
        if self.next_steps is None or not next_too:
            return observation, None
        return observation, self._observe(np.minimum(index + self.next_steps, last))

    def _observe(self, index: np.ndarray) -> Observation:
        at = torch.from_numpy(index)
        return {n: s.index_select(0, at) for n, s in self.states.items()} | {
            TASK: self._tasks[self._task[index]].tolist()
        }


def read_matrix(dataset: DatasetReader, name: str) -> np.ndarray:
    """A column over all frames as float32 [N, d]."""
    return matrix(load_labels(dataset, [name])[name])


def matrix(values: np.ndarray) -> np.ndarray:
    """A column [N] or [N, …] as float32 [N, d]."""
    return np.ascontiguousarray(values.reshape(len(values), -1), dtype=np.float32)


def read_tasks(dataset: DatasetReader) -> np.ndarray:
    """``task_index`` over all frames, int32 [N]; 0 throughout where the dataset has no such column.

    Raises:
        IgrftError: a task that ``meta/tasks.parquet`` does not hold.
    """
    if c.TASK_INDEX not in dataset.features:
        return np.zeros(dataset.num_frames, dtype=np.int32)
    values = load_labels(dataset, [c.TASK_INDEX])[c.TASK_INDEX].astype(np.int32)
    refuse_strange_tasks(dataset, values, None)
    return values


def refuse_strange_tasks(dataset: DatasetReader, values: np.ndarray, index: np.ndarray | None) -> None:
    """Raise where ``task_index`` [N] of some frames (of all, where ``index`` is None) is of no task.

    Raises:
        IgrftError: naming the first.
    """
    wrong = np.flatnonzero((values < 0) | (values >= len(dataset.tasks)))
    if len(wrong):
        where = place_of(dataset, int(wrong[0] if index is None else index[wrong[0]]))
        raise IgrftError(
            f"{dataset.root}: {where} has task_index {values[wrong[0]]}, but meta/tasks.parquet has "
            f"{len(dataset.tasks)} rows; run: igrft validate {dataset.root}"
        )


def place_of(dataset: DatasetReader, index: int) -> str:
    """``episode E, frame F`` of an absolute frame index, for messages."""
    row = int(np.searchsorted(dataset.from_index, index, side="right")) - 1
    return f"episode {dataset.episode_indices[row]}, frame {index - dataset.from_index[row]}"


def concatenated(parts: list[tuple[np.ndarray, Observation]], size: int) -> Observation:
    """One batch of ``size`` from several datasets' parts: (where its samples go, int64 [b]; the part)."""
    if len(parts) == 1 and (parts[0][0] == np.arange(size)).all():
        return parts[0][1]
    out: Observation = {}
    for name, example in parts[0][1].items():
        if isinstance(example, Tensor):
            whole = example.new_empty((size, *example.shape[1:]))
            for at, part in parts:
                whole[torch.from_numpy(at)] = part[name]
            out[name] = whole
        else:
            texts = [""] * size
            for at, part in parts:
                for i, text in zip(at.tolist(), part[name], strict=True):
                    texts[i] = text
            out[name] = texts
    return out
