"""`annotate`: a dataset and a pipeline in, a labelled dataset out."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.files import IGRFT
from igrft.dataset.fingerprint import digest_of, fingerprint
from igrft.dataset.locate import locate
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError
from igrft.pipeline.assemble import Assembly
from igrft.pipeline.config import Pipeline, load_pipeline
from igrft.pipeline.outcome import AnnotateResult, notices_of
from igrft.pipeline.plan import Plan, make_plan
from igrft.pipeline.record import record_head, without_paths, write_record
from igrft.pipeline.reductions import Reductions
from igrft.pipeline.screen import screen
from igrft.pipeline.staging import Result, Staged, StageStore, merge_staged, write_staged
from igrft.pipeline.target import Target
from igrft.pipeline.threads import run_in_threads
from igrft.pipeline.workers import (
    Job,
    Task,
    default_workers,
    label_episode,
    merge,
    one_line,
    refuse_full_disk,
    run_tasks,
)
from igrft.progress import progress
from igrft.steps.base import Episode, StepDefaults

#: Frames of cheap steps that are labelled and staged together.
_BATCH_FRAMES = 131072


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def annotate(
    source: str | Path,
    target: str | Path,
    *,
    pipeline: str | Path | Pipeline = "offline",
    overrides: Sequence[str] = (),
    workers: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    show_progress: bool = False,
    say: Callable[[str], None] = _say,
) -> AnnotateResult:
    """Label a LeRobot v3.0 dataset. Run again, it resumes. The source is never changed.

    Args:
        source: folder or Hub id of the dataset.
        target: folder of the labelled dataset; ``target.staging`` beside it holds work in progress.
        pipeline: name or path of a pipeline file, or a loaded pipeline.
        overrides: ``steps.TYPE.KEY=VALUE``, applied to the file.
        workers: processes for heavy steps; None is one a core.
        strict: stop at the first episode that cannot be labelled, instead of setting it aside.
        overwrite: replace a TARGET that was not made from this source.
        say: told what the user must know while it runs (what is about to leave this machine, what it
            cost); default: to standard error.

    Raises:
        UsageError: a wrong call or pipeline file.
        IgrftError: nothing could be labelled, TARGET is not ours, the disk is full, …
    """
    run = Run.prepare(source, target, pipeline, overrides)
    run.workers, run.strict, run.show, run.say = workers or default_workers(), strict, show_progress, say
    where, plan = run.target, run.plan
    try:
        where.refuse_strangers(plan.source, overwrite)
        with where.locked():
            where.recover()
            where.refuse_strangers(plan.source, overwrite)
            return run.go()
    except OSError as error:
        refuse_full_disk(error)
        raise IgrftError(f"{error.filename or where.path}: {error.strerror or one_line(error)}") from error


@dataclass
class Run:
    """One call of :func:`annotate`: a plan, and what is known of every episode."""

    name: str
    dataset: DatasetReader
    plan: Plan
    target: Target
    unfit: dict[int, str]
    workers: int = 1
    strict: bool = False
    show: bool = False
    say: Callable[[str], None] = _say
    stores: list[StageStore] = field(default_factory=list)
    keys: list[dict[int, str]] = field(default_factory=list)
    set_aside: dict[int, str] = field(default_factory=dict)
    reductions: dict[str, Any] = field(default_factory=dict)
    kept_reductions: Reductions = field(default_factory=Reductions)

    @classmethod
    def prepare(
        cls, source: str | Path, target: str | Path, pipeline: str | Path | Pipeline, overrides: Sequence[str]
    ) -> Run:
        """Check everything against everything, and touch nothing. For the arguments see :func:`annotate`."""
        # Resolved, so that "." has a name and staging lies on the disk that a link leads to.
        where = Target(Path(target).expanduser().resolve())
        root = locate(source, what="SOURCE")
        where.check_apart_from(root)
        dataset = DatasetReader.open(root)
        loaded = pipeline if isinstance(pipeline, Pipeline) else load_pipeline(str(pipeline), overrides)
        if not dataset.num_episodes:
            raise IgrftError(f"{root} has no episode to label")
        # Both read every table; hashing and decoding leave Python to each other.
        with ThreadPoolExecutor(1) as background:
            screened = background.submit(screen, DatasetReader(dataset.root, dataset.info, dataset.table))
            plan = make_plan(loaded, dataset, fingerprint(root))
            unfit = screened.result()
        return cls(loaded.name, dataset, plan, where, unfit)

    def go(self) -> AnnotateResult:
        """Label, and write TARGET."""
        spent: dict[str, dict[str, Any]] = {}
        try:
            self.find_earlier_work()
            self._refuse_what_is_lacking()
            shutil.rmtree(self.target.out, ignore_errors=True)
            for group in self.plan.groups:
                self._run_group(group)
        finally:
            for step in self.plan.steps:
                if spending := step.close():
                    self.say(spending.line)
                    spent[step.type] = spending.numbers
        return self._finish(dataclasses.replace(self._result(), spent=spent))

    def _finish(self, result: AnnotateResult) -> AnnotateResult:
        if not result.episodes:
            reasons = next(iter(result.set_aside.values()))
            raise IgrftError(f"no episode could be labelled; the first: {reasons}")
        key = digest_of([self.keys, sorted(self.set_aside.items())])
        earlier = self.target.record()
        if earlier and earlier.get("key") == key and not self.set_aside and self._target_is_whole():
            shutil.rmtree(self.target.staging, ignore_errors=True)
            return dataclasses.replace(result, unchanged=True)
        self._assemble(key)
        return result

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

    def _target_is_whole(self) -> bool:
        """Whether every file of the finished TARGET is still there, tables with the rows they had."""
        try:
            made = DatasetReader.open(self.target.path)
            for path, rows in made.data_files:
                if made.parquet(path).metadata.num_rows != int(made.lengths[rows].sum()):
                    return False
        except IgrftError:
            return False
        videos = (p.relative_to(self.dataset.root) for p in (self.dataset.root / "videos").rglob("*.mp4"))
        return all((self.target.path / p).is_file() for p in videos)

    def find_earlier_work(self) -> None:
        """Staged results of killed runs, and heavy ones that the finished TARGET kept; what can be no episode."""
        for row, reason in {**self._still_set_aside(), **self.unfit}.items():
            self._put_aside(row, reason)
        for step in self.plan.steps:
            store = StageStore(self.target.staging / "steps" / step.type)
            kept = self.target.path / _kept(step.type)
            store.scan(*([kept] if kept.is_file() else []))
            store.forget_set_aside()
            self.stores.append(store)
            self.keys.append({})
        self.kept_reductions = Reductions.read(self.target.path, self.target.staging)

    # Labelling.

    def known(self, group: list[int]) -> bool:
        """Whether what a group needs of all episodes together costs nothing: no model has to be asked for it."""
        rows = [r for r in range(self.dataset.num_episodes) if r not in self.set_aside]
        steps = [self.plan.steps[n] for n in group]
        return all(self.kept_reductions.costs_nothing(s, lambda: self._records(rows)) for s in steps if s.reduces)

    def missing(self, group: list[int]) -> list[int]:
        """Rows for which not every step of a group is staged, once all before it are done; sets their keys."""
        rows = [r for r in range(self.dataset.num_episodes) if r not in self.set_aside]
        bases = {}
        for number in group:
            step = self.plan.steps[number]
            reduced = self.kept_reductions.of(step, lambda: self._records(rows)) if step.reduces else None
            if step.reduces:
                self.reductions[step.type] = reduced
            bases[number] = self.plan.base_key(number, reduced)
        missing = []
        for row in rows:
            complete = True
            for number in group:
                try:
                    episode_input = self.plan.steps[number].episode_input(self.dataset, row)
                except EpisodeError as error:
                    self._put_aside(row, one_line(error))
                    complete = True
                    break
                upstream = [self.keys[p][row] for p in self.plan.producers[number]]
                self.keys[number][row] = self.plan.episode_key(bases[number], episode_input, upstream)
                complete = complete and self.stores[number].get(row, self.keys[number][row]) is not None
            if not complete:
                missing.append(row)
        return missing

    def _refuse_what_is_lacking(self) -> None:
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

    def _run_group(self, group: list[int]) -> None:
        missing = self.missing(group)
        if not missing:
            return
        for number in group:
            if line := self.plan.steps[number].announce(self.dataset, missing):
                self.say(line)
        names = "+".join(self.plan.steps[n].type for n in group)
        frames = int(self.dataset.lengths[missing].sum())
        with progress(names, len(missing), frames, show=self.show) as advance:
            if self.plan.steps[group[0]].heavy:
                self._run_heavy(group[0], missing, advance)
            else:
                self._run_cheap(group, missing, advance)

    def _run_heavy(self, number: int, rows: list[int], advance: Callable[[int, int], None]) -> None:
        step, store = self.plan.steps[number], self.stores[number]
        job = Job(step, self.dataset.root, self.reductions.get(step.type), store.folder)
        tasks = [
            Task(row, self.keys[number][row], tuple(self._upstream(number, row)))
            # Longest first: no worker is left with a long episode when the others are done.
            for row in sorted(rows, key=lambda r: -int(self.dataset.lengths[r]))
        ]
        if step.in_flight is not None:
            done = run_in_threads(job, tasks, step.in_flight)
        else:
            done = run_tasks(job, tasks, min(self.workers, step.max_workers or self.workers))
        for staged in done:
            store.add([staged])
            if staged.reason is not None:
                self._put_aside(staged.row, staged.reason)
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
                    merge(episode, self._staged(producer, row).labels())
                for number in group:
                    labels, reason = label_episode(labellers[number], episode, self.plan.steps[number])
                    results[number].append(Result(row, self.keys[number][row], episode.length, labels, reason))
                    if reason is not None:
                        self._put_aside(row, reason)
                        break
                    merge(episode, labels)
            for number, found in results.items():
                if found:
                    self.stores[number].add(write_staged(self.stores[number].folder, found))
            advance(len(batch), int(self.dataset.lengths[batch].sum()))

    def _upstream(self, number: int, row: int) -> list[Staged]:
        return [self._staged(p, row) for p in self.plan.producers[number]]

    def _staged(self, number: int, row: int) -> Staged:
        staged = self.stores[number].get(row, self.keys[number][row])
        assert staged is not None
        return staged

    def _records(self, rows: Sequence[int]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """What earlier steps recorded of every episode, in order of the episodes."""
        for row in rows:
            yield int(self.dataset.episode_indices[row]), self._record(row)

    def _record(self, row: int) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for number, keys in enumerate(self.keys):
            if row in keys and (staged := self.stores[number].get(row, keys[row])) is not None:
                record.update(staged.record)
        return record

    def _put_aside(self, row: int, reason: str) -> None:
        if self.strict:
            raise IgrftError(f"{reason} (--strict stops here; without it the episode is set aside)")
        self.set_aside[row] = reason

    # Writing.

    def _result(self) -> AnnotateResult:
        rows = [r for r in range(self.dataset.num_episodes) if r not in self.set_aside]
        notices, assumed = notices_of(self.plan, map(self._record, rows), len(rows))
        return AnnotateResult(
            target=self.target.path,
            episodes=len(rows),
            frames=int(self.dataset.lengths[rows].sum()),
            set_aside={int(self.dataset.episode_indices[r]): reason for r, reason in sorted(self.set_aside.items())},
            assumed_successes=assumed,
            notices=tuple(notices),
        )

    def _labels(self, row: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        if row in self.set_aside:
            return None
        columns: dict[str, np.ndarray] = {}
        for number, step in enumerate(self.plan.steps):
            if any(m in c.LABELS for m in step.makes):
                columns.update(self._staged(number, row).arrays().columns)
        return columns, self._record(row)

    def _final_records(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        earlier = (self.dataset.igrft or {}).get("episodes", {})
        anew = {"set_aside", *(key for step in self.plan.steps for key in step.facts)}
        for row, index in enumerate(self.dataset.episode_indices.tolist()):
            aside = self.set_aside.get(row)
            if aside is not None:
                yield index, {"set_aside": without_paths(aside, self.dataset.root)}
            else:
                # What an earlier labelling found and this one did not look at stays true.
                kept = {k: v for k, v in earlier.get(str(index), {}).items() if k not in anew}
                yield index, {**kept, **self._record(row)}

    def _assemble(self, key: str) -> None:
        assembly = Assembly(
            dataset=self.dataset,
            columns=self.plan.columns,
            vocabulary=self.reductions.get("subtask_index"),
            labels=self._labels,
            set_aside=frozenset(self.set_aside),
        )
        with progress("writing", self.dataset.num_episodes, self.dataset.num_frames, show=self.show) as advance:
            assembly.write(self.target.out, advance)
        head = record_head(self.dataset, self.plan, self.name, key, assembly.written)
        write_record(self.target.out / IGRFT, head, self._final_records())
        for number, step in enumerate(self.plan.steps):
            if step.heavy:
                staged = [self._staged(number, r) for r in range(self.dataset.num_episodes) if r not in self.set_aside]
                merge_staged(self.target.out / _kept(step.type), staged)
        self.kept_reductions.write(self.target.out)
        self.target.publish()


def _kept(step_type: str) -> Path:
    """Where a finished dataset keeps a heavy step's results, so that no later run pays for them again."""
    return Path("meta") / "igrft" / f"{step_type}.arrow"


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
