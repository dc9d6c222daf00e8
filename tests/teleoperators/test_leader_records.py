"""Leader arms at work: LeRobot's own programs, and takeovers in a rollout. What fails loses the episode in progress."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dynamixel_emulator import SYNC_READ, SYNC_WRITE, Emulator, arm
from leader_arms import fields, unplug_after
from lerobot.datasets import LeRobotDataset
from mock_robot import camera, two_arms
from value_runs import tiny_checkpoint

from igrft import columns as c
from igrft.dataset.labels import load_labels, open_dataset
from igrft.errors import IgrftError, UsageError
from igrft.reports.validate import validate
from igrft.rollouts.devices import make_teleop_device
from igrft.rollouts.keys import ScriptedKeys
from igrft.rollouts.robot import RobotEmbodiment
from igrft.rollouts.run import rollout
from igrft.teleoperators.dynamixel_leader import BiDynamixelLeader, LeaderError
from igrft.training.recipe_file import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "plugins/lerobot_teleoperator_dynamixel_leader"
NAMES = ["shoulder", "elbow"]


@pytest.fixture
def arms() -> Iterator[tuple[Emulator, Emulator]]:
    with arm(2) as left, arm(2) as right:
        yield left, right


def settings(arms: tuple[Emulator, Emulator], folder: Path) -> dict[str, Any]:
    """``teleop`` of a recipe: the joints are the mock robot's."""
    left, right = (fields(e, names=NAMES) for e in arms)
    return {
        "type": "bi_dynamixel_leader",
        "id": "test",
        "calibration_dir": str(folder),
        "left_arm_config": left,
        "right_arm_config": right,
    }


def as_options(prefix: str, tree: dict[str, Any]) -> list[str]:
    out = []
    for key, value in tree.items():
        name = f"{prefix}.{key}"
        out += as_options(name, value) if isinstance(value, dict) else [f"--{name}={value}"]
    return out


def lerobot_record(arms: tuple[Emulator, Emulator], folder: Path, monkeypatch: Any, *, episodes: int) -> Path:
    from lerobot.scripts import lerobot_record as script

    root = folder / "recorded"
    words = as_options("teleop", settings(arms, folder / "teleop"))
    words += as_options("robot", two_arms(folder / "robot", {"cameras": {}}, {}))
    words += ["--teleop.discover_packages_path=igrft.teleoperators.dynamixel_leader", "--play_sounds=false"]
    words += [f"--dataset.root={root}", "--dataset.repo_id=local/recorded", "--dataset.single_task=reach up"]
    words += [f"--dataset.num_episodes={episodes}", "--dataset.episode_time_s=0.7", "--dataset.reset_time_s=0"]
    words += ["--dataset.push_to_hub=false", "--dataset.no_stamp=true"]
    monkeypatch.setattr(sys, "argv", ["lerobot-record", *(w for w in words if not w.endswith("cameras={}"))])
    script.main()
    return root


def test_lerobots_recorder_records_from_both_arms(arms: Any, tmp_path: Path, monkeypatch: Any) -> None:
    arms[0].hold_at({1: 2048 + 256})
    root = lerobot_record(arms, tmp_path, monkeypatch, episodes=2)
    dataset = LeRobotDataset("local/recorded", root=root)
    assert dataset.num_episodes == 2
    names = dataset.features["action"]["names"]
    assert names == [f"{s}_{j}.pos" for s in ("left", "right") for j in (*NAMES, "gripper")]
    assert dataset[5]["action"].tolist() == [22.5, 0, 0, 0, 0, 0]
    assert arms[0].torque == arms[1].torque == []


