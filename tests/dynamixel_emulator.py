"""Dynamixel servos (X series) on a pseudo-terminal: they speak protocol 2.0 to the real SDK.

What the manual says is done as it says: CRC, byte stuffing, error numbers, the alert bit, permanent memory that is
locked while torque is on, answers to a sync read in turn (a silent servo silences those after it).
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading
import time
import tty
from collections.abc import Mapping
from types import TracebackType

PING, READ, WRITE, REBOOT, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x08, 0x82, 0x83
BROADCAST = 0xFE
OK, FAIL, INSTRUCTION, CRC, RANGE, LENGTH, LIMIT, ACCESS, ALERT = 0, 1, 2, 3, 4, 5, 6, 7, 0x80
HEADER = b"\xff\xff\xfd\x00"
MODELS = {"xl330-m288": 1200, "xl330-m077": 1190, "xm430-w350": 1020, "xl430-w250": 1060}

#: Address and bytes of what is used here.
REGISTERS = {
    "Model_Number": (0, 2),
    "Firmware_Version": (6, 1),
    "ID": (7, 1),
    "Return_Delay_Time": (9, 1),
    "Drive_Mode": (10, 1),
    "Operating_Mode": (11, 1),
    "Homing_Offset": (20, 4),
    "Shutdown": (63, 1),
    "Torque_Enable": (64, 1),
    "Status_Return_Level": (68, 1),
    "Hardware_Error_Status": (70, 1),
    "Goal_PWM": (100, 2),
    "Profile_Velocity": (112, 4),
    "Goal_Position": (116, 4),
    "Present_Position": (132, 4),
}
_SIGNED = {"Homing_Offset", "Goal_Position", "Present_Position"}
_PERMANENT, _SIZE = 64, 147
#: Read-only, beside everything from 120 on.
_READ_ONLY = set(range(0, 7)) | {69, 70}


def crc16(data: bytes) -> int:
    """CRC-16 of polynomial 0x8005, initial value 0, most significant bit first."""
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = ((value << 1) ^ 0x8005 if value & 0x8000 else value << 1) & 0xFFFF
    return value


def stuffed(body: bytes) -> bytes:
    """A 0xFD after every FF FF FD, which would otherwise look like a header."""
    return body.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")


def unstuffed(body: bytes) -> bytes:
    return body.replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")


def packet(id_: int, body: bytes) -> bytes:
    """Instruction or status ``body`` as it goes over the wire."""
    body = stuffed(body)
    raw = HEADER + bytes([id_]) + struct.pack("<H", len(body) + 2) + body
    return raw + struct.pack("<H", crc16(raw))


class Servo:
    """One servo: a control table, and a shaft that a hand or the motor turns.

    Attributes:
        silent: it answers nothing.
        garbled: number of its next answers that come with a wrong CRC.
        late: seconds after which its next answer comes.
        refuses: error number with which it answers every write, 0 for none.
    """

    def __init__(self, id_: int, model: str = "xl330-m288", position: int = 2048) -> None:
        self.id = id_
        self.memory = bytearray(_SIZE)
        self.silent = False
        self.late = 0.0
        self.garbled = self.refuses = 0
        self._moved = time.monotonic()
        self.set("Model_Number", MODELS[model])
        self.set("Firmware_Version", 52)
        self.set("ID", id_)
        self.set("Return_Delay_Time", 250)
        self.set("Operating_Mode", 3)
        self.set("Shutdown", 52)
        self.set("Status_Return_Level", 2)
        self.set("Goal_PWM", 885)
        self.set("Present_Position", position)

    def get(self, register: str) -> int:
        self.move()
        at, length = REGISTERS[register]
        return int.from_bytes(self.memory[at : at + length], "little", signed=register in _SIGNED)

    def set(self, register: str, value: int) -> None:
        at, length = REGISTERS[register]
        self.memory[at : at + length] = value.to_bytes(length, "little", signed=register in _SIGNED)

    def hold_at(self, position: int) -> None:
        """A hand turns the shaft; in vain where the motor holds it."""
        if not self.get("Torque_Enable"):
            self.set("Present_Position", position)

    def fail(self, bits: int) -> None:
        """A hardware error: the alert is raised, and torque is gone."""
        self.set("Hardware_Error_Status", bits)
        if bits & self.get("Shutdown"):
            self.set("Torque_Enable", 0)

    def move(self) -> None:
        """Where torque is on, the shaft has gone towards its goal, at Profile_Velocity (0: at once)."""
        now = time.monotonic()
        elapsed, self._moved = now - self._moved, now
        if not self.memory[64]:
            return
        (here,), (goal,) = (struct.unpack_from("<i", self.memory, a) for a in (132, 116))
        (speed,) = struct.unpack_from("<I", self.memory, 112)
        way = goal - here
        if speed:
            most = round(speed * 0.229 / 60 * 4096 * elapsed)
            way = max(-most, min(most, way))
        struct.pack_into("<i", self.memory, 132, here + way)

    @property
    def alert(self) -> int:
        return ALERT if self.memory[70] else 0

    def read(self, at: int, length: int) -> tuple[int, bytes]:
        self.move()
        if at + length > _SIZE:
            return ACCESS, b""
        return OK, bytes(self.memory[at : at + length])

    def write(self, at: int, data: bytes) -> int:
        self.move()
        span = range(at, at + len(data))
        if self.refuses:
            return self.refuses
        if span.stop > 120 or _READ_ONLY & set(span):
            return ACCESS
        if at < _PERMANENT and self.memory[64]:
            return ACCESS
        if at == 11 and data[0] not in (0, 1, 3, 4, 5, 16):
            return RANGE
        if at == 64 and (data[0] > 1 or len(data) != 1):
            return RANGE
        if at == 64 and data[0] and self.alert:
            return FAIL
        if at == 116 and self.memory[11] == 3 and not 0 <= int.from_bytes(data, "little", signed=True) <= 4095:
            return LIMIT
        self.memory[at : at + len(data)] = data
        return OK

    def reboot(self) -> None:
        """Encoders forget whole turns; volatile memory is as at the factory."""
        self.set("Hardware_Error_Status", 0)
        self.set("Torque_Enable", 0)
        self.set("Profile_Velocity", 0)
        self.set("Present_Position", self.get("Present_Position") % 4096)


class Emulator:
    """Servos behind a port; a context manager.

    Attributes:
        port: to give to the SDK.
        servos: by id.
        heard: instructions so far, as (instruction, id).
        wire: bits a second at which packets travel; 0 is at once.
    """

    def __init__(self, *servos: Servo, wire: int = 0) -> None:
        self.servos = {s.id: s for s in servos}
        self.heard: list[tuple[int, int]] = []
        self.wire = wire
        self._free = 0.0
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._wake, self._woken = os.pipe()
        self._buffer = b""
        self._lock = threading.RLock()
        self._running = True
        self._plugged = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def unplug(self) -> None:
        """The cable is pulled; whoever has the port open is cut off."""
        self._running = False
        os.write(self._woken, b"x")
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self._lock:
            if self._plugged:
                self._plugged = False
                os.close(self._master)
                os.close(self._slave)

    def close(self) -> None:
        self.unplug()
        for end in (self._wake, self._woken):
            with contextlib.suppress(OSError):
                os.close(end)

    def hold_at(self, positions: Mapping[int, int]) -> None:
        """A hand moves the arm: positions by id."""
        with self._lock:
            for id_, position in positions.items():
                self.servos[id_].hold_at(position)

    @property
    def torque(self) -> list[int]:
        """Ids of the servos that hold."""
        with self._lock:
            return [i for i, s in self.servos.items() if s.get("Torque_Enable")]

    # The wire.

    def _serve(self) -> None:
        while self._running:
            ready, _, _ = select.select([self._master, self._wake], [], [])
            if self._wake in ready:
                return
            try:
                self._buffer += os.read(self._master, 4096)
            except OSError:
                time.sleep(0.01)  # nobody has the port open
                continue
            while (found := self._next()) is not None:
                self._travel(len(found) + 7)
                with self._lock:
                    self._obey(*found[:2], found[2:])

    def _next(self) -> bytes | None:
        """The next instruction as id, instruction, parameters; garbage before it is skipped."""
        while True:
            at = self._buffer.find(HEADER)
            if at < 0:
                self._buffer = self._buffer[-3:]
                return None
            self._buffer = self._buffer[at:]
            if len(self._buffer) < 7:
                return None
            (length,) = struct.unpack_from("<H", self._buffer, 5)
            if len(self._buffer) < 7 + length:
                return None
            raw, self._buffer = self._buffer[: 7 + length], self._buffer[7 + length :]
            id_ = raw[4]
            if crc16(raw[:-2]) != struct.unpack("<H", raw[-2:])[0]:
                if id_ in self.servos:
                    self._answer(self.servos[id_], CRC)
                continue
            return bytes([id_]) + unstuffed(raw[7:-2])

    def _travel(self, length: int) -> None:
        if self.wire:
            self._free = max(self._free, time.perf_counter()) + 10 * length / self.wire
            time.sleep(max(0.0, self._free - time.perf_counter()))

    def _answer(self, servo: Servo, error: int, data: bytes = b"") -> bool:
        if servo.silent:
            return False
        raw = bytearray(packet(servo.id, bytes([0x55, error | servo.alert]) + data))
        if servo.garbled:
            servo.garbled -= 1
            raw[-1] ^= 0xFF
        self._travel(len(raw))
        time.sleep(servo.late)
        servo.late = 0.0
        with contextlib.suppress(OSError):
            os.write(self._master, bytes(raw))
        return True

    def _obey(self, id_: int, instruction: int, given: bytes) -> None:
        self.heard.append((instruction, id_))
        if instruction == SYNC_READ:
            at, length = struct.unpack("<HH", given[:4])
            for each in given[4:]:
                servo = self.servos.get(each)
                if servo is None or not self._answer(servo, *servo.read(at, length)):
                    return  # the next waits for this one's answer
        elif instruction == SYNC_WRITE:
            at, length = struct.unpack("<HH", given[:4])
            for start in range(4, len(given), 1 + length):
                servo = self.servos.get(given[start])
                if servo is not None and not servo.silent:
                    servo.write(at, given[start + 1 : start + 1 + length])
        elif instruction == PING:
            for servo in self.servos.values() if id_ == BROADCAST else [s for s in [self.servos.get(id_)] if s]:
                self._answer(servo, OK, bytes(servo.memory[0:2]) + bytes(servo.memory[6:7]))
        elif id_ in self.servos:
            self._single(self.servos[id_], instruction, given)

    def _single(self, servo: Servo, instruction: int, given: bytes) -> None:
        if servo.silent:
            return
        if instruction == READ:
            self._answer(servo, *servo.read(*struct.unpack("<HH", given)))
        elif instruction == WRITE:
            self._answer(servo, servo.write(struct.unpack_from("<H", given)[0], given[2:]))
        elif instruction == REBOOT:
            servo.reboot()
            self._answer(servo, OK)
        else:
            self._answer(servo, INSTRUCTION)


def arm(joints: int = 7, *, gripper: bool = True, positions: list[int] | None = None, wire: int = 0) -> Emulator:
    """An arm of ``joints`` (ids 1, 2, …) and a gripper after them."""
    ids = range(1, joints + gripper + 1)
    return Emulator(
        *(Servo(i, position=p) for i, p in zip(ids, positions or [2048] * len(ids), strict=True)), wire=wire
    )
