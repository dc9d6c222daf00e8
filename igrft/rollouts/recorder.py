"""Records rollouts as one LeRobot dataset that opens at every instant, whatever happens.

LeRobot's own writer keeps its parquet files open over all episodes, and a file that was not closed cannot be read;
it also spends a quarter of a second of Python on an episode. So rows are gathered here, pictures encoded while the
episode goes on, and the files of an episode, the same as LeRobot writes, join the dataset when it is complete:
:mod:`igrft.rollouts.commit` says how. A crash or a pulled plug loses the episode in progress and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.files import INFO, TASKS, read_json, read_strings_by_index
from igrft.errors import IgrftError, UsageError, did_you_mean
from igrft.recordings.quiet import first_line, is_disk_full
from igrft.rollouts import commit
from igrft.rollouts.encoder import EpisodeEncoder
from igrft.rollouts.episode_files import write_episode
from igrft.rollouts.facts import RolloutRecord, as_json, first_difference, read_rollout
from igrft.rollouts.layout import FILLED, Layout, identity, make_layout
from igrft.rollouts.staging import Staging, closed_on_error
from igrft.rollouts.statistics import DatasetStatistics


@dataclass
class _Episode:
    """An episode in progress: its rows in memory, its pictures in files."""

    columns: dict[str, list[np.ndarray]]
    videos: dict[str, Path]
    encoder: EpisodeEncoder | None
    frames: int = 0

    def forget(self) -> None:
        if self.encoder is not None:
            self.encoder.cancel()


@dataclass(frozen=True)
class _Committed:
    """What is on the disk."""

    info: dict[str, Any]
    record: RolloutRecord
    statistics: DatasetStatistics = field(default_factory=DatasetStatistics)

    @property
    def episodes(self) -> int:
        return len(self.record.episodes)

    @property
    def frames(self) -> int:
        return int(self.info["total_frames"])


class Recorder:
    """One dataset of rollouts, open for recording; use it as a context manager, or close it.

    :meth:`save` returns at once, and the episode is written while the next one goes on; :meth:`flush` (and
    :meth:`close`) wait. A failure to write is raised by whatever is called next.

    Attributes:
        root: folder of the dataset; absent until the first episode is written, since LeRobot opens no empty one.
    """

    def __init__(self, root: Path, layout: Layout, staging: Staging, settings: dict[str, Any]) -> None:
        """For :meth:`open`."""
        self.root = root
        self._layout = layout
        self._staging = staging
        self._settings = settings
        self._committed = self._nothing()
        self._facts: list[dict[str, Any]] = []
        self._episode: _Episode | None = None
        self._writer = ThreadPoolExecutor(1, "commit")
        self._writing: Future[None] | None = None
        self._number = 0
        self._closed = False

    @classmethod
    def open(
        cls,
        root: Path | str,
        *,
        features: Mapping[str, dict[str, Any]],
        fps: float,
        robot_type: str,
        task: str,
        settings: Mapping[str, Any],
        judged: bool = True,
        resume: bool = True,
        encoder: Mapping[str, Any] | None = None,
    ) -> Recorder:
        """Open the dataset at ``root``, or prepare to make it. What a crash left behind is cleared away.

        Args:
            features: LeRobot dataset features of ``observation.*`` and ``action``.
            fps: frames a second, a whole number.
            robot_type: as LeRobot writes it into ``meta/info.json``.
            task: what the episodes are about, one sentence.
            settings: JSON that says how the episodes come about: checkpoint, exploration, monitor, environment …
            judged: whether frames come with ``value`` and ``interaction_probability``.
            resume: go on with a dataset that is there; otherwise one that is there is refused.
            encoder: fields of LeRobot's ``RGBEncoderConfig``; None is
                :data:`igrft.rollouts.encoder.DEFAULT_ENCODER`.

        Raises:
            UsageError: features, rate or settings that cannot be recorded.
            IgrftError: another recorder is at work on it, something else lies at ``root``, or it was recorded
                otherwise.
        """
        root = Path(root).expanduser().resolve()
        kept = as_json(settings, "the settings of the rollouts")
        with closed_on_error(Staging(root)) as staging, _told(root):
            there = commit.exists(root)
            if there and not resume:
                raise IgrftError(f"{root} is there already; give another folder, or go on with it (resume)")
            if there:
                # Before seconds go into anything else.
                read_rollout(root)
            layout = make_layout(
                features,
                fps=fps,
                robot_type=robot_type,
                task=task,
                judged=judged,
                encoder=encoder,
                scratch=staging.folder,
            )
            staging.clear()
            recorder = cls(root, layout, staging, kept)
            if there:
                recorder._refuse_others()
                recorder._load(commit.trim(root, staging.folder))
                recorder._facts = list(recorder._committed.record.episodes)
        return recorder

    @property
    def episodes(self) -> int:
        """Episodes saved, the one that is being written included."""
        return len(self._facts)

    @property
    def facts(self) -> list[dict[str, Any]]:
        """Of the episodes saved, as given to :meth:`save`, with ``success`` and ``frames``."""
        return [dict(facts) for facts in self._facts]

    @property
    def pending(self) -> int:
        """Frames of the episode in progress."""
        return 0 if self._episode is None else self._episode.frames

    def add(self, frame: Mapping[str, Any]) -> None:
        """Record one frame.

        Args:
            frame: every feature (arrays of the declared shape; pictures uint8 [H, W, 3] RGB) and the columns of
                :func:`igrft.rollouts.layout.recorded_columns` but ``next.*``, which :meth:`save` fills. Numbers
                are cast to the dtype declared. A ``task`` is passed over.

        Raises:
            UsageError: something missing, unknown, or of another shape.
            IgrftError: a number that is not finite, a failed encoder, or the episode before could not be written.
                The episode in progress can be discarded, and others recorded.
        """
        self._refuse_closed()
        self._raise_failure()
        values = self._checked(frame)
        if self._episode is None:
            self._episode = self._begin()
        with _told(self.root):
            for camera in self._layout.cameras:
                assert self._episode.encoder is not None
                self._episode.encoder.add(camera, values[camera])
        for name, held in self._episode.columns.items():
            held.append(values[name])
        self._episode.frames += 1

    def save(self, *, success: bool | None, facts: Mapping[str, Any]) -> int:
        """The episode in progress is complete.

        Args:
            success: None where nobody said; ``next.success`` then reads as a failure, the record says null.
            facts: JSON: seed, takeovers ({start, end, by, why}), why it ended …

        Returns:
            Its ``episode_index``.

        Raises:
            UsageError: no frame was added, or facts that are not JSON.
            IgrftError: the episode before could not be written. This one is still in progress.
        """
        self._refuse_closed()
        if not self.pending:
            raise UsageError("an episode without a frame cannot be saved; add frames, or discard it")
        entry = {**as_json(facts, "the facts of an episode"), "success": success, "frames": self.pending}
        self.flush()
        episode, self._episode = self._episode, None
        assert episode is not None
        self._facts.append(entry)
        self._writing = self._writer.submit(self._commit, episode, entry)
        return len(self._facts) - 1

    def flush(self) -> None:
        """Wait until every episode saved survives a pulled plug.

        Raises:
            IgrftError: the last one could not be written. It is lost; the dataset is as it was before.
        """
        writing = self._writing
        if writing is not None:
            # A signal may come while we wait: the episode is then still being written.
            error = writing.exception()
            self._writing = None
            if error is not None:
                self._facts = list(self._committed.record.episodes)
                raise error

    def discard(self) -> None:
        """Forget the frames of the episode in progress."""
        episode, self._episode = self._episode, None
        if episode is not None:
            episode.forget()

    def drop_last(self) -> None:
        """Take the last episode back, to record it again. The episode in progress is discarded.

        Raises:
            UsageError: there is none.
            IgrftError: it could not be written, or not be taken back.
        """
        self._refuse_closed()
        self.discard()
        self.flush()
        if not self._facts:
            raise UsageError("there is no episode to record again")
        with _told(self.root):
            try:
                self._load(commit.take_back(self.root, self._staging.folder))
            except BaseException:
                self._recover()
                raise
            finally:
                self._facts = list(self._committed.record.episodes)

    def close(self) -> None:
        """Forget the episode in progress, wait for the one being written, and let the dataset go.

        May be called twice.

        Raises:
            IgrftError: as :meth:`flush`.
        """
        if self._closed:
            return
        self.discard()
        try:
            self.flush()
        finally:
            self._closed = True
            self._writer.shutdown()
            self._staging.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(IgrftError) if kind is not None else contextlib.nullcontext():
            self.close()

    # Frames.

    def _checked(self, frame: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """A frame's values, by feature, as declared."""
        features = self._layout.features
        out: dict[str, np.ndarray] = {}
        for name, feature in features.items():
            if name in FILLED:
                continue
            if name not in frame:
                raise UsageError(f"a frame lacks {name!r}; it holds {', '.join(sorted(frame))}")
            out[name] = _checked_value(name, frame[name], feature["dtype"], feature["shape"])
            if out[name].dtype.kind == "f" and not np.isfinite(out[name]).all():
                raise IgrftError(
                    f"{name!r} is not finite at frame {self.pending} of the episode; neither statistics nor training "
                    "take it: mend where it comes from"
                )
        for name in frame:
            if name in FILLED:
                raise UsageError(f"a frame holds {name!r}, which is filled in when the episode is saved")
            if name not in features and name != "task":
                raise UsageError(f"a frame holds {name!r}{did_you_mean(name, list(features))}")
        return out

    def _begin(self) -> _Episode:
        layout = self._layout
        self._number += 1
        folder = self._staging.folder
        videos = {key: folder / f"episode-{self._number}-{i}.mp4" for i, key in enumerate(layout.cameras)}
        encoder = None if layout.encoder is None else EpisodeEncoder(videos, layout.fps, layout.encoder)
        columns: dict[str, list[np.ndarray]] = {n: [] for n in layout.features if n not in videos and n not in FILLED}
        return _Episode(columns, videos, encoder)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise UsageError(f"the recorder of {self.root} is closed")

    def _raise_failure(self) -> None:
        """Of the episode that was being written, where it is done."""
        if self._writing is not None and self._writing.done():
            self.flush()

    # The dataset. The writing thread alone touches ``_committed`` while it is at work.

    def _commit(self, episode: _Episode, entry: dict[str, Any]) -> None:
        with _told(self.root, "; the last episode is lost, those before it are safe"):
            try:
                self._write(episode, entry)
            except BaseException:
                self._recover()
                raise
            finally:
                for path in episode.videos.values():
                    path.unlink(missing_ok=True)

    def _write(self, episode: _Episode, entry: dict[str, Any]) -> None:
        before, folder = self._committed, self._staging.folder
        statistics = episode.encoder.finish() if episode.encoder is not None else {}
        columns = {name: np.stack(values) for name, values in episode.columns.items()}
        # A column of shape [1] is one number a frame.
        columns = {n: v[:, 0] if v.shape[1:] == (1,) else v for n, v in columns.items()}
        columns[c.DONE] = np.arange(episode.frames) == episode.frames - 1
        columns[c.SUCCESS] = columns[c.DONE] & bool(entry["success"])
        written = write_episode(
            self._layout,
            columns,
            episode.videos,
            statistics,
            folder=folder,
            index=before.episodes,
            first_frame=before.frames,
        )
        after = _Committed(
            commit.counted(before.info, before.episodes + 1, before.frames + episode.frames),
            RolloutRecord(self._settings, [*before.record.episodes, entry]),
            before.statistics.and_one(written.statistics),
        )
        shared = commit.prepare(folder, after.info, after.record, after.statistics.totals())
        commit.publish({**written.files, **shared}, self.root, folder)
        self._committed = after

    def _refuse_others(self) -> None:
        """The dataset at ``root`` must have been recorded as this one will be."""
        tasks = read_strings_by_index(self.root / TASKS, "task_index", "task")
        there = {
            **identity(read_json(self.root / INFO), next(iter(tasks), None)),
            "settings": read_rollout(self.root).settings,
        }
        now = as_json({**self._layout.identity(), "settings": self._settings}, "the features")
        if difference := first_difference(there, now):
            raise IgrftError(f"{self.root} was recorded otherwise: {difference}; give the same, or another folder")

    def _nothing(self) -> _Committed:
        return _Committed(self._layout.info, RolloutRecord(self._settings, []))

    def _load(self, statistics: DatasetStatistics) -> None:
        """Know again what is on the disk."""
        self._committed = self._nothing()
        if commit.exists(self.root):
            self._committed = _Committed(read_json(self.root / INFO), read_rollout(self.root), statistics)

    def _recover(self) -> None:
        """After a failed change. Where clearing away fails as well, the dataset opens, and the next one does it."""
        with contextlib.suppress(OSError, IgrftError):
            there = commit.exists(self.root)
            self._load(commit.trim(self.root, self._staging.folder) if there else DatasetStatistics())


def _checked_value(name: str, value: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A value as declared; a picture as it is."""
    array = np.asarray(value)
    if shape == (1,) and array.ndim == 0:
        array = array.reshape(1)
    if array.shape != shape:
        raise UsageError(f"{name!r} has the shape {list(array.shape)} where {list(shape)} is declared")
    if dtype == "video":
        if array.dtype != np.uint8:
            raise UsageError(f"{name!r} is {array.dtype}; pictures are uint8")
        return array
    # A copy: drivers use their buffers again.
    return array.astype(dtype)


@contextlib.contextmanager
def _told(root: Path, after: str = "") -> Iterator[None]:
    """Failures to write as one line."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise IgrftError(f"the disk of {root} is full{after}; make room, and run again to go on") from error
        if not isinstance(error, (IgrftError, OSError)):
            raise
        text = str(error) if isinstance(error, IgrftError) else f"{root} could not be written ({first_line(error)})"
        raise IgrftError(f"{text}{after}") from error
