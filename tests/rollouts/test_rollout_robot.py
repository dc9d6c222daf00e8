"""A robot, a policy and a human with keys and a leader arm: what is recorded, and that everything after it takes it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mock_robot import arm, camera, leader
from value_runs import tiny_checkpoint

from igrft import columns as c
from igrft.cli.main import run as cli
from igrft.dataset.labels import load_labels, open_dataset
from igrft.rollouts.keys import ScriptedKeys
from igrft.rollouts.robot import RobotEmbodiment
from igrft.rollouts.run import rollout
from igrft.rollouts.settings import EnvironmentSettings
from igrft.training.recipe_file import load_recipe

FPS = 30


def recipe(tmp_path, *more):
    made = load_recipe(
        "tiny/hil",
        [
            "environment.type=robot",
            "environment.task=reach up",
            f"environment.fps={FPS}",
            "environment.max_steps=60",
            "rollout.human.type=teleop",
            "rollout.human.sound=false",
            "rollout.monitor.enabled=false",
            "rollout.safety.step=[3.0]",
            "rollout.reset_seconds=20",
            *more,
        ],
    )
    made.environment.robot = arm(tmp_path / "robot", cameras={"front": camera()})
    made.rollout.human.teleop = leader(tmp_path / "leader")
    return made


@pytest.fixture
def checkpoint(tmp_path):
    made = recipe(tmp_path)
    with RobotEmbodiment.from_settings(made.environment) as body:
        from types import SimpleNamespace

        return tiny_checkpoint(tmp_path / "policy", SimpleNamespace(features=body.features), kind="state_flow")


@pytest.mark.parametrize("inference", ["sync", "rtc"])
def test_scripted_keys_make_a_dataset_that_annotate_validate_and_train_accept(tmp_path, checkpoint, inference):
    queue = ["rollout.inference.queue=3", "rollout.inference.horizon=2"] if inference == "rtc" else []
    made = recipe(tmp_path, "rollout.episodes=3", f"rollout.inference.type={inference}", *queue)
    keys = ScriptedKeys(
        # Take over, hand back, success; the scene is reset.
        [(8, "space"), (20, "space"), (30, "s"), (34, "enter")],
        # A failure, which the human wants to record again while the scene is reset.
        [(10, "f"), (13, "r"), (16, "enter")],
        [(12, "space"), (24, "s"), (28, "enter")],
        [(15, "f"), (18, "enter")],
        before=[(0, "enter")],
    )
    root = tmp_path / "rollout_arm_0"
    said: list[str] = []
    found = rollout(made, str(checkpoint), root, say=said.append, keys=keys)
    assert found.complete
    facts = json.loads((root / "meta/igrft_rollout.json").read_text())["episodes"]
    assert [f["success"] for f in facts] == [True, True, False], said
    assert [[(t["by"], t["why"]) for t in f["takeovers"]] for f in facts] == [
        [("mock_leader", "the human asked")],
        [("mock_leader", "the human asked")],
        [],
    ]
    assert any("taken back" in line for line in said)
    reader = open_dataset(root)
    columns = load_labels(reader, [c.INTERVENTION, c.SUCCESS])
    for episode, entry in enumerate(facts):
        driven = columns.episode(episode)[c.INTERVENTION]
        takeovers = entry["takeovers"]
        assert driven.sum() == sum(t["end"] - t["start"] for t in takeovers)
        assert columns.episode(episode)[c.SUCCESS].any() == entry["success"]
        # Nobody jumps: not the policy, not the human, not where one follows the other.
        action = reader.column(episode, c.ACTION)
        assert np.abs(np.diff(action, axis=0)).max() <= 3.0 + 1e-4

    labelled = tmp_path / "labelled"
    assert cli(["annotate", str(root), str(labelled), "--workers", "1", "-q"]) == 0
    assert cli(["validate", str(labelled), "-q"]) == 0
    words = [f"--datasets.0.root={labelled}", f"--output_dir={tmp_path / 'run'}", "--steps=4", "--batch_size=8"]
    words += ["--critic.start=1", "--critic.holdout=0.34", "--save_every=4"]
    assert cli(["train", "tiny/sft", *words, "-q"]) == 0


def test_a_robot_without_anyone_to_judge_is_refused(tmp_path, checkpoint, capsys):
    made = recipe(tmp_path, "rollout.human.type=none")
    from igrft.errors import UsageError

    with pytest.raises(UsageError, match="nobody can say whether a robot's episode succeeded"):
        rollout(made, str(checkpoint), tmp_path / "r")


def test_what_the_environment_gives_is_held_against_what_the_policy_reads(tmp_path, checkpoint):
    from igrft.errors import UsageError

    made = recipe(tmp_path)
    made.environment = EnvironmentSettings(type="metaworld", task="shelf-place-v3", pictures=False)
    made.rollout.human.type = "none"
    with pytest.raises(UsageError, match="observation.state"):
        rollout(made, str(checkpoint), tmp_path / "r")
