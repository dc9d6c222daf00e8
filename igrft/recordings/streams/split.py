"""Cuts a recording into episodes: by a marker that somebody set, or where nothing moved for a while."""

from __future__ import annotations

import numpy as np

from igrft.errors import EpisodeError
from igrft.recordings.streams.model import Splitting, Streams

Window = tuple[float, float]


def windows(streams: Streams, splitting: Splitting) -> list[Window]:
    """Episodes of a recording as (begin, end) in seconds, both inside; one that is all for ``by: file``.

    Raises:
        EpisodeError: the stream that says is not there, or no episode is long enough.
    """
    if splitting.by == "file" or splitting.part is None:
        return [(-np.inf, np.inf)]
    found = streams.numbers(splitting.part)
    values = found.values if splitting.part.select is None else found.values[:, list(splitting.part.select)]
    if splitting.by == "marker":
        cut = by_marker(found.times, values[:, 0], splitting.start, splitting.stop)
    else:
        cut = by_idle(found.times, values, splitting.seconds, splitting.tolerance)
    long = [(begin, end) for begin, end in cut if end - begin >= splitting.shortest]
    if not long:
        raise EpisodeError(
            f"{streams.find(splitting.part)} marks no episode of at least {splitting.shortest:g} s (found {len(cut)})"
        )
    return long


def by_marker(times: np.ndarray, values: np.ndarray, start: float, stop: float | None) -> list[Window]:
    """From every ``start`` to the next ``stop``; or, with ``stop`` None, as long as the value is ``start``.

    A start without a stop lasts until the end; a second start before a stop discards the first.

    Args:
        times: float64 [n], seconds. values: [n].
    """
    out: list[Window] = []
    begin: float | None = None
    for time, value in zip(times.tolist(), values.tolist(), strict=True):
        if value == start and (begin is None or stop is not None):
            begin = time
        elif begin is not None and (value != start if stop is None else value == stop):
            out.append((begin, time))
            begin = None
    if begin is not None:
        out.append((begin, np.inf))
    return out


def by_idle(times: np.ndarray, values: np.ndarray, seconds: float, tolerance: float) -> list[Window]:
    """What lies between times at which nothing moves for ``seconds`` or more.

    A sample moves where one of its numbers changes faster than ``tolerance`` a second.

    Args:
        times: float64 [n], seconds. values: [n, width].
    """
    if len(times) < 2:
        return []
    speed = np.abs(np.diff(values.astype(np.float64), axis=0)).max(axis=1) / np.diff(times)
    moves = np.flatnonzero(speed > tolerance)
    if not len(moves):
        return []
    # A movement between samples i and i + 1 lasts from the one to the other.
    cut = np.flatnonzero(times[moves[1:]] - times[moves[:-1] + 1] >= seconds)
    first = np.append(moves[0], moves[cut + 1])
    last = np.append(moves[cut], moves[-1]) + 1
    return [(float(times[a]), float(times[b])) for a, b in zip(first, last, strict=True)]
