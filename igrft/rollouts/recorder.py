"""Records rollouts as one LeRobot dataset that opens at every instant, whatever happens.

Each episode is written by LeRobot's writer as a small dataset of its own in ``ROOT.staging`` (the writer keeps its
parquet files open, and a file that was not closed cannot be read), and joins ROOT when it is complete:
:mod:`igrft.rollouts.commit` says how. So a crash or a pulled plug loses the episode in progress and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from igrft import columns as c
from igrft.dataset.files import INFO, read_json
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError, did_you_mean
from igrft.recordings.quiet import first_line, is_disk_full, lerobot_quietly
from igrft.rollouts import commit
from igrft.rollouts.encoder import encoder_settings
from igrft.rollouts.episode_files import take_over
from igrft.rollouts.facts import RolloutRecord, as_json, first_difference, read_rollout
from igrft.rollouts.statistics import EpisodeStatistics

if TYPE_CHECKING:
    from igrft.rollouts.staged import StagedEpisode

#: Filled in when the episode is saved.
_FILLED = (c.DONE, c.SUCCESS)
#: LeRobot's writer fills these.
_LEROBOT = (c.TIMESTAMP, c.FRAME_INDEX, c.EPISODE_INDEX, c.INDEX, c.TASK_INDEX)


def recorded_columns(*, judged: bool) -> dict[str, str]:
    """dtypes of the columns that the recorder adds, each of shape [1].

    Args:
        judged: whether there is a critic. Without one ``value`` and ``interaction_probability`` are left out:
            LeRobot's statistics and training take no NaN.
    """
    critic = {c.VALUE: "float32", c.INTERACTION_PROBABILITY: "float32"} if judged else {}
    return {
        c.INTERVENTION: "bool",
        c.TAKEOVER_REASON: "int64",
        c.NOISE_SCALE: "float32",
        **critic,
        c.DONE: "bool",
        c.SUCCESS: "bool",
    }


class Recorder:
    """One dataset of rollouts, open for recording; use it as a context manager, or close it.

    Attributes:
        root: folder of the dataset; absent until the first episode is saved, since LeRobot opens no empty one.
        episodes: complete ones.
        frames: of the complete episodes.
    """

    def __init__(self, root: Path, features: dict[str, dict[str, Any]], fps: int, robot_type: str, task: str) -> None:
        self.root = root
        self.episodes = 0
        self.frames = 0
        self._features = features
        self._fps = fps
        self._robot_type = robot_type
        self._task = task
        self._record = RolloutRecord({}, [])
        self._statistics = EpisodeStatistics()
        self._lock: IO[str] | None = None
        self._encoder: Any = None
        self._staged: StagedEpisode | None = None
        self._number = 0

    @classmethod
    def open(
        cls,
        root: Path,
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
            IgrftError: another recorder is at work on it, something else lies at ``root``, or it was recorded under
                other settings.
        """
        root = Path(root).expanduser().resolve()
        own = recorded_columns(judged=judged)
        declared = _declared(features, own)
        if fps != int(fps) or fps < 1:
            raise UsageError(f"rollouts are recorded at a whole number of frames a second, got {fps:g}")
        recorder = cls(root, declared, int(fps), robot_type, task)
        recorder._record = RolloutRecord(as_json(settings, "the settings of the rollouts"), [])
        if any(f["dtype"] == "video" for f in declared.values()):
            recorder._encoder = encoder_settings(encoder)
        with contextlib.ExitStack() as stack:
            recorder._lock = stack.enter_context(_locked(root))
            if commit.exists(root):
                if not resume:
                    raise IgrftError(f"{root} is there already; give another folder, or go on with resume")
                recorder._go_on()
            with recorder._told():
                recorder._begin()
            stack.pop_all()
        return recorder

    @property
    def staging(self) -> Path:
        """The sibling folder that holds the episode in progress."""
        return _staging(self.root)

    @property
    def facts(self) -> list[dict[str, Any]]:
        """Of the complete episodes, as given to :meth:`save`, with ``success`` and ``frames``."""
        return [dict(episode) for episode in self._record.episodes]

    @property
    def pending(self) -> int:
        """Frames of the episode in progress."""
        return 0 if self._staged is None else self._staged.frames

    def add(self, frame: Mapping[str, Any]) -> None:
        """Record one frame.

        Args:
            frame: every feature (arrays of the declared shape; pictures uint8 [H, W, 3] RGB) and the columns of
                :func:`recorded_columns` but ``next.*``, which :meth:`save` fills. Numbers are cast to the dtype
                declared.

        Raises:
            UsageError: something missing, unknown, or of another shape.
            IgrftError: a number that is not finite, a full disk, or a failed encoder. The episode can be discarded,
                and others recorded.
        """
        built = {name: self._value(name, feature, frame) for name, feature in self._features.items()}
        unknown = [name for name in frame if name not in self._features and name != "task"]
        if unknown:
            raise UsageError(f"a frame holds {unknown[0]!r}{did_you_mean(unknown[0], list(self._features))}")
        with self._told():
            self._episode().add({**built, "task": self._task})

    def save(self, *, success: bool | None, facts: Mapping[str, Any]) -> int:
        """The episode in progress is complete; when this returns, it survives a pulled plug.

        Args:
            success: None where nobody said; ``next.success`` then reads as a failure, the record says null.
            facts: JSON: seed, takeovers ({start, end, by, why}), why it ended …

        Returns:
            Its ``episode_index``.

        Raises:
            UsageError: no frame was added, or facts that are not JSON.
            IgrftError: it could not be written; the episode is lost, the dataset is as it was.
        """
        if not self.pending:
            raise UsageError("an episode without a frame cannot be saved; add frames, or discard it")
        entry = {**as_json(facts, "the facts of an episode"), "success": success, "frames": self.pending}
        staged, self._staged = self._episode(), None
        try:
            with self._told(lost=True):
                try:
                    with lerobot_quietly(self.staging / "scratch"):
                        staged.finish()
                        self._commit(staged.folder, entry, bool(success))
                except BaseException:
                    self._recover()
                    raise
        finally:
            staged.close()
            self._clear()
        with self._told():
            self._begin()
        return self.episodes - 1

    def discard(self) -> None:
        """Forget the frames of the episode in progress."""
        if self.pending:
            self._episode().clear()

    def drop_last(self) -> None:
        """Take the last complete episode back, to record it again. The episode in progress is discarded.

        Raises:
            UsageError: there is none.
        """
        if not self.episodes:
            raise UsageError("there is no episode to record again")
        self.discard()
        with self._told():
            try:
                commit.take_back(self.root, self.staging)
            finally:
                self._load()
        shutil.rmtree(self.staging / "dropped", ignore_errors=True)

    def close(self) -> None:
        """Forget the episode in progress, and let the dataset go. May be called twice."""
        staged, self._staged = self._staged, None
        if staged is not None:
            staged.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            shutil.rmtree(self.staging, ignore_errors=True)
            lock.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Frames.

    def _value(self, name: str, feature: dict[str, Any], frame: Mapping[str, Any]) -> Any:
        if name in _FILLED:
            if name in frame:
                raise UsageError(f"a frame holds {name!r}, which is filled in when the episode is saved")
            return np.zeros(1, dtype=bool)
        if name not in frame:
            raise UsageError(f"a frame lacks {name!r}; it holds {', '.join(sorted(frame))}")
        dtype, shape = feature["dtype"], feature["shape"]
        if dtype == "string":
            return str(frame[name])
        picture = dtype in ("image", "video")
        value = np.asarray(frame[name])
        if picture and value.dtype != np.uint8:
            raise UsageError(f"{name!r} is {value.dtype}; pictures are uint8")
        if not picture and shape == (1,) and value.ndim == 0:
            value = value.reshape(1)
        if value.shape != shape:
            raise UsageError(f"{name!r} has the shape {list(value.shape)} where {list(shape)} is declared")
        if picture:
            return value
        value = value.astype(dtype)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise IgrftError(
                f"{name!r} is not finite at frame {self.pending} of the episode; neither statistics nor training take "
                "it: mend where it comes from"
            )
        return value

    def _episode(self) -> StagedEpisode:
        if self._lock is None:
            raise UsageError(f"the recorder of {self.root} is closed")
        if self._staged is None:
            self._begin()
        assert self._staged is not None
        return self._staged

    def _begin(self) -> None:
        """Have LeRobot's writer ready before the first frame: that takes longer than a control step."""
        from igrft.rollouts.staged import StagedEpisode

        self._number += 1
        with lerobot_quietly(self.staging / "scratch"):
            self._staged = StagedEpisode(
                self.staging / f"episode-{self._number}", self._features, self._fps, self._robot_type, self._encoder
            )

    # The dataset.

    def _commit(self, staged: Path, entry: dict[str, Any], success: bool) -> None:
        tree = self.staging / "commit"
        shutil.rmtree(tree, ignore_errors=True)
        files = take_over(staged, tree, index=self.episodes, first_frame=self.frames, success=success)
        there = read_json(self.root / INFO) if self.episodes else {**files.info, "chunks_size": commit.CHUNKS_SIZE}
        info = commit.counted(there, self.episodes + 1, self.frames + files.frames)
        record = RolloutRecord(self._record.settings, [*self._record.episodes, entry])
        statistics = EpisodeStatistics([*self._statistics.episodes, files.statistics])
        commit.prepare(tree, info, record, statistics.totals())
        commit.publish(tree, self.root)
        self._record, self._statistics = record, statistics
        self.episodes, self.frames = self.episodes + 1, self.frames + files.frames

    def _go_on(self) -> None:
        """Check that the dataset at ``root`` is this one, and clear away what a crash left."""
        found = read_rollout(self.root)
        reader = DatasetReader.open(self.root)
        now = as_json(
            {
                "robot_type": self._robot_type,
                "fps": self._fps,
                "features": {n: _comparable(f) for n, f in self._features.items()},
                "task": self._task,
                "settings": self._record.settings,
            },
            "the features",
        )
        there = {
            "robot_type": reader.info.get("robot_type"),
            "fps": reader.info["fps"],
            "features": {n: _comparable(f) for n, f in reader.features.items() if n not in _LEROBOT},
            "task": next(iter(reader.tasks), None),
            "settings": found.settings,
        }
        if difference := first_difference(there, now):
            raise IgrftError(
                f"{self.root} was recorded otherwise: {difference}; record as it was, or give another folder"
            )
        with self._told():
            commit.trim(self.root, self.staging)
            self._load()

    def _load(self) -> None:
        """Know again what is on the disk."""
        if not commit.exists(self.root):
            self.episodes = self.frames = 0
            self._record = RolloutRecord(self._record.settings, [])
            self._statistics = EpisodeStatistics()
            return
        info = read_json(self.root / INFO)
        self.episodes, self.frames = int(info["total_episodes"]), int(info["total_frames"])
        self._record = read_rollout(self.root)
        read = EpisodeStatistics.read(self.root).episodes
        self._statistics = EpisodeStatistics(read[: self.episodes])

    def _recover(self) -> None:
        """After a failed commit. Where clearing away fails as well, the dataset opens, and the next one does it."""
        with contextlib.suppress(OSError, IgrftError):
            if commit.exists(self.root):
                commit.trim(self.root, self.staging)
        with contextlib.suppress(OSError, IgrftError):
            self._load()

    def _clear(self) -> None:
        """Empty the staging folder, but for the lock."""
        for path in self.staging.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _told(self, lost: bool = False) -> Iterator[None]:
        """Failures to write as one line."""
        after = "; the episode is lost, the others are safe" if lost else ""
        try:
            yield
        except UsageError:
            raise
        except Exception as error:
            if is_disk_full(error):
                raise IgrftError(f"the disk of {self.root} is full{after}: make room, then go on") from error
            if isinstance(error, IgrftError):
                if not lost:
                    raise
                raise IgrftError(f"{error}{after}") from error
            raise IgrftError(f"{self.root} could not be written ({first_line(error)}){after}") from error


