"""What stands out in a run, in plain words: why it may have got worse than SFT, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from igrft.reports.run import figures
from igrft.reports.run.diagnosis import LEAST_SAMPLES, NOTICEABLE, TOTAL, Diagnosis, Fit
from igrft.reports.text import percent, plural
from igrft.rewards.exploration import exploration_temperature, leaves_training_range

# Thresholds, all ours: where a person who reads the chart would start to ask. None is from the paper.

#: exp(A / beta) should order the samples; where a third of them share the highest weight, it no longer does.
_MANY_CLIPPED = 0.3
#: The temperature that is suggested instead leaves this share clipped.
_FEW_CLIPPED = 0.05
#: Below a tenth of the batch the gradient is that of a batch ten times smaller.
_SMALL_ESS = 0.1
#: Above this, weights hardly differ from 1 and the run is SFT with more work.
_FLAT_ESS = 0.99
#: Advantages should be about as often positive as negative; outside this, the value has an offset.
_POSITIVE_RANGE = (0.1, 0.9)
#: An offset of the advantages by more than this share of their spread.
_OFFSET = 1.0
#: Share of the episodes that have no positive advantage, or only such, above which it is said.
_MANY_EPISODES = 0.25
#: Held-out R² below which the values are hardly better than a constant.
_POOR_FIT = 0.2
#: Training minus held-out R² above which the critic has learnt its episodes by heart.
_OVERFIT = 0.3
#: Held-out R² lost since the best evaluation.
_PAST_BEST = 0.1
#: Fewer held-out episodes give a rough figure: R² counts episodes, not frames.
_FEW_EPISODES = 5
#: Precision or recall of the interaction head below which T(s) often has the wrong scale.
_POOR_INTERACTION = 0.6
#: Mean distance of predicted from observed frequency above which p is not a probability.
_UNCALIBRATED = 0.15
#: Idle or intervention samples needed before their mean is spoken of.
_LEAST_FRAMES = 30
#: Share of the corrections with a negative advantage, above which they teach little (peers saw 50 to 70 %).
_CORRECTIONS_LOST = 0.4
#: And at least this share of them by enough to matter: around 0 the sign is chance.
_CORRECTIONS_HELD_BACK = 0.25
#: Failures weighing this much more than successes.
_FAILURES_AHEAD = 1.1
#: The project's own goal for data loading is under 5 % of a step.
_WAITING = 0.05
#: Rise of the loss over its lowest (averaged over a tenth of the run) that is no longer noise.
_LOSS_ROSE = 1.3


@dataclass(frozen=True)
class Finding:
    """One sentence or two.

    Attributes:
        level: ``bad`` (explains a worse policy), ``warn`` (look at it) or ``note``.
        text: what is seen, and what to change.
        section: id of the section of the page that shows it.
    """

    level: str
    text: str
    section: str


def find(d: Diagnosis) -> tuple[list[Finding], list[str]]:
    """(what stands out, worst first; what was looked at and is in order)."""
    found: list[Finding] = []
    fine: list[str] = []
    for check in (_numbers, _clipped, _sample_size, _offset, _critic, _interaction, _pauses, _corrections, _outcomes):
        found += check(d, fine)
    for check in (_episodes, _loss, _exploration, _data):
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


def _clipped(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    if d.clipped is None:
        return
    if d.clipped <= _MANY_CLIPPED:
        fine.append(f"{percent(d.clipped)} of the weights are clipped at {d.limit:g}")
        return
    advantages = d.late["advantage"].astype(np.float64)
    beta = figures.beta_for_clipping(advantages, d.limit, _FEW_CLIPPED)
    hint = f"; objective.beta={beta:.2g} would clip {percent(_FEW_CLIPPED)}" if beta and beta > d.beta else ""
    spread = f" (their standard deviation is {np.nanstd(advantages):.2g})" if len(advantages) else ""
    yield Finding(
        "bad",
        f"{percent(d.clipped)} of the weights are clipped at {d.limit:g}: beta {d.beta:g} is too small for these "
        f"advantages{spread}, and samples that differ count the same{hint}",
        "weights",
    )


def _sample_size(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    ess = d.recent("ess")
    if ess is None or not d.has_advantages:
        return
    if ess < _SMALL_ESS:
        size = d.run.number("batch_size", 0)
        samples = f", about {max(1, round(ess * size))} of {size:.0f} samples" if size else ""
        yield Finding(
            "bad",
            f"The effective sample size is {percent(ess)} of the batch{samples}: a few frames carry every update; "
            "raise objective.beta, or lower objective.weight_limit",
            "weights",
        )
    elif ess > _FLAT_ESS:
        yield Finding(
            "warn",
            f"The weights hardly differ (effective sample size {percent(ess)} of the batch): this run is SFT; lower "
            "objective.beta, or see whether the advantages are all about the same",
            "weights",
        )
    else:
        fine.append(f"effective sample size {percent(ess)} of the batch")


def _offset(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    if not d.has_advantages:
        return
    advantages = d.late["advantage"].astype(np.float64)
    positive, mean, spread = float((advantages > 0).mean()), float(advantages.mean()), float(advantages.std())
    if spread == 0:
        yield Finding(
            "bad",
            f"All advantages are {mean:.3g}: reward and value are constant, so the weights order nothing; look at the "
            "reward columns",
            "weights",
        )
    elif abs(mean) > _OFFSET * spread or not _POSITIVE_RANGE[0] <= positive <= _POSITIVE_RANGE[1]:
        yield Finding(
            "warn",
            f"The advantages are {_signed(mean)} on average and positive for {percent(positive)} of the samples: the "
            f"critic's value falls {'slower' if mean > 0 else 'faster'} than the reward is earned, or has an offset; "
            "look at its fit before the weights",
            "weights",
        )
    else:
        fine.append(f"{percent(positive)} of the advantages are positive")


def _critic(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    if not d.has_critic:
        return
    if not d.fits:
        yield Finding("warn", d.why_no_heldout.rstrip("."), "critic")
        return
    last = d.fits[-1]
    start = d.run.number("critic.start", 0)
    if last.step <= start:
        yield Finding(
            "note", f"The critic starts after step {start:,.0f}: its fit so far is that of its start", "critic"
        )
        return
    # V is left to the charts where its parts are known: its fit follows from theirs.
    shown = [h for h in d.heads if last.heldout.get(h) is not None and (h != TOTAL or d.heads == (TOTAL,))]
    if not shown:
        yield Finding(
            "note",
            "The reference returns of the held-out frames do not vary, so no fit of the critic can be given: hold out "
            "more episodes (critic.holdout), of successes and failures",
            "critic",
        )
        return
    yield from _fit(d, last, shown, fine)
    yield from _past_best(d, last)
    if 0 < last.episodes < _FEW_EPISODES:
        yield Finding(
            "note",
            f"The held-out fit rests on {plural(last.episodes, 'episode')}: a rough figure; critic.holdout takes more",
            "critic",
        )


def _fit(d: Diagnosis, last: Fit, shown: list[str], fine: list[str]) -> Iterator[Finding]:
    heads = ", ".join(_r2(last.heldout[h]) + ("" if h == TOTAL else f" ({h})") for h in shown)
    trained = [v for h in shown if (v := last.training.get(h)) is not None]
    worst = min(v for h in shown if (v := last.heldout[h]) is not None)
    gap = max(
        (t - v for h in shown if (t := last.training.get(h)) is not None and (v := last.heldout[h]) is not None),
        default=0.0,
    )
    against = f" against {', '.join(_r2(t) for t in trained)} in training" if trained else ""
    if worst < _POOR_FIT and gap > _OVERFIT:
        yield Finding(
            "bad",
            f"The critic does not predict held-out episodes: R² {heads}{against}. It has learnt its episodes by heart: "
            "stop it earlier (critic.patience), or give more episodes",
            "critic",
        )
    elif worst < _POOR_FIT:
        yield Finding(
            "bad",
            f"The critic has not learnt the returns: held-out R² {heads}{against} (0 is a constant); train it longer "
            "(critic.start, critic.learning_rate) before its advantages count",
            "critic",
        )
    elif gap > _OVERFIT:
        yield Finding(
            "warn",
            f"The critic fits its own episodes better than held-out ones: R² {heads}{against}; give more episodes, or "
            "stop it earlier (critic.patience)",
            "critic",
        )
    else:
        fine.append(f"held-out R² of the critic {heads}{against}")


def _past_best(d: Diagnosis, last: Fit) -> Iterator[Finding]:
    known = [(v, f.step) for f in d.fits if (v := f.heldout.get(TOTAL)) is not None]
    if len(known) < 2 or known[-1][1] != last.step:
        return
    best, step = max(known)
    if best - known[-1][0] > _PAST_BEST:
        patience = d.run.setting("critic.patience")
        hint = "set critic.patience, which keeps the best" if patience is None else f"critic.patience is {patience}"
        yield Finding(
            "warn",
            f"The critic was best at step {step:,} (held-out R² {_r2(best)}) and has come down to {_r2(known[-1][0])}: "
            f"{hint}",
            "critic",
        )


def _interaction(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    if not d.fits:
        return
    last = d.fits[-1]
    if last.precision is None and last.recall is None:
        return
    said = f"precision {percent(last.precision)}, recall {percent(last.recall)}"
    if min(last.precision or 0.0, 1.0 if last.recall is None else last.recall) < _POOR_INTERACTION:
        yield Finding(
            "warn",
            f"The interaction head is often wrong on held-out episodes ({said}): T(s) draws the wrong noise there; "
            "look at the interaction labels (igrft report DATASET), or train the critic longer",
            "critic",
        )
    else:
        fine.append(f"interaction {said}")
    error = figures.calibration_error(d.calibration)
    if error is not None and error > _UNCALIBRATED:
        yield Finding(
            "warn",
            f"Interaction probabilities are off by {percent(error)} on average on held-out episodes: T(s) takes them "
            "as they are",
            "critic",
        )


def _pauses(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    if d.idle is None:
        return
    still, others = d.idle
    if still.count < _LEAST_FRAMES or still.advantage is None:
        fine.append(f"{percent(still.share)} of the samples stand still")
        return
    if still.advantage > NOTICEABLE * d.beta:
        credited = d.run.setting("rewards.idle_credit", True)
        hint = (
            "set rewards.idle_credit=false, or rewards.discount below 1" if credited else "set rewards.discount below 1"
        )
        yield Finding(
            "bad",
            f"Pauses are rewarded: frames that stand still ({percent(still.share)} of the samples) have mean advantage "
            f"{_signed(still.advantage)}, the others {_signed(others.advantage)}; {hint}",
            "motion",
        )
    else:
        fine.append(f"frames that stand still have mean advantage {_signed(still.advantage)}")


def _corrections(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    if d.interventions is None:
        return
    human, others = d.interventions
    if human.count < _LEAST_FRAMES or human.negative is None:
        return
    negative = human.negative
    floor = d.run.number("objective.intervention_floor", 0.0)
    lost = negative > _CORRECTIONS_LOST and (human.held_back or 0.0) > _CORRECTIONS_HELD_BACK
    if lost and floor < 1:
        about = "half" if 0.45 <= negative <= 0.55 else percent(negative)
        yield Finding(
            "bad",
            f"{about.capitalize()} of the corrections get a negative advantage (frames on which a human took over; "
            f"mean weight {_number(human.weight)}, of the other samples {_number(others.weight)}): what the human "
            "showed is held back; set objective.intervention_floor=1",
            "interventions",
        )
    else:
        fine.append(f"{percent(negative)} of the corrections get a negative advantage (weight floor {floor:g})")


def _outcomes(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    if d.outcomes is None:
        return
    good, bad = d.outcomes
    if good.weight is None or bad.weight is None or min(good.count, bad.count) < _LEAST_FRAMES:
        return
    said = f"mean weight {bad.weight:.2f} on failures, {good.weight:.2f} on successes"
    if bad.weight > _FAILURES_AHEAD * good.weight:
        yield Finding(
            "bad",
            f"Failed episodes count more than successful ones ({said}): the policy learns what failed; the critic "
            "expects too little of failures, or try objective.frames=successes",
            "episodes",
        )
    else:
        fine.append(said)


def _episodes(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    enough = d.episodes.count >= LEAST_SAMPLES
    if not enough.any():
        return
    shares = d.episodes.positive[enough]
    for mask, words, what in (
        (shares == 0, "have no sample of positive advantage", "nothing in them is reinforced"),
        (shares == 1, "have only samples of positive advantage", "everything in them is reinforced"),
    ):
        if mask.mean() > _MANY_EPISODES:
            yield Finding(
                "warn",
                f"{int(mask.sum())} of {plural(len(shares), 'episode')} {words}: {what}, so the critic tells episodes "
                "apart and not moments",
                "episodes",
            )


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
    if d.waiting > _WAITING:
        workers = d.run.setting("num_workers")
        now = f" than {workers}" if isinstance(workers, int) else ""
        yield Finding(
            "note",
            f"{percent(d.waiting)} of the time waits for data: more workers{now} (num_workers)",
            "speed",
        )
    else:
        fine.append(f"{percent(d.waiting)} of the time waits for data")


def _r2(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".replace("-", "−")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    """An advantage with its sign, three places."""
    return "-" if value is None else f"{value:+.3f}".replace("-", "−")
