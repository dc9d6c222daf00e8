"""`igrft plan`: what a run over the whole dataset will take, here or on so many nodes, before it is begun."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from igrft.cluster.measure import Measured, StepCost, makespan, measure
from igrft.cluster.settle import DEFAULT_TASKS
from igrft.cluster.stages import stages_of
from igrft.cluster.status import duration
from igrft.pipeline.config import Pipeline
from igrft.pipeline.run import say_to_stderr
from igrft.pipeline.workers import default_workers
from igrft.remote.mirror import size_of

#: What a step waits for: a core, a GPU, or a server elsewhere.
Waits = Literal["cpu", "gpu", "server"]


@dataclass(frozen=True)
class Nodes:
    """The machines that a forecast is for, all alike.

    Attributes:
        nodes: how many.
        cores, gpus: of each.
    """

    nodes: int = 1
    cores: int = 1
    gpus: int = 0


@dataclass(frozen=True)
class StepForecast:
    """One step over the whole dataset.

    Attributes:
        step: its type.
        waits: what it waits for.
        at_once: episodes at the same time on these nodes.
        hours: until it is done, were it alone there.
        core_hours, gpu_hours: that it holds.
        frames_per_second: of one worker.
        tokens: by kind, where the step asks a model.
        bytes: kept in the dataset for later runs.
    """

    step: str
    waits: Waits
    at_once: int
    hours: float
    core_hours: float
    gpu_hours: float
    frames_per_second: float
    tokens: dict[str, float] = field(default_factory=dict)
    bytes: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """A run over the whole dataset.

    Attributes:
        episodes, frames: of the dataset.
        measured_episodes: that it was measured on.
        nodes: the machines.
        steps: in order.
        hours: from the call to TARGET.
        bottleneck: the step that takes longest; what to speed up first.
        table_bytes, video_bytes: of the finished dataset beside the steps'; videos are links where SOURCE and TARGET
            lie on one file system.
        notices: what the figures leave out.
    """

    episodes: int
    frames: int
    measured_episodes: int
    nodes: Nodes
    steps: list[StepForecast]
    hours: float
    bottleneck: str
    table_bytes: float
    video_bytes: float
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "nodes": self.nodes.__dict__, "steps": [s.__dict__ for s in self.steps]}

    def to_text(self) -> str:
        """For people."""
        per_node = f"{self.nodes.cores} cores" + (f" and {self.nodes.gpus} GPUs" if self.nodes.gpus else "")
        many = "1 node" if self.nodes.nodes == 1 else f"{self.nodes.nodes} nodes"
        lines = [
            f"{self.episodes} episodes, {self.frames} frames on {many} of {per_node}; measured on "
            f"{self.measured_episodes} episodes here"
        ]
        header = ("step", "waits for", "at once", "time alone", "core hours", "GPU hours", "frames/s a worker")
        rows = [header]
        for s in self.steps:
            rows.append(
                (
                    s.step,
                    s.waits,
                    str(s.at_once),
                    duration(3600 * s.hours),
                    f"{s.core_hours:.2f}",
                    f"{s.gpu_hours:.2f}" if s.gpu_hours else "",
                    f"{s.frames_per_second:.0f}",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.append(f"in all: {duration(3600 * self.hours)}; the bottleneck is {self.bottleneck}")
        for s in self.steps:
            if s.tokens:
                kinds = ", ".join(f"{value:,.0f} {name}" for name, value in s.tokens.items())
                lines.append(f"{s.step} asks for {kinds}")
        kept = sum(s.bytes for s in self.steps)
        lines.append(
            f"storage: tables {_size(self.table_bytes)}, kept for later runs {_size(kept)}, "
            f"videos {_size(self.video_bytes)} (links on one file system)"
        )
        return "\n".join([*lines, *self.notices])


def forecast(
    source: str | Path,
    pipeline: Pipeline,
    *,
    nodes: Nodes | None = None,
    episodes: int = 8,
    workers: int | None = None,
    say: Callable[[str], None] = say_to_stderr,
) -> Forecast:
    """Measure a pipeline on a few episodes, and say what the whole dataset will take.

    Args:
        nodes: where it will run; None is this machine.
        episodes: how many are measured.
        workers: processes to measure with; None is one a core, as ``annotate`` has it, since cores that are all busy
            are slower than one alone.

    Raises:
        UsageError, IgrftError: as of :func:`igrft.annotate`.
    """
    workers = workers or default_workers()
    measured = measure(source, pipeline, episodes=episodes, workers=workers, say=say)
    return foresee(measured, pipeline, nodes or Nodes(1, workers, _gpus_here()), here=nodes is None)


def foresee(measured: Measured, pipeline: Pipeline, nodes: Nodes, *, here: bool) -> Forecast:
    """The arithmetic: from a few episodes' costs to all of them.

    Args:
        here: one call on this machine, rather than jobs.
    """
    dataset = measured.dataset
    rows = [r for r in range(dataset.num_episodes) if r not in measured.run.unfit]
    lengths = dataset.lengths[rows].astype(np.float64)
    steps = [_step(cost, lengths, nodes, pipeline, here) for cost in measured.steps]
    writing = measured.writing
    keeping = sum(cost.keeping for cost in measured.steps)
    finish = writing.per_frame * dataset.num_frames + keeping * len(rows) + measured.reading
    hours = _whole(measured, steps, pipeline, here) + finish / 3600
    heavy = [s for s in steps if s.hours > 0]
    bottleneck = max(heavy, key=lambda s: s.hours).step if heavy else "writing"
    if finish / 3600 > max((s.hours for s in steps), default=0.0):
        bottleneck = "reading and writing tables"
    tables = sum(size_of(dataset.root / path) for path, _ in dataset.data_files)
    videos = sum(map(size_of, (dataset.root / "videos").rglob("*.mp4")))
    return Forecast(
        dataset.num_episodes,
        dataset.num_frames,
        max((c.episodes for c in measured.steps), default=0),
        nodes,
        steps,
        hours,
        bottleneck,
        tables + writing.label_bytes_per_frame * dataset.num_frames,
        videos,
        _notices(measured, nodes, here),
    )


def _step(cost: StepCost, lengths: np.ndarray, nodes: Nodes, pipeline: Pipeline, here: bool) -> StepForecast:
    frames = float(lengths.sum())
    if not cost.heavy:
        seconds = cost.start_up + cost.per_frame * frames
        pace = 1 / cost.per_frame if cost.per_frame else 0.0
        return StepForecast(cost.step, "cpu", 1, seconds / 3600, seconds / 3600, 0.0, pace)
    needs = pipeline.executor.resources(cost.resources, cost.step)
    per_task = max(1, needs.cpus // max(1, cost.resources.cpus))
    waits: Waits = "server" if cost.in_flight and not needs.gpus else "gpu" if needs.gpus else "cpu"
    if here:
        tasks = rounds = 1
        at_once = cost.in_flight or nodes.cores
        if needs.gpus:
            at_once = min(at_once, max(1, nodes.gpus))
    else:
        fit = nodes.cores // needs.cpus
        if needs.gpus:
            fit = min(fit, nodes.gpus // needs.gpus)
        own = pipeline.executor.of_step(cost.step)
        tasks = min(len(lengths), own.tasks or pipeline.executor.tasks or DEFAULT_TASKS)
        jobs = max(1, min(tasks, nodes.nodes * max(1, fit), own.workers or pipeline.executor.workers or tasks))
        at_once = jobs * (cost.in_flight or per_task)
        rounds = math.ceil(tasks / jobs)
    at_once = min(at_once, len(lengths))
    work = cost.seconds(lengths)
    # Where there are many more episodes than workers, who takes what no longer matters.
    busy = makespan(work, at_once) if len(work) < 200_000 else float(work.sum()) / at_once
    seconds = busy + rounds * cost.start_up
    held = (float(work.sum()) / (cost.in_flight or 1) + tasks * cost.start_up) / 3600
    scale = frames / cost.frames
    return StepForecast(
        cost.step,
        waits,
        at_once,
        seconds / 3600,
        held * needs.cpus / per_task,
        held * needs.gpus / per_task,
        1 / (cost.per_frame + cost.per_episode * len(lengths) / frames),
        {k: v * scale for k, v in cost.spent.items() if "token" in k},
        cost.bytes_per_frame * frames,
    )


def _whole(measured: Measured, steps: list[StepForecast], pipeline: Pipeline, here: bool) -> float:
    """Hours of all steps together: one after the other here; as jobs, what waits for different things overlaps."""
    if here:
        return sum(s.hours for s in steps)
    alone = {s.step: s for s in steps}
    path: dict[str, float] = {}
    for stage in stages_of(measured.run.plan, pipeline.executor):
        before = max((path[n] for n in stage.after), default=0.0)
        own = alone[stage.name].hours if stage.kind == "label" and stage.name in alone else 0.0
        path[stage.name] = before + own
    longest = max(path.values(), default=0.0)
    together = [sum(s.hours for s in steps if s.waits == kind and s.at_once > 1) for kind in ("cpu", "gpu", "server")]
    cheap = sum(s.hours for s in steps if s.at_once == 1 and s.waits == "cpu")
    return max(longest, *together) + cheap


def _notices(measured: Measured, nodes: Nodes, here: bool) -> list[str]:
    found = []
    aside = sum(s.set_aside for s in measured.steps)
    if aside:
        found.append(f"{aside} of the measured episodes were set aside, and are not in these figures")
    wanting = [s.step for s in measured.steps if s.heavy and s.resources.gpus]
    if wanting and not _gpus_here():
        found.append(f"{', '.join(wanting)} was measured without a GPU; run igrft plan on a node that has one")
    if wanting and not here and not nodes.gpus:
        found.append(f"{', '.join(wanting)} asks for a GPU, and these nodes have none: give --gpus")
    if any(s.in_flight for s in measured.steps):
        found.append("a step that waits for a server is only as fast as the server, which was measured with one worker")
    if not here:
        found.append("time in the scheduler's queue and of the network is not in these figures")
    return found


def _gpus_here() -> int:
    from igrft.steps.interaction.overlap import on_gpu

    return 1 if on_gpu("auto") else 0


def _size(number: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
