"""A LeRobot robot as something that a rollout drives; the robot is a mock that subclasses LeRobot's Robot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot.processor import RobotActionProcessorStep, RobotProcessorPipeline, make_default_processors
from lerobot.processor.converters import robot_action_observation_to_transition, transition_to_robot_action
from mock_robot import MockArm, arm, camera, two_arms, write_plugin

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.protocols import Embodiment, Status
from igrft.rollouts.robot import RobotEmbodiment
from igrft.rollouts.safety import Limiter
from igrft.rollouts.settings import EnvironmentSettings, SafetySettings

TASK = "put the cube into the box"
NAMES = ("shoulder.pos", "elbow.pos", "gripper.pos")


def settings(robot: dict[str, Any] | None, **more: Any) -> EnvironmentSettings:
    return EnvironmentSettings(**{"type": "robot", "task": TASK, "robot": robot, **more})


@pytest.fixture
def robots(tmp_path: Path) -> Iterator[Any]:
    """Makes connected robots, and lets go of them."""
    made: list[RobotEmbodiment] = []

    def make(task: str = TASK, fps: float = 30.0, **options: Any) -> RobotEmbodiment:
        with_arms = "left" in options or "right" in options
        robot = two_arms(tmp_path, **options) if with_arms else arm(tmp_path, **options)
        made.append(RobotEmbodiment.from_settings(settings(robot, task=task, fps=fps)))
        return made[-1]

    yield make
    for robot in made:
        robot.close()


def device(robot: RobotEmbodiment) -> Any:
    return robot._robot


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_it_is_an_embodiment_with_the_recorders_features(robots: Any) -> None:
    robot = robots(cameras={"front": camera(48, 32)}, wheels=True, fps=20.0)
    assert isinstance(robot, Embodiment)
    assert (robot.name, robot.robot_type, robot.fps, robot.task) == ("mock_arm", "mock_arm", 20.0, TASK)
    assert robot.realtime and robot.subtasks == () and robot.status() == Status()
    joints = [*NAMES, "x.vel"]
    assert robot.features["action"] == {"dtype": "float32", "shape": (4,), "names": joints}
    assert robot.features["observation.state"] == {"dtype": "float32", "shape": (4,), "names": joints}
    picture = robot.features["observation.images.front"]
    assert (picture["dtype"], picture["shape"]) == ("video", (32, 48, 3))


def test_it_sees_and_acts(robots: Any) -> None:
    robot = robots(cameras={"front": camera()})
    robot.reset(3)
    seen = robot.observe()
    assert set(seen) == {"observation.state", "observation.images.front"}
    assert seen["observation.state"].dtype == np.float32 and seen["observation.state"].tolist() == [0, 0, 0]
    before = seen["observation.images.front"]
    assert before.dtype == np.uint8 and before.shape == (32, 48, 3)
    sent = robot.act(vector(40, -20, 10))
    assert sent.dtype == np.float32 and sent.tolist() == [40, -20, 10] == robot.last_sent.tolist()
    seen = robot.observe()
    assert seen["observation.state"].tolist() == [20, -10, 5]  # half of the way
    assert (seen["observation.images.front"] != before).any()
    robot.reset(4)
    assert robot.last_sent is None


def test_what_was_sent_is_what_the_driver_says(robots: Any) -> None:
    robot = robots(max_relative_target=5.0)
    assert robot.act(vector(40, 3, -40)).tolist() == [5, 3, -5]
    assert device(robot).sent[-1] == {"shoulder.pos": 5.0, "elbow.pos": 3.0, "gripper.pos": -5.0}


def test_two_arms(robots: Any) -> None:
    robot = robots(left={"cameras": {"wrist": camera()}}, right={"cameras": {"wrist": camera()}})
    assert robot.action_names == tuple(f"{s}_{n}" for s in ("left", "right") for n in NAMES)
    assert {"observation.images.left_wrist", "observation.images.right_wrist"} < set(robot.observe())
    robot.act(vector(1, 2, 3, 4, 5, 6))
    assert device(robot).right_arm.bus.goal == {"shoulder": 4, "elbow": 5, "gripper": 6}


def test_another_order_of_actions(tmp_path: Path) -> None:
    order = [NAMES[2], NAMES[0], NAMES[1]]
    with RobotEmbodiment.from_settings(settings(arm(tmp_path)), action_names=order) as robot:
        assert robot.features["action"]["names"] == order
        robot.act(vector(1, 2, 3))
        assert device(robot).bus.goal == {"gripper": 1, "shoulder": 2, "elbow": 3}
    with pytest.raises(UsageError, match=r"policy's actions \(a, b\) are not those of robot mock_arm \(shoulder.pos, "):
        RobotEmbodiment.from_settings(settings(arm(tmp_path)), action_names=["a", "b"])


def test_another_thread_may_use_it(tmp_path: Path) -> None:
    from lerobot.rollout.robot_wrapper import ThreadSafeRobot

    with RobotEmbodiment.from_settings(settings(arm(tmp_path)), threaded=True) as robot:
        assert isinstance(robot._driver, ThreadSafeRobot)
        assert robot.act(vector(2, 0, 0)).tolist() == [2, 0, 0]
        assert robot.observe()["observation.state"].tolist() == [1, 0, 0]
    assert not device(robot).is_connected


class Doubled(RobotActionProcessorStep):
    """Motors count in half units."""

    def action(self, action: dict) -> dict:
        return {k: 2 * v for k, v in action.items()}

    def transform_features(self, features: dict) -> dict:
        return features


def test_actions_in_units_other_than_the_motors(tmp_path: Path) -> None:
    """What the driver cut in its own units is not taken for the dataset's."""
    teleop, _, observation = make_default_processors()
    action = RobotProcessorPipeline(
        [Doubled()], to_transition=robot_action_observation_to_transition, to_output=transition_to_robot_action
    )
    with RobotEmbodiment.from_settings(
        settings(arm(tmp_path, max_relative_target=5.0)), processors=(teleop, action, observation)
    ) as robot:
        assert robot.act(vector(1, 2, 40)).tolist() == [1, 2, 40]
        assert device(robot).bus.goal == {"shoulder": 2, "elbow": 4, "gripper": 5}


