"""Every step over every episode: what is known, what is missing, and the work itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError
from igrft.pipeline.plan import Plan
from igrft.pipeline.reductions import Reductions
from igrft.pipeline.staging import Result, Staged, write_staged
from igrft.pipeline.store import StageStore
from igrft.pipeline.target import Target
from igrft.pipeline.threads import run_in_threads
from igrft.pipeline.workers import Job, Task, label_episode, merge, one_line, run_tasks
from igrft.progress import progress
from igrft.remote.mirror import here
from igrft.steps.base import Episode, Step, StepDefaults

#: Frames of cheap steps that are labelled and staged together.
_BATCH_FRAMES = 131072


class StrictError(IgrftError):
    """An episode cannot be labelled, and none may be set aside."""


def say_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass
class Labelling:
    """The steps of a plan over the episodes of a dataset, staged beside TARGET.

    Attributes:
        dataset, plan, target: what is labelled, how, and where to.
        unfit: reasons by row why an episode can be labelled by no step.
        workers: processes for heavy steps.
        strict: stop at the first episode that cannot be labelled, instead of setting it aside.
        show: progress bars.
        say: told what the user must know while it runs.
        rows: the rows that this process looks at; None is all.
        given: reductions by step type, where another process made them; None: they are made here.
        again: try episodes once more that an earlier run set aside.
        isolated: run heavy steps in processes of their own even where there is one worker: a crash costs an episode.
        bar: as :func:`igrft.progress.progress`, told of every episode.
    """

    dataset: DatasetReader
    plan: Plan
    target: Target
    unfit: dict[int, str]
    workers: int = 1
    strict: bool = False
    show: bool = False
    say: Callable[[str], None] = say_to_stderr
    rows: Sequence[int] | None = None
    given: Mapping[str, Any] | None = None
    again: bool = True
    isolated: bool = False
    bar: Callable[..., AbstractContextManager[Callable[[int, int], None]]] = progress
    stores: list[StageStore] = field(default_factory=list)
    keys: list[dict[int, str]] = field(default_factory=list)
    set_aside: dict[int, str] = field(default_factory=dict)
    reductions: dict[str, Any] = field(default_factory=dict)
    kept_reductions: Reductions = field(default_factory=Reductions)

    def _still_set_aside(self) -> dict[int, str]:
        """Episodes that an earlier labelling of the source set aside, where not all of it is done again."""
        earlier = self.dataset.igrft or {}
        if set(earlier.get("columns", [])) <= set(self.plan.columns):
            return {}
        episodes = earlier.get("episodes", {})
        found = {}
        for row, index in enumerate(self.dataset.episode_indices.tolist()):
            reason = episodes.get(str(index), {}).get("set_aside")
            if reason is not None:
                found[row] = str(reason)
        return found

    def find_earlier_work(self) -> None:
        """Staged results of killed runs, and heavy ones that the finished TARGET kept; what can be no episode."""
        for row, reason in {**self._still_set_aside(), **self.unfit}.items():
            self.put_aside(row, reason)
        for step in self.plan.steps:
            store = StageStore(self.target.staging / "steps" / step.type)
            kept = here(self.target.earlier / kept_file(step.type))
            store.scan(*([kept] if kept.is_file() else []), rows=self.rows)
            if self.again:
                store.forget_set_aside()
            self.stores.append(store)
            self.keys.append({})
        self.kept_reductions = Reductions.read(self.target.earlier, self.target.staging)

    @property
    def left(self) -> list[int]:
        """Rows that no step has set aside, of those that this process looks at."""
        rows = range(self.dataset.num_episodes) if self.rows is None else self.rows
        return [r for r in rows if r not in self.set_aside]

    def known(self, group: list[int]) -> bool:
        """Whether what a group needs of all episodes together costs nothing: no model has to be asked for it."""
        rows = self.left
        steps = [self.plan.steps[n] for n in group]
        return all(self.kept_reductions.costs_nothing(s, lambda: self.records(rows)) for s in steps if s.reduces)

    def refuse_what_is_lacking(self) -> None:
        """Ask every step that has something to do whether it can, before the first has spent anything.

        A step whose results are all kept needs no package and no key: new thresholds apply on any machine.
        """
        if all(type(step).ready is StepDefaults.ready for step in self.plan.steps):
            return
        to_do: set[int] = set()
        for group in self.plan.groups:
            steps = [self.plan.steps[n] for n in group]
            # Past a step that is not done its episodes' keys are not known, but then they are to do as well.
            upstream = any(p in to_do for n in group for p in self.plan.producers[n])
            if upstream or (to_do and steps[0].reduces) or not self.known(group) or self.missing(group):
                to_do.update(group)
                for step in steps:
                    step.ready()

    def missing(self, group: list[int]) -> list[int]:
        """Rows for which not every step of a group is staged, once all before it are done; sets their keys."""
        rows = self.left
        bases = {n: self.plan.base_key(n, self._reduction(self.plan.steps[n], rows)) for n in group}
        missing = []
        for row in rows:
            complete = True
            for number in group:
                try:
                    episode_input = self.plan.steps[number].episode_input(self.dataset, row)
                except EpisodeError as error:
                    self.put_aside(row, one_line(error))
                    complete = True
                    break
                upstream = [self.keys[p][row] for p in self.plan.producers[number]]
                self.keys[number][row] = self.plan.episode_key(bases[number], episode_input, upstream)
                staged = self.stores[number].get(row, self.keys[number][row])
                if staged is not None and staged.reason is not None:
                    self.put_aside(row, staged.reason)
                    complete = True
                    break
                complete = complete and staged is not None
            if not complete:
                missing.append(row)
        return missing

    def _reduction(self, step: Step, rows: Sequence[int]) -> Any:
        if not step.reduces:
            return None
        if self.given is None:
            self.reductions[step.type] = self.kept_reductions.of(step, lambda: self.records(rows))
        elif step.type in self.given:
            self.reductions[step.type] = self.given[step.type]
        else:
            raise IgrftError(f"step {step.type!r}: what it takes from all episodes was not made; the job before failed")
        return self.reductions[step.type]

    def run_group(self, group: list[int]) -> None:
        """Label what is missing of a group, once all groups that it builds on are done."""
        missing = self.missing(group)
        if not missing:
            return
        for number in group:
            if line := self.plan.steps[number].announce(self.dataset, missing):
                self.say(line)
        names = "+".join(self.plan.steps[n].type for n in group)
        frames = int(self.dataset.lengths[missing].sum())
        with self.bar(names, len(missing), frames, show=self.show) as advance:
            if self.plan.steps[group[0]].heavy:
                self._run_heavy(group[0], missing, advance)
            else:
                self._run_cheap(group, missing, advance)

    def _run_heavy(self, number: int, rows: list[int], advance: Callable[[int, int], None]) -> None:
        step, store = self.plan.steps[number], self.stores[number]
        job = Job(step, self.dataset.root, self.reductions.get(step.type), store.folder)
        tasks = [
            Task(row, self.keys[number][row], tuple(self._upstream(number, row)))
            for row in _longest_first(rows, self.dataset.lengths)
        ]
        if step.in_flight is not None:
            done = run_in_threads(job, tasks, step.in_flight)
        else:
            workers = min(self.workers, step.max_workers or self.workers)
            done = run_tasks(job, tasks, workers, isolated=self.isolated)
        for staged in done:
            store.add([staged])
            if staged.reason is not None:
                self.put_aside(staged.row, staged.reason)
            advance(1, int(self.dataset.lengths[staged.row]))

    def _run_cheap(self, group: list[int], rows: list[int], advance: Callable[[int, int], None]) -> None:
        labellers = {
            n: self.plan.steps[n].open(self.dataset, self.reductions.get(self.plan.steps[n].type)) for n in group
        }
        for batch in _batches(rows, self.dataset.lengths):
            results: dict[int, list[Result]] = {n: [] for n in group}
            for row in batch:
                episode = Episode(self.dataset, row)
                for producer in sorted({p for n in group for p in self.plan.producers[n]} - set(group)):
                    merge(episode, self.staged(producer, row).labels())
                for number in group:
                    labels, reason = label_episode(labellers[number], episode, self.plan.steps[number])
                    results[number].append(Result(row, self.keys[number][row], episode.length, labels, reason))
                    if reason is not None:
                        self.put_aside(row, reason)
                        break
                    merge(episode, labels)
            for number, found in results.items():
                if found:
                    self.stores[number].add(write_staged(self.stores[number].folder, found))
            advance(len(batch), int(self.dataset.lengths[batch].sum()))

    def _upstream(self, number: int, row: int) -> list[Staged]:
        return [self.staged(p, row) for p in self.plan.producers[number]]

    def staged(self, number: int, row: int) -> Staged:
        staged = self.stores[number].get(row, self.keys[number][row])
        assert staged is not None
        return staged

    def records(self, rows: Sequence[int]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """What earlier steps recorded of every episode, in order of the episodes."""
        for row in rows:
            yield int(self.dataset.episode_indices[row]), self.record(row)

    def record(self, row: int) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for number, keys in enumerate(self.keys):
            if row in keys and (staged := self.stores[number].get(row, keys[row])) is not None:
                record.update(staged.record)
        return record

    def put_aside(self, row: int, reason: str) -> None:
        if self.strict:
            raise StrictError(f"{reason} (--strict stops here; without it the episode is set aside)")
        self.set_aside[row] = reason

    def labels(self, row: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Label columns and record of an episode when all is done; None where it was set aside."""
        if row in self.set_aside:
            return None
        columns: dict[str, np.ndarray] = {}
        for number, step in enumerate(self.plan.steps):
            if any(m in c.LABELS for m in step.makes):
                columns.update(self.staged(number, row).arrays().columns)
        return columns, self.record(row)


def kept_file(step_type: str) -> Path:
    """Where a finished dataset keeps a heavy step's results, so that no later run pays for them again."""
    return Path("meta") / "igrft" / f"{step_type}.arrow"


def _longest_first(rows: Sequence[int], lengths: np.ndarray) -> list[int]:
    """So that no worker is left with a long episode when the others are done.

    Of more than a thousand, those about as long as each other in the order of the files: an end that is a little less
    even costs less than a file's metadata read again for every episode.
    """
    about = max(0, len(rows).bit_length() - 10)
    return sorted(rows, key=lambda r: (-(int(lengths[r]) >> about), r))


def _batches(rows: Sequence[int], lengths: np.ndarray) -> list[list[int]]:
    """Consecutive rows of about ``_BATCH_FRAMES`` frames together."""
    batches: list[list[int]] = [[]]
    frames = 0
    for row in rows:
        if batches[-1] and frames + int(lengths[row]) > _BATCH_FRAMES:
            batches.append([])
            frames = 0
        batches[-1].append(row)
        frames += int(lengths[row])
    return batches
