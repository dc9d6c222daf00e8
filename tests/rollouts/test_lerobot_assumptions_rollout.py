"""What driving robots takes for granted of LeRobot."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import time
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lerobot.cameras import Camera
from lerobot.common.control_utils import follower_smooth_move_to, teleop_smooth_move_to, teleop_supports_feedback
from lerobot.datasets import aggregate_pipeline_dataset_features, create_initial_features
from lerobot.motors.motors_bus import MotorsBusBase, SerialMotorsBus
from lerobot.processor import make_default_processors
from lerobot.robots import RobotConfig
from lerobot.rollout.robot_wrapper import ThreadSafeRobot
from lerobot.teleoperators.gamepad import GamepadTeleop, GamepadTeleopConfig
from lerobot.teleoperators.utils import TeleopEvents
from lerobot.utils import keyboard_input
from lerobot.utils.errors import DeviceNotConnectedError
from lerobot.utils.feature_utils import build_dataset_frame, hw_to_dataset_features
from lerobot.utils.pedal import start_pedal_listener
from lerobot.utils.robot_utils import precise_sleep
from mock_robot import MockArm, MockArmConfig, MockTwoArms, MockTwoArmsConfig


class Recorder:
    """Anything that LeRobot's handover moves."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.poses: list[dict[str, float]] = []

    def enable_torque(self) -> None:
        self.calls.append("enable_torque")

    def get_action(self) -> dict[str, float]:
        self.calls.append("get_action")
        return {"a.pos": 0.0, "b.pos": 10.0}

    def send_feedback(self, pose: dict[str, float]) -> None:
        self.poses.append(pose)

    def send_action(self, pose: dict[str, float]) -> None:
        self.poses.append(pose)


def test_the_leader_is_woken_read_once_and_moved_in_a_straight_line() -> None:
    leader = Recorder()
    teleop_smooth_move_to(leader, {"a.pos": 4.0}, duration_s=0.04, fps=100)
    assert leader.calls == ["enable_torque", "get_action"]
    assert [p["a.pos"] for p in leader.poses] == [0, 1, 2, 3, 4] and {p["b.pos"] for p in leader.poses} == {10.0}


def test_the_robot_is_moved_in_a_straight_line_that_ends_at_the_target() -> None:
    robot = Recorder()
    follower_smooth_move_to(robot, {"a.pos": 0.0}, {"a.pos": 4.0}, duration_s=4.5 / 100, fps=100)
    assert [p["a.pos"] for p in robot.poses] == [0, 1, 2, 3, 4] and robot.calls == []


def test_a_leader_has_motors_if_it_has_feedback_and_torque() -> None:
    leader = SimpleNamespace(feedback_features={"a.pos": float}, enable_torque=print)
    assert not teleop_supports_feedback(leader)
    leader.disable_torque = print
    assert teleop_supports_feedback(leader)
    leader.feedback_features = {}
    assert not teleop_supports_feedback(leader)


def test_default_pipelines_change_nothing_and_features_are_the_recorders() -> None:
    teleop, action, observation = make_default_processors()
    given = {"a.pos": 1.5}
    assert teleop((dict(given), {})) == given == action((dict(given), {}))
    assert observation({"a.pos": 1.0, "front": 3}) == {"a.pos": 1.0, "front": 3}
    hardware = {"a.pos": float, "b.vel": float, "front": (4, 6, 3)}
    features = aggregate_pipeline_dataset_features(observation, create_initial_features(observation=hardware))
    assert features == hw_to_dataset_features(hardware, "observation")
    picture = np.zeros((4, 6, 3), np.uint8)
    frame = build_dataset_frame(features, {"a.pos": 1, "b.vel": 2, "front": picture}, "observation")
    assert frame["observation.state"].tolist() == [1, 2] and frame["observation.images.front"] is picture


def test_the_guarded_robot_passes_looks_and_actions_through(tmp_path: Path) -> None:
    robot = MockArm(MockArmConfig(calibration_dir=tmp_path))
    robot.connect()
    guarded = ThreadSafeRobot(robot)
    assert guarded.get_observation() == robot.get_observation() and guarded.inner is robot
    assert guarded.send_action(dict.fromkeys(robot.action_features, 1.0)) == robot.sent[-1]
    assert not hasattr(guarded, "disconnect")  # so the robot itself is let go of
    robot.disconnect()


