"""Charts over the whole dataset: histograms, and subtask durations by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from igrft.reports import palette, svg

WIDTH, HEIGHT = 360.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 10.0, 12.0, 36.0
_MOST_DOTS = 240
_BINS = 25


def histogram(
    groups: Mapping[str, Sequence[float]],
    label: str,
    *,
    low: float | None = None,
    high: float | None = None,
    count: str = "episodes",
) -> str:
    """A stacked histogram as ``<svg>``; empty where no group has a value.

    Args:
        groups: values by group; the groups ``success`` and ``failure`` have colours of their own.
        label: the axis' name, with its unit.
        low, high: limits of the axis; None fits the values.
    """
    values = np.concatenate([np.asarray(v, dtype=np.float64) for v in groups.values()] or [np.zeros(0)])
    if not len(values):
        return ""
    low = float(values.min()) if low is None else low
    high = float(values.max()) * 1.02 if high is None else high
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    edges = np.linspace(low, high, _BINS + 1)
    counted = {k: np.histogram(np.clip(np.asarray(v, dtype=float), low, high), edges)[0] for k, v in groups.items()}
    return bars(edges, counted, label, count=count)


def bars(
    edges: np.ndarray,
    counted: Mapping[str, np.ndarray],
    label: str,
    *,
    count: str,
    logarithmic: bool = False,
    mark: float | None = None,
) -> str:
    """A stacked histogram from counts. ``edges`` [bins + 1]; exponents of ten where ``logarithmic``."""
    total = np.sum(list(counted.values()), axis=0)
    x = svg.linear((float(edges[0]), float(edges[-1])), (_LEFT, WIDTH - _RIGHT))
    y = svg.linear((0.0, float(total.max()) * 1.05 or 1.0), (HEIGHT - _BOTTOM, _TOP))
    parts = _grid(y, [t for t in svg.ticks(0.0, float(total.max()), 4) if t == int(t)])
    below = np.zeros(len(total))
    for group, numbers in counted.items():
        colour = {"success": palette.SUCCESS, "failure": palette.FAILURE}.get(group, palette.NEUTRAL)
        for i, number in enumerate(numbers):
            if not number:
                continue
            span = f"{_edge(edges[i], logarithmic)} to {_edge(edges[i + 1], logarithmic)}"
            note = svg.title(f"{span}: {int(number):,} {count}" + (f" ({group})" if len(counted) > 1 else ""))
            top = y(below[i] + number)
            box = {"x": x(edges[i]) + 0.5, "y": top, "width": max(x(edges[i + 1]) - x(edges[i]) - 1, 0.8)}
            parts.append(svg.tag("rect", note, height=y(below[i]) - top, fill=colour, fill_opacity=0.85, **box))
        below = below + numbers
    parts += _axis(x, float(edges[0]), float(edges[-1]), label, logarithmic)
    if mark is not None:
        ends = {"x1": x(mark), "x2": x(mark), "y1": _TOP, "y2": HEIGHT - _BOTTOM}
        parts.append(svg.tag("line", stroke=palette.INTERACTION, stroke_width=1.5, stroke_dasharray="4 3", **ends))
    parts.append(svg.text(_LEFT, _TOP - 2, count, class_="faint"))
    return _finish(parts, HEIGHT)


def durations(values: Mapping[str, Sequence[float]], fills: Mapping[str, str], *, unit: str = "s") -> str:
    """One row per name: every value a dot (a sample of many), the quartiles a box, the median a line."""
    held = {k: np.sort(np.asarray(v, dtype=np.float64)) for k, v in values.items() if len(v)}
    if not held:
        return ""
    row, left = 30.0, 150.0
    height = _TOP + row * len(held) + _BOTTOM
    top = max(float(v[-1]) for v in held.values()) * 1.05 or 1.0
    x = svg.linear((0.0, top), (left, WIDTH - _RIGHT))
    parts = []
    for i, (name, numbers) in enumerate(held.items()):
        y = _TOP + row * (i + 0.5)
        q1, median, q3 = np.quantile(numbers, (0.25, 0.5, 0.75))
        note = f"{name}: median {median:.2f} {unit}, quartiles {q1:.2f} and {q3:.2f}, {len(numbers):,} segments"
        shown = name if len(name) <= 22 else name[:21] + "…"
        shapes = [svg.title(note), svg.text(left - 8, y + 4, shown, class_="row", text_anchor="end")]
        fill = fills.get(name, palette.RULE)
        box = {"x": x(q1), "y": y - 9, "width": max(x(q3) - x(q1), 1.0), "height": 18, "rx": 3}
        shapes.append(svg.tag("rect", fill=fill, **box))
        sample = numbers[np.unique(np.linspace(0, len(numbers) - 1, _MOST_DOTS).astype(int))]
        for j, value in enumerate(sample):
            # Spread up and down so that equal values stay visible.
            at = y + ((j * 7) % 5 - 2) * 2.2
            shapes.append(svg.tag("circle", cx=x(float(value)), cy=at, r=2, fill=palette.INK, fill_opacity=0.4))
        shapes.append(
            svg.tag("line", x1=x(median), x2=x(median), y1=y - 10, y2=y + 10, stroke=palette.INK, stroke_width=2)
        )
        parts.append(svg.tag("g", *shapes))
    parts += _axis(x, 0.0, top, f"duration, {unit}", False, height)
    return _finish(parts, height)


def _grid(y: svg.Scale, levels: Sequence[float]) -> list[str]:
    parts = []
    for level in levels:
        parts.append(svg.tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y(level), y2=y(level), stroke=palette.RULE))
        parts.append(svg.text(_LEFT - 6, y(level) + 3.5, svg.spell(level), class_="tick", text_anchor="end"))
    return parts


def _axis(x: svg.Scale, low: float, high: float, label: str, logarithmic: bool, height: float = HEIGHT) -> list[str]:
    y = height - _BOTTOM
    parts = [svg.tag("line", x1=x(low), x2=x(high), y1=y, y2=y, stroke=palette.MUTED)]
    for at in svg.ticks(low, high, 5):
        if logarithmic and at != int(at):
            continue
        parts.append(svg.tag("line", x1=x(at), x2=x(at), y1=y, y2=y + 4, stroke=palette.MUTED))
        parts.append(svg.text(x(at), y + 15, _edge(at, logarithmic), class_="tick", text_anchor="middle"))
    parts.append(svg.text((x(low) + x(high)) / 2, height - 5, label, class_="panel", text_anchor="middle"))
    return parts


def _edge(value: float, logarithmic: bool) -> str:
    if not logarithmic:
        return svg.spell(float(f"{value:.3g}"))
    number = 10.0**value
    return f"{number:.0e}".replace("e-0", "e-") if number < 0.01 else svg.spell(float(f"{number:.2g}"))


def _finish(parts: Sequence[str], height: float) -> str:
    return svg.tag("svg", *parts, viewBox=f"0 0 {WIDTH:g} {height:g}", class_="small-chart", role="img")
