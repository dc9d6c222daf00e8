"""Findings about advantages and weights: which samples count, and whether they are the right ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from igrft.reports.run import figures
from igrft.reports.run.diagnosis import LEAST_SAMPLES, NOTICEABLE, Diagnosis
from igrft.reports.run.finding import Finding
from igrft.reports.run.spell import signed, two
from igrft.reports.text import percent, plural

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
#: Idle or intervention samples needed before their mean is spoken of.
_LEAST_FRAMES = 30
#: Below this share of the samples pauses move nothing.
_LEAST_SHARE = 0.01
#: Share of the corrections with a negative advantage, above which they teach little (peers saw 50 to 70 %).
_CORRECTIONS_LOST = 0.4
#: And at least this share of them by enough to matter: around 0 the sign is chance.
_CORRECTIONS_HELD_BACK = 0.25
#: Mean advantage, in units of beta, below which the ends of successes hardly count: exp(-1) = 0.37.
_ENDS_LOST = -1.0
#: Failures weighing this much more than successes.
_FAILURES_AHEAD = 1.1


def weight_findings(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    """All of them; what is in order goes to ``fine``."""
    for check in (_clipped, _sample_size, _offset, _pauses, _corrections, _ends, _outcomes, _episodes):
        yield from check(d, fine)


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
            f"The advantages are {signed(mean)} on average and positive for {percent(positive)} of the samples: the "
            f"critic's value falls {'slower' if mean > 0 else 'faster'} than the reward is earned, or has an offset; "
            "look at its fit before the weights",
            "weights",
        )
    else:
        fine.append(f"{percent(positive)} of the advantages are positive")


def _pauses(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    if d.idle is None:
        return
    still, others = d.idle
    if still.count < _LEAST_FRAMES or still.share < _LEAST_SHARE or still.advantage is None:
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
            f"{signed(still.advantage)}, the others {signed(others.advantage)}; {hint}",
            "motion",
        )
    else:
        fine.append(f"frames that stand still have mean advantage {signed(still.advantage)}")


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
            f"mean weight {two(human.weight)}, of the other samples {two(others.weight)}): what the human "
            "showed is held back; set objective.intervention_floor=1",
            "interventions",
        )
    else:
        fine.append(f"{percent(negative)} of the corrections get a negative advantage (weight floor {floor:g})")


def _ends(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    if d.ends is None or d.ends.count < _LEAST_FRAMES or d.ends.advantage is None:
        return
    if d.ends.advantage < _ENDS_LOST * d.beta:
        yield Finding(
            "bad",
            f"The ends of successes are held back: their last tenth has mean advantage {signed(d.ends.advantage)} and "
            f"mean weight {two(d.ends.weight)}. Past the end the value is 0, and the critic has not come down to it: "
            "train it longer",
            "episodes",
        )
    else:
        fine.append(f"the last tenth of successes has mean advantage {signed(d.ends.advantage)}")


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
