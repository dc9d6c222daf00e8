"""What a labelling step is.

A step is a frozen dataclass: its fields are its settings in the pipeline file. It says what it
needs and makes, and :meth:`Step.open` gives, inside the worker, the function that labels one
episode. Anything heavy (a model, a decoder) is loaded in ``open``, never in the constructor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from igrft.dataset.reader import DatasetReader

#: The ordered subtasks of an episode and its success: not a column, kept in the episode's record.
SEGMENTS = "segments"


@dataclass
class EpisodeLabels:
    """What a step made for one episode.

    Attributes:
        columns: label columns by name, each [T]; they end up in the dataset.
        staged: arrays [T, ...] for later steps and later runs; they do not.
        record: JSON facts about the episode; they end up in ``meta/igrft.json``.
    """

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    staged: dict[str, np.ndarray] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


@dataclass
class Episode:
    """One episode as a step sees it: the recording, and what earlier steps made.

    Attributes:
        dataset: the source, read-only.
        row: row of the episodes' table (not always the episode's index).
        labels: columns and staged arrays that earlier steps made, by name.
        record: facts that earlier steps recorded.
    """

    dataset: DatasetReader
    row: int
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def index(self) -> int:
        """``episode_index``."""
        return int(self.dataset.episode_indices[self.row])

    @cached_property
    def length(self) -> int:
        """T, in frames."""
        return int(self.dataset.lengths[self.row])

    @property
    def fps(self) -> float:
        return self.dataset.fps

    @property
    def tasks(self) -> list[str]:
        """Task strings of the episode."""
        return self.dataset.episode_tasks(self.row)

    def column(self, name: str) -> np.ndarray:
        """A column of the recording, [T] or [T, width]."""
        return self.dataset.column(self.row, name)

    def given(self, name: str) -> np.ndarray:
        """A column as an earlier step of this run made it, else as the recording has it."""
        return self.labels[name] if name in self.labels else self.column(name)

    def has(self, name: str) -> bool:
        """Whether the recording has this column."""
        return name in self.dataset.features


@dataclass(frozen=True)
class Spending:
    """What a step cost beyond time: a line for people, and numbers for programs."""

    line: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Preview:
    """What a step would do, shown before it is done: text for people, and the same for programs."""

    text: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Provisional:
    """A reduction that another run may better (the model could not be asked): it is used, and not kept."""

    value: Any


@dataclass(frozen=True)
class Resources:
    """What a worker of a step takes on a cluster; the pipeline file may say otherwise.

    Attributes:
        cpus: cores.
        memory_gb: main memory in all, GiB.
        gpus: GPUs.
    """

    cpus: int = 1
    memory_gb: float = 4.0
    gpus: int = 0


#: Labels one episode. Where it has a method ``expect(row)``, that is told which episode comes next before
#: this one is labelled, so that it can read ahead.
Labeller = Callable[[Episode], EpisodeLabels]


@runtime_checkable
class Step(Protocol):
    """One labelling step. See :class:`StepDefaults` for what most steps leave as it is."""

    type: ClassVar[str]
    #: Raised when the step's results change meaning, so that staged work of older code is redone.
    version: ClassVar[int]
    #: Settings that are paths: in a pipeline file they are relative to the file.
    paths: ClassVar[tuple[str, ...]]

    @property
    def heavy(self) -> bool:
        """True where an episode takes seconds: staged one by one, run in worker processes, kept in
        the finished dataset for later runs. False where it takes microseconds: staged in batches.
        """
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns, staged arrays and records that earlier steps must have made."""
        ...

    @property
    def takes(self) -> tuple[str, ...]:
        """Columns that earlier steps make, or else the recording has: see :meth:`Episode.given`."""
        ...

    @property
    def makes(self) -> tuple[str, ...]:
        """What this step makes."""
        ...

    @property
    def max_workers(self) -> int | None:
        """Most processes that a heavy step is run in; None is as many as the user says."""
        ...

    @property
    def in_flight(self) -> int | None:
        """For a heavy step that waits for a server: episodes that threads of one process wait for together.

        None: run in worker processes.
        """
        ...

    @property
    def resources(self) -> Resources:
        """What one worker of a heavy step takes on a cluster."""
        ...

    def expand(self) -> tuple[Step, ...]:
        """The steps that stand for this entry of a pipeline; most are themselves."""
        ...

    def resolve(self, dataset: DatasetReader) -> Step:
        """Fill in what depends on the dataset (an unset camera), and refuse what cannot work on it.

        Runs once, before any work. Raises IgrftError.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """JSON that, with the source, determines the results. Keys staged work."""
        ...

    def episode_input(self, dataset: DatasetReader, row: int) -> Any:
        """JSON input of one episode from outside the dataset (its entry in a file of subtasks)."""
        ...

    @property
    def reduces(self) -> bool:
        """Whether :meth:`reduce` must see every episode's record before this step starts."""
        ...

    def reduce(self, records: Iterable[tuple[int, Mapping[str, Any]]]) -> Any:
        """JSON made from all (episode index, record) that were not set aside; runs once."""
        ...

    def reduced_from(self, records: Iterable[tuple[int, Mapping[str, Any]]]) -> Any:
        """For a reduction that costs something: JSON that determines it, so that it is paid for once.

        None: it costs nothing and is made anew.
        """
        ...

    @property
    def facts(self) -> tuple[str, ...]:
        """Keys of an episode's record that this step, or steps in its place, may write: they replace earlier ones."""
        ...

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        """Set up in the worker; return the function that labels one episode.

        The function raises EpisodeError to set the episode aside.
        """
        ...

    def recorded(self) -> dict[str, Any]:
        """The settings as ``meta/igrft.json`` has them, which is published with the dataset."""
        ...

    def ready(self) -> None:
        """Refuse what this machine lacks (a package, a key), before any work. Raises UsageError."""
        ...

    def announce(self, dataset: DatasetReader, rows: Sequence[int]) -> str | None:
        """What the user must know before these episodes are begun (what leaves the machine), or None."""
        ...

    def preview(self, dataset: DatasetReader, rows: Sequence[int], folder: Path) -> Preview | None:
        """Show what labelling these episodes would do, with files in ``folder``; None: nothing worth it."""
        ...

    def close(self) -> Spending | None:
        """Called once when the run ends, however it ended: stop what was started; say what was spent."""
        ...


