"""The paper's Figure 7: the value that the critic predicts during one rollout, against the reference return-to-go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.evaluation.figures import styled
from igrft.reports import palette
from igrft.reports.value_events import RISE, value_events
from igrft.steps.interaction.smoothing import runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Blue of the paper's shaded stretches, deep enough for a border.
RISE_BORDER = "#2b6cb0"
# Inches.
_WIDTH, _CHART = 10.0, 2.6
_LEFT, _RIGHT, _BOTTOM, _TITLE = 0.62, 0.15, 0.48, 0.3
_LANE, _BAR, _GAP, _BETWEEN = 0.19, 0.13, 0.3, 0.06
_CHARACTER = 0.072


@dataclass(frozen=True)
class Stage:
    """A subtask on the time line: frames [start, end)."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class ValueTrace:
    """One episode as Figure 7 shows it.

    Attributes:
        predicted: the critic's value at every frame, float [T]; NaN where it was not asked.
        reference: return-to-go, float [T]; None where nothing is known of the rewards.
        fps: frames a second.
        stages: subtasks in order.
        human: frames on which a human drove, bool [T]; None is none.
        pictures: (frame, RGB uint8 [h, w, 3]), in order of time; may be empty.
        title: above all.
    """

    predicted: np.ndarray
    reference: np.ndarray | None
    fps: float
    stages: Sequence[Stage] = ()
    human: np.ndarray | None = None
    pictures: Sequence[tuple[int, np.ndarray]] = ()
    title: str = ""

    @property
    def rises(self) -> list[tuple[int, int]]:
        """Stretches [start, end) on which the value rises and the reference does not."""
        if self.reference is None:
            return []
        found = value_events(filled(self.predicted), self.reference, self.fps)
        return [(a, b) for a, b, kind in found if kind == RISE]


def filled(values: np.ndarray) -> np.ndarray:
    """``values`` [T] with what is NaN between two numbers drawn straight, and held at the ends; float64."""
    v = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(v))
    return v.copy() if not len(known) else np.interp(np.arange(len(v)), known, v[known])


