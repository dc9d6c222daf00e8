"""Small datasets without video, and helpers to look at what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import write_dataset

STEPS = [{"type": "subtasks", "source": "file"}, {"type": "rewards"}, {"type": "returns"}]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six episodes, 300 frames, in two files; their subtask file lies beside."""
    write_dataset(tmp_path / "source", 6, 300, width=3, episodes_per_file=4)
    return tmp_path / "source"


@pytest.fixture
def subtask_file(source: Path) -> Path:
    return source.with_name("source.subtasks.json")


@pytest.fixture
def pipeline_file(tmp_path: Path, subtask_file: Path) -> Callable[..., Path]:
    """Write a pipeline file; by default subtasks from the file, rewards, returns."""

    def write(steps: list[dict] | None = None, name: str = "pipeline.yaml") -> Path:
        chosen = [dict(s) for s in (steps or STEPS)]
        for step in chosen:
            if step.get("source") == "file":
                step.setdefault("path", subtask_file.name)
        path = tmp_path / name
        path.write_text(json.dumps({"steps": chosen}))
        return path

    return write


def edit_subtasks(path: Path, change: Callable[[dict], None]) -> None:
    """Change the episodes of a subtask file in place."""
    value = json.loads(path.read_text())
    change(value["episodes"])
    path.write_text(json.dumps(value))


def tree_digest(root: Path) -> dict[str, str]:
    """SHA-256 of every file under ``root``."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }
