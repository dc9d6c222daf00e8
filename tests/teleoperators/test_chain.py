"""What can go wrong on the wire, in one line each."""

from __future__ import annotations

import threading
import time

import pytest
from dynamixel_emulator import READ, SYNC_READ, Emulator, Servo, arm

from igrft.teleoperators.dynamixel_leader.bus import make_bus
from igrft.teleoperators.dynamixel_leader.chain import Chain
from igrft.teleoperators.dynamixel_leader.errors import LeaderError, hardware_error, status_error

#: Milliseconds; the machine may be busy.
TIMEOUT = 150.0
NAMES = ("joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "gripper")


def chain_on(port: str, model: str = "xl330-m288", names=NAMES, retries: int = 1) -> Chain:
    return Chain("left arm", make_bus(port, {n: (i, model) for i, n in enumerate(names, 1)}, TIMEOUT), retries=retries)


@pytest.fixture
def rig():
    with arm(5) as emulator:
        chain = chain_on(emulator.port)
        chain.open(1_000_000)
        yield emulator, chain
        chain.release()


def why(call, *arguments) -> str:
    with pytest.raises(LeaderError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value) and isinstance(raised.value, ConnectionError)
    return str(raised.value)


def test_positions_come_by_one_sync_read(rig) -> None:
    emulator, chain = rig
    emulator.hold_at({1: 10, 2: -10, 6: 5000})
    del emulator.heard[:]
    assert chain.read("Present_Position") == dict(zip(NAMES, (10, -10, 2048, 2048, 2048, 5000), strict=True))
    assert emulator.heard == [(SYNC_READ, 0xFE)]


def test_permanent_memory_is_written_where_it_differs(rig) -> None:
    emulator, chain = rig
    emulator.servos[1].set("Operating_Mode", 4)
    del emulator.heard[:]
    chain.write("Operating_Mode", dict.fromkeys(NAMES, 4), changed_only=True)
    assert len(emulator.heard) == 1 + 5
    assert {s.get("Operating_Mode") for s in emulator.servos.values()} == {4}
    chain.write("Homing_Offset", {"joint_2": -7})
    assert emulator.servos[2].get("Homing_Offset") == -7


def test_a_servo_that_stops_answering(rig) -> None:
    emulator, chain = rig
    emulator.servos[3].silent = True
    port = emulator.port
    assert why(chain.read, "Present_Position") == (
        f"left arm: joint_3 (id 3) on {port} does not answer: check cable and power from there on"
    )
    for id_ in (4, 5, 6):
        emulator.servos[id_].silent = True
    assert "joint_3 (id 3) to gripper (id 6)" in why(chain.read, "Present_Position")
    assert "joint_3 (id 3) to gripper" in why(chain.write, "Torque_Enable", {"joint_3": 1})
    for servo in emulator.servos.values():
        servo.silent = True
    assert why(chain.read, "Present_Position") == (
        f"left arm: no servo on {port} answers at 1000000 baud: check the arm's power, the port and the baud rate"
    )


def test_a_checksum_fault_is_tried_again_and_then_told(rig) -> None:
    emulator, chain = rig
    emulator.servos[2].garbled = 1
    assert chain.read("Present_Position")["joint_2"] == 2048
    emulator.servos[2].garbled = 2
    assert why(chain.read, "Present_Position") == (
        f"left arm: joint_2 (id 2) on {emulator.port} answers with garbled packets: check its cable, and that no other "
        "servo has its id"
    )
    assert chain.read("Present_Position")["joint_2"] == 2048


def test_late_answers_are_not_taken_for_those_of_the_next_read(rig) -> None:
    emulator, chain = rig
    chain.retries = 0
    emulator.servos[1].late = 0.3
    why(chain.read, "Present_Position")
    time.sleep(0.8)
    emulator.hold_at(dict.fromkeys(range(1, 7), 77))
    assert set(chain.read("Present_Position").values()) == {77}


@pytest.mark.parametrize(("bits", "words"), [(32, "overload"), (4, "overheating"), (1, "voltage"), (36, "overheating")])
def test_a_servo_that_is_not_well(rig, bits: int, words: str) -> None:
    emulator, chain = rig
    emulator.servos[4].fail(bits)
    said = why(chain.read, "Present_Position")
    assert said.startswith(f"left arm: joint_4 (id 4) on {emulator.port} reports a hardware error: ") and words in said
    assert said.endswith("; then switch the arm's power off and on")
    assert (READ, 4) in emulator.heard
    assert "joint_4" in why(chain.write, "Torque_Enable", {"joint_4": 1})


def test_a_servo_that_refuses(rig) -> None:
    emulator, chain = rig
    emulator.servos[1].set("Torque_Enable", 1)
    assert why(chain.write, "Operating_Mode", {"joint_1": 4}) == (
        f"left arm: joint_1 (id 1) on {emulator.port} refuses access (torque on, or another model than configured)"
    )
    assert status_error(99) == "answers with error 99" and "overload" in hardware_error(32)
    assert hardware_error(0x40) == "unknown (status 64)"


def test_torque_is_taken_off_wherever_it_can_be_reached(rig) -> None:
    emulator, chain = rig
    chain.write("Torque_Enable", dict.fromkeys(NAMES, 1))
    emulator.servos[2].silent = True
    emulator.servos[5].set("Hardware_Error_Status", 1)  # holds on, since voltage is none of its reasons to shut down
    said = why(chain.torque_off)
    assert "torque of joint_2 (id 2)" in said and said.endswith("it may still hold: cut the arm's power")
    assert emulator.torque == [2]
    assert chain.release() == ["joint_2"] and not chain.bus.is_connected
    assert chain.release() == []


def test_the_cable_is_pulled(rig) -> None:
    emulator, chain = rig
    emulator.unplug()
    gone = (
        f"left arm: port {emulator.port} is gone, and with it joint_1 (id 1) to gripper (id 6): plug the cable in and "
        "start again"
    )
    started = time.monotonic()
    for call in (
        lambda: chain.read("Present_Position"),
        lambda: chain.write("Torque_Enable", {"joint_1": 0}),
        lambda: chain.send("Goal_Position", {"joint_1": 0}),
        chain.torque_off,
    ):
        assert why(call) == gone
    assert chain.release() == list(NAMES) and not chain.bus.is_connected
    assert time.monotonic() - started < 0.5


def test_the_cable_is_pulled_while_an_answer_is_waited_for(rig) -> None:
    emulator, chain = rig
    chain.request("Present_Position")
    threading.Timer(0.02, emulator.unplug).start()
    emulator.servos[6].silent = True
    assert "is gone" in why(lambda: [chain.read("Present_Position") for _ in range(100)])


def test_a_port_that_cannot_be_opened(rig) -> None:
    emulator, _ = rig
    said = why(chain_on("/dev/does-not-exist").open, 1_000_000)
    assert said.startswith("left arm: port /dev/does-not-exist cannot be opened (") and "lerobot-find-port" in said
    second = chain_on(emulator.port)
    assert "another program uses it" in why(second.open, 1_000_000)
    assert not second.bus.is_connected


def test_a_servo_that_is_missing_or_another() -> None:
    with Emulator(Servo(1), Servo(2, "xm430-w350")) as emulator:
        chain = chain_on(emulator.port, names=("joint_1", "joint_2"))
        said = why(chain.open, 1_000_000)
        assert said == f"left arm: joint_2 (id 2) is a xm430-w350, on {emulator.port}; correct ids or models"
        chain = chain_on(emulator.port, names=("joint_1", "joint_2", "gripper"))
        assert "gripper (id 3) on" in why(chain.open, 1_000_000)
        assert not chain.bus.is_connected
