"""A plan as jobs: which run when, and what each takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from igrft.cluster.settings import Executor
from igrft.errors import UsageError, did_you_mean
from igrft.pipeline.config import Pipeline
from igrft.pipeline.plan import Plan
from igrft.steps.base import Resources, Step

Kind = Literal["label", "settle", "finish"]

#: Settling and assembling read and write; labels of cheap steps are made on the way.
_SETTLING = Resources(cpus=1, memory_gb=4)


@dataclass(frozen=True)
class Stage:
    """A step over all episodes as an array of jobs, or one job between such steps.

    Attributes:
        name: unique; also that of its folder.
        kind: ``label``: a heavy step, its episodes dealt to tasks. ``settle``: sees to what tasks left undone, and
            labels cheap steps that a later heavy one builds on. ``finish``: the same for all that is left, and
            writes TARGET; nothing else does.
        groups: numbers of groups of the plan: the heavy one, or all that must be settled, in order.
        after: names of stages that must have ended, however they did.
        resources: of one job.
        owner: type of the pipeline's entry that the step came from; the stage's name where it is no step.
    """

    name: str
    kind: Kind
    groups: tuple[int, ...]
    after: tuple[str, ...]
    resources: Resources
    owner: str

    @property
    def owner_names(self) -> tuple[str, ...]:
        """Names by which ``executor.steps`` may speak of it, the nearest first."""
        return (self.name, self.owner)

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "resources": self.resources.__dict__}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Stage:
        fields = {**value, "groups": tuple(value["groups"]), "after": tuple(value["after"])}
        return cls(**{**fields, "resources": Resources(**value["resources"])})


def stages_of(plan: Plan, executor: Executor) -> list[Stage]:
    """The stages of a plan, each after those that it builds on.

    Heavy steps that do not build on each other run side by side, each with what it needs: no GPU waits for a
    vision-language model's server, nor that for a decoder.
    """
    stages: list[Stage] = []
    labelling: dict[int, Stage] = {}
    settled: Stage | None = None
    for number, group in enumerate(plan.groups):
        step = plan.steps[group[0]]
        if not step.heavy:
            continue
        below = ancestors(plan, number)
        after: tuple[str, ...] = ()
        if below:
            heavy = [labelling[g].name for g in below if g in labelling]
            name = before(step)
            earlier = (settled.name,) if settled else ()
            resources = executor.resources(_together(plan, below), name)
            settled = Stage(name, "settle", tuple(below), (*heavy, *earlier), resources, name)
            stages.append(settled)
            after = (settled.name,)
        owner = plan.owners[group[0]]
        resources = executor.resources(step.resources, step.type, owner)
        labelling[number] = Stage(step.type, "label", (number,), after, resources, owner)
        stages.append(labelling[number])
    everything = tuple(range(len(plan.groups)))
    finish = Stage(
        "finish",
        "finish",
        everything,
        tuple(s.name for s in stages),
        executor.resources(_together(plan, everything), "finish"),
        "finish",
    )
    return [*stages, finish]


def before(step: Step) -> str:
    """Name of the stage that sees to what a heavy step builds on."""
    return f"before-{step.type}"


def refuse_unknown_steps(plan: Plan, pipeline: Pipeline) -> None:
    """Raises UsageError: ``executor.steps`` speaks of what is no job of this plan, so that it would do nothing."""
    known = {"finish": None}
    for step, owner in zip(plan.steps, plan.owners, strict=True):
        if step.heavy:
            known |= dict.fromkeys((step.type, owner, before(step)))
    cheap = {s.type for s in plan.steps} | set(plan.owners)
    # What this dataset has no use for is left out of the plan, and no mistake.
    left_out = {s.type for s in pipeline.steps} - cheap
    for name in pipeline.executor.steps:
        if name in known or name in left_out:
            continue
        if name in cheap:
            raise UsageError(f"executor.steps: step {name!r} is no job of its own, it runs in others; name 'finish'")
        raise UsageError(f"executor.steps: no step {name!r} in this pipeline{did_you_mean(name, list(known))}")


def ancestors(plan: Plan, number: int) -> list[int]:
    """Numbers of the groups that a group builds on, directly or not, in order."""
    home = {step: g for g, group in enumerate(plan.groups) for step in group}
    found: set[int] = set()
    waiting = [number]
    while waiting:
        group = waiting.pop()
        below = {home[p] for n in plan.groups[group] for p in plan.producers[n]} - {group}
        if plan.steps[plan.groups[group][0]].reduces:
            # It sees what all earlier steps recorded of every episode.
            below |= set(range(group))
        waiting.extend(below - found)
        found |= below
    return sorted(found)


def _together(plan: Plan, groups: tuple[int, ...] | list[int]) -> Resources:
    """What one job takes that runs the cheap steps of these groups one after the other."""
    found = [_SETTLING] + [plan.steps[n].resources for g in groups for n in plan.groups[g] if not plan.steps[n].heavy]
    return Resources(max(r.cpus for r in found), max(r.memory_gb for r in found), max(r.gpus for r in found))
