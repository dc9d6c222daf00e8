"""What stands out in a run made of rounds, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from igrft.evaluation.statistics import wilson
from igrft.reports.rollouts.section import trained_noise
from igrft.reports.rounds.read import Round, RoundsRun
from igrft.reports.run.finding import Finding
from igrft.reports.text import percent, plural
from igrft.rewards.exploration import exploration_temperature

# Thresholds, all ours: where a person who reads the table would start to ask.

#: A human share that is no longer help but teleoperation.
_MOSTLY_HUMAN = 0.5
#: A change of the human share that is more than the luck of a few episodes.
_SHARE_ROSE = 0.1


def find_rounds(run: RoundsRun) -> list[Finding]:
    """Worst first."""
    held = [r for r in run.rounds if r.success is not None]
    found: list[Finding] = []
    if held:
        for check in (_success, _human, _help):
            found += check(held)
        found += _noise(run)
    order = {"bad": 0, "warn": 1, "note": 2}
    return sorted(found, key=lambda f: order[f.level])


def _success(rounds: list[Round]) -> Iterator[Finding]:
    first, last = rounds[0], rounds[-1]
    if first is last:
        return
    words = f"{_counts(first)} in round {first.number}, {_counts(last)} in round {last.number}"
    a, b = (wilson(int(r.figures["successes"]), int(r.figures["episodes"])) for r in (first, last))
    if b[1] < a[0]:
        yield Finding("bad", f"Success of the rollouts fell: {words}. See why in the rounds' diagnoses", "rounds")
    elif b[0] > a[1]:
        yield Finding("note", f"Success of the rollouts rose: {words}", "rounds")
    else:
        yield Finding(
            "note",
            f"Success of the rollouts: {words}. The intervals overlap: so few episodes do not show a change. An "
            "evaluation on fixed seeds does (igrft eval)",
            "rounds",
        )


def _counts(one: Round) -> str:
    return f"{one.figures['successes']:.0f} of {one.figures['episodes']:.0f}"


def _human(rounds: list[Round]) -> Iterator[Finding]:
    known = [r for r in rounds if r.figure("human_share") is not None]
    if not known:
        return
    first, last = known[0].figures["human_share"], known[-1].figures["human_share"]
    if last > _MOSTLY_HUMAN:
        yield Finding(
            "warn",
            f"A human drove {percent(last)} of round {known[-1].number}: its success says little of the policy",
            "rounds",
        )
    if last > first + _SHARE_ROSE:
        yield Finding(
            "warn",
            f"The human's share rose from {percent(first)} to {percent(last)} of the frames: the policy needs more "
            "help, not less",
            "rounds",
        )


def _help(rounds: list[Round]) -> Iterator[Finding]:
    known = [r for r in rounds if r.figure("interventions") is not None]
    failures = sum(r.figures["episodes"] - r.figures["successes"] for r in known)
    if known and failures and not any(r.figures["interventions"] for r in known):
        yield Finding(
            "warn",
            f"Nobody took over, and {plural(int(failures), 'episode')} failed: the updates see no correction. Set "
            "rollout.human.type, and tune the monitor on a round's report",
            "rounds",
        )


def _noise(run: RoundsRun) -> Iterator[Finding]:
    kind = run.setting("exploration.type", "interaction")
    recorded = next((r.settings for r in reversed(run.rounds) if r.settings), {})
    trained = trained_noise(recorded)
    if trained is None or kind == "off":
        return
    if kind == "uniform":
        most, key = _number(run, "exploration.uniform", 1.0), "uniform"
    else:
        base, alpha, least = (
            _number(run, f"exploration.{k}", v) for k, v in (("sigma_base", 1.5), ("alpha", 0.9), ("sigma_min", 0.2))
        )
        most, key = float(exploration_temperature(np.array([0.0, 1.0]), base, alpha, least).max()), "sigma_base"
    if most > trained[1] * (1 + 1e-6):
        yield Finding(
            "warn",
            f"The noise of the rollouts reaches {most:.3g}, and the flow was trained up to {trained[1]:g}: rollouts "
            f"leave what it knows; lower exploration.{key}",
            "recipe",
        )


def _number(run: RoundsRun, key: str, default: float) -> float:
    value = run.setting(key, default)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
