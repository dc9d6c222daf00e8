"""A small labelled dataset, and recipes that train on it in a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import write_dataset
from tiny_recipe import TINY
from training_sets import add_column, edit_json

from igrft.pipeline.run import annotate
from igrft.training.recipe import Recipe
from igrft.training.recipe_file import recipe_from


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are slower on two threads, and give the same bits on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight episodes of 320 frames with subtasks, rewards, returns and interaction; the last two failed."""
    root = tmp_path_factory.mktemp("labelled")
    write_dataset(root / "source", 8, 320, width=3)
    edit_json(root / "source.subtasks.json", _fail_the_last_two)
    steps = [
        {"type": "subtasks", "source": "file", "path": "source.subtasks.json"},
        {"type": "rewards"},
        {"type": "returns"},
    ]
    (root / "pipeline.yaml").write_text(json.dumps({"steps": steps}))
    annotate(root / "source", root / "labelled", pipeline=root / "pipeline.yaml")
    add_column(root / "labelled", "interaction", lambda n, _: np.arange(n) % 20 < 8, "bool")
    return root / "labelled"


def _fail_the_last_two(value: dict[str, Any]) -> None:
    for name in ("6", "7"):
        value["episodes"][name]["success"] = False


@pytest.fixture
def make_recipe(labelled: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """``make_recipe("steps=5", policy=…)``: the tiny recipe with overrides, into ``tmp_path/run``."""

    def make(*overrides: str, **changes: Any) -> Recipe:
        value = {**json.loads(json.dumps(TINY)), **changes}
        value.setdefault("datasets", [{"root": str(labelled)}])
        value.setdefault("output_dir", str(tmp_path / "run"))
        return recipe_from(value, overrides)

    return make