# Faults.


def test_a_camera_that_stops_is_named(robots: Any) -> None:
    robot = robots(cameras={"front": camera()}, camera_reads=2)
    robot.observe()
    with pytest.raises(
        IgrftError, match=r"^camera 'front' of robot mock_arm stopped: PoseCamera latest frame is too old"
    ):
        robot.observe()


def test_the_camera_of_an_arm_is_named_as_the_dataset_does(robots: Any) -> None:
    robot = robots(left={"cameras": {"wrist": camera()}, "camera_reads": 1}, right={"cameras": {"wrist": camera()}})
    with pytest.raises(IgrftError, match="camera 'left_wrist' of robot mock_two_arms stopped"):
        robot.observe()


def test_a_joint_that_is_not_a_number(robots: Any) -> None:
    robot = robots(nan_at=1)
    with pytest.raises(IgrftError, match=r"robot mock_arm reads elbow.pos as nan: check its motor"):
        robot.observe()


def test_an_action_that_is_not_taken(robots: Any) -> None:
    robot = robots(fail_at=1)
    robot.act(vector(0, 0, 0))
    with pytest.raises(IgrftError, match="robot mock_arm did not take an action: Failed to write 'Goal_Position'"):
        robot.act(vector(0, 0, 0))
    with pytest.raises(IgrftError, match=r"shape \[2\]; robot mock_arm takes 3 numbers"):
        robot.act(vector(0, 0))


def test_pictures_of_another_shape(robots: Any) -> None:
    robot = robots(cameras={"front": camera(48, 32)})
    device(robot).cameras["front"].width = 40
    with pytest.raises(IgrftError, match=r"camera 'front' of robot mock_arm gives pictures of shape \[32, 40, 3\]"):
        robot.observe()


# Letting go.


def test_it_is_let_go_of_after_an_error(robots: Any) -> None:
    robot = robots(fail_at=0)
    bus = device(robot).bus
    assert bus.torque
    with pytest.raises(IgrftError), robot:
        robot.act(vector(0, 0, 0))
    assert not bus.torque and not bus.is_connected
    robot.close()  # once more does nothing


def test_a_dead_camera_does_not_keep_the_torque_on(robots: Any) -> None:
    """LeRobot refuses to disconnect a robot of which a part is gone."""
    robot = robots(left={"cameras": {"wrist": camera()}}, right={})
    left, right = device(robot).left_arm, device(robot).right_arm
    left.cameras["wrist"].disconnect()
    assert not device(robot).is_connected and left.bus.torque and right.bus.torque
    robot.close()
    assert not left.bus.torque and not right.bus.torque
    assert not left.bus.is_connected and not right.bus.is_connected


