"""Figures 5 and 7: what is drawn where, and files that open."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.errors import UsageError
from igrft.evaluation.figures import CURVES, CurvePoint, figure_5, save
from igrft.evaluation.value_figure import RISE_BORDER, Stage, ValueTrace, figure_7, filled, picture_frames
from igrft.reports import palette

POINTS = [CurvePoint(20, {"box": 0.7, "shelf": 0.9}), CurvePoint(0, {"box": 0.2, "shelf": 0.4})]
LENGTH = 120


def trace(**changes) -> ValueTrace:
    """A value that falls with its reference, but for a climb of 0.3 on frames 60 to 79."""
    reference = np.linspace(1, 0, LENGTH)
    climb = np.interp(np.arange(LENGTH), [0, 60, 79, 110, LENGTH], [0, 0, 0.5, 0, 0])
    made = ValueTrace(
        reference + climb,
        reference,
        10.0,
        [Stage("reach", 0, 40), Stage("place the cup", 40, 50), Stage("retreat", 50, LENGTH)],
        title="a title",
    )
    return dataclasses.replace(made, **changes)


def picture(value: int) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


# Figure 5.


def test_a_curve_is_the_mean_over_tasks_in_order_of_interventions():
    axes = figure_5({"ours": POINTS, "sft": [CurvePoint(0, {"box": 0.1})]}).axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn["ours"].get_xdata().tolist() == [0, 20]
    assert drawn["ours"].get_ydata() == pytest.approx([30, 80])
    assert drawn["sft"].get_ydata() == pytest.approx([10])
    assert drawn["ours"].get_color() == CURVES[0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["ours", "sft", "worst to best task"]


def test_the_shade_reaches_from_the_worst_to_the_best_task():
    shade = figure_5({"ours": POINTS}).axes[0].collections[0].get_paths()[0].vertices
    ends = {x: (shade[shade[:, 0] == x][:, 1].min(), shade[shade[:, 0] == x][:, 1].max()) for x in (0, 20)}
    assert ends[0] == pytest.approx((20, 40)) and ends[20] == pytest.approx((70, 90))


def test_one_task_has_no_shade():
    axes = figure_5({"ours": [CurvePoint(0, {"box": 0.5}), CurvePoint(5, {"box": 0.6})]}).axes[0]
    assert not axes.collections
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["ours"]


def test_what_figure_5_cannot_draw():
    with pytest.raises(UsageError, match="how many interventions"):
        figure_5({"ours": []})
    with pytest.raises(UsageError, match="has no task"):
        figure_5({"ours": [CurvePoint(0, {})]})


# Figure 7.


def test_the_climb_is_shaded_and_nothing_else():
    (rise,) = trace().rises
    assert abs(rise[0] - 60) <= 2 and abs(rise[1] - 80) <= 2
    chart = figure_7(trace()).axes[0]
    assert [t.get_text() for t in chart.get_legend().get_texts()] == [
        "predicted value",
        "reference return-to-go",
        "value rises",
    ]
    shades = [p for p in chart.patches if p.get_facecolor()[:3] == pytest.approx(rgb(palette.RISE_SHADE))]
    assert [(s.get_x(), s.get_x() + s.get_width()) for s in shades] == [(rise[0] / 10, (rise[1] - 1) / 10)]
    assert not figure_7(trace(predicted=trace().reference)).axes[0].patches


def test_red_against_dashed_grey():
    red, grey = figure_7(trace()).axes[0].lines[:2]
    assert red.get_color() == palette.VALUE and not red.is_dashed()
    assert grey.get_color() == palette.REFERENCE and grey.is_dashed()
    assert red.get_ydata() == pytest.approx(trace().predicted) and grey.get_ydata() == pytest.approx(trace().reference)
    assert red.get_xdata()[-1] == pytest.approx((LENGTH - 1) / 10)


def test_subtasks_stand_in_grey_italics_under_their_time_and_never_over_one_another():
    figure = figure_7(trace())
    figure.canvas.draw()
    texts = figure.axes[1].texts
    assert [t.get_text() for t in texts] == ["reach", "place the cup", "retreat"]
    assert all(t.get_style() == "italic" and t.get_color() == palette.MUTED for t in texts)
    assert texts[0].get_position()[0] == pytest.approx(2.0)
    names = [f"a rather long name {i}" for i in range(12)]
    crowded = [Stage(n, 10 * i, 10 * i + 10) for i, n in enumerate(names)]
    figure = figure_7(trace(stages=crowded))
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in figure.axes[1].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    chart = figure.axes[1].get_window_extent()
    assert all(chart.x0 - 1 <= b.x0 and b.x1 <= chart.x1 + 1 and chart.y0 - 1 <= b.y0 for b in boxes)


def test_frames_stand_above_and_the_peak_of_a_rise_is_blue():
    peak = trace().rises[0][1] - 1
    figure = figure_7(trace(pictures=[(0, picture(10)), (peak, picture(200))]))
    plain, marked = figure.axes[2:]
    assert marked.images[0].get_array()[0, 0, 0] == 200
    borders = [a.spines["top"].get_edgecolor()[:3] for a in (plain, marked)]
    assert borders[1] == pytest.approx(rgb(RISE_BORDER)) and borders[0] != pytest.approx(borders[1])


def test_where_a_human_drove():
    human = np.zeros(LENGTH, bool)
    human[30:50] = True
    figure = figure_7(trace(human=human))
    (bar,) = figure.axes[1].patches
    assert (bar.get_x(), bar.get_x() + bar.get_width()) == pytest.approx((3.0, 5.0))
    assert "a human drives" in [t.get_text() for t in figure.axes[0].get_legend().get_texts()]


def test_a_trace_without_a_reference_claims_no_rise():
    assert trace(reference=None).rises == []
    figure_7(trace(reference=None, stages=(), title=""))


def test_values_asked_for_now_and_then_are_joined():
    sparse = np.full(5, np.nan)
    sparse[[1, 3]] = 1.0, 0.0
    assert filled(sparse).tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert np.isnan(filled(np.full(3, np.nan))).all()


@given(
    st.integers(1, 400), st.lists(st.tuples(st.integers(0, 399), st.integers(1, 60)), max_size=6), st.integers(1, 12)
)
def test_frames_are_few_in_order_and_show_the_largest_rises(length, spans, most):
    rises = [(a, min(a + n, length)) for a, n in spans if a < length]
    frames = picture_frames(length, rises, most)
    assert frames == sorted(set(frames)) and len(frames) == min(most, length)
    assert all(0 <= f < length for f in frames)
    if rises and most >= 2:
        largest = max(b - a for a, b in rises)
        assert any(b - 1 in frames for a, b in rises if b - a == largest)


# Files.


def test_both_files_open_and_the_same_figure_gives_the_same_bytes(tmp_path: Path):
    first = save(figure_5({"ours": POINTS}), tmp_path / "a" / "figure_5")
    second = save(figure_5({"ours": POINTS}), tmp_path / "b" / "figure_5")
    assert [p.name for p in first] == ["figure_5.png", "figure_5.svg"]
    image = cv2.imread(str(first[0]))
    assert image.shape[1] > 800 and image.std() > 5
    assert "success rate (%)" in "".join(ElementTree.parse(first[1]).getroot().itertext())
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert sorted(p.name for p in first[0].parent.iterdir()) == ["figure_5.png", "figure_5.svg"]


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
