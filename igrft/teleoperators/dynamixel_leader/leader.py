"""One chain of Dynamixel servos as a LeRobot teleoperator."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lerobot.motors.motors_bus import MotorCalibration
from lerobot.teleoperators import Teleoperator
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from igrft.extras import require
from igrft.teleoperators.dynamixel_leader.chain import Chain
from igrft.teleoperators.dynamixel_leader.config import UNITS, DynamixelLeaderConfig
from igrft.teleoperators.dynamixel_leader.errors import LeaderError
from igrft.teleoperators.dynamixel_leader.scale import TURN, Scale, Turns

log = logging.getLogger(__name__)

_POSITION = ".pos"
_EXTENDED_POSITION = 4
#: Goal_PWM at full power, and the unit of Profile_Velocity in revolutions a minute (X series).
_FULL_POWER, _VELOCITY_UNIT = 885, 0.229
#: What the servos themselves must not add to a calibration that is kept in software.
_NEUTRAL = ("Homing_Offset", "Drive_Mode")


class DynamixelLeader(Teleoperator):
    """A leader arm of any number of joints and a gripper.

    Gives ``joint_1.pos``, … (or names of your own) in radians or degrees and ``gripper.pos`` (0 closed, 1 open,
    unless configured otherwise). Torque is off for the hand to guide it. For a handover it is switched on, and the
    arm follows positions of the same names (LeRobot's smooth handover).

    The calibration file is LeRobot's: ``homing_offset`` is added to a servo's position to get 0 where the joint is 0,
    ``drive_mode`` is 1 where joint and servo count in opposite directions, and ``range_min`` and ``range_max`` are the
    gripper's ends.
    """

    config_class = DynamixelLeaderConfig
    name = "dynamixel_leader"

    def __init__(self, config: DynamixelLeaderConfig, label: str = "leader arm") -> None:
        """
        Args:
            label: what messages call it.

        Raises:
            UsageError: the package dynamixel-sdk is missing.
        """
        require("a leader arm of Dynamixel servos", "robot")
        from igrft.teleoperators.dynamixel_leader.bus import make_bus

        super().__init__(config)
        self.config = config
        self.calibration: dict[str, MotorCalibration]  # what LeRobot read from the file
        self.label = label
        self.bus = make_bus(config.port, config.servos, config.timeout)
        self.chain = Chain(label, self.bus, retries=config.retries)
        self._scales: dict[str, Scale] = {}
        self._turns = Turns({})

    @property
    def action_features(self) -> dict[str, type]:
        return {f"{name}{_POSITION}": float for name in self.config.servos}

    @property
    def feedback_features(self) -> dict[str, type]:
        """What :meth:`send_feedback` takes: the same; nothing where ``motors`` is false."""
        return self.action_features if self.config.motors else {}

    @property
    def is_connected(self) -> bool:
        """Whether the port is open. It stays so after a fault, until :meth:`disconnect` has let the motors go."""
        return bool(self.bus.is_connected)

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Open the port, look for every servo, and let go of the torque.

        Args:
            calibrate: ask in the terminal for what is missing of the calibration.

        Raises:
            LeaderError: a servo is missing or not well, or the port cannot be opened.
            EOFError: it is not calibrated, and nobody is there to ask.
        """
        self.chain.open(self.config.baudrate)
        try:
            self.chain.torque_off()
            if calibrate and not self.is_calibrated:
                self.calibrate()
            self.configure()
            self._look()
        except BaseException:
            self.disconnect()
            raise
        log.info("%s connected on %s", self.label, self.config.port)

    @property
    def is_calibrated(self) -> bool:
        """Whether all offsets are known, from the configuration or a file, and the servos add none of their own."""
        known = self._calibration() is not None
        return known and (not self.is_connected or not self._adding())

    def calibrate(self) -> None:
        """Ask, in the terminal, for a pose and for the gripper's ends, and store what was found as LeRobot does.

        What the configuration gives is not asked for.
        """
        self.chain.torque_off()
        if self.calibration and self._calibration() is not None and not self._adding():
            said = input(f"{self.label}: press ENTER to use the calibration of {self.calibration_fpath}, or c: ")
            if said.strip().lower() != "c":
                return
            self.calibration = {}
        for register in _NEUTRAL:
            self.chain.write(register, dict.fromkeys(self.config.servos, 0), changed_only=True)
        found = self._ask()
        self.calibration = {n: found[n] for n in self.config.servos}
        self._save_calibration()
        print(f"{self.label}: calibration saved to {self.calibration_fpath}")
        self._look()

    def configure(self) -> None:
        """Torque off, quick answers, and the mode, speed and power with which it follows."""
        self.chain.torque_off()
        every = list(self.config.servos)
        self.chain.write("Return_Delay_Time", dict.fromkeys(every, 0), changed_only=True)
        if self.config.motors:
            self.chain.write("Operating_Mode", dict.fromkeys(every, _EXTENDED_POSITION), changed_only=True)
            speed = max(1, round(self.config.max_rpm / _VELOCITY_UNIT))
            self.chain.write("Profile_Velocity", dict.fromkeys(every, speed))
            self.chain.write("Goal_PWM", dict.fromkeys(every, round(self.config.strength * _FULL_POWER)))

    @check_if_not_connected
    def get_action(self) -> dict[str, float]:
        """Where the joints are, by one sync read.

        Raises:
            LeaderError: a servo does not answer, is not well, or the arm is not calibrated.
        """
        self.request()
        return self.receive()

    def request(self) -> None:
        """Ask for the positions, without waiting; :meth:`receive` follows."""
        if not self._scales:
            raise LeaderError(f"{self.label} is not calibrated: run lerobot-calibrate once, in a terminal")
        self.chain.request("Present_Position")

    def receive(self) -> dict[str, float]:
        """The positions that were asked for, as :meth:`get_action` gives them."""
        positions = self._turns.follow(self.chain.receive())
        return {f"{n}{_POSITION}": self._scales[n].value(p) for n, p in positions.items()}

    def enable_torque(self) -> None:
        """Hold the arm where it is: a motor that wakes up would go to the last goal it was given.

        Nothing is done where ``motors`` is false.

        Raises:
            LeaderError: a servo does not answer, or is not well; the others are let go of again.
        """
        if not self.config.motors:
            return
        self._turns.follow(here := self.chain.read("Present_Position"))
        self.chain.send("Goal_Position", here)
        try:
            self.chain.write("Torque_Enable", dict.fromkeys(self.config.servos, 1))
        except LeaderError:
            self.chain.let_go()
            raise

    def disable_torque(self) -> None:
        """Let the arm go, for a hand to guide.

        Raises:
            LeaderError: a servo was not reached; the others were let go of.
        """
        self.chain.torque_off()

    @check_if_not_connected
    def send_feedback(self, feedback: Mapping[str, Any]) -> None:
        """Positions for the motors to go to, by the names of :attr:`feedback_features`.

        Raises:
            LeaderError: the port is gone.
        """
        goals = {n: feedback[f"{n}{_POSITION}"] for n in self.config.servos if f"{n}{_POSITION}" in feedback}
        if goals:
            self.chain.send(
                "Goal_Position",
                {n: self._turns.servo(n, self._scales[n].position(float(v))) for n, v in goals.items()},
            )

    @check_if_not_connected
    def disconnect(self) -> None:
        """Torque off wherever it can be reached, and close the port. What was not reached is logged, not raised."""
        missed = self.chain.release()
        if missed and self.config.motors:
            log.warning(
                "%s on %s: torque of %s could not be taken off; if it holds, cut the arm's power",
                self.label,
                self.config.port,
                ", ".join(missed),
            )

    def _adding(self) -> bool:
        return any(v for register in _NEUTRAL for v in self.chain.read(register).values())

    def _look(self) -> None:
        """Work out the scales, and how many turns the servos lost count of."""
        known = self._calibration()
        if known is None:
            return
        arm, turn = self.config, UNITS[self.config.unit]
        start = dict(zip(arm.joints, arm.start_pose or [0.0] * len(arm.ids), strict=True))
        self._scales = {}
        for name, entry in known.items():
            if name == "gripper":
                ends = (entry.range_min, entry.range_max)
                closed, opened = ends if not entry.drive_mode else ends[::-1]
                self._scales[name] = Scale.gripper(closed, opened, (arm.gripper_values[0], arm.gripper_values[1]))
            else:
                sign = -1 if entry.drive_mode else 1
                self._scales[name] = Scale.joint(-entry.homing_offset, sign, turn, start[name])
        self._turns = Turns({n: s.centre for n, s in self._scales.items()})
        self._turns.follow(self.chain.read("Present_Position"))

    def _calibration(self) -> dict[str, MotorCalibration] | None:
        """Of every servo: the configuration's before the file's; None where something is known from neither."""
        given = {**self.calibration, **self._configured()}
        found = {}
        for name, (id_, _) in self.config.servos.items():
            if name not in given or given[name].id != id_:
                return None
            found[name] = given[name]
        return found

    def _configured(self) -> dict[str, MotorCalibration]:
        arm, per_angle = self.config, TURN / UNITS[self.config.unit]
        found = {}
        if arm.offsets is not None:
            for name, offset in zip(arm.joints, arm.offsets, strict=True):
                found[name] = self._joint_entry(name, round(offset * per_angle))
        if arm.gripper_closed is not None and arm.gripper_open is not None:
            found["gripper"] = self._gripper_entry(
                round(arm.gripper_closed * per_angle), round(arm.gripper_open * per_angle)
            )
        return found

    def _ask(self) -> dict[str, MotorCalibration]:
        arm, per_angle = self.config, TURN / UNITS[self.config.unit]
        found = self._configured()
        if arm.offsets is None:
            pose = arm.calibration_pose or [0.0] * len(arm.ids)
            told = ", ".join(f"{v:g}" for v in pose)
            input(f"{self.label}: hold the joints at {told} ({arm.unit}) and press ENTER: ")
            here = self.chain.read("Present_Position", arm.joints)
            for name, angle, sign in zip(arm.joints, pose, self._signs(), strict=True):
                found[name] = self._joint_entry(name, round(here[name] - sign * angle * per_angle))
        if "gripper" in arm.servos and "gripper" not in found:
            ends = []
            for word in ("close", "open"):
                input(f"{self.label}: {word} the gripper and press ENTER: ")
                ends.append(self.chain.read("Present_Position", ["gripper"])["gripper"])
            # The way from one end to the other is shorter than half a turn.
            ends[1] += TURN * round((ends[0] - ends[1]) / TURN)
            if abs(ends[1] - ends[0]) < TURN // 360:
                raise LeaderError(f"{self.label}: the gripper was at the same place closed and open; calibrate again")
            found["gripper"] = self._gripper_entry(*ends)
        return found

    def _signs(self) -> list[int]:
        return self.config.signs or [1] * len(self.config.ids)

    def _joint_entry(self, name: str, zero: int) -> MotorCalibration:
        sign = dict(zip(self.config.joints, self._signs(), strict=True))[name]
        return MotorCalibration(
            id=self.config.servos[name][0],
            drive_mode=int(sign < 0),
            homing_offset=-zero,
            range_min=0,
            range_max=TURN - 1,
        )

    def _gripper_entry(self, closed: int, opened: int) -> MotorCalibration:
        low, high = sorted((closed, opened))
        return MotorCalibration(
            id=self.config.servos["gripper"][0],
            drive_mode=int(opened < closed),
            homing_offset=0,
            range_min=low,
            range_max=high,
        )
