"""A heavy step that builds on another, with a job between them: masks of the robot, then what moves beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import tree_digest
from robot_scenes import arm_set, paint

from igrft import annotate
from igrft.cluster import local, task
from igrft.cluster.drive import drive
from igrft.cluster.jobs import Jobs
from igrft.cluster.settle import settle
from igrft.cluster.submit import prepare
from igrft.cluster.task import label_share
from igrft.errors import IgrftError
from igrft.pipeline.config import load_pipeline
from igrft.pipeline.labelling import Labelling
from igrft.pipeline.plan import Plan
from igrft.pipeline.target import open_target

EPISODES = 2


def quiet(line: str) -> None:
    """Nobody listens."""


class Here(Labelling):
    """Without a process of its own for every task, which takes a second to start."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options | {"workers": 1, "isolated": False})


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "Labelling", Here)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("arms") / "source"
    arm_set(root, EPISODES)
    return root


@pytest.fixture(scope="module")
def path(source: Path) -> Path:
    painted = paint(source.with_name("painted"), (0, 0), (0, 7))
    subtasks = {str(e): {"subtasks": [{"name": "reach", "start": 0, "end": 8}]} for e in range(EPISODES)}
    source.with_name("subtasks.json").write_text(json.dumps({"episodes": subtasks}))
    steps = [
        {"type": "subtasks", "source": "file", "path": "subtasks.json"},
        {"type": "interaction", "robot_mask": "exemplar", "mask_path": str(painted), "mask_every": 3},
        {"type": "rewards"},
        {"type": "returns"},
    ]
    path = source.with_name("pipeline.yaml")
    path.write_text(json.dumps({"steps": steps}))
    return path


@pytest.fixture(scope="module")
def plain(source: Path, path: Path) -> dict[str, str]:
    """What a run in one process makes."""
    annotate(source, source.with_name("plain"), pipeline=path, workers=1, say=quiet)
    return tree_digest(source.with_name("plain"))


@pytest.fixture
def submitted(source: Path, path: Path, tmp_path: Path) -> Jobs:
    overrides = ["executor.tasks=2", "executor.retries=1"]
    jobs, tasks, _ = prepare(source, tmp_path / "labelled", load_pipeline(str(path), overrides), False, False, quiet)
    assert tasks == {"robot_mask": 2, "interaction_counts": 2}
    assert [s.name for s in jobs.stages()] == [
        "robot_mask",
        "before-interaction_counts",
        "interaction_counts",
        "finish",
    ]
    return jobs


def attempts(jobs: Jobs) -> dict[str, list[int]]:
    return {stage: jobs.attempts(stage) for stage in ("robot_mask", "interaction_counts")}


def states(jobs: Jobs, stage: str) -> list[str]:
    return [p["state"] for _, p in sorted(jobs.progress(stage, 0).items())]


def fails(monkeypatch: pytest.MonkeyPatch, where: Callable[[Plan, int, Labelling], bool]) -> None:
    """Tasks fail with a step's group of the plan."""

    class Failing(Here):
        def run_group(self, group: list[int]) -> None:
            if where(self.plan, group[0], self):
                raise RuntimeError("no room on the GPU")
            super().run_group(group)

    monkeypatch.setattr(task, "Labelling", Failing)


@pytest.mark.slow
def test_labels_are_those_of_a_plain_run(submitted, tmp_path, plain):
    found = drive(submitted, local.run_tasks, say=quiet)
    assert found.episodes == EPISODES and tree_digest(tmp_path / "labelled") == plain
    assert attempts(submitted) == {"robot_mask": [0], "interaction_counts": [0]}
    assert states(submitted, "before-interaction_counts") == ["done"]


@pytest.mark.slow
def test_what_the_first_left_undone_is_done_before_the_second_begins(submitted, tmp_path, plain, monkeypatch):
    seen = []

    def once(plan: Plan, number: int, labelling: Labelling) -> bool:
        if plan.steps[number].type != "robot_mask" or 1 not in labelling.rows or seen:
            return False
        seen.append(number)
        return True

    fails(monkeypatch, once)
    drive(submitted, local.run_tasks, say=quiet)
    assert tree_digest(tmp_path / "labelled") == plain
    assert attempts(submitted) == {"robot_mask": [0, 1], "interaction_counts": [0]}
    assert states(submitted, "interaction_counts") == ["done"] * 2


def test_what_the_first_can_never_do_is_no_matter_for_the_second(submitted, tmp_path, monkeypatch):
    fails(monkeypatch, lambda plan, number, this: plan.steps[number].type == "robot_mask" and 1 in this.rows)
    found = drive(submitted, local.run_tasks, say=quiet)
    assert found.episodes == EPISODES - 1 and list(found.set_aside) == [1]
    assert "step 'robot_mask' has no result after 2 attempts: RuntimeError: no room" in found.set_aside[1]
    # Neither does the second stumble over it, nor does the end try it once more.
    assert attempts(submitted) == {"robot_mask": [0, 1], "interaction_counts": [0]}
    assert states(submitted, "interaction_counts") == ["done"] * 2
    assert list(submitted.set_aside()) == [1]
    assert sum(p["set_aside"] for p in submitted.progress("interaction_counts", 0).values()) == 1


@pytest.mark.slow
def test_the_job_between_them_is_lost(submitted, tmp_path, plain):
    """Killed without a word, and what waits for it begins: it says what is lacking, and the end makes up for it."""
    masks, between, counts, finish = submitted.stages()
    label_share(submitted, masks, 0, 0)
    lacking = []
    for rank in range(EPISODES):
        try:
            label_share(submitted, counts, 0, rank)
        except IgrftError as error:
            lacking.append(str(error))
    assert lacking == ["step 'robot_mask' is not done for 1 episodes; the job before failed"]
    assert between.name not in {s.name for s in submitted.stages() if submitted.progress(s.name, 0)}
    found = settle(submitted, finish, local.run_tasks, quiet)
    assert found is not None and found.episodes == EPISODES and tree_digest(tmp_path / "labelled") == plain
    assert attempts(submitted) == {"robot_mask": [0, 1], "interaction_counts": [0, 1]}


@pytest.mark.slow
def test_only_what_is_missing_is_submitted_again(source, path, tmp_path, plain):
    """Counts at another setting of theirs: the masks stay as they are, and no job is made for them."""
    target = tmp_path / "labelled"
    overrides = ["executor.tasks=2"]
    annotate(source, target, pipeline=path, overrides=overrides, say=quiet)
    annotate(source, target, pipeline=path, overrides=[*overrides, "steps.interaction.mask_grow=5"], say=quiet)
    jobs = Jobs.of(open_target(target))
    assert attempts(jobs) == {"robot_mask": [], "interaction_counts": [0]}
