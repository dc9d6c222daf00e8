"""Damage to rows: each kind is found, and nothing else is said. Good sets are clean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import IGRFT, edit_json, edit_rows, messages, set_at
from labelled_set import make_labelled_set

from igrft import columns as c
from igrft.reports.validate import validate


def test_a_good_set_is_clean_but_for_the_episode_set_aside(good_set: Path) -> None:
    found = validate(good_set)
    assert found.ok
    assert [(f.level, f.check, f.episode) for f in found.findings] == [("warning", "set aside", 2)]
    assert "ends at frame 7" in found.findings[0].message


def test_good_sets_of_other_kinds_are_clean(unlabelled_set: Path, tmp_path: Path) -> None:
    assert validate(unlabelled_set).findings == []
    assert validate(make_labelled_set(tmp_path / "g", discount=0.9, videos=False)).ok


def test_json_and_text(good_set: Path, labelled: Path) -> None:
    assert json.loads(json.dumps(validate(good_set, videos=False).to_json()))["ok"] is True
    for episode in (0, 1, 3):
        edit_rows(labelled, episode, set_at(c.TIMESTAMP, 7, 0.75))
    found = validate(labelled)
    text = found.to_text(limit=1)
    assert text.count("[timestamps]") == 2
    assert "and 2 more" in text
    assert text.splitlines()[-1].startswith("3 errors, 1 warning in 4 episodes, 145 frames")


# Damage to rows.


def add_at(column: str, frame: int, value: float) -> Callable[[dict[str, Any]], None]:
    def edit(columns: dict[str, Any]) -> None:
        columns[column][frame] += value

    return edit


def language_at(frames: slice, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(columns: dict[str, Any]) -> None:
        for frame in range(*frames.indices(len(columns[c.LANGUAGE_PERSISTENT]))):
            columns[c.LANGUAGE_PERSISTENT][frame] = [{**r} for r in columns[c.LANGUAGE_PERSISTENT][frame]]
            columns[c.LANGUAGE_PERSISTENT][frame][1][key] = value

    return edit


ROWS: dict[str, tuple[int, Callable[[dict[str, Any]], None], str, str]] = {
    "timestamp": (
        3,
        add_at(c.TIMESTAMP, 22, 0.01),
        "timestamps",
        "frame 22 is 2.2100 s where 10 frames/s give 2.2000 s, 10.0 ms",
    ),
    "frame_index": (3, set_at(c.FRAME_INDEX, 4, 9), "indices", "frame_index is 9 at frame 4, expected 4"),
    "episode_index": (1, set_at(c.EPISODE_INDEX, 4, 0), "indices", "episode_index is 0 at frame 4, expected 1"),
    "index": (1, set_at(c.INDEX, 4, 45), "indices", "index is 45 at frame 4, expected 44"),
    "task_index": (
        0,
        set_at(c.TASK_INDEX, 3, 1),
        "tasks",
        "task_index is 1 at frame 3, but meta/tasks.parquet has 1 rows",
    ),
    "nan in state": (0, set_at(c.STATE, 5, [0.0, float("nan"), 0.0]), "nan", "'observation.state' is not finite"),
    "nan in a label": (0, set_at(c.REWARD, 5, float("nan")), "nan", "'reward' is not finite"),
    "width": (0, set_at(c.ACTION, 5, [0.0, 1.0]), "columns", "'action' has 2 numbers at frame 5, 3 are declared"),
    "trajectory reward": (0, add_at(c.REWARD_TRAJECTORY, 6, 1e-6), "rewards", "is not 1/T on a success"),
    "subtask reward": (0, add_at(c.REWARD_SUBTASK, 5, 1.5e-6), "rewards", "but the recorded subtasks pay"),
    "reward": (0, add_at(c.REWARD, 6, 4e-6), "rewards", "not 0.4·reward_trajectory + 0.6·reward_subtask"),
    "return": (0, add_at(c.RETURN, 6, 1e-3), "returns", "return_to_go is 0.949962 at frame 5"),
    "return of a component": (1, add_at(c.RETURN_SUBTASK, 6, 1e-3), "returns", "return_to_go_subtask is"),
    "return at the end": (3, add_at(c.RETURN_TRAJECTORY, 49, 1e-3), "returns", "return_to_go_trajectory is"),
    "interaction": (0, set_at(c.INTERACTION, 0, True), "interaction", "interaction is True at frame 0 with 0 pixels"),
    "pixels": (0, set_at(c.INTERACTION_PIXELS, 0, -1.0), "interaction", "interaction_pixels is -1 at frame 0"),
    "subtask_index": (
        0,
        set_at(c.SUBTASK_INDEX, 12, 0),
        "subtasks",
        "subtask_index is 0 at frame 12, but meta/igrft.json has 'grasp'",
    ),
    "subtask_index out": (
        0,
        set_at(c.SUBTASK_INDEX, 12, 3),
        "subtasks",
        "subtask_index is 3 at frame 12, but meta/subtasks.parquet has 3",
    ),
    "text on one frame": (
        0,
        language_at(slice(3, 5), "content", "x"),
        "language",
        "at frame 3 differs from frame 0 (2 such",
    ),
    "text": (0, language_at(slice(None), "content", "x"), "language", "has 'reach' at 0.00 s, 'x' at 1.20 s"),
    "text's time": (0, language_at(slice(None), "timestamp", 1.3), "language", "'grasp' at 1.30 s"),
    "text's role": (0, language_at(slice(None), "role", "user"), "language", "is not of role 'assistant'"),
    "done": (1, set_at(c.DONE, 3, True), "facts", "next.done is not true on the last frame alone (frame 3"),
    "not done": (1, set_at(c.DONE, 29, False), "facts", "next.done is not true on the last frame alone (frame 29"),
    "success": (
        1,
        set_at(c.SUCCESS, 29, True),
        "facts",
        "next.success contradicts meta/igrft.json, which records no success",
    ),
    "a label where set aside": (
        2,
        set_at(c.RETURN, 3, 0.5),
        "set aside",
        "was set aside, but return_to_go is 0.5 at frame 3",
    ),
    "a flag where set aside": (2, set_at(c.INTERACTION, 3, True), "set aside", "but interaction is True"),
}


@pytest.mark.parametrize("name", ROWS)
def test_damaged_rows(name: str, labelled: Path) -> None:
    episode, edit, check, text = ROWS[name]
    edit_rows(labelled, episode, edit)
    found = validate(labelled, videos=False)
    # A changed label may move its mean by more than rounding, and a changed reward is missing from its return.
    follows = {"statistics"} | ({"returns"} if check == "rewards" else set())
    errors = [f for f in found.errors if f.check not in follows]
    assert len(errors) == 1, messages(found)
    assert (errors[0].check, errors[0].episode) == (check, episode)
    assert text in errors[0].message


def test_a_discounted_return_is_checked_with_its_discount(tmp_path: Path) -> None:
    root = make_labelled_set(tmp_path / "set", discount=0.9, videos=False)
    edit_json(root / IGRFT, lambda record: record["pipeline"]["steps"][3].update(discount=0.8))
    assert {f.check for f in validate(root).errors} == {"returns"}
    assert "discounted by 0.8" in messages(validate(root))


def test_smoothed_interaction_may_differ_from_its_threshold(labelled: Path) -> None:
    edit_rows(labelled, 0, set_at(c.INTERACTION, 0, True))
    edit_json(labelled / IGRFT, lambda record: record["pipeline"]["steps"][1].update(shortest_phase=3))
    assert {f.check for f in validate(labelled, videos=False).errors} <= {"statistics"}


def test_nan_in_the_state_of_an_episode_set_aside_is_a_warning(labelled: Path) -> None:
    edit_rows(labelled, 2, set_at(c.STATE, 5, [0.0, float("nan"), 0.0]))
    found = validate(labelled, videos=False)
    assert found.ok
    assert "[nan]" in messages(found, "warning")
