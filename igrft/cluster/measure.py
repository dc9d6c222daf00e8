"""What a pipeline costs on a dataset, measured by running it over a few of its episodes."""

from __future__ import annotations

import dataclasses
import heapq
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igrft.cluster.overheads import Writing, keeping, staging_seconds, writing
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.pipeline.config import Pipeline
from igrft.pipeline.labelling import Labelling
from igrft.pipeline.run import Run
from igrft.steps.base import Episode, EpisodeLabels, Labeller, Resources

#: Where a timed step leaves its seconds in an episode's record.
_SECONDS = "measured_seconds"
#: Whether the episode was its worker's first, which also loads what is loaded once.
_FIRST = "measured_first"
#: Seconds of labelling an episode beside which its staging is not worth measuring.
_SLOW = 1.0


@dataclass(frozen=True)
class StepCost:
    """One step, measured.

    Attributes:
        step: its type.
        heavy: whether it runs in workers of its own.
        resources: of a worker, as the step says.
        in_flight: episodes that one worker waits for together; None: one at a time.
        episodes, frames: that were measured.
        per_episode, per_frame: seconds of a worker, fitted to the measured episodes.
        start_up: seconds until a worker has begun.
        bytes_per_frame: of what the finished dataset keeps of the step's work for later runs.
        keeping: seconds an episode to write that.
        spent: what it cost beyond time, over the measured episodes.
        set_aside: of the measured episodes.
    """

    step: str
    heavy: bool
    resources: Resources
    in_flight: int | None
    episodes: int
    frames: int
    per_episode: float
    per_frame: float
    start_up: float
    bytes_per_frame: float = 0.0
    keeping: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)
    set_aside: int = 0

    def seconds(self, lengths: np.ndarray) -> np.ndarray:
        """Seconds of a worker by episode."""
        return self.per_episode + self.per_frame * lengths


@dataclass(frozen=True)
class Measured:
    """A pipeline on a dataset.

    Attributes:
        dataset: the source.
        run: with its plan and everything it knows of the source.
        steps: in order, those that run together as one.
        reading: seconds to look at the whole source before any work.
        writing: what it takes to write the labelled dataset.
        workers: processes that the heavy steps were measured with.
    """

    run: Run
    steps: list[StepCost]
    reading: float
    writing: Writing
    workers: int

    @property
    def dataset(self) -> DatasetReader:
        return self.run.dataset


class Timed:
    """A step whose labeller notes how long it took; in all else the step itself."""

    def __init__(self, step: Any) -> None:
        self.step = step

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "step":
            raise AttributeError(name)
        return getattr(self.step, name)

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        label = self.step.open(dataset, reduced)
        begun = False

        def timed(episode: Episode) -> EpisodeLabels:
            nonlocal begun
            first, begun = not begun, True
            began = time.perf_counter()
            found: EpisodeLabels = label(episode)
            seconds = time.perf_counter() - began
            return dataclasses.replace(found, record={**found.record, _SECONDS: seconds, _FIRST: first})

        if (expect := getattr(label, "expect", None)) is not None:
            timed.expect = expect  # type: ignore[attr-defined]
        return timed


def measure(
    source: str | Path, pipeline: Pipeline, *, episodes: int, workers: int, say: Callable[[str], None]
) -> Measured:
    """Run a pipeline over a few episodes of a dataset, spread over their lengths, and write nothing beside it.

    Args:
        episodes: how many; more where more than so many are needed to keep ``workers`` or a server busy.
        workers: processes of the heavy steps.

    Raises:
        IgrftError: as of :func:`igrft.annotate`; or no episode of the sample could be labelled.
    """
    with tempfile.TemporaryDirectory(prefix="igrft-plan-") as folder:
        began = time.perf_counter()
        run = Run.prepare(source, Path(folder) / "plan", pipeline)
        reading = time.perf_counter() - began
        fit = [r for r in range(run.dataset.num_episodes) if r not in run.unfit]
        if not fit:
            raise IgrftError(f"no episode can be labelled; the first: {next(iter(run.unfit.values()))}")
        at_once = max([workers, *(s.in_flight or 0 for s in run.plan.steps if s.heavy)])
        rows = sample(fit, run.dataset.lengths, max(episodes, 2 * at_once))
        for step in run.plan.steps:
            step.ready()
        timed: tuple[Any, ...] = tuple(Timed(s) if s.heavy else s for s in run.plan.steps)
        plan = dataclasses.replace(run.plan, steps=timed)
        labelling = Labelling(
            run.dataset, plan, run.target, run.unfit, workers=workers, rows=rows, say=say, isolated=True
        )
        labelling.find_earlier_work()
        run.target.staging.mkdir(parents=True)
        steps = []
        try:
            for group in plan.groups:
                steps.append(_measure_group(labelling, group, workers))
        finally:
            spent = {s.type: c.numbers for s in run.plan.steps if (c := s.close())}
        steps = [dataclasses.replace(s, spent=_numbers(spent.get(s.step, {}))) if s.heavy else s for s in steps]
        if not labelling.left:
            why = next(iter(labelling.set_aside.values()))
            raise IgrftError(f"none of {len(rows)} episodes could be labelled: {why}")
        return Measured(run, steps, reading, writing(run, labelling, Path(folder) / "written.parquet"), workers)


