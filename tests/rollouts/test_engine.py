"""Chunks become one action a step."""

import threading
import time

import numpy as np
import pytest
from rollout_fakes import Walker

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.engine import ChunkEngine, RealTimeEngine, make_engine
from igrft.rollouts.protocols import Chunk, Judgement
from igrft.rollouts.settings import InferenceSettings


def at(x):
    return {"observation.state": np.array([x], dtype=np.float32), "task": "walk"}


def test_a_chunk_is_done_as_far_as_asked():
    engine = ChunkEngine(Walker(), 2)
    engine.reset(1)
    judged = [engine.next(at(i)).judged for i in range(6)]
    assert judged == [True, False] * 3
    assert engine.source.asked == 3


def test_what_was_planned_is_forgotten_when_a_human_takes_over():
    engine = ChunkEngine(Walker(), 4)
    engine.reset(1)
    engine.next(at(0))
    engine.pause()
    assert engine.watch(at(5)).judgement.value == 0.5
    engine.resume()
    assert engine.next(at(7)).judgement.value == pytest.approx(0.3)
    assert engine.source.asked == 2


class Slow:
    """A policy that takes ``delay`` seconds; its actions count on from what it saw, in steps."""

    chunk_size, has_critic, can_guide, n_action_steps = 20, True, True, 20

    def __init__(self, delay):
        self.delay, self.asked, self.fail, self.gate = delay, [], False, None

    def reset(self, seed):
        self.asked.append(("reset", seed))

    def infer(self, observation, *, left_over=None, delay=0):
        if self.fail:
            raise ValueError("out of memory")
        began = time.perf_counter()
        x = float(observation["observation.state"][0])
        if self.gate is not None:
            self.gate.wait(5)
        time.sleep(self.delay)
        actions = x + np.arange(self.chunk_size, dtype=np.float32)[:, None]
        self.asked.append((x, None if left_over is None else left_over.copy(), delay))
        return Chunk(actions, -actions, self.judge(observation), 1.0, time.perf_counter() - began)

    def judge(self, observation):
        value = float(observation["observation.state"][0])
        return Judgement(value, value, value, 0.5)

    def close(self):
        pass


def drive(engine, steps, period, start=0):
    """A loop that keeps its period; step t sees t, so an action that is right is t."""
    out = []
    for t in range(start, start + steps):
        began = time.perf_counter()
        decision = engine.next(at(t))
        out.append(None if decision.action is None else float(decision.action[0]))
        time.sleep(max(0.0, period - (time.perf_counter() - began)))
    return out


def first(engine, t=0):
    """Wait for the first chunk, standing at ``t``."""
    until = time.perf_counter() + 5
    while time.perf_counter() < until:
        decision = engine.next(at(t))
        if decision.action is not None:
            return float(decision.action[0])
        time.sleep(0.002)
    raise AssertionError("no chunk came")


def test_the_next_chunk_is_made_while_the_last_is_done_and_starts_where_that_is():
    period = 0.02
    engine = RealTimeEngine(Slow(0.05), 1 / period, threshold=15, horizon=10)
    try:
        engine.reset(3)
        assert first(engine) == 0
        actions = drive(engine, 60, period, start=1)
    finally:
        engine.close()
    # Every action is the one meant for its step, though each chunk came two to four steps late: no jump, no hole.
    assert actions == list(range(1, 61))
    asked = [a for a in engine.source.asked if a[0] != "reset"]
    assert ("reset", 3) in engine.source.asked
    assert len(asked) > 5
    # From the second on, the chunk is told what is left of the last one, and how late it will come.
    assert all(a[1] is not None and a[2] >= 2 for a in asked[2:])
    # What is left is in the policy's own numbers, and begins at the observation's step.
    assert all(a[1][0, 0] == -a[0] for a in asked[2:])


def test_a_policy_that_is_too_slow_lets_the_robot_hold():
    engine = RealTimeEngine(Slow(0.2), 100, threshold=15, horizon=10)
    try:
        engine.reset(None)
        actions = drive(engine, 80, 0.01)
    finally:
        engine.close()
    assert None in actions[5:]
    assert any(a is not None for a in actions)


def test_a_chunk_from_before_the_human_is_thrown_away():
    source = Slow(0.0)
    engine = RealTimeEngine(source, 50, threshold=15, horizon=10)
    try:
        engine.reset(1)
        assert first(engine) == 0
        source.gate = threading.Event()
        for t in range(1, 8):
            engine.next(at(t))
            time.sleep(0.01)
        # A chunk is being made now, from before the takeover.
        engine.pause()
        source.gate.set()
        time.sleep(0.1)
        assert engine.watch(at(100)).action is None
        engine.resume()
        assert first(engine, 200) >= 200
    finally:
        engine.close()


def test_the_critic_is_asked_beside_the_loop_while_the_human_drives():
    engine = RealTimeEngine(Slow(0.0), 50, threshold=15, horizon=10)
    try:
        engine.reset(1)
        first(engine)
        engine.pause()
        found = []
        for t in range(40, 60):
            found.append(engine.watch(at(t)))
            time.sleep(0.01)
    finally:
        engine.close()
    assert all(d.action is None for d in found)
    assert any(d.judged and d.judgement.value >= 40 for d in found)


def test_a_policy_that_fails_is_an_error_in_the_loop():
    source = Slow(0.0)
    source.fail = True
    engine = RealTimeEngine(source, 50, threshold=15, horizon=10)
    try:
        engine.reset(1)
        with pytest.raises(IgrftError, match="the policy stopped: out of memory"):
            first(engine)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (InferenceSettings(steps=5), "inference.steps must lie in 1 … 4"),
        (InferenceSettings(steps=0), "inference.steps must lie in 1 … 4"),
        (InferenceSettings(judge_every=0), "inference.judge_every"),
        (InferenceSettings(type="fast"), "unknown inference.type 'fast'; known: sync, rtc"),
        (InferenceSettings(type="rtc", queue=4), "inference.queue must lie in 1 … 3"),
        (InferenceSettings(type="rtc", queue=2, horizon=0), "horizon"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UsageError, match=message):
        make_engine(settings, Walker(), 10, 4)


def test_a_policy_that_cannot_be_guided_has_no_real_time_chunking():
    source = Walker()
    source.can_guide = False
    with pytest.raises(UsageError, match="cannot be guided"):
        make_engine(InferenceSettings(type="rtc", queue=2), source, 10, 4)
    assert make_engine(InferenceSettings(steps=3), source, 10, 4).steps == 3
    assert make_engine(InferenceSettings(), source, 10, 2).steps == 2


def test_lerobots_queue_is_as_the_engine_takes_it_to_be():
    import torch
    from lerobot.policies.rtc import ActionQueue, LatencyTracker, RTCConfig

    queue = ActionQueue(RTCConfig(enabled=True, execution_horizon=10))
    assert queue.original_queue is None and queue.get() is None
    queue.merge(torch.arange(5.0)[:, None], torch.arange(5.0)[:, None] + 10, 2, 0)
    assert queue.original_queue[:, 0].tolist() == [2, 3, 4]
    assert (queue.get().item(), queue.get_action_index(), queue.qsize()) == (12, 1, 2)
    queue.clear()
    assert queue.get_action_index() == 0 and queue.original_queue is None
    tracker = LatencyTracker(maxlen=2)
    assert not tracker.p95()
    for seconds in (9.0, 0.1, 0.1):
        tracker.add(seconds)
    assert tracker.p95() == pytest.approx(0.1)
