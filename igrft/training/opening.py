"""One dataset of a recipe, opened: checked, and labelled in memory or in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import open_dataset
from igrft.dataset.locate import locate
from igrft.dataset.reader import DatasetReader
from igrft.training import checks
from igrft.training.blocks import pieces
from igrft.training.frames import STATES, MemoryFrames, matrix, read_matrix, read_tasks, refuse_strange_tasks
from igrft.training.kept import KeptLabels
from igrft.training.labelling import facts_of, frame_labels, label_pieces
from igrft.training.labels import LabelSource, needs_next
from igrft.training.recipe import DatasetEntry, Recipe


@dataclass(frozen=True)
class Keep:
    """Where labels are written for all processes of a run.

    Attributes:
        folder: of the run's; a dataset has one in it.
        written: whether another process has written them.
    """

    folder: Path
    written: bool = False

    def of(self, number: int) -> Path:
        return self.folder / str(number)


@dataclass
class LabelledSet:
    """One entry of the recipe's list, opened.

    Attributes:
        cameras: those that the policy sees.
        used: absolute indices of the frames that the actor trains on, int64; None of a stream, which knows them by
            their episodes.
        memory: its states and actions, where the policy sees no camera and it is no stream.
    """

    entry: DatasetEntry
    reader: DatasetReader
    labels: LabelSource
    cameras: list[str]
    used: np.ndarray | None = None
    memory: MemoryFrames | None = None

    @property
    def root(self) -> Path:
        """Its folder; of a dataset on the Hub, where it was downloaded to."""
        return self.reader.root

    @property
    def frames_used(self) -> int:
        """Frames that the actor trains on."""
        return int(self.labels.episodes.trained.sum())


def open_entry(entry: DatasetEntry, pictures: bool) -> DatasetReader:
    """The dataset that an entry names; one to be streamed is fetched from the Hub as it is read.

    Raises:
        UsageError, IgrftError: see :func:`igrft.dataset.locate.locate`.
    """
    if entry.streaming and pictures and not entry.root:
        return DatasetReader.open(locate(f"hf://datasets/{entry.repo_id}", what="DATASET"))
    return open_dataset(entry.root or str(entry.repo_id), pictures=pictures)


def labelled(
    entry: DatasetEntry, reader: DatasetReader, cameras: list[str], recipe: Recipe, chunk: int, keep: Path | None
) -> LabelledSet:
    """Check a dataset and label its frames: in memory, or of a stream in ``keep``, which also other processes read.

    Raises:
        IgrftError: see :mod:`igrft.training.checks` and :func:`igrft.training.labelling.frame_labels`.
    """
    steps = recipe.advantage.steps or chunk
    videos = any(reader.features[camera]["dtype"] == "video" for camera in cameras)
    if entry.streaming:
        assert keep is not None
        facts = facts_of(reader, recipe, entry.episodes)
        made = label_pieces(reader, recipe, steps, facts)
        kept = KeptLabels.write(keep, facts, reader.subtask_names, made)
        _check_in_pieces(reader, kept)
        if videos:
            checks.check_timestamps(reader, kept)
        return LabelledSet(entry, reader, kept, cameras)
    memory = _memory(reader, cameras, recipe, chunk)
    states = {name: read_matrix(reader, name) for name in STATES if name in reader.features and memory is None}
    if memory is not None:
        states = {name: values.numpy() for name, values in memory.states.items()}
    labels = frame_labels(reader, recipe, steps, episodes=entry.episodes)
    action = read_matrix(reader, c.ACTION) if memory is None else memory.action
    for name, values in (*states.items(), (c.ACTION, action)):
        checks.check_numbers(reader, labels, values, name)
    if memory is None:
        read_tasks(reader)
    if videos:
        checks.check_timestamps(reader, labels)
    if keep is not None:
        KeptLabels.write(keep, labels.episodes, labels.subtask_names, _placed(labels))
    return LabelledSet(entry, reader, labels, cameras, np.flatnonzero(labels.trained), memory)


def read_labelled(
    entry: DatasetEntry, reader: DatasetReader, cameras: list[str], recipe: Recipe, chunk: int, keep: Path
) -> LabelledSet:
    """The same as another process has found it."""
    kept = KeptLabels.open(keep)
    if entry.streaming:
        return LabelledSet(entry, reader, kept, cameras)
    labels = kept.whole()
    memory = _memory(reader, cameras, recipe, chunk)
    return LabelledSet(entry, reader, labels, cameras, np.flatnonzero(labels.trained), memory)


def _memory(reader: DatasetReader, cameras: list[str], recipe: Recipe, chunk: int) -> MemoryFrames | None:
    steps = recipe.advantage.steps or chunk
    return None if cameras else MemoryFrames(reader, chunk, steps if needs_next(recipe) else None)


def _placed(labels: LabelSource) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
    start = 0
    for part in labels.parts():
        count = len(part["frame"])
        yield np.arange(start, start + count), part
        start += count


def _check_in_pieces(reader: DatasetReader, labels: LabelSource) -> None:
    """States, actions and tasks, without ever holding a column."""
    names = [name for name in (*STATES, c.ACTION) if name in reader.features]
    tasks = [c.TASK_INDEX] if c.TASK_INDEX in reader.features else []
    for piece in pieces(reader, [*names, *tasks]):
        used = np.repeat(labels.episodes.usable[piece.rows], reader.lengths[piece.rows])
        for name in names:
            checks.check_finite(reader, used, matrix(piece.columns[name]), name, piece.index)
        if tasks:
            refuse_strange_tasks(reader, piece.columns[c.TASK_INDEX], piece.index)
