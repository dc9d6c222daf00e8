"""Taking over with a leader arm: no jump, the right torque, and a way to stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lerobot.processor import RobotActionProcessorStep, RobotProcessorPipeline, make_default_processors
from lerobot.processor.converters import robot_action_observation_to_transition, transition_to_robot_action
from lerobot.teleoperators.utils import TeleopEvents
from mock_robot import MockLeader, MockLeaderConfig, arm, leader, two_arms

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.keymap import KeyMap
from igrft.rollouts.keys import KeysHuman, ScriptedKeys
from igrft.rollouts.protocols import Event, Human, Status
from igrft.rollouts.robot import RobotEmbodiment
from igrft.rollouts.safety import Limiter
from igrft.rollouts.settings import EnvironmentSettings, HumanSettings, SafetySettings
from igrft.rollouts.teleop import TeleopHuman, make_human, open_teleop

NAMES = ("shoulder.pos", "elbow.pos", "gripper.pos")
FAR = [60.0, -40.0, 20.0]


class Bench:
    """A mock robot, a human with a mock leader, and a loop as simple as can be."""

    def __init__(
        self, folder: Path, *, motors: bool, smooth: bool = True, pose: list[float] = FAR, **more: Any
    ) -> None:
        safety = more.pop("safety", None)
        script = more.pop("script", [])
        processors = more.pop("processors", None)
        environment = EnvironmentSettings(type="robot", task="t", robot=arm(folder, **more), fps=100.0)
        self.robot = RobotEmbodiment.from_settings(environment, processors=processors)
        settings = HumanSettings(type="teleop", teleop=leader(folder, motors=motors, pose=pose), smooth=smooth)
        self.leader: MockLeader = open_teleop(settings, self.robot)
        self.keys = ScriptedKeys(script)
        self.human = TeleopHuman(
            self.leader,
            self.robot,
            self.keys,
            KeyMap(),
            smooth=smooth,
            safety=safety,
            leader_seconds=0.4,
            robot_seconds=0.3,
        )
        self.limiter = Limiter(safety or SafetySettings(), 3)
        self.robot.reset(0)
        self.human.start(0)

    def step(self, wanted: np.ndarray) -> None:
        action, _ = self.limiter.apply(wanted, self.robot.last_sent)
        self.robot.act(action)

    def policy(self, steps: int) -> None:
        """Goes on slowly from wherever the robot is."""
        for _ in range(steps):
            self.step(self.robot.observe()["observation.state"] + np.float32(0.5))

    def take_over(self) -> None:
        self.human.take_over(self.robot.observe(), self.robot.last_sent)

    def drive(self, steps: int) -> None:
        """The hand moves the leader slowly."""
        for _ in range(steps):
            pose = self.leader.bus.present.values()
            self.leader.hold_at(*(v + 0.8 for v in pose))
            self.step(self.human.action(self.robot.observe()))

    def there_and_back(self) -> None:
        self.policy(10)
        self.take_over()
        self.drive(15)
        self.human.hand_back()
        self.policy(10)

    @property
    def largest_change(self) -> float:
        sent = np.array([list(a.values()) for a in self.robot._robot.sent])
        return float(np.abs(np.diff(sent, axis=0)).max())

    def close(self) -> None:
        self.human.close()
        self.robot.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Any]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


# Without a jump. The leader is 60 units away; slides are 30 steps long, and policy and hand go under 1 a step.


@pytest.mark.parametrize("motors", [True, False])
def test_a_takeover_and_back_has_no_jump(bench: Any, motors: bool) -> None:
    there = bench(motors=motors)
    there.there_and_back()
    assert there.largest_change < 2.5


@pytest.mark.parametrize("motors", [True, False])
def test_without_the_smooth_handover_it_jumps(bench: Any, motors: bool) -> None:
    there = bench(motors=motors, smooth=False)
    there.there_and_back()
    assert there.largest_change > 50


def test_a_leader_with_motors_comes_to_the_robot_in_small_steps(bench: Any) -> None:
    there = bench(motors=True)
    there.policy(10)
    before = there.robot._robot.sent[-1]
    there.take_over()
    path = np.array([list(goal.values()) for goal in there.leader.bus.log])
    assert path[0] == pytest.approx(FAR)
    assert path[-1] == pytest.approx(there.robot.last_sent, abs=1e-4)
    assert np.abs(np.diff(path, axis=0)).max() < 60 / 10
    assert there.robot._robot.sent[10:] == [before]  # the robot waits where it is
    assert not there.leader.bus.torque  # loose for the hand


def test_a_robot_comes_to_a_leader_without_motors(bench: Any) -> None:
    there = bench(motors=False)
    there.policy(3)
    there.take_over()
    assert there.robot.last_sent.tolist() == FAR
    assert there.leader.events == []


def test_on_the_way_to_the_leader_limits_hold(bench: Any) -> None:
    safety = SafetySettings(low=[-30.0], high=[50.0], step=[1.5])
    there = bench(motors=False, safety=safety)
    there.there_and_back()
    sent = np.array([list(a.values()) for a in there.robot._robot.sent])
    assert there.largest_change <= 1.5 and sent.min() >= -30 and sent.max() <= 50


def test_a_takeover_before_any_action(bench: Any) -> None:
    there = bench(motors=True)
    there.take_over()
    assert list(there.leader.bus.present.values()) == pytest.approx([0, 0, 0])


def test_the_leader_holds_where_the_hand_left_it(bench: Any) -> None:
    there = bench(motors=True)
    there.policy(5)
    there.take_over()
    there.drive(20)
    left = dict(there.leader.bus.present)
    there.human.hand_back()
    # A motor that wakes up goes to the goal it remembers, here the pose at which the hand took it.
    assert there.leader.bus.torque and there.leader.bus.present == left
    there.leader.hold_at(0, 0, 0)
    assert there.leader.bus.present == left
    there.policy(5)
    there.take_over()
    assert not there.leader.bus.torque


def test_stop_ends_a_slide_and_is_not_swallowed(bench: Any) -> None:
    there = bench(motors=False, script=[(0, "esc")])
    there.robot.act(np.zeros(3, np.float32))
    there.take_over()
    assert np.abs(there.robot.last_sent).max() < 1
    assert there.human.events() == [Event.STOP]


def test_stop_ends_the_leaders_way_too(bench: Any) -> None:
    there = bench(motors=True, script=[(0, "esc")])
    there.robot.act(np.zeros(3, np.float32))
    there.take_over()
    assert list(there.leader.bus.present.values()) == pytest.approx(FAR)
    assert not there.leader.bus.torque and there.human.events() == [Event.STOP]


class Mirrored(RobotActionProcessorStep):
    """The leader hangs upside down."""

    def action(self, action: dict) -> dict:
        return {k: -v for k, v in action.items()}

    def transform_features(self, features: dict) -> dict:
        return features


def test_a_leader_that_counts_otherwise_is_not_driven_to_the_robots_numbers(bench: Any) -> None:
    _, action, observation = make_default_processors()
    teleop = RobotProcessorPipeline(
        [Mirrored()], to_transition=robot_action_observation_to_transition, to_output=transition_to_robot_action
    )
    there = bench(motors=True, processors=(teleop, action, observation))
    there.policy(3)
    there.take_over()
    assert there.robot.last_sent.tolist() == [-60, 40, -20]
    assert there.human.action({}).tolist() == [-60, 40, -20]
    assert not there.leader.bus.torque


# What it says, and how it is found.


def test_it_is_a_human(bench: Any) -> None:
    there = bench(motors=True, script=[(0, "space"), (1, "space"), (2, "c")])
    human = there.human
    assert isinstance(human, Human)
    assert (human.name, human.scripted, human.can_drive) == ("mock_leader", False, True)
    assert human.events() == [Event.TAKE_OVER]
    there.take_over()
    assert human.events() == [Event.HAND_BACK] and not human.finished(Status())
    human.hand_back()
    assert human.events() == [Event.HAND_BACK]


def test_closing_lets_the_leader_loose(bench: Any) -> None:
    there = bench(motors=True)
    there.take_over()
    there.human.hand_back()
    assert there.leader.bus.torque
    there.close()
    assert not there.leader.bus.torque and not there.leader.is_connected
    there.close()


def test_a_leader_that_does_not_answer(bench: Any) -> None:
    there = bench(motors=True)
    there.leader.disconnect()
    with pytest.raises(IgrftError, match="teleoperator mock_leader does not answer: MockLeader is not connected"):
        there.human.action({})


class Pad(MockLeader):
    """A gamepad: LeRobot's have buttons beside their numbers."""

    name = "gamepad"
    now: dict[TeleopEvents, bool]

    @property
    def feedback_features(self) -> dict:
        return {}

    def get_teleop_events(self) -> dict[TeleopEvents, bool]:
        return self.now


