"""In which order a stream gives its frames: buffer shuffling, played on numbers alone.

Which frame comes when depends on the seed and on how many were asked for before, and on nothing that is read: every
worker of every process plays the same order, and reads what falls to it. A run that goes on does so from a few
thousand numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Streams of the generators that order episodes, and draw from the buffers; the other draws of a run take others.
_EPISODES, _BUFFER = 4, 5


@dataclass(frozen=True)
class Draw:
    """The frames of a step.

    Attributes:
        index: absolute indices, int64 [n].
        lane: that each comes from, int64 [n]; ascending.
        entering: by lane, the frames that its buffer takes in beforehand, int64.
    """

    index: np.ndarray
    lane: np.ndarray
    entering: dict[int, np.ndarray]


@dataclass
class _Lane:
    """One way through the episodes.

    Attributes:
        buffer: frames from which one is drawn, absolute indices.
        next, end: of the frames of its episode that are still to come.
    """

    buffer: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    next: int = 0
    end: int = 0


class StreamOrder:
    """An endless order of a dataset's frames.

    The set is walked in ``lanes`` side by side, each an episode at a time, from its first frame to its last; the
    episodes come in seeded permutations, one an epoch, and a lane that is done with one takes the next. A frame passes
    through the buffer of its lane, from which a random one is drawn whenever one enters. So every episode is read once
    an epoch, by one lane, in order.

    Args:
        first: absolute index of each episode's first frame, int64 [E].
        frames: of each, from its first on, that are wanted, int64 [E]; at least one in all.
        lanes: at least 1.
        buffer_size: frames in all buffers together.
        seed, number: of the run, and of the dataset in it.
    """

    def __init__(
        self, first: np.ndarray, frames: np.ndarray, lanes: int, buffer_size: int, seed: int, number: int = 0
    ) -> None:
        used = np.flatnonzero(frames > 0)
        if not len(used) or lanes < 1 or buffer_size < 1:
            raise ValueError(f"{len(used)} episodes, {lanes} lanes and a buffer of {buffer_size}; all must be positive")
        self._first, self._frames = first[used].astype(np.int64), frames[used].astype(np.int64)
        self._size = max(1, buffer_size // lanes)
        self._seeds = [int(seed), int(number)]
        self.lanes = lanes
        self.step = 0
        self._epoch, self._at = -1, len(used)
        self._order = np.zeros(0, dtype=np.int64)
        self._lanes = [_Lane() for _ in range(lanes)]

    def draw(self, count: int) -> Draw:
        """The next ``count`` frames: those of the step :attr:`step`, which grows by one.

        Raises:
            ValueError: fewer than there are lanes.
        """
        if 0 < count < self.lanes:
            raise ValueError(f"{count} frames of {self.lanes} lanes: some would never be asked")
        rng = np.random.default_rng([self._seeds[0], _BUFFER, self._seeds[1], self.step])
        lane = np.arange(count) * self.lanes // max(count, 1)
        index = np.empty(count, dtype=np.int64)
        entering: dict[int, np.ndarray] = {}
        for number in np.unique(lane).tolist():
            at = np.flatnonzero(lane == number)
            index[at], entering[number] = self._from(self._lanes[number], len(at), rng)
        self.step += 1
        return Draw(index, lane, entering)

    def skip_to(self, step: int, counts: Callable[[int], int]) -> None:
        """Play on to a step; ``counts(step)`` frames are asked for in each."""
        while self.step < step:
            self.draw(counts(self.step))

    def buffered(self, lane: int) -> np.ndarray:
        """Frames in the buffer of a lane."""
        return self._lanes[lane].buffer

    def following(self, lane: int) -> int:
        """Absolute index with which a lane goes on; the end of its episode, where it is done with that."""
        return self._lanes[lane].next

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Where the order is, as JSON."""
        lanes = [{"buffer": lane.buffer.tolist(), "next": lane.next, "end": lane.end} for lane in self._lanes]
        return {"step": self.step, "epoch": self._epoch, "at": self._at, "lanes": lanes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, of the same dataset and settings.

        Raises:
            ValueError: it is of another number of lanes.
        """
        if len(state["lanes"]) != self.lanes:
            raise ValueError(f"the state is of {len(state['lanes'])} lanes, and there are {self.lanes}")
        self.step, self._epoch, self._at = int(state["step"]), int(state["epoch"]), int(state["at"])
        self._order = self._permutation()
        self._lanes = [
            _Lane(np.array(lane["buffer"], dtype=np.int64), int(lane["next"]), int(lane["end"]))
            for lane in state["lanes"]
        ]

    def copy(self) -> StreamOrder:
        """Another that goes on from here."""
        out = copy.copy(self)
        out._lanes = [_Lane(lane.buffer.copy(), lane.next, lane.end) for lane in self._lanes]
        return out

    # Inside.

    def _from(self, lane: _Lane, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(frames drawn from a lane, frames that entered its buffer)."""
        drawn, entered = [], []
        if len(lane.buffer) < self._size:
            lane.buffer = np.concatenate([lane.buffer, self._incoming(lane, self._size - len(lane.buffer))])
            entered.append(lane.buffer.copy())
        while count:
            n = min(count, self._size)
            places = rng.permutation(self._size)[:n]
            drawn.append(lane.buffer[places])
            fresh = self._incoming(lane, n)
            lane.buffer[places] = fresh
            entered.append(fresh)
            count -= n
        return np.concatenate(drawn), np.concatenate(entered)

    def _incoming(self, lane: _Lane, count: int) -> np.ndarray:
        """The next frames of a lane, in order, across its episodes."""
        parts = []
        while count:
            if lane.next == lane.end:
                row = self._next_episode()
                lane.next = int(self._first[row])
                lane.end = lane.next + int(self._frames[row])
            n = min(count, lane.end - lane.next)
            parts.append(np.arange(lane.next, lane.next + n))
            lane.next += n
            count -= n
        return np.concatenate(parts)

    def _next_episode(self) -> int:
        if self._at == len(self._first):
            self._epoch, self._at = self._epoch + 1, 0
            self._order = self._permutation()
        row = int(self._order[self._at])
        self._at += 1
        return row

    def _permutation(self) -> np.ndarray:
        if self._epoch < 0:
            return np.zeros(0, dtype=np.int64)
        rng = np.random.default_rng([self._seeds[0], _EPISODES, self._seeds[1], self._epoch])
        return rng.permutation(len(self._first))
