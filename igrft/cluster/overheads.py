"""What an episode costs around its labelling, measured: staging it, and writing it to the labelled dataset."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq

from igrft.dataset.reader import DatasetReader
from igrft.pipeline.assemble import Assembly
from igrft.pipeline.labelling import Labelling
from igrft.pipeline.run import Run
from igrft.pipeline.staging import Staged, merge_staged
from igrft.pipeline.workers import Job, Task, run_tasks
from igrft.steps.base import Episode, EpisodeLabels, Labeller, StepDefaults

#: Episodes that each worker stages again to time it.
_STAGED_AGAIN = 60
#: Frames that are written to time it.
_WRITTEN_FRAMES = 150_000


@dataclass(frozen=True)
class Replay(StepDefaults):
    """Gives results that another step made: what its episodes then take is all but the labelling.

    Attributes:
        results: of that step, by row.
    """

    type: ClassVar[str] = "replay"
    results: tuple[tuple[int, Staged], ...] = ()

    @property
    def makes(self) -> tuple[str, ...]:
        return ()

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        labels = {row: staged.labels() for row, staged in self.results}

        def label(episode: Episode) -> EpisodeLabels:
            return labels[episode.row]

        return label


@dataclass(frozen=True)
class Writing:
    """What it takes to write the labelled dataset.

    Attributes:
        per_frame: seconds, with the episode's labels read and their statistics made.
        label_bytes_per_frame: of the label columns as they are written.
    """

    per_frame: float
    label_bytes_per_frame: float


def staging_seconds(labelling: Labelling, number: int, rows: Sequence[int], workers: int) -> float:
    """Seconds of a worker by episode to be handed it and to stage what is known, by staging some again and again."""
    again = list(islice(cycle(rows), _STAGED_AGAIN * workers))
    replay = Replay(tuple((r, labelling.staged(number, r)) for r in rows))
    job = Job(replay, labelling.dataset.root, None, labelling.target.staging / "steps" / replay.type)
    upstream = {r: tuple(labelling.staged(p, r) for p in labelling.plan.producers[number]) for r in rows}
    tasks = [Task(r, f"{n}", upstream[r]) for n, r in enumerate(again)]
    ends = [time.perf_counter() for _ in run_tasks(job, tasks, workers, isolated=True)]
    # The first of each worker waits for it to begin.
    return workers * (ends[-1] - ends[workers]) / (len(ends) - workers - 1)


def keeping(labelling: Labelling, number: int, rows: Sequence[int]) -> tuple[float, int]:
    """Seconds and bytes of keeping a heavy step's results of these episodes for later runs."""
    path = labelling.target.staging / "kept.arrow"
    began = time.perf_counter()
    merge_staged(path, [labelling.staged(number, r) for r in rows])
    seconds = time.perf_counter() - began
    size = path.stat().st_size if path.is_file() else 0
    path.unlink(missing_ok=True)
    return seconds, size


def writing(run: Run, labelling: Labelling, out: Path) -> Writing:
    """Write a part of the labelled dataset as a run does, with the labels of the sample at every episode's length."""
    turns = cycle(labelling.left)

    def labels(row: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        found = labelling.labels(next(turns))
        if found is None:
            return None
        columns, record = found
        length = int(labelling.dataset.lengths[row])
        begun = [s for s in record.get("subtasks", []) if s["start"] < length]
        return {n: np.resize(v, length) for n, v in columns.items()}, {**record, "subtasks": begun}

    dataset = run.dataset
    assembly = Assembly(dataset, run.plan.columns, None, labels, frozenset())
    relative, rows = dataset.data_files[0]
    statistics = assembly.label_statistics()
    began = time.perf_counter()
    frames = assembly.write_file(relative, rows, out, statistics, lambda episodes, frames: None, _WRITTEN_FRAMES)
    seconds = time.perf_counter() - began
    return Writing(seconds / frames, _bytes_of(out, assembly.written) / frames)


def _bytes_of(path: Path, columns: Sequence[str]) -> int:
    """Of some columns, compressed, as they lie in a parquet file."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
    chunks = [g.column(i) for g in groups for i in range(g.num_columns)]
    return sum(c.total_compressed_size for c in chunks if c.path_in_schema.split(".")[0] in columns)
