"""From chosen frames to batches, through workers where pictures are read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from igrft.errors import IgrftError
from igrft.training.frames import Frames, Observation, concatenated
from igrft.training.labels import LabelSource

#: Batches that a worker holds ready.
PREFETCH = 2

#: Reads some places of a batch that are of one dataset.
Read = Callable[[int, np.ndarray], tuple[Observation, Observation | None]]
#: Frames of a batch: (number of the dataset, absolute index in it), int64 [B] each.
Part = tuple[np.ndarray, np.ndarray]


@dataclass
class RawBatch:
    """A batch before LeRobot's preprocessor.

    Attributes:
        observation: by LeRobot's names: states float32 [B, d], cameras uint8 [B, 3, H, W], ``action`` float32
            [B, chunk, d], ``action_is_pad`` bool [B, chunk], ``task`` list[str].
        next_observation: the same without actions N frames later (at most the episode's last), or None.
        subtasks: name of each frame's subtask, "" where there is none.
        labels: [B] each; see :class:`igrft.training.labels.FrameLabels`.
        dataset: number in the recipe's list, int64 [B].
        index: absolute frame index in its dataset, int64 [B].
    """

    observation: Observation
    next_observation: Observation | None
    subtasks: list[str]
    labels: dict[str, Tensor]
    dataset: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> RawBatch:
        """The same with its tensors on ``device``."""
        return self._each(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> RawBatch:
        """The same in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> RawBatch:
        later = None if self.next_observation is None else _each(self.next_observation, change)
        return RawBatch(
            _each(self.observation, change),
            later,
            self.subtasks,
            _each(self.labels, change),
            change(self.dataset),
            change(self.index),
        )


def batches(
    frames: Sequence[Frames],
    labels: Sequence[LabelSource],
    parts: Iterable[Part],
    count: int,
    *,
    next_too: bool,
    workers: int,
    device: torch.device | str,
) -> Iterator[RawBatch]:
    """One batch a part, in order.

    Args:
        frames, labels: one a dataset.
        count: of the parts.
        next_too: whether batches hold the later observation.
        workers: processes that read; 0 reads in this one.
        device: observations for a CUDA device come in page-locked memory.

    Raises:
        IgrftError: a frame that cannot be read (when its batch comes).
    """
    gather = _Gather(frames, next_too)
    if workers < 1:
        return (delivered(gather[part], labels) for part in parts)
    loader = torch.utils.data.DataLoader(
        gather,
        batch_size=None,
        sampler=_Parts(parts, count),  # type: ignore[arg-type]
        num_workers=min(workers, max(count, 1)),
        prefetch_factor=PREFETCH,
        pin_memory=torch.device(device).type == "cuda",
        # A loader draws its workers' seed: from a generator of its own, so that the run's stays where it was.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=let_the_run_decide,
    )
    return (delivered(seen, labels) for seen in loader)


def let_the_run_decide(_: int) -> None:
    """Ctrl-C and `timeout` signal a whole group of processes: workers leave it, so that the run alone decides."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)


def by_dataset(dataset: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(number of a dataset, places of its samples in the batch)."""
    for number in np.unique(dataset).tolist():
        yield number, np.flatnonzero(dataset == number)


def delivered(seen: Seen | IgrftError, labels: Sequence[LabelSource]) -> RawBatch:
    """Labels are added here: sent from a worker, every array would take a file handle."""
    if isinstance(seen, IgrftError):
        raise seen
    parts = [(at, _labels_at(labels[number], seen.index[at])) for number, at in by_dataset(seen.dataset)]
    merged = concatenated(parts, len(seen.index))
    return RawBatch(
        observation=seen.observation,
        next_observation=seen.next_observation,
        subtasks=merged.pop("subtasks"),
        labels=merged,
        dataset=torch.from_numpy(seen.dataset),
        index=torch.from_numpy(seen.index),
    )


class _Parts:
    """A sampler of as many parts as it says."""

    def __init__(self, parts: Iterable[tuple[np.ndarray, np.ndarray]], count: int) -> None:
        self.parts = parts
        self.count = count

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return self.count


@dataclass
class Seen:
    """What a worker sends: observations, and which they are."""

    observation: Observation
    next_observation: Observation | None
    dataset: np.ndarray
    index: np.ndarray

    def pin_memory(self) -> Seen:
        """A DataLoader calls this."""
        later = None if self.next_observation is None else _each(self.next_observation, Tensor.pin_memory)
        return Seen(_each(self.observation, Tensor.pin_memory), later, self.dataset, self.index)


class _Gather(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Whole batches by (dataset, index): what a worker holds."""

    def __init__(self, frames: Sequence[Frames], next_too: bool) -> None:
        self.frames = frames
        self.next_too = next_too

    def __getitem__(self, part: Part) -> Seen | IgrftError:
        """The error of a frame that cannot be read is returned: raised, it would come wrapped in a traceback."""
        dataset, index = part
        try:
            return gathered(lambda n, at: self.frames[n].gather(index[at], next_too=self.next_too), dataset, index)
        except IgrftError as error:
            return error


def gathered(read: Read, dataset: np.ndarray, index: np.ndarray) -> Seen:
    """A batch of several datasets: ``read(dataset, places in the batch)`` gives the observations there."""
    now: list[tuple[np.ndarray, Observation]] = []
    later: list[tuple[np.ndarray, Observation]] = []
    for number, at in by_dataset(dataset):
        observation, following = read(number, at)
        now.append((at, observation))
        if following is not None:
            later.append((at, following))
    size = len(index)
    return Seen(concatenated(now, size), concatenated(later, size) if later else None, dataset, index)


def _each(values: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {k: change(v) if isinstance(v, Tensor) else v for k, v in values.items()}


def _labels_at(labels: LabelSource, index: np.ndarray) -> Observation:
    out: Observation = {name: torch.from_numpy(values) for name, values in labels.take(index).items()}
    out["subtasks"] = labels.subtasks(index)
    return out
