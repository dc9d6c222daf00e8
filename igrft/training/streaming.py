"""Batches of which a part, or all, comes from streams.

Every worker of every process plays the order of all frames (:mod:`igrft.training.order`) and reads those that fall to
it: of a stream the lanes that are its own, of other datasets its share. So each of them gives a piece of every batch
of its process, and the main process puts the pieces together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from igrft.errors import IgrftError
from igrft.training.batches import PREFETCH, RawBatch, Seen, delivered, gathered, let_the_run_decide
from igrft.training.frames import Frames, Observation, concatenated
from igrft.training.labels import LabelSource
from igrft.training.mixture import BatchPlan
from igrft.training.order import StreamOrder
from igrft.training.stream import DrawnFrames, LabelledStream


@dataclass(frozen=True)
class Share:
    """What of every step a process takes: ``accumulation`` parts."""

    rank: int = 0
    world: int = 1
    accumulation: int = 1

    @property
    def slices(self) -> int:
        """Into which a batch is cut, over all processes."""
        return self.world * self.accumulation

    def lanes(self, count: int) -> list[int]:
        """Lanes, of ``count``, whose frames lie in this process's slices."""
        slices = (2 * np.arange(count) + 1) * self.slices // (2 * count)
        return np.flatnonzero(slices % self.world == self.rank).tolist()


@dataclass
class Pieces(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """A worker's pieces of a process's batches.

    Attributes:
        plan: of the batches; draws of streams are numbered in it.
        streams, orders: by dataset; the orders stand at step ``start``.
        frames, used: of the other datasets, by dataset: where they are read, and absolute indices by position.
    """

    plan: BatchPlan
    streams: Mapping[int, LabelledStream]
    orders: Mapping[int, StreamOrder]
    frames: Mapping[int, Frames]
    used: Mapping[int, np.ndarray]
    start: int
    stop: int
    share: Share
    chunk: int
    later: int | None

    def __iter__(self) -> Iterator[_Piece]:
        worker = torch.utils.data.get_worker_info()
        of, mine = (1, 0) if worker is None else (worker.num_workers, worker.id)
        try:
            yield from self._pieces(of, mine)
        except IgrftError as error:
            # Raised, it would come wrapped in a traceback.
            yield _Piece(np.zeros(0, dtype=np.int64), None, error)

    def _pieces(self, of: int, mine: int) -> Iterator[_Piece]:
        orders = {number: order.copy() for number, order in self.orders.items()}
        owners = {number: self._owners(order.lanes, of) for number, order in orders.items()}
        drawn = {
            number: DrawnFrames(
                self.streams[number],
                orders[number],
                [lane for lane in self.share.lanes(orders[number].lanes) if owners[number][lane] == mine],
                self.chunk,
                self.later,
            )
            for number in orders
        }
        size = self.plan.part_size(self.share.world, self.share.accumulation)
        for step in range(self.start, self.stop):
            dataset, index = self.plan.batch(step)
            lane = np.zeros(len(dataset), dtype=np.int64)
            owner = np.arange(len(dataset)) % of
            for number, order in orders.items():
                at = np.flatnonzero(dataset == number)
                draw = order.draw(len(at))
                drawn[number].enter(draw)
                index[at], lane[at], owner[at] = draw.index, draw.lane, owners[number][draw.lane]
            for number, used in self.used.items():
                at = np.flatnonzero(dataset == number)
                index[at] = used[index[at]]
            rest = np.ones(len(dataset), dtype=bool)
            for part in range(self.share.accumulation):
                first = (part * self.share.world + self.share.rank) * size
                places = np.flatnonzero(owner[first : first + size] == mine)
                at = first + places
                rest[at] = False
                yield _Piece(places, self._seen(drawn, dataset[at], index[at], lane[at]))
            for number, buffers in drawn.items():
                at = np.flatnonzero(rest & (dataset == number))
                buffers.drop(index[at], lane[at])

    def _owners(self, lanes: int, of: int) -> np.ndarray:
        """Worker of each lane, int64 [lanes]; of other processes' too, whose frames may fall to this one."""
        out = np.arange(lanes) % of
        own = self.share.lanes(lanes)
        out[own] = np.arange(len(own)) % of
        return out

    def _seen(
        self, drawn: Mapping[int, DrawnFrames], dataset: np.ndarray, index: np.ndarray, lane: np.ndarray
    ) -> Seen | None:
        if not len(dataset):
            return None

        def read(number: int, at: np.ndarray) -> tuple[Observation, Observation | None]:
            if number in drawn:
                return drawn[number].take(index[at], lane[at])
            return self.frames[number].gather(index[at], next_too=self.later is not None)

        return gathered(read, dataset, index)


@dataclass
class _Piece:
    """Part of a batch: where its samples go, int64 [b], and what was read; or what went wrong."""

    places: np.ndarray
    seen: Seen | None
    error: IgrftError | None = field(default=None)


def streamed(
    pieces: Pieces, labels: Sequence[LabelSource], *, workers: int, device: torch.device | str
) -> Iterator[RawBatch]:
    """One batch a part, in order.

    Args:
        workers: processes that read; 0 reads in this one.

    Raises:
        IgrftError: a frame that cannot be read (when its batch comes).
    """
    pinned = torch.device(device).type == "cuda"
    stream: Iterator[_Piece] = iter(pieces)
    if workers:
        loader: Any = torch.utils.data.DataLoader(
            pieces,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=PREFETCH,
            # A loader draws its workers' seed: from a generator of its own, so that the run's stays where it was.
            generator=torch.Generator().manual_seed(0),
            worker_init_fn=let_the_run_decide,
        )
        stream = iter(loader)
    for _ in range((pieces.stop - pieces.start) * pieces.share.accumulation):
        held = []
        for _ in range(max(workers, 1)):
            piece = next(stream)
            if piece.error is not None:
                raise piece.error
            if piece.seen is not None:
                held.append((piece.places, piece.seen))
        batch = delivered(_together(held), labels)
        yield batch.pin_memory() if pinned else batch


def _together(held: list[tuple[np.ndarray, Seen]]) -> Seen:
    """One batch of the pieces of several workers."""
    size = sum(len(places) for places, _ in held)
    dataset, index = (np.zeros(size, dtype=np.int64) for _ in range(2))
    for places, seen in held:
        dataset[places], index[places] = seen.dataset, seen.index
    now = concatenated([(places, seen.observation) for places, seen in held], size)
    later = [(places, seen.next_observation) for places, seen in held if seen.next_observation is not None]
    return Seen(now, concatenated(later, size) if later else None, dataset, index)
