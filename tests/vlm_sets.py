"""Made-up recordings whose subtasks are known, and runs of ``source: vlm`` on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from picture_sets import picture_set
from vlm_server import NAMES, TILE, Truth, scenes

from igrft import AnnotateResult, annotate
from igrft.dataset.reader import DatasetReader

FPS = 10


def plain_truth(episode: int) -> list[tuple[str, int, int, bool]]:
    """All subtasks in order, of random lengths of at least half a second."""
    lengths = np.random.default_rng(episode).integers(6, 16, len(NAMES))
    ends = np.cumsum(lengths).tolist()
    return [(n, a, b, True) for n, a, b in zip(NAMES, [0, *ends[:-1]], ends, strict=True)]


def write_set(root: Path, truths: Sequence[Truth], successes: Sequence[bool] | None = None, **options: Any) -> Path:
    """A dataset whose pictures tell its subtasks."""
    wanted = successes or [True] * len(truths)
    options = {"fps": FPS, "dtype": "image", **options}
    picture_set(root, [scenes(t, success=s) for t, s in zip(truths, wanted, strict=True)], **options)
    return root


def write_task(folder: Path, **more: Any) -> Path:
    path = folder / "task.yaml"
    task = {"goal": "put the cup on the shelf", "success": "the cup stands on the shelf", "subtasks": list(NAMES)}
    path.write_text(yaml.safe_dump(task | more))
    return path


def entry(base_url: str | None, folder: Path, **settings: Any) -> dict[str, Any]:
    """The step's entry: every frame is shown, so that boundaries can be known exactly."""
    found = {
        "type": "subtasks",
        "source": "vlm",
        "model": "seer",
        "base_url": base_url,
        "frames_per_second": float(FPS),
        "tile_width": TILE,
        "shortest": 0.4,
        "timeout": 5,
        "retries": 3,
        "cache": str(folder / "cache"),
        "concurrency": 4,
        **settings,
    }
    return {k: v for k, v in found.items() if v is not None}


def run(
    source: Path,
    folder: Path,
    base_url: str | None,
    *,
    out: str = "out",
    said: list[str] | None = None,
    **settings: Any,
) -> AnnotateResult:
    """`annotate` with one step; ``task`` among the settings closes the vocabulary."""
    path = folder / "pipeline.yaml"
    path.write_text(json.dumps({"steps": [entry(base_url, folder, **settings)]}))
    say = said.append if said is not None else lambda line: None
    return annotate(source, folder / out, pipeline=path, say=say)


def segments(root: Path, episode: int) -> list[tuple[str, int, int, bool]]:
    """The recorded subtasks of an episode."""
    record = DatasetReader.open(root).igrft["episodes"][str(episode)]
    return [(s["name"], s["start"], s["end"], s["done"]) for s in record["subtasks"]]


def record(root: Path, episode: int) -> dict[str, Any]:
    return DatasetReader.open(root).igrft["episodes"][str(episode)]


def answer_evenly(names: list[str]) -> Callable[[str, dict], str | None]:
    """Divides whatever it is shown into parts of equal length: real pictures say nothing to this server."""

    def answer(kind: str, body: dict) -> str | None:
        if kind != "segment":
            return "The robot does something."
        parts = [p["text"] for p in body["messages"][0]["content"] if p["type"] == "text"]
        words = parts[-1].split("Divide ")[1].split()
        low, high = float(words[0]), float(words[3])
        edges = np.linspace(low, high, len(names) + 1).round(2).tolist()
        spans = [{"name": n, "start": a, "end": b, "done": True} for n, a, b in zip(names, edges, edges[1:])]  # noqa: B905
        return json.dumps({"subtasks": spans})

    return answer