def picture_frames(length: int, rises: Sequence[tuple[int, int]], most: int = 8) -> list[int]:
    """Which frames stand above the chart: the peaks of the largest rises, and others spread evenly.

    Args:
        length: T, at least 1.
        rises: [start, end) of each.
        most: frames in all.

    Returns:
        Ascending, no frame twice, at most ``most``.
    """
    peaks = sorted({b - 1 for _, b in sorted(rises, key=lambda r: r[0] - r[1])[: most // 2]})
    spread = [round(f) for f in np.linspace(0, length - 1, min(most, length))]
    # A peak stands for the spread frame next to it.
    for peak in peaks:
        if peak not in spread:
            spread.remove(min((f for f in spread if f not in peaks), key=lambda f: abs(f - peak)))
            spread.append(peak)
    return sorted(spread)


def figure_7(trace: ValueTrace) -> Figure:
    """Predicted value in red, reference dashed in grey, subtasks in grey italics, rises shaded blue, frames above."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        lanes = _lanes(trace)
        line = 0.06 + (_BAR if _driven(trace) else 0.0) + _LANE * (max(lanes, default=-1) + 1)
        width, strip = _picture_size(trace)
        top = (_TITLE if trace.title else 0.08) + (strip + _GAP if strip else 0.0)
        height = _BOTTOM + line + _CHART + top
        figure = Figure(figsize=(_WIDTH, height))
        FigureCanvasAgg(figure)

        def place(bottom: float, tall: float, left: float = _LEFT, wide: float = _WIDTH - _LEFT - _RIGHT) -> Axes:
            return figure.add_axes((left / _WIDTH, bottom / height, wide / _WIDTH, tall / height))

        chart = place(_BOTTOM + line, _CHART)
        handles = _chart(chart, trace)
        _time_line(place(_BOTTOM, line), trace, lanes, line, handles)
        chart.legend(handles=handles, loc="best", frameon=True, framealpha=0.85, edgecolor="none")
        for i, (frame, picture) in enumerate(trace.pictures):
            box = place(_BOTTOM + line + _CHART + _GAP, strip, _LEFT + i * (width + _BETWEEN), width)
            _picture(box, chart, trace, frame, picture)
        if trace.title:
            figure.text(_LEFT / _WIDTH, 1 - 0.06 / height, trace.title, va="top", fontsize=10.5, weight="bold")
        return figure


def _chart(axes: Axes, trace: ValueTrace) -> list[Any]:
    """Draws the curves; what the legend shows of them."""
    from matplotlib.patches import Patch

    predicted = filled(trace.predicted)
    seconds = np.arange(len(predicted)) / trace.fps
    for start, end in trace.rises:
        axes.axvspan(start / trace.fps, (end - 1) / trace.fps, color=palette.RISE_SHADE, linewidth=0)
    handles: list[Any] = list(
        axes.plot(seconds, predicted, color=palette.VALUE, linewidth=1.9, label="predicted value")
    )
    series = [np.zeros(1), predicted]
    if trace.reference is not None:
        series.append(np.asarray(trace.reference, dtype=np.float64))
        dashes: dict[str, Any] = {"linestyle": (0, (5, 3)), "linewidth": 1.5, "zorder": 1.9}
        handles += axes.plot(seconds, series[-1], color=palette.REFERENCE, label="reference return-to-go", **dashes)
    if trace.rises:
        handles.append(Patch(color=palette.RISE_SHADE, label="value rises"))
    held = np.concatenate([s[np.isfinite(s)] for s in series])
    room = 0.06 * (float(np.ptp(held)) or 1.0)
    axes.set_ylim(float(held.min()) - room, float(held.max()) + room)
    axes.set_xlim(0, _last(trace))
    axes.set_ylabel("value (return-to-go)")
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.spines["bottom"].set_color(palette.RULE)
    axes.grid(axis="y", color=palette.RULE, linewidth=0.8)
    for stage in trace.stages:
        if 0 < stage.start < len(predicted):
            axes.axvline(stage.start / trace.fps, color=palette.MUTED, linewidth=0.8, linestyle=(0, (1, 3)))
    return handles


def _time_line(axes: Axes, trace: ValueTrace, lanes: Sequence[int], tall: float, handles: list[Any]) -> None:
    """Where a human drove, and the subtasks, over the seconds."""
    from matplotlib.patches import Patch

    axes.set_xlim(0, _last(trace))
    axes.set_ylim(tall, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("time (s)")
    y = 0.04
    if _driven(trace):
        assert trace.human is not None
        for start, end in runs(trace.human).tolist():
            axes.axvspan(
                start / trace.fps, end / trace.fps, 1 - (y + 0.07) / tall, 1 - y / tall, color=palette.INTERVENTION
            )
        handles.append(Patch(color=palette.INTERVENTION, label="a human drives"))
        y += _BAR
    for stage, lane in zip(trace.stages, lanes, strict=True):
        x, align = _anchor(trace, stage)
        text = axes.text(x, y + _LANE * (lane + 0.5), stage.name, fontsize=8.5, style="italic", color=palette.MUTED)
        text.set(va="center", ha=align)
        # A name wider than its subtask lies over the lines between subtasks.
        text.set_bbox({"facecolor": palette.PAPER, "edgecolor": "none", "pad": 1.0})
        if 0 < stage.start < len(trace.predicted):
            axes.axvline(stage.start / trace.fps, color=palette.MUTED, linewidth=0.8, linestyle=(0, (1, 3)))


def _picture(box: Axes, chart: Axes, trace: ValueTrace, frame: int, picture: np.ndarray) -> None:
    """One frame over the chart, tied to its moment; the peak of a rise has a blue border."""
    from matplotlib.patches import ConnectionPatch

    peak = any(end - 1 == frame for _, end in trace.rises)
    colour = RISE_BORDER if peak else palette.MUTED
    box.imshow(picture, aspect="auto", interpolation="antialiased")
    box.set_xticks([])
    box.set_yticks([])
    for spine in box.spines.values():
        spine.set(visible=True, color=colour, linewidth=2.2 if peak else 0.6)
    top = chart.get_ylim()[1]
    tie = ConnectionPatch(
        (0.5, 0.0), (frame / trace.fps, top), "axes fraction", "data", axesA=box, axesB=chart, color=colour,
        linewidth=1.2 if peak else 0.6,
    )  # fmt: skip
    chart.figure.add_artist(tie)
    if peak:
        # Down to the curve, so that the eye finds the peak.
        chart.plot([frame / trace.fps] * 2, [float(filled(trace.predicted)[frame]), top], color=colour, linewidth=1.0)


def _picture_size(trace: ValueTrace) -> tuple[float, float]:
    """Width and height of each picture over the chart, in inches; 0 where there are none."""
    if not trace.pictures:
        return 0.0, 0.0
    count = len(trace.pictures)
    width = (_WIDTH - _LEFT - _RIGHT - _BETWEEN * (count - 1)) / count
    rows, columns = trace.pictures[0][1].shape[:2]
    width = min(width, 1.9 * columns / rows)
    return width, width * rows / columns


def _lanes(trace: ValueTrace) -> list[int]:
    """The lane of each subtask's name, so that no two lie over one another."""
    ends: list[float] = []
    lanes = []
    scale = (_WIDTH - _LEFT - _RIGHT) / _last(trace)
    for stage in trace.stages:
        at, align = _anchor(trace, stage)
        long = len(stage.name) * _CHARACTER
        left = at * scale - {"left": 0.0, "center": long / 2, "right": long}[align]
        lane = next((i for i, end in enumerate(ends) if end + 0.08 <= left), len(ends))
        ends[lane : lane + 1] = [left + long]
        lanes.append(lane)
    return lanes


def _anchor(trace: ValueTrace, stage: Stage) -> tuple[float, str]:
    """Where a name stands, in seconds, and how it is aligned: over its subtask, and inside the chart."""
    middle = (stage.start + min(stage.end, len(trace.predicted))) / 2 / trace.fps
    half = len(stage.name) * _CHARACTER / 2 * _last(trace) / (_WIDTH - _LEFT - _RIGHT)
    if middle < half:
        return 0.0, "left"
    if middle > _last(trace) - half:
        return _last(trace), "right"
    return middle, "center"


def _driven(trace: ValueTrace) -> bool:
    return trace.human is not None and bool(np.any(trace.human))


def _last(trace: ValueTrace) -> float:
    return max(len(trace.predicted) - 1, 1) / trace.fps
