"""`igrft record`: demonstrations through LeRobot's own recorder. Run again, it goes on where it was."""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.demonstrations.recipe import RecordRecipe, check_recipe
from igrft.demonstrations.store import DemonstrationSet
from igrft.errors import IgrftError
from igrft.remote.urls import local_folder
from igrft.rollouts.build import make_embodiment
from igrft.rollouts.devices import one_line
from igrft.rollouts.protocols import Event
from igrft.rollouts.run import stop_on_signals
from igrft.rollouts.safety import Limiter

if TYPE_CHECKING:
    from igrft.rollouts.keys import KeyInput
    from igrft.rollouts.robot import RobotEmbodiment
    from igrft.rollouts.teleop import TeleopHuman

#: What ends an episode, and what a reset phase.
_ENDS = (Event.SUCCESS, Event.FAILURE, Event.AGAIN, Event.STOP)
_RESET_ENDS = (Event.READY, Event.AGAIN, Event.STOP)
#: Seconds in which the robot is not driven, after which it is brought together with the leader again.
_PAUSE = 0.3


@dataclass
class RecordResult:
    """What was recorded.

    Attributes:
        root: the dataset.
        recorded: frames and verdict of the episodes of this call.
        episodes: of the dataset.
        complete: whether all that were asked for are there.
    """

    root: Path
    recorded: list[tuple[int, bool]]
    episodes: int
    complete: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "root": str(self.root),
            "episodes": self.episodes,
            "recorded": [{"frames": n, "success": s} for n, s in self.recorded],
            "complete": self.complete,
        }


def record(
    recipe: RecordRecipe,
    *,
    name: str = "record",
    say: Callable[[str], None] = lambda line: None,
    keys: KeyInput | None = None,
) -> RecordResult:
    """Record demonstrations until the dataset has as many as the recipe says.

    Args:
        name: of the recipe, for messages.
        say: is given a line an episode.
        keys: where presses come from; None is the keyboard or the pedal, as the recipe says.

    Raises:
        UsageError: a recipe that cannot be recorded.
        IgrftError: robot, teleoperator or disk failed; complete episodes are kept.
    """
    from igrft.rollouts.teleop import make_human

    check_recipe(recipe, name)
    with contextlib.ExitStack() as stack:
        body: Any = make_embodiment(recipe.environment, pictures=True)
        stack.callback(body.close)
        human: Any = make_human(recipe.human, body, keys=keys, safety=recipe.safety)
        stack.callback(human.close)
        store = DemonstrationSet(
            record_root(recipe),
            body.features,
            fps=round(body.fps),
            robot_type=body.robot_type,
            encoder=recipe.encoder,
        )
        stack.callback(store.close)
        session = _Session(recipe, body, human, store, say)
        with stop_on_signals(session.stop):
            session.go()
        return RecordResult(store.root, session.recorded, store.episodes, store.episodes >= recipe.episodes)


def record_root(recipe: RecordRecipe) -> Path:
    """The recipe's folder, or one named after the task."""
    if recipe.root is not None:
        return local_folder(recipe.root, "root")
    task = re.sub(r"[^A-Za-z0-9]+", "-", str(recipe.environment.task)).strip("-").lower()
    return Path(f"recorded_{task[:60]}")


