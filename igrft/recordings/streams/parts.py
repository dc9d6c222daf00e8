"""Finished episodes of a conversion on disk: what a run that was cut off need not do again.

Every episode is a folder with its numbers (``numbers.npz``), a video for each camera and ``part.json``; the
folder appears under its name when it is whole. LeRobot's writer then puts them together.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igrft import __version__
from igrft.dataset.parquet import write_json
from igrft.recordings.statistics import as_json

_PART, _NUMBERS, _DONE = "part.json", "numbers.npz", "done.json"


@dataclass(frozen=True)
class Episode:
    """An episode that is aligned and encoded.

    Attributes:
        name: of the source episode. length: rows.
        widths: numbers a row, by feature. names: of the numbers, by feature.
        cameras: height and width in pixels, by feature.
        statistics: of each camera. facts: for ``meta/igrft.json``.
        kept: what the videos are that were not encoded again, by camera.
    """

    folder: Path
    name: str
    length: int
    widths: dict[str, int]
    names: dict[str, list[str]]
    cameras: dict[str, tuple[int, int]]
    statistics: dict[str, dict[str, Any]]
    kept: dict[str, str]
    success: bool | None
    task: str | None
    facts: dict[str, Any]

    @property
    def layout(self) -> str:
        """What must be the same in all episodes of a dataset, in words."""
        parts = [f"{name} of {width}" for name, width in sorted(self.widths.items())]
        return ", ".join(parts + [f"{name} {w}x{h}" for name, (h, w) in sorted(self.cameras.items())])

    def numbers(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Columns, float32 [T, width] by feature, and skew, float32 [T] seconds by stream."""
        with np.load(self.folder / _NUMBERS, allow_pickle=False) as stored:
            columns = {k.removeprefix("column "): stored[k] for k in stored.files if k.startswith("column ")}
            return columns, {k.removeprefix("skew "): stored[k] for k in stored.files if k.startswith("skew ")}

    def video(self, camera: str) -> Path:
        return self.folder / f"{camera}.mp4"


@dataclass(frozen=True)
class RecordingParts:
    """The folder of one recording, named by what the result depends on."""

    folder: Path

    def done(self) -> tuple[list[Episode], dict[str, str]] | None:
        """Episodes and set-aside reasons, where an earlier run came to the recording's end."""
        if not (self.folder / _DONE).is_file():
            return None
        told = json.loads((self.folder / _DONE).read_text())
        return [_read(self.folder / name) for name in told["parts"]], told["set_aside"]

    def finish(self, parts: list[Episode], set_aside: dict[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _DONE, {"parts": [p.folder.name for p in parts], "set_aside": set_aside})

    def episode(self, number: int, make: Callable[[Path], dict[str, Any]]) -> Episode:
        """Episode ``number`` of the recording: as an earlier run left it, else made now.

        Args:
            make: fills a folder and returns :class:`Episode`'s values but for the folder.
        """
        folder = self.folder / f"{number:06d}"
        if not (folder / _PART).is_file():
            unfinished = self.folder / f"{number:06d}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write_json(unfinished / _PART, make(unfinished))
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        return _read(folder)


def recording_parts(folder: Path, name: str, depends_on: str) -> RecordingParts:
    """Where the parts of a recording are kept, under a name made of all that the result depends on."""
    digest = hashlib.sha256(f"{__version__}\n{name}\n{depends_on}".encode()).hexdigest()[:24]
    return RecordingParts(folder / digest)


def write_numbers(folder: Path, columns: dict[str, np.ndarray], skew: dict[str, np.ndarray]) -> None:
    """Write what :meth:`Episode.numbers` reads."""
    named: dict[str, Any] = {f"column {k}": v for k, v in columns.items()}
    named |= {f"skew {k}": v for k, v in skew.items()}
    np.savez(folder / _NUMBERS, **named)


def statistics_json(statistics: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """For ``part.json``."""
    return as_json(statistics)


def _read(folder: Path) -> Episode:
    told = json.loads((folder / _PART).read_text())
    told["cameras"] = {name: (int(h), int(w)) for name, (h, w) in told["cameras"].items()}
    return Episode(folder=folder, **told)
