"""Charts over rounds: a point a round, with an interval where it is a share of a few episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from igrft.evaluation.statistics import wilson
from igrft.reports import palette, svg
from igrft.reports.rounds.read import Round
from igrft.reports.run.axes import Axes
from igrft.reports.run.charts import Chart


@dataclass(frozen=True)
class Series:
    """A line over rounds.

    Attributes:
        values: a number a round, None where there is none.
        intervals: (low, high) a round, or None; empty draws none.
    """

    name: str
    colour: str
    values: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None] = ()
    dash: str | None = None


def over_rounds(
    heading: str, rounds: Sequence[Round], held: Sequence[Series], *, name: str, note: str = "", share: bool = False
) -> Chart | None:
    """Lines with a dot a round, or None where nothing is known.

    Args:
        name: of the axis upwards.
        share: values are shares, drawn in percent on an axis from 0 to 100.
    """
    held = [s for s in held if any(v is not None for v in s.values)]
    if not held:
        return None
    scale = 100.0 if share else 1.0
    most = max(scale * v for s in held for v in s.values if v is not None)
    axes = Axes(
        (0.0, float(len(rounds))),
        (0.0, 100.0 if share else (most * 1.1 or 1.0)),
        label="round",
        name=name,
        names=[str(r.number) for r in rounds],
    )
    for k, series in enumerate(held):
        # Side by side, so that intervals do not lie over one another.
        at = np.arange(len(rounds)) + 0.5 + 0.07 * (k - (len(held) - 1) / 2)
        values = np.array([np.nan if v is None else scale * v for v in series.values])
        for x, interval in zip(at.tolist(), series.intervals, strict=False):
            if interval is not None:
                low, high = (axes.y(scale * v) for v in interval)
                ends = {"x1": axes.x(x), "x2": axes.x(x), "y1": low, "y2": high}
                axes.add(svg.tag("line", stroke=series.colour, stroke_width=5, stroke_opacity=0.2, **ends))
        axes.line(at, values, series.colour, dash=series.dash)
        for x, value, one in zip(at.tolist(), values.tolist(), rounds, strict=True):
            if np.isfinite(value):
                said = f"round {one.number}, {series.name}: {value:.3g}{' %' if share else ''}"
                axes.dot(x, value, series.colour, said, 4.0)
    key = [(s.colour, s.name) for s in held] if len(held) > 1 else []
    return Chart(heading, axes.finish(), note, key)


def round_charts(rounds: Sequence[Round]) -> list[Chart]:
    """All of them; those without a number are left out."""
    found = [
        over_rounds(
            "Success",
            rounds,
            [
                Series("success", palette.SUCCESS, [r.success for r in rounds], _intervals(rounds, "successes")),
                Series(
                    "without a takeover",
                    palette.SUBTASK_REWARD,
                    [r.unaided for r in rounds],
                    _intervals(rounds, "successes_without_help"),
                    "5 3",
                ),
            ],
            name="% of the episodes",
            note="Of the rollouts, noise and help included: an evaluation says how good the policy is. Bars: Wilson's "
            "95 % interval.",
            share=True,
        ),
        over_rounds(
            "Driven by a human",
            rounds,
            [Series("human", palette.INTERVENTION, [r.figure("human_share") for r in rounds])],
            name="% of the frames",
            note="What a policy that learns needs less of.",
            share=True,
        ),
        over_rounds(
            "Takeovers",
            rounds,
            [Series("takeovers", palette.INTERVENTION, [r.takeovers for r in rounds])],
            name="an episode",
        ),
        over_rounds(
            "Subtask progress",
            rounds,
            [Series("progress", palette.PART_TRAJECTORY, [r.figure("progress") for r in rounds])],
            name="% of the subtasks",
            note="Mean share of subtasks completed, help included.",
            share=True,
        ),
        over_rounds(
            "Length of an episode",
            rounds,
            [Series("steps", palette.NEUTRAL, [r.figure("mean_steps") for r in rounds])],
            name="steps",
        ),
    ]
    return [chart for chart in found if chart is not None]


def _intervals(rounds: Sequence[Round], name: str) -> list[tuple[float, float] | None]:
    out: list[tuple[float, float] | None] = []
    for r in rounds:
        part, whole = r.figure(name), r.figure("episodes")
        known = part is not None and whole and 0 <= part <= whole
        out.append(wilson(int(part), int(whole)) if known and part is not None and whole is not None else None)
    return out