def test_torque_stays_where_the_driver_is_told_so(robots: Any) -> None:
    robot = robots(disable_torque_on_disconnect=False, cameras={"front": camera()})
    device(robot).cameras["front"].disconnect()
    robot.close()
    assert device(robot).bus.torque and not device(robot).bus.is_connected


def test_an_arm_that_connects_in_part_is_let_go_of(tmp_path: Path) -> None:
    robot = RobotEmbodiment(MockArm(_config(tmp_path, unplugged=True)), task=TASK)
    with pytest.raises(IgrftError, match=r"^robot mock_arm cannot be connected: Could not connect on port 'mock'. Try"):
        robot.connect()
    assert not device(robot).bus.is_connected and not device(robot).bus.torque


def _config(folder: Path, **options: Any) -> Any:
    from mock_robot import MockArmConfig

    return MockArmConfig(calibration_dir=folder, **options)


PROGRAM = """
from igrft.rollouts.robot import RobotEmbodiment
from igrft.rollouts.settings import EnvironmentSettings
given = {"type": "mock_arm", "calibration_dir": %r}
robot = RobotEmbodiment.from_settings(EnvironmentSettings(type="robot", task="t", robot=given))
bus = robot._robot.bus
stop = bus.disconnect
def disconnect(disable_torque=True):
    stop(disable_torque)
    print("torque", bus.torque, flush=True)
bus.disconnect = disconnect
print(robot.name, "torque", bus.torque, flush=True)
"""
LOOP = """
with robot:
    while True:
        robot.observe()
"""


