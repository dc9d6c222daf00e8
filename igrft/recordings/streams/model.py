"""What a reader of timed streams hands to the shared path: recordings, their streams, and the mapping to features."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from igrft.recordings.streams.frame import Frame

#: How a stream is brought to the rows' times. ``hold`` is the last value before, for what is sent on change only.
Align = Literal["nearest", "linear", "angle", "quaternion", "hold"]
ALIGNS: tuple[Align, ...] = ("nearest", "linear", "angle", "quaternion", "hold")


@dataclass(frozen=True)
class Part:
    """A stream, or a field of it, that makes up a feature or a part of one.

    Attributes:
        streams: its name in the recording (topic, path, column); of several, the first that is there is taken.
        field: path inside a message (``pose.position``); empty takes what the message's type is about.
        align: how it is brought to the rows' times.
        select: which of its numbers, in order; None takes all.
        names: names of its numbers; empty numbers them.
        joints: joints of a JointState by name, so that their order in the message does not matter.
        optional: left out where it is in no recording, instead of setting episodes aside.
    """

    streams: tuple[str, ...]
    field: str = ""
    align: Align = "linear"
    select: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Feature:
    """A column of the dataset: numbers put together from parts, or one camera. Without any part it is left out.

    Attributes:
        next_of: another feature, of whose next row this one's rows are; in the last row it stands still.
    """

    name: str
    parts: tuple[Part, ...]
    next_of: str = ""

    @property
    def picture(self) -> bool:
        from igrft import columns as c

        return self.name.startswith(c.IMAGE_PREFIX)


@dataclass(frozen=True)
class Numbers:
    """A stream of numbers.

    Attributes:
        times: float64 [n], seconds, ascending. values: [n, width], numbers or bools.
        names: of the numbers, where the stream says; empty where not.
        late: samples left out since their stamp was no later than the one before.
    """

    times: np.ndarray
    values: np.ndarray
    names: tuple[str, ...] = ()
    late: int = 0


class Pictures(Protocol):
    """A camera of a recording.

    Attributes:
        times: float64 [n], seconds, ascending: when each picture was taken.
        late: pictures left out since their stamp was no later than the one before.
        encoded: an mp4 that holds exactly these pictures in this order, or None.
    """

    times: np.ndarray
    late: int
    encoded: Path | None

    def read(self, indices: Sequence[int] | np.ndarray) -> Generator[np.ndarray | Frame]:
        """Pictures by index, RGB uint8 [H, W, 3] or as they were decoded. Indices do not descend and may repeat.

        Reads in one pass, holding a few pictures at a time.

        Raises:
            EpisodeError: damaged, or of a kind that cannot be decoded.
        """


class Streams(Protocol):
    """An open recording."""

    def find(self, part: Part) -> str | None:
        """The first of the part's streams that is here, or None."""

    def numbers(self, part: Part) -> Numbers:
        """Raises EpisodeError: not there, not numbers, a clock that jumps back, NaN, damaged."""

    def pictures(self, part: Part) -> Pictures:
        """Raises EpisodeError: not there, not pictures, a clock that jumps back, damaged."""

    def available(self) -> dict[str, str]:
        """What there is, by name: type and count, in words."""


@dataclass(frozen=True)
class Facts:
    """What a recording says of itself; None where it does not."""

    fps: float | None = None
    task: str | None = None
    success: bool | None = None


def file_identity(path: Path) -> str:
    """A digest of the sizes and times of a file, or of the files in a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path)} {file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


class Recording(Protocol):
    """One unit of the source: a bag, an HDF5 file or a group of it, an episode of a replay buffer.

    Attributes:
        name: as messages and ``meta/igrft.json`` call it; unique in the source.
        file: the file whose name ``success.pattern`` looks at.
    """

    @property
    def name(self) -> str: ...

    @property
    def file(self) -> str: ...

    def identity(self) -> str:
        """Changes when the recording does: what was made of it before is then made again."""

    def facts(self) -> Facts:
        """Raises EpisodeError: not readable."""

    def open(self) -> AbstractContextManager[Streams]:
        """Raises EpisodeError: not readable."""


@dataclass(frozen=True)
class Splitting:
    """Where a recording is cut into episodes.

    Attributes:
        by: ``file`` (one recording, one episode), ``marker`` (a stream says) or ``idle`` (nothing moves).
        part: the marker's stream, or the one that is watched for movement.
        start, stop: values of the marker that begin and end an episode. With ``stop`` None the marker is a state:
            an episode is where it has the value ``start``.
        seconds: stillness of at least so long parts episodes.
        tolerance: a number that moves by less than this in a second is still.
        shortest: what is shorter than this, in seconds, is no episode.
    """

    by: Literal["file", "marker", "idle"] = "file"
    part: Part | None = None
    start: float = 1.0
    stop: float | None = None
    seconds: float = 3.0
    tolerance: float = 0.01
    shortest: float = 1.0


@dataclass(frozen=True)
class SuccessRule:
    """Where an episode's success is read.

    Attributes:
        part: a stream; its last value inside the episode that is not zero makes a success.
        pattern: a regular expression; a success is a recording in whose file name it is found.
        table: by recording (its name, or its file's name or stem): from a table with ``episode`` and ``success``.
    """

    part: Part | None = None
    pattern: str | None = None
    table: dict[str, bool] | None = None


@dataclass(frozen=True)
class Mapping:
    """How streams become a dataset.

    Attributes:
        features: the columns, in order.
        clock: the feature whose first stream gives the rows; empty takes the first camera, else the first feature.
        stamps: ``header`` takes the time at which a message was made, where it says so; ``log`` when it was written.
        fps, task, robot_type: where the recordings do not say.
        max_skew: seconds; an episode is set aside where a stream is further than this from a row.
        max_gap: seconds; an episode is set aside where the clock stops for longer.
        max_trim: seconds; an episode is set aside where a stream begins later or ends earlier than this.
    """

    features: tuple[Feature, ...]
    clock: str = ""
    stamps: Literal["header", "log"] = "header"
    fps: float | None = None
    task: str | None = None
    robot_type: str | None = None
    max_skew: float = 0.1
    max_gap: float = 0.5
    max_trim: float = 1.0
    episodes: Splitting = field(default_factory=Splitting)
    success: SuccessRule = field(default_factory=SuccessRule)

    @property
    def clock_feature(self) -> Feature:
        for feature in self.features:
            if feature.name == self.clock or (not self.clock and feature.picture):
                return feature
        return next(feature for feature in self.features if feature.parts)
