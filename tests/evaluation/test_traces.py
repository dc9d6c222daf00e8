"""Figure 7's series: of an episode as it is run, and of a dataset."""

from __future__ import annotations

import numpy as np
import pytest

from igrft.errors import UsageError
from igrft.evaluation.traces import Trace, trace_of_dataset
from igrft.evaluation.value_figure import Stage, figure_7
from igrft.rewards import combine, return_to_go, subtask_rewards, trajectory_rewards
from igrft.rollouts.episode import Frame
from igrft.rollouts.protocols import Judgement


def made(completed: list[int], values: dict[int, float] | None = None, **settings) -> Trace:
    """A trace with a judgement at the frames of ``values``, held in between."""
    trace = Trace(10.0, ("reach", "grasp", "place"), settings)
    judged = None
    for i, done in enumerate(completed):
        if values is not None and i in values:
            judged = Judgement(values[i], values[i], values[i], 0.5)
        trace.add(Frame({}, np.zeros(1, np.float32), i == 2, judged, 1.0, 0, False), done)
    return trace


def test_a_judgement_counts_where_it_was_made():
    trace = made([0] * 6, {0: 1.0, 3: 0.7})
    assert np.isfinite(trace.value).tolist() == [True, False, False, True, False, False]
    assert trace.value[3] == 0.7 and trace.judged and trace.human == [False, False, True, False, False, False]
    assert not made([0, 0]).judged
    assert trace.to_json()["value"] == [1.0, None, None, 0.7, None, None]


def test_a_subtask_ends_with_the_action_that_did_it():
    # The first is done after the action of frame 1: its segment is [0, 2).
    trace = made([0, 1, 1, 1, 2, 2])
    assert trace.stages() == [Stage("reach", 0, 2), Stage("grasp", 2, 5), Stage("place", 5, 6)]
    assert made([0, 0]).stages() == [Stage("reach", 0, 2)]
    assert made([3]).stages() == [Stage("reach", 0, 1)]


def test_done_is_done():
    assert made([1, 0, 1]).completed == [1, 1, 1]
    trace = Trace(10.0, ())
    trace.add(Frame({}, np.zeros(1), False, None, 1.0, 0, False), None)
    assert trace.completed == [0] and trace.stages() == [] and trace.reference(True) is None


@pytest.mark.parametrize("success", [True, False])
def test_the_reference_is_what_the_critic_learnt(success):
    completed = [0] * 3 + [1] * 3 + ([3] * 4 if success else [2] * 4)
    trace = made(completed, trajectory_weight=0.25, subtask_weight=0.75, discount=0.9)
    ends, done = ([4, 7, 7], [True] * 3) if success else ([4, 7, 10], [True, True, False])
    expected = combine(trajectory_rewards(10, success), subtask_rewards(10, ends, [1 / 3] * 3, done), 0.25, 0.75)
    assert trace.reference(success) == pytest.approx(return_to_go(expected, 0.9))


def test_the_reference_of_a_baselines_critic_is_the_last_frame():
    trace = made([0, 1, 3], reward_kind="sparse", discount=0.5)
    assert trace.reference(True).tolist() == [0.25, 0.5, 1.0] and trace.reference(False).tolist() == [0, 0, 0]


def test_pictures_are_taken_from_the_frames_that_are_shown():
    trace = made([0] * 40, {i: 1 - i / 40 for i in range(40)})
    pictures = [np.full((6, 8, 3), i, np.uint8) for i in range(40)]
    shown = trace.figure_trace(False, pictures, "a title", most=4).pictures
    assert [f for f, _ in shown] == [0, 13, 26, 39] and all(p[0, 0, 0] == f for f, p in shown)
    assert trace.figure_trace(False).pictures == ()


# Datasets.


def test_an_episode_of_a_labelled_dataset(valued):
    trace = trace_of_dataset(valued, 2)
    assert len(trace.predicted) == len(trace.reference) and np.isfinite(trace.predicted).all()
    assert trace.stages[0].start == 0 and len(trace.stages) == 5
    assert trace.title in ("episode 2: success", "episode 2: failure") and not trace.pictures
    figure_7(trace)


def test_what_a_dataset_cannot_show(source, valued):
    with pytest.raises(UsageError, match="has no column 'value'; label it with the step 'values'"):
        trace_of_dataset(source, 0)
    with pytest.raises(UsageError, match="has no episode 77"):
        trace_of_dataset(valued, 77)
    with pytest.raises(UsageError, match="has no pictures of 'top'; it has: none"):
        trace_of_dataset(valued, 0, camera="top")


@pytest.fixture
def valued(source, pipeline_file):
    """A labelled dataset with a column of values, as the ``values`` step would leave it."""
    from helpers import add_column

    from igrft.pipeline.run import annotate

    target = source.with_name("labelled")
    annotate(source, target, pipeline=pipeline_file())
    add_column(target, "value", lambda n, _: np.linspace(1, 0, n, dtype=np.float32), "float32")
    return target


def test_pictures_of_a_dataset_and_no_labels(tmp_path):
    """A rollout as it was recorded: values, and nothing that says what they should have been."""
    from helpers import add_column
    from picture_sets import CAMERA, picture_set

    episodes = [[np.full((32, 48, 3), 5 * i, np.uint8) for i in range(n)] for n in (12, 40)]
    root = picture_set(tmp_path / "set", episodes).root
    add_column(root, "value", lambda n, _: np.linspace(1, 0, n, dtype=np.float32), "float32")
    add_column(root, "intervention", lambda n, _: np.arange(n) > 20, "bool")
    for camera in (None, CAMERA):
        trace = trace_of_dataset(root, 1, camera=camera, most=4)
        assert trace.reference is None and trace.rises == [] and trace.stages == []
        assert trace.title == "episode 1: success not known" and trace.human.sum() == 19
        assert [f for f, _ in trace.pictures] == [0, 13, 26, 39]
        assert [round(float(p.mean())) for _, p in trace.pictures] == pytest.approx([0, 65, 130, 195], abs=6)
        figure_7(trace)
