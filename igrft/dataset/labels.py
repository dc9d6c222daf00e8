"""Label columns of a whole dataset as arrays, read without torch or LeRobot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from igrft import columns as c
from igrft.dataset.files import to_numpy
from igrft.dataset.locate import locate
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError, UsageError, did_you_mean


@dataclass
class Labels:
    """Columns over the frames of the episodes read, one episode after the other.

    Attributes:
        columns: by name; [N] for a column of shape [1], else [N, width]; N frames in all.
        episode_indices: ``episode_index`` of the episodes, in their order here, int64 [E].
        starts: first frame of each episode in ``columns``, int64 [E].
        lengths: frames of each episode, int64 [E].
        fps: frames a second.
        record: ``meta/igrft.json``; empty where igrft did not label the dataset.
        subtask_names: names by ``subtask_index``.
    """

    columns: dict[str, np.ndarray]
    episode_indices: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    fps: float
    record: Mapping[str, Any]
    subtask_names: list[str]

    def __len__(self) -> int:
        """Episodes."""
        return len(self.lengths)

    def __getitem__(self, column: str) -> np.ndarray:
        """A column over all frames, [N]."""
        if column not in self.columns:
            raise UsageError(f"no label column {column!r} was read{did_you_mean(column, list(self.columns))}")
        return self.columns[column]

    @property
    def num_frames(self) -> int:
        return int(self.lengths.sum())

    def position(self, episode_index: int) -> int:
        """Where an ``episode_index`` stands in ``starts`` and ``lengths``.

        Raises:
            UsageError: it was not read, or is not in the dataset.
        """
        if episode_index not in self._positions:
            raise UsageError(f"episode {episode_index} is not among the {len(self)} episodes read")
        return self._positions[episode_index]

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {index: at for at, index in reversed([*enumerate(self.episode_indices.tolist())])}

    def episode(self, episode_index: int) -> dict[str, np.ndarray]:
        """The columns of one episode, each [T] (views, not copies)."""
        at = self.position(episode_index)
        span = slice(int(self.starts[at]), int(self.starts[at] + self.lengths[at]))
        return {name: values[span] for name, values in self.columns.items()}

    def episode_record(self, episode_index: int) -> dict[str, Any]:
        """What ``meta/igrft.json`` says of an episode: success, subtasks, set_aside. May be empty."""
        return dict((self.record.get("episodes") or {}).get(str(episode_index)) or {})

    @property
    def set_aside(self) -> np.ndarray:
        """Whether each episode was set aside (its labels are unset), bool [E]."""
        aside = {int(k) for k, v in (self.record.get("episodes") or {}).items() if (v or {}).get("set_aside")}
        return np.array([int(i) in aside for i in self.episode_indices], dtype=bool)


def open_dataset(root_or_dataset: DatasetReader | Path | str, *, pictures: bool = True) -> DatasetReader:
    """A reader of what the user names: a folder, a dataset's id on the Hub, or a reader already.

    Args:
        pictures: whether videos are needed; without them a dataset on the Hub is fetched without its videos.

    Raises:
        IgrftError: nothing is there, or no LeRobot v3.0 dataset.
    """
    if isinstance(root_or_dataset, DatasetReader):
        return root_or_dataset
    return DatasetReader.open(locate(root_or_dataset, what="DATASET", pictures=pictures))


def load_labels(
    root_or_dataset: DatasetReader | Path | str,
    columns: Sequence[str] | None = None,
    episodes: Sequence[int] | None = None,
) -> Labels:
    """Read label columns over all frames, or over some episodes.

    Args:
        root_or_dataset: a LeRobot v3.0 dataset: its folder, its id on the Hub, or an open reader.
        columns: which; None is every label column of one number a frame that the dataset has
            (``language_persistent`` repeats its rows on every frame: its content is in
            ``record["episodes"]``). Any other column of the dataset may be named, too.
        episodes: ``episode_index`` of those to read, in the order wanted; None is all.

    Raises:
        UsageError: a column or an episode that the dataset has not.
        IgrftError: files that are missing or disagree with the episodes' table.
    """
    dataset = open_dataset(root_or_dataset, pictures=False)
    names = _wanted_columns(dataset, columns)
    rows = _wanted_rows(dataset, episodes)
    lengths = dataset.lengths[rows]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    return Labels(
        columns=_read(dataset, names, rows, starts),
        episode_indices=dataset.episode_indices[rows],
        starts=starts[: len(rows)],
        lengths=lengths,
        fps=dataset.fps,
        record=dataset.igrft or {},
        subtask_names=dataset.subtask_names,
    )


def _wanted_columns(dataset: DatasetReader, columns: Sequence[str] | None) -> list[str]:
    if columns is None:
        return [n for n in c.LABELS if n in dataset.features and n != c.LANGUAGE_PERSISTENT]
    held = [n for n, f in dataset.features.items() if f.get("dtype") not in ("image", "video")]
    for name in columns:
        if name not in held:
            raise UsageError(f"{dataset.root} has no column {name!r}{did_you_mean(name, held)}")
    return list(dict.fromkeys(columns))


def _wanted_rows(dataset: DatasetReader, episodes: Sequence[int] | None) -> np.ndarray:
    if episodes is None:
        return np.arange(dataset.num_episodes)
    row_of = {int(e): row for row, e in enumerate(dataset.episode_indices)}
    for episode in episodes:
        if int(episode) not in row_of:
            raise UsageError(f"{dataset.root} has no episode {episode}; it has {dataset.num_episodes} episodes")
    return np.array([row_of[int(e)] for e in episodes], dtype=np.int64)


def _read(dataset: DatasetReader, names: list[str], rows: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Columns over the frames of ``rows``, which may stand in any order and in several files."""
    if not names or not len(rows):
        return {name: np.zeros(0) for name in names}
    total = int(dataset.lengths[rows].sum())
    start_of = np.full(dataset.num_episodes, -1, dtype=np.int64)
    start_of[rows] = starts
    out: dict[str, np.ndarray] = {}
    for relative, held in dataset.data_files:
        if not (start_of[held] >= 0).any():
            continue
        part, table = _part(dataset, relative, held, start_of[held] >= 0, names)
        lengths = dataset.lengths[part]
        # One assignment per column: the target frame of each row read, where its episode is wanted.
        keep = np.repeat(start_of[part] >= 0, lengths)
        local = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        target = (np.repeat(start_of[part], lengths) + local)[keep]
        for name in names:
            values = _values(table, name, relative)
            if name not in out:
                out[name] = np.empty((total, *values.shape[1:]), dtype=values.dtype)
            out[name][target] = values[keep]
    return out


