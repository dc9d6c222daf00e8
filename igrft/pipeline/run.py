"""`annotate`: a dataset and a pipeline in, a labelled dataset out."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igrft.cluster.active import refuse_active
from igrft.dataset.files import IGRFT
from igrft.dataset.fingerprint import digest_of, fingerprint
from igrft.dataset.locate import locate
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.pipeline.assemble import Assembly
from igrft.pipeline.config import Pipeline, load_pipeline
from igrft.pipeline.labelling import Labelling, kept_file, say_to_stderr
from igrft.pipeline.outcome import AnnotateResult, notices_of
from igrft.pipeline.plan import make_plan
from igrft.pipeline.record import record_head, without_paths, write_record
from igrft.pipeline.screen import screen
from igrft.pipeline.staging import merge_staged
from igrft.pipeline.target import open_target
from igrft.pipeline.workers import (
    default_workers,
    one_line,
    refuse_full_disk,
)
from igrft.progress import progress


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
    say: Callable[[str], None] = say_to_stderr,
    staging: str | Path | None = None,
) -> AnnotateResult:
    """Label a LeRobot v3.0 dataset. Run again, it resumes. The source is never changed.

    Args:
        source: folder, URL or Hub id of the dataset.
        target: folder of the labelled dataset, and ``target.staging`` beside it holds work in progress; or a URL.
        pipeline: name or path of a pipeline file, or a loaded pipeline. One that asks for a cluster is submitted by
            :func:`igrft.cluster.submit.submit`.
        overrides: ``steps.TYPE.KEY=VALUE``, applied to the file.
        workers: processes for heavy steps; None is one a core.
        strict: stop at the first episode that cannot be labelled, instead of setting it aside.
        overwrite: replace a TARGET that was not made from this source.
        say: told what the user must know while it runs (what is about to leave this machine, what it
            cost); default: to standard error.
        staging: for a target that is a URL, the folder for work in progress; default: ``$IGRFT_STAGING``, else
            ``~/.cache/igrft/staging``.

    Raises:
        UsageError: a wrong call or pipeline file.
        IgrftError: nothing could be labelled, TARGET is not ours, the disk is full, …
    """
    loaded = pipeline if isinstance(pipeline, Pipeline) else load_pipeline(str(pipeline), overrides)
    if loaded.executor.in_jobs:
        if workers is not None:
            raise UsageError("workers are for a run in one process; of jobs give executor.workers")
        # Here: what runs elsewhere is asked for by few.
        from igrft.cluster.submit import run_here

        return run_here(source, target, loaded, strict=strict, overwrite=overwrite, say=say, staging=staging)
    run = Run.prepare(source, target, loaded, staging=staging)
    run.workers, run.strict, run.show, run.say = workers or default_workers(), strict, show_progress, say
    where, plan = run.target, run.plan
    try:
        where.refuse_strangers(plan.source, overwrite)
        refuse_active(where)
        with where.locked():
            where.recover()
            where.refuse_strangers(plan.source, overwrite)
            return run.go()
    except OSError as error:
        refuse_full_disk(error)
        raise IgrftError(f"{error.filename or where}: {error.strerror or one_line(error)}") from error


@dataclass
class Run(Labelling):
    """One call of :func:`annotate`: every step over every episode, and TARGET written.

    Attributes:
        name: of the pipeline.
    """

    name: str = ""

    @classmethod
    def prepare(
        cls,
        source: str | Path,
        target: str | Path,
        pipeline: str | Path | Pipeline,
        overrides: Sequence[str] = (),
        *,
        staging: str | Path | None = None,
    ) -> Run:
        """Check everything against everything, and touch nothing. For the arguments see :func:`annotate`."""
        where = open_target(target, staging)
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
        return cls(dataset, plan, where, unfit, name=loaded.name)

    def go(self) -> AnnotateResult:
        """Label, and write TARGET."""
        spent: dict[str, dict[str, Any]] = {}
        try:
            self.find_earlier_work()
            self.refuse_what_is_lacking()
            shutil.rmtree(self.target.out, ignore_errors=True)
            for group in self.plan.groups:
                self.run_group(group)
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
        if earlier and earlier.get("key") == key and not self.set_aside and self.target.is_whole(self.dataset):
            shutil.rmtree(self.target.staging, ignore_errors=True)
            return dataclasses.replace(result, unchanged=True)
        self._assemble(key)
        return result

    # Writing.

    def _result(self) -> AnnotateResult:
        rows = [r for r in range(self.dataset.num_episodes) if r not in self.set_aside]
        notices, assumed = notices_of(self.plan, map(self.record, rows), len(rows))
        return AnnotateResult(
            target=self.target.shown,
            episodes=len(rows),
            frames=int(self.dataset.lengths[rows].sum()),
            set_aside={int(self.dataset.episode_indices[r]): reason for r, reason in sorted(self.set_aside.items())},
            assumed_successes=assumed,
            notices=tuple(notices),
        )

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
                yield index, {**kept, **self.record(row)}

    def _assemble(self, key: str) -> None:
        assembly = Assembly(
            dataset=self.dataset,
            columns=self.plan.columns,
            vocabulary=self.reductions.get("subtask_index"),
            labels=self.labels,
            set_aside=frozenset(self.set_aside),
            take_over=self.target.take_over,
        )
        with progress("writing", self.dataset.num_episodes, self.dataset.num_frames, show=self.show) as advance:
            assembly.write(self.target.out, advance)
        head = record_head(self.dataset, self.plan, self.name, key, assembly.written)
        write_record(self.target.out / IGRFT, head, self._final_records())
        for number, step in enumerate(self.plan.steps):
            if step.heavy:
                staged = [self.staged(number, r) for r in range(self.dataset.num_episodes) if r not in self.set_aside]
                merge_staged(self.target.out / kept_file(step.type), staged)
        self.kept_reductions.write(self.target.out)
        self.target.publish(self.plan.source, self.say)
