"""Limits of position and step size, for policy and human alike. Numpy in, numpy out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.settings import SafetySettings

_INFINITY = np.float32(np.inf)


class Limiter:
    """Cuts actions to what :class:`~igrft.rollouts.settings.SafetySettings` allow.

    Position comes first, then the step: an action is brought into [low, high], then to within ``step`` of the one
    before. From a place outside [low, high] it therefore comes back at no more than ``step`` a time. An action
    that holds a NaN or an infinity is refused as a whole: the one before is repeated, and that counts as a cut.

    What comes out keeps the limits exactly, although it is float32 and they are not: bounds are rounded inwards.

    Attributes:
        cuts: cut actions since the last :meth:`reset`.
        in_row: cut actions since the last one that was not.
        where: bool [dim], which numbers of the last action were cut.
    """

    def __init__(self, settings: SafetySettings, dim: int) -> None:
        """Raises UsageError for settings that do not fit ``dim`` actions or each other."""
        low = _numbers(settings.low, dim, "low")
        high = _numbers(settings.high, dim, "high")
        self._step = _numbers(settings.step, dim, "step")
        if low is not None and high is not None and (low > high).any():
            at = int(np.argmax(low > high))
            raise UsageError(f"rollout.safety: low ({low[at]:g}) is above high ({high[at]:g}) at number {at}")
        if self._step is not None and (self._step <= 0).any():
            raise UsageError("rollout.safety.step: every number must be above 0")
        if settings.stop_after is not None and settings.stop_after < 1:
            raise UsageError(f"rollout.safety.stop_after is {settings.stop_after}: at least 1, or null to go on")
        self._low, self._high = _inside(low, high, dim)
        self._stop_after = settings.stop_after
        self._dim = dim
        self.reset()

    def reset(self) -> None:
        """A new episode: nothing has been cut."""
        self.cuts = 0
        self.in_row = 0
        self.where = np.zeros(self._dim, bool)

    @property
    def should_stop(self) -> bool:
        """Whether ``stop_after`` actions in a row have been cut."""
        return self._stop_after is not None and self.in_row >= self._stop_after

    def apply(self, action: np.ndarray, previous: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """Cut one action.

        Args:
            action: [dim], any float.
            previous: float32 [dim], the action sent before; None at the start, where no step is limited.

        Returns:
            The action to send, float32 [dim], and whether it differs from ``action``. What lies inside all
            limits comes back bit for bit.

        Raises:
            IgrftError: another number of actions, or a refused action with none before it to repeat.
        """
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused
            wanted: np.ndarray = np.asarray(action, np.float32)
        if wanted.shape != (self._dim,):
            raise IgrftError(f"an action has shape {list(wanted.shape)}; {self._dim} numbers are driven")
        before = None
        if previous is not None:
            before = np.asarray(previous, np.float32)
            if before.shape != (self._dim,) or not np.isfinite(before).all():
                raise IgrftError("the last action is no longer known: stop the robot and begin again")
        refused = ~np.isfinite(wanted)
        target: np.ndarray = wanted
        if refused.any():
            if before is None:
                raise IgrftError("the first action of an episode is not finite: nothing is sent")
            target = before
        target = _clip(target, self._low, self._high)
        if before is not None and self._step is not None:
            target = _clip(target, *_reach(before, self._step))
        self.where = refused if refused.any() else target != wanted
        cut = bool(self.where.any())
        self.cuts += cut
        self.in_row = self.in_row + 1 if cut else 0
        return (target if cut else wanted.copy()), cut

    def steps_between(self, start: np.ndarray, end: np.ndarray) -> int:
        """Least number of steps that lead from one action to another, at least 1."""
        if self._step is None:
            return 1
        way = np.abs(np.asarray(end, np.float64) - np.asarray(start, np.float64))
        return max(1, math.ceil(float((way / self._step).max(initial=0.0)) - 1e-6))


def _numbers(given: Sequence[float] | float | None, dim: int, name: str) -> np.ndarray | None:
    """One number a joint, float64 [dim]; a single one holds for all."""
    if given is None:
        return None
    try:
        numbers = np.atleast_1d(np.asarray(given, np.float64))
    except (TypeError, ValueError):
        raise UsageError(f"rollout.safety.{name} must be numbers, one a joint or one for all") from None
    if numbers.ndim != 1 or len(numbers) not in (1, dim):
        raise UsageError(f"rollout.safety.{name} has {numbers.size} numbers; give 1 for all joints, or {dim}")
    if np.isnan(numbers).any():
        raise UsageError(f"rollout.safety.{name} holds a NaN; .inf is no limit")
    return np.broadcast_to(numbers, (dim,)).copy()


def _inside(low: np.ndarray | None, high: np.ndarray | None, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Limits as float32 [dim] that lie inside the given ones."""
    least = np.full(dim, -_INFINITY) if low is None else _round_up(low)
    most = np.full(dim, _INFINITY) if high is None else _round_down(high)
    # No float32 lies between two limits that nearly meet: the nearest one stands for both.
    meet = least > most
    if meet.any():
        assert low is not None
        least[meet] = most[meet] = low[meet].astype(np.float32)
    return least, most


def _reach(before: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest float32 within ``step`` of ``before``."""
    middle = before.astype(np.float64)
    least, most = _round_up(middle - step), _round_down(middle + step)
    # The sum itself may have been rounded away from where the joint stands: one float32 nearer.
    least = np.where(middle - least > step, np.nextafter(least, _INFINITY), least)
    most = np.where(most - middle > step, np.nextafter(most, -_INFINITY), most)
    return least, most


def _clip(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Unlike np.clip, this leaves the sign of a zero alone."""
    return np.where(values < low, low, np.where(values > high, high, values))


def _round_up(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
    return np.where(near < values, np.nextafter(near, _INFINITY), near)


def _round_down(values: np.ndarray) -> np.ndarray:
    return -_round_up(-values)
