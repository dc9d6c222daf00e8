"""A labelled dataset as a stream. Importing this takes seconds.

LeRobot's :class:`StreamingLeRobotDataset` is what LeRobot's tools know a stream by, and opens the metadata. How frames
come is ours, because of what it does in 0.6.1:

- ``delta_timestamps`` of a column of one number, as labels are, end in a TypeError, and look 100 frames ahead at most;
- a frame's picture is looked for at ``index / fps`` of its file, which is wrong in every file but the first, and by
  torchcodec alone;
- ``episodes`` is not looked at, every worker of every process gives the whole set, and nothing says where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.datasets.streaming_dataset import StreamingLeRobotDataset

from igrft import columns as c
from igrft.dataset.labels import load_labels, open_dataset
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError, did_you_mean
from igrft.remote.mirror import manifest_of
from igrft.training.frames import ACTION_IS_PAD, STATES, TASK, Observation, matrix
from igrft.training.order import Draw, StreamOrder
from igrft.training.pictures import backend
from igrft.training.visits import LaneReader, Pictures, Rows, Source

#: Episodes whose rows are kept for frames that are asked for out of order.
_KEPT = 8

#: A frame that was read: rows of its episode, the frame in it, pictures by frame.
Read = tuple[Rows, int, Mapping[int, Pictures]]


class LabelledStream(StreamingLeRobotDataset):
    """Frames of a labelled dataset, shuffled by buffers, endlessly.

    Items are those of ``LeRobotDataset``, label columns and paddings included. Episodes that were set aside are left
    out. Each worker of each process gives a part of what all give, and reads no episode that another reads; what all
    give together depends on neither. ``state_dict`` is that of whoever iterates: of a DataLoader's workers, each has
    its own.

    Args:
        dataset: a folder, a URL, a Hub id, or a reader.
        cameras: those to decode; None is all with pictures.
        columns: None is every column.
        episodes: ``episode_index`` of those to use; None is all.
        frames: of each episode, from its first on, that are given, int64 [E]; None is all. Wins over ``episodes``.
        delta_timestamps: as of ``LeRobotDataset``, of columns; pictures come at the frame itself.
        buffer_size: frames in the buffers of all workers and processes together.
        shards: ways through the set that are walked side by side, and divided among processes and workers.
        number: tells the orders of several datasets of one run apart.
        process_index, num_processes: which part of the stream is given here.
        return_uint8: pictures as bytes instead of floats in [0, 1].

    Raises:
        UsageError: columns or episodes that are not there.
        IgrftError: the dataset cannot be read.
    """

    def __init__(
        self,
        dataset: DatasetReader | Path | str,
        *,
        cameras: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        episodes: Sequence[int] | None = None,
        frames: np.ndarray | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        buffer_size: int = 2048,
        shards: int = 16,
        seed: int = 0,
        number: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        return_uint8: bool = False,
    ) -> None:
        self.dataset = open_dataset(dataset)
        deltas = {name: list(times) for name, times in (delta_timestamps or {}).items()}
        held = [n for n, f in self.dataset.features.items() if f["dtype"] not in ("image", "video")]
        for name in (*(columns or ()), *deltas):
            if name not in held:
                raise UsageError(f"{self.dataset.root} has no column {name!r} to stream{did_you_mean(name, held)}")
        held = held if columns is None else list(dict.fromkeys([*columns, *deltas]))
        super().__init__(
            f"local/{self.dataset.root.name}",
            root=self.dataset.root,
            episodes=None if episodes is None else list(episodes),
            delta_timestamps=deltas or None,
            buffer_size=buffer_size,
            max_num_shards=shards,
            seed=seed,
            return_uint8=return_uint8,
        )
        # LeRobot's own stream of the tables; ours reads an episode at a time.
        del self.hf_dataset
        seen = [name for name in self.dataset.cameras if self.dataset.camera_has_files(name)]
        seen = seen if cameras is None else list(cameras)
        # Of a store, PyAV alone reads a video in parts.
        chosen = backend() if manifest_of(self.dataset.root) is None else "pyav"
        self.source = Source(self.dataset, tuple(held), tuple(seen), chosen)
        self.frames = _wanted(self.dataset, episodes) if frames is None else frames
        self.num_shards, self.number = shards, number
        self.process_index, self.num_processes = process_index, num_processes
        self._state: dict[str, Any] | None = None
        self._kept: dict[int, Rows] = {}

    def order(self, lanes: int | None = None) -> StreamOrder:
        """The order of its frames, from the beginning. ``lanes``: instead of as many as there are shards."""
        lanes = lanes or self.num_shards
        return StreamOrder(self.dataset.from_index, self.frames, lanes, self.buffer_size, self.seed, self.number)

    # As LeRobot's.

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        of, mine = (1, 0) if worker is None else (worker.num_workers, worker.id)
        part, parts = self.process_index * of + mine, self.num_processes * of
        lanes = [lane for lane in range(self.num_shards) if lane * parts // self.num_shards == part]
        order = self.order()
        readers = {lane: LaneReader(self.source, None) for lane in lanes}
        given = 0
        if self._state is not None:
            order.load_state_dict(self._state["order"])
            given = int(self._state["given"])
            for lane, reader in readers.items():
                reader.restore(order.buffered(lane), order.following(lane))
        while True:
            # A round is a frame of every lane; the state is that at its beginning.
            before = order.state_dict()
            draw = order.draw(self.num_shards)
            for lane, reader in readers.items():
                reader.enter(draw.entering[lane])
            for place, lane in enumerate(lanes):
                item = self._drawn(readers[lane], int(draw.index[lane]))
                if place < given:
                    continue
                self._state = {"order": before, "given": place + 1}
                yield item
            given = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, as JSON."""
        return dict(self._state or {"order": self.order().state_dict(), "given": 0})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on where ``state`` was taken, with the same workers and processes.

        Raises:
            UsageError: it is of a stream with other shards.
        """
        try:
            self.order().load_state_dict(state["order"])
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"the state is not of this stream ({error}); give the shards that it was taken with"
            ) from None
        self._state = dict(state)

    def _drawn(self, reader: LaneReader, index: int) -> dict[str, Any]:
        held = reader.find(index)
        assert held is not None
        visit, frame = held
        item = self._item(visit.rows, frame, visit.pictures.get(frame, {}))
        reader.let_go(visit, frame)
        return item

    def _item(self, rows: Rows, frame: int, pictures: Pictures) -> dict[str, Any]:
        """One frame, as ``LeRobotDataset`` gives it."""
        item: dict[str, Any] = {}
        for camera, picture in pictures.items():
            item[camera] = picture if self._return_uint8 else picture.float() / 255.0
        for name, values in rows.columns.items():
            item[name] = _tensor(values[frame])
        for name, deltas in (self.delta_indices or {}).items():
            values, outside = rows.ahead(name, np.array([frame]), deltas)
            item[name] = _tensor(values[0])
            item[f"{name}_is_pad"] = torch.from_numpy(outside[0])
        if c.TASK_INDEX in rows.columns:
            item[TASK] = self._task(int(rows.columns[c.TASK_INDEX][frame]))
        return item

    def _task(self, index: int) -> str:
        if not 0 <= index < len(self.dataset.tasks):
            root, known = self.dataset.root, len(self.dataset.tasks)
            raise IgrftError(
                f"{root}: task_index {index}, but meta/tasks.parquet has {known} rows; run: igrft validate {root}"
            )
        return self.dataset.tasks[index]

    # As the trainer's.

    def gather(self, index: np.ndarray, chunk: int, later: int | None) -> tuple[Observation, Observation | None]:
        """Frames in any order, read one by one: see :meth:`igrft.training.frames.Frames.gather`."""
        return self.batch([self.single(i, later) for i in index.tolist()], chunk, later)

    def single(self, index: int, later: int | None) -> Read:
        """One frame, read out of order."""
        row = self.source.row_of(index)
        rows = self._rows(row)
        frame = index - rows.first
        wanted = [frame] if later is None else [frame, min(frame + later, rows.length - 1)]
        pictures = {g: next(self.source.pictures(row, g))() for g in wanted} if self.source.cameras else {}
        return rows, frame, pictures

    def batch(self, found: Sequence[Read], chunk: int, later: int | None) -> tuple[Observation, Observation | None]:
        """Batches of frames that were read, and of those ``later`` than they are, or None."""
        frames = np.array([frame for _, frame, _ in found], dtype=np.int64)
        ends = np.array([rows.length - 1 for rows, _, _ in found], dtype=np.int64)
        groups: dict[int, list[int]] = {}
        for place, (rows, _, _) in enumerate(found):
            groups.setdefault(id(rows), []).append(place)
        now = self._observe(found, frames, list(groups.values()))
        parts = [found[places[0]][0].ahead(c.ACTION, frames[places], range(chunk)) for places in groups.values()]
        where = np.argsort(np.concatenate(list(groups.values())), kind="stable")
        actions = np.concatenate([values for values, _ in parts])[where]
        now[c.ACTION] = torch.from_numpy(matrix(actions.reshape(len(found) * chunk, -1)).reshape(len(found), chunk, -1))
        now[ACTION_IS_PAD] = torch.from_numpy(np.concatenate([outside for _, outside in parts])[where])
        if later is None:
            return now, None
        return now, self._observe(found, np.minimum(frames + later, ends), list(groups.values()))

    def _observe(self, found: Sequence[Read], frames: np.ndarray, groups: Sequence[Sequence[int]]) -> Observation:
        """Observations at ``frames`` of what was read; ``groups`` are the places of each episode."""
        out: Observation = {}
        where = np.argsort(np.concatenate(groups), kind="stable")
        rows = [found[places[0]][0] for places in groups]
        for name in STATES:
            if name in self.source.columns:
                values = [r.columns[name][frames[places]] for r, places in zip(rows, groups, strict=True)]
                out[name] = torch.from_numpy(matrix(np.concatenate(values)[where]))
        for camera in self.source.cameras:
            pictures = [held[g][camera] for (_, _, held), g in zip(found, frames.tolist(), strict=True)]
            out[camera] = torch.stack(pictures)
        tasks = np.zeros(len(frames), dtype=np.int64)
        if c.TASK_INDEX in self.source.columns:
            for r, places in zip(rows, groups, strict=True):
                tasks[places] = r.columns[c.TASK_INDEX][frames[places]]
        out[TASK] = [self._task(i) for i in tasks.tolist()]
        return out

    def _rows(self, row: int) -> Rows:
        if row not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[row] = self.source.rows(row)
        return self._kept[row]


class DrawnFrames:
    """The buffers of some lanes of a stream, read as its order goes on.

    Args:
        order: where it is; it is not moved.
        lanes: those that are read in order. Frames of others are read one by one where they are asked for.
        chunk, later: of a sample: actions, and the distance of its later observation.
    """

    def __init__(
        self, stream: LabelledStream, order: StreamOrder, lanes: Sequence[int], chunk: int, later: int | None
    ) -> None:
        self.stream, self.chunk, self.later = stream, chunk, later
        self.readers = {lane: LaneReader(stream.source, later) for lane in lanes}
        for lane, reader in self.readers.items():
            reader.restore(order.buffered(lane), order.following(lane))

    def enter(self, draw: Draw) -> None:
        """Read what enters the buffers before a draw."""
        for lane, reader in self.readers.items():
            if lane in draw.entering:
                reader.enter(draw.entering[lane])

    def take(self, index: np.ndarray, lane: np.ndarray) -> tuple[Observation, Observation | None]:
        """Some of the frames drawn."""
        found = [self._take(i, number) for i, number in zip(index.tolist(), lane.tolist(), strict=True)]
        return self.stream.batch(found, self.chunk, self.later)

    def drop(self, index: np.ndarray, lane: np.ndarray) -> None:
        """Let go of frames that were drawn for others."""
        for i, number in zip(index.tolist(), lane.tolist(), strict=True):
            reader = self.readers.get(number)
            if reader is not None and (held := reader.find(i)) is not None:
                reader.let_go(*held)

    def _take(self, index: int, lane: int) -> Read:
        reader = self.readers.get(lane)
        held = None if reader is None else reader.find(index)
        if reader is None or held is None:
            return self.stream.single(index, self.later)
        visit, frame = held
        read = (visit.rows, frame, {g: visit.pictures[g] for g in visit.needed(frame)})
        reader.let_go(visit, frame)
        return read


def _tensor(value: Any) -> Any:
    """A number or an array as LeRobot gives it; texts and rows of language as they are."""
    if isinstance(value, str | list):
        return value
    values = np.asarray(value)
    kind = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}.get(values.dtype.kind)
    return value if kind is None else torch.from_numpy(values.astype(kind))


def _wanted(dataset: DatasetReader, episodes: Sequence[int] | None) -> np.ndarray:
    """Frames of each episode that are given: none of those set aside, or not named."""
    labels = load_labels(dataset, [])
    chosen: np.ndarray = np.ones(len(labels), dtype=bool)
    if episodes is not None:
        for episode in episodes:
            labels.position(episode)
        chosen = np.isin(labels.episode_indices, list(episodes))
    found = np.where(chosen & ~labels.set_aside, labels.lengths, 0)
    if not found.any():
        raise UsageError(f"{dataset.root} has no episode to stream; every one is empty or set aside, or not named")
    return found
