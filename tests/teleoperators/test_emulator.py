"""The servo emulator as the real SDK and LeRobot's bus see it."""

from __future__ import annotations

import time

import dynamixel_sdk as dxl
import pytest
from dynamixel_emulator import ALERT, Emulator, Servo, arm, crc16, packet, stuffed, unstuffed
from hypothesis import given
from hypothesis import strategies as st

from igrft.teleoperators.dynamixel_leader.bus import make_bus


def test_a_packet_of_the_manual() -> None:
    """Protocol 2.0, ping of id 1, and the example of the manual's CRC page."""
    assert packet(1, b"\x01").hex(" ") == "ff ff fd 00 01 03 00 01 19 4e"
    assert crc16(bytes.fromhex("ff ff fd 00 01 07 00 02 84 00 04 00")) == 0x151D


@given(st.binary(max_size=40))
def test_crc_is_the_sdks(data: bytes) -> None:
    assert crc16(data) == dxl.Protocol2PacketHandler().updateCRC(0, list(data), len(data))


@given(st.lists(st.sampled_from([0xFF, 0xFD, 0x00, 0x55]), max_size=24).map(bytes))
def test_stuffing_is_undone(data: bytes) -> None:
    body = b"\x55\x00" + data
    assert unstuffed(stuffed(body)) == body


@pytest.fixture
def three():
    with arm(2) as emulator:
        # The SDK's own patience, 35 ms, is short on a computer that is busy.
        bus = make_bus(emulator.port, {n: (i, "xl330-m288") for i, n in enumerate("abc", 1)}, 500.0)
        bus.connect()
        yield emulator, bus
        bus.port_handler.closePort()


def test_lerobots_bus_reads_and_writes(three) -> None:
    emulator, bus = three
    assert bus.ping("a") == 1200 and bus.ping(9) is None
    assert bus.broadcast_ping() == {1: 1200, 2: 1200, 3: 1200}
    emulator.hold_at({1: 17, 2: -5, 3: 0x00FDFFFF})  # the last is stuffed on the wire
    assert bus.sync_read("Present_Position", normalize=False) == {"a": 17, "b": -5, "c": 0x00FDFFFF}
    bus.write("Operating_Mode", "b", 4)
    assert emulator.servos[2].get("Operating_Mode") == 4 and bus.read("Operating_Mode", "b") == 4
    bus.sync_write("Goal_Position", {"a": 100, "b": -200, "c": 0x00FDFFFF}, normalize=False)
    bus.write("Torque_Enable", "b", 1)
    assert bus.sync_read("Present_Position", normalize=False) == {"a": 17, "b": -200, "c": 0x00FDFFFF}


def test_errors_are_those_of_the_manual(three) -> None:
    emulator, bus = three
    with pytest.raises(RuntimeError, match="out of range"):
        bus.write("Operating_Mode", "a", 7)
    bus.write("Torque_Enable", "a", 1)
    with pytest.raises(RuntimeError, match="not available to target address"):
        bus.write("Operating_Mode", "a", 4)
    with pytest.raises(RuntimeError, match="exceeds the limit"):
        bus.write("Goal_Position", "a", -1, normalize=False)
    emulator.servos[1].fail(1 << 5)
    assert emulator.torque == []
    with pytest.raises(RuntimeError, match="Hardware error occurred"):
        bus.read("Present_Position", "a", normalize=False)
    number, comm, error = bus.packet_handler.reboot(bus.port_handler, 1) + (None,) * 1
    assert (number, error) == (dxl.COMM_SUCCESS, None) and bus.read("Hardware_Error_Status", "a") == 0
    assert comm == 0 and ALERT == dxl.protocol2_packet_handler.ERRBIT_ALERT


def test_what_lerobots_sync_read_takes_for_granted_of_the_sdk(three) -> None:
    """Why the chain reads answers itself: the alert bit is dropped, and late packets stay in the buffer."""
    emulator, bus = three
    emulator.servos[2].fail(1)
    assert bus.sync_read("Present_Position", normalize=False)["b"] == 2048
    emulator.servos[2].reboot()
    emulator.servos[1].late = 0.8
    with pytest.raises(ConnectionError, match="no status packet"):
        bus.sync_read("Present_Position", normalize=False)
    time.sleep(0.6)
    emulator.hold_at({1: 5, 2: 5, 3: 5})
    assert bus.sync_read("Present_Position", normalize=False) == dict.fromkeys("abc", 2048)  # those of before


def test_a_silent_servo_silences_those_after_it(three) -> None:
    emulator, bus = three
    emulator.servos[2].silent = True
    with pytest.raises(ConnectionError, match="no status packet"):
        bus.sync_read("Present_Position", normalize=False)
    assert bus.ping("c") == 1200 and bus.ping("b") is None


def test_a_garbled_instruction_is_refused() -> None:
    with Emulator(Servo(1)) as emulator:
        port = dxl.PortHandler(emulator.port)
        port.openPort()
        raw = bytearray(packet(1, b"\x02\x84\x00\x04\x00"))
        raw[-1] ^= 1
        port.writePort(raw)
        port.setPacketTimeoutMillis(200)
        answer, result = dxl.Protocol2PacketHandler().rxPacket(port, False)
        assert result == dxl.COMM_SUCCESS and answer[8] == 3
        port.closePort()


def test_the_motor_turns_at_its_velocity() -> None:
    servo = Servo(1, position=0)
    servo.set("Profile_Velocity", 87)  # 19.9 revolutions a minute, 1360 positions a second
    servo.set("Goal_Position", 4000)
    servo.set("Torque_Enable", 1)
    servo._moved -= 1.0
    assert servo.get("Present_Position") == pytest.approx(1360, abs=5)
