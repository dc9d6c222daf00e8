"""Bags as recordings of timed streams: every bag is one recording."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from igrft.errors import EpisodeError
from igrft.recordings.streams import messages, video_messages
from igrft.recordings.streams.align import ascending
from igrft.recordings.streams.bag_pictures import BagPictures, Video
from igrft.recordings.streams.bags import Bag, Message, open_bag
from igrft.recordings.streams.model import Facts, Mapping, Numbers, Part, file_identity

_ROS1, _MCAP, _ROS2 = ".bag", ".mcap", "metadata.yaml"


def bag_paths(source: Path) -> list[Path]:
    """Bags at ``source``: it itself, or those in the folder. The folder of a ROS 2 bag is one bag."""
    if source.is_file():
        return [source] if source.suffix.lower() in (_ROS1, _MCAP) else []
    if (source / _ROS2).is_file():
        return [source]
    found = [
        p
        for p in source.iterdir()
        if (p.is_file() and p.suffix.lower() in (_ROS1, _MCAP)) or (p.is_dir() and (p / _ROS2).is_file())
    ]
    return sorted(found, key=lambda p: (_digits(p.stem), p.name))


def _digits(text: str) -> list[int]:
    """Numbers in a name, so that ``take_2`` comes before ``take_10``."""
    return [int(word) for word in "".join(ch if ch.isdigit() else " " for ch in text).split()]


@dataclass(frozen=True)
class BagRecording:
    """One bag, read by a mapping of its topics."""

    path: Path
    mapping: Mapping

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def file(self) -> str:
        return self.path.name

    def identity(self) -> str:
        return file_identity(self.path)

    def facts(self) -> Facts:
        return Facts()

    @contextmanager
    def open(self) -> Iterator[BagStreams]:
        with open_bag(self.path) as bag:
            yield BagStreams(self.path, bag, self.mapping)


def _parts(mapping: Mapping) -> Iterator[tuple[Part, bool]]:
    """Every part that the mapping reads, and whether it is pictures."""
    for feature in mapping.features:
        for part in feature.parts:
            yield part, feature.picture
    for extra in (mapping.episodes.part, mapping.success.part):
        if extra is not None:
            yield extra, False


class BagStreams:
    """The streams of an open bag. All numbers that are mapped are read in one pass, pictures' stamps in another."""

    def __init__(self, path: Path, bag: Bag, mapping: Mapping) -> None:
        self._path, self._bag, self._mapping = path, bag, mapping
        self._logs: dict[str, np.ndarray] = {}
        self._stamps: dict[str, np.ndarray] = {}
        self._values: dict[tuple[str, str, tuple[str, ...]], np.ndarray] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._videos: dict[str, Video] = {}
        self._loaded: set[bool] = set()

    def available(self) -> dict[str, str]:
        return {name: f"{t.msgtype or 'no type'}, {t.count} messages" for name, t in sorted(self._bag.topics.items())}

    def find(self, part: Part) -> str | None:
        return next((s for s in part.streams if s in self._bag.topics and self._bag.topics[s].count), None)

    def _require(self, part: Part) -> str:
        topic = self.find(part)
        if topic is None:
            raise EpisodeError(f"it has no message in {' or '.join(part.streams)}")
        return topic

    def numbers(self, part: Part) -> Numbers:
        topic = self._require(part)
        if messages.is_picture(self._bag.topics[topic].msgtype):
            raise EpisodeError(f"{topic} holds {self._bag.topics[topic].msgtype}, where numbers are expected")
        self._load(pictures=False)
        times, keep = self._times(topic)
        values = self._values[topic, part.field, part.joints]
        names = part.joints or self._names.get(topic, ())
        names = names if len(names) == values.shape[1] else ()
        return Numbers(times[keep], values[keep], names, late=int((~keep).sum()))

    def pictures(self, part: Part) -> BagPictures:
        topic = self._require(part)
        msgtype = self._bag.topics[topic].msgtype
        if not messages.is_picture(msgtype):
            raise EpisodeError(f"{topic} holds {msgtype or 'no type'}, which is no picture")
        self._load(pictures=True)
        times, keep = self._times(topic)
        late, video = int((~keep).sum()), self._videos.get(topic)
        if video is not None:
            # A recording that begins amid a video shows nothing up to its first key picture.
            if not video.keys:
                raise EpisodeError(f"{topic} holds no key picture, so that nothing of it decodes")
            keep &= np.arange(len(keep)) >= video.keys[0]
        kept, logs = np.flatnonzero(keep), self._logs[topic]
        return BagPictures(self._path, topic, msgtype, times[keep], kept, logs, late, video)

    def _times(self, topic: str) -> tuple[np.ndarray, np.ndarray]:
        """Stamps of a topic in seconds, and which of them are kept since they ascend."""
        logs, stamps = self._logs[topic], self._stamps[topic]
        # Drivers without a clock leave the stamp at zero.
        by_header = self._mapping.stamps == "header" and len(stamps) == len(logs) and bool((stamps > 0).all())
        # Nanoseconds since 1970 as float64 are good to a quarter of a microsecond.
        times = (stamps if by_header else logs) * 1e-9
        return times, ascending(times, topic)

    def _load(self, *, pictures: bool) -> None:
        """Read what is mapped, once: all numbers, or the stamps of all pictures.

        Apart, since a frame rate is measured on stamps alone, and decoding numbers takes longer than reading both.
        """
        if pictures in self._loaded:
            return
        wanted: dict[str, list[Part]] = {}
        for part, picture in _parts(self._mapping):
            topic = self.find(part)
            if topic is not None and messages.is_picture(self._bag.topics[topic].msgtype) == pictures:
                readers = wanted.setdefault(topic, [])
                if picture or pictures:
                    continue
                if not any((r.field, r.joints) == (part.field, part.joints) for r in readers):
                    readers.append(part)
        logs = {topic: array("q") for topic in wanted}
        stamps = {topic: array("q") for topic in wanted}
        columns: dict[tuple[str, str, tuple[str, ...]], _Column] = {
            (topic, part.field, part.joints): _Column() for topic, parts in wanted.items() for part in parts
        }
        for message in self._bag.messages(list(wanted)):
            topic = message.topic
            logs[topic].append(message.log)
            stamp = self._bag.stamp(message)
            if stamp is not None:
                stamps[topic].append(stamp)
            msgtype = self._bag.topics[topic].msgtype
            if messages.is_picture(msgtype):
                self._look(message, msgtype, len(logs[topic]) - 1)
            if wanted[topic]:
                self._read(message, wanted[topic], columns)
        for topic in wanted:
            self._logs[topic] = np.frombuffer(logs[topic], np.int64) if logs[topic] else np.zeros(0, np.int64)
            self._stamps[topic] = np.frombuffer(stamps[topic], np.int64) if stamps[topic] else np.zeros(0, np.int64)
            if len(self._logs[topic]) != self._bag.topics[topic].count:
                raise EpisodeError(
                    f"{topic} holds {len(self._logs[topic])} messages where the bag says "
                    f"{self._bag.topics[topic].count}: truncated or damaged"
                )
        self._values |= {key: column.values() for key, column in columns.items()}
        self._loaded.add(pictures)

    def _look(self, message: Message, msgtype: str, number: int) -> None:
        """Of the first picture of a topic its kind, of a video which messages are key pictures."""
        topic, video = message.topic, messages.is_video(msgtype)
        if number and not video:
            return
        fields = self._bag.decode(message)
        if not video:
            try:
                return messages.check_picture(fields, msgtype)
            except EpisodeError as error:
                raise EpisodeError(f"{topic} {error}") from None
        try:
            decoder = video_messages.codec(fields)
            held = self._videos.setdefault(topic, Video(decoder, array("q")))
            if decoder != held.decoder:
                raise EpisodeError(f"holds {held.decoder} and then {decoder}")
            # Codecs that are not looked into are decoded from their first message on.
            blind = not number and decoder not in video_messages.LOOKED_INTO
            if blind or video_messages.is_key(messages.raw_bytes(messages.get(fields, "data")).tobytes(), decoder):
                held.keys.append(number)
        except EpisodeError as error:
            raise EpisodeError(f"{topic} {error} at message {number}") from None

    def _read(
        self, message: Message, parts: list[Part], columns: dict[tuple[str, str, tuple[str, ...]], _Column]
    ) -> None:
        topic = message.topic
        fields = self._bag.decode(message)
        number = -1
        try:
            for part in parts:
                column = columns[topic, part.field, part.joints]
                number = column.count
                path = part.field or messages.default_field(self._bag.topics[topic].msgtype)
                values = messages.numbers(fields, path)
                if part.joints:
                    values = _by_joint(values, messages.joint_order(fields, part.joints))
                column.add(values)
            if topic not in self._names:
                self._names[topic] = messages.joint_names(fields)
        except EpisodeError as error:
            raise EpisodeError(f"{topic} {error} at message {number}") from None


def _by_joint(values: np.ndarray, order: list[int]) -> np.ndarray:
    if max(order) >= len(values):
        raise EpisodeError(f"has {len(values)} numbers for more joints")
    return values[order]


class _Column:
    """Numbers of one field, message after message, 8 bytes each."""

    def __init__(self) -> None:
        self._data = array("d")
        self._width = 0
        self.count = 0

    def add(self, values: np.ndarray) -> None:
        if not self.count:
            self._width = len(values)
        if len(values) != self._width or not self._width:
            raise EpisodeError(f"has {len(values)} numbers where it had {self._width or 'to have some'}")
        self._data.frombytes(values.tobytes())
        self.count += 1

    def values(self) -> np.ndarray:
        return (
            np.frombuffer(self._data, np.float64).reshape(self.count, self._width) if self.count else np.zeros((0, 0))
        )
