"""Leader arms whose servos are emulated."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from dynamixel_emulator import SYNC_READ, Emulator

from igrft.teleoperators.dynamixel_leader import (
    BiDynamixelLeader,
    BiDynamixelLeaderConfig,
    DynamixelArmConfig,
    DynamixelLeader,
    DynamixelLeaderConfig,
)

#: Position 2048 is 0 everywhere; the gripper is closed at 180 degrees and open at 225.
DEGREES = {"unit": "degrees", "gripper_closed": 180.0, "gripper_open": 225.0}


def fields(emulator: Emulator, **options: Any) -> dict[str, Any]:
    """Settings of one arm: the last servo is the gripper's."""
    ids = list(emulator.servos)
    given = {"port": emulator.port, "ids": ids[:-1], "gripper_id": ids[-1], "timeout": 400.0, **DEGREES, **options}
    return {"offsets": [180.0] * len(given["ids"]), **given}


def one(emulator: Emulator, folder: Path, **options: Any) -> DynamixelLeader:
    return DynamixelLeader(DynamixelLeaderConfig(id="test", calibration_dir=folder, **fields(emulator, **options)))


def two(left: Emulator, right: Emulator, folder: Path, **options: Any) -> BiDynamixelLeader:
    arms = [DynamixelArmConfig(**fields(e, **options)) for e in (left, right)]
    return BiDynamixelLeader(
        BiDynamixelLeaderConfig(id="test", calibration_dir=folder, left_arm_config=arms[0], right_arm_config=arms[1])
    )


def unplug_after(emulator: Emulator, count: int, instruction: int = SYNC_READ) -> None:
    """Pull the cable when so many instructions were heard, from now on."""
    start = len(emulator.heard)

    def watch() -> None:
        while sum(i == instruction for i, _ in emulator.heard[start:]) < count:
            time.sleep(0.002)
        emulator.unplug()

    threading.Thread(target=watch, daemon=True).start()
