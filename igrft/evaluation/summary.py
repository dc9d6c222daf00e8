"""From the results of single episodes to rates, intervals and comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from igrft.evaluation.figures import CurvePoint
from igrft.evaluation.statistics import Comparison, Interval, clustered_interval, paired_difference, run_means, wilson

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table: a method at a temperature, on one task or on all.

    Attributes:
        name, temperature: the method, and the standard deviation of its noise ("exploration" is T(s)).
        task: None is all tasks together.
        runs: pairs of task and training seed.
        n, successes: episodes.
        success_rate: their share, in [0, 1].
        interval: Wilson's: what other episodes of these very checkpoints would give, each counted as if it were
            independent of all others.
        runs_interval: what other training seeds and starts would give (``clustered_interval``); None for one run.
        progress: mean share of subtasks completed (Table III); None where no subtasks are known.
        interventions: by a human, in all. interventions_per_episode: their mean.
        successes_alone: successes without any.
        steps: mean length. noise: mean, least and greatest standard deviation that was drawn with.
        unsaid: episodes of which nobody said whether they succeeded.
    """

    name: str
    temperature: float | str
    task: str | None
    runs: int
    n: int
    successes: int
    success_rate: float
    interval: Interval
    runs_interval: Interval | None
    progress: float | None
    interventions: int
    interventions_per_episode: float
    successes_alone: int
    steps: float
    noise: tuple[float, float, float] | None
    unsaid: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Paired:
    """Two lines of the table on the same episode seeds: ``first`` minus ``second``.

    Attributes:
        first, second: (name, temperature) of each.
    """

    first: tuple[str, float | str]
    second: tuple[str, float | str]
    comparison: Comparison

    def to_json(self) -> dict[str, Any]:
        sides = {
            side: {"name": name, "temperature": temperature}
            for side, (name, temperature) in (("first", self.first), ("second", self.second))
        }
        return {**sides, **self.comparison.to_json()}


@dataclass(frozen=True)
class Summary:
    """An evaluation as a whole."""

    rows: list[Row]
    comparisons: list[Paired]
    confidence: float
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "confidence": self.confidence,
            "results": [row.to_json() for row in self.rows],
            "comparisons": [pair.to_json() for pair in self.comparisons],
            "notices": self.notices,
        }


def summarise(
    results: Sequence[Result],
    names: Sequence[str],
    temperatures: Sequence[float | str],
    *,
    baseline: str | None = None,
    confidence: float = 0.95,
) -> Summary:
    """Rates and comparisons.

    Args:
        results: lines of ``results.jsonl``.
        names: of the methods, in the order of the table.
        temperatures: in the order of the table; the first is what the others of a method are compared with.
        baseline: what the other names are compared with; None is the first.
    """
    rows: list[Row] = []
    pairs: list[Paired] = []
    notices: list[str] = []
    order = list(dict.fromkeys(names))
    for temperature in temperatures:
        for name in order:
            held = [r for r in results if r["name"] == name and r["temperature"] == temperature]
            rows += _rows(held, name, temperature, confidence)
    base = baseline or order[0]
    for temperature in temperatures:
        for name in order:
            if name != base:
                pairs += _paired(results, (name, temperature), (base, temperature), confidence, notices)
    for name in order:
        for temperature in temperatures[1:]:
            pairs += _paired(results, (name, temperature), (name, temperatures[0]), confidence, notices)
    return Summary(rows, pairs, confidence, notices)


def _rows(held: Sequence[Result], name: str, temperature: float | str, confidence: float) -> list[Row]:
    """A line a task, and one of all where there are several."""
    if not held:
        return []
    tasks = list(dict.fromkeys(r["task"] for r in held))
    rows = [_row([r for r in held if r["task"] == t], name, temperature, t, confidence) for t in tasks]
    return [*rows, _row(held, name, temperature, None, confidence)] if len(tasks) > 1 else rows