class _Session:
    """Episodes and reset phases, each LeRobot's ``record_loop``.

    As with LeRobot's recorder, an episode is written when the reset phase after it is over: until then it can be
    taken back.
    """

    def __init__(
        self,
        recipe: RecordRecipe,
        body: RobotEmbodiment,
        human: TeleopHuman,
        store: DemonstrationSet,
        say: Callable[[str], None],
    ) -> None:
        self.recipe, self.body, self.human, self.store, self.say = recipe, body, human, store, say
        self.recorded: list[tuple[int, bool]] = []
        self.stopping = threading.Event()
        self._limiter = Limiter(recipe.safety, len(body.action_names))
        self._driven = -math.inf

    def stop(self) -> None:
        """A signal: the episode in progress is not kept."""
        self.stopping.set()

    def go(self) -> None:
        if self.store.episodes >= self.recipe.episodes:
            return
        if self._phase(_RESET_ENDS, self.recipe.reset_seconds, "get the scene ready") is Event.STOP:
            return
        while self.store.episodes < self.recipe.episodes and not self.stopping.is_set():
            if not self._episode():
                return

    def _episode(self) -> bool:
        """One episode and the reset phase after it. Whether to go on."""
        number = self.store.episodes
        self.store.begin()
        self.human.start(None)
        said = self._phase(_ENDS, math.inf, None)
        if said in (Event.AGAIN, Event.STOP):
            self.store.discard()
            self.say(f"episode {number}: {'to be recorded again' if said is Event.AGAIN else 'stopped'}")
            if said is Event.STOP:
                return False
            return self._phase(_RESET_ENDS, self.recipe.reset_seconds, "reset the scene") is not Event.STOP
        success = said is Event.SUCCESS
        if said is None:
            self.say(f"episode {number}: nobody said whether it succeeded; it counts as a failure")
        try:
            last = number + 1 >= self.recipe.episodes
            after = None if last else self._phase(_RESET_ENDS, self.recipe.reset_seconds, "reset the scene")
        except BaseException:
            # It is complete, whatever happened since.
            self._keep(number, success)
            raise
        if after is Event.AGAIN:
            self.store.discard()
            self.say(f"episode {number}: taken back, to be recorded again")
            return self._phase(_RESET_ENDS, self.recipe.reset_seconds, "reset the scene") is not Event.STOP
        self._keep(number, success)
        return after is not Event.STOP

    def _keep(self, number: int, success: bool) -> None:
        frames = self.store.frames
        if not frames:
            self.store.discard()
            self.say(f"episode {number}: ended before its first step; nothing was recorded")
            return
        self.store.save(success)
        self.recorded.append((frames, success))
        self.say(f"episode {number}: {'success' if success else 'failure'}, {frames} frames")

    def _phase(self, ends: tuple[Event, ...], seconds: float, reset: str | None) -> Event | None:
        """Drive the robot until somebody says one of ``ends``, or the time is over.

        Args:
            reset: what is to be done meanwhile; nothing is recorded then. None records.

        Returns:
            What was said; None after the time.
        """
        from lerobot.processor import make_default_processors
        from lerobot.scripts.lerobot_record import record_loop

        if reset is not None:
            if not seconds:
                return Event.STOP if self.stopping.is_set() else None
            self.human.call(reset)
            self.say(f"{reset}, then say so (at most {seconds:g} s)")
        if time.monotonic() - self._driven > _PAUSE:
            # Leader and robot are apart: before the first step, and after an episode took long to be written.
            self.human.take_over(self.body.observe(), self.body.last_sent)
        self._limiter.reset()
        events = _Events(self.human, ends, self.stopping)
        if reset is None:
            events.limiter, events.most = self._limiter, self.recipe.environment.max_steps
        _, same, seen = make_default_processors()
        try:
            record_loop(
                robot=_Driver(self.body),
                events=events,
                fps=round(self.body.fps),
                teleop_action_processor=self._limited,
                robot_action_processor=same,
                robot_observation_processor=seen,
                dataset=self.store if reset is None else None,
                teleop=self.human.device,
                control_time_s=seconds,
                single_task=self.body.task,
            )
        except IgrftError:
            raise
        except Exception as error:
            raise IgrftError(f"recording stopped: {one_line(error)}; complete episodes are kept") from error
        self._driven = time.monotonic()
        return events.said

    def _limited(self, given: tuple[Mapping[str, Any], Mapping[str, Any]]) -> dict[str, float]:
        """LeRobot's pipeline of the teleoperator, and the recipe's limits: what is sent is what is recorded."""
        named = self.body.teleop_processor(given)
        names = self.body.action_names
        wanted = np.array([named[n] for n in names], np.float32)
        action, _ = self._limiter.apply(wanted, self.body.last_sent)
        return dict(zip(names, action.tolist(), strict=True))


class _Events(dict[str, bool]):
    """What LeRobot's loop asks before every step; the answer is in the keys.

    Attributes:
        said: what ended the loop; None after its last step.
        limiter: whose limits, where they cut too long, end an episode as a failure.
        most: steps after which it is over, whatever time they took.
    """

    def __init__(self, human: TeleopHuman, ends: tuple[Event, ...], stopping: threading.Event) -> None:
        super().__init__(exit_early=False, rerecord_episode=False, stop_recording=False)
        self._human, self._ends, self._stopping = human, ends, stopping
        self._steps = 0
        self.limiter: Limiter | None = None
        self.most: int | None = None
        self.said: Event | None = None

    def __getitem__(self, name: str) -> bool:
        if name != "exit_early":
            return super().__getitem__(name)
        if self._stopping.is_set():
            self.said = Event.STOP
        elif self.limiter is not None and self.limiter.should_stop:
            self.said = Event.FAILURE
        for event in self._human.events() if self.said is None else ():
            if event in self._ends:
                self.said = event
                break
        self._steps += 1
        return self.said is not None or (self.most is not None and self._steps > self.most)


class _Driver:
    """The robot as LeRobot's loop sees it: with igrft's checks, and errors that say which camera or joint it was."""

    def __init__(self, body: RobotEmbodiment) -> None:
        self._body = body
        self.name = body.name

    def get_observation(self) -> dict[str, Any]:
        self._body.observe()
        return self._body.raw

    def send_action(self, action: Mapping[str, float]) -> None:
        self._body.act(np.array([action[n] for n in self._body.action_names], np.float32))
