"""Meta-World as something to drive: one task, one robot, starts that a seed names.

**Rate.** A step is five substeps of 2.5 ms, so the robot is controlled at 80 Hz, and 80 is what LeRobot says of
this environment and of its datasets. The paper's recipes speak of 30 Hz: a chunk of 30 actions is a second there and
0.375 s here, and the motion threshold of Eq. 1 shrinks by (30/80)². Skipping frames to come near 30 Hz would
make an action mean something else than for every other policy that speaks to Meta-World.

**State.** ``observation.state`` is what LeRobot gives a policy beside pictures: hand and gripper.
``observation.environment_state`` is the rest of what the expert sees, in the present frame, and two differences that
the experts decide by. With them a small network learns sooner (assembly and box-close, 40 starts each: 64 % against
46 % after 300 updates; after 1,500 no better). Meta-World also hands out the previous frame. It is left out: a policy
that sees how the hand was moving learns to go on as the demonstrator did, pauses included.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.errors import IgrftError, UsageError
from igrft.rollouts.protocols import Observation, Status
from igrft.rollouts.settings import EnvironmentSettings
from igrft.simulation.bodies import survey
from igrft.simulation.cameras import Cameras
from igrft.simulation.catalogue import description, known_task
from igrft.simulation.engine import make_environment
from igrft.simulation.phases import Phases
from igrft.simulation.tasks import TABLES, Scene
from igrft.simulation.truth import Contacts, contacts

#: Control steps a second.
FPS = 80
#: Steps of an episode where the task has no table; Meta-World's own horizon.
DEFAULT_MAX_STEPS = 500

_XYZ = ("x", "y", "z")
#: No joint of the arm is called after the hand: the gripper is found by its name.
STATE_NAMES = ("x", "y", "z", "gripper")
ACTION_NAMES = ("delta_x", "delta_y", "delta_z", "gripper")
#: Where the observation of Meta-World keeps what: hand and opening, things, goal.
_STATE, _THINGS, _GOAL = slice(0, 4), slice(4, 18), slice(36, 39)


class MetaWorld:
    """One task of Meta-World; an :class:`igrft.rollouts.protocols.Embodiment`.

    An action is float32 [4] in [-1, 1]: how far the hand's target moves, 1 being a centimetre, along x, y, z;
    and the effort with which the gripper closes (1) or opens (-1).

    Attributes:
        env_task: its name in Meta-World.
        table: the task's ordered subtasks; None where it has none.
        max_steps: control steps after which an episode is over.
        steps: done in this episode.
    """

    robot_type = "sawyer"
    realtime = False

    def __init__(
        self,
        task: str,
        *,
        cameras: tuple[str, ...] = (),
        width: int = 320,
        height: int = 240,
        max_steps: int | None = None,
        settle: int = 1,
    ) -> None:
        """
        Args:
            task: as "shelf-place-v3".
            cameras: MuJoCo cameras that :meth:`observe` renders; none is much faster.
            width, height: of the pictures, in pixels.
            max_steps: None is the task's own.
            settle: success must hold for so many steps in a row.

        Raises:
            UsageError: no such task or camera, or a number that makes no sense.
            IgrftError: metaworld is not installed.
        """
        self.env_task = known_task(task)
        if settle < 1 or (max_steps is not None and max_steps < 1):
            raise UsageError(f"settle and max_steps must be at least 1, got {settle} and {max_steps}")
        self.table = TABLES.get(self.env_task)
        self.name = f"metaworld-{self.env_task}"
        self.task = description(self.env_task)
        self.fps = float(FPS)
        self.subtasks = self.table.names if self.table else ()
        self.max_steps = max_steps or (self.table.max_steps if self.table else DEFAULT_MAX_STEPS)
        self.env = make_environment(self.env_task)
        self.bodies = survey(self.env.model)
        self.cameras = Cameras(self.env, cameras, width, height)
        self.features = self._features()
        self.steps = 0
        self._held: deque[bool] = deque(maxlen=settle)
        self._observation: np.ndarray | None = None
        self._seen: Observation | None = None

    @classmethod
    def from_settings(cls, settings: EnvironmentSettings, pictures: bool) -> MetaWorld:
        """As a recipe says.

        Args:
            pictures: whether the policy looks at cameras; ``settings.pictures`` overrides it.
        """
        if settings.type != "metaworld" or settings.task is None:
            raise UsageError(f"the environment must be of type metaworld and name a task, got {settings.task!r}")
        wanted = pictures if settings.pictures is None else settings.pictures
        return cls(
            settings.task,
            cameras=tuple(settings.cameras) if wanted else (),
            width=settings.width,
            height=settings.height,
            max_steps=settings.max_steps,
            settle=settings.settle,
        )

    def reset(self, seed: int | None) -> None:
        """Begin an episode from the start that ``seed`` names, the same in any process; None draws one."""
        import mujoco

        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if seed < 0:
            raise UsageError(f"a seed must not be negative, got {seed}")
        self.env.seed(seed)
        observation, _ = self.env.reset()
        # Bodies and sites that a reset moved are where they were until this.
        mujoco.mj_forward(self.env.model, self.env.data)
        self._take(observation)
        self.steps = 0
        self._time = float(self.env.data.time)
        self._broken = False
        self._success = False
        self._held.clear()
        self._phases = Phases(self.table) if self.table else None

    def observe(self) -> Observation:
        """State, and pictures where cameras were asked for: rendered now, once a step."""
        if self._seen is None:
            full = self.full_observation
            seen: Observation = {
                c.STATE: full[_STATE].astype(np.float32),
                c.ENVIRONMENT_STATE: self._environment_state(full).astype(np.float32),
            }
            for camera in self.cameras.names:
                seen[c.IMAGE_PREFIX + camera] = self.cameras.picture(camera)
            self._seen = seen
        return dict(self._seen)

    def act(self, action: np.ndarray) -> np.ndarray:
        """One control step.

        Returns:
            float32 [4], ``action`` cut to [-1, 1].

        Raises:
            IgrftError: the action has another shape, or is not finite.
        """
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise IgrftError(f"an action of Meta-World is 4 finite numbers, got {action.tolist()}")
        _ = self.full_observation
        sent = np.clip(action, -1.0, 1.0)
        observation, _, _, _, info = self.env.step(sent)
        self._take(observation)
        self.steps += 1
        # MuJoCo answers a state that blew up by starting over, and its clock with it.
        self._broken = self._broken or not self.env.data.time > self._time
        self._time = float(self.env.data.time)
        self._held.append(bool(info["success"]))
        self._success = len(self._held) == self._held.maxlen and all(self._held)
        if self._phases is not None:
            self._phases.update(self.scene())
        return sent

    def status(self) -> Status:
        _ = self.full_observation
        return Status(
            success=self._success,
            ended=self.steps >= self.max_steps or self._broken,
            subtask=None if self._phases is None else self._phases.current,
        )

    def close(self) -> None:
        self.cameras.close()

    @property
    def full_observation(self) -> np.ndarray:
        """What Meta-World's scripted policies read, float64 [39].

        Raises:
            UsageError: before the first :meth:`reset`.
        """
        if self._observation is None:
            raise UsageError("reset the simulation before it is used")
        return self._observation

    def contacts(self) -> Contacts:
        """Who presses against what now."""
        return contacts(self.env, self.bodies)

    def scene(self) -> Scene:
        """What the true subtasks are decided by."""
        full = self.full_observation
        piece = self.table.piece if self.table else None
        return Scene(
            hand=full[:3],
            thing=full[4:7],
            piece=full[4:7] if piece is None else self.env.data.site(piece).xpos.copy(),
            goal=full[_GOAL],
            gripped=self.contacts().gripped,
            success=self._success,
            observation=full,
        )

    def _take(self, observation: np.ndarray) -> None:
        self._observation = np.asarray(observation, dtype=np.float64)
        self._seen = None

    def _environment_state(self, full: np.ndarray) -> np.ndarray:
        things = full[_THINGS][: self._width]
        return np.concatenate([things, full[_GOAL], full[4:7] - full[:3], full[_GOAL] - full[4:7]])

    def _features(self) -> dict[str, dict[str, Any]]:
        self.env.seed(0)
        self.env.reset()
        # Meta-World fills up to two things; the zeros behind them would only be noise to a normaliser.
        number = len(self.env._get_pos_objects()) // 3
        quaternions = len(self.env._get_quat_objects()) // 4
        self._width = 3 * number + 4 * quaternions
        names = []
        for i in range(number):
            thing = "object" if i == 0 else f"object{i + 1}"
            names += [f"{thing}_{axis}" for axis in _XYZ]
            names += [f"{thing}_q{j}" for j in range(4)] if i < quaternions else []
        names += [f"{what}_{axis}" for what in ("goal", "hand_to_object", "object_to_goal") for axis in _XYZ]
        features: dict[str, dict[str, Any]] = {
            c.STATE: _vector(STATE_NAMES),
            c.ENVIRONMENT_STATE: _vector(names),
            c.ACTION: _vector(ACTION_NAMES),
        }
        for camera in self.cameras.names:
            features[c.IMAGE_PREFIX + camera] = {
                "dtype": "video",
                "shape": (self.cameras.height, self.cameras.width, 3),
                "names": ["height", "width", "channels"],
            }
        return features


def _vector(names: list[str] | tuple[str, ...]) -> dict[str, Any]:
    return {"dtype": "float32", "shape": (len(names),), "names": list(names)}
