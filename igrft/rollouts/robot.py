"""A robot that LeRobot can drive, as something that a rollout drives.

Observations, action names and processors are those of LeRobot's recorder, so that rollouts look like the
demonstrations a policy was trained on.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.devices import cameras, connect, disconnect, make_robot_device, one_line
from igrft.rollouts.pace import Pacer as Pacer
from igrft.rollouts.protocols import Observation, Status
from igrft.rollouts.safety import Limiter
from igrft.rollouts.settings import EnvironmentSettings

log = logging.getLogger(__name__)

#: LeRobot's name endings of joint positions, and of velocities, which must not go on while nobody drives.
_POSITION, _VELOCITY = ".pos", ".vel"


class RobotEmbodiment:
    """Implements :class:`~igrft.rollouts.protocols.Embodiment` over a LeRobot ``Robot``.

    A context manager: whatever ends the block, the robot is disconnected (what becomes of its torque is the
    driver's setting). It is also let go of when the interpreter ends.

    Attributes:
        action_names: the numbers of an action, in order.
        last_sent: float32 [dim], what was sent last, by whoever drove: a step limit counts from here. None before
            the first action of an episode.
        raw: what the driver returned last, by LeRobot's names.
        teleop_processor: LeRobot's pipeline from (teleoperator's action, raw observation) to the dataset's action.
    """

    subtasks: tuple[str, ...] = ()
    realtime = True

    def __init__(
        self,
        robot: Any,
        *,
        task: str,
        fps: float = 30.0,
        action_names: Sequence[str] | None = None,
        threaded: bool = False,
        processors: tuple[Any, Any, Any] | None = None,
    ) -> None:
        """Looks at what the robot declares; connects nothing.

        Args:
            robot: LeRobot's ``Robot``.
            task: what its policy is told.
            action_names: order of the action's numbers (a policy's ``action_feature_names``); None is the robot's.
            threaded: whether another thread may use the robot (LeRobot's ``ThreadSafeRobot`` then guards it).
            processors: LeRobot's three pipelines (teleoperator's action, robot's action, observation); None is
                ``make_default_processors``, which change nothing.
        """
        from lerobot.processor import make_default_processors

        self._robot = robot
        self._driver = robot
        if threaded:
            from lerobot.rollout.robot_wrapper import ThreadSafeRobot

            self._driver = ThreadSafeRobot(robot)
        self.teleop_processor, self._action_processor, self._observation_processor = (
            processors or make_default_processors()
        )
        self.name = self.robot_type = str(robot.name)
        self.fps = float(fps)
        self.task = task
        self.features = self._features(action_names)
        self.action_names: tuple[str, ...] = tuple(self.features["action"]["names"])
        self._pictures = {k: tuple(f["shape"]) for k, f in self.features.items() if k.startswith("observation.images.")}
        self.raw: dict[str, Any] = {}
        self.last_sent: np.ndarray | None = None
        self._home: dict[str, float] = {}
        self._closed = False

    @classmethod
    def from_settings(
        cls,
        settings: EnvironmentSettings,
        *,
        action_names: Sequence[str] | None = None,
        threaded: bool = False,
        processors: tuple[Any, Any, Any] | None = None,
    ) -> RobotEmbodiment:
        """The robot that a recipe names, connected. Other arguments as above.

        Raises:
            UsageError: settings that do not make a robot.
            IgrftError: it cannot be connected, or a camera or joint does not answer.
        """
        if not settings.task:
            raise UsageError("environment.task: say in one sentence what the robot is to do; its policy is told so")
        if not settings.fps > 0:
            raise UsageError(f"environment.fps is {settings.fps:g}: give the control steps a second, above 0")
        robot = cls(
            make_robot_device(settings.robot),
            task=settings.task,
            fps=settings.fps,
            action_names=action_names,
            threaded=threaded,
            processors=processors,
        )
        robot.connect()
        return robot

    def _features(self, action_names: Sequence[str] | None) -> Mapping[str, dict[str, Any]]:
        from lerobot.datasets import aggregate_pipeline_dataset_features, create_initial_features
        from lerobot.utils.feature_utils import combine_feature_dicts

        features: dict[str, dict[str, Any]] = combine_feature_dicts(
            aggregate_pipeline_dataset_features(
                self.teleop_processor, create_initial_features(action=self._robot.action_features)
            ),
            aggregate_pipeline_dataset_features(
                self._observation_processor, create_initial_features(observation=self._robot.observation_features)
            ),
        )
        if "action" not in features:
            raise UsageError(f"robot {self.name} declares no actions: it cannot be driven")
        if action_names:
            own = list(features["action"]["names"])
            if sorted(own) != sorted(action_names):
                raise UsageError(
                    f"the policy's actions ({', '.join(action_names)}) are not those of robot {self.name} "
                    f"({', '.join(own)})"
                )
            features["action"] = {**features["action"], "names": list(action_names)}
        return features

    def connect(self) -> None:
        """Connect, look once, and remember the pose. Does nothing where it is connected."""
        if self._robot.is_connected:
            return
        self._closed = False
        atexit.register(self.close)
        connect(self._robot, f"robot {self.name}")
        try:
            self.observe()
        except BaseException:
            self.close()
            raise
        self._home = {n: float(self.raw[n]) for n in self.action_names if n.endswith(_POSITION) and n in self.raw}

    def reset(self, seed: int | None) -> None:
        """A new episode begins where the robot is. Connects it the first time."""
        self.connect()
        self.last_sent = None

    def observe(self) -> Observation:
        """Read joints and cameras.

        Raises:
            IgrftError: a camera stopped (its name stands in the message), a joint is not a number, or the robot
                does not answer.
        """
        from lerobot.utils.feature_utils import build_dataset_frame

        try:
            raw = self._driver.get_observation()
        except Exception as error:
            raise IgrftError(self._why(error)) from error
        try:
            frame: Observation = build_dataset_frame(
                dict(self.features), self._observation_processor(raw), prefix="observation"
            )
        except KeyError as error:
            raise IgrftError(f"robot {self.name} left out {error.args[0]!r} of what it declares") from error
        self._check(frame)
        self.raw = raw
        return frame

    def act(self, action: np.ndarray) -> np.ndarray:
        """Send one action.

        Args:
            action: float32 [dim], by :attr:`action_names`.

        Returns:
            What the driver says it sent (it may cut, LeRobot's ``max_relative_target``). Where the robot's action
            processor turns actions into other units or names, ``action`` itself.

        Raises:
            IgrftError: the robot does not take it.
        """
        wanted = np.asarray(action, np.float32)
        if wanted.shape != (len(self.action_names),):
            raise IgrftError(
                f"an action has shape {list(wanted.shape)}; robot {self.name} takes {len(self.action_names)} numbers"
            )
        named = dict(zip(self.action_names, wanted.tolist(), strict=True))
        try:
            sending = self._action_processor((dict(named), self.raw))
            returned = self._driver.send_action(sending)
        except Exception as error:
            raise IgrftError(f"robot {self.name} did not take an action: {one_line(error)}") from error
        sent = wanted
        if sending == named and isinstance(returned, Mapping) and all(n in returned for n in self.action_names):
            sent = np.array([returned[n] for n in self.action_names], np.float32)
        self.last_sent = sent
        return sent.copy()

    def status(self) -> Status:
        """Nothing is known of a robot's episode but what a human says."""
        return Status()

    def hold(self) -> None:
        """Nobody drives for a while: joints stay where they were sent last, velocities are 0.

        Nothing is sent to a robot that has neither (names that end in ``.pos`` or ``.vel``): to repeat a
        displacement would move it.
        """
        if self.last_sent is None or not any(n.endswith((_POSITION, _VELOCITY)) for n in self.action_names):
            return
        still = [0.0 if n.endswith(_VELOCITY) else v for n, v in zip(self.action_names, self.last_sent, strict=True)]
        self.act(np.array(still, np.float32))

    def slide(
        self,
        target: np.ndarray,
        *,
        limiter: Limiter | None = None,
        seconds: float = 1.0,
        stop: Callable[[], bool] | None = None,
    ) -> bool:
        """Bring the joints to a pose in a straight line, by LeRobot's ``follower_smooth_move_to``.

        Only joint positions (names that end in ``.pos``) slide: between two velocities or small displacements
        there is no way to go, and they are 0 meanwhile.

        Args:
            target: float32 [dim].
            limiter: holds for each step, and makes the way longer where it must be; None limits nothing.
            seconds: that it takes, at least.
            stop: asked before each step; where it says yes, the robot stays where it is.

        Returns:
            Whether it got there.
        """
        from lerobot.common.control_utils import follower_smooth_move_to

        joints = [n for n in self.action_names if n.endswith(_POSITION)]
        if not joints:
            return True
        start = self.pose()
        if start is None:
            return True
        end = np.where([n in joints for n in self.action_names], np.asarray(target, np.float32), np.float32(0))
        end = end.astype(np.float32)
        if not np.isfinite(end).all():
            raise IgrftError(f"robot {self.name} was to go where a joint is no number: check the leader arm")
        if limiter is not None:
            end, _ = limiter.apply(end, None)
            # One step more than needed, so that rounding never cuts the last.
            seconds = max(seconds, (limiter.steps_between(start, end) + 1.5) / self.fps)
        follower = _Follower(self, start, limiter, stop)
        try:
            follower_smooth_move_to(follower, self._named(start), self._named(end), seconds, round(self.fps))
        except _Stopped:
            return False
        return True

    def go_home(self, limiter: Limiter | None = None, seconds: float = 3.0) -> None:
        """Bring the joints back to where they were when the robot was connected."""
        if self._robot.is_connected and self._home:
            self.observe()
            at = [self._home.get(n, 0.0) for n in self.action_names]
            self.slide(np.array(at, np.float32), limiter=limiter, seconds=seconds)

    def close(self) -> None:
        """Disconnect. Never raises: what could not be let go of is logged, so that the first error stays the one
        that is seen."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for problem in disconnect(self._robot):
            log.warning("robot %s was not let go of cleanly (check its torque): %s", self.name, problem)

    def __enter__(self) -> RobotEmbodiment:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pose(self) -> np.ndarray | None:
        """Where the robot is meant to be, float32 [dim]: joints as sent last, else as seen last; the rest is 0.

        None where joints are seen by other names than they are driven by, and nothing was sent yet.
        """
        if self.last_sent is None and not all(n in self.raw for n in self.action_names if n.endswith(_POSITION)):
            return None
        start = [
            0.0 if not n.endswith(_POSITION) else float(self.raw[n] if self.last_sent is None else self.last_sent[i])
            for i, n in enumerate(self.action_names)
        ]
        return np.array(start, np.float32)

    def _named(self, action: np.ndarray) -> dict[str, float]:
        return dict(zip(self.action_names, action.tolist(), strict=True))

    def _check(self, frame: Observation) -> None:
        for key, shape in self._pictures.items():
            picture = frame[key]
            found = getattr(picture, "shape", None)
            if found != shape:
                name = key.removeprefix("observation.images.")
                what = "no picture" if found is None else f"pictures of shape {list(found)}"
                raise IgrftError(f"camera {name!r} of robot {self.name} gives {what}, not {list(shape)} as declared")
        state = frame.get("observation.state")
        if state is not None and not np.isfinite(state).all():
            at = int(np.argmin(np.isfinite(state)))
            name = self.features["observation.state"]["names"][at]
            raise IgrftError(f"robot {self.name} reads {name} as {state[at]}: check its motor and cable")

    def _why(self, error: Exception) -> str:
        """Which camera it was that failed, if it was one."""
        for name, camera in cameras(self._robot):
            try:
                if not camera.is_connected:
                    raise ConnectionError("it is no longer connected")
                camera.read_latest()
            except Exception as wrong:
                return (
                    f"camera {name!r} of robot {self.name} stopped: {one_line(wrong)}; check its cable and start again"
                )
        return f"robot {self.name} does not answer: {one_line(error)}; check cables and power"


class _Stopped(Exception):
    """Somebody asked for a slide to end."""


class _Follower:
    """The robot as a slide sees it: every step goes through the limits and the usual way of sending."""

    def __init__(
        self, robot: RobotEmbodiment, at: np.ndarray, limiter: Limiter | None, stop: Callable[[], bool] | None
    ) -> None:
        self._robot, self._at, self._limiter, self._stop = robot, at, limiter, stop

    def send_action(self, named: Mapping[str, float]) -> None:
        if self._stop is not None and self._stop():
            raise _Stopped
        action = np.array([named[n] for n in self._robot.action_names], np.float32)
        if self._limiter is not None:
            action, _ = self._limiter.apply(action, self._at)
        self._at = self._robot.act(action)
