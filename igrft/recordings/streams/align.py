"""Brings streams with clocks of their own to common rows, and says how far off each of them is.

Rows are the messages of one stream, the clock. A row's time is when that message was made; every other
stream is brought there by the nearest sample, by interpolation, or by holding the last value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from igrft.errors import EpisodeError, UsageError
from igrft.recordings.streams.model import Align

#: A frame rate that is off by more than this share is not the one asked for.
RATE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Clock:
    """Rows of an episode.

    Attributes:
        rows: int64 [T], the clock's sample of each row, ascending.
        times: float64 [T], seconds: when each row is.
        rate: the clock's own rate, samples a second, gaps left out.
        missing: rows that gaps swallowed.
        gaps: (row before it, seconds) of each gap of the clock.
    """

    rows: np.ndarray
    times: np.ndarray
    rate: float
    missing: int
    gaps: tuple[tuple[int, float], ...]


def measured_rate(times: np.ndarray) -> float:
    """Samples a second, float64 [n] seconds ascending: from the typical distance, so that gaps do not count.

    The mean of the distances that are near their median: the median alone is off where stamps jitter.
    """
    steps = np.diff(times)
    steps = steps[steps > 0]
    if not len(steps):
        return float("nan")
    middle = np.median(steps)
    return float(1 / steps[np.abs(steps - middle) <= middle / 2].mean())


def whole_rate(rate: float) -> int:
    """The whole frame rate next to a measured one.

    Raises:
        EpisodeError: none is near enough.
    """
    whole = round(rate) if np.isfinite(rate) else 0
    if whole < 1 or abs(rate - whole) > RATE_TOLERANCE * whole:
        raise EpisodeError(f"its clock runs at {rate:.2f} a second, which is near no whole frame rate; give --fps")
    return whole


def check_fps(fps: float) -> int:
    """``--fps`` as a whole number. Raises UsageError: it is none."""
    if fps != int(fps) or fps < 1:
        raise UsageError(f"LeRobot encodes videos at whole frame rates, and this is {fps:g}; give a whole --fps")
    return int(fps)


def rows_of(times: np.ndarray, fps: int, max_gap: float) -> Clock:
    """Rows at ``fps`` from the clock's stamps, float64 [n] seconds ascending.

    At the clock's own rate (to 2 %) every sample is a row. At a lower rate each row is the sample
    nearest to a regular grid from the first one on.

    Raises:
        EpisodeError: fewer than two samples, a clock slower than ``fps``, or a gap above ``max_gap`` seconds.
    """
    if len(times) < 2:
        raise EpisodeError(f"its clock has {len(times)} samples; an episode needs two")
    rate = measured_rate(times)
    if rate < fps * (1 - RATE_TOLERANCE):
        raise EpisodeError(f"its clock runs at {rate:.2f} a second where {fps} are asked for; give --fps {rate:.0f}")
    if rate <= fps * (1 + RATE_TOLERANCE):
        rows = np.arange(len(times))
        period = 1 / rate
    else:
        # The grid goes on behind a gap, so the rows before and after it stay where they were.
        grid = times[0] + np.arange(int((times[-1] - times[0]) * fps + 0.5) + 1) / fps
        rows = np.unique(nearest(times, grid))
        period = 1 / fps
    steps = np.diff(times[rows])
    large = np.flatnonzero(steps > 1.5 * period)
    gaps = tuple((int(i), float(steps[i])) for i in large)
    worst = max(gaps, key=lambda gap: gap[1], default=(0, 0.0))
    if worst[1] > max_gap:
        raise EpisodeError(f"its clock stops for {worst[1]:.2f} s after row {worst[0]}, above max_gap {max_gap:g} s")
    missing = int((np.rint(steps[large] / period) - 1).sum())
    return Clock(rows, times[rows], rate, missing, gaps)


def nearest(times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Index of the sample nearest to each time, int64 [T]; the earlier of two as near. Ascending where ``at`` is."""
    after = np.searchsorted(times, at).clip(1, max(len(times) - 1, 1))
    if len(times) == 1:
        return np.zeros(len(at), np.int64)
    before = after - 1
    return np.where(at - times[before] <= times[after] - at, before, after)


def resample(times: np.ndarray, values: np.ndarray, at: np.ndarray, align: Align) -> np.ndarray:
    """A stream's values at other times.

    Outside of the samples the first or the last one stands: nothing is extrapolated.

    Args:
        times: float64 [n], ascending. values: [n, width]. at: float64 [T].
        align: ``angle`` interpolates on the circle, in radians, the short way round; ``quaternion``
            interpolates on the sphere (slerp), four numbers at a time, in whichever order.

    Returns:
        [T, width], float64 where interpolated, else of the values' own type.

    Raises:
        EpisodeError: a quaternion of zeros, or numbers that are no quaternions.
    """
    if align == "nearest" or len(times) == 1:
        return values[nearest(times, at)]
    if align == "hold":
        return values[(np.searchsorted(times, at, side="right") - 1).clip(0)]
    after = np.searchsorted(times, at).clip(1, len(times) - 1)
    before = after - 1
    share = ((at - times[before]) / (times[after] - times[before])).clip(0, 1)[:, None]
    one, two = values[before].astype(np.float64), values[after].astype(np.float64)
    if align == "linear":
        return one + share * (two - one)
    if align == "angle":
        turned = one + share * _wrap(two - one)
        # Sensors that stay within a turn keep doing so; those that count turns go on counting.
        return _wrap(turned) if np.abs(values).max(initial=0) <= np.pi + 1e-6 else turned
    return _slerp(one, two, share)


