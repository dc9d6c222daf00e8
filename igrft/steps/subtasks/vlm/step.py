"""The steps that ``source: vlm`` stands for: ask the model about every episode, then merge an open vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.extras import require
from igrft.steps.base import (
    SEGMENTS,
    Episode,
    EpisodeLabels,
    Labeller,
    Preview,
    Provisional,
    Resources,
    Spending,
    StepDefaults,
)
from igrft.steps.subtasks.segments import Segment, check_cover, parse_segments, settle
from igrft.steps.subtasks.success import known_success, success_of
from igrft.steps.subtasks.vlm.session import Session

if TYPE_CHECKING:
    from igrft.steps.subtasks.step import Subtasks

#: Segments with names as the model gave them, episode by episode: not yet one vocabulary.
SEGMENTS_SEEN = "segments_seen"


def served_here(entry: Subtasks) -> Resources:
    """What asking takes on a cluster: cores for pictures, and a GPU where the step starts the model's server."""
    return Resources(cpus=4, memory_gb=32, gpus=1) if entry.serve_command else Resources(cpus=2, memory_gb=4)


@dataclass(frozen=True)
class VlmSubtasks(StepDefaults):
    """Asks the model about one episode. Threads wait for its answers together, in one process.

    Attributes:
        entry: the pipeline's entry, resolved.
        session: what the steps of this run ask through.
    """

    type: ClassVar[str] = "subtasks"
    version: ClassVar[int] = 1

    entry: Subtasks
    session: Session = field(compare=False, repr=False)

    @property
    def heavy(self) -> bool:
        return True

    @property
    def in_flight(self) -> int | None:
        return self.entry.concurrency

    @property
    def resources(self) -> Resources:
        """The model is elsewhere, unless the step serves it itself."""
        return served_here(self.entry)

    @property
    def makes(self) -> tuple[str, ...]:
        return (SEGMENTS_SEEN,)

    def settings(self) -> dict[str, Any]:
        return self.entry.settings()

    def episode_input(self, dataset: DatasetReader, row: int) -> Any:
        return self.entry.episode_input(dataset, row)

    def ready(self) -> None:
        require("source: vlm of step 'subtasks'", "vlm")
        self.entry.key()

    def announce(self, dataset: DatasetReader, rows: Sequence[int]) -> str | None:
        from igrft.steps.subtasks.vlm.preview import estimate

        asked = self.rows_to_ask(dataset, rows)
        return estimate(self.entry, dataset, asked, open_names=self.asks_for_names).to_line() if asked else None

    def preview(self, dataset: DatasetReader, rows: Sequence[int], folder: Path) -> Preview | None:
        from igrft.steps.subtasks.vlm.preview import preview

        return preview(self.entry, dataset, self.rows_to_ask(dataset, rows), folder, open_names=self.asks_for_names)

    @property
    def asks_for_names(self) -> bool:
        """Whether one more question merges the names of all episodes."""
        return not self.entry.task and self.entry.merge == "model"

    def rows_to_ask(self, dataset: DatasetReader, rows: Sequence[int]) -> list[int]:
        """Of ``rows`` those that no file of corrections has subtasks for."""
        return [r for r in rows if "from" not in (self.entry.given(int(dataset.episode_indices[r])) or {})]

    def close(self) -> Spending | None:
        return self.session.close()

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        from igrft.steps.subtasks.vlm.labeller import EpisodeAsker
        from igrft.steps.subtasks.vlm.sheets import load_lerobot

        # Here and not by the first thread: others would find it half imported.
        load_lerobot()
        entry = self.entry
        tasks = entry.tasks
        asker = EpisodeAsker(self.session, entry.shortest)
        columns = [n for n in c.SUCCESS_SPELLINGS if n in dataset.features]
        for name in columns:
            # Read once, here: threads share what a reader has found.
            dataset.any_true(name)

        def label(episode: Episode) -> EpisodeLabels:
            given = entry.given(episode.index)
            task = tasks.of(episode.index, episode.tasks) if tasks else None
            success, success_from = success_of(given, episode, columns)
            where = f"episode {episode.index}"
            record: dict[str, Any] = {}
            if given is not None and "from" in given:
                segments = parse_segments(given.get("subtasks"), f"{where} in {entry.overrides}")
                record["names_from"] = "overrides"
            else:
                seen = asker.see(episode, task, known_success((success, success_from)))
                if seen.success is not None:
                    success, success_from = seen.success, "model"
                segments = joined(seen.segments)
                if task:
                    segments = listed(segments, seen.skipped, success, episode.length)
                    record |= {"skipped": list(seen.skipped)} if seen.skipped and success else {}
            check_cover(segments, episode.length, where)
            # Repeats are found by name, so an open vocabulary is settled when its names are.
            subtasks = [s.to_json() for s in settle(segments, success, where)] if task else list(map(as_seen, segments))
            record |= {"success": success, "success_from": success_from, "subtasks": subtasks}
            return EpisodeLabels(record=record)

        return label


