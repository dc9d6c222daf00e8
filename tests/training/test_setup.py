"""What a recipe is refused for before any data is read, and what a policy is told of the data."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from lerobot.configs import FeatureType, PolicyFeature

from igrft.errors import UsageError
from igrft.models.actors import register_policy
from igrft.training.recipe import DatasetEntry, Recipe
from igrft.training.recipe_file import recipe_from
from igrft.training.rules import check_recipe
from igrft.training.setup import policy_config, put_features, run_folder


def made(*overrides: str) -> Recipe:
    value = {
        "policy": {"type": "state_flow", "device": "cpu"},
        "datasets": [{"root": "somewhere"}],
        "objective": {"insulate": False},
    }
    return recipe_from(value, overrides)


def test_the_defaults_pass():
    check_recipe(made(), "mine")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=eval"], "run: igrft eval mine"),
        (["stage=offline"], "unknown stage 'offline'; did you mean 'offline_rl'?"),
        (["objective.type=awrr"], "unknown objective.type 'awrr'; did you mean 'awr'?"),
        (["exploration.type=unifrom"], "unknown exploration.type 'unifrom'; did you mean 'uniform'?"),
        (["normalisation=datasets"], "unknown normalisation 'datasets'; did you mean 'dataset'?"),
        (["rewards.discount=0"], "rewards.discount must lie in (0, 1], got 0.0"),
        (["batch_size=0"], "batch_size must be at least 1, got 0"),
        (["datasets=[]"], "the recipe names no dataset"),
        (["steps=0"], "steps must be positive, got 0"),
        (["gradient_accumulation=0"], "gradient_accumulation must be positive, got 0"),
        (["log_every=0"], "log_every must be positive"),
        (["save_every=-1"], "save_every must be positive"),
        (["objective.beta=0"], "objective.beta must be positive"),
        (["objective.beta=.nan"], "objective.beta must be positive"),
        (["objective.weight_limit=0"], "objective.weight_limit must be positive"),
        (["objective.flow_samples=0"], "objective.flow_samples must be positive"),
        (["advantage.refresh=0"], "advantage.refresh must be positive"),
        (["critic.update_every=0"], "critic.update_every must be positive"),
        (["optimizer.learning_rate=0"], "optimizer.learning_rate must be positive"),
        (["objective.expectile=1"], "objective.expectile must lie in (0, 1), got 1.0"),
        (["objective.noise_scale=[1]"], "objective.noise_scale must be [LOW, HIGH] with 0 < LOW <= HIGH"),
        (["objective.noise_scale=[2, 1]"], "objective.noise_scale must be [LOW, HIGH]"),
        (["objective.noise_scale=[0, 1]"], "objective.noise_scale must be [LOW, HIGH]"),
        (["optimizer.ema=1"], "optimizer.ema must lie in (0, 1) or be null, got 1.0"),
        (["stage=hil"], "stage hil learns from rollouts, and the recipe lists none"),
        (
            ["objective.type=ig_awr", "critic.enabled=false"],
            "objective 'ig_awr' judges with the critic, which critic.enabled=false leaves out; enable it, or give "
            "--advantage.source=columns",
        ),
        (["objective.type=iql", "critic.enabled=false", "advantage.source=columns"], "'iql' judges with the critic"),
    ],
)
def test_what_no_data_could_make_right(overrides, message):
    with pytest.raises(UsageError) as error:
        check_recipe(made(*overrides), "mine")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_needs_a_policy_or_a_checkpoint():
    recipe = Recipe(datasets=[DatasetEntry(root="somewhere")])
    with pytest.raises(UsageError, match="give a 'policy' with a type, or 'init_from' with a checkpoint"):
        check_recipe(recipe, "mine")
    recipe.init_from = "runs/sft"
    check_recipe(recipe, "mine")


@pytest.mark.parametrize(
    "overrides",
    [
        ["objective.type=ig_awr", "critic.enabled=false", "advantage.source=columns"],
        ["objective.type=sft", "critic.enabled=false"],
        ["stage=hil", "datasets.1.root=b", "datasets.1.kind=rollouts"],
        ["optimizer.ema=null"],
        ["objective.noise_scale=[0.35, 1.7]"],
        ["rewards.trajectory_weight=0", "rewards.subtask_weight=1"],
        ["rewards.trajectory_weight=1", "rewards.subtask_weight=0"],
    ],
    ids=str,
)
def test_what_is_let_through(overrides):
    check_recipe(made(*overrides), "mine")


# Features.


def data(state: int, action: int) -> SimpleNamespace:
    return SimpleNamespace(
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (state,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action,))},
    )


def config(kind: str, **changes):
    from lerobot.configs import PreTrainedConfig

    register_policy(kind)
    return PreTrainedConfig.get_choice_class(kind)(device="cpu", **changes)


def test_a_policy_knows_the_features_of_the_data():
    told = config("state_flow", input_features={"old": PolicyFeature(FeatureType.STATE, (9,))})
    put_features(told, data(3, 2), started=True)
    assert told.input_features == data(3, 2).input_features and told.output_features == data(3, 2).output_features


def test_a_new_policy_is_made_wide_enough():
    told = config("pi05_tiny")
    put_features(told, data(5, 16), started=False)
    assert told.max_action_dim == 16
    put_features(told, data(5, 20), started=False)
    assert told.max_action_dim == 20


def test_a_checkpoint_is_not_made_wider():
    told = config("pi05_tiny")
    with pytest.raises(
        UsageError,
        match="the datasets' action has 20 dimensions and the checkpoint's policy takes 16; .*"
        "--init_from=null --policy.max_action_dim=20",
    ):
        put_features(told, data(5, 20), started=True)


@pytest.mark.parametrize("started", [True, False])
def test_a_wide_state_is_no_matter_to_pi05(started):
    """It is written into the prompt."""
    told = config("pi05_tiny")
    put_features(told, data(40, 6), started)
    assert told.max_state_dim == 16 and told.input_features["observation.state"].shape == (40,)


# Places.


def test_where_a_run_lies():
    assert run_folder(Recipe(), "sft") == Path("runs/sft")
    assert run_folder(Recipe(), "mine/rounds/third.yaml") == Path("runs/third")
    assert run_folder(Recipe(output_dir="~/x"), "sft") == Path.home() / "x"
    assert run_folder(Recipe(output_dir="/data/run.1"), "sft") == Path("/data/run.1")


def test_a_checkpoint_on_the_hub_is_fetched_only_to_train(tmp_path):
    recipe = made("init_from=nobody/nothing")
    found, folder = policy_config(recipe, fetch=False)
    assert found == recipe.policy and found is not recipe.policy and folder is None
    with pytest.raises(UsageError, match="no folder 'nobody/nothing'"):
        policy_config(recipe)
    assert policy_config(made())[1] is None
