"""Reading recipes: overrides, unknown keys, numbers that YAML takes for text."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from igrft.errors import UsageError
from igrft.training.recipe import STAGES, DatasetEntry, Recipe
from igrft.training.recipe_file import (
    load_recipe,
    read_yaml,
    recipe_from,
    refuse_other_verbs,
    resolved,
    resolved_yaml,
)

POLICY = {"type": "state_flow", "device": "cpu"}


def read(*overrides: str, **value) -> Recipe:
    return recipe_from({"policy": dict(POLICY), **value}, overrides)


def refused(*overrides: str, **value) -> str:
    with pytest.raises(UsageError) as error:
        read(*overrides, **value)
    message = str(error.value)
    assert "\n" not in message
    return message


# Unknown keys.


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"stpes": 3}, "recipe: unknown key 'stpes'; did you mean 'steps'?"),
        ({"optimizer": {"leaning_rate": 1}}, "unknown key 'optimizer.leaning_rate'; did you mean 'learning_rate'?"),
        ({"critic": {"layer": [1]}}, "unknown key 'critic.layer'; did you mean 'layers'?"),
        ({"wandb": {"enabled": True}}, "unknown key 'wandb.enabled'; did you mean 'enable'?"),
        ({"datasets": [{"root": "a"}, {"rot": "b"}]}, "unknown key 'datasets.1.rot'; did you mean 'root'?"),
        ({"policy": {**POLICY, "widht": 3}}, "policy 'state_flow' has no key 'widht'; did you mean 'width'?"),
        ({"policy": {**POLICY, "type": "pi50"}}, "unknown policy type 'pi50'; did you mean 'pi05'?"),
        ({"policy": {"width": 3}}, "'policy' needs a 'type': pi05, pi05_tiny, smolvla, state_flow"),
        ({"policy": "pi05"}, "'policy' needs a 'type'"),
        ({"zzz": 1}, "unknown key 'zzz'; known: advantage, "),
        ({"critic": 3}, "'critic' must be a mapping, got 3"),
        ({"critic": None}, "'critic' must be a mapping, got None"),
        ({"datasets": {"root": "a"}}, "'datasets' must be a list, got {'root': 'a'}"),
        ({"datasets": ["a"]}, "'datasets.0' must be a mapping, got 'a'"),
    ],
)
def test_what_a_recipe_cannot_say(value, message):
    assert message in refused(**value)


SECTIONS = [f.name for f in dataclasses.fields(Recipe) if dataclasses.is_dataclass(getattr(Recipe(), f.name))]


def test_every_section_is_checked():
    assert len(SECTIONS) == 12
    for section in SECTIONS:
        assert f"unknown key '{section}.strange'" in refused(**{section: {"strange": 1}})
        assert f"unknown key '{section}.strange'" in refused(f"{section}.strange=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimzer.learning_rate=1", "unknown key 'optimzer'; did you mean 'optimizer'?"),
        ("datasets.0.rot=a", "unknown key 'datasets.0.rot'; did you mean 'root'?"),
        ("policy.widht=3", "did you mean 'width'?"),
        ("critic.layers.0.deep=1", "override --critic.layers.0.deep: critic.layers.0 is a value, it has no key 'deep'"),
        ("datasets.5.root=a", "override --datasets.5.root: datasets has only 1 entries"),
        ("datasets.first.root=a", "override --datasets.first.root: datasets is a list; number its entry"),
        ("steps", "override 'steps' is not of the form --KEY=VALUE"),
        ("=3", "override '=3' is not of the form --KEY=VALUE"),
        ("optimizer..clip=1", "override 'optimizer..clip=1' is not of the form --KEY=VALUE"),
    ],
)
def test_overrides_that_cannot_be(override, message):
    assert message in refused(override, datasets=[{"root": "a"}], critic={"layers": [11, 14, 17]})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=many", "`steps`: Couldn't parse 'many' into an int"),
        ("steps=1.5", "`steps`: Couldn't parse '1.5' into an int"),
        ("critic.enabled=perhaps", "`critic.enabled`: Couldn't parse 'perhaps' into a bool"),
        ("optimizer.ema=none", "`optimizer.ema`"),
        ("policy.width=wide", "`width`: Couldn't parse 'wide' into an int"),
        ("critic.layers=5", "`critic.layers`"),
    ],
)
def test_values_of_the_wrong_kind(override, message):
    assert message in refused(override)


# Overrides.


def test_overrides_reach_every_depth():
    made = read(
        "steps=7",
        "optimizer.betas=[0.8, 0.9]",
        "critic.layers.1=5",
        "datasets.0.root=a",
        "datasets.0.episodes=[3, 4]",
        "datasets.1.repo_id=me/b",
        "datasets.1.kind=rollouts",
        "policy.width=32",
        "optimizer.ema=null",
        "objective.normalise_weights=true",
        "init_from=runs/sft",
        critic={"layers": [11, 14, 17]},
    )
    assert made.steps == 7 and made.optimizer.betas == [0.8, 0.9] and made.critic.layers == [11, 5, 17]
    assert made.datasets == [DatasetEntry(root="a", episodes=[3, 4]), DatasetEntry(repo_id="me/b", kind="rollouts")]
    assert made.policy.width == 32 and made.optimizer.ema is None and made.objective.normalise_weights is True
    assert made.init_from == "runs/sft"


def test_an_entry_of_a_list_keeps_what_is_not_overridden():
    made = read(
        "datasets.0.weight=3",
        "critic.layers.3=17",
        datasets=[{"root": "a", "kind": "rollouts"}, {"root": "b"}],
        critic={"layers": [1, 2, 3]},
    )
    assert made.datasets == [DatasetEntry(root="a", kind="rollouts", weight=3.0), DatasetEntry(root="b")]
    assert made.critic.layers == [1, 2, 3, 17]


def test_later_overrides_win_and_the_mapping_is_left_alone():
    value = {"policy": dict(POLICY), "steps": 3, "critic": {"layers": [1, 2]}}
    made = recipe_from(value, ["steps=4", "steps=5", "critic.layers.0=9"])
    assert made.steps == 5 and made.critic.layers == [9, 2]
    assert value == {"policy": POLICY, "steps": 3, "critic": {"layers": [1, 2]}}


def test_a_value_may_hold_equals_signs_and_dots():
    made = read("wandb.name=a=b.c", "datasets.0.root=../x/y=z")
    assert made.wandb.name == "a=b.c" and made.datasets[0].root == "../x/y=z"


# Numbers.


@pytest.mark.parametrize("text", ["5e-5", "5E-5", "+5e-5", "5.0e-5", ".5e-4", "0.5e-4"])
def test_numbers_that_yaml_1_1_takes_for_text(text):
    for made in (
        read(f"optimizer.learning_rate={text}"),
        recipe_from(yaml.safe_load(f"policy: {{type: state_flow}}\noptimizer: {{learning_rate: {text}}}")),
    ):
        assert made.optimizer.learning_rate == 5e-5 and isinstance(made.optimizer.learning_rate, float)
    assert read(f"optimizer.betas=[{text}, 9e-1]").optimizer.betas == [5e-5, 0.9]
    assert read(f"policy.optimizer_lr={text}").policy.optimizer_lr == 5e-5
    assert read(f"datasets.0.weight={text}", "datasets.0.root=a").datasets[0].weight == 5e-5


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-300, 1e300))
def test_every_spelling_of_a_number_is_read(number):
    for text in (repr(number), f"{number:.17e}", f"{number:.17g}"):
        assert read(f"optimizer.eps={text}").optimizer.eps == pytest.approx(number, rel=1e-15)


def test_text_that_looks_like_a_number_stays_text():
    made = read(
        "output_dir=1e5",
        "datasets.0.root=2e3",
        "init_from=5e-5",
        "wandb.name=7e7",
        "text.tokenizer=3e1",
        "lora.targets=.*embed",
        "text.action_tokenizer=1ewton",
    )
    assert (made.output_dir, made.datasets[0].root, made.init_from) == ("1e5", "2e3", "5e-5")
    assert (made.wandb.name, made.text.tokenizer) == ("7e7", "3e1")
    assert (made.lora.targets, made.text.action_tokenizer) == (".*embed", "1ewton")


def test_types_are_those_of_the_recipe():
    made = read("objective.beta=1", "objective.noise_scale=[1, 2]", "exploration.sigma_min=0")
    assert [type(x) for x in (made.objective.beta, *made.objective.noise_scale, made.exploration.sigma_min)] == [
        float
    ] * 4


# Policies.


def test_every_option_of_lerobots_policy_is_an_option_here():
    made = read(
        "policy.type=pi05_tiny",
        "policy.normalization_mapping.STATE=MEAN_STD",
        "policy.image_resolution=[28, 28]",
        "policy.freeze_vision_encoder=true",
    )
    assert made.policy.type == "pi05_tiny" and made.policy.freeze_vision_encoder is True
    assert made.policy.normalization_mapping["STATE"].value == "MEAN_STD"


def test_a_recipe_without_a_policy_leaves_it_to_the_checkpoint():
    assert recipe_from({"init_from": "runs/sft"}).policy is None


# Files.


def test_files_and_names(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("policy: {type: state_flow, device: cpu}\nsteps: 12\n")
    assert load_recipe(str(path), ["seed=3"]).steps == 12
    assert load_recipe("tiny/sft").policy.type == load_recipe("tiny/sft.yaml").policy.type == "state_flow"
    with pytest.raises(UsageError, match="none of that name in recipes; did you mean 'offline_rl'"):
        load_recipe("ofline_rl")
    path.write_text("stpes: 12\n")
    with pytest.raises(UsageError, match="mine.yaml: unknown key 'stpes'"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1, 2\n", "is not YAML"),
        (b"\xff\xfe\x00a", "is not YAML"),
        (b"a: &x [*x]\n- b\n", "is not YAML"),
        (b"- a\n- b\n", "holds no mapping of settings"),
        (b"", "holds no mapping of settings"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, message):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        read_yaml(path)
    assert "\n" not in str(error.value)


def test_a_resolved_recipe_is_read_as_itself():
    made = read(
        "critic.patience=3",
        "optimizer.learning_rate=5e-7",
        "datasets.0.root=a",
        "datasets.0.episodes=[1]",
        "policy.normalization_mapping.STATE=MIN_MAX",
    )
    again = recipe_from(yaml.safe_load(resolved_yaml(made)))
    assert again == made and resolved(again) == resolved(made)
    assert resolved(made)["policy"]["type"] == "state_flow"
    assert set(resolved(made)) == {f.name for f in dataclasses.fields(Recipe)}


def test_stages_of_other_verbs():
    refuse_other_verbs(Recipe(stage="hil"), "r", STAGES)
    for stage, verb in (("eval", "igrft eval"), ("record", "igrft record")):
        with pytest.raises(UsageError, match=f"mine: stage '{stage}' is not trained; run: {verb} mine"):
            refuse_other_verbs(Recipe(stage=stage), "mine", STAGES)
    with pytest.raises(UsageError, match="unknown stage 'offline'; did you mean 'offline_rl'"):
        refuse_other_verbs(Recipe(stage="offline"), "mine", STAGES)


# Recipes of other verbs.


@dataclasses.dataclass
class Entry:
    path: str | None = None
    weight: float = 1.0


@dataclasses.dataclass
class Extra:
    scale: float = 1.0


@dataclasses.dataclass
class Other:
    """What another verb's recipe may look like."""

    stage: str = "eval"
    entries: list[Entry] = dataclasses.field(default_factory=list)
    mixed: list[float | str] = dataclasses.field(default_factory=lambda: [1.0])
    extra: Extra | None = None
    free: dict[str, Any] | None = None


