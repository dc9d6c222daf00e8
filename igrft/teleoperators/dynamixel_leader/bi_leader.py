"""Two chains of Dynamixel servos as one LeRobot teleoperator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lerobot.teleoperators import Teleoperator
from lerobot.utils.decorators import check_if_already_connected, check_if_not_connected

from igrft.teleoperators.dynamixel_leader.config import (
    BiDynamixelLeaderConfig,
    DynamixelArmConfig,
    DynamixelLeaderConfig,
)
from igrft.teleoperators.dynamixel_leader.leader import DynamixelLeader


class BiDynamixelLeader(Teleoperator):
    """Two leader arms: names are those of :class:`DynamixelLeader`, with ``left_`` and ``right_`` before them.

    Both chains are asked before either is listened to, so that two take hardly longer than one. What fails on one
    arm never keeps the other from being let go of. Each has a calibration file of its own, ``<id>_left`` and
    ``<id>_right``.
    """

    config_class = BiDynamixelLeaderConfig
    name = "bi_dynamixel_leader"

    def __init__(self, config: BiDynamixelLeaderConfig) -> None:
        super().__init__(config)
        self.config = config
        self.left_arm = self._arm("left", config.left_arm_config)
        self.right_arm = self._arm("right", config.right_arm_config)

    def _arm(self, side: str, given: DynamixelArmConfig) -> DynamixelLeader:
        fields = {f.name: getattr(given, f.name) for f in dataclasses.fields(DynamixelArmConfig)}
        id_ = f"{self.config.id}_{side}" if self.config.id else side
        # Without a folder of its own the file would lie among those of single arms.
        config = DynamixelLeaderConfig(id=id_, calibration_dir=self.calibration_dir, **fields)
        return DynamixelLeader(config, f"{side} arm")

    @property
    def _arms(self) -> dict[str, DynamixelLeader]:
        return {"left_": self.left_arm, "right_": self.right_arm}

    @property
    def action_features(self) -> dict[str, type]:
        return {f"{side}{k}": v for side, arm in self._arms.items() for k, v in arm.action_features.items()}

    @property
    def feedback_features(self) -> dict[str, type]:
        return {f"{side}{k}": v for side, arm in self._arms.items() for k, v in arm.feedback_features.items()}

    @property
    def is_connected(self) -> bool:
        """Whether either port is open: then there is something to let go of."""
        return any(arm.is_connected for arm in self._arms.values())

    @check_if_already_connected
    def connect(self, calibrate: bool = True) -> None:
        """Both, or neither. Raises as :meth:`DynamixelLeader.connect`."""
        try:
            for arm in self._arms.values():
                arm.connect(calibrate)
        except BaseException:
            if self.is_connected:
                self.disconnect()
            raise

    @property
    def is_calibrated(self) -> bool:
        return all(arm.is_calibrated for arm in self._arms.values())

    def calibrate(self) -> None:
        for arm in self._arms.values():
            arm.calibrate()

    def configure(self) -> None:
        for arm in self._arms.values():
            arm.configure()

    @check_if_not_connected
    def get_action(self) -> dict[str, float]:
        """Where the joints of both arms are. Raises as :meth:`DynamixelLeader.get_action`."""
        for arm in self._arms.values():
            arm.request()
        return {f"{side}{k}": v for side, arm in self._arms.items() for k, v in arm.receive().items()}

    def enable_torque(self) -> None:
        """Hold both arms where they are; where one cannot, the other is let go of again."""
        try:
            for arm in self._arms.values():
                arm.enable_torque()
        except BaseException:
            for arm in self._arms.values():
                arm.chain.let_go()
            raise

    def disable_torque(self) -> None:
        """Let both arms go. Both are tried before one is complained about."""
        self._each(lambda arm: arm.disable_torque())

    @check_if_not_connected
    def send_feedback(self, feedback: Mapping[str, Any]) -> None:
        for side, arm in self._arms.items():
            arm.send_feedback({k.removeprefix(side): v for k, v in feedback.items() if k.startswith(side)})

    @check_if_not_connected
    def disconnect(self) -> None:
        """Let both arms go and close their ports, whatever state they are in."""
        self._each(lambda arm: arm.disconnect() if arm.is_connected else None)

    def _each(self, do: Callable[[DynamixelLeader], None]) -> None:
        """Do something with both arms; the first that fails is raised when both were tried."""
        failed: BaseException | None = None
        for arm in self._arms.values():
            try:
                do(arm)
            except BaseException as error:
                failed = failed or error
        if failed is not None:
            raise failed
