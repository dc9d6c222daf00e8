"""What stands out in a run, in plain words: why it may have got worse than SFT, and what to change."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from igrft.reports.run import figures
from igrft.reports.run.critic_findings import critic_findings
from igrft.reports.run.diagnosis import Diagnosis
from igrft.reports.run.finding import Finding
from igrft.reports.run.weight_findings import weight_findings
from igrft.reports.text import percent
from igrft.rewards.exploration import exploration_temperature, leaves_training_range

# Thresholds, all ours: where a person who reads the chart would start to ask. None is from the paper.

#: The project's own goal for data loading is under 5 % of a step.
_WAITING = 0.05
#: Seconds of a step below which nobody minds what it waits for.
_QUICK = 0.05
#: Rise of the loss over its lowest (averaged over a tenth of the run) that is no longer noise.
_LOSS_ROSE = 1.3


def find(d: Diagnosis) -> tuple[list[Finding], list[str]]:
    """(what stands out, worst first; what was looked at and is in order)."""
    found: list[Finding] = []
    fine: list[str] = []
    for check in (_numbers, weight_findings, critic_findings, _loss, _exploration, _data):
        found += check(d, fine)
    order = {"bad": 0, "warn": 1, "note": 2}
    return sorted(found, key=lambda f: order[f.level]), fine


def _numbers(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    for key in ("loss", "grad_norm"):
        steps, values = d.run.metrics.series(key)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            yield Finding(
                "bad",
                f"{key} is not a number at step {steps[bad[0]]:,}: the weights from there on are lost; go back to a "
                "checkpoint before it, with a lower learning rate or optimizer.clip",
                "training",
            )
            return
    if not d.run.metrics.lines:
        yield Finding("note", "No step is logged yet: the page fills as the run goes on", "training")


def _loss(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    name = "loss_flow" if len(d.run.metrics.series("loss_flow")[0]) else "loss"
    steps, values = d.run.metrics.series(name)
    if len(steps) < 20 or not np.isfinite(values).all():
        return
    smooth = figures.moving_average(values, max(2, len(values) // 10))
    low = int(np.argmin(smooth))
    if smooth[low] > 0 and smooth[-1] > _LOSS_ROSE * smooth[low]:
        yield Finding(
            "warn",
            f"{name} rose from {smooth[low]:.3g} at step {steps[low]:,} to {smooth[-1]:.3g}: a lower learning rate, or "
            "weights that move with the critic",
            "training",
        )
    else:
        fine.append(f"{name} came down to {smooth[-1]:.3g}")


def _exploration(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    run = d.run
    scale = run.setting("objective.noise_scale", [1.0, 1.0])
    top = float(scale[-1]) if isinstance(scale, list) and scale else 1.0
    kind = run.setting("exploration.type", "interaction")
    if kind == "uniform":
        most, name = run.number("exploration.uniform", 1.0), "The uniform noise of rollouts"
        outside = most > top
    else:
        settings = (
            run.number("exploration.sigma_base", 1.5),
            run.number("exploration.alpha", 0.9),
            run.number("exploration.sigma_min", 0.2),
        )
        most, name = float(exploration_temperature(np.array([0.0, 1.0]), *settings).max()), "T(s) of rollouts"
        # Training with standard deviation s covers all smaller scales: hence from 0.
        outside = leaves_training_range(*settings, trained=(0.0, top))
    if outside:
        yield Finding(
            "warn",
            f"{name} reaches {most:g}, outside the noise scale {top:g} that the flow was trained on: rollouts leave "
            f"what it knows; lower exploration.{'uniform' if kind == 'uniform' else 'sigma_base'}, or train with "
            f"objective.noise_scale up to {most:g}",
            "recipe",
        )
    else:
        fine.append(f"noise of rollouts up to {most:g}, trained up to {top:g}")


def _data(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    if d.waiting is None:
        return
    _, seconds = d.run.metrics.series("seconds")
    slow = bool(len(seconds)) and float(np.nanmedian(seconds)) > _QUICK
    if d.waiting > _WAITING and slow:
        workers = d.run.setting("num_workers")
        now = f" than {workers}" if isinstance(workers, int) else ""
        yield Finding(
            "note",
            f"{percent(d.waiting)} of the time waits for data: more workers{now} (num_workers)",
            "speed",
        )
    else:
        fine.append(f"{percent(d.waiting)} of the time waits for data")
