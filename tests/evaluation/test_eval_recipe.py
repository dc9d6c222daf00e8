"""Recipes of evaluations: what they may say, and those that come with the toolkit."""

from __future__ import annotations

from pathlib import Path

import pytest

from igrft.errors import UsageError
from igrft.evaluation.recipe import CheckpointEntry, EvalRecipe, check_recipe
from igrft.resources import folder
from igrft.training.recipe_file import load_recipe, recipe_from, resolved

BASE = {"checkpoint": "runs/sft", "environment": {"type": "metaworld", "task": "reach-v3"}}


def read(*overrides: str, **value) -> EvalRecipe:
    made = recipe_from({**BASE, **value}, overrides, "mine", EvalRecipe)
    check_recipe(made, "mine")
    return made


def test_defaults_are_what_the_readme_says():
    made = read()
    assert (made.episodes, made.seed, made.temperatures, made.videos) == (50, 1_000_000, [1.0], "none")
    assert made.human.type == "none" and made.monitor.enabled is False and made.confidence == 0.95


def test_overrides_reach_checkpoints_temperatures_and_settings():
    made = read(
        "checkpoints.0.path=1e5",
        "checkpoints.0.name=sft",
        "checkpoints.1.path=b",
        "checkpoints.1.interventions=12",
        "temperatures=[1.0, 0.35, exploration]",
        "exploration.sigma_base=0.8",
        "videos=[0, 3]",
        "human.type=expert",
        "environment.settle=5",
        "inference.steps=4",
    )
    assert made.checkpoints == [CheckpointEntry(path="1e5", name="sft"), CheckpointEntry(path="b", interventions=12)]
    assert made.temperatures == [1.0, 0.35, "exploration"] and made.videos == [0, 3]
    assert made.exploration is not None and made.exploration.sigma_base == 0.8
    assert (made.human.type, made.environment.settle, made.inference.steps) == ("expert", 5, 4)
    again = recipe_from(resolved(made), [], "mine", EvalRecipe)
    assert again == made


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["episode=3"], "mine: unknown key 'episode'; did you mean 'episodes'?"),
        (["checkpoints.0.pth=a"], "unknown key 'checkpoints.0.pth'; did you mean 'path'?"),
        (["environment.tsk=a"], "unknown key 'environment.tsk'; did you mean 'task'?"),
        (["exploration.sigma=1"], "unknown key 'exploration.sigma'"),
        (["episodes=0"], "mine: episodes must be at least 1, got 0"),
        (["seed=-1"], "seed must be at least 0"),
        (["workers=0"], "workers must be at least 1"),
        (["confidence=95"], "confidence must lie between 0 and 1, got 95"),
        (["checkpoint=null"], "mine: which policy? give --checkpoint=RUN"),
        (["checkpoints.0.name=a"], "checkpoints.0 has no path; give --checkpoints.0.path=RUN"),
        (["temperatures=[]"], "temperatures is empty"),
        (["temperatures=[-1]"], "a temperature must not be negative, got -1"),
        (["temperatures=[.nan]"], "a temperature must not be negative, got nan"),
        (["temperatures=[explore]"], "numbers or 'exploration', got 'explore'; did you mean 'exploration'?"),
        (["temperatures=[1, 1.0]"], "a temperature is listed twice"),
        (["temperatures=1"], "`temperatures`"),
        (["exploration.type=uniforn"], "unknown exploration.type 'uniforn'; did you mean 'uniform'?"),
        (["videos=failure"], "got 'failure'; did you mean 'failures'?"),
        (["videos=[50]"], "videos are numbers of episodes, 0 to 49, got [50]"),
        (["environment.type=robot"], "nobody can say whether a robot's episode succeeded; give --human.type=keys"),
        (["environment.type=robot", "human.type=keys", "workers=2"], "there is one robot; leave workers out"),
    ],
)
def test_what_it_cannot_say(overrides, message):
    with pytest.raises(UsageError) as error:
        read(*overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["eval", "tiny/eval"])
def test_recipes_that_come_with_the_toolkit(name: str):
    made = load_recipe(name, ["environment.task=reach-v3"], EvalRecipe)
    check_recipe(made, name)
    assert made.output_dir == f"runs/{name}" and made.stage == "eval"
    root = str(Path("runs") / Path(name).parent)
    assert [(c.path, c.name) for c in made.checkpoints] == [(f"{root}/{n}", n) for n in ("sft", "offline_rl", "hil")]
    assert made.baseline == "sft" and made.temperatures == [1.0]
    assert (folder("recipes") / f"{name}.yaml").read_text().startswith("# ")
    assert made.environment.type == ("robot" if name == "eval" else "metaworld")
