"""A robot and a leader arm that exist in software alone, as LeRobot sees devices.

Types ``mock_arm``, ``mock_two_arms``, ``mock_leader`` (with motors) and ``mock_passive_leader`` (without). Every
action sent is one step of a first-order lag, so nothing depends on the clock. Cameras paint the joints' positions.
For a command line in another process, :func:`write_plugin` makes the package that LeRobot finds them in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.cameras import Camera, CameraConfig
from lerobot.motors import Motor, MotorNormMode
from lerobot.motors.motors_bus import MotorsBusBase
from lerobot.robots import Robot, RobotConfig
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig
from lerobot.utils.bimanual import BimanualMixin
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

JOINTS = ("shoulder", "elbow", "gripper")


class MockBus(MotorsBusBase):
    """Motors that remember.

    Attributes:
        present, goal: joint positions, and where the motors want to be.
        torque: whether they hold.
        log: every goal written.
    """

    def __init__(self, joints: tuple[str, ...]) -> None:
        super().__init__("mock", {j: Motor(i, "mock", MotorNormMode.DEGREES) for i, j in enumerate(joints)})
        self.present = dict.fromkeys(joints, 0.0)
        self.goal = dict.fromkeys(joints, 0.0)
        self.torque = False
        self.log: list[dict[str, float]] = []
        self._open = False

    def connect(self, handshake: bool = True) -> None:
        self._open = True

    @check_if_not_connected
    def disconnect(self, disable_torque: bool = True) -> None:
        if disable_torque:
            self.torque = False
        self._open = False

    @property
    def is_connected(self) -> bool:
        return self._open

    def read(self, data_name: str, motor: str) -> float:
        return self.present[motor]

    def write(self, data_name: str, motor: str, value: float) -> None:
        self.sync_write(data_name, {motor: value})

    def sync_read(self, data_name: str, motors: str | list[str] | None = None) -> dict[str, float]:
        return dict(self.present)

    def sync_write(self, data_name: str, values: dict[str, float]) -> None:
        self.goal.update(values)
        self.log.append(dict(self.goal))

    def enable_torque(self, motors: str | list[str] | None = None, num_retry: int = 0) -> None:
        self.torque = True

    def disable_torque(self, motors: str | list[str] | None = None, num_retry: int = 0) -> None:
        self.torque = False

    def read_calibration(self) -> dict[str, Any]:
        return {}

    def write_calibration(self, calibration_dict: dict[str, Any], cache: bool = True) -> None:
        pass

    def step(self, gain: float) -> None:
        """Where torque is on, go a part of the way to the goal."""
        if self.torque:
            for joint, goal in self.goal.items():
                self.present[joint] += gain * (goal - self.present[joint])


class PoseCamera(Camera):
    """Paints one bright dot a joint: row by joint, column by position in [-100, 100]."""

    def __init__(self, config: CameraConfig, pose: Callable[[], dict[str, float]], reads: int | None) -> None:
        super().__init__(config)
        self._pose, self._left, self._open = pose, reads, False

    @property
    def is_connected(self) -> bool:
        return self._open

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        return []

    def connect(self, warmup: bool = True) -> None:
        self._open = True

    def read(self) -> np.ndarray:
        assert self.height is not None and self.width is not None
        picture = np.full((self.height, self.width, 3), 40, np.uint8)
        pose = list(self._pose().values())
        band = self.height // len(pose)
        for i, value in enumerate(pose):
            middle = int(np.clip((value + 100) / 200, 0, 1) * (self.width - 4))
            picture[i * band + 1 : (i + 1) * band - 1, middle : middle + 4, i % 3] = 230
        return picture

    def async_read(self, timeout_ms: float = 200) -> np.ndarray:
        return self.read()

    def read_latest(self, max_age_ms: int = 500) -> np.ndarray:
        if self._left is not None:
            if self._left <= 0:
                raise TimeoutError("PoseCamera latest frame is too old: 501.0 ms (max allowed: 500 ms).")
            self._left -= 1
        return self.read()

    def disconnect(self) -> None:
        self._open = False


@dataclass(kw_only=True)
class MockCameraConfig(CameraConfig):
    """Type ``mock_camera``: a :class:`PoseCamera`."""


CameraConfig.register_subclass("mock_camera")(MockCameraConfig)


@RobotConfig.register_subclass("mock_arm")
@dataclass(kw_only=True)
class MockArmConfig(RobotConfig):
    """One arm.

    Attributes:
        gain: part of the way to its goal that a joint goes in a step.
        wheels: also a base that is driven by ``x.vel``.
        cameras: pictures of the pose.
        camera_reads: pictures after which cameras stop; None is never.
        fail_at: number of the action, from 0, that is not taken; None takes all.
        slow: seconds that every look takes.
        nan_at: number of the look, from 0, from which the elbow reads NaN.
        max_relative_target: cut, as LeRobot's drivers do, relative to the present position.
        unplugged: cannot be connected.
    """

    gain: float = 0.5
    wheels: bool = False
    cameras: dict[str, CameraConfig] = field(default_factory=dict)
    camera_reads: int | None = None
    fail_at: int | None = None
    slow: float = 0.0
    nan_at: int | None = None
    max_relative_target: float | None = None
    disable_torque_on_disconnect: bool = True
    unplugged: bool = False


class MockArm(Robot):
    """Attributes:
    sent: every action that was sent, after cutting.
    """

    config_class = MockArmConfig
    name = "mock_arm"

    def __init__(self, config: MockArmConfig) -> None:
        super().__init__(config)
        self.config = config
        self.bus = MockBus(JOINTS)
        self.cameras = {
            k: PoseCamera(c, lambda: self.bus.present, config.camera_reads) for k, c in config.cameras.items()
        }
        self.sent: list[dict[str, float]] = []
        self.looks = self.actions = 0

    @property
    def _joints(self) -> dict[str, type]:
        return {f"{j}.pos": float for j in JOINTS} | ({"x.vel": float} if self.config.wheels else {})

    @property
    def observation_features(self) -> dict:
        return {**self._joints, **{k: (c.height, c.width, 3) for k, c in self.cameras.items()}}

    @property
    def action_features(self) -> dict:
        return self._joints

    @property
    def is_connected(self) -> bool:
        return self.bus.is_connected and all(c.is_connected for c in self.cameras.values())

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        self.bus.connect()
        self.bus.enable_torque()
        if self.config.unplugged:
            raise ConnectionError("Could not connect on port 'mock'.\nTry lerobot-find-port.")
        for camera in self.cameras.values():
            camera.connect()

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    @check_if_not_connected
    def get_observation(self) -> dict[str, Any]:
        time.sleep(self.config.slow)
        seen: dict[str, Any] = {f"{j}.pos": v for j, v in self.bus.sync_read("Present_Position").items()}
        if self.config.nan_at is not None and self.looks >= self.config.nan_at:
            seen["elbow.pos"] = float("nan")
        self.looks += 1
        if self.config.wheels:
            seen["x.vel"] = self.sent[-1]["x.vel"] if self.sent else 0.0
        for key, camera in self.cameras.items():
            seen[key] = camera.read_latest()
        return seen

    @check_if_not_connected
    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        if self.config.fail_at is not None and self.actions >= self.config.fail_at:
            raise ConnectionError("Failed to write 'Goal_Position': no status packet!")
        self.actions += 1
        limit = self.config.max_relative_target
        goal = {k.removesuffix(".pos"): v for k, v in action.items() if k.endswith(".pos")}
        if limit is not None:
            goal = {
                j: float(np.clip(v, self.bus.present[j] - limit, self.bus.present[j] + limit)) for j, v in goal.items()
            }
        self.bus.sync_write("Goal_Position", goal)
        self.bus.step(self.config.gain)
        sent = {f"{j}.pos": v for j, v in goal.items()}
        if self.config.wheels:
            sent["x.vel"] = action["x.vel"]
        self.sent.append(sent)
        return sent

    @check_if_not_connected
    def disconnect(self) -> None:
        self.bus.disconnect(self.config.disable_torque_on_disconnect)
        for camera in self.cameras.values():
            camera.disconnect()


@RobotConfig.register_subclass("mock_two_arms")
@dataclass(kw_only=True)
class MockTwoArmsConfig(RobotConfig):
    """Two arms, each as :class:`MockArmConfig` says."""

    left_arm_config: MockArmConfig
    right_arm_config: MockArmConfig


class MockTwoArms(BimanualMixin, Robot):
    """Put together as LeRobot's bimanual robots are, down to cameras of one name that hide each other."""

    config_class = MockTwoArmsConfig
    name = "mock_two_arms"

    def __init__(self, config: MockTwoArmsConfig) -> None:
        super().__init__(config)
        self.config = config
        self.left_arm, self.right_arm = MockArm(config.left_arm_config), MockArm(config.right_arm_config)
        self.cameras = {**self.left_arm.cameras, **self.right_arm.cameras}

    def _both(self, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        return {f"left_{k}": v for k, v in left.items()} | {f"right_{k}": v for k, v in right.items()}

    @property
    def observation_features(self) -> dict:
        return self._both(self.left_arm.observation_features, self.right_arm.observation_features)

    @property
    def action_features(self) -> dict:
        return self._both(self.left_arm.action_features, self.right_arm.action_features)

    @check_if_not_connected
    def get_observation(self) -> dict[str, Any]:
        return self._both(self.left_arm.get_observation(), self.right_arm.get_observation())

    @check_if_not_connected
    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        side = {s: {k.removeprefix(s): v for k, v in action.items() if k.startswith(s)} for s in ("left_", "right_")}
        return self._both(self.left_arm.send_action(side["left_"]), self.right_arm.send_action(side["right_"]))


@TeleoperatorConfig.register_subclass("mock_leader")
@dataclass(kw_only=True)
class MockLeaderConfig(TeleoperatorConfig):
    """A leader arm with motors.

    Attributes:
        pose: where the hand holds it when it is connected.
        joints: its joints.
        unplugged: cannot be connected.
    """

    pose: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    joints: list[str] = field(default_factory=lambda: list(JOINTS))
    unplugged: bool = False


class MockLeader(Teleoperator):
    """Attributes:
    hand: where a hand holds the joints; it wins over the motors where torque is off.
    """

    config_class = MockLeaderConfig
    name = "mock_leader"

    def __init__(self, config: MockLeaderConfig) -> None:
        super().__init__(config)
        self.config = config
        self.bus = MockBus(tuple(config.joints))
        self.bus.present = dict(zip(config.joints, config.pose, strict=True))
        self.events: list[str] = []

    def hold_at(self, *pose: float) -> None:
        """The hand moves the arm; without effect where the motors hold it."""
        if not self.bus.torque:
            self.bus.present = dict(zip(self.config.joints, pose, strict=True))

    @property
    def action_features(self) -> dict:
        return {f"{j}.pos": float for j in self.config.joints}

    @property
    def feedback_features(self) -> dict:
        return self.action_features

    @property
    def is_connected(self) -> bool:
        return self.bus.is_connected

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        if self.config.unplugged:
            raise ConnectionError("Could not connect on port 'mock'.")
        self.bus.connect()

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def enable_torque(self) -> None:
        self.events.append("torque on")
        self.bus.enable_torque()
        self.bus.present = dict(self.bus.goal)  # a motor that wakes up goes to the goal it remembers

    def disable_torque(self) -> None:
        self.events.append("torque off")
        self.bus.disable_torque()

    @check_if_not_connected
    def get_action(self) -> dict[str, Any]:
        return {f"{j}.pos": v for j, v in self.bus.present.items()}

    @check_if_not_connected
    def send_feedback(self, feedback: dict[str, Any]) -> None:
        self.bus.sync_write("Goal_Position", {k.removesuffix(".pos"): float(v) for k, v in feedback.items()})
        self.bus.step(1.0)

    @check_if_not_connected
    def disconnect(self) -> None:
        self.bus.disconnect()


@TeleoperatorConfig.register_subclass("mock_passive_leader")
@dataclass(kw_only=True)
class MockPassiveLeaderConfig(MockLeaderConfig):
    """A leader arm without motors."""


class MockPassiveLeader(MockLeader):
    config_class = MockPassiveLeaderConfig
    name = "mock_passive_leader"

    @property
    def feedback_features(self) -> dict:
        return {}

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        raise NotImplementedError("there are no motors")


def arm(folder: Path, **options: Any) -> dict[str, Any]:
    """``environment.robot`` of a mock arm whose calibration lies in ``folder``."""
    return {"type": "mock_arm", "calibration_dir": str(folder), **options}


def two_arms(folder: Path, left: dict[str, Any] | None = None, right: dict[str, Any] | None = None) -> dict[str, Any]:
    """``environment.robot`` of two mock arms with their options."""
    here = {"calibration_dir": str(folder)}
    return {
        "type": "mock_two_arms",
        **here,
        "left_arm_config": {**here, **(left or {})},
        "right_arm_config": {**here, **(right or {})},
    }


def leader(folder: Path, *, motors: bool = True, **options: Any) -> dict[str, Any]:
    """``rollout.human.teleop`` of a mock leader arm."""
    return {"type": "mock_leader" if motors else "mock_passive_leader", "calibration_dir": str(folder), **options}


def camera(width: int = 48, height: int = 32) -> dict[str, Any]:
    """One of a mock arm's ``cameras``."""
    return {"type": "mock_camera", "width": width, "height": height, "fps": 30}


def write_plugin(folder: Path, name: str = "lerobot_robot_mock_arm") -> str:
    """A package that LeRobot finds by its name, and with it this module: PYTHONPATH for another process."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / f"{name}.py").write_text("import mock_robot  # registers its types\n")
    return f"{folder}:{Path(__file__).parent}"
