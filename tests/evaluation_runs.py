"""Trained policies for Meta-World: they read the hand alone, and were trained on noise for a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from synthetic import write_dataset
from tiny_recipe import TINY
from training_sets import add_column

from igrft.pipeline.run import annotate
from igrft.training.recipe_file import recipe_from
from igrft.training.run import train


def write_labelled(root: Path) -> Path:
    """Four episodes whose state and action have Meta-World's four numbers."""
    write_dataset(root / "source", 4, 200, width=4)
    steps = [
        {"type": "subtasks", "source": "file", "path": "source.subtasks.json"},
        {"type": "rewards"},
        {"type": "returns"},
    ]
    (root / "pipeline.yaml").write_text(json.dumps({"steps": steps}))
    annotate(root / "source", root / "labelled", pipeline=root / "pipeline.yaml")
    add_column(root / "labelled", "interaction", lambda n, _: np.arange(n) % 20 < 8, "bool")
    return root / "labelled"


def train_policy(labelled: Path, run: Path, *overrides: str, seed: int = 0) -> Path:
    """A run with one checkpoint."""
    value = {**json.loads(json.dumps(TINY)), "datasets": [{"root": str(labelled)}], "output_dir": str(run)}
    train(recipe_from(value, [f"seed={seed}", *overrides]))
    return run
