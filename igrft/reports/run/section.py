"""A section of the page of a run, and what all of them are made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from igrft.reports import palette
from igrft.reports.run.charts import Chart, Line
from igrft.reports.run.diagnosis import Diagnosis


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: the anchor that findings point at.
        charts: what is drawn.
        facts: (name, value), in words.
        table: header and rows, or None.
        absent: why there is nothing, or nothing more.
    """

    id: str
    heading: str
    charts: list[Chart] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    table: tuple[list[str], list[list[str]]] | None = None
    absent: str = ""


def series(d: Diagnosis, keys: Sequence[str], names: Sequence[str] = ()) -> list[Line]:
    """Lines of what the run logged under ``keys``; those that it never logged are left out."""
    out = []
    for i, key in enumerate(keys):
        steps, values = d.run.metrics.series(key)
        if len(steps):
            name = names[i] if names else key.removeprefix("loss_").replace("_", " ")
            out.append(Line(name, steps, values, palette.SERIES[i]))
    return out


def drawn(*found: Chart | None) -> list[Chart]:
    """The charts that had something to draw."""
    return [chart for chart in found if chart is not None]
