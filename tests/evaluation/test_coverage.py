"""How often the interval of a paired difference holds the truth, where runs differ by their training seed.

The truth is simulated: methods that differ by a given amount on each task, runs that scatter around it, and
starts that are the same for both methods and for all runs of a task. A 95 % interval must hold it about 95 times in a
hundred. The usual bootstrap over runs does not, nor does Student's t over the runs alone where the start decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from igrft.evaluation.statistics import paired_difference


@dataclass(frozen=True)
class Study:
    """Tasks, training seeds and episodes; how the runs of one method scatter; rates of the two methods a task.

    ``decided``: share of the episodes that the start decides alone, alike in all runs of a task.
    """

    tasks: int = 4
    seeds: int = 3
    episodes: int = 50
    scatter: float = 0.1
    difference: float = 0.15
    between_tasks: float = 0.0
    base: float = 0.4
    decided: float = 0.5


def coverage(study: Study, studies: int = 400) -> dict[str, float]:
    """Share of simulated studies whose interval holds the true difference, by method."""
    rng = np.random.default_rng(0)
    runs = study.tasks * study.seeds
    spread = np.linspace(-0.15, 0.15, study.tasks) if study.tasks > 1 else np.zeros(1)
    effect = np.linspace(-1, 1, study.tasks) * study.between_tasks if study.tasks > 1 else np.zeros(1)
    second = np.repeat(study.base + spread, study.seeds)
    first = second + study.difference + np.repeat(effect, study.seeds)
    # Rates are cut to [0, 1]: the truth is the mean over runs that could have been.
    drawn = study.scatter * rng.standard_normal((20000, 1))
    truth = float(np.clip(first + drawn, 0, 1).mean() - np.clip(second + drawn, 0, 1).mean())
    labels = np.repeat(np.arange(runs), study.episodes)
    starts = np.repeat(np.arange(study.tasks * study.episodes).reshape(study.tasks, -1), study.seeds, axis=0).ravel()
    held = {"ours": 0, "runs alone": 0, "bootstrap": 0, "episodes": 0}
    for _ in range(studies):
        rates = [np.clip(m + study.scatter * rng.standard_normal(runs), 0, 1)[:, None] for m in (first, second)]
        shared, alike = np.repeat(rng.random((2, study.tasks, study.episodes)), study.seeds, axis=1)
        a, b = (np.where(alike < study.decided, shared, rng.random(shared.shape)) < r for r in rates)
        found = paired_difference(a.ravel(), b.ravel(), labels, starts)
        alone = paired_difference(a.ravel(), b.ravel(), labels)
        differences = a.mean(axis=1) - b.mean(axis=1)
        again = differences[rng.integers(0, runs, (400, runs))].mean(axis=1)
        low, high = np.quantile(again, [0.025, 0.975])
        held["ours"] += found.low <= truth <= found.high
        held["runs alone"] += alone.low <= truth <= alone.high
        held["bootstrap"] += low <= truth <= high
        held["episodes"] += found.within_low <= truth <= found.within_high
    return {name: count / studies for name, count in held.items()}


STUDIES = {
    "four tasks, three seeds": Study(),
    "runs that do not differ": Study(scatter=0.0),
    "effects that differ by task": Study(between_tasks=0.15),
    "few episodes": Study(episodes=10),
    "near the ceiling": Study(base=0.8, difference=0.05, scatter=0.03),
    "one task, three seeds": Study(tasks=1),
    "two tasks, one seed": Study(tasks=2, seeds=1),
    "the start decides": Study(scatter=0.02, decided=0.9),
    "the start decides, one task": Study(tasks=1, scatter=0.02, decided=0.9),
    "the start says nothing": Study(decided=0.0),
}


#: The size of a whole study, and the hardest; the others take a minute together.
QUICK = ("four tasks, three seeds", "the start decides")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in STUDIES])
def test_the_interval_holds_what_it_promises(name):
    found = coverage(STUDIES[name])
    # 400 studies: a coverage of 0.95 is seen within 0.022 of it, 19 times in 20.
    assert found["ours"] >= 0.925, found


def test_a_bootstrap_over_runs_is_too_narrow_and_episodes_alone_far_too():
    found = coverage(STUDIES["four tasks, three seeds"])
    assert found["bootstrap"] < 0.93 and found["episodes"] < 0.75
    assert coverage(STUDIES["one task, three seeds"])["bootstrap"] < 0.8
    # Nor is ours wider than it need be.
    assert found["ours"] < 0.98


def test_runs_alone_forget_that_their_starts_are_the_same():
    assert coverage(STUDIES["the start decides"])["runs alone"] < 0.9
