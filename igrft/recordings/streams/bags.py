"""One way to read bags: MCAP files by ``mcap``, ROS 1 and ROS 2 bags by ``rosbags``. No ROS is needed.

Both give raw messages in the order in which they were written, and decode them by the definitions
that the bag carries. ``rosbags`` knows ROS's serialisations; MCAP may also hold JSON and protobuf.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from igrft.errors import EpisodeError, IgrftError
from igrft.recordings.video_facts import lfs_pointer, unreadable

#: For ROS 2 bags that carry no definitions (SQLite before Iron); ROS's common packages come with ``rosbags``.
_COMPRESSED_VIDEO = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"


#: How the parts of a time are called by ROS, Foxglove and protobuf.
_SECONDS, _NANOSECONDS = ("sec", "secs", "seconds"), ("nsec", "nsecs", "nanosec", "nanos")


@dataclass(frozen=True)
class Topic:
    """What a bag says of a topic: the type of its messages and how many there are."""

    msgtype: str
    count: int


@dataclass(frozen=True)
class Message:
    """One message as it lies in the bag. ``log`` is when it was written, nanoseconds."""

    topic: str
    log: int
    data: bytes


class Bag(Protocol):
    """An open bag."""

    topics: dict[str, Topic]

    def messages(self, topics: list[str], start: int | None = None, stop: int | None = None) -> Iterator[Message]:
        """Messages of topics in log order, from ``start`` up to and without ``stop``, nanoseconds of log time."""

    def decode(self, message: Message) -> Any:
        """The message's fields."""

    def stamp(self, message: Message) -> int | None:
        """When the message was made, by its header or timestamp, nanoseconds; None where it has none, 0 if not set."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a bag's library raises on a damaged file, as the reason for which it is set aside."""
    try:
        yield
    except (IgrftError, MemoryError):
        raise
    except Exception as error:  # the libraries let struct.error, KeyError, zstd's errors and more through
        raise _damaged(path, error) from None


def _damaged(path: Path, error: BaseException) -> EpisodeError:
    if path.is_file() and lfs_pointer(path):
        return unreadable(path, error)
    lines = str(error).replace(f"{path}/", "").replace(str(path), path.name).strip().splitlines()
    return EpisodeError(f"{path.name} cannot be read ({(lines or [type(error).__name__])[0]}): truncated or damaged")


@contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """Open ``path``: an MCAP file, a ROS 1 bag, or the folder of a ROS 2 bag.

    Raises:
        EpisodeError: not readable.
    """
    if path.suffix.lower() == ".mcap":
        with reading(path), path.open("rb") as file:
            bag: Bag = McapBag(path, file)
        # Bound to the file, which a later use opens again: many threads read one bag.
        yield bag
        return
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    default = None
    if path.suffix != ".bag":
        default = get_typestore(Stores.ROS2_HUMBLE)
        default.register(get_types_from_msg(_COMPRESSED_VIDEO, "foxglove_msgs/msg/CompressedVideo"))
    with reading(path):
        reader = AnyReader([path], default_typestore=default)
        reader.open()
    try:
        yield RosBag(path, reader)
    finally:
        reader.close()


class RosBag:
    """A ROS 1 or ROS 2 bag."""

    def __init__(self, path: Path, reader: Any) -> None:
        self._path, self._reader = path, reader
        self.topics = {name: Topic(info.msgtype or "", info.msgcount) for name, info in reader.topics.items()}
        self._connections: dict[str, list[Any]] = {}
        for connection in reader.connections:
            self._connections.setdefault(connection.topic, []).append(connection)
        kinds = {topic.msgtype for topic in self.topics.values()}
        self._stamps = {kind: _stamp_reader(reader.typestore, kind, ros1=not reader.is2) for kind in kinds}

    def messages(self, topics: list[str], start: int | None = None, stop: int | None = None) -> Iterator[Message]:
        with reading(self._path):
            chosen = [connection for topic in topics for connection in self._connections[topic]]
            for connection, log, data in self._reader.messages(chosen, start=start, stop=stop):
                yield Message(connection.topic, log, data)

    def decode(self, message: Message) -> Any:
        msgtype = self.topics[message.topic].msgtype
        if msgtype not in self._reader.typestore.fielddefs:
            raise EpisodeError(
                f"{self._path.name} carries no definition of {msgtype}, which {message.topic} holds; "
                "add it with: ros2 bag convert, to MCAP"
            )
        with reading(self._path):
            return self._reader.deserialize(message.data, msgtype)

    def stamp(self, message: Message) -> int | None:
        with reading(self._path):
            return self._stamps[self.topics[message.topic].msgtype](message.data)


class McapBag:
    """An MCAP file with messages of ROS 1, ROS 2, JSON or protobuf."""

    def __init__(self, path: Path, file: Any) -> None:
        from mcap.reader import make_reader

        self._path = path
        summary = make_reader(file).get_summary()
        if summary is None or summary.statistics is None:
            raise EpisodeError(f"{path.name} has no summary: its recorder was cut off; run: mcap recover {path.name}")
        counts = summary.statistics.channel_message_counts
        self.topics: dict[str, Topic] = {}
        self._decoders: dict[str, Callable[[bytes], Any]] = {}
        self._stamps: dict[str, Callable[[bytes], int | None]] = {}
        for channel in summary.channels.values():
            schema = summary.schemas.get(channel.schema_id)
            name = schema.name if schema else ""
            before = self.topics.get(channel.topic)
            if before is not None and before.msgtype != name:
                raise EpisodeError(f"{path.name} holds both {before.msgtype} and {name} in {channel.topic}")
            count = counts.get(channel.id, 0) + (before.count if before else 0)
            self.topics[channel.topic] = Topic(name, count)
            self._decoders[channel.topic], self._stamps[channel.topic] = _mcap_decoder(channel, schema)

    def messages(self, topics: list[str], start: int | None = None, stop: int | None = None) -> Iterator[Message]:
        from mcap.reader import make_reader

        with reading(self._path), self._path.open("rb") as file:
            reader = make_reader(file, validate_crcs=True)
            for _, channel, message in reader.iter_messages(topics, start_time=start, end_time=stop):
                yield Message(channel.topic, message.log_time, message.data)

    def decode(self, message: Message) -> Any:
        with reading(self._path):
            return self._decoders[message.topic](message.data)

    def stamp(self, message: Message) -> int | None:
        with reading(self._path):
            return self._stamps[message.topic](message.data)