def _values(table: pa.Table, name: str, relative: Path) -> np.ndarray:
    column = table.column(name)
    if column.type == c.language_type():
        out = np.empty(len(column), dtype=object)
        out[:] = column.to_pylist()
        return out
    try:
        return to_numpy(column)
    except EpisodeError as error:
        raise IgrftError(f"{relative}, column {name!r}: {error}; leave it out of columns") from None


def _part(
    dataset: DatasetReader, relative: Path, held: np.ndarray, wanted: np.ndarray, names: list[str]
) -> tuple[np.ndarray, pa.Table]:
    """(table rows, their frames) of a data file: all of it, or the row groups of the episodes wanted."""
    parquet = dataset.parquet(relative)
    missing = [n for n in names if n not in parquet.schema_arrow.names]
    if missing:
        raise IgrftError(
            f"{dataset.root / relative} has no column {missing[0]!r}, which meta/info.json declares; "
            f"run: igrft validate {dataset.root}"
        )
    groups = np.array([parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)], dtype=np.int64)
    lengths = dataset.lengths[held]
    if int(groups.sum()) != int(lengths.sum()):
        raise IgrftError(
            f"{dataset.root / relative} holds {int(groups.sum())} rows where the episodes' table says "
            f"{int(lengths.sum())}; run: igrft validate {dataset.root}"
        )
    if wanted.all() or len(groups) != len(held) or (groups != lengths).any():
        return held, parquet.read(columns=names)
    at = np.flatnonzero(wanted)
    return held[at], parquet.read_row_groups(at.tolist(), columns=names)
