"""Reads the metadata of a LeRobot v2.0 or v2.1 dataset, and finds its files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from igrft.dataset.files import INFO, read_json
from igrft.errors import IgrftError

EPISODES = "meta/episodes.jsonl"
EPISODES_STATS = "meta/episodes_stats.jsonl"
TASKS = "meta/tasks.jsonl"
STATS = "meta/stats.json"

_EPISODE_FILE = re.compile(r"episode_(\d+)$")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file; the error names file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise IgrftError(f"{path} is missing; restore it from where the dataset came from") from None
    except UnicodeDecodeError:
        raise IgrftError(f"{path} is not text; restore it from where the dataset came from") from None
    out = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise IgrftError(f"{path}, line {number}, is not valid JSON ({error}); repair or restore it") from None
        if not isinstance(entry, dict):
            raise IgrftError(f"{path}, line {number}, is not a JSON object; repair or restore it")
        out.append(entry)
    return out


def write_jsonl(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n" for entry in entries)


@dataclass(frozen=True)
class SourceEpisode:
    """One line of ``meta/episodes.jsonl``."""

    index: int
    record: dict[str, Any]

    @property
    def length(self) -> int | None:
        value = self.record.get("length")
        return int(value) if value is not None else None

    @property
    def tasks(self) -> list[str]:
        tasks = self.record.get("tasks") or []
        return [tasks] if isinstance(tasks, str) else [str(t) for t in tasks]


@dataclass
class LegacySource:
    """A v2.x dataset, read-only.

    Attributes:
        root: its folder. info: ``meta/info.json``. fps: frames a second, as declared.
        episodes: in the order of their indices. tasks: task strings by ``task_index``.
    """

    root: Path
    info: dict[str, Any]
    fps: float
    episodes: list[SourceEpisode]
    tasks: dict[int, str]

    @classmethod
    def open(cls, root: Path) -> LegacySource:
        """Read the metadata. Raises IgrftError where it is missing or makes no sense."""
        info = read_json(root / INFO)
        if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
            raise IgrftError(f"{root / INFO} declares no features; restore it from where the dataset came from")
        try:
            fps = float(info["fps"])
        except (KeyError, TypeError, ValueError):
            raise IgrftError(f"{root / INFO} has no number under 'fps'; restore it") from None
        if not (fps > 0 and math.isfinite(fps)):
            raise IgrftError(f"{root / INFO}: fps must be positive, got {info['fps']}")
        return cls(root, info, fps, _read_episodes(root / EPISODES), _read_tasks(root / TASKS))

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        return self.info["features"]

    @property
    def cameras(self) -> list[str]:
        """Video features, in the order declared."""
        return [k for k, f in self.features.items() if f.get("dtype") == "video"]

    def data_path(self, index: int) -> Path | None:
        """The parquet file of source episode ``index``, or None."""
        template = self.info.get("data_path")
        if template:
            path = self._formatted(template, index, "")
            if path is not None and path.is_file():
                return path
        return self._data_files.get(index)

    def video_path(self, index: int, camera: str) -> Path | None:
        """The mp4 of ``camera`` in source episode ``index``, or None."""
        template = self.info.get("video_path")
        if template:
            path = self._formatted(template, index, camera)
            if path is not None and path.is_file():
                return path
        return self._video_files.get((camera, index))

    def _formatted(self, template: str, index: int, camera: str) -> Path | None:
        chunk = index // max(int(self.info.get("chunks_size") or 1000), 1)
        try:
            return self.root / template.format(episode_chunk=chunk, episode_index=index, video_key=camera)
        except (KeyError, IndexError, ValueError):
            return None

    # Templates in the wild do not always tell the truth: GR00T's name a chunk for every episode.

    @cached_property
    def _data_files(self) -> dict[int, Path]:
        return {n: p for p in sorted((self.root / "data").rglob("*.parquet")) if (n := _number(p)) is not None}

    @cached_property
    def _video_files(self) -> dict[tuple[str, int], Path]:
        cameras = set(self.cameras)
        found: dict[tuple[str, int], Path] = {}
        for path in sorted((self.root / "videos").rglob("*.mp4")):
            camera = next((p.name for p in path.parents if p.name in cameras), None)
            number = _number(path)
            if camera is not None and number is not None:
                found[camera, number] = path
        return found


def _number(path: Path) -> int | None:
    found = _EPISODE_FILE.search(path.stem)
    return int(found[1]) if found else None


def _read_episodes(path: Path) -> list[SourceEpisode]:
    found: dict[int, SourceEpisode] = {}
    for record in read_jsonl(path):
        try:
            index = int(record["episode_index"])
        except (KeyError, TypeError, ValueError):
            raise IgrftError(f"{path}: an entry has no number under 'episode_index'; repair or restore it") from None
        if index in found:
            raise IgrftError(f"{path}: episode {index} stands there twice; remove one of the two lines")
        found[index] = SourceEpisode(index, record)
    if not found:
        raise IgrftError(f"{path} names no episode; there is nothing to convert")
    return [found[i] for i in sorted(found)]


def _read_tasks(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    try:
        return {int(entry["task_index"]): str(entry["task"]) for entry in read_jsonl(path)}
    except (KeyError, TypeError, ValueError):
        raise IgrftError(f"{path}: an entry lacks 'task_index' or 'task'; repair or restore it") from None
