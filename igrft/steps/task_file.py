"""Task files: what a task consists of, in the words that labels use.

```yaml
goal: put the cup on the shelf
success: the cup stands on the shelf and the gripper has let go
match: [place the cup on the shelf]     # task strings of episodes; used where `task` is a folder
camera: observation.images.top          # what a vision-language model is shown; unset, a fixed camera
subtasks:
  - reach the cup
  - {name: grasp the cup, weight: 2}
  - for_each: {item: [ginger, banana]}
    subtasks: [pick up the {item}, place the {item} into the bag]
  - for_each: {"source, target": [[yellow, red], [green, yellow]]}     # words that go together
    subtasks: [stack the {source} block on the {target} block]
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from igrft.errors import EpisodeError, UsageError, did_you_mean

_KEYS = ("goal", "success", "match", "subtasks", "camera")


@dataclass(frozen=True)
class Task:
    """A task: its ordered subtask names, and their importance weights where given.

    Attributes:
        goal, success: in words, as a vision-language model is told them.
        match: task strings of the episodes that it is for.
        camera: key of the camera that shows it best; None leaves the choice open.
    """

    path: str
    subtasks: tuple[str, ...]
    weights: tuple[float, ...] | None
    goal: str = ""
    success: str = ""
    match: tuple[str, ...] = ()
    camera: str | None = None


def load_task(path: Path) -> Task:
    """Read a task file.

    Raises:
        UsageError: the file is missing, not YAML, or not of the documented shape.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"task file {path} is missing; correct 'task' in the pipeline") from None
    except yaml.YAMLError as error:
        raise UsageError(f"task file {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, Mapping) or not isinstance(value.get("subtasks"), list) or not value["subtasks"]:
        raise UsageError(f"task file {path} needs a list of 'subtasks'")
    for key in value:
        if key not in _KEYS:
            raise UsageError(f"task file {path} has an unknown key {key!r}{did_you_mean(str(key), _KEYS)}")
    pairs = [pair for entry in value["subtasks"] for pair in _expand(entry, path)]
    names = tuple(name for name, _ in pairs)
    repeated = next((n for n in names if names.count(n) > 1), None)
    if repeated is not None:
        raise UsageError(f"task file {path} lists {repeated!r} twice; give each subtask a name of its own")
    given = [w for _, w in pairs if w is not None]
    weights = tuple(1.0 if w is None else w for _, w in pairs) if given else None
    match = value.get("match") or []
    camera = value.get("camera")
    if camera is not None and not isinstance(camera, str):
        raise UsageError(f"task file {path}: 'camera' must be the key of a camera, got {camera!r}")
    return Task(
        path=str(path),
        subtasks=names,
        weights=weights,
        goal=str(value.get("goal", "")),
        success=str(value.get("success", "")),
        match=tuple(str(m) for m in ([match] if isinstance(match, str) else match)),
        camera=camera,
    )


def _expand(entry: Any, path: Path) -> list[tuple[str, float | None]]:
    if isinstance(entry, str):
        return [(entry.strip(), None)]
    if isinstance(entry, Mapping) and "for_each" in entry:
        loops = entry["for_each"]
        if not isinstance(loops, Mapping) or not isinstance(entry.get("subtasks"), list):
            raise UsageError(f"task file {path}: 'for_each' needs {{name: [values]}} and a list of 'subtasks'")
        inner = [pair for e in entry["subtasks"] for pair in _expand(e, path)]
        found = []
        for choice in product(*(_choices(key, values, path) for key, values in loops.items())):
            words = {word: value for chosen in choice for word, value in chosen.items()}
            found += [(_fill(name, words, path), weight) for name, weight in inner]
        return found
    if isinstance(entry, Mapping) and isinstance(entry.get("name"), str) and set(entry) <= {"name", "weight"}:
        weight = entry.get("weight")
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0):
            raise UsageError(f"task file {path}: the weight of {entry['name']!r} must be a number, not negative")
        return [(entry["name"].strip(), None if weight is None else float(weight))]
    raise UsageError(f"task file {path}: {entry!r} is neither a name, {{name, weight}} nor a for_each block")


def _choices(key: Any, values: Any, path: Path) -> list[dict[str, Any]]:
    """What one line of a ``for_each`` stands for, in turn: {word: value}, several words where they go together."""
    words = [word.strip() for word in str(key).split(",")]
    if not isinstance(values, list) or not values:
        raise UsageError(f"task file {path}: 'for_each' needs a list of values for {key!r}")
    if len(words) == 1:
        return [{words[0]: value} for value in values]
    for value in values:
        if not isinstance(value, list) or len(value) != len(words):
            raise UsageError(f"task file {path}: each value of {key!r} must be a list of {len(words)}, got {value!r}")
    return [dict(zip(words, value, strict=True)) for value in values]


def _fill(name: str, words: Mapping[str, Any], path: Path) -> str:
    for key, value in words.items():
        name = name.replace("{" + key + "}", str(value))
    if "{" in name:
        raise UsageError(f"task file {path}: {name!r} names a word that 'for_each' does not give")
    return name


@dataclass(frozen=True)
class Tasks:
    """The task of every episode: one file for all, or a folder matched by the episode's task string."""

    by_match: tuple[tuple[str, Task], ...]
    only: Task | None

    def of(self, episode: int, task_strings: list[str]) -> Task:
        """The task of an episode.

        Raises:
            EpisodeError: no file of the folder matches its task string.
        """
        if self.only is not None:
            return self.only
        wanted = {_plain(t) for t in task_strings}
        for match, task in self.by_match:
            if match in wanted:
                return task
        said = task_strings[0] if task_strings else ""
        raise EpisodeError(f"episode {episode}: no task file matches {said!r}; add it to 'match' of one of them")


def load_tasks(path: str) -> Tasks:
    """Read a task file, or every ``*.yaml`` of a folder.

    Raises:
        UsageError: as :func:`load_task`; a folder without task files.
    """
    where = Path(path)
    files = sorted(where.glob("*.yaml")) if where.is_dir() else [where]
    stats = [(f.stat().st_mtime_ns, f.stat().st_size) if f.is_file() else (0, 0) for f in files]
    return _load_tasks(path, tuple(zip(map(str, files), stats, strict=True)))


@lru_cache(maxsize=16)
def _load_tasks(path: str, files: tuple[tuple[str, tuple[int, int]], ...]) -> Tasks:
    """Cached by what the files are now: a step asks for every episode."""
    where = Path(path)
    if not where.is_dir():
        return Tasks((), load_task(where))
    tasks = [load_task(Path(name)) for name, _ in files]
    if not tasks:
        raise UsageError(f"the folder {where} holds no task file (*.yaml); correct 'task' in the pipeline")
    found: dict[str, Task] = {}
    for task in tasks:
        for match in (*task.match, task.goal, Path(task.path).stem):
            if match:
                found.setdefault(_plain(match), task)
    return Tasks(tuple(found.items()), None)


def _plain(text: str) -> str:
    return " ".join(text.lower().strip().rstrip(".!").replace("_", " ").split())