def test_a_gamepads_buttons(bench: Any, tmp_path: Path) -> None:
    robot = bench(motors=True).robot
    pad = Pad(MockLeaderConfig(calibration_dir=tmp_path))
    pad.connect()
    human = TeleopHuman(pad, robot, ScriptedKeys(), KeyMap())
    human.start(0)
    held, none = {TeleopEvents.IS_INTERVENTION: True}, {TeleopEvents.IS_INTERVENTION: False}
    said = []
    for now in (
        none,
        held,
        held,
        none,
        {TeleopEvents.SUCCESS: True},
        {TeleopEvents.TERMINATE_EPISODE: True},
        {TeleopEvents.TERMINATE_EPISODE: True, TeleopEvents.RERECORD_EPISODE: True},
    ):
        pad.now = now
        said.append([e.name for e in human.events()])
    assert said == [[], ["TAKE_OVER"], [], ["HAND_BACK"], ["SUCCESS"], ["FAILURE"], ["AGAIN"]]


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[RobotEmbodiment]:
    with RobotEmbodiment.from_settings(EnvironmentSettings(type="robot", task="t", robot=arm(tmp_path))) as robot:
        yield robot


def test_made_from_settings(robot: RobotEmbodiment, tmp_path: Path) -> None:
    keys = ScriptedKeys()
    assert make_human(HumanSettings(), robot) is None
    judge = make_human(HumanSettings(type="keys", keys={"success": "y"}, sound=False), robot, keys=keys)
    assert isinstance(judge, KeysHuman) and not judge.can_drive
    settings = HumanSettings(type="teleop", teleop=leader(tmp_path), sound=False)
    human = make_human(settings, robot, keys=keys, safety=SafetySettings(step=[1.0]))
    assert isinstance(human, TeleopHuman)
    human.close()


