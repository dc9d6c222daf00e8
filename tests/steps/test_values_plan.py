"""The `values` step before any work: what it takes from a checkpoint, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import add_column
from labelled_set import CAMERA, make_labelled_set
from value_runs import CRITIC_SETTINGS, write_checkpoint, write_run

from igrft import columns as c
from igrft.cli.main import run
from igrft.dataset.fingerprint import fingerprint
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.pipeline.config import Pipeline, load_pipeline
from igrft.pipeline.plan import make_plan
from igrft.steps.base import Step
from igrft.steps.values import Values

REWARDS = (c.REWARD_TRAJECTORY, c.REWARD_SUBTASK)


@pytest.fixture
def labelled(tmp_path):
    return DatasetReader.open(make_labelled_set(tmp_path / "labelled"))


def resolved(dataset: DatasetReader, checkpoint: Path, **settings) -> Values:
    return Values(checkpoint=str(checkpoint), **settings).resolve(dataset)


def test_it_is_a_heavy_step_in_one_process():
    step = Values()
    assert isinstance(step, Step) and step.heavy and step.max_workers == 1 and step.needs == ()
    assert step.takes == REWARDS
    assert step.makes == (c.VALUE_TRAJECTORY, c.VALUE_SUBTASK, c.VALUE, c.INTERACTION_PROBABILITY, c.ADVANTAGE)


def test_what_is_left_open_is_what_the_critic_was_trained_with(labelled, tmp_path):
    step = resolved(labelled, write_run(tmp_path / "run"))
    assert (step.trajectory_weight, step.subtask_weight, step.discount, step.steps) == (0.25, 0.75, 0.9, 3)
    assert step.reward == "hybrid" and step.checkpoint == str(tmp_path / "run/checkpoints/000007")
    own = resolved(labelled, tmp_path / "run", trajectory_weight=1.0, subtask_weight=0.0, discount=1.0, steps=9)
    assert (own.trajectory_weight, own.subtask_weight, own.discount, own.steps) == (1.0, 0.0, 1.0, 9)
    plain = write_checkpoint(tmp_path / "plain", critic={**CRITIC_SETTINGS, "advantage_steps": None}, chunk=5)
    assert resolved(labelled, plain).steps == 5, "N is the action chunk"


def test_a_run_a_checkpoint_and_its_policy_folder_are_one(labelled, tmp_path):
    root = write_run(tmp_path / "run")
    places = (
        root,
        root / "checkpoints/last",
        root / "checkpoints/000007",
        root / "checkpoints/000007/pretrained_model",
    )
    assert len({resolved(labelled, place) for place in places}) == 1


def test_the_digest_follows_policy_processors_and_critic(labelled, tmp_path):
    root = write_checkpoint(tmp_path / "a")
    first = resolved(labelled, root)
    shutil.copytree(root, tmp_path / "b")
    (tmp_path / "b/training_state/state.json").write_text("{}")
    assert resolved(labelled, tmp_path / "b").settings() == first.settings(), "its place does not count"
    for number, name in enumerate(
        ("critic/model.safetensors", "pretrained_model/model.safetensors", "pretrained_model/policy_preprocessor.json")
    ):
        changed = shutil.copytree(root, tmp_path / f"changed{number}")
        text = (changed / name).read_bytes()
        (changed / name).write_bytes(text + b" ")
        assert resolved(labelled, changed).digest != first.digest
    with pytest.raises(IgrftError, match=f"digest {first.digest}, not abc"):
        resolved(labelled, root, digest="abc")
    assert resolved(labelled, root, digest=first.digest) == first


def test_large_files_are_hashed_whole_and_in_order(tmp_path, monkeypatch):
    from igrft.steps.values import checkpoint

    monkeypatch.setattr(checkpoint, "_CHUNK", 1000)
    (tmp_path / "a").mkdir()
    data = np.random.default_rng(0).integers(0, 256, 5300, dtype=np.uint8)
    found = set()
    for change in (None, 0, 999, 1000, 5299):
        other = data.copy()
        if change is not None:
            other[change] ^= 1
        (tmp_path / "a/w").write_bytes(other.tobytes())
        found.add(checkpoint.digest_of_folders([tmp_path / "a"]))
    (tmp_path / "a/w").write_bytes(np.roll(data, 1000).tobytes())
    found.add(checkpoint.digest_of_folders([tmp_path / "a"]))
    assert len(found) == 6


def test_device_batch_and_place_key_nothing(labelled, tmp_path):
    step = resolved(labelled, write_checkpoint(tmp_path / "run"))
    other = dataclasses.replace(step, device="cpu", batch_size=7, checkpoint="elsewhere")
    assert other.settings() == step.settings()
    for change in ({"discount": 0.5}, {"steps": 1}, {"trajectory_weight": 0.0}, {"reward": "sparse"}):
        assert dataclasses.replace(step, **change).settings() != step.settings()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"discount": 1.5}, "discount must lie in"),
        ({"subtask_weight": -1.0}, "subtask_weight must not be negative"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UsageError, match=message):
        Values(**settings)


def test_checkpoints_that_are_none(labelled, tmp_path):
    with pytest.raises(UsageError, match=r"needs a checkpoint.*--steps\.values\.checkpoint=RUN"):
        Values().resolve(labelled)
    with pytest.raises(UsageError, match="no checkpoint at .*nowhere"):
        resolved(labelled, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="has no critic beside its policy"):
        resolved(labelled, write_checkpoint(tmp_path / "sft", critic=None))
    (tmp_path / "young/checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="run without a checkpoint yet"):
        resolved(labelled, tmp_path / "young")
    with pytest.raises(UsageError, match="policy of type 'act'; known: pi05"):
        resolved(labelled, write_checkpoint(tmp_path / "act", kind="act"))
    broken = write_checkpoint(tmp_path / "broken")
    (broken / "critic/config.json").write_text("{")
    with pytest.raises(IgrftError, match=r"critic/config\.json cannot be read"):
        resolved(labelled, broken)


def test_a_device_that_is_not_there(labelled, tmp_path):
    with pytest.raises(UsageError, match="device 'tpu9' cannot be used"):
        resolved(labelled, write_checkpoint(tmp_path / "run"), device="tpu9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "pi05", "cameras": ("observation.images.wrist",)}, "no camera 'observation.images.wrist'"),
        ({"states": {c.STATE: 14}}, r"has shape \[3\] in .*, and the checkpoint's policy wants \[14\]"),
        ({"states": {"observation.torque": 3}}, "no column 'observation.torque'"),
    ],
)
def test_inputs_that_the_dataset_has_not(labelled, tmp_path, options, message):
    with pytest.raises(IgrftError, match=message):
        resolved(labelled, write_checkpoint(tmp_path / "run", **options))


def test_a_camera_without_files(labelled, tmp_path):
    shutil.rmtree(labelled.root / "videos")
    with pytest.raises(IgrftError, match="has no file in any episode"):
        resolved(labelled, write_checkpoint(tmp_path / "run", kind="pi05", cameras=(CAMERA,)))


def test_inputs_that_are_renamed_made_up_or_not_looked_at(labelled, tmp_path):
    cameras = ("observation.images.base", "observation.images.empty_camera_0")
    options = {"kind": "pi05", "cameras": cameras}
    with pytest.raises(IgrftError, match="no camera 'observation.images.base'"):
        resolved(labelled, write_checkpoint(tmp_path / "a", **options))
    resolved(labelled, write_checkpoint(tmp_path / "b", renames={CAMERA: cameras[0]}, **options))
    # A policy that looks at state alone may have cameras among its features.
    resolved(labelled, write_checkpoint(tmp_path / "c", cameras=("observation.images.wrist",)))


# Where the rewards of the advantage come from.


def plan_of(dataset: DatasetReader, *steps: object):
    return make_plan(Pipeline("p", tuple(steps)), dataset, fingerprint(dataset.root))


def test_rewards_are_those_of_the_dataset(labelled, tmp_path):
    plan = plan_of(labelled, Values(checkpoint=str(write_checkpoint(tmp_path / "run"))))
    assert plan.producers == ((),) and plan.columns == list(Values().makes)


def test_rewards_of_an_earlier_step_come_first(labelled, tmp_path):
    file = load_pipeline("rewards").steps
    values = Values(checkpoint=str(write_checkpoint(tmp_path / "run")))
    plan = plan_of(labelled, *file, values)
    rewards = [s.type for s in plan.steps].index("rewards")
    assert plan.producers[-1] == (rewards,)
    with pytest.raises(IgrftError, match="'values' needs 'reward_trajectory'.*move step 'rewards' before it"):
        plan_of(labelled, values, *file)


def test_no_rewards_anywhere(tmp_path):
    bare = DatasetReader.open(make_labelled_set(tmp_path / "bare", labels=False))
    message = (
        "'values' needs 'reward_trajectory', which nothing before it makes and the dataset does not have; "
        "add a step 'rewards' before it"
    )
    with pytest.raises(IgrftError, match=message):
        plan_of(bare, Values(checkpoint=str(write_checkpoint(tmp_path / "run"))))


def test_half_the_rewards(source, tmp_path):
    add_column(source, c.REWARD_TRAJECTORY, lambda n, _: np.zeros(n, np.float32), "float32")
    with pytest.raises(IgrftError, match="needs 'reward_subtask', which nothing before it makes and the dataset"):
        plan_of(DatasetReader.open(source), Values(checkpoint=str(write_checkpoint(tmp_path / "run"))))


# On the command line.


def test_the_pipeline_that_comes_along_says_what_it_wants(labelled, tmp_path, capsys):
    arguments = ["annotate", str(labelled.root), str(tmp_path / "out"), "--pipeline", "values", "-q"]
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert "needs a checkpoint" in error and error.count("\n") == 1
    assert run([*arguments, "--steps.values.checkpont=x"]) == 2
    assert "did you mean 'checkpoint'" in capsys.readouterr().err
    assert run([*arguments, f"--steps.values.checkpoint={tmp_path}/nothing"]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_in_a_file_is_relative_to_the_file(tmp_path):
    (tmp_path / "p.yaml").write_text(json.dumps({"steps": [{"type": "values", "checkpoint": "runs/a"}]}))
    assert load_pipeline(str(tmp_path / "p.yaml")).steps[0].checkpoint == str(tmp_path / "runs/a")
