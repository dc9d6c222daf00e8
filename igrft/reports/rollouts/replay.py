"""Where the stagnation monitor would have fired in recorded episodes, for many settings in little time.

It says what :class:`igrft.rollouts.stagnation.StagnationMonitor` would, which a rollout runs on; that one looks at a
value at a time, and a table over settings of a large dataset would take it minutes. Pure: arrays in, frames out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from igrft.rollouts.stagnation import StagnationMonitor


@dataclass(frozen=True)
class Takeover:
    """A human drove on frames [start, end).

    Attributes:
        by, why: as recorded; None where nobody wrote it down.
        called: whether the monitor had called; None where not known.
    """

    start: int
    end: int
    by: str | None = None
    why: str | None = None
    called: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end, "by": self.by, "why": self.why}


@dataclass(frozen=True)
class Track:
    """One episode.

    Attributes:
        values: the critic's, float [T]; NaN where it said nothing.
        takeovers: in order.
        success: None where nobody said.
    """

    values: np.ndarray
    takeovers: tuple[Takeover, ...] = ()
    success: bool | None = None

    @cached_property
    def stretches(self) -> list[tuple[int, int]]:
        """Frames [start, end) in which the policy drove and the monitor looked.

        Each holds the first frame of the takeover that ends it: what the monitor saw there made it call.
        """
        out, at, length = [], 0, len(self.values)
        for one in self.takeovers:
            if at < min(one.start + 1, length):
                out.append((at, min(one.start + 1, length)))
            at = max(at, one.end)
        return [*out, (at, length)] if at < length else out


def judging_interval(tracks: Iterable[Track]) -> int:
    """Frames from one look of the critic to the next: the commonest length of a run of equal values (ours).

    Rollouts record the critic's last word on every frame, and the monitor hears each word once. A run that a
    takeover or the end of the episode cuts off does not count. 1 where nothing can be told.
    """
    lengths: list[np.ndarray] = []
    for track in tracks:
        for start, end in track.stretches:
            values = track.values[start:end]
            changes = np.flatnonzero(values[1:] != values[:-1]) + 1
            lengths.append(np.diff(changes, prepend=0) if len(changes) else np.zeros(0, dtype=np.int64))
    held = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)
    return int(np.argmax(np.bincount(held))) if len(held) else 1


def judged(values: np.ndarray, every: int) -> np.ndarray:
    """Frames of a stretch on which the critic spoke: where the value changes, and every so many within equal ones.

    Args:
        values: float [T] of a stretch, which begins with a word of the critic.
        every: frames from one look to the next.

    Returns:
        int64, rising; those without a value are left out.
    """
    at = np.arange(len(values))
    new = np.ones(len(values), dtype=bool)
    new[1:] = values[1:] != values[:-1]
    since = at - np.maximum.accumulate(np.where(new, at, 0))
    return np.flatnonzero((since % every == 0) & np.isfinite(values))


class Replay:
    """Episodes prepared for any number of settings."""

    def __init__(self, tracks: Sequence[Track], every: int | None = None) -> None:
        """``every``: see :func:`judging_interval`, which finds it where it is None."""
        self.tracks = tracks
        self.every = judging_interval(tracks) if every is None else every
        self._stretches = [[_Stretch(t, span, self.every) for span in t.stretches] for t in tracks]

    def firings(self, monitor: StagnationMonitor) -> list[list[int]]:
        """Frames at which ``monitor`` would have fired, rising, by episode.

        It starts anew where the policy drives again, and after it has fired, as
        :func:`igrft.rollouts.stagnation.replay` has it.
        """
        return [[f for s in stretches for f in s.firings(monitor)] for stretches in self._stretches]


class _Stretch:
    """Words of the critic while the policy drove: at ``steps`` [n], what it said."""

    def __init__(self, track: Track, span: tuple[int, int], every: int) -> None:
        start, end = span
        values = np.asarray(track.values[start:end], dtype=np.float64)
        at = judged(values, every)
        if any(t.start == end - 1 for t in track.takeovers) and len(at) and at[-1] != len(values) - 1:
            # The critic is asked when a human takes over, whether its turn has come or not.
            at = np.append(at, len(values) - 1)
            at = at[np.isfinite(values[at])]
        self.start = start
        self.steps, self.values = at + start, values[at]
        self._kept: tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None

    def firings(self, monitor: StagnationMonitor) -> list[int]:
        n = len(self.steps)
        full = self._full_windows(monitor)
        out: list[int] = []
        first, began = 0, self.start
        while first < n:
            ready = int(np.searchsorted(self.steps, began + monitor.grace))
            # From here on a whole window lies behind.
            whole = int(np.searchsorted(self.steps, self.steps[first] + monitor.window))
            found = self._early(monitor, first, whole, ready)
            if found is None:
                k = int(np.searchsorted(full, max(ready, whole)))
                if k == len(full):
                    break
                found = int(full[k])
            out.append(int(self.steps[found]))
            first, began = found + 1, out[-1] + 1
        return out

    def _early(self, monitor: StagnationMonitor, first: int, whole: int, ready: int) -> int | None:
        """Where it fires in [first, whole), in which only a rise counts."""
        if monitor.rise is None or ready >= whole:
            return None
        held = self.values[first:whole]
        hits = np.flatnonzero(held - np.minimum.accumulate(held) >= monitor.rise) + first
        hits = hits[hits >= ready]
        return int(hits[0]) if len(hits) else None

    def _full_windows(self, monitor: StagnationMonitor) -> np.ndarray:
        """Where it would fire with nothing but its window behind it; int64, rising."""
        if self._kept is None or self._kept[0] != monitor.window:
            # A grid asks for several margins of one window in turn.
            self._kept = (monitor.window, *self._windows(monitor.window))
        _, at, before, now, climbed = self._kept
        fires = (before > monitor.margin) & (before - now < monitor.margin)
        if monitor.rise is not None:
            fires |= climbed >= monitor.rise
        return at[fires]

    def _windows(self, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Where a whole window lies behind, the values at its start and at its end, and the end above its least."""
        begins = np.searchsorted(self.steps, self.steps - window, side="right") - 1
        at = np.flatnonzero(begins >= 0)
        begins = begins[at]
        now = self.values[at]
        return at, self.values[begins], now, now - self._least(begins, at)

    def _least(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The least of ``values[first..last]``, both inclusive."""
        level = np.log2(last - first + 1).astype(np.int64)
        out = np.empty(len(first))
        for k in np.unique(level).tolist():
            held, at = self._minima[k], level == k
            out[at] = np.minimum(held[first[at]], held[last[at] - (1 << k) + 1])
        return out

    @cached_property
    def _minima(self) -> list[np.ndarray]:
        """Least values of all ranges whose length is a power of two."""
        levels = [self.values]
        while 2 << (len(levels) - 1) <= len(self.values):
            below, half = levels[-1], 1 << (len(levels) - 1)
            levels.append(np.minimum(below[:-half], below[half:]))
        return levels