def test_any_dataclass_can_be_a_recipe():
    made = recipe_from(
        {"entries": [{"path": "1e5"}]},
        ["entries.1.path=007", "entries.1.weight=5e-1", "mixed=[1, word]", "extra.scale=2", "free.any.thing=3"],
        "mine",
        Other,
    )
    assert made.entries == [Entry("1e5"), Entry("007", 0.5)]
    assert made.mixed == [1.0, "word"] and made.extra == Extra(2.0) and made.free == {"any": {"thing": 3}}
    assert recipe_from({"extra": None}, [], "mine", Other).extra is None
    assert resolved(made)["extra"] == {"scale": 2.0}


@pytest.mark.parametrize(
    ("value", "overrides", "message"),
    [
        ({"entrys": []}, [], "mine: unknown key 'entrys'; did you mean 'entries'?"),
        ({"entries": [{"paht": "a"}]}, [], "unknown key 'entries.0.paht'; did you mean 'path'?"),
        ({"entries": {}}, [], "'entries' must be a list, got {}"),
        ({"extra": {"scael": 1}}, [], "unknown key 'extra.scael'; did you mean 'scale'?"),
        ({"extra": 3}, [], "'extra' must be a mapping, got 3"),
        ({}, ["extra.scael=1"], "unknown key 'extra.scael'; did you mean 'scale'?"),
        ({}, ["steps=1"], "unknown key 'steps'"),
    ],
)
def test_its_keys_are_checked_alike(value, overrides, message):
    with pytest.raises(UsageError) as error:
        recipe_from(value, overrides, "mine", Other)
    assert message in str(error.value)


