"""Segments: the ordered subtasks of one episode, and what makes them sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from igrft.errors import EpisodeError


@dataclass(frozen=True)
class Segment:
    """One subtask of an episode: frames [start, end); ``done`` is None until success is known.

    start = end = T with ``done`` false is a subtask that was listed and never begun.
    """

    name: str
    start: int
    end: int
    done: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "start": self.start, "end": self.end, "done": bool(self.done)}


def parse_segments(entries: Any, where: str) -> list[Segment]:
    """Read the ``subtasks`` list of a subtask file.

    Raises:
        EpisodeError: anything that is not a list of {name, start, end[, done]}.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise EpisodeError(f"{where}: 'subtasks' must be a list of at least one {{name, start, end}}")
    segments = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise EpisodeError(f"{where}: subtask {i} must be an object with name, start and end, got {entry!r}")
        unknown = set(entry) - {"name", "start", "end", "done", "weight"}
        if unknown:
            raise EpisodeError(f"{where}: subtask {i} has an unknown key {sorted(unknown)[0]!r}")
        name, start, end, done = (entry.get(k) for k in ("name", "start", "end", "done"))
        if not isinstance(name, str) or not name.strip():
            raise EpisodeError(f"{where}: subtask {i} needs a name")
        for key, value in (("start", start), ("end", end)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise EpisodeError(
                    f"{where}: subtask {i} ({name!r}) needs a whole frame number as {key!r}, got {value!r}"
                )
        if done is not None and not isinstance(done, bool):
            raise EpisodeError(f"{where}: subtask {i} ({name!r}): 'done' must be true or false, got {done!r}")
        segments.append(Segment(name.strip(), start, end, done))  # type: ignore[arg-type]
    return segments


def check_cover(segments: Sequence[Segment], length: int, where: str) -> None:
    """Segments must stand in order and cover [0, length) without gap or overlap.

    Raises:
        EpisodeError: naming the segment and the frame.
    """
    at = 0
    for s in segments:
        if s.start == s.end == length:
            if s.done:
                raise EpisodeError(f"{where}: {s.name!r} has no frame ({s.start} to {s.end}) and cannot be done")
            continue
        if s.end <= s.start:
            raise EpisodeError(f"{where}: {s.name!r} ends at frame {s.end}, not after its start {s.start}")
        if s.end > length:
            raise EpisodeError(f"{where}: {s.name!r} ends at frame {s.end}, but the episode has {length} frames")
        if s.start < at:
            raise EpisodeError(f"{where}: {s.name!r} starts at frame {s.start} and overlaps what ends at {at}")
        if s.start > at:
            raise EpisodeError(f"{where}: frames {at} to {s.start} before {s.name!r} belong to no subtask")
        at = s.end
    if at != length:
        raise EpisodeError(f"{where}: the subtasks end at frame {at}, but the episode has {length} frames")


def settle(segments: Sequence[Segment], success: bool, where: str) -> list[Segment]:
    """Fill in ``done``: true in a success; in a failure the last segment begun defaults to false.

    A repeated name is paid once: of its done segments only the last stays done.

    Raises:
        EpisodeError: a success with a subtask that is not done, other than a repeat.
    """
    begun = [i for i, s in enumerate(segments) if s.end > s.start]
    last = begun[-1] if begun else -1
    settled = []
    for i, s in enumerate(segments):
        default = s.end > s.start and (success or i != last)
        settled.append(replace(s, done=default if s.done is None else s.done))
    last_done = {s.name: i for i, s in enumerate(settled) if s.done}
    if success:
        for s in settled:
            if s.name not in last_done:
                raise EpisodeError(f"{where}: {s.name!r} is not done in a success; correct either of the two")
    return [replace(s, done=bool(s.done) and last_done[s.name] == i) for i, s in enumerate(settled)]
