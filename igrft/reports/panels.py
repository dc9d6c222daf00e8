"""Panels under one another on one time axis: what the episode chart is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from igrft.reports import palette, svg

WIDTH = 1120.0
LEFT, RIGHT = 66.0, 14.0
#: Space above a panel, for its name and legend.
HEAD = 26.0
_MOST_POINTS = 900


class Panels:
    """A drawing that grows downwards.

    Attributes:
        length, fps: T and frames a second.
        y: where the next thing goes.
        parts: markup so far.
    """

    def __init__(self, length: int, fps: float) -> None:
        self.length, self.fps = length, fps
        self.y = 4.0
        self.parts: list[str] = []
        self.x = svg.linear((0.0, float(length)), (LEFT, WIDTH - RIGHT))

    def add(self, *parts: str) -> None:
        self.parts += parts

    def label(self, name: str, y: float) -> None:
        """A name in the margin."""
        self.add(svg.text(LEFT - 8, y, name, class_="label", text_anchor="end"))

    def open(
        self,
        name: str,
        height: float,
        y_of: Callable[[float, float], svg.Scale],
        ticks: Sequence[float],
        legend: Legend,
    ) -> svg.Scale:
        """Begin a panel; the scale is made by ``y_of(bottom, top)``. :meth:`close` ends it."""
        self.y += HEAD
        self.add(svg.text(LEFT, self.y - 7, name, class_="panel"))
        self._legend(legend)
        scale = y_of(self.y + height, self.y)
        for value in ticks:
            self.add(svg.tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=scale(value), y2=scale(value), stroke=palette.RULE))
            self.add(svg.text(LEFT - 6, scale(value) + 3.5, svg.spell(value), class_="tick", text_anchor="end"))
        return scale

    def close(self, height: float) -> None:
        self.y += height

    def _legend(self, entries: Legend) -> None:
        """Swatches at the right, level with the panel's name."""
        x, y = WIDTH - RIGHT, self.y - 7
        for colour, name in reversed(entries):
            x -= 6.2 * len(name)
            self.add(svg.text(x, y, name, class_="small"))
            x -= 14
            self.add(svg.tag("rect", x=x, y=y - 8, width=10, height=8, rx=2, fill=colour))
            x -= 12

    def line(self, values: np.ndarray, y: svg.Scale, colour: str, width: float = 1.5, dash: str | None = None) -> None:
        """A series [T] as a line; the value of frame f stands in the middle of its time."""
        keep = thinned(values)
        data = svg.polyline([self.x(f + 0.5) for f in keep], [y(float(v)) for v in values[keep]])
        self.add(svg.tag("path", d=data, fill="none", stroke=colour, stroke_width=width, stroke_dasharray=dash))

    def area(self, upper: np.ndarray, lower: np.ndarray, y: svg.Scale, colour: str, opacity: float = 1.0) -> None:
        """The region between two series [T]."""
        keep = thinned(upper)
        xs = [self.x(f + 0.5) for f in keep]
        data = svg.area(xs, [y(float(v)) for v in upper[keep]], [y(float(v)) for v in lower[keep]])
        self.add(svg.tag("path", d=data, fill=colour, fill_opacity=opacity))

    def band(self, start: int, end: int, top: float, height: float, colour: str, note: str) -> None:
        """A filled stretch of time, frames [start, end)."""
        x0, x1 = self.x(start), self.x(end)
        box = {"x": x0, "y": top, "width": max(x1 - x0, 0.8), "height": height}
        self.add(svg.tag("rect", svg.title(note), fill=colour, **box))

    def time_axis(self) -> None:
        """Seconds, and frames below them."""
        y = self.y + 6
        self.add(svg.tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, stroke=palette.MUTED))
        for at in svg.ticks(0.0, self.length / self.fps, 10):
            x = self.x(at * self.fps)
            self.add(svg.tag("line", x1=x, x2=x, y1=y, y2=y + 4, stroke=palette.MUTED))
            self.add(svg.text(x, y + 16, f"{at:g} s", class_="tick", text_anchor="middle"))
            self.add(svg.text(x, y + 29, round(at * self.fps), class_="faint", text_anchor="middle"))
        self.add(svg.text(LEFT - 30, y + 29, "frame", class_="faint", text_anchor="end"))
        self.y = y

    def finish(self) -> str:
        """The ``<svg>``, with a line that the page's script moves to the pointer."""
        line = {"x1": LEFT, "x2": LEFT, "y1": 4.0, "y2": self.y}
        cursor = svg.tag("line", stroke=palette.INK, class_="cursor", visibility="hidden", **line)
        box = f"0 0 {WIDTH:g} {self.y + 34:.0f}"
        return svg.tag("svg", *self.parts, cursor, viewBox=box, class_="episode", role="img")


Legend = Sequence[tuple[str, str]]


def linear_scale(low: float, top: float, bottom: float, upper: float) -> svg.Scale:
    """A scale of :meth:`Panels.open` from ``low`` at the bottom to ``top``."""
    return svg.linear((low, top), (bottom, upper))


def thinned(values: np.ndarray) -> np.ndarray:
    """Frames of a series [T] that are drawn: all of a short one; a long one keeps its peaks."""
    return svg.thin(np.asarray(values, dtype=np.float64), _MOST_POINTS)