def sample(rows: Sequence[int], lengths: np.ndarray, count: int) -> list[int]:
    """``count`` rows spread evenly over the lengths of all."""
    ordered = sorted(rows, key=lambda r: (int(lengths[r]), r))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    return sorted(ordered[p] for p in places)


def makespan(seconds: Iterable[float], workers: int) -> float:
    """Time until ``workers`` have done it all, who each take the longest that is left."""
    ends = [0.0] * max(1, workers)
    for duration in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


def fit_line(lengths: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Seconds an episode and a frame, neither below zero, that fit the totals exactly and the spread best.

    Args:
        lengths, seconds: float64 [episodes].
    """
    total, frames = float(seconds.sum()), float(lengths.sum())
    spread = lengths - lengths.mean()
    if len(lengths) < 3 or not (spread**2).sum() > 0.01 * float(lengths.mean()) ** 2:
        return 0.0, total / frames
    slope = float((spread * seconds).sum() / (spread**2).sum())
    slope = min(max(slope, 0.0), total / frames)
    return (total - slope * frames) / len(lengths), slope


def _measure_group(labelling: Labelling, group: list[int], workers: int) -> StepCost:
    steps = [labelling.plan.steps[n] for n in group]
    lengths = labelling.dataset.lengths
    before = len(labelling.set_aside)
    first = 0.0
    if not steps[0].heavy:
        # One alone first: what a step sets up once must not be taken for its pace.
        everything, labelling.rows = labelling.rows, labelling.left[:1]
        first = _seconds_of(labelling, group)
        labelling.rows = everything
    wall = _seconds_of(labelling, group)
    rows = labelling.left
    cost = StepCost(
        step="+".join(s.type for s in steps),
        heavy=steps[0].heavy,
        resources=steps[0].resources,
        in_flight=steps[0].in_flight,
        episodes=len(rows),
        frames=int(lengths[rows].sum()),
        per_episode=0.0,
        per_frame=0.0,
        start_up=first,
        set_aside=len(labelling.set_aside) - before,
    )
    if not rows:
        return cost
    if not cost.heavy:
        return dataclasses.replace(cost, per_frame=wall / cost.frames)
    records = [labelling.staged(group[0], r).record for r in rows]
    seconds = np.array([float(r.get(_SECONDS, 0.0)) for r in records])
    later = ~np.array([bool(r.get(_FIRST)) for r in records])
    if later.sum() < 2:
        later[:] = True
    at_once = cost.in_flight or min(workers, steps[0].max_workers or workers)
    known = lengths[rows].astype(np.float64)
    per_episode, per_frame = fit_line(known[later], seconds[later])
    if cost.in_flight is None and seconds[later].mean() < _SLOW:
        per_episode += staging_seconds(labelling, group[0], rows, at_once)
    kept_seconds, kept_bytes = keeping(labelling, group[0], rows)
    return dataclasses.replace(
        cost,
        per_episode=per_episode,
        per_frame=per_frame,
        start_up=max(0.0, wall - makespan(per_episode + per_frame * known, at_once)),
        bytes_per_frame=kept_bytes / cost.frames,
        keeping=kept_seconds / len(rows),
    )


def _seconds_of(labelling: Labelling, group: list[int]) -> float:
    began = time.perf_counter()
    labelling.run_group(group)
    return time.perf_counter() - began


def _numbers(spent: dict[str, Any]) -> dict[str, float]:
    numbers = {k: v for k, v in spent.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: float(v) for k, v in numbers.items()}
