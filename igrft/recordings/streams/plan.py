"""Aligns an episode: which picture and which numbers belong to each row, and how far off they are."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from igrft.errors import EpisodeError
from igrft.recordings.streams import align as a
from igrft.recordings.streams.model import Feature, Mapping, Numbers, Part, Pictures, Recording, Streams
from igrft.recordings.streams.split import Window


@dataclass
class Plan:
    """One episode, aligned; pictures are not read yet.

    Attributes:
        length: rows T.
        columns: float32 [T, width] by feature. names: of the numbers, by feature.
        cameras: which picture each row shows, by feature: the camera and int64 [T].
        skew: sample minus row in seconds, float32 [T], by stream.
        facts: what goes into ``meta/igrft.json``.
    """

    length: int
    columns: dict[str, np.ndarray]
    names: dict[str, list[str]]
    cameras: dict[str, tuple[Pictures, np.ndarray]]
    skew: dict[str, np.ndarray]
    success: bool | None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Stream:
    """A stream of the episode's window."""

    name: str
    feature: Feature
    part: Part
    times: np.ndarray
    source: Numbers | Pictures
    first: int


def clock_times(streams: Streams, mapping: Mapping) -> np.ndarray:
    """Stamps of the clock, float64 [n] seconds.

    Raises:
        EpisodeError: it is not there.
    """
    feature = mapping.clock_feature
    part = next((p for p in feature.parts if streams.find(p) is not None), feature.parts[0])
    return (streams.pictures(part) if feature.picture else streams.numbers(part)).times


def plan(streams: Streams, recording: Recording, mapping: Mapping, fps: int, window: Window) -> Plan:
    """Align the part of a recording that lies in ``window`` (begin and end, seconds).

    Raises:
        EpisodeError: a stream is missing, too far off, begins late or stops early; NaN; gaps.
    """
    found = list(_streams(streams, mapping, window))
    clock_feature = mapping.clock_feature.name
    clock = next((s for s in found if s.feature.name == clock_feature), None)
    if clock is None:
        raise EpisodeError(f"it has nothing of the clock, {clock_feature}")
    for stream in found:
        if not len(stream.times):
            raise EpisodeError(f"{stream.name} has no sample in this episode")
    # What is sent on change only holds until the end, and is not known before its first value.
    spans = {
        s.name: (s.times[0], np.inf, 0.0) if s.part.align == "hold" else (s.times[0], s.times[-1], _period(s.times))
        for s in found
        if s is not clock
    }
    covered = a.common_span(spans, clock.times, mapping.max_trim, window[1])
    rows = a.rows_of(clock.times[covered], fps, mapping.max_gap)
    out = Plan(len(rows.rows), {}, {}, {}, {}, None)
    parts: dict[str, list[tuple[np.ndarray, list[str]]]] = {}
    for stream in found:
        off = a.skew(stream.times, rows.times, stream.part.align)
        worst = int(np.abs(off).argmax())
        if stream.part.align != "hold" and abs(off[worst]) > mapping.max_skew:
            raise EpisodeError(
                f"{stream.name} is {abs(off[worst]):.3f} s away from row {worst}, above max_skew {mapping.max_skew:g} s"
            )
        out.skew[stream.name] = off.astype(np.float32)
        if stream.feature.picture:
            pictures: Any = stream.source
            out.cameras[stream.feature.name] = (pictures, stream.first + a.nearest(stream.times, rows.times))
        else:
            parts.setdefault(stream.feature.name, []).append(_aligned(stream, rows.times))
    for name, aligned in parts.items():
        out.columns[name] = np.concatenate([values for values, _ in aligned], axis=1).astype(np.float32)
        out.names[name] = _unique([n for _, names in aligned for n in names])
    for feature in mapping.features:
        if feature.next_of in out.columns:
            now = out.columns[feature.next_of]
            out.columns[feature.name] = np.concatenate([now[1:], now[-1:]])
            out.names[feature.name] = out.names[feature.next_of]
    out.success = _success(streams, recording, mapping, rows.times)
    out.facts = _facts(found, clock, covered, rows, fps, out)
    return out


