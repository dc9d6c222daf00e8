"""The pipeline that a dataset was labelled with, found again in its record."""

from __future__ import annotations

import pytest

from igrft.errors import UsageError
from igrft.pipeline.config import recorded_pipeline

TASK = "metaworld-shelf-place-v3.yaml"
STEPS = [{"type": "subtasks", "source": "proprio", "task": TASK}, {"type": "rewards"}, {"type": "returns"}]


def test_task_files_that_come_with_the_toolkit_are_found_again():
    found = recorded_pipeline({"name": "mine", "steps": [*STEPS, {"type": "values"}]})
    assert found.name == "mine"
    assert [step.type for step in found.steps] == ["subtasks", "rewards", "returns"]
    assert found.steps[0].task.endswith(f"pipelines/tasks/{TASK}")


def test_any_other_file_must_be_named(tmp_path):
    steps = [{"type": "subtasks", "source": "proprio", "task": "mine.yaml"}, *STEPS[1:]]
    with pytest.raises(UsageError, match=r"names 'mine.yaml' for 'task' of step 'subtasks', and not where it lies"):
        recorded_pipeline({"steps": steps})
    found = recorded_pipeline({"steps": steps}, [f"steps.subtasks.task={tmp_path / 'mine.yaml'}"])
    assert found.steps[0].task == str(tmp_path / "mine.yaml")


def test_a_record_without_a_pipeline():
    with pytest.raises(UsageError, match="names no pipeline"):
        recorded_pipeline({"steps": [{"type": "values"}]})