def _mcap_decoder(channel: Any, schema: Any) -> tuple[Callable[[bytes], Any], Callable[[bytes], int | None]]:
    """How messages of a channel are decoded, and how their stamp is read. Definitions are parsed when used."""
    if channel.message_encoding == "json":
        return json.loads, _json_stamp
    if channel.message_encoding == "protobuf" and schema is not None:
        return _protobuf_decoder(schema)
    if channel.message_encoding not in ("cdr", "ros1") or schema is None:
        what = channel.message_encoding or "an unnamed encoding"

        def refuse(data: bytes) -> Any:
            raise EpisodeError(f"{channel.topic} holds {what}, which is not decoded (known: cdr, ros1, json, protobuf)")

        return refuse, refuse
    ros1 = channel.message_encoding == "ros1"
    kept: list[tuple[Any, str]] = []
    readers: list[Callable[[bytes], int | None]] = []

    def store() -> tuple[Any, str]:
        if not kept:
            kept.append(_typestore(schema))
        return kept[0]

    def decode(data: bytes) -> Any:
        types, name = store()
        return types.deserialize_ros1(data, name) if ros1 else types.deserialize_cdr(data, name)

    def stamp(data: bytes) -> int | None:
        if not readers:
            readers.append(_stamp_reader(*store(), ros1=ros1))
        return readers[0](data)

    return decode, stamp


def _protobuf_decoder(schema: Any) -> tuple[Callable[[bytes], Any], Callable[[bytes], int | None]]:
    from mcap_protobuf.decoder import DecoderFactory

    factory = DecoderFactory()

    def decode(data: bytes) -> Any:
        decoder = factory.decoder_for("protobuf", schema)
        if decoder is None:
            raise EpisodeError(f"{schema.name} is said to be protobuf and has a schema of {schema.encoding}")
        return decoder(data)

    return decode, lambda data: _protobuf_stamp(decode(data))


def _typestore(schema: Any) -> tuple[Any, str]:
    """The types that a schema defines, and the name of its message as ``rosbags`` writes it."""
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    package, _, rest = schema.name.partition("/")
    name = schema.name if "/" in rest else f"{package}/msg/{rest}"
    text = schema.data.decode()
    if not text.strip():
        return get_typestore(Stores.ROS2_HUMBLE), name
    types = get_typestore(Stores.EMPTY)
    if schema.encoding == "ros2idl":
        separator = "=" * 80 + "\n"
        for block in text.split(separator):
            types.register(get_types_from_idl(block.partition("\n")[2] if block.startswith("IDL: ") else block))
    else:
        types.register(get_types_from_msg(text, name))
    return types, name


def _stamp_reader(types: Any, msgtype: str, *, ros1: bool) -> Callable[[bytes], int | None]:
    """Reads the stamp where messages begin with a header, or as Foxglove's with a timestamp; else says None."""
    definition = types.fielddefs.get(msgtype)
    first, what = definition[1][0] if definition and definition[1] else ("", None)
    headed = first == "header"
    if not headed and (first != "timestamp" or not what or what[1] != "builtin_interfaces/msg/Time"):
        return lambda data: None
    if ros1:
        # A header of ROS 1 has a sequence number before the stamp.
        return lambda data: _time(struct.unpack_from("<II", data, 4 if headed else 0))
    # CDR begins with four bytes, of which the second says the order of bytes.
    return lambda data: _time(struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4))


def _time(parts: tuple[int, int]) -> int:
    return parts[0] * 1_000_000_000 + parts[1]


def _json_stamp(data: bytes) -> int | None:
    """``header.stamp`` as ROS bridges write it, or ``timestamp`` as Foxglove's schemas have it."""
    message = json.loads(data)
    if not isinstance(message, dict):
        return None
    header = message.get("header")
    stamp = header.get("stamp") if isinstance(header, dict) else message.get("timestamp")
    if not isinstance(stamp, dict):
        return None
    seconds = next((stamp[name] for name in _SECONDS if name in stamp), 0)
    nanoseconds = next((stamp[name] for name in _NANOSECONDS if name in stamp), 0)
    return _time((int(str(seconds)), int(str(nanoseconds))))


def _protobuf_stamp(message: Any) -> int | None:
    """``timestamp`` as Foxglove's schemas have it, or ``header.stamp``."""
    for path in (("timestamp",), ("header", "stamp"), ("header", "timestamp")):
        found = message
        for name in path:
            found = _set_message(found, name) if found is not None else None
        names = found.DESCRIPTOR.fields_by_name if found is not None else {}
        seconds = next((name for name in _SECONDS if name in names), None)
        nanoseconds = next((name for name in _NANOSECONDS if name in names), None)
        if seconds and nanoseconds:
            return _time((int(getattr(found, seconds)), int(getattr(found, nanoseconds))))
    return None


def _set_message(message: Any, name: str) -> Any:
    """A field of protobuf that is a message and is set, else None."""
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None or field.message_type is None or not field.has_presence or not message.HasField(name):
        return None
    return getattr(message, name)
