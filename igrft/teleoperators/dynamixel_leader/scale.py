"""From encoder positions to joint angles and gripper openings, and back. Numbers alone; no hardware."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

#: Positions in a turn, of every model that LeRobot knows.
TURN = 4096


@dataclass(frozen=True)
class Scale:
    """``value = at_zero + gain · (position − zero)``, cut to [low, high].

    Attributes:
        zero: encoder position at which the value is ``at_zero``.
        gain: value a position.
        centre: position near which the servo is when the arm is connected, within half a turn.
    """

    zero: float
    gain: float
    centre: float
    at_zero: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def joint(cls, zero: float, sign: int, turn: float, start: float = 0.0) -> Scale:
        """An angle.

        Args:
            zero: position at which it is 0.
            turn: value of a whole turn: 2π or 360.
            start: angle when the arm is connected.
        """
        gain = sign * turn / TURN
        return cls(zero, gain, zero + start / gain)

    @classmethod
    def gripper(cls, closed: float, opened: float, values: tuple[float, float]) -> Scale:
        """An opening, between ``values`` at closed and at open."""
        low, high = sorted(values)
        gain = (values[1] - values[0]) / (opened - closed)
        return cls(closed, gain, (closed + opened) / 2, values[0], low, high)

    def value(self, position: float) -> float:
        return min(self.high, max(self.low, self.at_zero + self.gain * (position - self.zero)))

    def position(self, value: float) -> int:
        """The nearest encoder position."""
        return round(self.zero + (min(self.high, max(self.low, value)) - self.at_zero) / self.gain)


class Turns:
    """Whole turns that encoders do not count: while they have no power, and where they start again at a turn's end.

    The first positions are taken to lie within half a turn of ``centre``, every later one within half a turn of the
    one before.
    """

    def __init__(self, centres: Mapping[str, float]) -> None:
        self._near = dict(centres)
        self._added: dict[str, int] = dict.fromkeys(centres, 0)

    def follow(self, positions: Mapping[str, int]) -> dict[str, int]:
        """Positions as the servos say them, with the turns that are missing."""
        found = {}
        for name, position in positions.items():
            self._added[name] = TURN * round((self._near[name] - position) / TURN)
            self._near[name] = found[name] = position + self._added[name]
        return found

    def servo(self, name: str, position: int) -> int:
        """A position as the servo counts it now."""
        return position - self._added[name]
