"""Configuration of leader arms; every angle in it is in ``unit``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lerobot.motors.dynamixel.tables import MODEL_NUMBER_TABLE
from lerobot.teleoperators import TeleoperatorConfig

from igrft.errors import did_you_mean

UNITS = {"radians": 2 * math.pi, "degrees": 360.0}
#: Baud rates of the X series.
BAUDRATES = (9_600, 57_600, 115_200, 1_000_000, 2_000_000, 3_000_000, 4_000_000)


@dataclass(kw_only=True)
class DynamixelArmConfig:
    """One chain of servos: any number of joints, and a gripper.

    A joint's angle is ``sign · (servo's angle − offset)``, as in GELLO's configurations. The servo's angle is 0 at
    position 0 of its encoder.

    Attributes:
        port: serial port.
        ids: servo of each joint, from the base on.
        names: of the joints, as the robot calls them; none is joint_1, joint_2, …
        models: of the joints' servos, one each or one for all.
        signs: 1 or -1 for each joint; none is 1 throughout.
        offsets: servo's angle at which each joint is 0; None is what the calibration found.
        gripper_id: its servo; None is no gripper.
        gripper_model: None is the last joint's.
        gripper_closed, gripper_open: servo's angle at either end; None is what the calibration found.
        gripper_values: numbers that stand for closed and for open; in between is in proportion.
        calibration_pose: angles of the joints in which the arm is held when it is calibrated; None is 0.
        start_pose: angles, within half a turn, of the joints when the arm is connected: encoders do not count
            turns while they have no power. None is 0.
        unit: radians or degrees.
        baudrate: that the servos are set to.
        timeout: milliseconds in which an answer must come; the SDK's 35 are short on a computer that is busy.
        retries: further tries of a read that failed.
        motors: whether the arm can be driven (to meet the robot before a hand takes it); without, torque stays off.
        strength: share of full power with which the motors pull, in (0, 1].
        max_rpm: revolutions a minute that a motor turns at most when the arm is driven.
    """

    port: str
    ids: list[int]
    names: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["xl330-m288"])
    signs: list[int] = field(default_factory=list)
    offsets: list[float] | None = None
    gripper_id: int | None = None
    gripper_model: str | None = None
    gripper_closed: float | None = None
    gripper_open: float | None = None
    gripper_values: list[float] = field(default_factory=lambda: [0.0, 1.0])
    calibration_pose: list[float] | None = None
    start_pose: list[float] | None = None
    unit: str = "radians"
    baudrate: int = 1_000_000
    timeout: float = 100.0
    retries: int = 1
    motors: bool = True
    strength: float = 0.5
    max_rpm: float = 20.0

    def __post_init__(self) -> None:
        """Raises ValueError: settings that are no arm; one line."""
        joints = len(self.ids)
        if not joints:
            raise ValueError("ids is empty: give the servo of each joint, such as [1, 2, 3, 4, 5, 6, 7]")
        every = [*self.ids, *([] if self.gripper_id is None else [self.gripper_id])]
        if len(set(every)) < len(every) or not all(0 <= i <= 252 for i in every):
            raise ValueError(f"ids of the servos must differ and lie in 0 to 252, got {every}")
        for name in ("names", "models", "signs", "offsets", "calibration_pose", "start_pose"):
            given = getattr(self, name)
            fits = {joints, 1} if name == "models" else {joints, 0} if name in ("names", "signs") else {joints}
            if given is not None and len(given) not in fits:
                raise ValueError(f"{name} has {len(given)} entries for {joints} joints")
        for model in [*self.models, self.gripper_model or self.models[-1]]:
            if model not in MODEL_NUMBER_TABLE:
                raise ValueError(f"unknown model {model!r}{did_you_mean(model, list(MODEL_NUMBER_TABLE))}")
        if len({*self.names, "gripper"}) <= len(self.names):
            raise ValueError(f"names must differ, and none may be gripper, got {self.names}")
        if not set(self.signs) <= {1, -1}:
            raise ValueError(f"signs must be 1 or -1, got {self.signs}")
        if self.unit not in UNITS:
            raise ValueError(f"unit is {self.unit!r}{did_you_mean(self.unit, list(UNITS))}")
        if self.baudrate not in BAUDRATES:
            raise ValueError(f"baudrate is {self.baudrate}; servos have {', '.join(map(str, BAUDRATES))}")
        if self.retries < 0:
            raise ValueError(f"retries must not be negative, got {self.retries}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 ms, got {self.timeout}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {self.strength}")
        if not self.max_rpm > 0:
            raise ValueError(f"max_rpm must be above 0, got {self.max_rpm}")
        self._check_gripper()

    def _check_gripper(self) -> None:
        ends = (self.gripper_closed, self.gripper_open)
        if self.gripper_id is None and (ends != (None, None) or self.gripper_model is not None):
            raise ValueError("the gripper has no servo: give gripper_id")
        if (ends[0] is None) != (ends[1] is None) or (ends[0] is not None and ends[0] == ends[1]):
            raise ValueError("give gripper_closed and gripper_open, which must differ, or neither")
        if len(self.gripper_values) != 2 or self.gripper_values[0] == self.gripper_values[1]:
            raise ValueError(f"gripper_values are two different numbers (closed, open), got {self.gripper_values}")

    @property
    def joints(self) -> list[str]:
        """Names of the joints."""
        return self.names or [f"joint_{i}" for i in range(1, len(self.ids) + 1)]

    @property
    def servos(self) -> dict[str, tuple[int, str]]:
        """Id and model by name: the joints, then the gripper."""
        models = self.models * len(self.ids) if len(self.models) == 1 else self.models
        found = dict(zip(self.joints, zip(self.ids, models, strict=True), strict=True))
        if self.gripper_id is not None:
            found["gripper"] = (self.gripper_id, self.gripper_model or models[-1])
        return found


@TeleoperatorConfig.register_subclass("dynamixel_leader")
@dataclass(kw_only=True)
class DynamixelLeaderConfig(TeleoperatorConfig, DynamixelArmConfig):
    """Type ``dynamixel_leader``: one chain."""


@TeleoperatorConfig.register_subclass("bi_dynamixel_leader")
@dataclass(kw_only=True)
class BiDynamixelLeaderConfig(TeleoperatorConfig):
    """Type ``bi_dynamixel_leader``: two chains, each on a port of its own; names begin with ``left_``, ``right_``."""

    left_arm_config: DynamixelArmConfig
    right_arm_config: DynamixelArmConfig

    def __post_init__(self) -> None:
        """Raises ValueError: both arms on one port."""
        if self.left_arm_config.port == self.right_arm_config.port:
            raise ValueError(f"both arms are on {self.left_arm_config.port}: each has a port of its own")
