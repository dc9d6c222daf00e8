"""LeRobot's Dynamixel bus on a port that waits longer."""

from __future__ import annotations

from collections.abc import Mapping

import dynamixel_sdk as dxl
from lerobot.motors.dynamixel import DynamixelMotorsBus
from lerobot.motors.motors_bus import Motor, MotorNormMode


class PatientPort(dxl.PortHandler):  # type: ignore[misc]
    """The SDK's port. It waits for every answer at least ``timeout`` milliseconds."""

    def __init__(self, port: str, timeout: float) -> None:
        super().__init__(port)
        self._timeout = timeout

    def setPacketTimeout(self, packet_length: int) -> None:
        """Called by the SDK after it has sent an instruction."""
        super().setPacketTimeout(packet_length)
        self.packet_timeout: float = max(self.packet_timeout, self._timeout)  # type: ignore[has-type]


def make_bus(port: str, servos: Mapping[str, tuple[int, str]], timeout: float) -> DynamixelMotorsBus:
    """LeRobot's bus, not connected.

    Args:
        servos: id and model by name.
        timeout: milliseconds in which an answer must come.
    """
    motors = {n: Motor(id_, model, MotorNormMode.DEGREES) for n, (id_, model) in servos.items()}
    bus = DynamixelMotorsBus(port=port, motors=motors)
    bus.port_handler = bus.sync_reader.port = bus.sync_writer.port = PatientPort(port, timeout)
    return bus
