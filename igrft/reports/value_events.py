"""Where the critic's value does what the reference does not: the shaded stretches of the paper's Figure 7.

The reference return-to-go never rises while nothing is earned, and falls where something is. The paper
marks the value's abnormal rises by eye, as actions that made the task harder; the rule below is ours.
"""

from __future__ import annotations

import numpy as np

RISE = "rise"
DIP = "dip"
#: A dip is narrowed down to the shortest stretch that holds this share of it.
_CORE = 0.8
#: Seconds that both series are averaged over.
SMOOTHING = 0.3


def value_events(
    predicted: np.ndarray,
    reference: np.ndarray,
    fps: float,
    *,
    threshold: float = 0.08,
    smoothing: float = SMOOTHING,
    within: float = 3.0,
    tolerance: float = 0.5,
) -> list[tuple[int, int, str]]:
    """Unexpected rises and dips of a predicted value, in order of time (ours).

    Both series are averaged over ``smoothing`` seconds first, so that noise of single frames is no event.
    A rise is a climb of the prediction, from a low to the next high, by more than ``threshold`` beyond
    what the reference itself climbs on the way: the task got harder. A dip is a fall of the prediction
    within ``within`` seconds by more than ``threshold`` beyond what the reference falls in that time and
    ``tolerance`` seconds before and after it (a subtask that the critic sees end a little early or late is
    no dip): progress was seen that was not earned. What only takes back a rise is no dip.

    Args:
        predicted, reference: float [T], in returns of an episode: 1 is a whole success.
        fps: frames a second.
        threshold: in the same unit; a subtask of an episode of five is worth 0.12.

    Returns:
        (start, end, kind): frames, ``end`` exclusive; kind is ``rise`` or ``dip``. A rise is highest at its last
        frame; a dip is the shortest stretch that holds most of the fall. Empty where a value is NaN, as in an
        episode set aside.

    Raises:
        ValueError: shapes that differ.
    """
    p, r = np.asarray(predicted, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if p.shape != r.shape or p.ndim != 1:
        raise ValueError(f"predicted and reference must both be [T], got {p.shape} and {r.shape}")
    if len(p) < 2 or not (np.isfinite(p).all() and np.isfinite(r).all()):
        return []
    p, r = smoothed(p, smoothing * fps), smoothed(r, smoothing * fps)
    rises = _rises(p, r, threshold)
    dips = _dips(_without(p, r, rises), r, threshold, max(1, round(within * fps)), round(tolerance * fps))
    return sorted([(a, b, RISE) for a, b in rises] + [(a, b, DIP) for a, b in dips])


def smoothed(values: np.ndarray, frames: float) -> np.ndarray:
    """Centred mean over an odd number of frames, about ``frames``; at the ends over those that there are. [T]."""
    half = min(max(0, round((frames - 1) / 2)), len(values) - 1)
    if half == 0:
        return values
    # Not by differences of a running sum: equal frames must stay equal.
    window = np.ones(2 * half + 1)
    return _centred(values, window, half) / _centred(np.ones(len(values)), window, half)


def _centred(values: np.ndarray, window: np.ndarray, half: int) -> np.ndarray:
    return np.convolve(values, window, mode="full")[half : half + len(values)]


def size(predicted: np.ndarray, reference: np.ndarray, fps: float, event: tuple[int, int, str]) -> float:
    """How far the averaged prediction moved against the reference over an event: negative for a dip.

    Args:
        predicted, reference, fps: as they were given to :func:`value_events`, with its ``smoothing``.
    """
    first, last = event[0], event[1] - 1
    p, r = smoothed(predicted, SMOOTHING * fps), smoothed(reference, SMOOTHING * fps)
    moved, expected = float(p[last] - p[first]), float(r[last] - r[first])
    return moved - max(expected, 0.0) if event[2] == RISE else moved - min(expected, 0.0)


def _rises(p: np.ndarray, r: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Climbs from a low to the next high; a climb ends where the value has fallen by the threshold again."""
    # What the reference itself climbs is expected.
    u = p - np.concatenate([[0.0], np.cumsum(np.maximum(np.diff(r), 0.0))])
    found = []
    low = high = 0
    climbing = False
    for i, value in enumerate(u.tolist()):
        if climbing:
            if value > u[high]:
                high = i
            elif u[high] - value > threshold:
                found.append((low, high + 1))
                low, climbing = i, False
        elif value <= u[low]:
            low = i
        elif value - u[low] > threshold:
            high, climbing = i, True
    return [*found, (low, high + 1)] if climbing else found


def _without(p: np.ndarray, r: np.ndarray, rises: list[tuple[int, int]]) -> np.ndarray:
    """The prediction with each rise cut off: from its foot it follows the reference until it has come down to it."""
    out = p.copy()
    for start, _ in rises:
        expected = out[start] - np.maximum(r[start] - r[start:], 0.0)
        lower = np.flatnonzero(out[start:] < expected)
        stop = int(lower[0]) if len(lower) else len(expected)
        out[start : start + stop] = expected[:stop]
    return out


def _dips(p: np.ndarray, r: np.ndarray, threshold: float, window: int, slack: int) -> list[tuple[int, int]]:
    """Falls within ``window`` frames that the reference does not explain within ``slack`` frames more on each side."""
    flagged = np.flatnonzero(_excess(p, r, window, slack) > threshold)
    # Windows that overlap are one dip: it lies where it is steepest.
    groups = np.split(flagged, np.flatnonzero(np.diff(flagged) > window) + 1) if len(flagged) else []
    return [_steepest(p, r, int(g[0]), int(g[-1]), window, slack) for g in groups]


def _excess(p: np.ndarray, r: np.ndarray, window: int, slack: int) -> np.ndarray:
    """By how much the prediction falls beyond the reference from each frame to ``window`` frames later. [T]"""
    last = len(p) - 1
    at = np.arange(len(p))
    end = np.minimum(at + window, last)
    before, after = np.maximum(at - slack, 0), np.minimum(end + slack, last)
    return (p - p[end]) - np.maximum(r[before] - r[after], 0.0)


def _steepest(p: np.ndarray, r: np.ndarray, first: int, last: int, window: int, slack: int) -> tuple[int, int]:
    """Of the windows that begin in [first, last + window], the shortest that holds most of the largest fall."""
    span = slice(first, last + window + 1)
    falls = np.stack([_excess(p, r, width, slack)[span] for width in range(1, window + 1)])
    width = int(np.argmax(falls.max(axis=1) >= _CORE * falls.max()))
    start = first + int(np.argmax(falls[width]))
    return start, min(start + width + 1, len(p) - 1) + 1
