"""The loop: who drives when, and what is recorded, step by step."""

import itertools

import numpy as np
import pytest
from rollout_fakes import Helper, Line, Walker

from igrft.rollouts.engine import ChunkEngine
from igrft.rollouts.episode import ASKED, STAGNATION, run_episode
from igrft.rollouts.protocols import Event
from igrft.rollouts.safety import Limiter
from igrft.rollouts.settings import SafetySettings
from igrft.rollouts.stagnation import StagnationMonitor


def run(body=None, source=None, human=None, **more):
    frames = []
    body = body or Line()
    engine = ChunkEngine(source or Walker(), more.pop("steps", 4), more.pop("judge_every", None))
    result = run_episode(body, engine, seed=7, human=human, on_frame=frames.append, **more)
    return result, frames, body, engine


def watch(window=4, grace=0):
    return StagnationMonitor(window, 0.05, None, grace)


def test_a_policy_that_walks_to_the_end():
    result, frames, body, engine = run()
    assert (result.success, result.ended, result.steps, result.progress) == (True, "success", 10, 1.0)
    assert (body.seeds, engine.source.seeds) == ([7], [7])
    # Each frame holds what was seen before its action.
    assert [float(f.observation["observation.state"][0]) for f in frames] == list(range(10))
    assert all(f.observation["task"] == "walk to the end" and not f.intervention and f.reason == 0 for f in frames)
    # Judged where a chunk begins, and held in between.
    assert [round(f.judgement.value, 3) for f in frames] == [1.0] * 4 + [0.6] * 4 + [0.2] * 2
    assert {f.noise_scale for f in frames} == {1.5}
    assert engine.source.asked == 3


def test_a_policy_that_never_comes_there():
    result, _frames, *_ = run(source=Walker(0.0))
    assert (result.success, result.ended, result.steps, result.completed) == (False, "time limit", 50, 0)
    result, *_ = run(Line(limit=99), Walker(0.0), max_steps=12)
    assert (result.ended, result.steps) == ("time limit", 12)
    result, *_ = run(source=Walker(0.125))
    assert (result.completed, result.subtasks, result.progress) == (1, 2, 0.5)


def test_the_expert_takes_over_where_the_value_stagnates_and_hands_back():
    human = Helper(steps=3)
    result, frames, *_ = run(source=Walker(stuck=(4, 6)), human=human, monitor=watch())
    assert result.success
    assert [(t.start, t.end, t.by, t.why) for t in result.takeovers] == [(8, 11, "helper", STAGNATION)]
    assert (human.calls, human.takes, human.backs) == ([STAGNATION], 1, 1)
    assert [f.intervention for f in frames] == [8 <= i < 11 for i in range(result.steps)]
    assert [f.reason for f in frames] == [2 if 8 <= i < 11 else 0 for i in range(result.steps)]
    # Before the takeover the policy stood for one chunk; after it, it starts from what it sees then.
    states = [float(f.observation["observation.state"][0]) for f in frames]
    assert states == [0, 1, 2, 3, 4, 4, 4, 4, 4, 5, 6, 7, 8, 9]


def test_after_a_handover_there_is_a_grace_period():
    human = Helper(steps=1, stride=0.0)
    result, *_ = run(source=Walker(0.0), human=human, monitor=watch(grace=12))
    starts = [t.start for t in result.takeovers]
    assert len(starts) > 1
    assert all(b - a >= 12 for a, b in itertools.pairwise(starts))


def test_without_a_human_the_call_is_noted_and_the_policy_goes_on():
    result, *_ = run(source=Walker(0.0), monitor=watch(window=4))
    assert not result.takeovers
    assert result.calls[0] == 4
    assert len(result.calls) > 5


def test_the_human_asks_with_a_key_and_hands_back_with_the_same():
    script = {2: [Event.TAKE_OVER], 5: [Event.TAKE_OVER], 7: [Event.TAKE_OVER], 8: [Event.HAND_BACK]}
    human = Helper(script=script, stride=0.5, scripted=False)
    result, frames, *_ = run(human=human)
    assert [(t.start, t.end, t.why) for t in result.takeovers] == [(2, 5, ASKED), (7, 8, ASKED)]
    assert [f.action[0] for f in frames[:9]] == [1, 1, 0.5, 0.5, 0.5, 1, 1, 0.5, 1]


