"""The sections of the page of a run: which charts stand where, and what is said where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from igrft.reports import palette
from igrft.reports.run import charts, figures
from igrft.reports.run.charts import Chart, Line
from igrft.reports.run.diagnosis import LEAST_SAMPLES, TOTAL, Diagnosis, Share
from igrft.reports.text import percent, plural

#: Episodes that are listed by name.
_MOST_NAMED = 12
#: Advantages are drawn between these quantiles; what lies outside counts in the outermost bin.
_QUANTILES = (0.005, 0.995)
#: Weights are drawn from here: exp(A / beta) that is smaller counts as this.
_LEAST_WEIGHT = 0.01

_HEAD_NAMES = {"trajectory": "trajectory value", "subtask": "subtask value", TOTAL: "value"}


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


def sections(d: Diagnosis) -> list[Section]:
    """All sections, in the order of the page."""
    if not d.has_advantages:
        # What the other sections would show is absent for the same reason.
        heading = "Advantages: over training, by episode, against motion and interventions"
        none = Section("weights", heading, _logged_weights(d), absent=d.why_no_advantages)
        return [_training(d), none, _critic(d), _speed(d)]
    return [_training(d), _weights(d), _episodes(d), _critic(d), _motion(d), _interventions(d), _speed(d)]


def _training(d: Diagnosis) -> Section:
    clip = d.run.number("optimizer.clip", 0.0)
    start = d.run.number("critic.start", 0)
    after = f"The critic is updated from step {start:,.0f}." if start else ""
    flow = "The actor's loss and its parts. A weighted loss also moves when the weights do."
    return Section(
        "training",
        "Training",
        _drawn(
            charts.lines("Loss of the actor", _series(d, ("loss", "loss_flow", "loss_text")), note=flow),
            charts.lines(
                "Losses of the critic",
                _series(d, ("loss_critic", "loss_value_trajectory", "loss_value_subtask", "loss_interaction")),
                note=f"{after} On the samples trained on: whether it predicts anything new stands below.".strip(),
            ),
            charts.lines("Losses of Q and V (iql)", _series(d, ("loss_q", "loss_v"))),
            charts.lines(
                "Learning rates",
                _series(d, ("learning_rate", "critic_learning_rate"), ("actor", "critic")),
                note="Warm-up, then cosine.",
                smooth=False,
            ),
            charts.lines(
                "Gradient norms",
                _series(d, ("grad_norm", "critic_grad_norm"), ("actor", "critic")),
                note="Before clipping; the dashed line is optimizer.clip.",
                level=(clip, "clip") if clip else None,
            ),
            charts.lines(
                "Subtask text predicted",
                _series(d, ("text_correct",)),
                note="Share of target tokens that the language model puts first.",
                low=0.0,
                high=1.0,
            ),
        ),
        absent="" if d.run.metrics.lines else "No step is logged yet: metrics.jsonl holds none.",
    )


def _weights(d: Diagnosis) -> Section:
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
        _drawn(
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
            *_logged_weights(d),
        ),
    )


def _logged_weights(d: Diagnosis) -> list[Chart]:
    return _drawn(
        charts.lines(
            "Clipped, effective sample size, positive",
            _series(
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
            _series(d, ("advantage_mean", "advantage_std"), ("mean", "standard deviation")),
            note=f"The mean belongs near 0. Beta is {d.beta:g}: an advantage of one beta weighs 2.7.",
            log=False,
        ),
    )


def _episodes(d: Diagnosis) -> Section:
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
        facts.append(("mean weight", f"{_two(good.weight)} on successes, {_two(bad.weight)} on failures"))
    place = figures.by_quantile(d.late["frame"] / np.maximum(d.late["length"], 1), d.late["advantage"])
    tenths = [(f"{i + 1}.", g) for i, g in enumerate(place)]
    return Section(
        "episodes",
        "Advantage by episode",
        _drawn(
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


def _critic(d: Diagnosis) -> Section:
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
            f"R² {_two(fit)} at step {last.step:,}; dashed: as it should be."
            if fit is not None
            else (f"The reference does not vary here, so there is no R² (step {last.step:,}).")
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
    header = ["R² at the end", "held-out", "training"]
    table = [[_HEAD_NAMES[h], _two(last.heldout.get(h)), _two(last.training.get(h))] for h in d.heads]
    return Section("critic", heading, _drawn(*found), facts, (header, table))


def _motion(d: Diagnosis) -> Section:
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
        _drawn(
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


def _interventions(d: Diagnosis) -> Section:
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
        _drawn(
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


def _speed(d: Diagnosis) -> Section:
    metrics = d.run.metrics
    steps, seconds = metrics.series("seconds")
    _, waits = metrics.series("seconds_data")
    share = []
    if len(waits) == len(seconds) and len(seconds):
        with np.errstate(invalid="ignore", divide="ignore"):
            share = [Line("waits for data", steps, np.where(seconds > 0, waits / seconds, np.nan), palette.SERIES[1])]
    found = _drawn(
        charts.lines("Throughput", _series(d, ("samples_per_second",)), unit="samples/s", low=0.0, log=False),
        charts.lines(
            "Seconds a step",
            _series(d, ("seconds", "seconds_data"), ("step", "of it waiting for data")),
            unit="s",
            low=0.0,
            log=False,
        ),
        charts.lines(
            "Share of a step that waits for data",
            share,
            note="The goal is under 5 %.",
            low=0.0,
            log=False,
            level=(0.05, "5 %"),
        ),
        charts.lines("Memory", _series(d, ("memory_gb",)), unit="GB", low=0.0, log=False),
    )
    return Section("speed", "Speed and memory", found, absent="" if found else "Nothing is logged about speed.")


def _series(d: Diagnosis, keys: Sequence[str], names: Sequence[str] = ()) -> list[Line]:
    out = []
    for i, key in enumerate(keys):
        steps, values = d.run.metrics.series(key)
        if len(steps):
            name = names[i] if names else key.removeprefix("loss_").replace("_", " ")
            out.append(Line(name, steps, values, palette.SERIES[i]))
    return out


def _compared(parts: Iterable[tuple[str, Share]]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            name,
            f"{s.count:,} ({percent(s.share)})",
            _three(s.advantage),
            percent(s.negative),
            _two(s.weight),
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


def _r2_floor(d: Diagnosis, head: str) -> float:
    """R² has no lower limit: below -1 it is cut off."""
    known = [v for f in d.fits for v in (f.heldout.get(head), f.training.get(head)) if v is not None]
    return max(-1.0, min(0.0, *known)) if known else 0.0


def _floats(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _drawn(*found: Chart | None) -> list[Chart]:
    return [chart for chart in found if chart is not None]


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".replace("-", "−")


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}".replace("-", "−")
