"""The ``executor`` entry of a pipeline file."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import yaml

from igrft.errors import UsageError, did_you_mean
from igrft.steps.base import Resources

ExecutorType = Literal["local", "slurm", "ray"]
_TEXTS = ("partition", "account", "qos", "setup", "address")
_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")


@dataclass(frozen=True)
class StepJobs:
    """How one step is run, where it differs from the others; what is unset is as for all, or as the step says.

    Attributes:
        cpus, memory_gb, gpus: of one job. A job runs as many workers as its cores allow.
        tasks, workers, time, partition, sbatch: as of :class:`Executor`.
    """

    cpus: int | None = None
    memory_gb: float | None = None
    gpus: int | None = None
    tasks: int | None = None
    workers: int | None = None
    time: str | None = None
    partition: str | None = None
    sbatch: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Executor:
    """Where the steps of a pipeline run.

    Attributes:
        type: ``local`` (this machine, now), ``slurm`` or ``ray``.
        tasks: jobs that the episodes of a step are dealt to; never more than episodes. With ``local`` the steps then
            run as those jobs, one after the other or ``workers`` at a time; unset, in one process.
        workers: jobs of a step at the same time; null is as many as the cluster lets.
        retries: further attempts, on other nodes where there are any, at episodes that a job left undone; counted
            only while nothing comes of them. What is left then is set aside with the job's log.
        time: of one job, as Slurm writes it (``HH:MM:SS``). Jobs that run out of it are gone on with by others.
        partition, account, qos: of Slurm.
        sbatch: further options of ``sbatch`` by name, such as ``{constraint: a100}``.
        setup: a line of shell that Slurm's jobs run first; unset, it puts this Python's environment on the path.
        address: of Ray's job server (``http://HEAD:8265``); ``auto`` is the cluster that this machine is part of.
        max_array: most jobs that the cluster takes in one array of Slurm.
        steps: by heavy step, or entry of the pipeline that it comes from, what differs for it; ``finish`` and
            ``before-STEP`` are the jobs between and after them.
    """

    type: ExecutorType = "local"
    tasks: int | None = None
    workers: int | None = None
    retries: int = 2
    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    sbatch: Mapping[str, Any] = field(default_factory=dict)
    setup: str | None = None
    address: str = "auto"
    max_array: int = 1001
    steps: Mapping[str, StepJobs] = field(default_factory=dict)

    @property
    def in_jobs(self) -> bool:
        """Whether steps run as jobs, and not in the process that was called."""
        return self.type != "local" or self.tasks is not None

    def of_step(self, *names: str) -> StepJobs:
        """What differs for a step, by the first of its names that is there."""
        return next((self.steps[n] for n in names if n in self.steps), StepJobs())

    def resources(self, step: Resources, *names: str) -> Resources:
        """What a job of a step is given."""
        own = self.of_step(*names)
        return Resources(
            step.cpus if own.cpus is None else own.cpus,
            step.memory_gb if own.memory_gb is None else own.memory_gb,
            step.gpus if own.gpus is None else own.gpus,
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_executor(value: Any, overrides: Sequence[str], where: str) -> Executor:
    """Read the entry, with ``executor.KEY=VALUE`` and ``executor.steps.STEP.KEY=VALUE`` applied.

    Raises:
        UsageError: an unknown key (naming the near miss) or a bad value.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: executor must be a mapping (executor: {{type: slurm}}), got {value!r}")
    entry = _copy(value)
    for override in overrides:
        _apply(override, entry)
    steps = entry.pop("steps", {}) or {}
    if not isinstance(steps, Mapping):
        raise UsageError(f"{where}: executor.steps must be a mapping by step, got {steps!r}")
    made = _build(Executor, entry, f"{where}: executor")
    return dataclasses.replace(
        made, steps={str(n): _build(StepJobs, v, f"{where}: executor.steps.{n}") for n, v in steps.items()}
    )


def seconds_of(time: str) -> float:
    """A time as Slurm writes it (``MM``, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``) in seconds."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)


def _copy(value: Any) -> Any:
    return {str(k): _copy(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _apply(override: str, entry: dict[str, Any]) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")[1:]
    if not equals or not parts or not all(parts):
        raise UsageError(f"override {override!r} is not of the form --executor.KEY=VALUE")
    for part in parts[:-1]:
        inner = entry.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"override {override!r}: {part!r} has no keys")
        entry = inner
    try:
        # Slurm's times are no numbers in base 60, and an account may be one.
        entry[parts[-1]] = text if parts[-1] in ("time", *_TEXTS) and text != "null" else yaml.safe_load(text)
    except yaml.YAMLError:
        entry[parts[-1]] = text


def _build(cls: Any, entry: Any, where: str) -> Any:
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where} must be a mapping, got {entry!r}")
    known = {f.name: f.default for f in dataclasses.fields(cls)}
    for key, value in entry.items():
        if key not in known:
            raise UsageError(f"{where} has no key {key!r}{did_you_mean(str(key), list(known))}")
        # What has a default that is not "unset" cannot be unset.
        _refuse_bad(str(key), value, where, needed=known[key] is not None)
    return cls(**entry)


def _refuse_bad(key: str, value: Any, where: str, *, needed: bool) -> None:
    """Every key has one meaning wherever it stands."""
    least = {"tasks": 1, "workers": 1, "retries": 0, "cpus": 1, "memory_gb": 0.1, "gpus": 0, "max_array": 1}
    if value is None and not needed:
        return
    if key == "type" and value not in get_args(ExecutorType):
        raise UsageError(f"{where}: unknown type {value!r}{did_you_mean(str(value), get_args(ExecutorType))}")
    if key in least:
        number = isinstance(value, float | int) if key == "memory_gb" else isinstance(value, int)
        if not number or isinstance(value, bool) or not least[key] <= value < math.inf:
            raise UsageError(f"{where}: {key} must be a number of at least {least[key]}, got {value!r}")
    elif key == "time" and not (isinstance(value, str) and _TIME.fullmatch(value)):
        raise UsageError(f'{where}: time must be written as Slurm does and quoted ("24:00:00"), got {value!r}')
    elif key == "sbatch" and not isinstance(value, Mapping):
        raise UsageError(f"{where}: sbatch must be a mapping of options, got {value!r}")
    elif key in _TEXTS and not isinstance(value, str):
        raise UsageError(f"{where}: {key} must be text (quoted, where it looks like a number), got {value!r}")
