"""The page: well-formed, self-contained, with the episodes and what is wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from damage import edit_json
from labelled_set import CAMERA, REASON, make_labelled_set
from pages import check

from igrft.errors import UsageError
from igrft.reports.page import report


def test_a_labelled_set(good_set: Path, tmp_path: Path) -> None:
    path = report(good_set, tmp_path / "out")
    assert path == tmp_path / "out/index.html"
    text, checker = check(path)
    assert [i for i in checker.ids if i.startswith("episode-")] == ["episode-0", "episode-1", "episode-3"]
    assert REASON in text
    for word in (
        "reach",
        "grasp (not done)",
        "never begun: place",
        "threshold 400",
        "sharpness",
        "return-to-go",
        "testbot",
    ):
        assert word in text
    # A strip of ten pictures and six samples with their flow for each of three episodes, and six frames to paint.
    assert sum(f.startswith("data:") for f in checker.fetched) == 3 * 10 + 3 * 6 * 2 + 6
    for heading in ("Subtask durations", "Moving pixels per frame", "Interaction per episode", "Return at start"):
        assert heading in text


def test_the_values_under_the_pointer_are_those_of_the_columns(good_set: Path, tmp_path: Path) -> None:
    from igrft.dataset.labels import load_labels

    text, _ = check(report(good_set, tmp_path / "page.html", episodes=[1]))
    held = json.loads(re.findall(r'<script type="application/json" class="series">(.*?)</script>', text)[0])
    columns = load_labels(good_set).episode(1)
    assert held["length"] == 30
    assert held["series"]["return_to_go"] == pytest.approx(columns["return_to_go"], rel=1e-3, abs=1e-12)
    assert held["series"]["interaction"] == columns["interaction"].astype(float).tolist()
    assert held["subtasks"][1] == [10, 30, "grasp", False]


def test_a_set_without_labels(unlabelled_set: Path, tmp_path: Path) -> None:
    text, checker = check(report(unlabelled_set, tmp_path / "out"))
    assert "igrft annotate did not label this dataset" in text
    assert sum(f.startswith("data:") for f in checker.fetched) == 4 * 10 + 6
    assert "Episode lengths" in text


def test_a_set_without_cameras(tmp_path: Path) -> None:
    text, checker = check(report(make_labelled_set(tmp_path / "set", videos=False), tmp_path / "out"))
    assert checker.fetched == ["#episode-0", "#episode-1", "#episode-3"]
    assert "return-to-go" in text


def test_a_video_that_cannot_be_read_leaves_the_charts(labelled: Path, tmp_path: Path) -> None:
    (labelled / f"videos/{CAMERA}/chunk-000/file-001.mp4").unlink()
    text, _ = check(report(labelled, tmp_path / "out", episodes=[3]))
    assert "No pictures: episode 3" in text
    assert "return-to-go" in text


def test_a_label_that_the_video_does_not_give_is_noted(good_set: Path, tmp_path: Path) -> None:
    # The set's counts are made up, so the flow of its video disagrees.
    text, _ = check(report(good_set, tmp_path / "out", episodes=[0]))
    assert "Counted again here" in text


def test_masks_that_are_not_at_hand_leave_the_frames(labelled: Path, tmp_path: Path) -> None:
    step = {"robot_mask": "folder", "mask_path": "masks"}
    edit_json(labelled / "meta/igrft.json", lambda r: r["pipeline"]["steps"][1].update(step))
    text, checker = check(report(labelled, tmp_path / "out", episodes=[0]))
    assert "No flow over the sample frames" in text
    assert sum(f.startswith("data:") for f in checker.fetched) == 10 + 6


def test_moving_pixels_and_robot_are_tinted() -> None:
    from igrft.reports.sample_pictures import marked

    picture = np.full((20, 30, 3), 100, dtype=np.uint8)
    moving, robot = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    moving[2:8, 2:8], robot[10:18, 10:18] = True, True
    out = marked(picture, moving, robot).astype(int)
    assert out[5, 5, 0] > out[5, 5, 2]
    assert out[14, 14, 2] > out[14, 14, 0]
    assert (out[0, 29] == 100).all()
    assert (picture == 100).all()


def test_an_episode_set_aside_is_shown_with_its_reason_when_asked_for(good_set: Path, tmp_path: Path) -> None:
    text, checker = check(report(good_set, tmp_path / "out", episodes=[2]))
    assert "episode-2" in checker.ids
    assert text.count(REASON) == 2
    assert sum(f.startswith("data:") for f in checker.fetched) == 10 + 6


def test_which_episodes_are_shown_is_said(good_set: Path, tmp_path: Path) -> None:
    text, checker = check(report(good_set, tmp_path / "out", max_episodes=2))
    assert "2 of 3 episodes are shown: failures" in text
    assert "episode-1" in checker.ids
    assert "a failure" in text


def test_names_cannot_break_the_page(labelled: Path, tmp_path: Path) -> None:
    nasty = '</script><b>&"x'
    edit_json(
        labelled / "meta/igrft.json",
        lambda r: [s.update(name=nasty) for e in r["episodes"].values() for s in e.get("subtasks", [])],
    )
    text, _ = check(report(labelled, tmp_path / "out"))
    assert "<b>&" not in text


def test_warnings(labelled: Path, tmp_path: Path) -> None:
    def edit(record: dict) -> None:
        record["episodes"]["0"]["success_from"] = "assumed"
        record["episodes"]["0"]["interaction"].update(repeated_share=0.4, camera_motion="compensate")
        record["pipeline"]["steps"][1]["robot_mask"] = "none"
        record["convert"] = {
            "warnings": ["cam9 is dropped"],
            "timestamps": {"1": 0.05},
            "set_aside": {"ep_7": "no file"},
        }

    edit_json(labelled / "meta/igrft.json", edit)
    text, _ = check(report(labelled, tmp_path / "out"))
    for words in (
        "Success was assumed for 1 episode",
        "No robot mask was used",
        "The camera moves in 1 episode",
        "interaction flickers",
        "the worst by 50.0 ms (episode 1)",
        "convert: cam9 is dropped",
        "no file",
        "success (assumed)",
    ):
        assert words in text


def test_an_unknown_episode_is_refused(good_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no episode 9"):
        report(good_set, tmp_path / "out", episodes=[9])


def test_the_default_place_is_beside_the_dataset(labelled: Path) -> None:
    before = sorted(p for p in labelled.rglob("*"))
    assert report(labelled) == labelled.with_name("set.report") / "index.html"
    assert sorted(p for p in labelled.rglob("*")) == before


def test_the_critics_value_and_interventions_are_drawn() -> None:
    from igrft.reports.episode_chart import EpisodeChart

    value = np.linspace(1, 0, 3000).astype(np.float32)
    human = np.arange(3000) < 30
    chart = EpisodeChart(3000, 30.0, {"return_to_go": value, "value": value * 1.5, "intervention": human})
    picture = chart.draw()
    assert "critic" in picture
    assert "a human overrode the policy, frames 0 to 29" in picture
    # A long episode is thinned: the page stays small and keeps its peaks.
    assert len(picture) < 60_000
    assert json.loads(chart.readout())["stride"] == 3


def test_rebuilt_timestamps_are_not_asked_for_again() -> None:
    from igrft.reports.overview import _timestamps

    convert = {"timestamps": {"0": 0.3, "1": 0.1}}
    assert "convert with --rebuild-timestamps" in (_timestamps(convert) or "")
    rebuilt = _timestamps({**convert, "timestamps_rebuilt": True}) or ""
    assert "they were rebuilt" in rebuilt and "--rebuild" not in rebuilt
