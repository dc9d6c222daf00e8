"""A folder of videos with tables (CSV or parquet) of states and actions.

A table ``NAME.csv`` is the episode NAME; or one table holds many, told apart by a column ``episode``. The videos
of an episode are ``NAME.mp4``, ``NAME_CAMERA.mp4``, ``NAME/CAMERA.mp4`` or ``CAMERA/NAME.mp4``.

A video with as many pictures as its table has rows has a picture a row. Else its pictures are shown at their
own times, and the first one when the table begins. Columns that are read: ``timestamp`` (seconds), those whose
name begins with ``state``, ``observation.state`` or ``action`` (numbers, or lists of them), ``success``, ``task``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from igrft import columns as c
from igrft.dataset import decoders
from igrft.errors import EpisodeError, IgrftError
from igrft.recordings.streams.align import ascending
from igrft.recordings.streams.model import Facts, Feature, Mapping, Numbers, Part, file_identity
from igrft.recordings.video_facts import frame_times, unreadable

TABLES = (".csv", ".parquet")
VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
_EPISODES, _TIMES = ("episode", "episode_index"), (c.TIMESTAMP, "time")
_STATES, _ACTIONS = (c.STATE, "state"), (c.ACTION,)
_MAIN = "main"


def tables_of(source: Path) -> list[Path]:
    """Tables of a folder that holds videos, too; else none."""
    if not source.is_dir() or not any(True for _ in _videos(source)):
        return []
    return sorted(p for p in source.iterdir() if p.suffix.lower() in TABLES and p.is_file())


def _videos(source: Path) -> Iterator[Path]:
    """Videos in the folder and in those one below."""
    for entry in sorted(source.iterdir()):
        for path in sorted(entry.iterdir()) if entry.is_dir() else [entry]:
            if path.suffix.lower() in VIDEOS and path.is_file():
                yield path


@dataclass(frozen=True)
class VideoRecording:
    """An episode: rows of a table that are its own, and a video a camera.

    Attributes:
        episode: column and value that tell its rows in the table; None takes all rows.
        videos: by camera.
    """

    name: str
    table: Path
    episode: tuple[str, Any] | None
    videos: dict[str, Path] = field(hash=False)

    @property
    def file(self) -> str:
        return next(iter(self.videos.values()), self.table).name if self.episode else self.table.name

    def identity(self) -> str:
        return " ".join(file_identity(path) for path in (self.table, *self.videos.values()))

    def rows(self) -> pa.Table:
        """The episode's rows. Raises EpisodeError: not readable."""
        table = read_table(self.table)
        if self.episode is not None:
            import pyarrow.compute as pc

            table = table.filter(pc.equal(table[self.episode[0]], self.episode[1]))
        if not table.num_rows:
            raise EpisodeError(f"{self.table.name} has no row of it")
        return table

    def facts(self) -> Facts:
        table = self.rows()
        names = table.column_names
        task = table["task"][0].as_py() if "task" in names else None
        success = _success(table["success"]) if "success" in names else None
        return Facts(task=str(task) if task else None, success=success)

    @contextmanager
    def open(self) -> Iterator[VideoStreams]:
        yield VideoStreams(self, self.rows())


def _success(column: pa.ChunkedArray) -> bool:
    last = column[len(column) - 1].as_py()
    if isinstance(last, str):
        return last.strip().lower() in ("1", "true", "yes", "success")
    return bool(last)


