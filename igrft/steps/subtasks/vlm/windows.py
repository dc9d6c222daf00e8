"""Which frames of an episode the model sees, and in which windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Segments as the model gave them, in seconds: (name, start, end, done).
Span = tuple[str, float, float, bool]


@dataclass(frozen=True)
class Window:
    """One question about an episode: seconds [start, end) of it, and the frames that show them."""

    number: int
    count: int
    start: float
    end: float
    frames: tuple[int, ...]

    @property
    def last(self) -> bool:
        return self.number == self.count - 1


def windows_of(length: int, fps: float, *, rate: float, longest: float, overlap: float) -> list[Window]:
    """Windows of equal length that cover an episode of ``length`` frames.

    Args:
        rate: frames a second that are shown.
        longest: seconds of a window at most.
        overlap: seconds that neighbours share.

    Returns:
        In order; the last shows the episode's last frame, by which success is judged.
    """
    duration = length / fps
    count = 1 if duration <= longest else math.ceil((duration - overlap) / (longest - overlap) - 1e-9)
    each = (duration + (count - 1) * overlap) / count
    found = []
    for number in range(count):
        start = number * (each - overlap) if number else 0.0
        end = duration if number == count - 1 else start + each
        found.append(Window(number, count, start, end, sampled(start, end, length, fps, rate)))
    return found


def sampled(start: float, end: float, length: int, fps: float, rate: float) -> tuple[int, ...]:
    """Frames shown of the seconds [start, end): on the grid of ``rate``, with the episode's last frame."""
    rate = min(rate, fps)
    first, past = math.ceil(start * rate - 1e-9), math.ceil(end * rate - 1e-9)
    frames = [min(round(k / rate * fps), length - 1) for k in range(first, past)]
    if end >= length / fps - 1e-9:
        frames.append(length - 1)
    return tuple(sorted(set(frames)))


def join_windows(windows: list[Window], spans: list[list[Span]], shortest: float) -> list[Span]:
    """Put together what was said of overlapping windows.

    Each pair is cut where both say the same, as near to the middle of their overlap as can be: a boundary in the
    overlap, which both saw a little differently, is then taken from one of them. What a cut leaves shorter than
    ``shortest`` goes to what comes before it.

    Args:
        spans: of each window, covering it, in order of time.
        shortest: seconds.

    Returns:
        Spans that cover the episode.
    """
    joined = list(spans[0])
    for before, window, later in zip(windows, windows[1:], spans[1:], strict=False):
        cut = _cut(joined, later, window.start, before.end)
        joined = _clip(joined, joined[0][1], cut) + _clip(later, cut, window.end)
        joined = _without_slivers(joined, cut, shortest)
    return joined


def _cut(earlier: list[Span], later: list[Span], low: float, high: float) -> float:
    middle = (low + high) / 2
    edges = [start for spans in (earlier, later) for _, start, _, _ in spans if low <= start <= high]

    def agreed(at: float) -> bool:
        # At an edge it is enough that they agree on one of its sides: the edge is then taken from one of them.
        return any(_name_at(earlier, t) == _name_at(later, t) for t in (at - 1e-6, at + 1e-6))

    return min(filter(agreed, (middle, *edges)), key=lambda t: abs(t - middle), default=middle)


def _name_at(spans: list[Span], at: float) -> str:
    return next((name for name, start, end, _ in spans if start <= at < end), spans[-1][0])


def _clip(spans: list[Span], low: float, high: float) -> list[Span]:
    inside = [(name, max(start, low), min(end, high), done) for name, start, end, done in spans]
    return [s for s in inside if s[2] - s[1] > 1e-9]


def _without_slivers(spans: list[Span], cut: float, shortest: float) -> list[Span]:
    """Join what the cut parted, and drop what it left too short."""
    out: list[Span] = []
    for name, start, end, done in spans:
        touches = abs(start - cut) < 1e-6 or abs(end - cut) < 1e-6
        if out and abs(start - cut) < 1e-6 and out[-1][0] == name:
            out[-1] = (name, out[-1][1], end, done)
        elif out and touches and end - start < shortest - 1e-6:
            out[-1] = (*out[-1][:2], end, out[-1][3])
        else:
            out.append((name, start, end, done))
    if len(out) > 1 and abs(out[0][2] - cut) < 1e-6 and out[0][2] - out[0][1] < shortest - 1e-6:
        out[1] = (out[1][0], out[0][1], *out[1][2:])
        del out[0]
    return out