def _streams(streams: Streams, mapping: Mapping, window: Window) -> Any:
    """Every stream that the mapping names and the recording has, cut to the window.

    Only the clock ends where the window does: of the others, what lies just outside may be the nearest.
    """
    clock = mapping.clock_feature.name
    for feature in mapping.features:
        for part in feature.parts:
            name = streams.find(part)
            if name is None and part.optional:
                continue
            source: Any = streams.pictures(part) if feature.picture else streams.numbers(part)
            margin = 0.0 if feature.name == clock else mapping.max_trim
            begin = -np.inf if part.align == "hold" and margin else window[0] - margin
            first, last = (
                np.searchsorted(source.times, begin),
                np.searchsorted(source.times, window[1] + margin, "right"),
            )
            label = name if not part.field else f"{name}.{part.field}"
            yield _Stream(str(label), feature, part, source.times[first:last], source, int(first))


def _aligned(stream: _Stream, at: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """A part's numbers at the rows' times, [T, width], and their names."""
    numbers: Any = stream.source
    values = numbers.values[stream.first : stream.first + len(stream.times)]
    names = list(numbers.names) or [str(i) for i in range(values.shape[1])]
    if not numbers.names:
        base = stream.part.streams[0].strip("/").replace("/", "_")
        names = [f"{base}_{i}" for i in range(values.shape[1])]
    if stream.part.select is not None:
        if max(stream.part.select) >= values.shape[1]:
            raise EpisodeError(
                f"{stream.name} has {values.shape[1]} numbers, and {max(stream.part.select)} is selected"
            )
        values, names = values[:, list(stream.part.select)], [names[i] for i in stream.part.select]
    if stream.part.names:
        if len(stream.part.names) != values.shape[1]:
            raise EpisodeError(f"{stream.name} has {values.shape[1]} numbers and {len(stream.part.names)} names")
        names = list(stream.part.names)
    bad = np.flatnonzero(~np.isfinite(values.astype(np.float64)).all(axis=1))
    if len(bad):
        raise EpisodeError(f"{stream.name} holds NaN or infinity at sample {stream.first + bad[0]}")
    try:
        return a.resample(stream.times, values, at, stream.part.align), names
    except EpisodeError as error:
        raise EpisodeError(f"{stream.name}: {error}") from None


def _unique(names: list[str]) -> list[str]:
    """Joints of two arms are often called alike: those are numbered by their place."""
    return [n if names.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(names)]


def _period(times: np.ndarray) -> float:
    rate = a.measured_rate(times)
    return 1 / rate if np.isfinite(rate) else 0.0


def _success(streams: Streams, recording: Recording, mapping: Mapping, times: np.ndarray) -> bool | None:
    rule = mapping.success
    if rule.part is not None:
        found = streams.numbers(rule.part)
        # A button pressed at the end comes a little after the last row.
        inside = found.values[(found.times >= times[0]) & (found.times <= times[-1] + mapping.max_trim)]
        return bool(len(inside)) and bool(np.any(inside[-1] != 0))
    if rule.pattern is not None:
        return re.search(rule.pattern, recording.file) is not None
    if rule.table is not None:
        for name in (recording.name, recording.file, recording.file.rpartition(".")[0]):
            if name in rule.table:
                return rule.table[name]
        raise EpisodeError(f"success.table does not say whether {recording.name} succeeded")
    return recording.facts().success


def _facts(found: list[_Stream], clock: _Stream, covered: slice, rows: a.Clock, fps: int, out: Plan) -> dict[str, Any]:
    """JSON facts: rates, gaps, skew statistics. Seconds and samples a second."""
    facts: dict[str, Any] = {"clock": clock.name, "rate": round(rows.rate, 4)}
    if rows.gaps:
        facts["gaps"] = [[row, round(seconds, 4)] for row, seconds in rows.gaps[:100]]
        facts["dropped"] = rows.missing
    trimmed = [covered.start, len(clock.times) - covered.stop]
    if any(trimmed):
        facts["trimmed"] = trimmed
    late = {s.name: s.source.late for s in found if s.source.late}
    if late:
        facts["late"] = late
    facts["skew"] = {}
    for stream in found:
        off = np.abs(out.skew[stream.name]).astype(np.float64)
        facts["skew"][stream.name] = {
            "align": "nearest" if stream.feature.picture else stream.part.align,
            "rate": round(a.measured_rate(stream.times), 4) if len(stream.times) > 1 else None,
            "mean": round(float(off.mean()), 6),
            "p95": round(float(np.quantile(off, 0.95)), 6),
            "max": round(float(off.max()), 6),
            "over_half_a_row": 0 if stream.part.align == "hold" else int((off > 0.5 / fps + 1e-9).sum()),
        }
    return facts
