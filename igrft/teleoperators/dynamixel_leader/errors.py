"""What goes wrong on a chain of servos."""

from __future__ import annotations

from igrft.errors import IgrftError


class LeaderError(IgrftError, ConnectionError):
    """A leader arm does not do as asked. One line: which arm, which joint and id, which port, what to do.

    Also a ``ConnectionError``, as LeRobot's buses raise it.
    """


#: Bits of the register Hardware_Error_Status (X series), and what to do.
_HARDWARE = {
    0: "supply voltage out of range (check the power supply)",
    2: "overheating (let it cool down)",
    3: "its encoder is broken (replace the servo)",
    4: "electrical shock (check power and wiring)",
    5: "overload (free the joint)",
}
#: Numbers in a status packet, without the alert bit.
_STATUS = {
    1: "could not do it",
    2: "does not know the instruction",
    3: "received a garbled packet (check the cable)",
    4: "refuses the value: out of range",
    5: "refuses the value: wrong length",
    6: "refuses the value: beyond its limit",
    7: "refuses access (torque on, or another model than configured)",
}
ALERT = 0x80


def hardware_error(bits: int) -> str:
    """Bits of Hardware_Error_Status in words."""
    told = [text for bit, text in _HARDWARE.items() if bits & (1 << bit)]
    return ", ".join(told) or f"unknown (status {bits})"


def status_error(number: int) -> str:
    """Number of a status packet's error, without the alert bit, in words."""
    return _STATUS.get(number, f"answers with error {number}")
