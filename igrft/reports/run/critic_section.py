"""The section about the critic: its word on episodes that it never trained on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from igrft.reports import palette
from igrft.reports.run import charts
from igrft.reports.run.charts import Chart, Line
from igrft.reports.run.diagnosis import TOTAL, Diagnosis
from igrft.reports.run.section import Section, drawn
from igrft.reports.run.spell import two
from igrft.reports.text import percent, plural

_HEAD_NAMES = {"trajectory": "trajectory value", "subtask": "subtask value", TOTAL: "value"}


def critic_section(d: Diagnosis) -> Section:
    """The fit of each head over training and at its end, and the calibration of the interaction head."""
    heading = "The critic on held-out episodes"
    if not d.has_critic:
        return Section("critic", heading, absent=d.why_no_critic)
    if not d.fits:
        return Section("critic", heading, absent=d.why_no_heldout)
    last, rows = d.fits[-1], d.last_heldout
    steps = np.array([f.step for f in d.fits])
    found: list[Chart | None] = []
    for head in d.heads:
        fit = last.heldout.get(head)
        note = (
            f"R² {two(fit)} at step {last.step:,}; dashed: as it should be."
            if fit is not None
            else f"The reference does not vary here, so there is no R² (step {last.step:,})."
        )
        reference, predicted = d.value(rows, head, "return"), d.value(rows, head)
        found.append(charts.density(_HEAD_NAMES[head].capitalize(), reference, predicted, note=note))
    for head in [h for h in d.heads if h != TOTAL] or [TOTAL]:
        found.append(
            charts.lines(
                f"Fit of the {_HEAD_NAMES[head]}",
                [
                    Line("held-out", steps, _floats(f.heldout.get(head) for f in d.fits), palette.VALUE),
                    Line("training", steps, _floats(f.training.get(head) for f in d.fits), palette.REFERENCE, "5 3"),
                ],
                note="R²: 1 is exact, 0 a constant. A gap that opens is overfitting.",
                low=_r2_floor(d, head),
                high=1.0,
                log=False,
                level=(0.0, ""),
            )
        )
    found.append(
        charts.lines(
            "Interaction: precision and recall",
            [
                Line("precision", steps, _floats(f.precision for f in d.fits), palette.SERIES[0]),
                Line("recall", steps, _floats(f.recall for f in d.fits), palette.SERIES[1]),
            ],
            note="Held-out frames, at a probability of 0.5.",
            low=0.0,
            high=1.0,
            log=False,
        )
    )
    found.append(
        charts.calibration(
            "Interaction: calibration",
            d.calibration,
            note="T(s) takes the probability as it is: dots belong on the dashed line.",
        )
    )
    facts = [
        ("looked at", f"{last.frames:,} frames of {plural(last.episodes, 'episode')} at step {last.step:,}"),
        ("interaction", f"precision {percent(last.precision)}, recall {percent(last.recall)}"),
    ]
    if d.objective == "iql":
        expectile = d.run.number("objective.expectile", 0.7)
        facts.append(("iql", f"V is the {expectile:g} expectile of Q: above the mean return by design"))
    header = ["R² at the end", "held-out", "training"]
    table = [[_HEAD_NAMES[h], two(last.heldout.get(h)), two(last.training.get(h))] for h in d.heads]
    return Section("critic", heading, drawn(*found), facts, (header, table))


def _r2_floor(d: Diagnosis, head: str) -> float:
    """R² has no lower limit: below -1 it is cut off."""
    known = [v for f in d.fits for v in (f.heldout.get(head), f.training.get(head)) if v is not None]
    return max(-1.0, min(0.0, *known)) if known else 0.0


def _floats(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