def test_two_leaders_for_two_arms(tmp_path: Path) -> None:
    environment = EnvironmentSettings(type="robot", task="t", robot=two_arms(tmp_path))
    with RobotEmbodiment.from_settings(environment) as robot:
        joints = [n.removesuffix(".pos") for n in robot.action_names]
        settings = HumanSettings(teleop=leader(tmp_path, joints=joints, pose=[1.0, 2, 3, 4, 5, 6]))
        teleop = open_teleop(settings, robot)
        human = TeleopHuman(teleop, robot, ScriptedKeys(), KeyMap())
        assert human.action({}).tolist() == [1, 2, 3, 4, 5, 6]
        human.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "teleoperator"}, "rollout.human.type 'teleoperator' is unknown; did you mean 'teleop'"),
        ({"type": "expert"}, "expert is the simulation's"),
        ({"type": "teleop"}, "rollout.human.teleop: name a device of LeRobot's by its type"),
        ({"type": "teleop", "teleop": {"type": "so101_laeder"}}, "did you mean 'so101_leader'"),
        ({"type": "keys", "keys": {"take_over": "t"}}, "take_over needs something to drive with"),
    ],
)
def test_wrong_settings(robot: RobotEmbodiment, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_human(HumanSettings(**given), robot, keys=ScriptedKeys())


def test_a_leader_of_another_robot_is_refused_before_it_is_touched(robot: RobotEmbodiment, tmp_path: Path) -> None:
    teleop = leader(tmp_path, joints=["shoulder", "wrist"], pose=[0.0, 0.0], unplugged=True)
    with pytest.raises(UsageError) as raised:
        open_teleop(HumanSettings(teleop=teleop), robot)
    assert str(raised.value) == (
        "teleoperator mock_leader gives shoulder.pos, wrist.pos; robot mock_arm takes shoulder.pos, elbow.pos, "
        "gripper.pos: they must be the same"
    )


def test_lerobots_gamepad_and_keyboards_are_asked_what_they_give(robot: RobotEmbodiment, tmp_path: Path) -> None:
    """Their declarations have another shape than an arm's."""
    gives = {"gamepad": "delta_x, delta_y, delta_z, gripper", "keyboard_rover": "linear_velocity, angular_velocity"}
    gives |= {"keyboard_ee": "delta_x, delta_y, delta_z, gripper", "keyboard": "no numbers"}
    for kind, names in gives.items():
        settings = HumanSettings(type="teleop", teleop={"type": kind, "calibration_dir": str(tmp_path)})
        with pytest.raises(UsageError, match=f"teleoperator {kind}.* gives {names}; robot mock_arm takes"):
            make_human(settings, robot, keys=ScriptedKeys())


def test_a_leader_that_is_not_plugged_in(robot: RobotEmbodiment, tmp_path: Path) -> None:
    with pytest.raises(IgrftError, match="teleoperator mock_leader cannot be connected: Could not connect on port"):
        open_teleop(HumanSettings(teleop=leader(tmp_path, unplugged=True)), robot)


def test_teleoperators_drive_robots_alone() -> None:
    world = SimpleNamespace(realtime=False, name="a simulation")
    with pytest.raises(UsageError, match="teleop drives a robot"):
        make_human(HumanSettings(type="teleop"), world, keys=ScriptedKeys())  # type: ignore[arg-type]
