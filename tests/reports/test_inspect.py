"""The table of inspect, and its JSON."""

from __future__ import annotations

import json
from pathlib import Path

from damage import edit_json, edit_table

from igrft.reports.inspect import inspect


def row_of(table: str, episode: int) -> list[str]:
    """The cells of an episode's line."""
    lines = table.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("episode"))
    return next(line.split() for line in lines[head + 1 :] if line.split()[:1] == [str(episode)])


def test_a_labelled_set(good_set: Path) -> None:
    found = inspect(good_set)
    table = found.to_table()
    assert max(map(len, table.splitlines())) <= 100
    assert "4 episodes, 145 frames, 14.5 s at 10 frames/s; testbot" in table
    assert "success     2 of 3 episodes (67 %)" in table
    assert "reach 1.1 s (3/3 done), grasp 1.4 s (2/3 done), place 1.5 s (2/3 done)" in table
    assert "offline: subtasks → interaction → rewards → returns" in table
    assert row_of(table, 0)[:7] == ["0", "40", "4.0", "yes", "3/3", "40", "%"]
    assert row_of(table, 1)[3:5] == ["no", "1/3"]
    assert row_of(table, 2)[3:7] == ["-", "-", "-", "-"]
    # A retry counts once.
    assert row_of(table, 3)[4] == "3/3"
    assert "episode 2 set aside: the video of observation.images.top ends at frame 7" in table


def test_json(good_set: Path) -> None:
    found = json.loads(json.dumps(inspect(good_set).to_json(), allow_nan=False))
    assert found["totals"]["success_rate"] == 2 / 3
    assert found["totals"]["set_aside"] == 1
    assert [e["return_at_start"] is None for e in found["episodes"]] == [False, False, True, False]
    assert abs(found["episodes"][1]["return_at_start"] - 0.6 / 3) < 1e-6
    grasp = next(s for s in found["totals"]["subtasks"] if s["name"] == "grasp")
    assert (grasp["episodes"], grasp["done"]) == (3, 2)


def test_a_set_without_labels(unlabelled_set: Path) -> None:
    table = inspect(unlabelled_set).to_table()
    assert "labels      none" in table
    assert row_of(table, 2)[:7] == ["2", "25", "2.5", "-", "-", "-", "-"]


def test_labels_of_others_are_read_from_the_columns(labelled: Path) -> None:
    (labelled / "meta/igrft.json").unlink()
    rows = inspect(labelled).rows
    assert [r.success for r in rows] == [True, False, False, True]
    assert [s["name"] for s in rows[0].subtasks] == ["reach", "grasp", "place"]
    assert rows[0].subtasks[1]["done"] is None


def test_a_long_set_is_cut_and_says_so(good_set: Path) -> None:
    table = inspect(good_set).to_table(limit=2)
    assert "… and 2 more episodes (--all lists them)" in table
    assert "… and" not in inspect(good_set).to_table(limit=None)


def test_what_convert_left_out(labelled: Path) -> None:
    edit_json(labelled / "meta/igrft.json", lambda r: r.update(convert={"set_aside": {"episode_000007": "no video"}}))
    table = inspect(labelled).to_table()
    assert "left out    1 recording by convert" in table
    assert "episode_000007 left out by convert: no video" in table


def test_a_long_task_is_cut_to_the_width(labelled: Path) -> None:
    path = labelled / "meta/episodes/chunk-000/file-000.parquet"
    edit_table(path, lambda t: t.update(tasks=[["put " * 60]] * 4))
    assert max(map(len, inspect(labelled).to_table().splitlines())) <= 100
