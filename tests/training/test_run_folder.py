"""Whose folder it is: a run goes on, is refused, or starts anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from igrft.errors import UsageError
from igrft.training.recipe import Recipe
from igrft.training.recipe_file import recipe_from, resolved, resolved_yaml
from igrft.training.run import _clear, _is_stale, differing

#: What a resolved recipe says of every dataset.
_OF_A_DATASET = ["buffer_size", "kind", "root", "shards", "streaming", "weight"]


def recipe(*overrides: str) -> Recipe:
    value = {"policy": {"type": "state_flow", "device": "cpu"}, "datasets": [{"root": "a", "episodes": [1, 2]}]}
    return recipe_from(value, overrides)


def run_of(folder: Path, made: Recipe) -> Path:
    """What a run leaves, as far as its owner is asked."""
    (folder / "checkpoints/000010").mkdir(parents=True)
    (folder / "checkpoints/last").symlink_to("000010")
    (folder / "diagnosis").mkdir()
    (folder / "report").mkdir()
    (folder / ".lock").touch()
    (folder / "recipe.yaml").write_text(resolved_yaml(made))
    (folder / "metrics.jsonl").write_text('{"step": 10}\n')
    return folder


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ([], []),
        (["steps=9"], ["steps"]),
        (
            ["optimizer.learning_rate=1e-3", "critic.layers=[11, 14, 16]"],
            ["critic.layers.2", "optimizer.learning_rate"],
        ),
        (["critic.layers=[11, 14]"], ["critic.layers.2"]),
        (["datasets.0.episodes=[1, 3]"], ["datasets.0.episodes.1"]),
        (["datasets.1.root=b"], [f"datasets.1.{key}" for key in _OF_A_DATASET]),
        (["policy.width=64"], ["policy.width"]),
        (["optimizer.ema=null"], ["optimizer.ema"]),
        (["init_from=x"], ["init_from"]),
        (
            ["output_dir=x", "num_workers=3", "log_every=7", "save_every=2", "keep_checkpoints=null", "wandb.name=w"],
            [],
        ),
    ],
    ids=str,
)
def test_where_two_recipes_differ(overrides, keys):
    """Not by where it writes, how often, or how many workers read."""
    assert differing(recipe(*overrides), resolved(recipe())) == keys
    assert differing(recipe(), resolved(recipe(*overrides))) == keys


def test_a_recipe_is_itself_after_it_was_written():
    made = recipe("optimizer.learning_rate=5e-7", "policy.normalization_mapping.STATE=MIN_MAX", "objective.beta=1")
    assert differing(made, yaml.safe_load(resolved_yaml(made))) == []


def test_a_new_folder_is_free(tmp_path):
    assert not _is_stale(tmp_path / "a/b", recipe(), overwrite=False)
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/.lock").touch()
    assert not _is_stale(tmp_path / "c", recipe(), overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_run_goes_on(tmp_path, overwrite):
    run = run_of(tmp_path / "run", recipe())
    assert not _is_stale(run, recipe("log_every=3"), overwrite)
    assert (run / "checkpoints/last").exists() and (run / "metrics.jsonl").is_file()


def test_another_run_is_refused_naming_the_key(tmp_path):
    run = run_of(tmp_path / "run", recipe())
    told = r"another objective\.beta \(0\.05 there, 0\.1 now\) and 1 more .*--init_from=.*--overwrite"
    with pytest.raises(UsageError, match=told):
        _is_stale(run, recipe("objective.beta=0.1", "seed=4"), overwrite=False)
    assert (run / "checkpoints/000010").is_dir()


def test_overwriting_starts_anew(tmp_path):
    run = run_of(tmp_path / "run", recipe())
    (run / "notes.txt").write_text("mine")
    assert _is_stale(run, recipe("seed=4"), overwrite=True)
    assert (run / "checkpoints/000010").is_dir()
    _clear(run)
    assert sorted(p.name for p in run.iterdir()) == [".lock", "notes.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("...")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match="holds something that is no run of igrft; give another --output_dir"):
        _is_stale(tmp_path, recipe(), overwrite)
    assert (tmp_path / "thesis.tex").is_file() and (tmp_path / "checkpoints").is_dir()
