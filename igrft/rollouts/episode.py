"""One episode: the policy drives, the critic watches, a human takes over and hands back (Algorithm 1, lines 13-23)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Protocol

import numpy as np

from igrft.rollouts.engine import Decision, Engine
from igrft.rollouts.protocols import Embodiment, Event, Human, Judgement, Observation, Status
from igrft.rollouts.safety import Limiter
from igrft.rollouts.stagnation import StagnationMonitor


class Phase(Enum):
    """Who drives."""

    POLICY = "policy"
    WAITING = "waiting for the human"
    HUMAN = "human"


#: What an event does where somebody drives; events that are not listed do nothing there.
TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.POLICY, Event.TAKE_OVER): Phase.HUMAN,
    (Phase.WAITING, Event.TAKE_OVER): Phase.HUMAN,
    (Phase.WAITING, Event.HAND_BACK): Phase.POLICY,
    (Phase.HUMAN, Event.HAND_BACK): Phase.POLICY,
    # One key or pedal serves for both.
    (Phase.HUMAN, Event.TAKE_OVER): Phase.POLICY,
}
#: Events that end an episode, whoever drives.
ENDS = (Event.SUCCESS, Event.FAILURE, Event.AGAIN, Event.STOP)

#: Why a human drives. Codes of the column ``takeover_reason``; 0 is nobody.
ASKED, STAGNATION = "the human asked", "the value stagnates"
REASONS = {1: ASKED, 2: STAGNATION}
_CODES = {text: code for code, text in REASONS.items()}


@dataclass(frozen=True)
class Frame:
    """One step, as it is recorded.

    Attributes:
        observation: what was seen before the action.
        action: what was really sent, float32 [dim].
        judgement: the critic's last word, or None.
        reason: code of why a human drives, 0 where the policy does.
        cut: whether the action was cut to its limits.
    """

    observation: Observation
    action: np.ndarray
    intervention: bool
    judgement: Judgement | None
    noise_scale: float
    reason: int
    cut: bool


@dataclass
class Takeover:
    """A human drove from frame ``start`` up to ``end`` (exclusive)."""

    start: int
    end: int
    by: str
    why: str


@dataclass
class EpisodeResult:
    """How an episode went.

    Attributes:
        success: None where nobody said.
        steps: frames.
        ended: why: success, failure, time limit, stopped, again, safety.
        completed, subtasks: done and all, where the embodiment knows.
        calls: frames at which the monitor called for help, followed or not.
        cuts: frames whose action was cut.
        overruns: steps that took longer than the control period; robots only.
    """

    seed: int | None
    success: bool | None = None
    steps: int = 0
    ended: str = ""
    completed: int = 0
    subtasks: int = 0
    takeovers: list[Takeover] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    cuts: int = 0
    overruns: int = 0

    @property
    def interventions(self) -> int:
        return len(self.takeovers)

    @property
    def progress(self) -> float:
        """Share of subtasks completed, in [0, 1]; a success is 1 where none are known."""
        if self.subtasks:
            return 1.0 if self.success else self.completed / self.subtasks
        return 1.0 if self.success else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "progress": self.progress}


class Clock(Protocol):
    """Keeps a robot's loop to its rate."""

    overruns: int

    def wait(self) -> None: ...

    def skip(self) -> None:
        """A pause that was meant is over."""
        ...


