"""Columns of a dataset in pieces of whole episodes: what is held does not grow with the set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from igrft.dataset.files import to_numpy
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError

#: Frames of a piece, or those of one episode where that is longer.
BLOCK = 1 << 16


@dataclass(frozen=True)
class Piece:
    """Some episodes.

    Attributes:
        rows: of the episodes' table, int64 [E].
        index: absolute index of each frame, int64 [N].
        columns: by name [N] or [N, width].
    """

    rows: np.ndarray
    index: np.ndarray
    columns: dict[str, np.ndarray]


def pieces(dataset: DatasetReader, names: Sequence[str], frames: int = BLOCK) -> Iterator[Piece]:
    """Every frame once. Its absolute index must be its place among the episodes' table (see ``frame_labels``).

    Raises:
        IgrftError: a file that is missing, or lacks a column, or holds another number of rows than the table says.
    """
    names = list(dict.fromkeys(names))
    if not names:
        for rows in _grouped(dataset.lengths, frames):
            yield Piece(rows, _indices(dataset, rows), {})
        return
    for relative, rows in dataset.data_files:
        held = dataset.parquet(relative).schema_arrow.names
        missing = [n for n in names if n not in held]
        if missing:
            raise IgrftError(
                f"{dataset.root / relative} has no column {missing[0]!r}, which meta/info.json declares; "
                f"run: igrft validate {dataset.root}"
            )
        for taken, table in dataset.iter_file(relative, rows, frames=frames, names=names):
            columns = {n: _values(table.column(n), n, relative) for n in names}
            yield Piece(taken, _indices(dataset, taken), columns)


def _indices(dataset: DatasetReader, rows: np.ndarray) -> np.ndarray:
    lengths = dataset.lengths[rows]
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(dataset.from_index[rows] - before, lengths)


def _values(column: pa.ChunkedArray, name: str, relative: Path) -> np.ndarray:
    try:
        return to_numpy(column)
    except EpisodeError as error:
        raise IgrftError(f"{relative}, column {name!r}: {error}") from None


def _grouped(lengths: np.ndarray, frames: int) -> Iterator[np.ndarray]:
    """Rows in runs of about ``frames`` frames."""
    run = (np.cumsum(lengths) - lengths) // frames
    for group in np.unique(run).tolist():
        yield np.flatnonzero(run == group)
