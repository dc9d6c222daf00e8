"""A plan as jobs: what waits for what, what each takes, and which episodes go to which task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.cluster.settings import Executor, StepJobs
from igrft.cluster.stages import Stage, ancestors, refuse_unknown_steps, stages_of
from igrft.cluster.task import deal, share
from igrft.errors import UsageError
from igrft.pipeline.config import Pipeline
from igrft.pipeline.plan import Plan
from igrft.steps.base import Resources, StepDefaults

NEEDS = Resources()


@dataclass(frozen=True)
class Fake(StepDefaults):
    """A step of which only the place in the plan matters."""

    type: str
    heavy: bool = False
    reduces: bool = False
    resources: Resources = NEEDS


def plan(*steps: tuple[Fake, tuple[int, ...]], owners: tuple[str, ...] = ()) -> Plan:
    """Steps, each with the numbers of those that it builds on."""
    made = tuple(step for step, _ in steps)
    return Plan(made, made, tuple(p for _, p in steps), "source", (), owners or tuple(s.type for s in made))


def heavy(name: str, **more) -> Fake:
    return Fake(name, heavy=True, **more)


def shape(stages: list[Stage]) -> list[tuple[str, str, tuple[int, ...], tuple[str, ...]]]:
    return [(s.name, s.kind, s.groups, s.after) for s in stages]


def test_only_cheap_steps_are_one_job():
    found = stages_of(plan((Fake("a"), ()), (Fake("b"), (0,))), Executor())
    assert shape(found) == [("finish", "finish", (0,), ())]


def test_heavy_steps_that_build_on_nothing_heavy_start_at_once_and_side_by_side():
    # As subtasks by a model, its vocabulary, and the interaction of the pictures.
    found = stages_of(
        plan(
            (heavy("seen"), ()),
            (Fake("names", reduces=True), (0,)),
            (heavy("counts"), ()),
            (Fake("interaction"), (2,)),
            (Fake("rewards"), (1, 3)),
        ),
        Executor(),
    )
    assert shape(found) == [
        ("seen", "label", (0,), ()),
        ("counts", "label", (2,), ()),
        ("finish", "finish", (0, 1, 2, 3), ("seen", "counts")),
    ]


def test_a_heavy_step_waits_for_a_job_that_settles_what_it_builds_on():
    # A cheap one alone; a heavy one; and what all episodes must have before it: three kinds of waiting.
    found = stages_of(
        plan(
            (heavy("masks"), ()),
            (heavy("counts"), (0,)),
            (Fake("interaction"), (1,)),
            (heavy("values"), (2,)),
            (heavy("apart"), ()),
        ),
        Executor(),
    )
    assert shape(found) == [
        ("masks", "label", (0,), ()),
        ("before-counts", "settle", (0,), ("masks",)),
        ("counts", "label", (1,), ("before-counts",)),
        # One after the other, or two would write TARGET.staging's cheap steps at the same time.
        ("before-values", "settle", (0, 1, 2), ("masks", "counts", "before-counts")),
        ("values", "label", (3,), ("before-values",)),
        ("apart", "label", (4,), ()),
        ("finish", "finish", (0, 1, 2, 3, 4), ("masks", "before-counts", "counts", "before-values", "values", "apart")),
    ]


def test_a_step_that_reduces_waits_for_all_before_it():
    steps = plan((heavy("a"), ()), (heavy("b"), ()), (heavy("names", reduces=True), (0,)), (heavy("c"), ()))
    assert ancestors(steps, 2) == [0, 1]
    assert [s.after for s in stages_of(steps, Executor()) if s.name in ("before-names", "c")] == [("a", "b"), ()]


def test_a_cheap_step_below_is_settled_first():
    steps = plan((Fake("given"), ()), (heavy("values"), (0,)))
    assert shape(stages_of(steps, Executor()))[:2] == [
        ("before-values", "settle", (0,), ()),
        ("values", "label", (1,), ("before-values",)),
    ]


def test_resources_are_the_steps_own_unless_the_file_says_otherwise():
    steps = plan(
        (heavy("masks", resources=Resources(2, 8.0, 1)), ()),
        (heavy("counts", resources=Resources(1, 6.0, 0)), (0,)),
        (Fake("interaction", resources=Resources(1, 12.0, 0)), (1,)),
        owners=("interaction", "interaction", "interaction"),
    )
    executor = Executor(
        steps={
            "interaction": StepJobs(cpus=4),
            "counts": StepJobs(memory_gb=3.0),
            "finish": StepJobs(memory_gb=2.0),
            "before-counts": StepJobs(cpus=2),
        }
    )
    found = {s.name: s.resources for s in stages_of(steps, executor)}
    assert found == {
        "masks": Resources(4, 8.0, 1),
        # The nearer name wins, as a whole.
        "counts": Resources(1, 3.0, 0),
        "before-counts": Resources(2, 4.0, 0),
        "finish": Resources(1, 2.0, 0),
    }
    # A job that settles takes what the hungriest cheap step in it does.
    assert {s.name: s.resources for s in stages_of(steps, Executor())}["finish"] == Resources(1, 12.0, 0)


def test_a_stage_comes_back_from_json_as_it_was():
    for stage in stages_of(plan((heavy("a"), ()), (heavy("b"), (0,))), Executor()):
        assert Stage.from_json(stage.to_json()) == stage


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("interactoin", "no step 'interactoin' in this pipeline; did you mean 'interaction'?"),
        ("rewards", "step 'rewards' is no job of its own, it runs in others; name 'finish'"),
        ("before-masks", None),
        ("counts", None),
        ("interaction", None),
        ("finish", None),
        ("values", None),
    ],
)
def test_steps_that_the_executor_speaks_of_must_be_jobs(name, message):
    steps = plan((heavy("masks"), ()), (heavy("counts"), (0,)), (Fake("rewards"), (1,)), owners=("interaction",) * 3)
    # 'values' is in the file, and this dataset has no use for it.
    pipeline = Pipeline("p", (Fake("values"),), Executor(steps={name: StepJobs(gpus=1)}))
    if message is None:
        refuse_unknown_steps(steps, pipeline)
        return
    with pytest.raises(UsageError) as error:
        refuse_unknown_steps(steps, pipeline)
    assert message in str(error.value)


@given(
    lengths=st.lists(st.integers(1, 10_000), min_size=1, max_size=80),
    tasks=st.integers(1, 20),
    data=st.data(),
)
def test_every_row_goes_to_exactly_one_task_and_tasks_are_balanced(lengths, tasks, data):
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    tasks = min(tasks, len(rows))
    array = np.array(lengths)
    shares = [share(rows, array, rank, tasks) for rank in range(tasks)]
    assert sorted(row for one in shares for row in one) == sorted(rows)
    assert all(shares), "no task is without an episode"
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    frames = [int(array[one].sum()) for one in shares]
    # There and back again: two tasks never differ by more than one episode, the longest.
    assert max(frames) - min(frames) <= int(array[rows].max())
    assert deal(rows, array, tasks) == deal(sorted(rows, reverse=True), array, tasks), "whatever order they come in"
