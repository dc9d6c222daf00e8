"""Recording demonstrations: a mock robot, emulated leader arms, scripted keys, and LeRobot's own loop and files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dynamixel_emulator import Emulator, arm
from leader_arms import fields, unplug_after
from lerobot.datasets import LeRobotDataset
from mock_robot import camera, two_arms

from igrft import columns as c
from igrft.cli.main import run as cli
from igrft.dataset.labels import load_labels, open_dataset
from igrft.demonstrations.recipe import RecordRecipe, check_recipe
from igrft.demonstrations.run import RecordResult, record, record_root
from igrft.errors import IgrftError, UsageError
from igrft.reports.validate import validate
from igrft.rollouts.keys import ScriptedKeys
from igrft.training.recipe_file import load_recipe, resolved

ROOT = Path(__file__).resolve().parents[2]
TASK_FILE = "goal: reach up with both arms\nmatch: [reach up]\nsubtasks: [lift the left arm, lift the right arm]\n"


@pytest.fixture
def arms() -> Iterator[tuple[Emulator, Emulator]]:
    with arm(2) as left, arm(2) as right:
        yield left, right


def teleop(arms: tuple[Emulator, Emulator], folder: Path) -> dict[str, Any]:
    left, right = (fields(e, names=["shoulder", "elbow"]) for e in arms)
    here = str(folder / "teleop")
    return {"type": "bi_dynamixel_leader", "calibration_dir": here, "left_arm_config": left, "right_arm_config": right}


def recipe(arms: tuple[Emulator, Emulator], folder: Path, *more: str, **robot: Any) -> RecordRecipe:
    (folder / "task.yaml").write_text(TASK_FILE)
    words = [f"root={folder / 'recorded'}", f"task_file={folder / 'task.yaml'}", "human.sound=false", *more]
    made = load_recipe("record", words, RecordRecipe)
    made.environment.robot = two_arms(folder / "robot", {"cameras": {"front": camera()}, **robot})
    made.human.teleop = teleop(arms, folder)
    return made


@contextmanager
def moving(arms: tuple[Emulator, Emulator]) -> Iterator[None]:
    """A hand moves both arms slowly, wherever they are let loose: half a degree in 10 ms, to and fro."""
    over = threading.Event()

    def move() -> None:
        step = 0
        while not over.wait(0.01):
            step += 1
            for each in arms:
                here = {i: s.get("Present_Position") for i, s in each.servos.items()}
                each.hold_at({i: p + (6 if step % 100 < 50 else -6) for i, p in here.items()})

    hand = threading.Thread(target=move)
    hand.start()
    try:
        yield
    finally:
        over.set()
        hand.join()


def go(made: RecordRecipe, *episodes: Any, said: list[str] | None = None) -> RecordResult:
    keys = ScriptedKeys(*episodes, before=[(3, "enter")])
    return record(made, say=(said if said is not None else []).append, keys=keys)


def test_a_recorded_set_needs_no_convert(arms: Any, tmp_path: Path) -> None:
    """Success, failure, one recorded again at once, one taken back in the reset phase; then labelled and validated."""
    said: list[str] = []
    arms[0].hold_at({1: 2048 + 512})
    with moving(arms):
        found = go(
            recipe(arms, tmp_path, "episodes=3"),
            [(20, "s"), (24, "enter")],
            [(8, "r"), (12, "enter")],
            [(15, "f"), (18, "r"), (22, "enter")],
            [(12, "f"), (15, "right")],
            [(18, "right")],
            said=said,
        )
    assert found.complete and found.recorded == [(20, True), (12, False), (18, True)], said
    assert any("episode 1: to be recorded again" in s for s in said) and any("taken back" in s for s in said)
    dataset = LeRobotDataset("local/recorded", root=found.root)
    assert (dataset.fps, dataset.num_episodes, len(dataset)) == (30, 3, 50)
    assert dataset[3]["task"] == "reach up" and dataset[49]["next.success"] and dataset[49]["next.done"]
    assert dataset[3]["observation.images.left_front"].shape == (3, 32, 48)
    columns = load_labels(open_dataset(found.root), [c.SUCCESS, c.DONE])
    assert [int(columns.episode(e)[c.SUCCESS].sum()) for e in range(3)] == [1, 0, 1]
    assert all(columns.episode(e)[c.DONE].tolist() == [False] * (n - 1) + [True] for e, n in enumerate((20, 12, 18)))
    # The leader, 45 degrees away, came to the robot, which was at 0, before the hand moved both.
    action = open_dataset(found.root).column(0, c.ACTION)
    assert np.abs(action[0]).max() < 15 and 1 < np.abs(np.diff(action, axis=0)).max() < 10
    assert not list(tmp_path.glob(".recorded*")) and not (found.root / "images").exists()
    assert validate(found.root, progress=False).ok
    labelled = tmp_path / "labelled"
    words = [f"--steps.subtasks.task={tmp_path / 'task.yaml'}", "--steps.subtasks.shortest=0.1", "--workers", "1", "-q"]
    assert cli(["annotate", str(found.root), str(labelled), *words]) == 0
    assert cli(["validate", str(labelled), "-q"]) == 0


def test_recording_goes_on_where_it_was(arms: Any, tmp_path: Path) -> None:
    first = go(recipe(arms, tmp_path, "episodes=2"), [(10, "s"), (14, "esc")])
    assert not first.complete and first.recorded == [(10, True)]
    second = go(recipe(arms, tmp_path, "episodes=2"), [(11, "f")])
    assert second.complete and second.episodes == 2 and second.recorded == [(11, False)]
    assert LeRobotDataset("local/recorded", root=second.root).num_episodes == 2
    assert validate(second.root, progress=False).ok
    third = go(recipe(arms, tmp_path, "episodes=2"))
    assert third.complete and third.recorded == []
    with pytest.raises(IgrftError, match="was recorded otherwise: mock_two_arms at 30 Hz, not mock_two_arms at 20"):
        go(recipe(arms, tmp_path, "episodes=3", "environment.fps=20"), [(5, "s")])


def test_stopping_in_the_first_episode_leaves_nothing(arms: Any, tmp_path: Path) -> None:
    found = go(recipe(arms, tmp_path), [(5, "esc")])
    assert not found.complete and not found.root.exists() and not list(tmp_path.glob(".recorded*"))
    assert arms[0].torque == arms[1].torque == []


def test_a_time_limit_and_limits_of_the_action(arms: Any, tmp_path: Path) -> None:
    said: list[str] = []
    made = recipe(arms, tmp_path, "episodes=1", "environment.max_steps=15", "safety.high=[10.0]", "human.smooth=false")
    arms[0].hold_at({1: 2048 + 512})
    found = go(made, [], said=said)
    assert found.recorded == [(15, False)] and any("nobody said" in s for s in said)
    action = open_dataset(found.root).column(0, c.ACTION)
    assert action[:, 0].tolist() == [10] * 15


def test_limits_that_cut_too_long_end_an_episode(arms: Any, tmp_path: Path) -> None:
    made = recipe(arms, tmp_path, "episodes=1", "safety.high=[10.0]", "safety.stop_after=6", "human.smooth=false")
    arms[0].hold_at({1: 2048 + 512})
    assert go(made, [(100, "s")]).recorded == [(6, False)]


def test_a_cable_pulled_while_recording(arms: Any, tmp_path: Path) -> None:
    """What is complete stands; the robot and the other arm are let go of."""
    said: list[str] = []
    keys = ScriptedKeys([(10, "s"), (14, "enter")], [(200, "s")], before=[(3, "enter")])

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("episode 0: success"):
            unplug_after(arms[0], 12)

    with pytest.raises(IgrftError, match=r"left arm: port .* is gone, and with it shoulder"):
        record(recipe(arms, tmp_path, "episodes=2"), say=say, keys=keys)
    assert LeRobotDataset("local/recorded", root=tmp_path / "recorded").num_episodes == 1
    assert validate(tmp_path / "recorded", progress=False).ok and arms[1].torque == []


def test_a_robot_that_fails_in_the_reset_phase_loses_no_episode(arms: Any, tmp_path: Path) -> None:
    made = recipe(arms, tmp_path, "episodes=2", nan_at=40)
    with pytest.raises(IgrftError, match=r"robot mock_two_arms reads left_elbow.pos as nan"):
        go(made, [(10, "s"), (500, "enter")])
    assert LeRobotDataset("local/recorded", root=tmp_path / "recorded").num_episodes == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["environment.type=metaworld"], "a robot is recorded; simulated demonstrations come from igrft convert"),
        (["human.type=keys"], "somebody drives, with a teleop"),
        (["episodes=0"], "episodes must be at least 1"),
        (["reset_seconds=-1"], "reset_seconds must not be negative"),
        (["environment.fps=29.97"], "environment.fps must be a whole number above 0, got 29.97"),
        (["environment.max_steps=0"], "max_steps must be at least 1"),
        (["environment.task=fold a shirt"], "is for 'reach up': it would not label this set"),
        (["task_file=null"], "say in one sentence what is done"),
        (["encoder.vcodec=h266"], "the video encoder's settings"),
    ],
)
def test_recipes_that_cannot_be_recorded(arms: Any, tmp_path: Path, given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        go(recipe(arms, tmp_path, *given))


CHILD = """
import json, sys
import mock_robot
from igrft.demonstrations.recipe import RecordRecipe
from igrft.demonstrations.run import record
from igrft.rollouts.keys import ScriptedKeys
from igrft.training.recipe_file import recipe_from
made = recipe_from(json.loads(sys.argv[1]), [], "recipe", RecordRecipe)
keys = ScriptedKeys([(10, "s"), (14, "enter")], [(5000, "s")], before=[(3, "enter")])
found = record(made, say=lambda line: print(line, flush=True), keys=keys)
print(found.complete, found.episodes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_episode_that_is_complete_survives_every_signal(arms: Any, tmp_path: Path, number: signal.Signals) -> None:
    made = resolved(recipe(arms, tmp_path, "episodes=2"))
    path = f"{ROOT / 'tests'}:{ROOT / 'benchmarks'}:{ROOT}"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(made)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert any(line.startswith("episode 0: success") for line in child.stdout)
    while not (tmp_path / "recorded/images").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(number)
    told = child.stdout.read()
    child.wait()
    if number is not signal.SIGKILL:
        assert "episode 1: stopped" in told and "False 1" in told
        assert arms[0].torque == arms[1].torque == [] and not (tmp_path / "recorded/images").exists()
    assert LeRobotDataset("local/recorded", root=tmp_path / "recorded").num_episodes == 1
    assert validate(tmp_path / "recorded", progress=False).ok
    found = go(recipe(arms, tmp_path, "episodes=2"), [(9, "s")])
    assert found.complete and len(LeRobotDataset("local/recorded", root=found.root)) == 19


def test_a_folder_of_something_else_is_left_alone(arms: Any, tmp_path: Path) -> None:
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded/notes.txt").write_text("mine")
    with pytest.raises(IgrftError, match="holds something else than a dataset"):
        go(recipe(arms, tmp_path))
    assert (tmp_path / "recorded/notes.txt").read_text() == "mine"


def test_a_recipe_without_types_is_of_a_robot_and_a_teleoperator(tmp_path: Path) -> None:
    """A recipe of one's own names devices alone."""
    (tmp_path / "my.yaml").write_text("stage: record\nenvironment: {task: t}\nhuman: {sound: false}\n")
    made = load_recipe(str(tmp_path / "my.yaml"), [], RecordRecipe)
    check_recipe(made, "my")
    assert (made.environment.type, made.human.type) == ("robot", "teleop")


def test_the_folder_is_named_after_the_task() -> None:
    made = RecordRecipe()
    made.environment.task = "Pick up the can!"
    assert record_root(made) == Path("recorded_pick-up-the-can")


def test_another_verbs_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["record", "hil"]) == 2
    assert "igrft record runs recipes of stage 'record'" in capsys.readouterr().err
    assert cli(["train", "record"]) == 2
    assert "run: igrft record record" in capsys.readouterr().err
