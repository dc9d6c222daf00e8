"""Findings about the critic: does it predict episodes that it never saw?"""

from __future__ import annotations

from collections.abc import Iterator

from igrft.reports.run import figures
from igrft.reports.run.diagnosis import TOTAL, Diagnosis, Fit
from igrft.reports.run.finding import Finding
from igrft.reports.run.spell import two
from igrft.reports.text import percent, plural

# Thresholds, all ours: where a person who reads the chart would start to ask. None is from the paper.

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


def critic_findings(d: Diagnosis, fine: list[str]) -> Iterator[Finding]:
    """All of them; what is in order goes to ``fine``."""
    yield from _critic(d, fine)
    yield from _interaction(d, fine)


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
    heads = ", ".join(two(last.heldout[h]) + ("" if h == TOTAL else f" ({h})") for h in shown)
    trained = [v for h in shown if (v := last.training.get(h)) is not None]
    worst = min(v for h in shown if (v := last.heldout[h]) is not None)
    gap = max(
        (t - v for h in shown if (t := last.training.get(h)) is not None and (v := last.heldout[h]) is not None),
        default=0.0,
    )
    against = f" against {', '.join(two(t) for t in trained)} in training" if trained else ""
    if worst < _POOR_FIT and gap > _OVERFIT and max(trained) > _POOR_FIT:
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
            f"The critic was best at step {step:,} (held-out R² {two(best)}) and has come down to {two(known[-1][0])}: "
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
