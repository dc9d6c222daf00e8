"""Reads a LeRobot v3.0 dataset: metadata, the rows of an episode, where its pictures are.

LeRobot's own classes cost seconds to import and pull in torch; labelling most columns needs
neither. Whoever trains uses :class:`lerobot.datasets.LeRobotDataset` on the same files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igrft import columns as c
from igrft.dataset.episode_entries import read_episode_entries
from igrft.dataset.files import (
    DATA_PATH,
    EPISODES,
    IGRFT,
    INFO,
    SUBTASKS,
    TASKS,
    VIDEO_PATH,
    read_episodes,
    read_json,
    read_strings_by_index,
    refuse_other_versions,
    to_numpy,
)
from igrft.dataset.memory import give_back
from igrft.errors import EpisodeError, IgrftError
from igrft.remote.mirror import block_file

#: Handles kept open.
_OPEN_FILES = 4
#: Column chunks (row groups times columns) whose metadata open handles may hold when another is opened: 1 KB each.
_KEPT_CHUNKS = 1 << 16
#: Of a data file that is held in memory at a time.
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class VideoWindow:
    """Where the pictures of one episode lie: ``path``, from ``start`` to ``end`` seconds of the file."""

    path: Path
    start: float
    end: float


@dataclass
class DatasetReader:
    """A LeRobot v3.0 dataset on disk, read-only.

    Attributes:
        root: its folder.
        info: ``meta/info.json`` as it stands.
        table: the episodes' table without statistics, one row an episode, ordered by index.
    """

    root: Path
    info: dict[str, Any]
    table: pa.Table
    _files: dict[Path, pq.ParquetFile] = field(default_factory=dict, repr=False)
    _bounds: dict[Path, np.ndarray] = field(default_factory=dict, repr=False)
    _any: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _last: tuple[Any, pa.Table] | None = field(default=None, repr=False)

    @classmethod
    def open(cls, root: Path | str) -> DatasetReader:
        """Open the dataset at ``root``.

        Raises:
            IgrftError: not a v3.0 dataset, or metadata that cannot be read.
        """
        root = Path(root)
        refuse_other_versions(root)
        info = read_json(root / INFO)
        for key in ("fps", "features"):
            if key not in info:
                raise IgrftError(f"{root / INFO} has no key {key!r}; restore it from the source")
        if not float(info["fps"]) > 0:
            raise IgrftError(f"{root / INFO}: fps must be positive, got {info['fps']}")
        return cls(root, info, read_episodes(root))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_last": None}

    # What there is.

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self.info["fps"])

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Features by column, as ``meta/info.json`` declares them."""
        return self.info["features"]

    @cached_property
    def cameras(self) -> list[str]:
        """Keys of image and video features, in the order declared; depth maps left out."""
        return [
            k
            for k, f in self.features.items()
            if f.get("dtype") in ("image", "video") and not (f.get("info") or {}).get("is_depth_map", False)
        ]

    @cached_property
    def video_keys(self) -> list[str]:
        """Keys of every feature that is held in mp4 files, depth maps included."""
        return [k for k, f in self.features.items() if f.get("dtype") == "video"]

    @cached_property
    def episode_indices(self) -> np.ndarray:
        """int64 [episodes]."""
        return self._column("episode_index")

    @cached_property
    def lengths(self) -> np.ndarray:
        """Frames of each episode, int64 [episodes]."""
        return self._column("length")

    @cached_property
    def from_index(self) -> np.ndarray:
        """``dataset_from_index`` of each episode, int64 [episodes]."""
        return self._column("dataset_from_index")

    @cached_property
    def recorded(self) -> frozenset[str]:
        """Columns that the recording brought along: all but those that igrft made."""
        return frozenset(self.features) - frozenset((self.igrft or {}).get("columns", ()))

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    @property
    def num_frames(self) -> int:
        return int(self.lengths.sum())

    def _column(self, name: str) -> np.ndarray:
        if name not in self.table.column_names:
            raise IgrftError(f"{self.root / EPISODES} has no column {name!r}; run: igrft validate {self.root}")
        return self.table.column(name).to_numpy().astype(np.int64)

    @cached_property
    def tasks(self) -> list[str]:
        """Task strings by ``task_index``."""
        return read_strings_by_index(self.root / TASKS, "task_index", "task")

    @cached_property
    def subtask_names(self) -> list[str]:
        """Subtask names by ``subtask_index``; empty where the dataset has none."""
        path = self.root / SUBTASKS
        return read_strings_by_index(path, c.SUBTASK_INDEX, "subtask") if path.is_file() else []

    def episode_tasks(self, row: int) -> list[str]:
        """Task strings of the episode in table row ``row``."""
        if "tasks" not in self.table.column_names:
            return []
        return [str(t) for t in self.table.column("tasks")[row].as_py() or []]

    # Rows.

    @cached_property
    def data_files(self) -> list[tuple[Path, np.ndarray]]:
        """Data files (relative paths, sorted) with the table rows of their episodes, in file order."""
        template = self.info.get("data_path") or DATA_PATH
        chunk, file = self._column("data/chunk_index"), self._column("data/file_index")
        order = np.lexsort((self.from_index, file, chunk))
        changes = (np.diff(chunk[order]) != 0) | (np.diff(file[order]) != 0)
        found = []
        for rows in np.split(order, np.flatnonzero(changes) + 1) if len(order) else []:
            place = {"chunk_index": int(chunk[rows[0]]), "file_index": int(file[rows[0]])}
            found.append((Path(template.format(**place)), rows))
        return found

    @cached_property
    def _place(self) -> tuple[np.ndarray, np.ndarray]:
        """For each table row: number of its data file, offset of its first row in that file."""
        file_of = np.zeros(self.num_episodes, dtype=np.int64)
        offset = np.zeros(self.num_episodes, dtype=np.int64)
        for number, (_, rows) in enumerate(self.data_files):
            file_of[rows] = number
            offset[rows] = np.concatenate([[0], np.cumsum(self.lengths[rows])[:-1]])
        return file_of, offset

    def place(self, row: int) -> tuple[Path, int]:
        """Data file of the episode in table row ``row`` (relative), and its first row in that file."""
        file_of, offset = self._place
        return self.data_files[file_of[row]][0], int(offset[row])

    def parquet(self, relative: Path) -> pq.ParquetFile:
        """An open data file; a few handles are kept, fewer where files have many row groups."""
        if relative not in self._files:
            while self._files and (len(self._files) >= _OPEN_FILES or self._held_chunks > _KEPT_CHUNKS):
                # Not closed: somebody may be walking it, and its last user's going closes it.
                self._files.pop(next(iter(self._files)))
            try:
                path = self.root / relative
                # Buffered ahead, a file would be held in memory whole until its handle is closed.
                self._files[relative] = pq.ParquetFile(block_file(path) or path, pre_buffer=False)
            except FileNotFoundError:
                raise IgrftError(f"{self.root / relative} is missing; restore it from the source") from None
            except pa.ArrowInvalid as error:
                raise IgrftError(
                    f"{self.root / relative} cannot be read ({error}); restore it from the source"
                ) from None
        return self._files[relative]

    @property
    def _held_chunks(self) -> int:
        return sum(f.num_row_groups * f.metadata.num_columns for f in self._files.values())

    def _let_go(self, relative: Path) -> None:
        """Forget a file that was read to its end, where holding its metadata would cost more than opening it again."""
        held = self._files.get(relative)
        if held is not None and held.num_row_groups * held.metadata.num_columns > _KEPT_CHUNKS:
            self._files.pop(relative)
            del held
            give_back()

    def rows(self, row: int, names: Sequence[str]) -> pa.Table:
        """The columns ``names`` of the episode in table row ``row``.

        Raises:
            EpisodeError: the file holds another episode there, or fewer rows than the table says.
        """
        relative, start = self.place(row)
        parquet = self.parquet(relative)
        length = int(self.lengths[row])
        missing = [n for n in names if n not in parquet.schema_arrow.names]
        if missing:
            raise IgrftError(f"{self.root / relative} has no column {missing[0]!r}")
        bounds = self.row_group_bounds(relative)
        last_group = len(bounds) - 1
        first = min(int(np.searchsorted(bounds, start, side="right")) - 1, last_group)
        last = min(int(np.searchsorted(bounds, start + length, side="left")), last_group)
        wanted = tuple(dict.fromkeys([*names, c.EPISODE_INDEX]))
        table = self._row_groups(relative, first, last, wanted).slice(start - int(bounds[first]), length)
        index = int(self.episode_indices[row])
        found = pc.unique(table.column(c.EPISODE_INDEX)).to_pylist()
        if table.num_rows != length or (length and found != [index]):
            raise EpisodeError(
                f"episode {index}: {relative} holds {table.num_rows} rows of episodes {found[:3]} where the "
                f"episodes' table says {length}; run: igrft validate {self.root}"
            )
        return table.select(list(names))

    def row_group_bounds(self, relative: Path) -> np.ndarray:
        """First row of every row group of a file, and its number of rows: int64 [row groups + 1]."""
        if relative not in self._bounds:
            parquet = self.parquet(relative)
            rows = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            self._bounds[relative] = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        return self._bounds[relative]

    def _row_groups(self, relative: Path, first: int, last: int, names: tuple[str, ...]) -> pa.Table:
        """Row groups of a file; the last read is kept, since older files hold many episodes in one."""
        key = (relative, first, last, names)
        if self._last is None or self._last[0] != key:
            self._last = (key, self.parquet(relative).read_row_groups(list(range(first, last)), columns=list(names)))
        return self._last[1]

    def any_true(self, name: str) -> np.ndarray:
        """For each episode, whether column ``name`` is true on any frame: bool [episodes]; read once."""
        if name not in self._any:
            found = np.zeros(self.num_episodes, dtype=bool)
            for relative, rows in self.data_files:
                for taken, table in self.iter_file(relative, rows, names=[name]):
                    values = to_numpy(table.column(name)).reshape(table.num_rows, -1).astype(bool).any(axis=1)
                    starts = np.concatenate([[0], np.cumsum(self.lengths[taken])[:-1]])
                    filled = self.lengths[taken] > 0
                    if filled.any():
                        found[taken[filled]] = np.logical_or.reduceat(values, starts[filled])
            self._any[name] = found
        return self._any[name]

    def column(self, row: int, name: str) -> np.ndarray:
        """One column of an episode as an array [T] or [T, width]."""
        return to_numpy(self.rows(row, [name]).column(name))

    def iter_file(
        self, relative: Path, rows: np.ndarray, *, frames: int = 65536, names: Sequence[str] | None = None
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Walk a data file in order: (table rows, rows of those whole episodes), ``frames`` or so at a time.

        Memory is bounded by ``frames``, 64 MiB or so of data (pictures may lie in the table) and the
        longest episode, not by the file.
        """
        parquet = self.parquet(relative)
        if names is None and parquet.metadata.num_rows:
            size = sum(parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups))
            frames = max(1, min(frames, int(_MOST_BYTES * parquet.metadata.num_rows / max(size, 1))))
        expected = int(self.lengths[rows].sum())
        if parquet.metadata.num_rows != expected:
            raise IgrftError(
                f"{self.root / relative} holds {parquet.metadata.num_rows} rows where the episodes' table says "
                f"{expected}; run: igrft validate {self.root}"
            )
        lengths = self.lengths[rows]
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        pending: list[pa.RecordBatch] = []
        held = done = 0

        def take(upto: int) -> tuple[np.ndarray, pa.Table]:
            nonlocal pending, held, done
            size = int(bounds[upto] - bounds[done])
            table = pa.Table.from_batches(pending)
            out = table.slice(0, size)
            rest = table.slice(size)
            pending = rest.to_batches() if rest.num_rows else []
            held -= size
            taken = rows[done:upto]
            done = upto
            return taken, out

        columns = list(names) if names is not None else None
        for batch in parquet.iter_batches(batch_size=frames, columns=columns):
            pending.append(batch)
            held += batch.num_rows
            if held >= frames:
                upto = int(np.searchsorted(bounds, bounds[done] + held, side="right")) - 1
                if upto > done:
                    yield take(upto)
        if done < len(rows) and pending:
            yield take(len(rows))
        del parquet
        self._let_go(relative)

    # Pictures.

    def video(self, row: int, camera: str) -> VideoWindow:
        """Where the pictures of ``camera`` lie for the episode in table row ``row``."""
        prefix = f"videos/{camera}/"
        values: dict[str, Any] = {}
        for key in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
            if prefix + key not in self.table.column_names:
                raise IgrftError(
                    f"{self.root / EPISODES} has no column {prefix + key!r}; run: igrft validate {self.root}"
                )
            values[key] = self.table.column(prefix + key)[row].as_py()
        if values["chunk_index"] is None:
            index = int(self.episode_indices[row])
            raise EpisodeError(f"episode {index}: no video of {camera} is recorded in the episodes' table")
        template = self.info.get("video_path") or VIDEO_PATH
        path = self.root / template.format(
            video_key=camera, chunk_index=int(values["chunk_index"]), file_index=int(values["file_index"])
        )
        return VideoWindow(path, float(values["from_timestamp"]), float(values["to_timestamp"]))

    @cached_property
    def igrft(self) -> Mapping[str, Any] | None:
        """``meta/igrft.json``, or None where igrft did not label this dataset."""
        path = self.root / IGRFT
        return read_episode_entries(path) if path.is_file() else None

    def camera_has_files(self, camera: str) -> bool:
        """Whether any picture of ``camera`` is there."""
        if self.features[camera]["dtype"] == "image":
            return True
        return any((self.root / "videos" / camera).glob("*/*.mp4"))