def read_table(path: Path) -> pa.Table:
    """A CSV or parquet file. Raises EpisodeError: not readable."""
    return _read_table(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read_table(path: Path, changed: int) -> pa.Table:
    """The last table is remembered: one often holds all episodes."""
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    try:
        return csv.read_csv(path) if path.suffix.lower() == ".csv" else pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None


class VideoStreams:
    """The streams of an episode: its columns by name, its cameras by name."""

    def __init__(self, recording: VideoRecording, table: pa.Table) -> None:
        self._recording, self._table = recording, table
        self._shown = {camera: frame_times(path) for camera, path in recording.videos.items()}

    def available(self) -> dict[str, str]:
        columns = {field.name: f"column, {field.type}" for field in self._table.schema}
        return columns | {name: f"video, {len(times)} pictures" for name, times in self._shown.items()}

    def find(self, part: Part) -> str | None:
        known = {*self._table.column_names, *self._shown}
        return next((s for s in part.streams if s in known), None)

    def _stamps(self) -> np.ndarray:
        """When each row was: as the table says, else as the first camera shows it, float64 [n] seconds."""
        name = next((n for n in _TIMES if n in self._table.column_names), None)
        if name is not None:
            return _matrix(self._table[name], name)[:, 0].astype(np.float64)
        for camera, shown in self._shown.items():
            if len(shown) == self._table.num_rows:
                return shown - shown[0]
            raise EpisodeError(
                f"its table has {self._table.num_rows} rows and no timestamp, and camera {camera} {len(shown)} pictures"
            )
        raise EpisodeError("its table has no timestamp, and there is no video")

    def numbers(self, part: Part) -> Numbers:
        name = self.find(part)
        if name is None or name not in self._table.column_names:
            raise EpisodeError(f"it has no column {' or '.join(part.streams)}")
        values = _matrix(self._table[name], name)
        times = self._stamps()
        keep = ascending(times, "the table")
        names = (name,) if values.shape[1] == 1 else ()
        return Numbers(times[keep], values[keep], names, late=int((~keep).sum()))

    def pictures(self, part: Part) -> VideoPictures:
        name = self.find(part)
        if name is None or name not in self._shown:
            raise EpisodeError(f"it has no video {' or '.join(part.streams)}")
        shown, stamps = self._shown[name], self._stamps()
        if not len(shown):
            raise EpisodeError(f"{self._recording.videos[name].name} has no picture")
        times = stamps if len(shown) == len(stamps) else stamps[0] + shown - shown[0]
        return VideoPictures(self._recording.videos[name], times, shown, ascending(times, name))


def _matrix(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """A column of numbers or of lists of them, all as long, [n, width]."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        rows = column.to_pylist()
        widths = {len(row) if row is not None else 0 for row in rows}
        if len(widths) != 1 or widths == {0}:
            raise EpisodeError(f"column {name} holds lists of {sorted(widths)} numbers")
        values = np.array(rows, dtype=np.float64)
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = np.asarray(column.to_numpy(), dtype=np.float64)[:, None]
    else:
        raise EpisodeError(f"column {name} holds {kind}, where numbers are expected")
    return values


class VideoPictures:
    """A camera's video.

    Attributes:
        encoded: the video itself where its pictures are all used: see :func:`igrft.recordings.streams.keep.keepable`.
    """

    def __init__(self, path: Path, times: np.ndarray, shown: np.ndarray, keep: np.ndarray) -> None:
        self._path, self._shown, self._rows = path, shown, np.flatnonzero(keep)
        self.times = times[keep]
        self.late = len(times) - len(self._rows)
        self.encoded: Path | None = None if self.late else path

    def read(self, indices: Sequence[int] | np.ndarray) -> Generator[np.ndarray]:
        rows = self._rows[np.asarray(indices, np.int64)].tolist()
        if not rows:
            return
        period = float(np.median(np.diff(self._shown))) if len(self._shown) > 1 else 1.0
        at = 0
        try:
            for time, make in decoders.pyav(self._path, self._shown[rows[0]], 1 / period, None, "rgb", 1):
                number = int(np.abs(self._shown - time).argmin())
                if number < rows[at]:
                    continue
                if number > rows[at]:
                    raise EpisodeError(f"{self._path.name} does not decode at picture {rows[at]}: damaged")
                picture = make()
                while at < len(rows) and rows[at] == number:
                    yield picture
                    at += 1
                if at == len(rows):
                    return
        except EpisodeError as error:
            raise EpisodeError(str(error).replace(str(self._path), self._path.name)) from None
        raise EpisodeError(f"{self._path.name} ends before picture {rows[at]}: truncated or damaged")


def video_recordings(source: Path, mapping: Mapping | None) -> tuple[list[VideoRecording], Mapping]:
    """Episodes of a folder, and how columns and cameras become features.

    Raises:
        IgrftError: no table can be read, or none names an episode.
    """
    found: list[VideoRecording] = []
    mapped = mapping
    reasons: list[str] = []
    for table in tables_of(source):
        try:
            rows = read_table(table)
        except EpisodeError as error:
            reasons.append(str(error))
            found.append(VideoRecording(table.stem, table, None, {}))
            continue
        column = next((n for n in _EPISODES if n in rows.column_names), None)
        values = rows[column].unique().to_pylist() if column else [None]
        if column and len(values) == 1:
            # A table of its own that also numbers its episode.
            column, values = None, [None]
        for value in values:
            name = table.stem if column is None else str(value)
            found.append(VideoRecording(name, table, None if column is None else (column, value), {}))
        if mapped is None and mapping is None and rows.num_rows:
            mapped = Mapping(features=tuple(_features(rows)))
    _give_videos(source, found)
    if mapping is None and mapped is not None:
        cameras = sorted({camera for recording in found for camera in recording.videos})
        pictures = tuple(Feature(c.IMAGE_PREFIX + camera, (Part((camera,)),)) for camera in cameras)
        mapped = Mapping(features=(*pictures, *mapped.features))
    if mapped is None:
        raise IgrftError(reasons[0] if reasons else f"{source} holds no table with rows")
    if not mapped.features:
        raise IgrftError(
            f"{source}: no column begins with state or action, and no video fits; give --mapping FILE.yaml"
        )
    return found, mapped


def _features(table: pa.Table) -> Iterator[Feature]:
    """State and action by the names of columns, in the order of the table."""
    for feature, prefixes in ((c.STATE, _STATES), (c.ACTION, _ACTIONS)):
        names = [n for n in table.column_names if any(_belongs(n, prefix) for prefix in prefixes)]
        if names:
            # An action is what was commanded, not what lies between two commands.
            align: Any = "linear" if feature == c.STATE else "nearest"
            yield Feature(feature, tuple(Part((name,), align=align) for name in names))


def _belongs(name: str, prefix: str) -> bool:
    return name == prefix or (name.startswith(prefix) and not name[len(prefix)].isalpha())


def _give_videos(source: Path, recordings: list[VideoRecording]) -> None:
    """Find the videos of each episode; of two names that fit, the longer one."""
    names = {alias: recording for recording in recordings for alias in _aliases(recording.name)}
    for path in _videos(source):
        if path.parent == source:
            fits = [n for n in names if path.stem == n or (path.stem.startswith(n) and path.stem[len(n)] in "_.-")]
            name = max(fits, key=len, default=None)
            camera = path.stem[len(name) + 1 :] or _MAIN if name is not None else ""
        elif path.parent.name in names:
            name, camera = path.parent.name, path.stem
        else:
            name, camera = (path.stem if path.stem in names else None), path.parent.name
        if name is not None:
            names[name].videos[camera] = path


def _aliases(name: str) -> list[str]:
    """How files call an episode that a table gives by its number."""
    if not name.isdigit():
        return [name]
    number = int(name)
    padded = (str(number), f"{number:03d}", f"{number:06d}")
    return list(dict.fromkeys([name, *padded, *(f"episode_{digits}" for digits in padded)]))