class StepDefaults:
    """Defaults for everything that most steps need not say."""

    version: ClassVar[int] = 1
    paths: ClassVar[tuple[str, ...]] = ()

    @property
    def heavy(self) -> bool:
        return False

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def takes(self) -> tuple[str, ...]:
        return ()

    @property
    def max_workers(self) -> int | None:
        return None

    @property
    def resources(self) -> Resources:
        return Resources()

    def expand(self) -> tuple[Any, ...]:
        return (self,)

    def resolve(self, dataset: DatasetReader) -> Any:
        return self

    def settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def episode_input(self, dataset: DatasetReader, row: int) -> Any:
        return None

    @property
    def reduces(self) -> bool:
        return False

    def reduce(self, records: Iterable[tuple[int, Mapping[str, Any]]]) -> Any:
        return None

    def reduced_from(self, records: Iterable[tuple[int, Mapping[str, Any]]]) -> Any:
        return None

    @property
    def facts(self) -> tuple[str, ...]:
        return ()

    @property
    def in_flight(self) -> int | None:
        return None

    def recorded(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def ready(self) -> None:
        return None

    def announce(self, dataset: DatasetReader, rows: Sequence[int]) -> str | None:
        return None

    def preview(self, dataset: DatasetReader, rows: Sequence[int], folder: Path) -> Preview | None:
        return None

    def close(self) -> Spending | None:
        return None
