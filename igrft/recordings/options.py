"""What a conversion is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """Settings of :func:`igrft.recordings.convert.convert`, as given."""

    fps: float | None = None
    task: str | None = None
    robot_type: str | None = None
    rebuild_timestamps: bool = False
    progress: bool = True
    mapping: str | None = None
    codec: str | None = None
    crf: int | None = None
    preset: str | None = None


@dataclass
class Warnings:
    """Collects warnings, each one line, and hands them on as they come."""

    hand_on: Callable[[str], None] | None = None
    said: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.said.append(line)
        if self.hand_on is not None:
            self.hand_on(line)


@dataclass
class Outcome:
    """A converted dataset that is not yet in its place.

    Attributes:
        dataset: its folder, inside the staging folder.
        kept: names of the source episodes in the order of their new indices.
        frames: rows in all.
        set_aside: reason by source episode.
        timestamps: by new index, the worst deviation of a timestamp from the frame rate, seconds.
        alignment: by new index, what is known of the streams that were aligned: rates, gaps, skew.
        rebuilt: whether the timestamps were rebuilt, so that the deviations are of what was recorded.
    """

    dataset: Path
    kept: list[str]
    frames: int
    set_aside: dict[str, str]
    timestamps: dict[int, float] = field(default_factory=dict)
    rebuilt: bool = False
    alignment: dict[str, Any] = field(default_factory=dict)


def listing(items: Sequence[object], limit: int = 8) -> str:
    """``"0, 1, 2"``, cut after ``limit`` with the number left out."""
    shown = ", ".join(str(i) for i in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
