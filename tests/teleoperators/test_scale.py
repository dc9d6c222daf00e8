"""Encoder positions to angles and openings, and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.teleoperators.dynamixel_leader.scale import TURN, Scale, Turns

ZEROS = st.integers(-8192, 8192)
SIGNS = st.sampled_from([1, -1])


def test_exact_numbers() -> None:
    joint = Scale.joint(1024, -1, 360.0)
    assert (joint.value(1024), joint.value(2048), joint.value(0)) == (0, -90, 90)
    assert joint.position(45) == 512
    assert Scale.joint(0, 1, 2 * math.pi).value(1024) == pytest.approx(math.pi / 2)
    gripper = Scale.gripper(3000, 2000, (0.0, 1.0))
    assert [gripper.value(p) for p in (3100, 3000, 2500, 2000, 1900)] == [0, 0, 0.5, 1, 1]
    assert (gripper.position(0.25), gripper.position(7)) == (2750, 2000)
    assert Scale.gripper(0, 1000, (1.0, 0.0)).value(250) == 0.75


@given(zero=ZEROS, sign=SIGNS, position=st.integers(-20000, 20000), turn=st.sampled_from([360.0, 2 * math.pi]))
def test_there_and_back(zero: int, sign: int, position: int, turn: float) -> None:
    joint = Scale.joint(zero, sign, turn)
    assert joint.position(joint.value(position)) == position


@given(zero=ZEROS, sign=SIGNS, start=st.floats(-720, 720), off=st.floats(-179, 179))
def test_the_first_reading_is_within_half_a_turn_of_the_start_pose(
    zero: int, sign: int, start: float, off: float
) -> None:
    """Encoders without power forget whole turns: the servo says the position modulo one."""
    joint = Scale.joint(zero, sign, 360.0, start)
    turns = Turns({"a": joint.centre})
    position = turns.follow({"a": joint.position(start + off) % TURN})["a"]
    assert joint.value(position) == pytest.approx(start + off, abs=0.1)


@given(st.lists(st.integers(-2000, 2000), min_size=1, max_size=30))
def test_turns_are_counted_on(steps: list[int]) -> None:
    turns, true = Turns({"a": 2048.0}), 2048
    for step in steps:
        true += step
        said = true % TURN
        assert turns.follow({"a": said})["a"] == true
        assert turns.servo("a", true + 7) == said + 7
