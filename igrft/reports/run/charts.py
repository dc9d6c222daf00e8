"""The kinds of chart on the page of a run: lines over steps, heat maps, histograms, bars, dots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from igrft.reports import palette, svg
from igrft.reports.run import figures
from igrft.reports.run.axes import Axes
from igrft.reports.run.figures import Bin, EpisodeShares, Group

#: Points of a line that are drawn; a longer one keeps its peaks.
_MOST_POINTS = 300
#: From so many points on, a line is drawn faint, and its moving average over it.
_SMOOTHED = 60
#: Episodes drawn as dots, evenly spread where there are more.
_MOST_DOTS = 400


@dataclass(frozen=True)
class Chart:
    """A chart: its heading, the SVG, what to look for, and (colour, name) of its lines."""

    heading: str
    picture: str
    note: str = ""
    key: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """A line over steps: arrays [n] each. ``dash`` draws it broken."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    colour: str
    dash: str | None = None


def lines(
    heading: str,
    held: Sequence[Line],
    *,
    note: str = "",
    low: float | None = None,
    high: float | None = None,
    log: bool | None = None,
    level: tuple[float, str] | None = None,
    unit: str = "",
    smooth: bool = True,
    marks: Sequence[float] = (),
) -> Chart | None:
    """Lines over training steps, or None where none has a value.

    Args:
        low, high: limits of the values; None fits them.
        log: a logarithmic axis; None takes one where positive values span more than a factor of 30.
        level: (value, name) of a dashed line across.
        smooth: draw long lines faint, with their moving average over them.
        marks: steps with a dashed line upwards.
    """
    wanted, held = len(held), [line for line in held if np.isfinite(line.values).any()]
    if not held:
        return None
    values = np.concatenate([line.values[np.isfinite(line.values)] for line in held])
    least, most = float(values.min()), float(values.max())
    if log is None:
        log = least > 0 and most / least > 30
    bottom = (least if log else min(0.0, least)) if low is None else low
    top = (most * 1.06 if most > 0 or log else 0.0) if high is None else high
    first = min(int(line.steps[0]) for line in held)
    last = max(int(line.steps[-1]) for line in held)
    axes = Axes((first, last), (bottom, top), label="step", name=unit, log_y=log)
    if level is not None:
        axes.level(level[0], note=level[1])
    for mark in marks:
        axes.mark(mark)
    for line in held:
        _draw(axes, line, smooth)
    key = [(line.colour, line.name) for line in held] if wanted > 1 else []
    return Chart(heading, axes.finish(), note, key)