def test_a_robot_of_which_a_part_is_gone_refuses_to_disconnect(tmp_path: Path) -> None:
    """Why igrft lets go of the parts one by one."""
    one = MockArmConfig(calibration_dir=tmp_path)
    robot = MockTwoArms(MockTwoArmsConfig(calibration_dir=tmp_path, left_arm_config=one, right_arm_config=one))
    robot.connect()
    robot.left_arm.disconnect()
    with pytest.raises(DeviceNotConnectedError):
        robot.disconnect()
    assert robot.right_arm.bus.torque
    robot.right_arm.disconnect()


@pytest.mark.parametrize("bus", [MotorsBusBase, SerialMotorsBus])
def test_a_bus_is_told_what_becomes_of_the_torque(bus: Any) -> None:
    assert list(inspect.signature(bus.disconnect).parameters) == ["self", "disable_torque"]


def test_a_stale_picture_is_an_error(tmp_path: Path) -> None:
    """How a camera that stopped is noticed: drivers read the latest picture, which may be half a second old."""
    import cv2
    from lerobot.cameras.opencv import OpenCVCamera, OpenCVCameraConfig

    path = str(tmp_path / "video.avi")
    video = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    assert inspect.signature(Camera.read_latest).parameters["max_age_ms"].default == 500
    camera = OpenCVCamera(OpenCVCameraConfig(index_or_path=0, width=4, height=4, fps=30))
    camera.videocapture = cv2.VideoCapture(path)
    with pytest.raises(RuntimeError, match="read thread is not running"):
        camera.read_latest()
    done = Event()
    camera.thread = Thread(target=done.wait, daemon=True)
    camera.thread.start()
    camera.latest_frame, camera.latest_timestamp = np.zeros((4, 4, 3), np.uint8), time.perf_counter()
    assert camera.read_latest() is camera.latest_frame
    camera.latest_timestamp -= 1.0
    with pytest.raises(TimeoutError, match="latest frame is too old"):
        camera.read_latest()
    done.set()
    camera.thread.join()
    camera.disconnect()


def test_robots_register_themselves_when_their_package_is_imported() -> None:
    for package in ("koch_follower", "so_follower"):
        importlib.import_module(f"lerobot.robots.{package}")
    assert {"so100_follower", "so101_follower", "koch_follower", "mock_arm"} <= set(RobotConfig.get_known_choices())


def test_a_pedal_that_is_not_there_is_passed_over_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why igrft looks before it listens."""
    pytest.importorskip("evdev")
    thread = start_pedal_listener(print, str(tmp_path / "missing"))
    assert thread is not None and thread.daemon
    thread.join(20)
    assert not thread.is_alive()
    monkeypatch.setitem(sys.modules, "evdev", None)
    assert start_pedal_listener(print, str(tmp_path / "missing")) is None


def test_no_keyboard_is_none(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    if keyboard_input.pynput_can_capture():
        pytest.skip("there is a display")
    with caplog.at_level(logging.WARNING):
        assert keyboard_input.create_key_listener(print, controls_help="a = b") is None
    assert "Keyboard controls unavailable" in caplog.text


def test_names_of_keys() -> None:
    """The names that key maps may hold are those that the terminal's reader gives."""
    from igrft.rollouts.keymap import NAMED_KEYS

    reader = keyboard_input.TerminalKeyListener(print)
    pressed = {"\r": "enter", "\n": "enter", "\t": "tab", " ": "space", "\x7f": "backspace", "\x1b": "esc", "x": "x"}
    assert {k: reader._parse(k) for k in pressed} == pressed
    named = set(pressed.values()) - {"x"} | set(keyboard_input._ARROW_FINAL_BYTES.values())
    assert named == set(NAMED_KEYS)


class Buttons:
    """What LeRobot's gamepad reads from, without a gamepad."""

    def __init__(self) -> None:
        self.held, self.end = False, None

    def update(self) -> None: ...

    def should_intervene(self) -> bool:
        return self.held

    def get_episode_end_status(self) -> Any:
        return self.end


def test_what_a_gamepads_buttons_mean(tmp_path: Path) -> None:
    pad = GamepadTeleop(GamepadTeleopConfig(calibration_dir=tmp_path))
    pad.gamepad = buttons = Buttons()
    E = TeleopEvents
    ends = {None: (), E.SUCCESS: (E.SUCCESS,), E.FAILURE: (E.TERMINATE_EPISODE,)}
    ends[E.RERECORD_EPISODE] = (E.TERMINATE_EPISODE, E.RERECORD_EPISODE)
    for end, true in ends.items():
        buttons.end, buttons.held = end, end is None
        expected = set(true) | ({E.IS_INTERVENTION} if end is None else set())
        assert {k for k, v in pad.get_teleop_events().items() if v} == expected
    pad.gamepad = None


def test_sleeping_for_less_than_nothing_returns() -> None:
    precise_sleep(-1.0)
