"""Task files: the paper's four, the template, words that go together, the camera."""

from __future__ import annotations

import pytest

from igrft.errors import UsageError
from igrft.resources import find
from igrft.steps.task_file import load_task, load_tasks

#: Number of subtasks with every "for each" written out, first and last (Appendix C).
PAPER = {
    "parcel-packing": (5, "pick up the item from the plate", "fold the lid of the paper box"),
    "fruit-bagging": (9, "open the lid of the canvas bag", "close the lid of the canvas bag"),
    "block-stacking": (8, "pick up the red block from the tabletop", "stack the blue block on the green block"),
    "drink-shelving": (
        14,
        "pick up the container lid from the bin",
        "place the rightmost drink onto the middle shelf via side-insertion",
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_tasks(name: str) -> None:
    task = load_task(find("pipelines", f"tasks/{name}"))
    count, first, last = PAPER[name]
    assert len(task.subtasks) == count and task.subtasks[0] == first and task.subtasks[-1] == last
    assert task.goal and task.success and task.match and task.weights is None


def test_every_bundled_task_is_found_by_its_task_string() -> None:
    folder = find("pipelines", "tasks/template").parent
    tasks = load_tasks(str(folder))
    for path in sorted(folder.glob("*.yaml")):
        task = load_task(path)
        assert tasks.of(0, [task.match[0]]) == task


def test_the_template_is_a_task() -> None:
    task = load_task(find("pipelines", "tasks/template"))
    assert task.weights == (1, 2, 2, 1) and task.camera is None


def test_words_that_go_together(tmp_path) -> None:
    (tmp_path / "t.yaml").write_text(
        'subtasks: [{for_each: {"a, b": [[1, 2], [3, 4]], c: [x, y]}, subtasks: ["{a} on {b} by {c}"]}]\n'
        "camera: observation.images.top"
    )
    task = load_task(tmp_path / "t.yaml")
    assert task.subtasks == ("1 on 2 by x", "1 on 2 by y", "3 on 4 by x", "3 on 4 by y")
    assert task.camera == "observation.images.top"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('subtasks: [{for_each: {"a, b": [[1]]}, subtasks: ["{a}"]}]', r"'a, b' must be a list of 2, got \[1\]"),
        ("subtasks: [{for_each: {a: 3}, subtasks: [x]}]", "needs a list of values for 'a'"),
        ("subtasks: [{for_each: {a: []}, subtasks: [x]}]", "needs a list of values for 'a'"),
        ('subtasks: [{for_each: {a: [1]}, subtasks: ["{b}"]}]', "names a word that 'for_each' does not give"),
        ("subtasks: [a]\ncamera: [x]", "'camera' must be the key of a camera"),
    ],
)
def test_a_wrong_task_file_is_refused(tmp_path, text: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_task(tmp_path / "t.yaml")