def _draw(axes: Axes, line: Line, smooth: bool) -> None:
    many = smooth and len(line.values) >= _SMOOTHED
    keep = svg.thin(line.values, _MOST_POINTS)
    opacity = 0.3 if many else None
    axes.line(line.steps[keep], line.values[keep], line.colour, dash=line.dash, opacity=opacity)
    if many:
        average = figures.moving_average(line.values, max(2, len(line.values) // 25))
        at = np.unique(np.linspace(0, len(average) - 1, _MOST_POINTS // 2).astype(int))
        axes.line(line.steps[at], average[at], line.colour, width=2.0, dash=line.dash)
    elif len(line.values) == 1 and np.isfinite(line.values[0]):
        axes.dot(float(line.steps[0]), float(line.values[0]), line.colour)


def heat_map(
    heading: str,
    steps: np.ndarray,
    values: np.ndarray,
    *,
    limits: tuple[float, float],
    name: str,
    note: str,
    log: bool = False,
    level: float | None = None,
) -> Chart | None:
    """The distribution of values over training: a column a phase, dark where many are; the line is the median.

    Args:
        steps: int [n]. values: float [n]; what lies outside ``limits`` counts in the outermost bin.
    """
    if not np.isfinite(values).any():
        return None
    low, high = limits
    edges = np.geomspace(low, high, 25) if log else np.linspace(low, high, 25)
    phases = figures.phase_edges(steps)
    shares = figures.phase_histogram(steps, values, phases, edges)
    axes = Axes((float(phases[0]), float(phases[-1])), limits, label="step", name=name, log_y=log, grid=False)
    top = float(shares.max())
    for i, j in np.argwhere(shares > 0).tolist():
        share = float(shares[i, j])
        span = f"step {phases[i] + 1:.0f} to {phases[i + 1]:.0f}"
        said = f"{span}: {100 * share:.1f} % in {edges[j]:.3g} … {edges[j + 1]:.3g}"
        # The root keeps rare values visible.
        axes.box(phases[i], phases[i + 1], edges[j], edges[j + 1], palette.shade((share / top) ** 0.5), said)
    if level is not None:
        axes.level(level)
    median = np.clip(figures.phase_median(steps, values, phases), low, high)
    axes.line((phases[:-1] + phases[1:]) / 2, median, palette.INTERACTION, width=2.0)
    return Chart(heading, axes.finish(), note, [(palette.INTERACTION, "median")])


def histograms(
    heading: str,
    groups: Sequence[tuple[str, str, np.ndarray]],
    *,
    limits: tuple[float, float],
    label: str,
    note: str,
    log: bool = False,
    mark: float | None = None,
) -> Chart | None:
    """Histograms over one another, each as shares of its own values; the first is filled.

    Args:
        groups: (name, colour, values [n]).
    """
    low, high = limits
    edges = np.geomspace(low, high, 41) if log else np.linspace(low, high, 41)
    found = []
    for name, colour, values in groups:
        held = np.clip(values[np.isfinite(values)], low, high)
        if len(held):
            found.append((name, colour, np.histogram(held, edges)[0] / len(held)))
    if not found:
        return None
    top = max(float(shares.max()) for _, _, shares in found)
    axes = Axes(limits, (0.0, 100 * top * 1.05), label=label, name="% of the samples", log_x=log)
    for i, (_, colour, shares) in enumerate(found):
        if i:
            axes.steps(edges, 100 * shares, colour)
            continue
        for j in np.flatnonzero(shares).tolist():
            said = f"{edges[j]:.3g} to {edges[j + 1]:.3g}: {100 * shares[j]:.1f} %"
            axes.box(edges[j], edges[j + 1], 0.0, 100 * float(shares[j]), colour, said)
    if mark is not None:
        axes.mark(mark)
    key = [(colour, name) for name, colour, _ in found] if len(found) > 1 else []
    return Chart(heading, axes.finish(), note, key)


def density(heading: str, reference: np.ndarray, predicted: np.ndarray, *, note: str) -> Chart | None:
    """Predicted against reference as a two-dimensional histogram, the diagonal dashed; arrays [n] each."""
    good = np.isfinite(reference) & np.isfinite(predicted)
    if not good.any():
        return None
    x, y = reference[good].astype(np.float64), predicted[good].astype(np.float64)
    left, right = min(0.0, float(x.min())), max(float(x.max()), 0.05)
    low, high = min(left, float(y.min())), max(right, float(y.max()))
    across, up = np.linspace(left, right, 31), np.linspace(low, high, 31)
    counts = np.histogram2d(x, y, (across, up))[0]
    axes = Axes((left, right), (low, high), label="reference return-to-go", name="predicted value", grid=False)
    top = float(counts.max())
    for i, j in np.argwhere(counts > 0).tolist():
        said = f"reference {across[i]:.2f} … {across[i + 1]:.2f}, predicted {up[j]:.2f} … {up[j + 1]:.2f}: "
        said += f"{int(counts[i, j]):,} frames"
        share = (float(counts[i, j]) / top) ** 0.5
        axes.box(across[i], across[i + 1], up[j], up[j + 1], palette.shade(0.08 + 0.92 * share), said)
    axes.line(np.array([left, right]), np.array([left, right]), palette.VALUE, width=1.2, dash="4 3")
    return Chart(heading, axes.finish(), note)


def calibration(heading: str, bins: Sequence[Bin], *, note: str) -> Chart | None:
    """Predicted probability against observed frequency; the larger the dot, the more frames."""
    if not bins:
        return None
    axes = Axes((0.0, 1.0), (0.0, 1.0), label="predicted probability of interaction", name="observed share")
    axes.line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), palette.VALUE, width=1.2, dash="4 3")
    axes.line(
        np.array([b.predicted for b in bins]), np.array([b.observed for b in bins]), palette.INTERACTION, width=1.4
    )
    most = max(b.count for b in bins)
    for b in bins:
        said = f"predicted {b.predicted:.2f}, observed {b.observed:.2f}, {b.count:,} frames"
        axes.dot(b.predicted, b.observed, palette.INTERACTION, said, 2.5 + 5.0 * (b.count / most) ** 0.5)
    return Chart(heading, axes.finish(), note)


def bars(
    heading: str,
    groups: Sequence[tuple[str, Group]],
    *,
    positive: bool,
    label: str,
    note: str,
    first: str | None = None,
) -> Chart | None:
    """A bar a group: its mean, or (``positive``) its share above 0.

    Args:
        groups: (name, group); names stand below the bars.
        first: name of a group in a colour of its own.
    """
    if not groups:
        return None
    values = [100 * g.positive if positive else g.mean for _, g in groups]
    low, high = min(0.0, *values), max(0.0, *values)
    room = (high - low) * 0.06 or 0.01
    up = (0.0, 100.0) if positive else (low - (room if low < 0 else 0.0), high + room)
    across, named = (0.0, float(len(groups))), "% positive" if positive else "mean advantage"
    axes = Axes(across, up, label=label, name=named, names=[name for name, _ in groups])
    for i, ((name, group), value) in enumerate(zip(groups, values, strict=True)):
        fill = palette.INTERACTION if name == first else palette.NEUTRAL
        said = f"{name}: {value:.3g}{' %' if positive else ''}, {group.count:,} samples"
        axes.box(i + 0.1, i + 0.9, min(0.0, value), max(0.0, value), fill, said)
    if positive:
        axes.level(50.0)
    elif low < 0:
        axes.level(0.0, palette.INK)
    return Chart(heading, axes.finish(), note)


def episodes(
    heading: str, shares: EpisodeShares, success: np.ndarray, names: Sequence[str], *, note: str
) -> Chart | None:
    """A dot an episode, ordered by its share of samples with positive advantage."""
    if not len(shares.count):
        return None
    order = np.argsort(shares.positive, kind="stable")
    kept = np.unique(np.linspace(0, len(order) - 1, min(_MOST_DOTS, len(order))).astype(int))
    axes = Axes((0.5, len(order) + 0.5), (-4.0, 104.0), label="episodes, in order", name="% of its samples positive")
    axes.level(50.0)
    for rank in kept.tolist():
        e = int(order[rank])
        said = f"{names[e]}: {100 * shares.positive[e]:.0f} % of {shares.count[e]:,} samples"
        colour = palette.SUCCESS if success[e] else palette.FAILURE
        axes.dot(rank + 1.0, 100 * float(shares.positive[e]), colour, said)
    key = [(palette.SUCCESS, "success"), (palette.FAILURE, "no success")]
    return Chart(heading, axes.finish(), note, key)