def _wrap(angle: np.ndarray) -> np.ndarray:
    """To [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _slerp(one: np.ndarray, two: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Along the shorter great circle between unit quaternions: [T, 4 k]."""
    if one.shape[1] % 4:
        raise EpisodeError(f"{one.shape[1]} numbers are no quaternions, which have four each")
    shape = one.shape
    one, two = one.reshape(len(one), -1, 4), two.reshape(len(two), -1, 4)
    lengths = [np.linalg.norm(q, axis=-1, keepdims=True) for q in (one, two)]
    if min(length.min(initial=1) for length in lengths) < 1e-6:
        raise EpisodeError("a quaternion is all zeros")
    one, two = one / lengths[0], two / lengths[1]
    cosine = (one * two).sum(-1, keepdims=True)
    two = np.where(cosine < 0, -two, two)
    # By the half chord, which is exact for small angles where the arc cosine is not.
    angle = 2 * np.arctan2(
        np.linalg.norm(two - one, axis=-1, keepdims=True), np.linalg.norm(two + one, axis=-1, keepdims=True)
    )
    share = share[:, :, None]
    small = angle < 1e-7
    sine = np.sin(np.where(small, 1, angle))
    first = np.where(small, 1 - share, np.sin((1 - share) * angle) / sine)
    second = np.where(small, share, np.sin(share * angle) / sine)
    out = first * one + second * two
    return (out / np.linalg.norm(out, axis=-1, keepdims=True)).reshape(shape)


def skew(times: np.ndarray, at: np.ndarray, align: Align) -> np.ndarray:
    """Sample taken minus row, float64 [T] seconds; where interpolated, of the nearer of the two samples."""
    if align == "hold":
        return times[(np.searchsorted(times, at, side="right") - 1).clip(0)] - at
    return times[nearest(times, at)] - at


def common_span(
    spans: dict[str, tuple[float, float, float]], clock: np.ndarray, max_trim: float, end: float = np.inf
) -> slice:
    """Which of the clock's samples all streams cover.

    Args:
        spans: by stream: its first and last stamp and its period, seconds. Half a period beyond them counts as
            covered: no sample could be nearer.
        clock: float64 [n], seconds.
        end: where the episode ends, if a marker or idle time says so.

    Raises:
        EpisodeError: a stream begins more than ``max_trim`` seconds after the clock, or ends as much before it; or
            all others go on for longer than that after the clock's end.
    """
    low, high = clock[0], clock[-1]
    until = min([end, *(last for _, last, _ in spans.values())])
    if np.isfinite(until) and until - high > max_trim:
        raise EpisodeError(
            f"its clock stops {until - high:.2f} s before all other streams, above max_trim {max_trim:g} s"
        )
    for name, (first, last, period) in spans.items():
        if first - clock[0] > max_trim:
            raise EpisodeError(f"{name} begins {first - clock[0]:.2f} s after the clock, above max_trim {max_trim:g} s")
        if clock[-1] - last > max_trim:
            raise EpisodeError(f"{name} stops {clock[-1] - last:.2f} s before the clock, above max_trim {max_trim:g} s")
        low, high = max(low, first - period / 2), min(high, last + period / 2)
    return slice(int(np.searchsorted(clock, low)), int(np.searchsorted(clock, high, side="right")))


def ascending(times: np.ndarray, what: str) -> np.ndarray:
    """Which samples to keep so that stamps ascend, bool [n].

    A sample stamped no later than one before it is left out where it is late by no more than a period.

    Args:
        times: float64 [n], in the order of the file. what: the stream, for the message.

    Raises:
        EpisodeError: the clock jumps back by more than that, or stamps are not finite.
    """
    if not np.isfinite(times).all():
        raise EpisodeError(f"{what} holds a stamp that is no time at sample {np.flatnonzero(~np.isfinite(times))[0]}")
    if len(times) < 2:
        return np.ones(len(times), bool)
    latest = np.maximum.accumulate(times)
    back = np.append(0.0, latest[:-1] - times[1:])
    steps = np.diff(times)
    period = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    worst = int(back.argmax())
    if back[worst] > period:
        raise EpisodeError(f"the clock of {what} jumps back by {back[worst]:.3f} s at sample {worst}")
    return np.append(True, times[1:] > latest[:-1])
