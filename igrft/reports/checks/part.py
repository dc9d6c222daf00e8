"""A run of whole episodes of a data file, with what vectorised checks need."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from igrft.dataset.files import to_numpy
from igrft.dataset.reader import DatasetReader


class Part:
    """Whole episodes, one after the other: E episodes (none empty), N frames.

    Attributes:
        rows: their rows in the episodes' table, int64 [E].
        episodes: ``episode_index`` by the episodes' table, int64 [E].
        lengths, starts: frames of each, and its first frame here, int64 [E].
        table: their rows, N.
    """

    def __init__(self, dataset: DatasetReader, rows: np.ndarray, table: pa.Table) -> None:
        self.dataset = dataset
        self.rows = rows[dataset.lengths[rows] > 0]
        self.episodes = dataset.episode_indices[self.rows]
        self.lengths = dataset.lengths[self.rows]
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.table = table
        self._values: dict[str, np.ndarray] = {}

    def __contains__(self, column: str) -> bool:
        return column in self.table.column_names

    def has(self, *columns: str) -> bool:
        return all(name in self for name in columns)

    def values(self, column: str) -> np.ndarray:
        """A column, [N] or [N, width]. Raises EpisodeError where rows differ in width."""
        if column not in self._values:
            self._values[column] = to_numpy(self.table.column(column))
        return self._values[column]

    def floats(self, column: str) -> np.ndarray:
        """A column of one number a frame as float64 [N]."""
        return self.values(column).astype(np.float64)

    @cached_property
    def frame(self) -> np.ndarray:
        """Frame in the episode, int64 [N]."""
        return np.arange(int(self.lengths.sum())) - self.spread(self.starts)

    @cached_property
    def last(self) -> np.ndarray:
        """Whether a frame is its episode's last, bool [N]."""
        out = np.zeros(int(self.lengths.sum()), dtype=bool)
        out[self.starts + self.lengths - 1] = True
        return out

    def spread(self, per_episode: np.ndarray) -> np.ndarray:
        """A value of each episode [E] on all of its frames [N]."""
        return np.repeat(per_episode, self.lengths)

    def count(self, mask: np.ndarray) -> np.ndarray:
        """True frames of each episode, int64 [E]."""
        return np.add.reduceat(mask.astype(np.int64), self.starts) if len(self.starts) else np.zeros(0, dtype=np.int64)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum over each episode, float64 [E]."""
        return np.add.reduceat(values.astype(np.float64), self.starts) if len(self.starts) else np.zeros(0)

    def bad(self, mask: np.ndarray, score: np.ndarray | None = None) -> Iterator[tuple[int, int, int, int]]:
        """Episodes with a true frame: (position in E, position in N, frame in the episode, true frames).

        The frame is the first one, or the one of the greatest ``score`` [N].
        """
        counts = self.count(mask)
        for e in np.flatnonzero(counts):
            span = slice(int(self.starts[e]), int(self.starts[e] + self.lengths[e]))
            local = (
                int(np.argmax(mask[span]))
                if score is None
                else int(np.argmax(np.where(mask[span], score[span], -np.inf)))
            )
            yield int(e), span.start + local, local, int(counts[e])
