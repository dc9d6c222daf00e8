"""What a critic says of an episode, against what was earned: the paper's Figure 7, and the panels beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.reports import palette, svg
from igrft.reports.panels import LEFT, RIGHT, WIDTH, Panels, linear_scale
from igrft.reports.value_events import DIP, RISE, size, value_events
from igrft.rewards.hybrid import combine
from igrft.rewards.returns import return_to_go
from igrft.steps.interaction.smoothing import runs

_TALL, _PANEL = 150.0, 84.0
_SHADES = {RISE: palette.RISE_SHADE, DIP: palette.DIP_SHADE}
#: Shorter stretches get no name of their own in the chart: names would lie over one another.
_NARROW = 14.0


@dataclass(frozen=True)
class Event:
    """A stretch on which the value does what the reference does not.

    Attributes:
        name: as in the chart: R1, D1, ...
        start, end: frames, ``end`` exclusive.
        kind: ``rise`` or ``dip``.
        size: how far it moved against the reference.
    """

    name: str
    start: int
    end: int
    kind: str
    size: float

    @property
    def extreme(self) -> int:
        """The frame that shows it: a rise is highest, a dip lowest, at its end."""
        return self.end - 1


@dataclass(frozen=True)
class Judgement:
    """The critic's word on one episode.

    Attributes:
        reference: what V should be, [T]; None where the dataset has no rewards.
        events: rises and dips of V, in order of time.
        parts: whether both value heads say something of their own.
    """

    reference: np.ndarray | None
    events: list[Event]
    parts: bool = True


def judge(columns: Mapping[str, np.ndarray], settings: Mapping[str, Any], fps: float) -> Judgement:
    """Compare the value columns of an episode with its rewards.

    Args:
        columns: label columns, each [T].
        settings: of the ``values`` step, as ``meta/igrft.json`` records it; may be empty.
    """
    single = settings.get("value") == "single" or settings.get("reward") == "sparse"
    if c.VALUE not in columns:
        return Judgement(None, [], not single)
    predicted, reference = columns[c.VALUE].astype(np.float64), reference_value(columns, settings)
    if reference is None:
        return Judgement(None, [], not single)
    counts = {RISE: 0, DIP: 0}
    events = []
    for found in value_events(predicted, reference, fps):
        counts[found[2]] += 1
        name = f"{found[2][0].upper()}{counts[found[2]]}"
        events.append(Event(name, *found, size=size(predicted, reference, fps, found)))
    return Judgement(reference, events, not single)


def reference_value(columns: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> np.ndarray | None:
    """The return-to-go that V is a prediction of, float64 [T], or None.

    With the weights and the discount of the ``values`` step, which need not be those of the dataset's ``reward``;
    where they are not recorded, the column ``return_to_go``.
    """
    trajectory, subtask = columns.get(c.REWARD_TRAJECTORY), columns.get(c.REWARD_SUBTASK)
    weights = settings.get("trajectory_weight"), settings.get("subtask_weight")
    discount = settings.get("discount")
    if discount is not None and trajectory is not None and settings.get("reward") == "sparse":
        last = np.zeros(len(trajectory))
        last[-1:] = float(np.nansum(trajectory) > 0)
        return return_to_go(last, float(discount))
    if discount is not None and None not in weights and trajectory is not None and subtask is not None:
        reward = combine(trajectory, subtask, *(float(w) for w in weights if w is not None))
        return return_to_go(reward, float(discount))
    return columns[c.RETURN].astype(np.float64) if c.RETURN in columns else None


@dataclass(frozen=True)
class Alarms:
    """What the stagnation monitor says of one episode.

    Attributes:
        fires: frames at which it would have fired.
        calls: frames at which it did, while the episode was recorded.
    """

    fires: Sequence[int] = ()
    calls: Sequence[int] = ()


def draw(
    panels: Panels,
    columns: Mapping[str, np.ndarray],
    judgement: Judgement,
    *,
    alarms: Alarms | None = None,
    trained_noise: tuple[float, float] | None = None,
) -> None:
    """All panels that the columns allow.

    Args:
        alarms: None where no monitor was replayed.
        trained_noise: noise scales that the flow was trained with, where known.
    """
    if _any(columns, c.VALUE):
        _value(panels, columns[c.VALUE], judgement, alarms or Alarms())
    parts = [(c.VALUE_TRAJECTORY, c.RETURN_TRAJECTORY), (c.VALUE_SUBTASK, c.RETURN_SUBTASK)]
    if judgement.parts and any(_any(columns, name) for name, _ in parts):
        _parts(panels, columns, parts)
    if _any(columns, c.ADVANTAGE):
        _advantage(panels, columns[c.ADVANTAGE])
    if _any(columns, c.INTERACTION_PROBABILITY):
        _probability(panels, columns[c.INTERACTION_PROBABILITY], columns.get(c.INTERACTION))
    if _any(columns, c.NOISE_SCALE):
        _noise(panels, columns[c.NOISE_SCALE], trained_noise)


def _value(panels: Panels, predicted: np.ndarray, judgement: Judgement, alarms: Alarms) -> None:
    series = [predicted.astype(np.float64)]
    legend = [(palette.VALUE, "predicted")]
    if judgement.reference is not None:
        series.append(judgement.reference)
        legend.append((palette.REFERENCE, "dashed: reference return-to-go"))
    for kind, words in ((RISE, "unexpected rise"), (DIP, "dip")):
        if any(e.kind == kind for e in judgement.events):
            legend.append((_SHADES[kind], words))
    if alarms.fires:
        legend.append((palette.ALARM, "▼ the monitor would fire"))
    if alarms.calls:
        legend.append((palette.PAPER, "▽ it called when recorded"))
    y = _open(panels, "critic's value", _TALL, series, legend)
    for event in judgement.events:
        seconds = f"{event.start / panels.fps:.2f} to {event.end / panels.fps:.2f} s"
        frames = f"frames {event.start} to {event.end - 1}"
        note = f"{event.name}: {event.kind} by {abs(event.size):.2f}, {seconds}, {frames}"
        panels.band(event.start, event.end, panels.y, _TALL, _SHADES[event.kind], note)
        left, right = panels.x(event.start), panels.x(event.end)
        if right - left >= _NARROW:
            middle = (left + right) / 2
            panels.add(svg.text(middle, panels.y + 11, event.name, class_="mark", text_anchor="middle"))
    if judgement.reference is not None:
        panels.line(judgement.reference, y, palette.REFERENCE, 1.6, "5 3")
    panels.line(series[0], y, palette.VALUE, 2.0)
    _alarms(panels, alarms)
    panels.close(_TALL)


def _alarms(panels: Panels, alarms: Alarms) -> None:
    """Triangles at the top of the panel, and a line down from those of the replay."""
    for frames, said, hollow in (
        (alarms.calls, "the monitor called when this was recorded", True),
        (alarms.fires, "the monitor would fire", False),
    ):
        for f in frames:
            if not 0 <= f < panels.length:
                continue
            x, top = panels.x(f + 0.5), panels.y
            note = svg.title(f"{said}: frame {f}, {f / panels.fps:.2f} s")
            # The hollow one is larger, so that it shows around a filled one on the same frame.
            half = 8.0 if hollow else 5.0
            data = f"M{x - half:.1f} {top:.1f}L{x + half:.1f} {top:.1f}L{x:.1f} {top + 1.8 * half:.1f}Z"
            style = {"fill": palette.PAPER, "stroke": palette.ALARM} if hollow else {"fill": palette.ALARM}
            if not hollow:
                ends = {"x1": x, "x2": x, "y1": top, "y2": top + _TALL}
                panels.add(svg.tag("line", stroke=palette.ALARM, stroke_dasharray="2 3", **ends))
            panels.add(svg.tag("path", note, d=data, class_="call" if hollow else "alarm", **style))


def _noise(panels: Panels, scale: np.ndarray, trained: tuple[float, float] | None) -> None:
    """The standard deviation of the initial noise; dashed, the greatest that the flow was trained with."""
    values = scale.astype(np.float64)
    legend = [(palette.NOISE, "drawn with")]
    series = [values]
    if trained is not None:
        series.append(np.array(trained))
        legend.append((palette.REFERENCE, f"dashed: trained up to {trained[1]:g}"))
    y = _open(panels, "noise scale", _PANEL, series, legend)
    if trained is not None:
        ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": y(trained[1]), "y2": y(trained[1])}
        panels.add(svg.tag("line", stroke=palette.REFERENCE, stroke_dasharray="4 3", **ends))
    panels.line(values, y, palette.NOISE, 1.6)
    panels.close(_PANEL)


def _parts(panels: Panels, columns: Mapping[str, np.ndarray], parts: Sequence[tuple[str, str]]) -> None:
    colours = {c.VALUE_TRAJECTORY: palette.PART_TRAJECTORY, c.VALUE_SUBTASK: palette.SUBTASK_REWARD}
    series = [columns[n].astype(np.float64) for pair in parts for n in pair if n in columns]
    legend = [(colours[n], n.removeprefix("value_")) for n, _ in parts if n in columns]
    y = _open(panels, "its two heads (dashed: reference)", _PANEL, series, legend)
    for name, reference in parts:
        if reference in columns:
            panels.line(columns[reference], y, colours[name], 1.2, "5 3")
        if name in columns:
            panels.line(columns[name], y, colours[name], 1.7)
    panels.close(_PANEL)


def _advantage(panels: Panels, advantage: np.ndarray) -> None:
    values = advantage.astype(np.float64)
    share = float((values > 0).mean())
    legend = [(palette.SUCCESS, f"positive, {100 * share:.0f} %"), (palette.FAILURE, "negative")]
    y = _open(panels, "advantage", _PANEL, [values], legend)
    nothing = np.zeros(panels.length)
    panels.area(np.maximum(values, 0.0), nothing, y, palette.SUCCESS, 0.7)
    panels.area(np.minimum(values, 0.0), nothing, y, palette.FAILURE, 0.7)
    panels.add(svg.tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(0.0), y2=y(0.0), stroke=palette.MUTED))
    panels.close(_PANEL)


def _probability(panels: Panels, probability: np.ndarray, label: np.ndarray | None) -> None:
    legend = [(palette.INTERACTION, "predicted")]
    if label is not None:
        said = probability > 0.5
        agree = float((said == label).mean())
        legend.append((palette.INTERACTION_SHADE, f"label, the same on {100 * agree:.0f} %"))
    scale = partial(linear_scale, 0.0, 1.0)
    y = panels.open("interaction, predicted probability", _PANEL, scale, [0.0, 0.5, 1.0], legend)
    if label is not None:
        for start, end in runs(label).tolist():
            note = f"labelled interaction, frames {start} to {end - 1}"
            panels.band(start, end, panels.y, _PANEL, palette.INTERACTION_SHADE, note)
    ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": y(0.5), "y2": y(0.5)}
    panels.add(svg.tag("line", stroke=palette.INTERACTION, stroke_dasharray="4 3", **ends))
    panels.line(probability, y, palette.INTERACTION, 1.6)
    panels.close(_PANEL)


def _open(
    panels: Panels, name: str, height: float, series: Sequence[np.ndarray], legend: Sequence[tuple[str, str]]
) -> svg.Scale:
    """A panel whose axis holds 0 and all finite values."""
    held = np.concatenate([s[np.isfinite(s)] for s in series])
    low, top = min(0.0, float(held.min())), max(0.0, float(held.max()))
    room = 0.05 * (top - low) or 0.05
    low, top = low - (room if low < 0 else 0.0), top + room
    return panels.open(name, height, partial(linear_scale, low, top), svg.ticks(low, top, 4), legend)


def _any(columns: Mapping[str, np.ndarray], name: str) -> bool:
    return name in columns and bool(np.isfinite(columns[name]).any())
