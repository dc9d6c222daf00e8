"""Humans who take over: a leader arm, a gamepad or a keyboard through LeRobot's teleoperators, and keys."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from igrft.errors import IgrftError, UsageError, did_you_mean
from igrft.rollouts.devices import connect, disconnect, make_teleop_device, one_line
from igrft.rollouts.keymap import KeyMap
from igrft.rollouts.keys import KeyInput, KeyListener, KeysHuman
from igrft.rollouts.protocols import Embodiment, Event, Human, Observation
from igrft.rollouts.robot import RobotEmbodiment
from igrft.rollouts.safety import Limiter
from igrft.rollouts.settings import HumanSettings, SafetySettings
from igrft.rollouts.sound import Voice

log = logging.getLogger(__name__)

HUMANS = ("none", "expert", "teleop", "keys")
#: Keys with which LeRobot's keyboard teleoperators move the robot, by their type.
_MOVING_KEYS = {"keyboard_ee": ("up", "down", "left", "right"), "keyboard_rover": tuple("wasdqex+=-")}


class TeleopHuman(KeysHuman):
    """Drives with a LeRobot ``Teleoperator`` and speaks by keys.

    Control changes hands without a jump (LeRobot's smooth handover). A leader with motors is driven to where the
    robot is, and then let loose for the hand. A robot whose leader has none, or whose leader counts in other units,
    slides to the leader's pose, within the limits. When the human hands back, a leader with motors holds still.
    """

    def __init__(
        self,
        teleop: Any,
        robot: RobotEmbodiment,
        keys: KeyInput,
        key_map: KeyMap,
        *,
        smooth: bool = True,
        voice: Voice | None = None,
        safety: SafetySettings | None = None,
        leader_seconds: float = 2.0,
        robot_seconds: float = 1.0,
    ) -> None:
        """
        Args:
            teleop: LeRobot's ``Teleoperator``, connected (:func:`open_teleop`).
            smooth: whether leader and robot are brought together before control changes hands.
            safety: limits of a slide; None has none.
            leader_seconds, robot_seconds: that it takes to bring the leader to the robot, or the robot to the leader.
        """
        from lerobot.common.control_utils import teleop_supports_feedback

        super().__init__(keys, key_map, voice)
        self.name = str(teleop.name)
        self.can_drive = True
        self._teleop, self._robot, self._smooth = teleop, robot, smooth
        self._actuated = bool(teleop_supports_feedback(teleop))
        self._limiter = Limiter(safety, len(robot.action_names)) if safety is not None else None
        self._leader_seconds, self._robot_seconds = leader_seconds, robot_seconds
        self._has_events = hasattr(teleop, "get_teleop_events") and teleop.name not in _MOVING_KEYS
        self._held = False

    @property
    def device(self) -> Any:
        """LeRobot's teleoperator."""
        return self._teleop

    def events(self) -> list[Event]:
        """Keys, and a gamepad's buttons: it drives while its button for intervention is held."""
        return super().events() + (self._buttons() if self._has_events else [])

    def take_over(self, observation: Observation, last_action: np.ndarray | None) -> None:
        """Bring leader and robot together and let the human drive. The key that stops ends it half-way."""
        self._driving = True
        self._robot.hold()
        if self._smooth and self._leader_can_follow():
            self._voice.say("take hold of the leader arm")
            self._move_leader(last_action)
        elif self._smooth:
            self._robot.slide(
                self._action(), limiter=self._limiter, seconds=self._robot_seconds, stop=self._wants_to_stop
            )
        if self._actuated:
            self._teleop.disable_torque()
        self._voice.say("you drive")

    def action(self, observation: Observation) -> np.ndarray:
        """The teleoperator's action, through LeRobot's teleoperator pipeline: float32 [dim].

        Raises:
            IgrftError: it does not answer, or leaves out a number that the robot takes.
        """
        return self._action()

    def hand_back(self) -> None:
        """The policy drives; a leader with motors stays where the hand left it."""
        super().hand_back()
        if self._actuated:
            self._hold_leader()
        self._voice.say("the policy drives")

    def close(self) -> None:
        """Let the leader loose and disconnect it. Never raises: what failed is logged."""
        super().close()
        for problem in disconnect(self._teleop):
            log.warning("teleoperator %s was not let go of cleanly: %s", self.name, problem)

    def _action(self) -> np.ndarray:
        return _vector(self._robot, self._teleop)[0]

    def _leader_can_follow(self) -> bool:
        """Whether the leader has motors whose positions are the robot's own numbers."""
        if not self._actuated:
            return False
        action, given = _vector(self._robot, self._teleop)
        numbers = dict(zip(self._robot.action_names, action.tolist(), strict=True))
        return all(k in numbers and numbers[k] == np.float32(given[k]) for k in self._teleop.feedback_features)

    def _move_leader(self, last_action: np.ndarray | None) -> None:
        from lerobot.common.control_utils import teleop_smooth_move_to

        target = self._robot.pose() if last_action is None else last_action
        if target is None:
            return
        self._hold_leader()
        named = dict(zip(self._robot.action_names, np.asarray(target).tolist(), strict=True))
        try:
            teleop_smooth_move_to(_Leader(self), named, self._leader_seconds)
        except _Stopped:
            return

    def _hold_leader(self) -> None:
        """Torque on, where it is: motors that wake up go to the last goal they remember."""
        pose = {k: v for k, v in self._teleop.get_action().items() if k in self._teleop.feedback_features}
        self._teleop.send_feedback(pose)
        self._teleop.enable_torque()
        self._teleop.send_feedback(pose)

    def _buttons(self) -> list[Event]:
        from lerobot.teleoperators.utils import TeleopEvents

        try:
            now = self._teleop.get_teleop_events()
        except Exception as error:
            raise IgrftError(f"teleoperator {self.name} does not answer: {one_line(error)}") from error
        said: list[Event] = []
        held = bool(now.get(TeleopEvents.IS_INTERVENTION))
        if held != self._held:
            said.append(Event.TAKE_OVER if held else Event.HAND_BACK)
        self._held = held
        if now.get(TeleopEvents.RERECORD_EPISODE):
            said.append(Event.AGAIN)
        elif now.get(TeleopEvents.SUCCESS):
            said.append(Event.SUCCESS)
        elif now.get(TeleopEvents.TERMINATE_EPISODE):
            said.append(Event.FAILURE)
        return said


class _Stopped(Exception):
    """The key that stops was pressed while the leader moved."""


class _Leader:
    """The teleoperator as LeRobot's ``teleop_smooth_move_to`` sees it, which the key that stops can end."""

    def __init__(self, human: TeleopHuman) -> None:
        self._human, self._teleop = human, human._teleop

    def enable_torque(self) -> None:
        """It is on already, at a goal that is known."""

    def get_action(self) -> dict[str, Any]:
        return {k: v for k, v in self._teleop.get_action().items() if k in self._teleop.feedback_features}

    def send_feedback(self, pose: Mapping[str, float]) -> None:
        if self._human._wants_to_stop():
            raise _Stopped
        self._teleop.send_feedback(dict(pose))


def open_teleop(settings: HumanSettings, robot: RobotEmbodiment) -> Any:
    """The teleoperator that a recipe names, connected, after it was seen to fit the robot.

    Raises:
        UsageError: settings that do not make a teleoperator, or one that gives other numbers than the robot takes.
        IgrftError: it cannot be connected, or does not answer.
    """
    teleop = make_teleop_device(settings.teleop)
    _refuse_unfit(teleop, robot)
    connect(teleop, f"teleoperator {teleop.name}")
    try:
        _vector(robot, teleop)
    except BaseException:
        disconnect(teleop)
        raise
    return teleop


def make_human(
    settings: HumanSettings,
    embodiment: Embodiment,
    *,
    keys: KeyInput | None = None,
    safety: SafetySettings | None = None,
) -> Human | None:
    """Who can take over, as a recipe says; None is nobody.

    Args:
        embodiment: a robot must be connected: what it asks for in the terminal comes before keys are heard.
        keys: where presses come from; None is the keyboard (and the pedal).
        safety: limits of the way on which a robot is brought to its leader.

    Raises:
        UsageError: settings that do not fit each other, or what is driven.
    """
    if settings.type not in HUMANS:
        raise UsageError(f"rollout.human.type {settings.type!r} is unknown{did_you_mean(settings.type, HUMANS)}")
    if settings.type == "none":
        return None
    robot = embodiment if isinstance(embodiment, RobotEmbodiment) else None
    if settings.type == "expert":
        return _expert(settings, embodiment)
    voice = Voice(settings.sound)
    pedal = settings.input == "pedal"
    if settings.type == "keys":
        key_map = KeyMap(settings.keys, pedal=pedal, drives=False)
        return KeysHuman(keys or KeyListener(settings, key_map), key_map, voice)
    if robot is None:
        raise UsageError("rollout.human.type=teleop drives a robot; in the simulation take expert, or keys to judge")
    kind = str((settings.teleop or {}).get("type"))
    key_map = KeyMap(settings.keys, pedal=pedal, taken=_MOVING_KEYS.get(kind, ()))
    teleop = open_teleop(settings, robot)
    try:
        heard = keys or KeyListener(settings, key_map)
        return TeleopHuman(teleop, robot, heard, key_map, smooth=settings.smooth, voice=voice, safety=safety)
    except BaseException:
        disconnect(teleop)
        raise


def _expert(settings: HumanSettings, embodiment: Embodiment) -> Human:
    if embodiment.realtime:
        raise UsageError(
            "rollout.human.type=expert is the simulation's; a robot is helped by teleop, or judged by keys"
        )
    from igrft.simulation.human import ExpertHuman
    from igrft.simulation.metaworld import MetaWorld

    if not isinstance(embodiment, MetaWorld):
        raise UsageError(f"rollout.human.type=expert: there is no scripted expert for {embodiment.name}")
    return ExpertHuman(embodiment, settings)


def _vector(robot: RobotEmbodiment, teleop: Any) -> tuple[np.ndarray, Mapping[str, Any]]:
    """A teleoperator's action as the dataset's numbers, float32 [dim], and as it came."""
    try:
        given = teleop.get_action()
    except IgrftError:  # of a leader of ours, which says what to do
        raise
    except Exception as error:
        raise IgrftError(
            f"teleoperator {teleop.name} does not answer: {one_line(error)}; check its cable and power"
        ) from error
    named = robot.teleop_processor((given, robot.raw))
    try:
        return np.array([named[n] for n in robot.action_names], np.float32), given
    except KeyError as error:
        raise IgrftError(f"teleoperator {teleop.name} left out {error.args[0]!r}, which the robot takes") from error


def _refuse_unfit(teleop: Any, robot: RobotEmbodiment) -> None:
    """Raises UsageError: after LeRobot's teleoperator pipeline, its numbers are not those of the robot's action."""
    from lerobot.configs import PipelineFeatureType
    from lerobot.datasets import create_initial_features

    try:
        declared = teleop.action_features
    except Exception:  # LeRobot's plain keyboard has none
        declared = {}
    # Some declare names alone, others a dataset's feature.
    names = declared["names"] if {"dtype", "names"} <= set(declared) else declared
    first = create_initial_features(action=dict.fromkeys(names, float))
    given = list(robot.teleop_processor.transform_features(first)[PipelineFeatureType.ACTION])
    if set(given) != set(robot.action_names):
        raise UsageError(
            f"teleoperator {teleop.name} gives {', '.join(given) or 'no numbers'}; robot {robot.name} takes "
            f"{', '.join(robot.action_names)}: they must be the same"
        )
