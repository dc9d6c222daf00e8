"""``convert --dry-run``: what was found and how it would map. Everything is aligned; no picture is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from igrft.errors import EpisodeError
from igrft.recordings.options import Options
from igrft.recordings.streams.convert import frame_rate, given, nothing_left
from igrft.recordings.streams.model import Mapping, Recording, Streams
from igrft.recordings.streams.plan import Plan, plan
from igrft.recordings.streams.split import windows


@dataclass
class DryRun:
    """Lines for people, and why episodes would be set aside."""

    lines: list[str] = field(default_factory=list)
    set_aside: dict[str, str] = field(default_factory=dict)
    episodes: int = 0
    frames: int = 0


def look(recordings: Sequence[Recording], mapping: Mapping, options: Options, warn: Callable[[str], None]) -> DryRun:
    """Align every episode and describe what came of it.

    Raises:
        UsageError: a frame rate that cannot be encoded. IgrftError: nothing can be converted.
    """
    mapping = given(mapping, options)
    fps = frame_rate(recordings, mapping, warn)
    out = DryRun()
    worst: dict[str, float] = {}
    for recording in recordings:
        try:
            with recording.open() as streams:
                for number, window in enumerate(windows(streams, mapping.episodes)):
                    name = recording.name if mapping.episodes.by == "file" else f"{recording.name}#{number}"
                    try:
                        found = plan(streams, recording, mapping, fps, window)
                    except EpisodeError as error:
                        out.set_aside[name] = str(error)
                        continue
                    if not out.episodes:
                        out.lines += _features(streams, mapping, found)
                    out.lines.append(_episode(name, found, fps))
                    for stream, facts in found.facts["skew"].items():
                        worst[stream] = max(worst.get(stream, 0.0), facts["max"])
                    out.episodes += 1
                    out.frames += found.length
        except EpisodeError as error:
            out.set_aside[recording.name] = str(error)
    if not out.episodes:
        raise nothing_left(out.set_aside)
    out.lines += [f"worst skew of {stream}: {seconds * 1000:.1f} ms" for stream, seconds in worst.items()]
    out.lines.append(f"{out.episodes} episodes, {out.frames} frames at {fps} a second; nothing was written")
    return out


def topics(recording: Recording) -> list[str]:
    """What a recording holds, where no mapping says what becomes of it.

    Raises:
        EpisodeError: not readable.
    """
    with recording.open() as streams:
        return [f"{name}: {what}" for name, what in streams.available().items()]


def _features(streams: Streams, mapping: Mapping, found: Plan) -> list[str]:
    """Which stream becomes which feature, and which become none."""
    lines: list[str] = []
    used: set[str] = set()
    for feature in mapping.features:
        if feature.next_of:
            lines.append(f"{feature.name} <- {feature.next_of} of the next row")
        for part in feature.parts:
            stream = streams.find(part)
            if stream is None:
                lines.append(f"{feature.name} <- nothing (there is no {' or '.join(part.streams)})")
                continue
            used.add(stream)
            label = f"{stream}.{part.field}" if part.field else stream
            facts: dict[str, Any] = found.facts["skew"][label]
            rate = f", {facts['rate']:.1f} a second" if facts["rate"] else ""
            clock = ", the clock" if label == found.facts["clock"] else ""
            lines.append(f"{feature.name} <- {label} ({facts['align']}{rate}{clock})")
    for name, values in found.columns.items():
        lines.append(f"{name}: {values.shape[1]} numbers: {', '.join(found.names[name])}")
    extra = [part for part in (mapping.episodes.part, mapping.success.part) if part is not None]
    used |= {str(streams.find(part)) for part in extra}
    left = [name for name in streams.available() if name not in used]
    return lines + ([f"not mapped: {', '.join(left)}"] if left else [])


def _episode(name: str, found: Plan, fps: int) -> str:
    facts = found.facts
    parts = [f"{name}: {found.length} rows, {found.length / fps:.1f} s, clock at {facts['rate']:.2f} a second"]
    if facts.get("dropped"):
        parts.append(f"{facts['dropped']} dropped")
    if facts.get("trimmed"):
        parts.append(f"{sum(facts['trimmed'])} outside of other streams")
    if found.success is not None:
        parts.append("success" if found.success else "failure")
    return ", ".join(parts)
