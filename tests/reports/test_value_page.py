"""The dataset's page where a critic has written its value columns."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from damage import edit_json
from helpers import add_column
from labelled_set import CAMERA, EPISODES
from pages import check

from igrft import columns as c
from igrft.dataset.labels import load_labels
from igrft.reports.episode_chart import EpisodeChart
from igrft.reports.page import report
from igrft.reports.value_panels import judge, reference_value
from igrft.rewards import combine, return_to_go

STEP = {
    "type": "values",
    "checkpoint": "001000",
    "digest": "abc",
    "trajectory_weight": 0.4,
    "subtask_weight": 0.6,
    "discount": 1.0,
    "steps": 10,
    "reward": "hybrid",
    "value": "weighted",
}


@pytest.fixture
def judged(labelled: Path) -> Path:
    """The labelled set with value columns: exact but for a rise in episode 0 and a dip in episode 3."""
    labels = load_labels(labelled)
    values = {}
    for i in EPISODES:
        held = labels.episode(i)
        subtask = held[c.RETURN_SUBTASK].astype(np.float64)
        if i == 0:
            subtask[16:22] += 0.5
        if i == 3:
            subtask[30:] -= 0.5
        trajectory = held[c.RETURN_TRAJECTORY].astype(np.float64)
        value = 0.4 * trajectory + 0.6 * subtask
        probability = np.where(np.isfinite(value), np.where(held[c.INTERACTION], 0.9, 0.2), np.nan)
        values[i] = {
            c.VALUE_TRAJECTORY: trajectory,
            c.VALUE_SUBTASK: subtask,
            c.VALUE: value,
            c.INTERACTION_PROBABILITY: probability,
            c.ADVANTAGE: np.gradient(value),
        }
    for name in values[0]:
        add_column(labelled, name, lambda length, row, name=name: values[row][name].astype(np.float32), "float32")
    edit_json(labelled / "meta/igrft.json", lambda r: r["pipeline"]["steps"].append(dict(STEP)))
    return labelled


def test_the_value_stands_against_its_reference_with_rises_and_dips(judged: Path, tmp_path: Path) -> None:
    text, checker = check(report(judged, tmp_path / "out"))
    for words in (
        "critic&#x27;s value",
        "dashed: reference return-to-go",
        "unexpected rise",
        "its two heads (dashed: reference)",
        "interaction, predicted probability",
        "label, the same on 100 %",
        ">advantage<",
        "value: 1 unexpected rise, 0 dips",
        "value: 0 unexpected rises, 1 dip",
    ):
        assert words in text, words
    assert text.count("Rises and dips of the value") == 2
    assert len(re.findall(r'<span class="count (?:rise|dip)">[RD]1</span>', text)) == 2
    # Ten of the strip and six samples with flow for three episodes, and a picture for each of the two stretches.
    assert sum(f.startswith("data:") for f in checker.fetched) == 3 * 10 + 3 * 6 * 2 + 2 + 6
    # The settings of the step stand with the others.
    assert "<h3>5. values</h3>" in text and "001000" in text


def test_the_values_show_under_the_pointer(judged: Path, tmp_path: Path) -> None:
    text, _ = check(report(judged, tmp_path / "out", episodes=[0]))
    held = json.loads(re.findall(r'<script type="application/json" class="series">(.*?)</script>', text)[0])["series"]
    columns = load_labels(judged).episode(0)
    for name in (c.VALUE, c.VALUE_SUBTASK, c.ADVANTAGE, c.INTERACTION_PROBABILITY):
        assert held[name] == pytest.approx(columns[name], rel=1e-3, abs=1e-12)


def test_a_video_that_cannot_be_read_leaves_the_stretches_named(judged: Path, tmp_path: Path) -> None:
    (judged / f"videos/{CAMERA}/chunk-000/file-001.mp4").unlink()
    text, _ = check(report(judged, tmp_path / "out", episodes=[3]))
    assert "Rises and dips of the value" in text and "D1" in text


def test_an_episode_set_aside_has_no_value(judged: Path, tmp_path: Path) -> None:
    text, _ = check(report(judged, tmp_path / "out", episodes=[2]))
    assert "critic&#x27;s value" not in text


def test_the_reference_has_the_steps_own_settings() -> None:
    rng = np.random.default_rng(0)
    trajectory, subtask = rng.random(20), rng.random(20)
    columns = {c.REWARD_TRAJECTORY: trajectory, c.REWARD_SUBTASK: subtask, c.RETURN: np.arange(20.0)}
    found = reference_value(columns, {**STEP, "trajectory_weight": 1.0, "subtask_weight": 0.5, "discount": 0.9})
    assert found == pytest.approx(return_to_go(combine(trajectory, subtask, 1.0, 0.5), 0.9))
    assert reference_value(columns, {}) == pytest.approx(np.arange(20.0))
    sparse = {**STEP, "reward": "sparse", "discount": 0.5}
    assert reference_value(columns, sparse) == pytest.approx(0.5 ** np.arange(19, -1, -1))
    assert reference_value({**columns, c.REWARD_TRAJECTORY: np.zeros(20)}, sparse) == pytest.approx(np.zeros(20))
    assert reference_value({}, STEP) is None


def test_heads_that_say_nothing_of_their_own_are_not_drawn() -> None:
    value = np.linspace(1, 0, 50).astype(np.float32)
    columns = {c.VALUE: value, c.VALUE_TRAJECTORY: value, c.VALUE_SUBTASK: np.zeros(50), c.RETURN: value}
    alone = EpisodeChart(50, 10.0, columns, judgement=judge(columns, {"value": "single"}, 10.0)).draw()
    assert "its two heads" not in alone and "critic" in alone
    assert "its two heads" in EpisodeChart(50, 10.0, columns).draw()


def test_a_value_without_rewards_is_drawn_alone() -> None:
    value = np.linspace(0, 1, 50).astype(np.float32)
    picture = EpisodeChart(50, 10.0, {c.VALUE: value}).draw()
    assert "predicted" in picture and "reference" not in picture and "rise" not in picture


def test_nan_throughout_draws_no_panel() -> None:
    columns = {n: np.full(50, np.nan) for n in (c.VALUE, c.VALUE_TRAJECTORY, c.ADVANTAGE, c.INTERACTION_PROBABILITY)}
    picture = EpisodeChart(50, 10.0, {**columns, c.RETURN: np.linspace(1, 0, 50)}).draw()
    assert "critic" not in picture and "advantage" not in picture and "nan" not in picture


def test_only_the_largest_stretches_get_a_picture(labelled: Path, tmp_path: Path) -> None:
    # Episode 3 has 50 frames at 10 frames/s: saw teeth of one second.
    teeth = {i: np.where(np.arange(e[0]) // 3 % 2 == 0, 0.2, 0.9) for i, e in EPISODES.items()}
    add_column(labelled, c.VALUE, lambda length, row: teeth[row].astype(np.float32), "float32")
    text, _ = check(report(labelled, tmp_path / "out", episodes=[3]))
    assert len(re.findall(r'<span class="count (?:rise|dip)">', text)) == 6
    assert "The 6 largest of" in text
