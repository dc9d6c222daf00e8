"""The sections about advantages and weights: over training, by episode, against motion and interventions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from igrft.reports import palette
from igrft.reports.run import charts, figures
from igrft.reports.run.charts import Chart
from igrft.reports.run.diagnosis import LEAST_SAMPLES, Diagnosis, Share
from igrft.reports.run.section import Section, drawn, series
from igrft.reports.run.spell import signed, two
from igrft.reports.text import percent, plural

#: Episodes that are listed by name.
_MOST_NAMED = 12
#: Advantages are drawn between these quantiles; what lies outside counts in the outermost bin.
_QUANTILES = (0.005, 0.995)
#: Weights are drawn from here: exp(A / beta) that is smaller counts as this.
_LEAST_WEIGHT = 0.01


def weights_section(d: Diagnosis) -> Section:
    """How advantages and weights are spread, over training and at its end. Needs advantages, as the next three."""
    rows, late = d.run.samples, d.late
    limits = _limits(rows["advantage"])
    kept = np.flatnonzero(np.isfinite(rows["advantage"]))
    heat = "Dark is many. A band that widens or drifts follows the critic."
    spread = charts.histograms(
        "Advantages at the end",
        [("advantage", palette.NEUTRAL, late["advantage"])],
        limits=limits,
        label="advantage",
        note=f"Of {len(late['step']):,} samples from step {d.late_from:,} on; dashed: 0.",
        mark=0.0,
    )
    weight_limits = (_LEAST_WEIGHT, max(d.limit, 2 * _LEAST_WEIGHT))
    return Section(
        "weights",
        "Advantages and weights",
        drawn(
            charts.heat_map(
                "Advantages over training",
                rows["step"][kept],
                rows["advantage"][kept],
                limits=limits,
                name="advantage",
                note=heat,
                level=0.0,
            ),
            charts.heat_map(
                "Weights over training",
                rows["step"][kept],
                np.maximum(rows["weight"][kept], _LEAST_WEIGHT),
                limits=weight_limits,
                name="weight",
                note=f"exp(A / {d.beta:g}), at most {d.limit:g}; the top row holds the clipped. Dashed: 1, as in SFT.",
                log=True,
                level=1.0,
            ),
            spread,
            charts.histograms(
                "Weights at the end",
                [("weight", palette.NEUTRAL, np.maximum(late["weight"], _LEAST_WEIGHT))],
                limits=weight_limits,
                label="weight",
                note=f"The rightmost bar holds the clipped, the leftmost all below {_LEAST_WEIGHT:g}; dashed: 1.",
                log=True,
                mark=1.0,
            ),
            *logged_weights(d),
        ),
    )


def logged_weights(d: Diagnosis) -> list[Chart]:
    """What the steps logged of their weights, also where no sample is recorded."""
    return drawn(
        charts.lines(
            "Clipped, effective sample size, positive",
            series(
                d,
                ("clipped_share", "ess", "positive_share"),
                ("weights clipped", "effective sample size", "advantages above 0"),
            ),
            note="Shares of the batch. The effective sample size is (Σw)² / (n Σw²): 1 if all weights are equal.",
            low=0.0,
            high=1.0,
            log=False,
        ),
        charts.lines(
            "Mean and spread of the advantages",
            series(d, ("advantage_mean", "advantage_std"), ("mean", "standard deviation")),
            note=f"The mean belongs near 0. Beta is {d.beta:g}: an advantage of one beta weighs 2.7.",
            log=False,
        ),
    )


def episodes_section(d: Diagnosis) -> Section:
    """Which episodes are reinforced, and where in them."""
    e = d.episodes
    names = [d.run.episode_name(int(a), int(b)) for a, b in zip(e.dataset, e.episode, strict=True)]
    enough = e.count >= LEAST_SAMPLES
    none, every = np.flatnonzero(enough & (e.positive == 0)), np.flatnonzero(enough & (e.positive == 1))
    facts = [
        ("no positive sample", _named(names, none)),
        ("only positive samples", _named(names, every)),
    ]
    if (~enough).any():
        facts.append((f"fewer than {LEAST_SAMPLES} samples", f"{plural(int((~enough).sum()), 'episode')}, not judged"))
    if d.outcomes is not None:
        good, bad = d.outcomes
        facts.append(("mean weight", f"{two(good.weight)} on successes, {two(bad.weight)} on failures"))
    place = figures.by_quantile(d.late["frame"] / np.maximum(d.late["length"], 1), d.late["advantage"])
    tenths = [(f"{i + 1}.", g) for i, g in enumerate(place)]
    return Section(
        "episodes",
        "Advantage by episode",
        drawn(
            charts.episodes(
                "Positive share of each episode",
                e,
                d.episode_success,
                names,
                note="Dots at 0 or 100 % are episodes that are held back or reinforced as a whole.",
            ),
            charts.bars(
                "Advantage along the episode",
                tenths,
                positive=False,
                label="tenth of the episode",
                note="Past the end reward and value are 0: an end that stands out is the critic's last value.",
            ),
        ),
        facts,
    )


def motion_section(d: Diagnosis) -> Section:
    """Whether pauses are rewarded."""
    heading = "Advantage against motion"
    if d.idle is None:
        return Section("motion", heading, absent="The motion of the samples is not recorded.")
    groups = [(f"{i + 1}.", g) for i, g in enumerate(figures.by_quantile(d.late["motion"], d.late["advantage"]))]
    still, others = d.idle
    if d.still.any():
        held = figures.summary(d.late["motion"][d.still], d.late["advantage"][d.still].astype(np.float64))
        groups = [("still", held), *groups]
    label = "tenth by motion, slowest first"
    return Section(
        "motion",
        heading,
        drawn(
            charts.bars(
                "Mean advantage by motion",
                groups,
                positive=False,
                label=label,
                note=f"Still: at most {percent(d.idle_share)} of the episode's median motion. Are pauses rewarded?",
                first="still",
            ),
            charts.bars(
                "Share of positive advantages by motion",
                groups,
                positive=True,
                label=label,
                note="With a discount of 1 a pause earns 1/T a frame while the value stands still.",
                first="still",
            ),
        ),
        table=_compared((("stands still", still), ("moves", others))),
    )


def interventions_section(d: Diagnosis) -> Section:
    """Whether what a human showed is held back."""
    heading = "Advantage against interventions"
    if d.interventions is None:
        return Section(
            "interventions",
            heading,
            absent="No sample is marked as an intervention: these are demonstrations, or rollouts without help.",
        )
    human, others = d.interventions
    flags = d.late["intervention"]
    floor = d.run.number("objective.intervention_floor", 0.0)
    return Section(
        "interventions",
        heading,
        drawn(
            charts.histograms(
                "Advantages of corrections and of the rest",
                [
                    ("other samples", palette.RULE, d.late["advantage"][~flags]),
                    ("a human took over", palette.INTERVENTION, d.late["advantage"][flags]),
                ],
                limits=_limits(d.late["advantage"]),
                label="advantage",
                note=f"Left of 0 a correction is held back; objective.intervention_floor is {floor:g}.",
                mark=0.0,
            )
        ),
        table=_compared((("a human took over", human), ("other samples", others))),
    )


def _compared(parts: Iterable[tuple[str, Share]]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            name,
            f"{s.count:,} ({percent(s.share)})",
            signed(s.advantage),
            percent(s.negative),
            two(s.weight),
        ]
        for name, s in parts
    ]
    return ["late samples", "how many", "mean advantage", "negative", "mean weight"], rows


def _named(names: Sequence[str], at: np.ndarray) -> str:
    if not len(at):
        return "none"
    shown = ", ".join(names[int(i)].removeprefix("episode ") for i in at[:_MOST_NAMED])
    more = f" and {len(at) - _MOST_NAMED} more" if len(at) > _MOST_NAMED else ""
    return f"{plural(len(at), 'episode')}: {shown}{more}"


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Limits for advantages, with 0 among them."""
    low, high = np.nanquantile(values.astype(np.float64), _QUANTILES)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    return (low, high) if high > low else (-0.1, 0.1)
