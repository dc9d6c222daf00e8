"""Two axes to draw in: what every chart on the page of a run stands on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from igrft.reports import palette, svg

WIDTH, HEIGHT = 360.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 20.0, 16.0, 36.0
#: Where the axis across lies.
FOOT = HEIGHT - BOTTOM


class Axes:
    """A chart with named axes; what is added later lies above.

    Attributes:
        x, y: scales from values to the drawing; of a logarithmic axis the values, not their logarithms.
    """

    def __init__(
        self,
        across: tuple[float, float],
        up: tuple[float, float],
        *,
        label: str,
        name: str = "",
        log_x: bool = False,
        log_y: bool = False,
        grid: bool = True,
        names: Sequence[str] = (),
    ) -> None:
        """``across`` and ``up`` are the limits of the axes; ``label`` names the first, ``name`` the second.

        ``names`` stand below equal parts of the axis across, in place of its numbers.
        """
        self.across, self.up = _widened(across, log_x), _widened(up, log_y)
        self.x = _scale(self.across, (LEFT, WIDTH - RIGHT), log_x)
        self.y = _scale(self.up, (FOOT, TOP), log_y)
        self.parts: list[str] = []
        for at in _ticks(self.up, log_y, 4):
            ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": self.y(at), "y2": self.y(at)}
            if grid:
                self.add(svg.tag("line", stroke=palette.RULE, **ends))
            self.add(svg.text(LEFT - 6, self.y(at) + 3.5, spell(at), class_="tick", text_anchor="end"))
        self.add(svg.tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=FOOT, y2=FOOT, stroke=palette.MUTED))
        for at in () if names else _ticks(self.across, log_x, 5):
            self.add(svg.tag("line", x1=self.x(at), x2=self.x(at), y1=FOOT, y2=FOOT + 4, stroke=palette.MUTED))
            self.add(svg.text(self.x(at), FOOT + 15, spell(at), class_="tick", text_anchor="middle"))
        for i, part in enumerate(names):
            middle = LEFT + (i + 0.5) * (WIDTH - RIGHT - LEFT) / len(names)
            self.add(svg.text(middle, FOOT + 15, part, class_="tick", text_anchor="middle"))
        self.add(svg.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, label, class_="panel", text_anchor="middle"))
        if name:
            self.add(svg.text(LEFT, TOP - 6, name, class_="faint"))

    def add(self, *parts: str) -> None:
        self.parts += parts

    def line(
        self,
        xs: np.ndarray,
        ys: np.ndarray,
        colour: str,
        *,
        width: float = 1.7,
        dash: str | None = None,
        opacity: float | None = None,
    ) -> None:
        """A line through points, cut at the limits of the axes; NaN breaks it."""
        low, high = self.up
        inside = np.clip(ys, low, high)
        data = svg.polyline([self.x(float(v)) for v in xs], [self.y(float(v)) for v in inside])
        style = {"stroke_width": width, "stroke_dasharray": dash, "stroke_opacity": opacity}
        self.add(svg.tag("path", d=data, fill="none", stroke=colour, stroke_linejoin="round", **style))

    def steps(self, edges: np.ndarray, heights: np.ndarray, colour: str) -> None:
        """The outline of a histogram: ``edges`` [bins + 1], ``heights`` [bins]."""
        xs, ys = np.repeat(edges, 2), np.concatenate([[0.0], np.repeat(heights, 2), [0.0]])
        self.line(xs, ys, colour)

    def box(self, left: float, right: float, bottom: float, top: float, fill: str, note: str = "") -> None:
        """A filled rectangle, in values."""
        x0, x1, y0, y1 = self.x(left), self.x(right), self.y(top), self.y(bottom)
        children = (svg.title(note),) if note else ()
        size = {"width": max(x1 - x0, 0.6), "height": max(y1 - y0, 0.6)}
        self.add(svg.tag("rect", *children, x=x0, y=y0, fill=fill, **size))

    def dot(self, at: float, value: float, colour: str, note: str = "", radius: float = 3.0) -> None:
        children = (svg.title(note),) if note else ()
        place = {"cx": self.x(at), "cy": self.y(value), "r": radius}
        self.add(svg.tag("circle", *children, fill=colour, fill_opacity=0.75, **place))

    def level(self, value: float, colour: str = palette.MUTED, note: str = "") -> None:
        """A dashed line across, at a value; nothing where it lies outside."""
        if self.up[0] <= value <= self.up[1]:
            ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": self.y(value), "y2": self.y(value)}
            self.add(svg.tag("line", stroke=colour, stroke_dasharray="4 3", **ends))
            if note:
                self.add(svg.text(WIDTH - RIGHT, self.y(value) - 3, note, class_="faint", text_anchor="end"))

    def mark(self, at: float, colour: str = palette.MUTED) -> None:
        """A dashed line upwards."""
        if self.across[0] <= at <= self.across[1]:
            ends = {"x1": self.x(at), "x2": self.x(at), "y1": TOP, "y2": FOOT}
            self.add(svg.tag("line", stroke=colour, stroke_dasharray="4 3", **ends))

    def finish(self) -> str:
        """The ``<svg>``."""
        box = f"0 0 {WIDTH:g} {HEIGHT:g}"
        return svg.tag("svg", *self.parts, viewBox=box, class_="small-chart", role="img")


def spell(value: float) -> str:
    """A tick's label, short also where it is small: ``5e-6``."""
    if value and abs(value) < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")
    return svg.spell(float(f"{value:.3g}") if abs(value) < 1000 else value).replace("-", "−")


def _widened(limits: tuple[float, float], logarithmic: bool) -> tuple[float, float]:
    """Limits that differ."""
    low, high = limits
    if high > low:
        return limits
    return (low / 2, low * 2) if logarithmic else (low - 0.5 * (abs(low) or 1.0), low + 0.5 * (abs(low) or 1.0))


def _scale(domain: tuple[float, float], target: tuple[float, float], logarithmic: bool) -> svg.Scale:
    if not logarithmic:
        return svg.linear(domain, target)
    inner = svg.linear((math.log10(domain[0]), math.log10(domain[1])), target)
    return lambda value: inner(math.log10(value)) if value > 0 else math.nan


def _ticks(limits: tuple[float, float], logarithmic: bool, about: int) -> Sequence[float]:
    if not logarithmic:
        return svg.ticks(*limits, about)
    low, high = math.log10(limits[0]), math.log10(limits[1])
    whole = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    if high - low < 2:
        found = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
        return [v for v in found if limits[0] <= v <= limits[1] * (1 + 1e-9)]
    return [10.0**k for k in whole][:: max(1, math.ceil(len(whole) / 5))]