def _row(held: Sequence[Result], name: str, temperature: float | str, task: str | None, confidence: float) -> Row:
    won = np.array([bool(r["success"]) for r in held])
    labels = np.array([_run(r) for r in held])
    rates = run_means(won, labels)
    over_runs = None
    if len(rates) > 1:
        low, high = clustered_interval(won, labels, np.array([_start(r) for r in held]), confidence)
        over_runs = max(0.0, low), min(1.0, high)
    known = [float(r["progress"]) for r in held if r["progress"] is not None]
    noise = [r["noise"] for r in held if r["noise"] is not None]
    spread = None
    if noise:
        spread = float(np.mean([v[0] for v in noise])), min(v[1] for v in noise), max(v[2] for v in noise)
    interventions = sum(int(r["interventions"]) for r in held)
    return Row(
        name=name,
        temperature=temperature,
        task=task,
        runs=len(rates),
        n=len(held),
        successes=int(won.sum()),
        success_rate=float(won.mean()),
        interval=wilson(int(won.sum()), len(held), confidence),
        runs_interval=over_runs,
        progress=float(np.mean(known)) if len(known) == len(held) else None,
        interventions=interventions,
        interventions_per_episode=interventions / len(held),
        successes_alone=sum(bool(r["success"]) and not r["interventions"] for r in held),
        steps=float(np.mean([r["steps"] for r in held])),
        noise=spread,
        unsaid=sum(not r["said"] for r in held),
    )


def _paired(
    results: Sequence[Result],
    first: tuple[str, float | str],
    second: tuple[str, float | str],
    confidence: float,
    notices: list[str],
) -> list[Paired]:
    """The comparison, or nothing where no episode has its counterpart."""
    sides = [_by_run(results, *side) for side in (first, second)]
    pairs = match_runs(*sides)
    a, b, labels, starts = [], [], [], []
    for one, other in pairs:
        for seed in sorted(sides[0][one].keys() & sides[1][other].keys()):
            a.append(sides[0][one][seed])
            b.append(sides[1][other][seed])
            labels.append(f"{one[0]} seed {one[1]}")
            starts.append(f"{one[0]} episode {seed}")
    for side, label, matched in zip(
        sides, (first, second), zip(*pairs, strict=True) if pairs else ((), ()), strict=True
    ):
        alone = [f"{task} seed {seed}" for task, seed in side if (task, seed) not in matched]
        if alone and a:
            notices.append(
                f"{first[0]} against {second[0]}: {label[0]} has no counterpart on {', '.join(alone)}: left out"
            )
    if not a:
        return []
    found = paired_difference(np.array(a), np.array(b), np.array(labels), np.array(starts), confidence)
    return [Paired(first, second, found)]


Run = tuple[str, int]


def _by_run(results: Iterable[Result], name: str, temperature: float | str) -> dict[Run, dict[int, bool]]:
    """Success by episode seed, of each task and training seed."""
    found: dict[Run, dict[int, bool]] = {}
    for r in results:
        if r["name"] == name and r["temperature"] == temperature:
            found.setdefault((str(r["task"]), int(r["training_seed"])), {})[int(r["seed"])] = bool(r["success"])
    return found


def match_runs(first: Iterable[Run], second: Iterable[Run]) -> list[tuple[Run, Run]]:
    """Runs of two methods that belong together: the same task and training seed; or the only ones of a task."""
    a, b = sorted(first), sorted(second)
    pairs = [(run, run) for run in a if run in b]
    for task in sorted({t for t, _ in a}):
        mine, other = [r for r in a if r[0] == task], [r for r in b if r[0] == task]
        if len(mine) == len(other) == 1 and mine != other:
            pairs.append((mine[0], other[0]))
    return sorted(pairs)


def _start(result: Result) -> str:
    return f"{result['task']} episode {result['seed']}"


def _run(result: Result) -> str:
    return f"{result['task']} seed {result['training_seed']}"


def curves_of(
    rows: Sequence[Row], places: Mapping[str, tuple[str, float | None]]
) -> dict[float | str, dict[str, list[CurvePoint]]]:
    """Figure 5's curves by temperature: a point a name, of its rates by task.

    Args:
        places: by name, its curve and the interventions that its training took (in the mean over its runs).

    Returns:
        By temperature, the curves; names whose interventions nobody knows are left out.
    """
    found: dict[float | str, dict[str, list[CurvePoint]]] = {}
    for name, (curve, interventions) in places.items():
        if interventions is None:
            continue
        for temperature in dict.fromkeys(r.temperature for r in rows):
            rates = {
                str(r.task): r.success_rate
                for r in rows
                if r.name == name and r.temperature == temperature and r.task is not None
            }
            if rates:
                found.setdefault(temperature, {}).setdefault(curve, []).append(CurvePoint(interventions, rates))
    return found