def test_keys_that_take_over_and_hand_back_between_two_steps_drive_nothing():
    human = Helper(script={2: [Event.TAKE_OVER, Event.HAND_BACK]}, scripted=False)
    result, *_ = run(human=human)
    assert result.takeovers == []
    assert human.backs == 1


@pytest.mark.parametrize(
    ("event", "success", "ended"),
    [
        (Event.SUCCESS, True, "success"),
        (Event.FAILURE, False, "failure"),
        (Event.AGAIN, None, "again"),
        (Event.STOP, None, "stopped"),
    ],
)
def test_keys_that_end_an_episode(event, success, ended):
    for before in ([], [Event.TAKE_OVER]):
        human = Helper(script={1: before, 3: [event]}, scripted=False)
        result, frames, *_ = run(human=human)
        assert (result.success, result.ended, result.steps, len(frames)) == (success, ended, 3, 3)
        assert human.backs == len(before)


def test_a_signal_ends_it_too():
    asked = iter([False, False, True])
    result, *_ = run(stop=lambda: next(asked))
    assert (result.ended, result.steps) == ("stopped", 2)


def test_a_person_is_waited_for_while_the_robot_holds_and_nothing_is_recorded():
    human = Helper(script={9: [Event.TAKE_OVER], 14: [Event.HAND_BACK]}, scripted=False)
    body = Line(limit=200)
    result, frames, body, _engine = run(body, Walker(stuck=(4, 6)), human=human, monitor=watch(), help_seconds=60)
    assert result.success and human.calls == [STAGNATION]
    assert [(t.start, t.why) for t in result.takeovers] == [(8, STAGNATION)]
    # Step 8 held the last action (0), which went to the robot and into no frame.
    assert len(body.sent) == len(frames) + 1
    assert body.sent[8] == 0.0


def test_nobody_comes_and_the_policy_goes_on():
    human = Helper(scripted=False)
    result, *_ = run(source=Walker(0.0), human=human, monitor=watch(), help_seconds=0.0, max_steps=30)
    assert result.steps == 30 and not result.takeovers and len(human.calls) > 3


def test_keys_alone_cannot_drive():
    human = Helper(script={2: [Event.TAKE_OVER]}, scripted=False)
    human.can_drive = False
    result, frames, *_ = run(human=human)
    assert result.success and not any(f.intervention for f in frames)


def test_limits_hold_for_policy_and_human_alike():
    limiter = Limiter(SafetySettings(low=[-0.5], high=[0.25]), 1)
    human = Helper(script={5: [Event.TAKE_OVER], 9: [Event.HAND_BACK]}, stride=-3.0, scripted=False)
    result, frames, body, _ = run(human=human, limiter=limiter, max_steps=12)
    assert [f.action[0] for f in frames] == [0.25] * 5 + [-0.5] * 4 + [0.25] * 3
    assert body.sent == [float(f.action[0]) for f in frames]
    assert result.cuts == 12 and all(f.cut for f in frames)


def test_too_many_cuts_in_a_row_stop_the_episode():
    limiter = Limiter(SafetySettings(high=[0.25], stop_after=3), 1)
    result, *_ = run(limiter=limiter)
    assert (result.ended, result.success, result.steps) == ("safety", False, 3)


def test_the_critic_looks_again_within_a_chunk_where_asked():
    _result, frames, _, _engine = run(judge_every=2)
    assert [round(f.judgement.value, 3) for f in frames[:6]] == [1.0, 1.0, 0.8, 0.8, 0.6, 0.6]


def test_the_critic_goes_on_watching_while_the_human_drives():
    human = Helper(script={1: [Event.TAKE_OVER]}, scripted=False)
    _, frames, _, engine = run(human=human, judge_every=2)
    assert [round(f.judgement.value, 3) for f in frames[1:6]] == [0.9, 0.9, 0.7, 0.7, 0.5]
    assert engine.source.asked == 1


def test_the_observation_is_the_loops_own():
    _, frames, *_ = run()
    assert len({id(f.observation) for f in frames}) == len(frames)
    assert np.isfinite([f.action[0] for f in frames]).all()