def test_every_verb_names_the_other(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("stage: eval\nentries: []\n")
    assert load_recipe(str(path), ["entries.0.path=a"], Other).entries == [Entry("a")]
    with pytest.raises(UsageError, match="stage 'eval' is not trained; run: igrft eval .*mine.yaml"):
        load_recipe(str(path))
    path.write_text("stage: record\nrobot: {}\n")
    with pytest.raises(UsageError, match="igrft eval runs recipes of stage 'eval', .* 'record'; run: igrft record"):
        load_recipe(str(path), [], Other)
    with pytest.raises(UsageError, match="of stage 'sft'; run: igrft train tiny/sft"):
        load_recipe("tiny/sft", [], Other)
    path.write_text("stage: evla\n")
    with pytest.raises(UsageError, match="unknown stage 'evla'"):
        load_recipe(str(path))
    with pytest.raises(UsageError, match="this is of stage 'evla'$"):
        load_recipe(str(path), [], Other)


TYPOS = """
import sys
from igrft.cli.main import run

heavy = {"torch", "lerobot", "transformers"}
for words in (
    "train tiny/sft --stepz=5",
    "train tiny/sft --datasets.0.rot=a",
    "train tiny/sft --policy.type=pi06",
    "train tiny/sftt",
    "train tiny/eval",
    "rollout tiny/hil --rollout.epsiodes=2",
    "eval tiny/eval --epsiodes=2",
    "record record --epsiodes=2",
):
    print(run(words.split()), sorted(heavy & set(sys.modules)))
"""


def test_a_typo_is_told_before_torch_and_lerobot_are_imported():
    found = subprocess.run([sys.executable, "-c", TYPOS], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["2 []"] * 8
    told = [line.rpartition("; ")[2] for line in found.stderr.splitlines()]
    assert told == [
        "did you mean 'steps'?",
        "did you mean 'root'?",
        "did you mean 'pi05'?",
        "did you mean 'tiny/sft'?",
        "run: igrft eval tiny/eval",
        "did you mean 'episodes'?",
        "did you mean 'episodes'?",
        "did you mean 'episodes'?",
    ]