def outcome(folder: Path, program: str, number: int | None) -> str:
    """What another process printed after it had connected, and was sent a signal. It knows the arm from a package of
    the user's own, in LeRobot's way: one whose name begins with lerobot_robot_.
    """
    env = {**os.environ, "PYTHONPATH": write_plugin(folder / "packages")}
    child = subprocess.Popen(
        [sys.executable, "-c", program % str(folder)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "mock_arm torque True\n"
        if number is not None:
            time.sleep(0.2)
            child.send_signal(number)
        out = child.stdout.read()
        child.stdout.close()
        child.wait(60)
    finally:
        child.kill()
    return out


def test_ctrl_c_lets_go(robots: Any) -> None:
    robot = robots()
    with pytest.raises(KeyboardInterrupt), robot:
        robot.observe()
        signal.raise_signal(signal.SIGINT)
    assert not device(robot).bus.torque and not device(robot).is_connected


def test_a_second_ctrl_c_while_letting_go_does_not_keep_the_torque_on(robots: Any) -> None:
    robot = robots(cameras={"front": camera()})
    bus = device(robot).bus
    stop, asked = bus.disconnect, []

    def disconnect(disable_torque: bool = True) -> None:
        asked.append(disable_torque)
        if len(asked) == 1:
            signal.raise_signal(signal.SIGINT)
        stop(disable_torque)

    bus.disconnect = disconnect
    with pytest.raises(KeyboardInterrupt):
        robot.close()
    assert not bus.torque and not bus.is_connected and len(asked) == 2


def test_an_arm_from_a_users_own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LeRobot's way: an installed package whose name begins with lerobot_robot_."""
    write_plugin(tmp_path, name="lerobot_robot_theirs")
    (tmp_path / "lerobot_robot_theirs.py").write_text(
        "from dataclasses import dataclass\n"
        "from lerobot.robots import RobotConfig\n"
        "from mock_robot import MockArm, MockArmConfig\n"
        "@RobotConfig.register_subclass('theirs')\n"
        "@dataclass(kw_only=True)\n"
        "class TheirArmConfig(MockArmConfig): ...\n"
        "class TheirArm(MockArm):\n"
        "    name = 'theirs'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with RobotEmbodiment.from_settings(settings({**arm(tmp_path), "type": "theirs"})) as robot:
        assert robot.name == "theirs" and robot.observe()["observation.state"].tolist() == [0, 0, 0]


@pytest.mark.slow
def test_ctrl_c_lets_go_in_a_program_of_its_own(tmp_path: Path) -> None:
    assert outcome(tmp_path, PROGRAM + LOOP, signal.SIGINT) == "torque False\n"


@pytest.mark.slow
def test_a_program_that_forgets_to_close_lets_go(tmp_path: Path) -> None:
    assert outcome(tmp_path, PROGRAM, None) == "torque False\n"


# Slides.


def moves(robot: RobotEmbodiment) -> np.ndarray:
    """All actions sent, float64 [n, dim]."""
    return np.array([list(a.values()) for a in device(robot).sent])


def test_a_slide_is_straight_and_keeps_to_the_step_limit(robots: Any) -> None:
    robot = robots(fps=200.0)
    robot.act(vector(10, 0, 0))
    limiter = Limiter(SafetySettings(low=[-50], high=[50], step=[2.0]), 3)
    assert robot.slide(vector(-80, 5, 0), limiter=limiter, seconds=0.05)
    path = moves(robot)
    assert path[-1].tolist() == [-50, 5, 0] == robot.last_sent.tolist()
    assert np.abs(np.diff(path, axis=0)).max() <= 2.0
    assert len(path) >= 31  # 60 units of way at 2 a step, though 0.05 s were asked for
    assert np.abs(path[1:, 1] - (10 - path[1:, 0]) * 5 / 60).max() < 1e-4


def test_a_slide_before_any_action_begins_at_the_joints(robots: Any) -> None:
    robot = robots(fps=200.0)
    for _ in range(20):
        robot.act(vector(10, 20, 30))
    robot.reset(None)
    robot.observe()
    robot.slide(vector(12, 20, 30), seconds=0.05)
    assert np.abs(np.diff(moves(robot)[19:], axis=0)).max() < 0.3


def test_a_slide_stops_when_asked(robots: Any) -> None:
    robot = robots(fps=200.0)
    robot.act(vector(0, 0, 0))
    asked = iter([False] * 5 + [True] * 100)
    assert not robot.slide(vector(100, 0, 0), seconds=0.1, stop=lambda: next(asked))
    assert len(moves(robot)) == 6 and 0 < robot.last_sent[0] < 50


def test_wheels_stand_still_while_joints_slide_and_while_nobody_drives(robots: Any) -> None:
    robot = robots(fps=200.0, wheels=True)
    robot.act(vector(10, 0, 0, 0.5))
    robot.hold()
    assert robot.last_sent.tolist() == [10, 0, 0, 0]
    robot.act(vector(10, 0, 0, 0.5))
    robot.slide(vector(0, 0, 0, 0.7), seconds=0.05)
    assert (moves(robot)[3:, 3] == 0).all()


def test_it_goes_home(robots: Any) -> None:
    robot = robots(fps=200.0)
    robot.act(vector(30, -10, 0))
    robot.go_home(Limiter(SafetySettings(step=[3.0]), 3), seconds=0.05)
    path = moves(robot)
    assert path[-1].tolist() == [0, 0, 0] and np.abs(np.diff(path, axis=0)).max() <= 3.0


# What a recipe says.


@pytest.mark.parametrize(
    ("robot", "more", "message"),
    [
        (None, {}, "environment.robot: name a device of LeRobot's by its type"),
        ({"port": "x"}, {}, "environment.robot: name a device of LeRobot's by its type"),
        (
            {"type": "so101_folower"},
            {},
            "environment.robot: type 'so101_folower' is unknown; did you mean 'so101_follower'",
        ),
        ({"type": "mock_arm", "gian": 1}, {}, "environment.robot: .*gian"),
        ({"type": "mock_arm", "cameras": {"a": {"type": "opencvv"}}}, {}, "environment.robot.cameras: type 'opencvv'"),
        (
            {"type": "mock_arm", "cameras": {"a": {"type": "mock_camera"}}},
            {},
            "environment.robot: .*'width' is required",
        ),
        ({"type": "mock_arm"}, {"task": None}, "environment.task: say in one sentence"),
        ({"type": "mock_arm"}, {"fps": 0.0}, "environment.fps is 0"),
    ],
)
def test_wrong_settings(robot: dict[str, Any] | None, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RobotEmbodiment.from_settings(settings(robot, **more))


def test_lerobots_own_robot_is_found_and_its_missing_driver_is_named() -> None:
    """The configuration of a real arm decodes; without its port (or its motors' package) the line says so."""
    robot = {"type": "so101_follower", "port": "/dev/no-such-port", "id": "igrft-test"}
    robot["cameras"] = {"front": {"type": "opencv", "index_or_path": 0, "width": 64, "height": 48, "fps": 30}}
    with pytest.raises(IgrftError, match=r"(feetech|/dev/no-such-port)"):
        RobotEmbodiment.from_settings(settings(robot))
