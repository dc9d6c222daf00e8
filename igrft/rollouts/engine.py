"""How chunks become one action a step: one after the other, or the next made while the last is done."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.protocols import ActionSource, Judgement, Observation

if TYPE_CHECKING:
    from igrft.rollouts.settings import InferenceSettings

#: Seconds after which the background thread looks by itself, and that it is waited for at the end.
_IDLE, _JOIN = 0.05, 10.0
#: Chunks whose lateness is remembered: the first of all is slow, and must be forgotten.
_REMEMBERED = 20


@dataclass(frozen=True)
class Decision:
    """What the policy does in one step.

    Attributes:
        action: float32 [dim]; None where none is ready: the robot holds.
        judgement: the critic's last word; None where it has not spoken.
        noise_scale: standard deviation of the initial noise of the chunk that the action is from.
        judged: whether the judgement is of this step's observation (or, made beside the loop, has just come).
    """

    action: np.ndarray | None
    judgement: Judgement | None
    noise_scale: float
    judged: bool


class Engine(Protocol):
    """Actions one at a time."""

    source: ActionSource

    def reset(self, seed: int | None) -> None:
        """An episode begins."""
        ...

    def next(self, observation: Observation) -> Decision:
        """The policy drives."""
        ...

    def watch(self, observation: Observation) -> Decision:
        """The human drives: what the critic says, from time to time; no action."""
        ...

    def pause(self) -> None:
        """The human takes over: actions that were planned are forgotten."""
        ...

    def resume(self) -> None:
        """The policy drives again, from what it sees then."""
        ...

    def close(self) -> None: ...


class ChunkEngine:
    """One chunk after the other: the robot waits while the next is made.

    Args:
        steps: actions done of each chunk, 1 … the source's ``chunk_size``.
        judge_every: steps after which the critic looks again within a chunk; None: at chunks alone.
    """

    def __init__(self, source: ActionSource, steps: int, judge_every: int | None = None) -> None:
        self.source = source
        self.steps = steps
        self.judge_every = judge_every
        self._queue: deque[np.ndarray] = deque()
        self._last = Decision(None, None, 1.0, False)
        self._since = 0

    def reset(self, seed: int | None) -> None:
        self.source.reset(seed)
        self._last = Decision(None, None, 1.0, False)
        self.pause()

    def next(self, observation: Observation) -> Decision:
        judged = False
        if not self._queue:
            chunk = self.source.infer(observation)
            self._queue.extend(chunk.actions[: self.steps])
            self._last = Decision(None, chunk.judgement, chunk.noise_scale, False)
            self._since, judged = 0, chunk.judgement is not None
        elif self.judge_every is not None and self._since >= self.judge_every:
            judged = self._look(observation)
        self._since += 1
        return Decision(self._queue.popleft(), self._last.judgement, self._last.noise_scale, judged)

    def watch(self, observation: Observation) -> Decision:
        judged = False
        if self._since == 0 or self._since >= (self.judge_every or self.steps):
            judged = self._look(observation)
        self._since += 1
        return Decision(None, self._last.judgement, self._last.noise_scale, judged)

    def pause(self) -> None:
        self._queue.clear()
        self._since = 0

    def resume(self) -> None:
        self._queue.clear()

    def close(self) -> None:
        self.source.close()

    def _look(self, observation: Observation) -> bool:
        judgement = self.source.judge(observation)
        self._since = 0
        if judgement is None:
            return False
        self._last = Decision(None, judgement, self._last.noise_scale, False)
        return True


class RealTimeEngine:
    """Real-time chunking: a thread makes the next chunk from the newest observation while the last is done.

    The queue of actions, and the guess of how late the next chunk will be, are LeRobot's. How many actions were really
    done while a chunk was made is counted, not timed: those are left out of it, so that control goes on without a jump.

    Args:
        fps: control steps a second.
        threshold: a new chunk is begun when at most so many actions are left.
        horizon: actions of the last chunk that the new one agrees with.
    """

    def __init__(self, source: ActionSource, fps: float, *, threshold: int, horizon: int) -> None:
        from lerobot.policies.rtc import ActionQueue, LatencyTracker, RTCConfig

        self.source = source
        self._period = 1.0 / fps
        self._threshold = threshold
        self._queue: Any = ActionQueue(RTCConfig(enabled=True, execution_horizon=horizon))
        self._latency: Any = LatencyTracker(maxlen=_REMEMBERED)
        self._lock = threading.Condition()
        self._observation: Observation | None = None
        self._seen_at = 0
        self._last = Decision(None, None, 1.0, False)
        self._fresh = False
        self._driving, self._closed, self._epoch = False, False, 0
        self._seed: int | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="igrft-chunks", daemon=True)
        self._thread.start()

    def reset(self, seed: int | None) -> None:
        self.pause()
        with self._lock:
            self._seed, self._epoch = seed, self._epoch + 1
            self._last, self._fresh = Decision(None, None, 1.0, False), False
        self.resume()

    def next(self, observation: Observation) -> Decision:
        return self._decide(observation, self._queue.get)

    def watch(self, observation: Observation) -> Decision:
        found = self._decide(observation, lambda: None)
        if found.judgement is None and self.source.has_critic:
            # The human drives before the policy ever did: the first word is waited for, the others are not.
            with self._lock:
                self._lock.wait_for(lambda: self._last.judgement is not None or self._error is not None, _JOIN)
            found = self._decide(observation, lambda: None)
        return found

    def pause(self) -> None:
        with self._lock:
            self._driving, self._observation = False, None
            # A chunk that is being made now is of a time before the human: it is thrown away.
            self._epoch += 1
            self._queue.clear()

    def resume(self) -> None:
        with self._lock:
            self._queue.clear()
            self._observation = None
            self._epoch += 1
            self._driving = True

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join(_JOIN)
        self.source.close()

    def _decide(self, observation: Observation, take: Any) -> Decision:
        with self._lock:
            if self._error is not None:
                raise IgrftError(f"the policy stopped: {self._error}") from self._error
            # Where the plan stood when this was seen: the action that is taken now belongs to what is seen now.
            self._observation, self._seen_at = observation, self._queue.get_action_index()
            self._lock.notify_all()
            action = take()
            judged, self._fresh = self._fresh, False
            found = None if action is None else action.numpy().astype(np.float32)
            return Decision(found, self._last.judgement, self._last.noise_scale, judged)

    def _run(self) -> None:
        try:
            seeded: int | None = None
            while True:
                with self._lock:
                    if self._closed:
                        return
                    waiting = self._observation is None or (self._driving and self._queue.qsize() > self._threshold)
                    if waiting:
                        self._lock.wait(_IDLE)
                        continue
                    assert self._observation is not None
                    observation, driving, epoch = dict(self._observation), self._driving, self._epoch
                    # The same observation is not looked at twice.
                    self._observation = None
                    before = self._seen_at
                    planned = self._queue.original_queue
                    left_over = None if planned is None else planned[before:].numpy()
                    if self._seed is not None and seeded != self._seed:
                        self.source.reset(self._seed)
                        seeded = self._seed
                if driving:
                    self._extend(observation, left_over, before, epoch)
                else:
                    self._judge(observation, epoch)
        except BaseException as error:
            with self._lock:
                self._error = error
                self._lock.notify_all()

    def _extend(self, observation: Observation, left_over: np.ndarray | None, before: int, epoch: int) -> None:
        import torch

        expected = math.ceil((self._latency.p95() or 0.0) / self._period)
        chunk = self.source.infer(observation, left_over=left_over, delay=expected)
        with self._lock:
            if epoch != self._epoch:
                return
            self._latency.add(chunk.seconds)
            done = max(0, self._queue.get_action_index() - before) if left_over is not None else 0
            actions = torch.from_numpy(chunk.actions)
            original = actions if chunk.normalised is None else torch.from_numpy(chunk.normalised)
            self._queue.merge(original, actions, done, before)
            self._note(chunk.judgement, chunk.noise_scale)

    def _judge(self, observation: Observation, epoch: int) -> None:
        judgement = self.source.judge(observation)
        with self._lock:
            if epoch == self._epoch:
                self._note(judgement, self._last.noise_scale)

    def _note(self, judgement: Judgement | None, noise_scale: float) -> None:
        self._last = Decision(None, judgement or self._last.judgement, noise_scale, False)
        self._fresh = judgement is not None
        self._lock.notify_all()


def make_engine(settings: InferenceSettings, source: ActionSource, fps: float, default_steps: int) -> Engine:
    """What ``rollout.inference`` asks for.

    Args:
        default_steps: of a chunk, where the recipe does not say.

    Raises:
        UsageError: a setting that cannot be.
    """
    size = source.chunk_size
    if settings.type == "rtc":
        if not source.can_guide:
            raise UsageError(
                "inference.type is rtc, and the policy cannot be guided; give --rollout.inference.type=sync"
            )
        if not 1 <= settings.queue < size or settings.horizon < 1:
            raise UsageError(
                f"inference.queue must lie in 1 … {size - 1} (the policy's chunk is {size}) and horizon be at least 1; "
                f"got {settings.queue} and {settings.horizon}"
            )
        return RealTimeEngine(source, fps, threshold=settings.queue, horizon=settings.horizon)
    if settings.type != "sync":
        raise UsageError(f"unknown inference.type {settings.type!r}; known: sync, rtc")
    steps = min(settings.steps or default_steps, size)
    if settings.steps is not None and not 1 <= settings.steps <= size:
        raise UsageError(f"inference.steps must lie in 1 … {size}, the policy's chunk, got {settings.steps}")
    if settings.judge_every is not None and settings.judge_every < 1:
        raise UsageError(f"inference.judge_every must be at least 1, got {settings.judge_every}")
    return ChunkEngine(source, steps, settings.judge_every)
