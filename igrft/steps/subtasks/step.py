"""The `subtasks` step and the bookkeeping step that follows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError, UsageError
from igrft.rewards.hybrid import subtask_weights
from igrft.steps.base import SEGMENTS, Episode, EpisodeLabels, Labeller, StepDefaults
from igrft.steps.subtasks.existing import existing_segments, has_existing
from igrft.steps.subtasks.file import check_episodes_exist, read_subtask_file
from igrft.steps.subtasks.segments import Segment, check_cover, parse_segments, settle
from igrft.steps.subtasks.success import success_of
from igrft.steps.subtasks.vlm.settings import VLM_KEYS, VlmSettings, changed, public
from igrft.steps.task_file import Task, Tasks, load_tasks

Source = Literal["auto", "file", "dataset", "proprio", "vlm"]


@dataclass(frozen=True)
class Subtasks(VlmSettings, StepDefaults):
    """Finds the ordered subtasks of an episode, and whether it succeeded.

    Attributes:
        source: ``file`` (``path``); ``dataset`` (labels that it has); ``proprio`` (gripper events and
            change points); ``vlm`` (a vision-language model, whose further settings are those of
            :class:`VlmSettings`); ``auto``: ``proprio`` if a task is given, else labels that the
            dataset has, else unnamed phases.
        path: the subtask file, for ``source: file``.
        overrides: a subtask file whose episodes win over any source.
        task: a task file, or a folder of them matched by the episode's task string.
        penalty: proprio without a task: price of one more phase.
        shortest: proprio and vlm: least duration of a subtask, in seconds.
        snap: proprio: a boundary this near to a gripper event, in seconds, moves onto it.
    """

    type: ClassVar[str] = "subtasks"
    paths: ClassVar[tuple[str, ...]] = ("path", "overrides", "task", "cache")

    source: Source = "auto"
    path: str | None = None
    overrides: str | None = None
    task: str | None = None
    penalty: float = 4.0
    shortest: float = 0.5
    snap: float = 0.7

    def __post_init__(self) -> None:
        if self.source == "file" and not self.path:
            raise UsageError("step 'subtasks': source: file needs 'path', the subtask file")
        if self.source != "file" and self.path:
            raise UsageError(f"step 'subtasks': 'path' is for source: file, but source is {self.source!r}")
        if not self.shortest > 0 or not self.penalty > 0 or self.snap < 0:
            raise UsageError("step 'subtasks': shortest and penalty must be positive, snap not negative")
        if self.source == "vlm":
            self.check()
        elif stray := changed(self):
            raise UsageError(f"step 'subtasks': {stray[0]!r} is for source: vlm, but source is {self.source!r}")

    @property
    def heavy(self) -> bool:
        return self.source == "proprio"

    @property
    def makes(self) -> tuple[str, ...]:
        return (SEGMENTS,)

    def expand(self) -> tuple[Any, ...]:
        if self.source == "vlm":
            from igrft.steps.subtasks.vlm.step import expand

            return (*expand(self), SubtaskIndex())
        return (self, SubtaskIndex())

    def recorded(self) -> dict[str, Any]:
        if self.source == "vlm":
            return public(super().recorded())
        own = super().recorded()
        return {k: v for k, v in own.items() if k not in VLM_KEYS}

    def resolve(self, dataset: DatasetReader) -> Subtasks:
        known = {int(i) for i in dataset.episode_indices}
        for path in (self.path, self.overrides):
            if path:
                check_episodes_exist(path, known)
        if self.task:
            load_tasks(self.task)
        source = self.source
        if source == "auto":
            # Labels may be there for some episodes only: then each is decided by itself.
            source = "auto" if not self.task and has_existing(dataset) else "proprio"
        if source == "dataset" and not has_existing(dataset):
            raise IgrftError(
                f"{dataset.root} has no subtask labels (language_persistent, SARM's columns or subtask_index); "
                "use source: file or source: proprio"
            )
        if source == "vlm":
            self._refuse_for_vlm(dataset)
        return dataclasses.replace(self, source=source)

    def _refuse_for_vlm(self, dataset: DatasetReader) -> None:
        """Before anything is paid for."""
        from igrft.steps.subtasks.vlm.labeller import refuse_missing_cameras

        refuse_missing_cameras(dataset, self)
        self.check_density(min(self.frames_per_second, dataset.fps))
        if self.snap_window > 0 and c.STATE not in dataset.features and c.ACTION not in dataset.features:
            raise IgrftError(
                f"{dataset.root} has neither {c.STATE} nor {c.ACTION}, so boundaries have nothing to be moved onto; "
                "set snap_window: 0"
            )

    def settings(self) -> dict[str, Any]:
        # What the files say is an input of each episode, so their paths decide nothing.
        if self.source == "vlm":
            return {"source": "vlm", "shortest": self.shortest, **self.decisive()}
        own: dict[str, Any] = {"source": self.source}
        if self.source in ("proprio", "auto"):
            own |= {"penalty": self.penalty, "shortest": self.shortest, "snap": self.snap}
        return own

    def episode_input(self, dataset: DatasetReader, row: int) -> Any:
        """What the files say of an episode. Raises EpisodeError where no task file is for it."""
        index = int(dataset.episode_indices[row])
        task = self.tasks.of(index, dataset.episode_tasks(row)) if self.tasks else None
        return [self.given(index), self._of_task(task) if task else None]

    def _of_task(self, task: Task) -> list[Any]:
        """What of a task decides this step's result."""
        if self.source != "vlm":
            return [task.subtasks, task.weights]
        # Weights are added by a step of its own, so that they can be changed without asking again.
        hint = task.camera if not self.cameras else None
        return [task.subtasks, task.goal, hint, task.success if self.judge_success else None]

    @cached_property
    def tasks(self) -> Tasks | None:
        """The task files, read once: every episode asks for its own."""
        return load_tasks(self.task) if self.task else None

    def given(self, index: int) -> dict[str, Any] | None:
        """An episode's entry: what the corrections say of it, and what they leave open from the file."""
        entry: dict[str, Any] = {}
        for name, path in (("file", self.path if self.source == "file" else None), ("overrides", self.overrides)):
            found = read_subtask_file(path).get(index) if path else None
            if found is not None:
                # "from" names the file that the subtasks are from.
                entry |= found | ({"from": name} if "subtasks" in found else {})
        return entry or None

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        tasks = self.tasks
        success_columns = [n for n in c.SUCCESS_SPELLINGS if n in dataset.features]

        def label(episode: Episode) -> EpisodeLabels:
            entry = self.given(episode.index)
            task = tasks.of(episode.index, episode.tasks) if tasks else None
            success, success_from = success_of(entry, episode, success_columns)
            segments, where = self._segments(entry, episode, tasks)
            check_cover(segments, episode.length, where)
            settled = settle(segments, success, where)
            record: dict[str, Any] = {
                "success": success,
                "success_from": success_from,
                "subtasks": [s.to_json() for s in settled],
            }
            if task and task.weights:
                record["importance"] = dict(zip(task.subtasks, task.weights, strict=True))
            return EpisodeLabels(record=record)

        return label

    def _segments(
        self, entry: Mapping[str, Any] | None, episode: Episode, tasks: Tasks | None
    ) -> tuple[list[Segment], str]:
        if entry is not None and "from" in entry:
            path = self.overrides if entry["from"] == "overrides" else self.path
            where = f"episode {episode.index} in {path}"
            return parse_segments(entry.get("subtasks"), where), where
        where = f"episode {episode.index}"
        if self.source == "file":
            raise EpisodeError(f"{where} is not in {self.path}, or has no 'subtasks' there; add it")
        if self.source in ("dataset", "auto"):
            found = existing_segments(episode.dataset, episode.row)
            if found:
                return found, where
            if self.source == "dataset":
                raise EpisodeError(
                    f"{where} has no subtask labels; give them in 'overrides', or use source: auto for unnamed phases"
                )
        return self._from_proprio(episode, tasks), where

    def _from_proprio(self, episode: Episode, tasks: Tasks | None) -> list[Segment]:
        from igrft.steps.subtasks.proprio import find_boundaries, read_signals

        names = list(tasks.of(episode.index, episode.tasks).subtasks) if tasks else None
        try:
            starts = find_boundaries(
                read_signals(episode.dataset, episode.row),
                episode.fps,
                len(names) - 1 if names else None,
                penalty=self.penalty,
                shortest=self.shortest,
                snap=self.snap,
            )
        except EpisodeError as error:
            text = str(error)
            raise EpisodeError(text if text.startswith("episode") else f"episode {episode.index}: {text}") from None
        names = names or [f"phase {i + 1}" for i in range(len(starts) + 1)]
        edges = [0, *starts, episode.length]
        return [Segment(n, a, b) for n, a, b in zip(names, edges[:-1], edges[1:], strict=True)]


