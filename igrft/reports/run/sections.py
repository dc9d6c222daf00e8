"""The sections of the page of a run: which charts stand where, and what is said where there is nothing to draw."""

from __future__ import annotations

import numpy as np

from igrft.reports import palette
from igrft.reports.run import charts
from igrft.reports.run.advantage_sections import (
    episodes_section,
    interventions_section,
    logged_weights,
    motion_section,
    weights_section,
)
from igrft.reports.run.charts import Line
from igrft.reports.run.critic_section import critic_section
from igrft.reports.run.diagnosis import Diagnosis
from igrft.reports.run.section import Section, drawn, series


def sections(d: Diagnosis) -> list[Section]:
    """All sections, in the order of the page."""
    if not d.has_advantages:
        # What the other sections would show is absent for the same reason.
        heading = "Advantages: over training, by episode, against motion and interventions"
        none = Section("weights", heading, logged_weights(d), absent=d.why_no_advantages)
        return [_training(d), none, critic_section(d), _speed(d)]
    return [
        _training(d),
        weights_section(d),
        episodes_section(d),
        critic_section(d),
        motion_section(d),
        interventions_section(d),
        _speed(d),
    ]


def _training(d: Diagnosis) -> Section:
    clip = d.run.number("optimizer.clip", 0.0)
    start = d.run.number("critic.start", 0)
    after = f"The critic is updated from step {start:,.0f}." if start else ""
    flow = "The actor's loss and its parts. A weighted loss also moves when the weights do."
    return Section(
        "training",
        "Training",
        drawn(
            charts.lines("Loss of the actor", series(d, ("loss", "loss_flow", "loss_text")), note=flow),
            charts.lines(
                "Losses of the critic",
                series(d, ("loss_critic", "loss_value_trajectory", "loss_value_subtask", "loss_interaction")),
                note=f"{after} On the samples trained on: whether it predicts anything new stands below.".strip(),
            ),
            charts.lines("Losses of Q and V (iql)", series(d, ("loss_q", "loss_v"))),
            charts.lines(
                "Learning rates",
                series(d, ("learning_rate", "critic_learning_rate"), ("actor", "critic")),
                note="Warm-up, then cosine.",
                smooth=False,
            ),
            charts.lines(
                "Gradient norms",
                series(d, ("grad_norm", "critic_grad_norm"), ("actor", "critic")),
                note="Before clipping; the dashed line is optimizer.clip.",
                level=(clip, "clip") if clip else None,
            ),
            charts.lines(
                "Subtask text predicted",
                series(d, ("text_correct",)),
                note="Share of target tokens that the language model puts first.",
                low=0.0,
                high=1.0,
            ),
        ),
        absent="" if d.run.metrics.lines else "No step is logged yet: metrics.jsonl holds none.",
    )


def _speed(d: Diagnosis) -> Section:
    metrics = d.run.metrics
    steps, seconds = metrics.series("seconds")
    _, waits = metrics.series("seconds_data")
    share = []
    if len(waits) == len(seconds) and len(seconds):
        with np.errstate(invalid="ignore", divide="ignore"):
            share = [Line("waits for data", steps, np.where(seconds > 0, waits / seconds, np.nan), palette.SERIES[1])]
    found = drawn(
        charts.lines("Throughput", series(d, ("samples_per_second",)), unit="samples/s", low=0.0, log=False),
        charts.lines(
            "Seconds a step",
            series(d, ("seconds", "seconds_data"), ("step", "of it waiting for data")),
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
        charts.lines("Memory", series(d, ("memory_gb",)), unit="GB", low=0.0, log=False),
    )
    return Section("speed", "Speed and memory", found, absent="" if found else "Nothing is logged about speed.")
