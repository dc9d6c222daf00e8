"""What will be done: expanded and resolved steps, checked against each other, and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from igrft.columns import LABELS
from igrft.dataset.fingerprint import digest_of
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, NotApplicable
from igrft.pipeline.config import Pipeline
from igrft.steps.base import SEGMENTS, Step
from igrft.steps.registry import step_that_makes


@dataclass(frozen=True)
class Plan:
    """Steps in order, ready to run on one dataset.

    Attributes:
        entries: the resolved entries of the pipeline, for the record.
        steps: the same, expanded.
        producers: for each step, the numbers of earlier steps whose results it reads (what it reads of the
            recording is part of ``source``).
        source: fingerprint of the dataset.
        owners: for each step, the type of the entry that it stands for.
        notices: what the user should know: steps that were left out.
    """

    entries: tuple[Step, ...]
    steps: tuple[Step, ...]
    producers: tuple[tuple[int, ...], ...]
    source: str
    notices: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()

    @cached_property
    def groups(self) -> list[list[int]]:
        """Steps that run together over an episode: a heavy one alone, cheap ones in a row.

        A step with a reduction opens a group: it waits until all before it are done everywhere.
        """
        groups: list[list[int]] = []
        for i, step in enumerate(self.steps):
            alone = step.heavy or step.reduces or (bool(groups) and self.steps[groups[-1][-1]].heavy)
            if groups and not alone:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    @cached_property
    def columns(self) -> list[str]:
        """Label columns that the dataset will hold, in the order of the contract."""
        made = {m for step in self.steps for m in step.makes}
        return [name for name in LABELS if name in made]

    def base_key(self, number: int, reduced: Any) -> str:
        """What determines a step's results on every episode alike."""
        step = self.steps[number]
        return digest_of([step.type, step.version, step.settings(), reduced, self.source])

    @staticmethod
    def episode_key(base: str, episode_input: Any, upstream: Sequence[str]) -> str:
        """Key of one episode's result: redone when it changes, and only then."""
        return digest_of([base, episode_input, list(upstream)])


def make_plan(pipeline: Pipeline, dataset: DatasetReader, source: str) -> Plan:
    """Resolve, expand and check a pipeline against a dataset, before any work.

    Raises:
        IgrftError: a step lacks an input, naming the step that would make it; or a step's own refusal.
    """
    entries, notices = _resolve(pipeline, dataset)
    parts = [(entry.type, part) for entry in entries for part in entry.expand()]
    steps, owners = tuple(part for _, part in parts), tuple(owner for owner, _ in parts)
    made: dict[str, int] = {}
    producers: list[tuple[int, ...]] = []
    for i, step in enumerate(steps):
        for need in (*step.needs, *step.takes):
            later = any(need in s.makes for s in steps[i + 1 :])
            # What a later step makes anew is never read from the recording: it would be the old one.
            recorded = need in step.takes and need in dataset.features and not later
            if need not in made and not recorded:
                what = "the episodes' subtasks" if need == SEGMENTS else repr(need)
                maker = step_that_makes(need)
                hint = f"; move step {maker!r} before it" if later else f"; add a step {maker!r} before it"
                without = " and the dataset does not have" if need in step.takes and not later else ""
                raise IgrftError(
                    f"pipeline {pipeline.name!r}: step {step.type!r} needs {what}, which nothing before it makes"
                    f"{without}{hint if maker else ''}"
                )
        producers.append(tuple(sorted({made[n] for n in (*step.needs, *step.takes) if n in made})))
        for what in step.makes:
            if what in made:
                raise IgrftError(
                    f"pipeline {pipeline.name!r}: steps {steps[made[what]].type!r} and {step.type!r} both make "
                    f"{what!r}; remove one of them"
                )
            made[what] = i
    return Plan(entries, steps, tuple(producers), source, notices, owners)


def _resolve(pipeline: Pipeline, dataset: DatasetReader) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """Steps as this dataset wants them, and why some were left out."""
    entries, notices = [], []
    for step in pipeline.steps:
        try:
            entries.append(step.resolve(dataset))
        except NotApplicable as reason:
            notices.append(str(reason))
    if not entries:
        raise IgrftError(f"pipeline {pipeline.name!r} has nothing to do here: {'; '.join(notices)}")
    return tuple(entries), tuple(notices)
