"""Limits of actions: exact numbers, and what must hold for any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.safety import Limiter
from igrft.rollouts.settings import SafetySettings


def test_positions_and_steps_are_cut() -> None:
    limiter = Limiter(SafetySettings(low=[-1.0], high=[1.0, 2.0], step=[0.25]), 2)
    first, cut = limiter.apply(np.array([3.0, 1.5]), None)
    assert first.tolist() == [1.0, 1.5] and first.dtype == np.float32 and cut
    assert limiter.where.tolist() == [True, False]
    second, cut = limiter.apply(np.array([-1.0, 1.625]), first)
    assert second.tolist() == [0.75, 1.625] and cut
    third, cut = limiter.apply(np.array([0.5, 1.5]), second)
    assert third.tolist() == [0.5, 1.5] and not cut
    assert (limiter.cuts, limiter.in_row) == (2, 0)


def test_it_comes_back_at_step_speed_from_outside() -> None:
    limiter = Limiter(SafetySettings(low=[0.0], high=[1.0], step=[0.5]), 1)
    at, places = np.array([2.25], np.float32), []
    for _ in range(4):
        at, _ = limiter.apply(np.array([3.0]), at)
        places.append(at.item())
    assert places == [1.75, 1.25, 1.0, 1.0]


def test_no_limits_change_nothing() -> None:
    limiter = Limiter(SafetySettings(), 3)
    action = np.array([1e30, -5.0, 0.0], np.float32)
    sent, cut = limiter.apply(action, np.zeros(3, np.float32))
    assert sent.tobytes() == action.tobytes() and not cut
    assert sent is not action


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_what_is_not_finite_is_refused_as_a_whole(bad: float) -> None:
    limiter = Limiter(SafetySettings(high=[1.0]), 2)
    before = np.array([0.5, 0.25], np.float32)
    sent, cut = limiter.apply(np.array([0.75, bad]), before)
    assert sent.tolist() == [0.5, 0.25] and cut
    assert limiter.where.tolist() == [False, True]
    with pytest.raises(IgrftError, match="first action of an episode is not finite"):
        limiter.apply(np.array([0.75, bad]), None)


def test_a_refused_action_still_comes_back_from_outside() -> None:
    limiter = Limiter(SafetySettings(high=[1.0], step=[0.5]), 1)
    sent, cut = limiter.apply(np.array([np.nan]), np.array([3.0], np.float32))
    assert sent.tolist() == [2.5] and cut


def test_cuts_in_a_row_stop() -> None:
    limiter = Limiter(SafetySettings(high=[1.0], stop_after=2), 1)
    seen = []
    for value in (2.0, 0.0, 2.0, 2.0):
        limiter.apply(np.array([value]), None)
        seen.append(limiter.should_stop)
    assert seen == [False, False, False, True]
    limiter.reset()
    assert (limiter.cuts, limiter.in_row, limiter.should_stop) == (0, 0, False)


def test_no_stop_unless_asked() -> None:
    limiter = Limiter(SafetySettings(high=[1.0]), 1)
    for _ in range(1000):
        limiter.apply(np.array([2.0]), None)
    assert limiter.cuts == 1000 and not limiter.should_stop


def test_steps_between() -> None:
    limiter = Limiter(SafetySettings(step=[0.5, 2.0]), 2)
    assert limiter.steps_between(np.array([0, 0]), np.array([1.6, 2])) == 4
    assert limiter.steps_between(np.array([0, 0]), np.array([0, 0])) == 1
    assert Limiter(SafetySettings(), 2).steps_between(np.array([0, 0]), np.array([9, 9])) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SafetySettings(low=[0.0, 1.0]), "rollout.safety.low has 2 numbers; give 1 for all joints, or 3"),
        (SafetySettings(high=[0.0] * 4), "rollout.safety.high has 4 numbers"),
        (SafetySettings(step=[]), "rollout.safety.step has 0 numbers"),
        (SafetySettings(step=[0.1, 0.0, 0.1]), "rollout.safety.step: every number must be above 0"),
        (SafetySettings(low=[math.nan]), "rollout.safety.low holds a NaN"),
        (SafetySettings(low=[2.0], high=[3.0, 1.0, 3.0]), "low \\(2\\) is above high \\(1\\) at number 1"),
        (SafetySettings(low=["a"]), "rollout.safety.low must be numbers"),  # type: ignore[list-item]
        (SafetySettings(stop_after=0), "rollout.safety.stop_after is 0"),
    ],
)
def test_wrong_settings(settings: SafetySettings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Limiter(settings, 3)


def test_wrong_number_of_actions() -> None:
    with pytest.raises(IgrftError, match=r"shape \[2\]; 3 numbers"):
        Limiter(SafetySettings(), 3).apply(np.zeros(2), None)


numbers = st.floats(-1e6, 1e6, width=32)
limits = st.floats(-1e3, 1e3)


@st.composite
def cases(draw: st.DrawFn) -> tuple[SafetySettings, np.ndarray, np.ndarray | None]:
    dim = draw(st.integers(1, 4))
    low = draw(st.lists(limits, min_size=dim, max_size=dim))
    wide = draw(st.lists(st.floats(0.0, 1e3), min_size=dim, max_size=dim))
    step = draw(st.none() | st.lists(st.floats(1e-9, 1e3), min_size=dim, max_size=dim))
    action = draw(st.lists(numbers, min_size=dim, max_size=dim))
    before = draw(st.none() | st.lists(numbers, min_size=dim, max_size=dim))
    settings = SafetySettings(low=low, high=[a + b for a, b in zip(low, wide, strict=True)], step=step)
    return settings, np.array(action, np.float32), None if before is None else np.array(before, np.float32)


#: 1026 less the step is half a float64 above 1024 and rounds to it: 1024 would be more than the step away.
ROUNDED = SafetySettings(low=[0.0], high=[0.0], step=[1.9999999999998863])


@example((ROUNDED, np.zeros(1, np.float32), np.full(1, 1026, np.float32)))
@given(cases())
def test_inside_limits_and_within_a_step(case: tuple[SafetySettings, np.ndarray, np.ndarray | None]) -> None:
    settings, action, before = case
    sent, cut = Limiter(settings, len(action)).apply(action, before)
    assert settings.low is not None and settings.high is not None
    for i, value in enumerate(sent.astype(np.float64)):
        # Between limits that nearly meet there may be no float32: what stands for them may lie one rounding outside.
        apart = float(np.spacing(np.float32(max(abs(settings.low[i]), abs(settings.high[i])))))
        slack = apart + 2e-45 if settings.high[i] - settings.low[i] < apart else 0.0
        low, high = settings.low[i] - slack, settings.high[i] + slack
        if before is None or settings.step is None:
            assert low <= value <= high
            continue
        at, step = float(before[i]), settings.step[i]
        assert abs(value - at) <= step
        if low <= at <= high:
            assert low <= value <= high
        else:  # outside: nearer the limits by a whole step (less what float32 cannot say), or inside them
            gap = max(low - at, at - high)
            left = max(low - value, value - high, 0.0)
            assert left <= max(0.0, gap - step) + (abs(at) + abs(value)) * 2**-22 + 2e-45
    assert cut == (sent.tobytes() != action.tobytes() and bool((sent != action).any()))


@given(cases())
def test_twice_is_once(case: tuple[SafetySettings, np.ndarray, np.ndarray | None]) -> None:
    settings, action, before = case
    once, _ = Limiter(settings, len(action)).apply(action, before)
    twice, cut = Limiter(settings, len(action)).apply(once, before)
    assert twice.tobytes() == once.tobytes() and not cut


@given(cases())
def test_inside_is_untouched(case: tuple[SafetySettings, np.ndarray, np.ndarray | None]) -> None:
    settings, action, before = case
    assert settings.low is not None and settings.high is not None
    low, high = np.array(settings.low), np.array(settings.high)
    inside = ((action >= low) & (action <= high)).all()
    if before is not None and settings.step is not None:
        inside &= (np.abs(action.astype(np.float64) - before) <= np.array(settings.step)).all()
    sent, cut = Limiter(settings, len(action)).apply(action, before)
    if inside:
        assert sent.tobytes() == action.tobytes() and not cut


def test_the_sign_of_a_zero_stays() -> None:
    sent, cut = Limiter(SafetySettings(low=[0.0], high=[1.0]), 1).apply(np.array([-0.0], np.float32), None)
    assert math.copysign(1.0, sent.item()) == -1.0 and not cut
