"""Frames of an episode on their way to the model: decoded in order and ahead, a batch at a time."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import episode_frames
from igrft.errors import EpisodeError
from igrft.steps.values.checkpoint import Inputs

#: Batches of a camera that wait for the model; one more is being decoded.
_DEPTH = 1
#: Threads of one decoder at most.
_DECODER_THREADS = 4


class Ahead[T](Iterator[T]):
    """The items of an iterator, made in a thread of their own, ``depth`` of them before they are asked for.

    An error of the iterator is raised where its item is asked for. ``close``, or forgetting the object,
    ends the thread.
    """

    def __init__(self, items: Iterator[T], depth: int = _DEPTH) -> None:
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._done = False
        # The thread knows the queue, not this object, which can so be forgotten.
        threading.Thread(target=_fill, args=(items, self._ready, self._stop), name="igrft-ahead", daemon=True).start()

    def __next__(self) -> T:
        if self._done:
            raise StopIteration
        kind, value = self._ready.get()
        if kind == "item":
            item: T = value
            return item
        self._done = True
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """End the thread; what it had ready is lost."""
        self._stop.set()

    def __del__(self) -> None:
        self._stop.set()


def _fill(items: Iterator[Any], ready: queue.Queue[tuple[str, Any]], stop: threading.Event) -> None:
    def put(kind: str, value: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put((kind, value), timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    try:
        for item in items:
            if not put("item", item):
                return
    except BaseException as error:
        put("error", error)
    else:
        put("end", None)


class EpisodeFrames(Iterator[dict[str, Any]]):
    """The observations of one episode in batches, under the dataset's names; reading begins at once.

    Args:
        batch_size: frames a batch; the last may have fewer.
        pinned: hold pictures in memory from which a GPU copies without waiting.

    Yields:
        vectors float32 [n, width], cameras uint8 [n, H, W, 3], and ``task``, n strings.

    Raises:
        EpisodeError: pictures that are missing, damaged or of different sizes.
    """

    def __init__(
        self, dataset: DatasetReader, row: int, inputs: Inputs, batch_size: int, *, pinned: bool = False
    ) -> None:
        self.row = row
        self._length = int(dataset.lengths[row])
        self._size = batch_size
        self._at = 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = min(max(cores // max(len(inputs.cameras), 1), 1), _DECODER_THREADS)
        self._vectors = {name: _vector(dataset, row, name) for name in inputs.vectors}
        self._tasks = _tasks(dataset, row)
        self._pictures = {
            camera: Ahead(_picture_batches(dataset, row, camera, batch_size, threads, pinned))
            for camera in inputs.cameras
        }

    @property
    def remaining(self) -> int:
        """Batches still to come."""
        return -(-(self._length - self._at) // self._size)

    def __next__(self) -> dict[str, Any]:
        if self._at >= self._length:
            raise StopIteration
        part = slice(self._at, min(self._at + self._size, self._length))
        batch: dict[str, Any] = {name: values[part] for name, values in self._vectors.items()}
        for camera, batches in self._pictures.items():
            batch[camera] = next(batches)
        batch["task"] = self._tasks[part]
        self._at = part.stop
        return batch

    def close(self) -> None:
        """Stop reading."""
        for batches in self._pictures.values():
            batches.close()


def _picture_batches(
    dataset: DatasetReader, row: int, camera: str, batch_size: int, threads: int, pinned: bool
) -> Iterator[Tensor]:
    """uint8 [n, H, W, 3], each with memory of its own."""
    # A reader of its own: they keep open files and are not made for several threads.
    own = DatasetReader(dataset.root, dataset.info, dataset.table)
    left = int(dataset.lengths[row])
    batch, view, filled = torch.empty(0), np.empty(0, np.uint8), 0
    for picture in episode_frames(own, row, camera, threads=threads):
        if filled == 0:
            batch = torch.empty((min(batch_size, left), *picture.shape), dtype=torch.uint8, pin_memory=pinned)
            view = batch.numpy()
        if view.shape[1:] != picture.shape:
            raise EpisodeError(
                f"episode {int(dataset.episode_indices[row])}: {camera} has pictures of {_size(view[0])} and of "
                f"{_size(picture)}; convert the source again"
            )
        view[filled] = picture
        filled += 1
        if filled == len(batch):
            yield batch
            left -= filled
            filled = 0


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _vector(dataset: DatasetReader, row: int, name: str) -> Tensor:
    values = dataset.column(row, name).astype(np.float32)
    return torch.from_numpy(values.reshape(len(values), -1))


def _tasks(dataset: DatasetReader, row: int) -> list[str]:
    """The task string of each frame, as LeRobot's dataset gives it."""
    if c.TASK_INDEX not in dataset.features:
        return [next(iter(dataset.episode_tasks(row)), "")] * int(dataset.lengths[row])
    index = dataset.column(row, c.TASK_INDEX).reshape(-1)
    wrong = np.flatnonzero((index < 0) | (index >= len(dataset.tasks)))
    if len(wrong):
        raise EpisodeError(
            f"episode {int(dataset.episode_indices[row])}: frame {wrong[0]} has task_index {index[wrong[0]]}, but "
            f"meta/tasks.parquet has {len(dataset.tasks)} rows; run: igrft validate {dataset.root}"
        )
    return [dataset.tasks[i] for i in index.tolist()]