def run_episode(
    body: Embodiment,
    engine: Engine,
    *,
    seed: int | None,
    human: Human | None = None,
    monitor: StagnationMonitor | None = None,
    limiter: Limiter | None = None,
    clock: Clock | None = None,
    max_steps: int | None = None,
    help_seconds: float = 30.0,
    on_frame: Callable[[Frame], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> EpisodeResult:
    """Run one episode to its end.

    A stagnating value hands control to a human that is scripted at once. One that is not is called, the robot holds,
    and goes on if nobody comes within ``help_seconds``; frames on which it holds are not recorded.

    Args:
        seed: of start and noise.
        monitor: None: nobody watches.
        clock: keeps the rate; None runs as fast as it can.
        max_steps: after which it ends, beside what ``body`` says.
        on_frame: is given every step.
        stop: asked every step; true ends the episode as the human's key does.

    Returns:
        How it went. ``ended`` is "again" or "stopped" where the human said so.
    """
    return _Run(body, engine, seed, human, monitor, limiter, clock, max_steps, help_seconds, on_frame, stop).go()


class _Run:
    """The state of one episode."""

    def __init__(
        self,
        body: Embodiment,
        engine: Engine,
        seed: int | None,
        human: Human | None,
        monitor: StagnationMonitor | None,
        limiter: Limiter | None,
        clock: Clock | None,
        max_steps: int | None,
        help_seconds: float,
        on_frame: Callable[[Frame], None] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.body, self.engine, self.human, self.monitor, self.limiter = body, engine, human, monitor, limiter
        self.clock, self.max_steps, self.help_seconds = clock, max_steps, help_seconds
        self.on_frame, self.stop = on_frame, stop
        self.result = EpisodeResult(seed, subtasks=len(body.subtasks))
        self.phase = Phase.POLICY
        self.previous: np.ndarray | None = None
        self.status = Status()
        self.help_until = 0.0

    def go(self) -> EpisodeResult:
        result = self.result
        self.body.reset(result.seed)
        self.engine.reset(result.seed)
        if self.human is not None:
            self.human.start(result.seed)
        if self.monitor is not None:
            self.monitor.restart()
        while not result.ended:
            observation = self.body.observe()
            observation["task"] = self.body.task
            if not self._obey(observation):
                self._step(observation)
            if self.clock is not None:
                self.clock.wait()
        if self.phase is Phase.HUMAN:
            self._hand_back()
        if self.clock is not None:
            result.overruns = self.clock.overruns
        return result

    # What the human says.

    def _obey(self, observation: Observation) -> bool:
        """Events, and a human that is done; whether the episode ended by them."""
        if self.stop is not None and self.stop():
            self._end_by(Event.STOP)
            return True
        for event in self.human.events() if self.human is not None else ():
            if event in ENDS:
                self._end_by(event)
                return True
            to = TRANSITIONS.get((self.phase, event))
            if to is Phase.HUMAN and self.human is not None and self.human.can_drive:
                why = STAGNATION if self.phase is Phase.WAITING else ASKED
                self._take_over(observation, why)
            elif to is Phase.POLICY:
                self._to_policy()
        if self.phase is Phase.HUMAN and self.human is not None and self.human.finished(self.status):
            self._to_policy()
        if self.phase is Phase.WAITING and time.monotonic() >= self.help_until:
            self._to_policy()
        return False

    def _end_by(self, event: Event) -> None:
        told = {Event.SUCCESS: "success", Event.FAILURE: "failure", Event.AGAIN: "again", Event.STOP: "stopped"}
        self.result.ended = told[event]
        if event in (Event.SUCCESS, Event.FAILURE):
            self.result.success = event is Event.SUCCESS

    def _take_over(self, observation: Observation, why: str) -> None:
        assert self.human is not None
        if self.phase is Phase.POLICY:
            self.engine.pause()
        self.phase = Phase.HUMAN
        self.human.take_over(observation, self.previous)
        if not self.human.scripted:
            # That took seconds, in which the robot may have been brought to the leader arm.
            self._catch_up()
            observation.update(self.body.observe())
            if self.clock is not None:
                self.clock.skip()
        at = self.result.steps
        self.result.takeovers.append(Takeover(at, at, self.human.name, why))

    def _to_policy(self) -> None:
        if self.phase is Phase.HUMAN:
            self._hand_back()
        self.phase = Phase.POLICY
        self.engine.resume()
        if self.monitor is not None:
            self.monitor.restart(self.result.steps)

    def _hand_back(self) -> None:
        assert self.human is not None
        self.human.hand_back()
        if self.result.takeovers[-1].end == self.result.takeovers[-1].start:
            # Handed back before a single step: nobody drove.
            self.result.takeovers.pop()

    # Driving.

    def _step(self, observation: Observation) -> None:
        if self.phase is Phase.POLICY:
            decision = self.engine.next(observation)
            if self._stagnates(decision):
                self._call(observation)
        if self.phase is Phase.WAITING:
            self._hold()
            return
        if self.phase is Phase.HUMAN:
            assert self.human is not None
            decision = self.engine.watch(observation)
            wanted: np.ndarray | None = self.human.action(observation)
        else:
            wanted = decision.action
        if wanted is None:
            # No chunk is ready yet.
            self._hold()
            return
        self._do(observation, decision, wanted)

    def _stagnates(self, decision: Decision) -> bool:
        if self.monitor is None or not decision.judged or decision.judgement is None:
            return False
        return self.monitor.add(self.result.steps, decision.judgement.value)

    def _call(self, observation: Observation) -> None:
        """The value stagnates."""
        self.result.calls.append(self.result.steps)
        human = self.human
        if human is None or not human.can_drive:
            assert self.monitor is not None
            self.monitor.restart(self.result.steps)
            return
        human.call(STAGNATION)
        if human.scripted:
            self._take_over(observation, STAGNATION)
        else:
            self.engine.pause()
            self.phase = Phase.WAITING
            self.help_until = time.monotonic() + self.help_seconds

    def _hold(self) -> None:
        """Stay where it is. A robot knows best how: wheels must not go on."""
        if hasattr(self.body, "hold"):
            self.body.hold()
            self._catch_up()
        elif self.previous is not None:
            self.body.act(self.previous)

    def _catch_up(self) -> None:
        """Limits count from what the robot was really sent last, whoever sent it."""
        sent = getattr(self.body, "last_sent", None)
        if sent is not None:
            self.previous = np.asarray(sent, dtype=np.float32)

    def _do(self, observation: Observation, decision: Decision, wanted: np.ndarray) -> None:
        action, cut = np.asarray(wanted, dtype=np.float32), False
        if self.limiter is not None:
            action, cut = self.limiter.apply(action, self.previous)
        sent = self.body.act(action)
        self.previous = np.asarray(sent, dtype=np.float32)
        drives = self.phase is Phase.HUMAN
        result = self.result
        if self.on_frame is not None:
            reason = _CODES[result.takeovers[-1].why] if drives else 0
            self.on_frame(
                Frame(observation, self.previous, drives, decision.judgement, decision.noise_scale, reason, cut)
            )
        result.steps += 1
        result.cuts += cut
        if drives:
            result.takeovers[-1].end = result.steps
        self.status = status = self.body.status()
        if status.subtask is not None:
            result.completed = max(result.completed, status.subtask)
        if status.success:
            result.success, result.ended = True, "success"
        elif self.limiter is not None and self.limiter.should_stop:
            result.ended, result.success = "safety", False
        elif status.ended or (self.max_steps is not None and result.steps >= self.max_steps):
            result.ended = "time limit"
            result.success = status.success
