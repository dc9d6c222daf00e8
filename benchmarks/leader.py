"""Reading a bimanual leader of 14 joints and two grippers, over emulated servos on two pseudo-terminals.

    python benchmarks/leader.py [--rate 30] [--reads 600]

Every servo answers at the baud rate, in a process of its own for each chain. What is measured, in turns and at the
configured rate: ``get_action`` of the leader, which asks both chains before it listens to either; the same two chains
one after the other, as LeRobot's bimanual leaders do; and LeRobot's bus alone, likewise. A real adapter adds its own
delay (16 ms on FTDI chips, unless their latency_timer is set to 1).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

JOINTS = 7


def serve(wire: int, tell: Connection) -> None:
    """An emulated chain, until the parent hangs up."""
    from dynamixel_emulator import arm

    with arm(JOINTS, wire=wire) as emulator:
        tell.send(emulator.port)
        while not tell.poll(0.5):
            pass


def arm_fields(port: str, baudrate: int) -> dict[str, Any]:
    return {
        "port": port,
        "ids": list(range(1, JOINTS + 1)),
        "offsets": [0.0] * JOINTS,
        "gripper_id": JOINTS + 1,
        "gripper_closed": 1.0,
        "gripper_open": 2.0,
        "baudrate": baudrate,
    }


def measure(ports: list[str], baudrate: int, rate: float, reads: int, folder: Path) -> dict[str, np.ndarray]:
    """Milliseconds of each read, by kind."""
    from igrft.teleoperators.dynamixel_leader import BiDynamixelLeader, BiDynamixelLeaderConfig, DynamixelArmConfig

    arms = [DynamixelArmConfig(**arm_fields(p, baudrate)) for p in ports]
    config = BiDynamixelLeaderConfig(calibration_dir=folder, left_arm_config=arms[0], right_arm_config=arms[1])
    leader = BiDynamixelLeader(config)
    leader.connect()
    both = (leader.left_arm, leader.right_arm)
    kinds = {
        "both at once": leader.get_action,
        "one after the other": lambda: [arm.get_action() for arm in both],
        "LeRobot's bus alone": lambda: [arm.bus.sync_read("Present_Position", normalize=False) for arm in both],
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    due = time.perf_counter()
    for i in range(reads * len(kinds)):
        name = list(kinds)[i % len(kinds)]
        due = max(due + 1 / rate, time.perf_counter())
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        try:
            kinds[name]()
        except ConnectionError:
            found[name].append(float("nan"))  # ours has tried again by then, LeRobot's bus has not
            for arm in both:
                arm.bus.port_handler.ser.reset_input_buffer()
            continue
        found[name].append(1e3 * (time.perf_counter() - began))
    leader.disconnect()
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=30.0, help="reads a second")
    parser.add_argument("--reads", type=int, default=600, help="of each kind and baud rate")
    parser.add_argument("--baudrates", type=int, nargs="+", default=[1_000_000, 57_600])
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for baudrate in arguments.baudrates:
        pipes = [context.Pipe() for _ in range(2)]
        chains = [context.Process(target=serve, args=(baudrate, theirs), daemon=True) for _, theirs in pipes]
        for chain in chains:
            chain.start()
        ports = [ours.recv() for ours, _ in pipes]
        with tempfile.TemporaryDirectory() as folder:
            found = measure(ports, baudrate, arguments.rate, arguments.reads, Path(folder))
        for ours, _ in pipes:
            ours.send("done")
        # Request of 14 + n bytes and n answers of 15, ten bits each.
        wire = 1e3 * 10 * (14 + 16 * (JOINTS + 1)) / baudrate
        for name, values in found.items():
            good = values[np.isfinite(values)]
            median, p99 = np.percentile(good, [50, 99])
            told = {
                "read": name,
                "joints": 2 * JOINTS,
                "baudrate": baudrate,
                "rate_hz": arguments.rate,
                "reads": len(values),
                "failed": len(values) - len(good),
                "median_ms": round(float(median), 2),
                "p99_ms": round(float(p99), 2),
                "max_ms": round(float(good.max()), 2),
                "wire_of_one_chain_ms": round(wire, 2),
                "load": round(os.getloadavg()[0], 1),
            }
            print(json.dumps(told), flush=True)
        for chain in chains:
            chain.join()


if __name__ == "__main__":
    main()
