"""Leader arms as LeRobot teleoperators: angles, calibration, torque, and both arms together."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path

import pytest
from dynamixel_emulator import SYNC_READ, Emulator, Servo, arm
from leader_arms import fields, one, two
from lerobot.common.control_utils import teleop_smooth_move_to, teleop_supports_feedback
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from igrft.teleoperators.dynamixel_leader import (
    BiDynamixelLeaderConfig,
    DynamixelArmConfig,
    DynamixelLeader,
    LeaderError,
)


@pytest.fixture
def left():
    with arm(7) as emulator:
        yield emulator


@pytest.fixture
def right():
    with arm(7) as emulator:
        yield emulator


@pytest.fixture
def leader(left: Emulator, tmp_path: Path):
    made = one(left, tmp_path)
    made.connect()
    yield made
    if made.is_connected:
        made.disconnect()


@pytest.fixture
def both(left: Emulator, right: Emulator, tmp_path: Path):
    made = two(left, right, tmp_path)
    made.connect()
    yield made
    if made.is_connected:
        made.disconnect()


# Angles.


def test_angles_in_degrees_and_a_gripper_from_0_to_1(leader: DynamixelLeader, left: Emulator) -> None:
    left.hold_at({1: 2048 + 1024, 2: 2048 - 512, 8: 2048 + 128})
    given = leader.get_action()
    assert list(given) == list(leader.action_features) == [*(f"joint_{i}.pos" for i in range(1, 8)), "gripper.pos"]
    assert given["joint_1.pos"] == 90 and given["joint_2.pos"] == -45 and given["gripper.pos"] == 0.25
    left.hold_at({8: 4000})
    assert leader.get_action()["gripper.pos"] == 1


def test_radians_signs_and_another_gripper(left: Emulator, tmp_path: Path) -> None:
    made = one(
        left,
        tmp_path,
        unit="radians",
        offsets=[math.pi] * 7,
        signs=[-1, 1, 1, 1, 1, 1, 1],
        gripper_closed=math.pi * 1.25,
        gripper_open=math.pi,
        gripper_values=[100.0, 0.0],
    )
    made.connect()
    left.hold_at({1: 2048 + 1024, 2: 2048 + 1024, 8: 2048 + 128})
    given = made.get_action()
    assert (given["joint_1.pos"], given["joint_2.pos"]) == pytest.approx((-math.pi / 2, math.pi / 2))
    assert given["gripper.pos"] == 25
    made.disconnect()


def test_any_number_of_joints_and_no_gripper(tmp_path: Path) -> None:
    with Emulator(Servo(11), Servo(3, "xm430-w350"), Servo(25)) as emulator:
        options = {"gripper_id": None, "gripper_closed": None, "gripper_open": None, "offsets": [180.0] * 3}
        models = ["xl330-m288", "xm430-w350", "xl330-m288"]
        made = one(emulator, tmp_path, ids=[11, 3, 25], models=models, **options)
        made.connect()
        assert made.get_action() == {"joint_1.pos": 0, "joint_2.pos": 0, "joint_3.pos": 0}
        made.disconnect()


def test_turns_that_were_lost_without_power(left: Emulator, tmp_path: Path) -> None:
    """The zero lies at 4000: 10 degrees further the encoder begins again at 0."""
    left.hold_at({1: 18, 2: 2048})
    made = one(left, tmp_path, offsets=[4000 * 360 / 4096, *[180.0] * 6], start_pose=[0.0, 350.0, 0, 0, 0, 0, 0])
    made.connect()
    given = made.get_action()
    assert given["joint_1.pos"] == pytest.approx(10, abs=0.1) and given["joint_2.pos"] == 360
    made.enable_torque()
    assert left.servos[1].get("Goal_Position") == 18
    made.send_feedback({"joint_1.pos": 0.0, "joint_2.pos": 370.0})
    made.get_action()  # nobody confirms a sync write; an answer says that it was heard
    assert left.servos[1].get("Goal_Position") == 4000 - 4096
    assert left.servos[2].get("Goal_Position") == 2048 + round(10 * 4096 / 360)
    made.disconnect()


# Torque.


def test_the_hand_guides_it_until_it_is_held(leader: DynamixelLeader, left: Emulator) -> None:
    assert teleop_supports_feedback(leader) and left.torque == []
    assert {s.get("Operating_Mode") for s in left.servos.values()} == {4}
    assert {s.get("Profile_Velocity") for s in left.servos.values()} == {87}
    assert {s.get("Goal_PWM") for s in left.servos.values()} == {442}
    left.hold_at({1: 1000})
    leader.enable_torque()
    left.hold_at({1: 3000})
    assert left.servos[1].get("Present_Position") == 1000 and len(left.torque) == 8
    leader.disable_torque()
    left.hold_at({1: 3000})
    assert left.servos[1].get("Present_Position") == 3000 and left.torque == []


def test_lerobots_smooth_handover(leader: DynamixelLeader, left: Emulator) -> None:
    """A goal that a motor remembers from before must not be gone to when it wakes up."""
    left.servos[1].set("Goal_Position", 0)
    target = {**dict.fromkeys(leader.action_features, 0.0), "joint_1.pos": 20.0, "gripper.pos": 0.5}
    left.hold_at({1: 2048 - 100})
    teleop_smooth_move_to(leader, target, duration_s=0.6)
    time.sleep(0.1)
    given = leader.get_action()
    assert given["joint_1.pos"] == pytest.approx(20, abs=0.1) and given["gripper.pos"] == pytest.approx(0.5, abs=0.01)


def test_an_arm_that_is_not_to_be_driven(left: Emulator, tmp_path: Path) -> None:
    made = one(left, tmp_path, motors=False)
    made.connect()
    assert made.feedback_features == {} and not teleop_supports_feedback(made)
    made.enable_torque()
    assert {s.get("Operating_Mode") for s in left.servos.values()} == {3} and left.torque == []
    made.disconnect()


def test_torque_that_cannot_be_put_on_is_taken_off_everywhere(leader: DynamixelLeader, left: Emulator) -> None:
    left.servos[5].refuses = 1
    with pytest.raises(LeaderError, match=r"joint_5 \(id 5\) on .* could not do it"):
        leader.enable_torque()
    assert left.torque == []


def test_disconnecting_lets_it_loose(leader: DynamixelLeader, left: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    leader.enable_torque()
    left.servos[2].silent = True
    with caplog.at_level(logging.WARNING):
        leader.disconnect()
    left.servos[2].silent = False
    assert left.torque == [2] and not leader.is_connected
    assert "torque of joint_2 could not be taken off; if it holds, cut the arm's power" in caplog.text
    with pytest.raises(DeviceNotConnectedError):
        leader.get_action()


def test_a_read_that_ctrl_c_cut_short_does_not_keep_the_torque_on(leader: DynamixelLeader, left: Emulator) -> None:
    leader.enable_torque()
    leader.request()
    assert leader.bus.port_handler.is_using  # the SDK would refuse whatever comes next
    leader.disconnect()
    assert left.torque == []


def test_it_is_connected_once(leader: DynamixelLeader) -> None:
    with pytest.raises(DeviceAlreadyConnectedError):
        leader.connect()


# Calibration.


def uncalibrated(emulator: Emulator, folder: Path, **more) -> DynamixelLeader:
    return one(emulator, folder, **{"offsets": None, "gripper_closed": None, "gripper_open": None, **more})


class Operator:
    """Answers what the calibration asks, and moves the arm as told."""

    def __init__(self, emulator: Emulator, *moves: dict[int, int] | str) -> None:
        self.emulator, self.moves, self.asked = emulator, list(moves), []

    def __call__(self, question: str) -> str:
        self.asked.append(question)
        move = self.moves.pop(0)
        if isinstance(move, str):
            return move
        self.emulator.hold_at(move)
        return ""


def test_calibration_is_asked_for_and_stored_as_lerobot_does(left: Emulator, tmp_path: Path, monkeypatch) -> None:
    left.servos[1].set("Homing_Offset", 500)
    left.servos[2].set("Drive_Mode", 1)
    operator = Operator(left, {1: 1000, 2: 3000}, {8: 100}, {8: 3900})
    monkeypatch.setattr("builtins.input", operator)
    signs = [1, -1, 1, 1, 1, 1, 1]
    made = uncalibrated(left, tmp_path, calibration_pose=[0, 90.0, 0, 0, 0, 0, 0], signs=signs)
    assert not made.is_calibrated
    made.connect()
    assert made.is_calibrated and len(operator.asked) == 3
    assert operator.asked[0] == "leader arm: hold the joints at 0, 90, 0, 0, 0, 0, 0 (degrees) and press ENTER: "
    assert left.servos[1].get("Homing_Offset") == 0 == left.servos[2].get("Drive_Mode")
    stored = json.loads((tmp_path / "test.json").read_text())
    assert stored["joint_1"] == {"id": 1, "drive_mode": 0, "homing_offset": -1000, "range_min": 0, "range_max": 4095}
    assert stored["joint_2"]["homing_offset"] == -(3000 + 1024) and stored["joint_2"]["drive_mode"] == 1
    # From 100 down past 0 to 3900: the short way.
    assert stored["gripper"] == {"id": 8, "drive_mode": 1, "homing_offset": 0, "range_min": -196, "range_max": 100}
    given = made.get_action()
    assert given["joint_1.pos"] == 0 and given["joint_2.pos"] == pytest.approx(90) and given["gripper.pos"] == 1
    made.disconnect()

    again = uncalibrated(left, tmp_path, signs=signs)
    again.connect()
    assert again.get_action() == given and len(operator.asked) == 3
    again.disconnect()


def test_a_calibration_that_is_there_can_be_kept_or_made_anew(left: Emulator, tmp_path: Path, monkeypatch) -> None:
    moves = [{1: 1000}, {8: 2000}, {8: 2500}]
    monkeypatch.setattr("builtins.input", operator := Operator(left, *moves, "", "c", {1: 1500}, {8: 2000}, {8: 2500}))
    made = uncalibrated(left, tmp_path)
    made.connect()
    made.calibrate()
    assert made.get_action()["joint_1.pos"] == 0 and "press ENTER to use the calibration of" in operator.asked[3]
    made.calibrate()
    assert json.loads((tmp_path / "test.json").read_text())["joint_1"]["homing_offset"] == -1500
    made.disconnect()


def test_a_gripper_that_was_not_moved(left: Emulator, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", Operator(left, {}, {8: 100}, {8: 101}))
    made = uncalibrated(left, tmp_path)
    with pytest.raises(LeaderError, match="the gripper was at the same place closed and open"):
        made.connect()
    assert not made.is_connected and not (tmp_path / "test.json").exists()


def test_without_a_calibration_nothing_is_read(left: Emulator, tmp_path: Path) -> None:
    made = uncalibrated(left, tmp_path)
    made.connect(calibrate=False)
    with pytest.raises(LeaderError, match="leader arm is not calibrated: run lerobot-calibrate once, in a terminal"):
        made.get_action()
    made.disconnect()


def test_the_calibration_of_other_servos_does_not_count(left: Emulator, tmp_path: Path) -> None:
    entry = {"id": 40, "drive_mode": 0, "homing_offset": 0, "range_min": 0, "range_max": 4095}
    (tmp_path / "test.json").write_text(json.dumps(dict.fromkeys(one(left, tmp_path).config.servos, entry)))
    assert not uncalibrated(left, tmp_path).is_calibrated


# Two arms.


def test_both_arms_are_asked_before_either_is_listened_to(both, left: Emulator, right: Emulator) -> None:
    left.hold_at({1: 3072})
    right.hold_at({8: 2304})
    del left.heard[:], right.heard[:]
    given = both.get_action()
    assert list(given) == list(both.action_features) == list(both.feedback_features)
    assert len(given) == 16 and given["left_joint_1.pos"] == 90 and given["right_gripper.pos"] == 0.5
    assert left.heard == right.heard == [(SYNC_READ, 0xFE)]
    assert both.is_calibrated and both.left_arm.calibration_fpath.name == "test_left.json"


def test_both_arms_follow(both, left: Emulator, right: Emulator) -> None:
    both.enable_torque()
    assert len(left.torque) == len(right.torque) == 8
    both.send_feedback({"left_joint_1.pos": 45.0, "right_gripper.pos": 1.0})
    both.get_action()
    assert left.servos[1].get("Goal_Position") == 2048 + 512 and right.servos[8].get("Goal_Position") == 2560
    both.disable_torque()
    assert left.torque == right.torque == []


def test_one_cable_pulled_in_mid_motion_and_the_other_arm_is_let_go_of(
    both, left: Emulator, right: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    both.enable_torque()
    both.send_feedback({"left_joint_1.pos": 90.0, "right_joint_1.pos": 90.0})
    left.unplug()
    with pytest.raises(LeaderError) as raised:
        both.get_action()
    assert str(raised.value) == (
        f"left arm: port {left.port} is gone, and with it joint_1 (id 1) to gripper (id 8): plug the cable in and "
        "start again"
    )
    assert both.is_connected
    with pytest.raises(LeaderError, match="left arm"):
        both.disable_torque()
    assert right.torque == []
    both.disconnect()
    assert not both.is_connected and "left arm" in caplog.text and "right arm" not in caplog.text


@pytest.mark.parametrize("side", ["left", "right"])
def test_where_one_arm_cannot_be_connected_neither_is(
    left: Emulator, right: Emulator, tmp_path: Path, side: str
) -> None:
    {"left": left, "right": right}[side].servos[4].silent = True
    made = two(left, right, tmp_path)
    with pytest.raises(LeaderError, match=rf"{side} arm: joint_4 \(id 4\)"):
        made.connect()
    assert not made.is_connected and not made.left_arm.is_connected


def test_one_arm_that_cannot_hold_lets_the_other_go(both, left: Emulator, right: Emulator) -> None:
    right.servos[1].refuses = 1
    with pytest.raises(LeaderError, match="right arm: joint_1"):
        both.enable_torque()
    assert left.torque == right.torque == []


# Configuration.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ids": []}, "ids is empty"),
        ({"ids": [1, 1]}, "must differ and lie in 0 to 252"),
        ({"ids": [1, 2], "gripper_id": 2}, "must differ"),
        ({"names": ["a", "a"]}, "names must differ"),
        ({"names": ["a", "gripper"]}, "none may be gripper"),
        ({"signs": [1]}, "signs has 1 entries for 2 joints"),
        ({"signs": [1, 2]}, "signs must be 1 or -1"),
        ({"offsets": [0.0]}, "offsets has 1 entries for 2 joints"),
        ({"models": ["xl330"]}, "unknown model 'xl330'; did you mean 'xl330-m"),
        ({"unit": "degree"}, "did you mean 'degrees'"),
        ({"baudrate": 1}, "baudrate is 1; servos have 9600"),
        ({"strength": 0.0}, r"strength must lie in \(0, 1\]"),
        ({"max_rpm": 0.0}, "max_rpm must be above 0"),
        ({"retries": -1}, "retries must not be negative"),
        ({"gripper_open": 1.0}, "the gripper has no servo"),
        ({"gripper_id": 9, "gripper_open": 1.0}, "give gripper_closed and gripper_open"),
        ({"gripper_values": [1.0, 1.0]}, "two different numbers"),
    ],
)
def test_settings_that_are_no_arm(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamixelArmConfig(**{"port": "p", "ids": [1, 2], **given})


def test_two_arms_have_two_ports(left: Emulator) -> None:
    same = DynamixelArmConfig(**fields(left))
    with pytest.raises(ValueError, match="both arms are on"):
        BiDynamixelLeaderConfig(left_arm_config=same, right_arm_config=same)
