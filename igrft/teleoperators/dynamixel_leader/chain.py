"""A chain of servos on one port: reads, writes and torque over LeRobot's bus, and what went wrong in words."""

from __future__ import annotations

import contextlib
import logging
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from igrft.teleoperators.dynamixel_leader.errors import ALERT, LeaderError, hardware_error, status_error

log = logging.getLogger(__name__)

#: Bytes of a status packet beside its data, and seconds for which an adapter may hold one back.
_STATUS_BYTES, _ADAPTER = 11, 0.02


class Chain:
    """LeRobot's ``DynamixelMotorsBus``, with errors that say which joint it was, and torque that is always let go of.

    LeRobot's sync read drops the alert bit of the servos, leaves late packets in the port's buffer, where the next
    read takes them for its own, and stops letting go of torque at the first servo that does not answer.

    Attributes:
        bus: LeRobot's.
        lost: whether the port is gone.
    """

    def __init__(self, label: str, bus: Any, *, retries: int = 1) -> None:
        """
        Args:
            label: of the arm, which every message begins with.
            bus: not connected.
            retries: further tries of a read that failed.
        """
        self.label, self.bus, self.retries = label, bus, retries
        self.lost = False
        self._owed = 0
        self._names = list(bus.motors)

    # The port.

    def open(self, baudrate: int) -> None:
        """Open the port and see that every servo is there.

        Raises:
            LeaderError: no port, another program is on it, or a servo is missing or of another model.
        """
        self.lost = False
        self.bus.port_handler.baudrate = baudrate
        try:
            self.bus.connect(handshake=False)
            self.bus.port_handler.ser.exclusive = True
        except OSError as error:
            cause = error.__cause__ or error
            why = "another program uses it" if "lock" in str(cause) else " ".join(str(cause).split())
            self._close()
            raise LeaderError(
                f"{self.label}: port {self.bus.port} cannot be opened ({why}); lerobot-find-port shows which it is"
            ) from error
        try:
            self._greet()
        except BaseException:
            self._close()
            raise

    def release(self) -> list[str]:
        """Torque off wherever it can be reached, and close the port. Never raises.

        Returns:
            Names of the servos that could not be reached: they may still hold.
        """
        if not self.bus.is_connected:
            return []
        missed = list(self._names) if self.lost else self.let_go()
        self._close()
        return missed

    def _greet(self) -> None:
        missing, wrong = [], []
        known = {v: k for k, v in self.bus.model_number_table.items()}
        for name, motor in self.bus.motors.items():
            number = self._ping(name)
            if number is None:
                missing.append(name)
            elif known.get(number) != motor.model:
                wrong.append(f"{self._who(name)} is a {known.get(number, f'model of number {number}')}")
        if missing:
            raise self._silent(missing)
        if wrong:
            raise LeaderError(f"{self.label}: {', '.join(wrong)}, on {self.bus.port}; correct ids or models")

    # Registers. Values are as the servos have them, signed.

    def request(self, register: str, names: Sequence[str] | None = None) -> None:
        """Ask servos for a register by one sync read; :meth:`receive` takes the answers.

        Between the two another chain can be asked, so that both answer at the same time.
        """
        names = self._names if names is None else names
        address, length = self._address(register, names[0])
        with self._port():
            self._begin()
            self.bus._setup_sync_reader([self._id(n) for n in names], address, length)
            self._owed = len(names) * (_STATUS_BYTES + length)
            comm = self.bus.sync_reader.txPacket()
        self._pending = (register, list(names), length, comm)

    def receive(self) -> dict[str, int]:
        """The answers by name.

        Raises:
            LeaderError: a servo does not answer, or says that it is not well, after all tries.
        """
        register, names, length, comm = self._pending
        for attempt in range(1 + self.retries):
            if attempt:
                self.request(register, names)
                comm = self._pending[3]
            found, failed = self._answers(register, names, length, comm)
            if failed is None:
                self._owed = 0
                return found
            log.debug("%s: %s of %s: try %d failed", self.label, register, failed[0], attempt + 1)
        assert failed is not None
        raise self._why(*failed)

    def read(self, register: str, names: Sequence[str] | None = None) -> dict[str, int]:
        """One register of several servos, by sync read. Raises as :meth:`receive`."""
        self.request(register, names)
        return self.receive()

    def write(self, register: str, values: Mapping[str, int], *, changed_only: bool = False) -> None:
        """Write a register of servos one by one, each of which confirms.

        Args:
            changed_only: leave out those that hold the value: permanent memory wears out.

        Raises:
            LeaderError: a servo does not answer, or refuses.
        """
        now = self.read(register, list(values)) if changed_only and values else {}
        for name, value in values.items():
            if now.get(name) != value:
                comm, error = self._write(register, name, value)
                if comm != self.bus._comm_success or error:
                    raise self._why(name, comm, error)

    def send(self, register: str, values: Mapping[str, int]) -> None:
        """Write a register of several servos at once; nobody confirms.

        Raises:
            LeaderError: the port is gone.
        """
        with self._port():
            self.bus.port_handler.is_using = False
            self.bus.sync_write(register, dict(values), normalize=False)

    def torque_off(self) -> None:
        """Let every servo go; all are tried before one is complained about.

        Raises:
            LeaderError: one was not reached and may still hold.
        """
        missed = self.let_go()
        if self.lost:
            raise self._gone()
        if missed:
            raise LeaderError(
                f"{self.label}: torque of {self._list(missed)} on {self.bus.port} could not be taken off, it may still "
                "hold: cut the arm's power"
            )

    def let_go(self) -> list[str]:
        """Torque off of every servo that can be reached. Never raises; returns the names of the others."""
        missed: list[str] = []
        for at, name in enumerate(self._names):
            try:
                # A servo that is not well obeys all the same: its alert is no failure here.
                comm, error = self._write("Torque_Enable", name, 0)
            except LeaderError:
                return missed + self._names[at:]
            if comm != self.bus._comm_success or error & ~ALERT:
                missed.append(name)
        return missed

    # Insides.

    def _answers(
        self, register: str, names: list[str], length: int, comm: int
    ) -> tuple[dict[str, int], tuple[str, int, int] | None]:
        """Values by name, and the first that failed with its result and error."""
        if comm != self.bus._comm_success:
            return {}, (names[0], comm, 0)
        found: dict[int, int] = {}
        with self._port():
            for name in names:
                id_ = self._id(name)
                data, comm, error = self.bus.packet_handler.readRx(self.bus.port_handler, id_, length)
                if comm != self.bus._comm_success or error or len(data) != length:
                    return {}, (name, comm, error)
                found[id_] = int.from_bytes(bytes(data), "little")
        values = self.bus._decode_sign(register, found)
        return {n: int(values[self._id(n)]) for n in names}, None

    def _write(self, register: str, name: str, value: int) -> tuple[int, int]:
        address, length = self._address(register, name)
        data = list(int(value).to_bytes(length, "little", signed=value < 0))
        with self._port():
            self._begin()
            comm = error = 0
            for _ in range(1 + self.retries):
                comm, error = self.bus.packet_handler.writeTxRx(
                    self.bus.port_handler, self._id(name), address, length, data
                )
                if comm == self.bus._comm_success:
                    break
        return comm, error

    def _begin(self) -> None:
        """Whatever came too late, or was cut short by a Ctrl-C, must not disturb what is asked now."""
        self.bus.port_handler.is_using = False
        if self._owed:
            # Not listened to, or not to the end: answers would meet the next instruction on the wire.
            time.sleep(10 * self._owed / self.bus.port_handler.getBaudRate() + _ADAPTER)
            self._owed = 0
        self.bus.port_handler.ser.reset_input_buffer()

    def _ping(self, name: str) -> int | None:
        with self._port():
            self._begin()
            for _ in range(1 + self.retries):
                number, comm, _ = self.bus.packet_handler.ping(self.bus.port_handler, self._id(name))
                if comm == self.bus._comm_success:
                    return int(number)
        return None

    def _why(self, name: str, comm: int, error: int) -> LeaderError:
        """What became of a servo, found out by asking around: where one is silent, those after it are, too."""
        import dynamixel_sdk as dxl

        if error & ALERT:
            return self._unwell(name)
        if error:
            return LeaderError(f"{self.label}: {self._who(name)} on {self.bus.port} {status_error(error)}")
        missing = [n for n in self._names if self._ping(n) is None]
        if missing:
            return self._silent(missing)
        if comm == dxl.COMM_RX_CORRUPT:
            told = "answers with garbled packets: check its cable, and that no other servo has its id"
        else:
            told = "answers too late, or only at times: check its cable"
        return LeaderError(f"{self.label}: {self._who(name)} on {self.bus.port} {told}")

    def _unwell(self, name: str) -> LeaderError:
        address, _ = self._address("Hardware_Error_Status", name)
        with self._port():
            bits, comm, _ = self.bus.packet_handler.read1ByteTxRx(self.bus.port_handler, self._id(name), address)
        told = hardware_error(bits) if comm == self.bus._comm_success else "it does not say which"
        return LeaderError(
            f"{self.label}: {self._who(name)} on {self.bus.port} reports a hardware error: {told}; then switch the "
            "arm's power off and on"
        )

    def _silent(self, missing: list[str]) -> LeaderError:
        if len(missing) == len(self._names):
            rate = self.bus.port_handler.getBaudRate()
            return LeaderError(
                f"{self.label}: no servo on {self.bus.port} answers at {rate} baud: check the arm's power, the port "
                "and the baud rate"
            )
        do = "does" if len(missing) == 1 else "do"
        return LeaderError(
            f"{self.label}: {self._list(missing)} on {self.bus.port} {do} not answer: check cable and power from there "
            "on"
        )

    def _gone(self) -> LeaderError:
        return LeaderError(
            f"{self.label}: port {self.bus.port} is gone, and with it {self._list(self._names)}: plug the cable in and "
            "start again"
        )

    @contextlib.contextmanager
    def _port(self) -> Iterator[None]:
        """Raises LeaderError: the port is gone; from then on it is not tried again."""
        if self.lost:
            raise self._gone()
        try:
            yield
        except (OSError, termios.error) as error:
            if isinstance(error, LeaderError):
                raise
            self.lost = True
            self.bus.port_handler.is_using = False
            raise self._gone() from error

    def _close(self) -> None:
        try:
            if self.bus.port_handler.ser is not None:
                self.bus.port_handler.closePort()
        except (OSError, termios.error) as error:
            log.debug("%s: %s", self.label, error)
        self.bus.port_handler.is_open = self.bus.port_handler.is_using = False

    def _address(self, register: str, name: str) -> tuple[int, int]:
        from lerobot.motors.motors_bus import get_address

        found: tuple[int, int] = get_address(self.bus.model_ctrl_table, self.bus.motors[name].model, register)
        return found

    def _id(self, name: str) -> int:
        return int(self.bus.motors[name].id)

    def _who(self, name: str) -> str:
        return f"{name} (id {self._id(name)})"

    def _list(self, names: Sequence[str]) -> str:
        """Names with their ids; of many that follow each other, the first and the last."""
        shown = [self._who(n) for n in names]
        at = self._names.index(names[0])
        if len(names) > 3 and list(names) == self._names[at : at + len(names)]:
            return f"{shown[0]} to {shown[-1]}"
        return ", ".join(shown)
