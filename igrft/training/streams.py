"""The streams of a run: opened, batched, and where they are. Importing this takes seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from igrft import columns as c
from igrft.training.batches import RawBatch
from igrft.training.frames import STATES, Frames, Observation
from igrft.training.mixture import BatchPlan
from igrft.training.opening import LabelledSet
from igrft.training.order import StreamOrder
from igrft.training.recipe import Recipe
from igrft.training.stream import LabelledStream
from igrft.training.streaming import Pieces, Share, streamed


@dataclass(frozen=True)
class StreamFrames:
    """Frames of a stream in any order: see :class:`igrft.training.frames.Frames`."""

    stream: LabelledStream
    chunk: int
    later: int | None

    def gather(self, index: np.ndarray, *, next_too: bool = True) -> tuple[Observation, Observation | None]:
        return self.stream.gather(index, self.chunk, self.later if next_too else None)


class Streams:
    """Those of a recipe's datasets that are streamed.

    Args:
        plan: of the batches, in which their draws are numbered.
        chunk, later: of a sample: actions, and the distance of its later observation.
    """

    def __init__(
        self, recipe: Recipe, entries: Sequence[LabelledSet], plan: BatchPlan, chunk: int, later: int | None
    ) -> None:
        self.plan, self.chunk, self.later = plan, chunk, later
        self._labels = [held.labels for held in entries]
        self._streams = {n: _opened(recipe, entries[n], n, plan) for n in sorted(plan.streams)}
        self._orders: dict[int, StreamOrder] = {}

    def frames(self, number: int) -> Frames:
        """Frames of one of them in any order."""
        return StreamFrames(self._streams[number], self.chunk, self.later)

    def batches(
        self,
        start: int,
        stop: int,
        share: tuple[int, int, int],
        others: Mapping[int, tuple[Frames, np.ndarray]],
        *,
        workers: int,
        device: torch.device | str,
    ) -> Iterator[RawBatch]:
        """Batches of the steps from ``start`` to ``stop``: see :meth:`igrft.training.data.TrainingData.loader`.

        Args:
            share: rank, processes and accumulation parts.
            others: datasets that are not streamed, by number: where they are read, and absolute indices by position.
        """
        pieces = Pieces(
            plan=self.plan,
            streams=self._streams,
            orders={number: self._order_at(number, start).copy() for number in self._streams},
            frames={number: frames for number, (frames, _) in others.items()},
            used={number: used for number, (_, used) in others.items()},
            start=start,
            stop=stop,
            share=Share(*share),
            chunk=self.chunk,
            later=self.later,
        )
        return streamed(pieces, self._labels, workers=workers, device=device)

    def state_dict(self, step: int) -> dict[str, Any]:
        """Where the streams are before a step, as JSON by number of the dataset."""
        return {str(number): self._order_at(number, step).state_dict() for number in self._streams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave. Without it, the order is played again from the first step."""
        for number, stream in self._streams.items():
            order = stream.order()
            order.load_state_dict(state[str(number)])
            self._orders[number] = order

    def _order_at(self, number: int, step: int) -> StreamOrder:
        """The order of a stream as it stands before a step; played on from where it was last looked at."""
        order = self._orders.get(number)
        if order is None or order.step > step:
            order = self._streams[number].order()
            self._orders[number] = order
        order.skip_to(step, lambda s: self.plan.drawn(s + 1)[number] - self.plan.drawn(s)[number])
        return order


def _opened(recipe: Recipe, held: LabelledSet, number: int, plan: BatchPlan) -> LabelledStream:
    names = [n for n in (*STATES, c.ACTION, c.TASK_INDEX) if n in held.reader.features]
    return LabelledStream(
        held.reader,
        cameras=held.cameras,
        columns=names,
        frames=held.labels.episodes.trained,
        buffer_size=held.entry.buffer_size,
        # A lane must have a frame in every batch.
        shards=min(held.entry.shards, max(1, int(plan.shares[number] * recipe.batch_size))),
        seed=recipe.seed,
        number=number,
    )