def listed(segments: Sequence[Segment], skipped: Sequence[str], success: bool, length: int) -> list[Segment]:
    """What an episode lists, of what the model saw.

    In a failure, subtasks that it did not see were never begun. In a success the robot did without them, and they
    are not listed: a success with an undone segment would be set aside. Of a name whose every segment the model
    calls not done, the last is done in a success, which is known better.
    """
    if not success:
        return [*segments, *(Segment(name, length, length, False) for name in skipped)]
    done = {s.name for s in segments if s.done is not False}
    last = {s.name: i for i, s in enumerate(segments)}
    return [replace(s, done=True) if s.name not in done and last[s.name] == i else s for i, s in enumerate(segments)]


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of one name are one, but for a failed try and the next."""
    out: list[Segment] = []
    for s in segments:
        if out and out[-1].name == s.name and out[-1].done is not False:
            out[-1] = replace(s, start=out[-1].start)
        else:
            out.append(s)
    return out


def as_seen(segment: Segment) -> dict[str, Any]:
    """A segment of an open vocabulary; ``done`` may still be open."""
    return {"name": segment.name, "start": segment.start, "end": segment.end, "done": segment.done}


@dataclass(frozen=True)
class SubtaskNames(StepDefaults):
    """Merges the names of all episodes into one vocabulary: by spelling, then by what the model says they mean."""

    type: ClassVar[str] = "subtask_names"

    entry: Subtasks
    session: Session = field(compare=False, repr=False)

    @property
    def needs(self) -> tuple[str, ...]:
        return (SEGMENTS_SEEN,)

    @property
    def makes(self) -> tuple[str, ...]:
        return (SEGMENTS,)

    def settings(self) -> dict[str, Any]:
        return {"merge": self.entry.merge}

    def ready(self) -> None:
        if self.entry.merge == "model":
            require("source: vlm of step 'subtasks'", "vlm")
            self.entry.key()

    @property
    def resources(self) -> Resources:
        return served_here(self.entry) if self.entry.merge == "model" else Resources()

    @property
    def reduces(self) -> bool:
        return True

    def reduced_from(self, records: Iterable[tuple[int, Mapping[str, Any]]]) -> Any:
        """What the model would be asked; None where spelling alone decides."""
        if self.entry.merge != "model":
            return None
        uses, given = _uses(records)
        return [self.entry.model, sorted(uses.items()), sorted(given)]

    def reduce(self, records: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[str, str] | Provisional:
        """Every name, and the one it goes by."""
        from igrft.steps.subtasks.vlm.vocabulary import merge_vocabulary

        mapping, trouble = merge_vocabulary(*_uses(records), self.session if self.entry.merge == "model" else None)
        if trouble:
            self.session.troubles.append(trouble)
            return Provisional(mapping)
        return mapping

    def open(self, dataset: DatasetReader, reduced: dict[str, str]) -> Labeller:
        def label(episode: Episode) -> EpisodeLabels:
            raw = [Segment(s["name"], s["start"], s["end"], s["done"]) for s in episode.record["subtasks"]]
            where = f"episode {episode.index}"
            success = bool(episode.record["success"])
            named = joined([replace(s, name=reduced[s.name]) for s in raw])
            if "names_from" not in episode.record:
                named = listed(named, (), success, episode.length)
            settled = settle(named, success, where)
            # Whole: later steps read what this one recorded, and not what it was made from.
            record = {**episode.record, "subtasks": [s.to_json() for s in settled]}
            renamed = {s.name: reduced[s.name] for s in raw if reduced[s.name] != s.name}
            return EpisodeLabels(record=record | ({"renamed": renamed} if renamed else {}))

        return label


@dataclass(frozen=True)
class TaskWeights(StepDefaults):
    """Adds the task file's importance weights, which may change after the model was asked."""

    type: ClassVar[str] = "task_weights"

    entry: Subtasks

    @property
    def needs(self) -> tuple[str, ...]:
        return (SEGMENTS_SEEN,)

    @property
    def makes(self) -> tuple[str, ...]:
        return (SEGMENTS,)

    def settings(self) -> dict[str, Any]:
        return {}

    def episode_input(self, dataset: DatasetReader, row: int) -> Any:
        """The weights by subtask; None where the task file gives none."""
        assert self.entry.tasks is not None
        task = self.entry.tasks.of(int(dataset.episode_indices[row]), dataset.episode_tasks(row))
        return dict(zip(task.subtasks, task.weights, strict=True)) if task.weights else None

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        def label(episode: Episode) -> EpisodeLabels:
            weights = self.episode_input(episode.dataset, episode.row)
            return EpisodeLabels(record=episode.record | ({"importance": weights} if weights else {}))

        return label


def _uses(records: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[Counter[str], set[str]]:
    """How often each name was used, in order of first appearance; and the names that people gave."""
    uses: Counter[str] = Counter()
    given: set[str] = set()
    for _, record in records:
        names = [segment["name"] for segment in record["subtasks"]]
        uses.update(names)
        given.update(names if "names_from" in record else ())
    return uses, given


def expand(entry: Subtasks) -> tuple[StepDefaults, ...]:
    """The steps of an entry with ``source: vlm``, which share one session."""
    session = Session(entry)
    asks = VlmSubtasks(entry, session)
    return (asks, TaskWeights(entry)) if entry.task else (asks, SubtaskNames(entry, session))