@dataclass(frozen=True)
class SubtaskIndex(StepDefaults):
    """Gives every subtask name its row in ``meta/subtasks.parquet``; writes what follows from segments.

    Runs by itself after any step that finds segments; it needs every episode's names first.
    """

    type: ClassVar[str] = "subtask_index"

    @property
    def needs(self) -> tuple[str, ...]:
        return (SEGMENTS,)

    @property
    def makes(self) -> tuple[str, ...]:
        return (c.SUBTASK_INDEX, c.LANGUAGE_PERSISTENT, c.DONE, c.SUCCESS)

    @property
    def facts(self) -> tuple[str, ...]:
        """What any source of subtasks may record."""
        return ("subtasks", "success", "success_from", "importance", "skipped", "renamed", "names_from")

    @property
    def reduces(self) -> bool:
        return True

    def reduce(self, records: Iterable[tuple[int, Mapping[str, Any]]]) -> list[str]:
        """The vocabulary, in order of first appearance."""
        names: dict[str, None] = {}
        for _, record in records:
            for segment in record["subtasks"]:
                names.setdefault(segment["name"])
        return list(names)

    def open(self, dataset: DatasetReader, reduced: list[str]) -> Labeller:
        number = {name: i for i, name in enumerate(reduced)}

        def label(episode: Episode) -> EpisodeLabels:
            segments = episode.record["subtasks"]
            index = np.full(episode.length, -1, dtype=np.int64)
            for s in segments:
                index[s["start"] : s["end"]] = number[s["name"]]
            done = np.zeros(episode.length, dtype=bool)
            done[-1] = True
            weights = subtask_weights([s["name"] for s in segments], [s["done"] for s in segments])
            weighted = [{**s, "weight": float(w)} for s, w in zip(segments, weights, strict=True)]
            columns = {c.SUBTASK_INDEX: index, c.DONE: done, c.SUCCESS: done & episode.record["success"]}
            # language_persistent follows from the record and the source's timestamps: see assembly.
            return EpisodeLabels(columns=columns, record={"subtasks": weighted})

        return label