def test_a_cable_pulled_while_lerobots_recorder_runs(arms: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The episode in progress is lost, the one before it stands, and the other arm is let go of."""

    def first_episode() -> None:
        info = tmp_path / "recorded/meta/info.json"
        while not (info.exists() and '"total_episodes": 1' in info.read_text()):
            time.sleep(0.01)
        unplug_after(arms[0], 5)

    threading.Thread(target=first_episode, daemon=True).start()
    with pytest.raises(LeaderError, match=r"left arm: port .* is gone"):
        lerobot_record(arms, tmp_path, monkeypatch, episodes=3)
    dataset = LeRobotDataset("local/recorded", root=tmp_path / "recorded")
    assert dataset.num_episodes == 1 and 5 <= len(dataset) <= 22
    assert dataset[len(dataset) - 1]["task"] == "reach up"
    assert validate(tmp_path / "recorded", progress=False).ok
    assert arms[1].torque == []


# Takeovers.


def recipe(arms: Any, folder: Path, *more: str) -> Any:
    made = load_recipe(
        "tiny/hil",
        [
            "environment.type=robot",
            "environment.task=reach up",
            "environment.fps=30",
            "environment.max_steps=200",
            "rollout.human.type=teleop",
            "rollout.human.sound=false",
            "rollout.monitor.enabled=false",
            "rollout.safety.step=[3.0]",
            "rollout.reset_seconds=20",
            *more,
        ],
    )
    made.environment.robot = two_arms(folder / "robot", {"cameras": {"front": camera()}})
    made.rollout.human.teleop = settings(arms, folder / "teleop")
    return made


@pytest.fixture
def checkpoint(arms: Any, tmp_path: Path) -> Path:
    with RobotEmbodiment.from_settings(recipe(arms, tmp_path).environment) as body:
        return tiny_checkpoint(tmp_path / "policy", SimpleNamespace(features=body.features), kind="state_flow")


def test_a_human_takes_over_with_both_arms(arms: Any, tmp_path: Path, checkpoint: Path) -> None:
    made = recipe(arms, tmp_path, "rollout.episodes=1")
    arms[0].hold_at({1: 2048 + 300})  # 26 degrees from where the robot is
    keys = ScriptedKeys([(8, "space"), (20, "space"), (26, "s")], before=[(0, "enter")])
    root = tmp_path / "rollout"
    found = rollout(made, str(checkpoint), root, keys=keys)
    assert found.complete and found.interventions == 1 and found.successes == 1
    facts = json.loads((root / "meta/igrft_rollout.json").read_text())["episodes"][0]
    assert facts["takeovers"][0]["by"] == "bi_dynamixel_leader"
    action = open_dataset(root).column(0, c.ACTION)
    driven = load_labels(open_dataset(root), [c.INTERVENTION]).episode(0)[c.INTERVENTION]
    assert driven.sum() == 12
    start = int(np.argmax(driven))
    # The leader came to the robot: where the human begins, the robot goes on from where the policy left it.
    assert np.abs(action[start] - action[start - 1]).max() < 0.5
    assert all(e.torque == [] for e in arms)


@pytest.mark.parametrize(("instruction", "count"), [(SYNC_READ, 40), (SYNC_WRITE, 20)])
def test_a_cable_pulled_while_a_human_drives(
    arms: Any, tmp_path: Path, checkpoint: Path, instruction: int, count: int
) -> None:
    """While the hand guides the leader; and while the leader, under torque, is on its way to the robot."""
    made = recipe(arms, tmp_path, "rollout.episodes=2")
    one, two = [(8, "space"), (20, "s"), (22, "enter")], [(8, "space"), (190, "s")]
    root, said = tmp_path / "rollout", []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("episode 0"):
            unplug_after(arms[1], count, instruction)

    with pytest.raises(IgrftError) as raised:
        rollout(made, str(checkpoint), root, keys=ScriptedKeys(one, two, before=[(0, "enter")]), say=say)
    assert str(raised.value) == (
        f"right arm: port {arms[1].port} is gone, and with it shoulder (id 1), elbow (id 2), gripper (id 3): plug the "
        "cable in and start again"
    )
    assert LeRobotDataset("local/rollout", root=root).num_episodes == 1 and validate(root, progress=False).ok
    assert arms[0].torque == [] and any(line.startswith("episode 0: success") for line in said)


# How it is found.


def test_igrft_finds_it_by_its_type(arms: Any, tmp_path: Path) -> None:
    made = make_teleop_device(settings(arms, tmp_path))
    assert isinstance(made, BiDynamixelLeader) and not made.is_connected
    wrong = settings(arms, tmp_path)
    wrong["left_arm_config"]["signs"] = [2, 2]
    with pytest.raises(UsageError, match=r"rollout.human.teleop: .*signs must be 1 or -1, got \[2, 2\]"):
        make_teleop_device(wrong)


def test_without_the_sdk_it_says_what_to_install(arms: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from igrft import extras

    monkeypatch.setitem(extras._PACKAGES, "robot", ("no_such_package",))
    with pytest.raises(UsageError) as raised:
        make_teleop_device(settings(arms, tmp_path))
    assert str(raised.value) == (
        "a leader arm of Dynamixel servos needs no_such_package; run: pip install 'igrft[robot]'"
    )


@pytest.mark.slow
def test_lerobots_calibration_finds_the_plugin_and_calibrates(tmp_path: Path) -> None:
    """The plugin as it is installed: built, unpacked, and found by the name of its distribution."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=PLUGIN, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(tmp_path / "site")], check=True)
    with arm(2) as emulator:
        words = ["--teleop.type=dynamixel_leader", "--teleop.id=gello", f"--teleop.port={emulator.port}"]
        words += ["--teleop.ids=[1, 2]", f"--teleop.calibration_dir={tmp_path}", "--teleop.gripper_id=3"]
        words += ["--teleop.gripper_closed=3.0", "--teleop.gripper_open=3.5"]
        done = subprocess.run(
            [sys.executable, "-c", "from lerobot.scripts.lerobot_calibrate import main; main()", *words],
            input="\n",
            text=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
    stored = json.loads((tmp_path / "gello.json").read_text())
    assert stored["joint_1"]["homing_offset"] == -2048
    assert stored["gripper"] == {"id": 3, "drive_mode": 0, "homing_offset": 0, "range_min": 1956, "range_max": 2282}
