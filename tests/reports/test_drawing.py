"""Scales, ticks, thinning, and the choice of frames and episodes."""

from __future__ import annotations

import numpy as np

from igrft.reports import svg
from igrft.reports.samples import choose_episodes, sample_frames, strip_frames
from igrft.reports.set_charts import Counted
from igrft.reports.summary import EpisodeSummary


def test_ticks_are_round_and_inside() -> None:
    assert svg.ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert svg.ticks(0, 11.4, 10) == [0, 2, 4, 6, 8, 10]
    assert svg.ticks(0, 0.0061, 3) == [0, 0.0025, 0.005]
    assert svg.ticks(2, 2) == [2]


def test_scales() -> None:
    assert svg.linear((0, 10), (100, 200))(5) == 150
    assert svg.linear((3, 3), (100, 200))(3) == 100
    log = svg.log1p(1000, (0, 1))
    assert log(0) == 0
    assert abs(log(1000) - 1) < 1e-12
    assert log(10) < log(100) < log(1000)


def test_markup_is_escaped() -> None:
    assert (
        svg.tag("g", svg.escape("<&"), title='"', stroke_width=1.5, skip=None)
        == '<g title="&quot;" stroke-width="1.5">&lt;&amp;</g>'
    )


def test_thinning_keeps_peaks_and_ends() -> None:
    values = np.zeros(10_000)
    values[4321], values[7] = 5.0, -3.0
    kept = svg.thin(values, 100)
    assert {0, 7, 4321, 9999} <= set(kept.tolist())
    assert len(kept) <= 102
    assert svg.thin(values[:50], 100).tolist() == list(range(50))


def test_a_gap_breaks_a_line() -> None:
    assert svg.polyline([0, 1, 2, 3], [0, 1, float("nan"), 3]) == "M0.0 0.0L1.0 1.0M3.0 3.0"


def test_strip_frames_lie_in_the_middle_of_their_slots() -> None:
    assert strip_frames(100) == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]
    assert strip_frames(3) == [0, 1, 2]
    assert strip_frames(1) == [0]


def test_sample_frames_hold_both_sides_of_the_threshold() -> None:
    pixels = np.array([0, 10, 399, 20, 401, 5000, 800, 9000, 700, 30, 0, 0], dtype=float)
    frames = [s.frame for s in sample_frames(pixels, pixels > 400)]
    assert frames == sorted(frames)
    assert len(frames) <= 6
    assert {2, 4, 5, 7} <= set(frames)
    assert sample_frames(np.full(5, np.nan), np.zeros(5, bool)) == []
    assert len(sample_frames(np.zeros(1), np.zeros(1, bool))) == 1


def summary(episode: int, **values: object) -> EpisodeSummary:
    return EpisodeSummary(episode, **{"frames": 100 + episode % 7, "seconds": 1.0, "success": True, **values})  # type: ignore[arg-type]


def test_a_large_set_shows_failures_and_extremes() -> None:
    rows = [summary(i, interaction_share=0.5) for i in range(500)]
    rows[17].success = rows[400].success = False
    rows[33].frames = 9999
    rows[44].interaction_share = 0.0
    rows[55].set_aside = "broken"
    chosen = choose_episodes(rows, 12)
    assert len(chosen) == 12
    assert list(chosen) == sorted(chosen)
    assert chosen[17] == chosen[400] == "a failure"
    assert (chosen[33], chosen[44]) == ("the longest", "the least interaction")
    assert 55 not in chosen


def test_a_small_set_is_shown_whole() -> None:
    rows = [summary(i) for i in range(5)]
    rows[2].set_aside = "broken"
    assert list(choose_episodes(rows, 12)) == [0, 1, 3, 4]


def test_counted_frames_fall_into_tenths_of_decades() -> None:
    counted = Counted(0, np.zeros(55))
    counted.add(np.array([0.0, np.nan, 400.0, 401.0, 1e9]))
    assert counted.nothing == 1
    assert counted.counts[26] == 2
    assert counted.counts[-1] == 1
