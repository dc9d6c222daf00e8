"""Small datasets with video that are labelled on a store and on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from picture_sets import CAMERA, picture_set, square_over_background

from igrft import AnnotateResult, annotate
from igrft.dataset.reader import DatasetReader

#: Of each episode. The second half of the frames is another subtask.
FRAMES = 20
VIDEO = f"videos/{CAMERA}/chunk-000/file-000.mp4"
#: What a labelled set holds of its labels, whatever it was read from. The record names its source's fingerprint.
LABELS = ("data/", "meta/episodes/", "meta/stats.json", "meta/info.json", "meta/subtasks.parquet", "videos/")


def moving_set(root: Path, episodes: int = 4) -> DatasetReader:
    """A textured square that moves over a background: optical flow finds it."""
    pictures = [
        square_over_background(FRAMES, size=(160, 120), side=40, step=(2 + i / 2, 1), start=(30, 40))
        for i in range(episodes)
    ]
    return picture_set(root, pictures)


def noisy_set(root: Path, episodes: int, frames: int = 20, size: tuple[int, int] = (160, 120)) -> DatasetReader:
    """Noise, which no codec makes small: some hundred kilobytes an episode."""
    rng = np.random.default_rng(0)
    shape = (frames, size[1], size[0])
    return picture_set(root, [list(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(episodes)])


def pipeline_of(folder: Path, episodes: int = 4, **interaction: Any) -> Path:
    """Subtasks from a file, interaction, rewards, returns; in ``folder``."""
    half = FRAMES // 2
    parts = [{"name": "reach", "start": 0, "end": half}, {"name": "lift", "start": half, "end": FRAMES}]
    entries = {str(e): {"success": True, "subtasks": parts} for e in range(episodes)}
    (folder / "subtasks.json").write_text(json.dumps({"episodes": entries}))
    steps = [
        {"type": "subtasks", "source": "file", "path": "subtasks.json"},
        {"type": "interaction", "pixel_threshold": 100, **interaction},
        {"type": "rewards"},
        {"type": "returns"},
    ]
    path = folder / "pipeline.yaml"
    path.write_text(json.dumps({"steps": steps}))
    return path


def labels(digests: dict[str, str]) -> dict[str, str]:
    """Of a set's files those that say what its labels are."""
    return {name: digest for name, digest in digests.items() if name.startswith(LABELS)}


def run(source: str | Path, target: str | Path, pipeline: Path, **options: Any) -> tuple[AnnotateResult, list[str]]:
    """Label with one worker; what came of it, and what was said."""
    said: list[str] = []
    options = {"workers": 1, "say": said.append} | options
    return annotate(source, target, pipeline=pipeline, **options), said
