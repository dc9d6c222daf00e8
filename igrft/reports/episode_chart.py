"""The chart of one episode: pictures, subtasks, reward, return-to-go, value and interaction on one time axis.

It is the paper's Figure 3 for a real episode. Everything is inline SVG; the values under the pointer
are read from the series that :func:`readout` puts beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.reports import palette, svg
from igrft.reports.panels import LEFT, RIGHT, WIDTH, Panels, linear_scale
from igrft.reports.value_panels import Alarms, Judgement, draw, judge
from igrft.steps.interaction.smoothing import runs

_PANEL = 96.0
_LOW_PANEL = 48.0
#: The page's script shows every n-th frame of an episode longer than this.
_MOST_VALUES = 1200
#: Columns whose values show under the pointer.
_READ = (
    c.REWARD,
    c.REWARD_TRAJECTORY,
    c.REWARD_SUBTASK,
    c.RETURN,
    c.VALUE,
    c.VALUE_TRAJECTORY,
    c.VALUE_SUBTASK,
    c.ADVANTAGE,
    c.INTERACTION_PIXELS,
    c.INTERACTION,
    c.INTERACTION_PROBABILITY,
    c.NOISE_SCALE,
    c.INTERVENTION,
)


@dataclass
class EpisodeChart:
    """What one episode's chart shows.

    Attributes:
        length, fps: T and frames a second.
        columns: label columns by name, each [T].
        subtasks: of the record: {name, start, end, done, weight}.
        fills: colour by subtask name.
        strip: (frame, data URI of a picture), evenly spread.
        strip_aspect: height over width of these pictures.
        marks: frames that are shown larger below.
        pixel_threshold: of Eq. 1, or None.
        weights: (trajectory, subtask) of Eq. 7.
        judgement: the critic's value against its reference; None compares with ``return_to_go``.
        takeovers: {start, end, by, why}; None where nothing but the column ``intervention`` is known.
        alarms: of the stagnation monitor; None where it was not replayed.
        trained_noise: noise scales that the flow was trained with, where known.
        coverage: share of the picture that is robot, [T]; None where no mask was used.
    """

    length: int
    fps: float
    columns: Mapping[str, np.ndarray]
    subtasks: Sequence[Mapping[str, Any]] = ()
    fills: Mapping[str, str] = field(default_factory=dict)
    strip: Sequence[tuple[int, str]] = ()
    strip_aspect: float = 0.75
    marks: Sequence[int] = ()
    pixel_threshold: float | None = None
    weights: tuple[float, float] = (0.4, 0.6)
    judgement: Judgement | None = None
    takeovers: Sequence[Mapping[str, Any]] | None = None
    alarms: Alarms | None = None
    trained_noise: tuple[float, float] | None = None
    coverage: np.ndarray | None = None

    def draw(self) -> str:
        """The chart as an ``<svg>`` element."""
        panels = Panels(self.length, self.fps)
        if self.strip:
            self._film_strip(panels)
        if self.subtasks:
            self._subtask_bar(panels)
        takeovers = self._takeovers()
        if takeovers:
            self._interventions(panels, takeovers)
        top = panels.y
        if c.REWARD in self.columns:
            self._reward(panels)
        if c.RETURN in self.columns:
            self._return(panels)
        draw(
            panels,
            self.columns,
            self.judgement or judge(self.columns, {}, self.fps),
            alarms=self.alarms,
            trained_noise=self.trained_noise,
        )
        if c.INTERACTION in self.columns or c.INTERACTION_PIXELS in self.columns:
            self._interaction(panels)
        if self.coverage is not None and len(self.coverage) == self.length:
            self._coverage(panels, self.coverage)
        for s in self.subtasks:
            # A thin line through all panels where a subtask ends.
            if s["start"] < s["end"] < self.length:
                x = panels.x(s["end"])
                ends = {"x1": x, "x2": x, "y1": top, "y2": panels.y}
                panels.add(svg.tag("line", stroke=palette.MUTED, stroke_dasharray="1 3", **ends))
        for t in takeovers:
            x0, x1 = panels.x(t["start"]), panels.x(t["end"])
            box = {"x": x0, "y": top, "width": max(x1 - x0, 0.8), "height": panels.y - top}
            # Over everything, but what lies below still answers the pointer.
            shade = {"fill": palette.INTERVENTION, "fill_opacity": 0.09, "pointer_events": "none"}
            panels.add(svg.tag("rect", class_="takeover", **shade, **box))
        panels.time_axis()
        return panels.finish()

    def readout(self) -> str:
        """JSON for the script that shows the values of the frame under the pointer."""
        stride = -(-self.length // _MOST_VALUES)
        value = {
            "length": self.length,
            "stride": stride,
            "fps": self.fps,
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "width": WIDTH,
            "series": {
                n: [_short(v) for v in self.columns[n][::stride].astype(float)] for n in _READ if n in self.columns
            },
            "subtasks": [[s["start"], s["end"], s["name"], s.get("done")] for s in self.subtasks],
        }
        # A name may hold "</script>": no "<" leaves this string.
        return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")

    # From the top down.

    def _film_strip(self, panels: Panels) -> None:
        width = (WIDTH - RIGHT - LEFT) / len(self.strip)
        height = (width - 3) * self.strip_aspect
        for i, (frame, uri) in enumerate(self.strip):
            x = LEFT + i * width + 1.5
            note = svg.title(f"frame {frame}, {frame / self.fps:.2f} s")
            box = {"x": x, "y": panels.y, "width": width - 3, "height": height}
            panels.add(svg.tag("image", note, href=uri, preserveAspectRatio="none", **box))
            panels.add(svg.text(x + 4, panels.y + height - 4, frame, class_="onpicture"))
        panels.label("camera", panels.y + height / 2 + 4)
        panels.y += height + 8

    def _subtask_bar(self, panels: Panels) -> None:
        height = 24.0
        for s in self.subtasks:
            if s["end"] > s["start"]:
                panels.add(self._subtask(s, panels, height))
        panels.label("subtask", panels.y + 16)
        panels.y += height
        never = [s["name"] for s in self.subtasks if s["end"] <= s["start"]]
        if never:
            panels.y += 15
            note = f"never begun: {', '.join(never)}"
            panels.add(svg.text(WIDTH - RIGHT, panels.y - 1, note, class_="small", text_anchor="end"))

    def _subtask(self, s: Mapping[str, Any], panels: Panels, height: float) -> str:
        x0, x1 = panels.x(s["start"]), panels.x(s["end"])
        undone = s.get("done") is False
        state = {True: "done", False: "not done", None: "not known whether done"}[s.get("done")]
        weight = f", weight {s['weight']:.3g}" if "weight" in s else ""
        seconds = f"{s['start'] / self.fps:.2f} to {s['end'] / self.fps:.2f} s"
        note = f"{s['name']}: {seconds}, frames {s['start']} to {s['end'] - 1}, {state}{weight}"
        box = {"x": x0 + 0.5, "y": panels.y, "width": max(x1 - x0 - 1, 1.0), "height": height, "rx": 3}
        shapes = [svg.title(note), svg.tag("rect", fill=self.fills.get(s["name"], palette.RULE), **box)]
        if undone:
            shapes.append(svg.tag("rect", fill="url(#undone)", **box))
        label = s["name"] + (" (not done)" if undone else "")
        room = int((x1 - x0 - 8) / 6.3)
        if room >= 3:
            shown = label if len(label) <= room else label[: room - 1] + "…"
            shapes.append(svg.text((x0 + x1) / 2, panels.y + 16, shown, class_="subtask", text_anchor="middle"))
        return svg.tag("g", *shapes)

    def _takeovers(self) -> list[Mapping[str, Any]]:
        """Those that lie in the episode."""
        held = self.takeovers
        if held is None:
            flags = self.columns.get(c.INTERVENTION)
            spans = runs(flags).tolist() if flags is not None and flags.any() else []
            held = [{"start": start, "end": end, "by": None, "why": None} for start, end in spans]
        return [t for t in held if 0 <= t["start"] < t["end"] <= self.length]

    def _interventions(self, panels: Panels, takeovers: Sequence[Mapping[str, Any]]) -> None:
        named = any(t["by"] or t["why"] for t in takeovers)
        height = 17.0 if named else 8.0
        panels.y += 4
        for t in takeovers:
            start, end = t["start"], t["end"]
            who = f" ({t['by']})" if t["by"] else ""
            why = f", because {t['why']}" if t["why"] else ""
            seconds = f"{start / self.fps:.2f} to {end / self.fps:.2f} s"
            note = f"a human{who} overrode the policy, frames {start} to {end - 1}, {seconds}{why}"
            panels.band(start, end, panels.y, height, palette.INTERVENTION, note)
            self._name(t, panels)
        panels.label("human", panels.y + height / 2 + 4)
        panels.y += height + 2

    def _name(self, t: Mapping[str, Any], panels: Panels) -> None:
        """Who and why on the band of a takeover, as far as there is room."""
        said = ": ".join(str(v) for v in (t["by"], t["why"]) if v)
        x0, x1 = panels.x(t["start"]), panels.x(t["end"])
        room = int((x1 - x0 - 6) / 5.9)
        if said and room >= 3:
            shown = said if len(said) <= room else said[: room - 1] + "…"
            panels.add(svg.text((x0 + x1) / 2, panels.y + 12.5, shown, class_="onband", text_anchor="middle"))

    def _reward(self, panels: Panels) -> None:
        total = self.columns[c.REWARD].astype(np.float64)
        top = 1.08 * _extreme(total) or 1.0
        w_traj, w_sub = self.weights
        trajectory = self.columns.get(c.REWARD_TRAJECTORY, np.zeros(self.length)).astype(np.float64) * w_traj
        y = panels.open(
            "reward, per frame",
            _PANEL,
            partial(linear_scale, 0.0, top),
            svg.ticks(0.0, top, 3),
            [(palette.SUBTASK_REWARD, f"{w_sub:g} × subtask"), (palette.TRAJECTORY_REWARD, f"{w_traj:g} × trajectory")],
        )
        panels.area(trajectory, np.zeros(self.length), y, palette.TRAJECTORY_REWARD)
        panels.area(total, trajectory, y, palette.SUBTASK_REWARD, 0.78)
        panels.close(_PANEL)

    def _return(self, panels: Panels) -> None:
        styles: dict[str, tuple[str, str, float, str | None]] = {
            c.RETURN_TRAJECTORY: ("trajectory", palette.TRAJECTORY_REWARD, 1.6, "5 3"),
            c.RETURN_SUBTASK: ("subtask", palette.SUBTASK_REWARD, 1.4, "5 3"),
            c.RETURN: ("total", palette.RETURN, 2.0, None),
        }
        held = {n: self.columns[n].astype(np.float64) for n in styles if n in self.columns}
        top = max(1.0, *(_extreme(v) for v in held.values()))
        low = min(0.0, *(-_extreme(-v) for v in held.values()))
        legend = [(styles[n][1], styles[n][0]) for n in held]
        y = panels.open("return-to-go", _PANEL, partial(linear_scale, low, top * 1.04), svg.ticks(low, top, 4), legend)
        for name, values in held.items():
            panels.line(values, y, *styles[name][1:])
        panels.close(_PANEL)

    def _interaction(self, panels: Panels) -> None:
        pixels, flags = self.columns.get(c.INTERACTION_PIXELS), self.columns.get(c.INTERACTION)
        most = 0.0 if pixels is None else _extreme(pixels.astype(np.float64))
        top = max(1000.0, 1.5 * most, 3 * (self.pixel_threshold or 0.0))
        levels = [0.0, *(10.0**k for k in range(2, 7) if 10.0**k <= top)] if pixels is not None else []
        legend = [(palette.INTERACTION_SHADE, "interaction")] if flags is not None else []
        if pixels is not None and self.pixel_threshold is not None:
            legend.append((palette.INTERACTION, f"dashed: threshold {self.pixel_threshold:g}"))
        name = "interaction, moving pixels" if pixels is not None else "interaction"
        y = panels.open(name, _PANEL, partial(_log, top), levels, legend)
        if flags is not None:
            for start, end in runs(flags).tolist():
                note = f"interaction, frames {start} to {end - 1} ({(end - start) / self.fps:.2f} s)"
                panels.band(start, end, panels.y, _PANEL, palette.INTERACTION_SHADE, note)
        if pixels is not None:
            if self.pixel_threshold is not None:
                at = y(self.pixel_threshold)
                ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": at, "y2": at}
                panels.add(svg.tag("line", stroke=palette.INTERACTION, stroke_dasharray="4 3", **ends))
            panels.line(pixels, y, palette.INTERACTION, 1.4)
            for number, f in enumerate(self.marks, start=1):
                x, at = panels.x(f + 0.5), y(float(pixels[f]))
                panels.add(svg.tag("circle", cx=x, cy=at, r=7.5, fill=palette.PAPER, stroke=palette.INTERACTION))
                panels.add(svg.text(x, at + 3.5, number, class_="mark", text_anchor="middle"))
        panels.close(_PANEL)

    def _coverage(self, panels: Panels, coverage: np.ndarray) -> None:
        top = min(1.0, max(0.02, 1.15 * _extreme(coverage.astype(np.float64))))
        ticks = svg.ticks(0.0, top, 2)
        y = panels.open("robot mask, share of the picture", _LOW_PANEL, partial(linear_scale, 0.0, top), ticks, [])
        panels.line(coverage, y, palette.ROBOT, 1.4)
        panels.close(_LOW_PANEL)


def _log(top: float, bottom: float, upper: float) -> svg.Scale:
    return svg.log1p(top, (bottom, upper))


def _extreme(values: np.ndarray) -> float:
    """The greatest finite value, or 0."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else 0.0


def _short(value: float) -> float | None:
    """Four significant digits; None where there is no number (JSON has no NaN)."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