_LOCK = "lock"
#: All that a staging folder of ours holds.
_OWN = (_LOCK, "scratch", "commit", "dropped", "info.json", "stats.json", "igrft_rollout.json")


def _staging(root: Path) -> Path:
    return root.with_name(root.name + ".staging")


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[IO[str]]:
    """The staging folder of ``root``, emptied, under a lock that goes with the process."""
    folder = _staging(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strange = sorted(p.name for p in folder.iterdir() if p.name not in _OWN and not p.name.startswith("episode-"))
        if strange:
            raise IgrftError(
                f"{folder} is where the episode in progress goes, and holds {strange[0]!r}, which igrft rollout did "
                "not put there; move it away, or give another folder"
            )
        lock = (folder / _LOCK).open("w")
    except OSError as error:
        raise IgrftError(f"{folder} cannot be made ({error.strerror}); give a folder where you may write") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have removed the file that was just locked.
            mine = os.fstat(lock.fileno()).st_ino == (folder / _LOCK).stat().st_ino
        except OSError:
            mine = False
        if not mine:
            raise IgrftError(f"another recorder is at work on {root}; wait for it, or give another folder")
        for path in folder.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield lock
    except BaseException:
        lock.close()
        raise


def _declared(features: Mapping[str, dict[str, Any]], own: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The features of the dataset, as LeRobot's writer wants them."""
    for name, feature in features.items():
        if name in own or name in _LEROBOT:
            raise UsageError(f"{name!r} is a column of the recorder's own; leave it out of the features")
        if feature.get("dtype") in ("image", "video") and (feature.get("info") or {}).get("is_depth_map"):
            raise UsageError(f"{name!r} is a depth map, which rollouts do not record; leave it out of the features")
    if c.ACTION not in features:
        raise UsageError(f"the features have no {c.ACTION!r}; they are {', '.join(features) or 'empty'}")
    mine = {name: {"dtype": dtype, "shape": (1,), "names": None} for name, dtype in own.items()}
    return {n: {**f, "shape": tuple(f["shape"])} for n, f in features.items()} | mine


def _comparable(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A feature without what LeRobot finds out of its videos."""
    return {"dtype": feature["dtype"], "shape": list(feature["shape"]), "names": feature.get("names")}
