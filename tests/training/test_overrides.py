"""What dotted overrides do to a recipe."""

from __future__ import annotations

import pytest
from tiny_recipe import TINY

from igrft.errors import UsageError
from igrft.training.recipe_file import recipe_from
from igrft.training.rules import check_recipe


def read(*overrides: str):
    return recipe_from({**TINY, "datasets": [{"root": "x"}]}, overrides)


@pytest.mark.parametrize("text", ["20261122_01", "007", "no", "1:30", "1e5", "a: b"])
def test_text_is_taken_as_it_stands(text: str) -> None:
    assert read(f"output_dir={text}").output_dir == text
    assert read(f"datasets.0.root={text}").datasets[0].root == text
    assert read(f"wandb.name={text}").wandb.name == text


def test_null_is_nothing() -> None:
    assert read("init_from=null").init_from is None


def test_an_index_into_a_default_list_changes_that_entry() -> None:
    assert read("critic.layers.0=9").critic.layers == [9, 14, 17]
    assert read("optimizer.betas.1=0.99").optimizer.betas == [0.9, 0.99]


def test_the_next_entry_of_a_list_is_made() -> None:
    recipe = read("datasets.1.root=y", "datasets.1.kind=rollouts", "datasets.1.weight=2")
    assert [(d.root, d.kind, d.weight) for d in recipe.datasets] == [
        ("x", "demonstrations", 1.0),
        ("y", "rollouts", 2.0),
    ]


@pytest.mark.parametrize(
    "override", ["datasets.\u00b2.root=x", "datasets.5.root=x", "steps.a=1", "datasets.a=1", "=3", "steps"]
)
def test_a_place_that_cannot_be_is_refused(override: str) -> None:
    with pytest.raises(UsageError):
        read(override)


def test_the_policys_own_reason_is_told() -> None:
    with pytest.raises(UsageError, match=r"n_action_steps \(50\) cannot be greater than chunk_size \(30\)"):
        recipe_from({"datasets": [{"root": "x"}], "policy": {"type": "pi05", "chunk_size": 30}})


@pytest.mark.parametrize(
    "override",
    [
        "steps=", "batch_size=", "seed=", "critic.update_every=", "datasets.0.weight=", "optimizer.betas=[0.9]",
        "critic.width=255", "critic.queries=0", "critic.layers=[]", "lora.rank=-1", "lora.targets=(",
        "optimizer.clip=-1",
        "objective.noise_scale=[1]", "objective.expectile=1", "optimizer.ema=1", "critic.learning_rate=-1",
        "objective.intervention_floor=-1", "objective.target_rate=5", "exploration.type=loud",
    ],
)  # fmt: skip
def test_refused_in_one_line(override: str) -> None:
    with pytest.raises(UsageError) as error:
        check_recipe(read(override), "mine")
    assert "\n" not in str(error.value)
