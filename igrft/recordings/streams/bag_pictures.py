"""The pictures of a bag's topics: files of their own, or an encoded video."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from igrft.errors import EpisodeError
from igrft.recordings.streams import messages, video_messages
from igrft.recordings.streams.bags import Bag, Message, open_bag
from igrft.recordings.streams.frame import Frame
from igrft.recordings.streams.jpeg import Jpeg, JpegDecoder


@dataclass(frozen=True)
class Video:
    """A topic of encoded video: FFmpeg's decoder of it, and the messages at which decoding can begin, ascending."""

    decoder: str
    keys: array[int]


class BagPictures:
    """A camera's topic.

    Args:
        kept: its messages whose stamps ascend and that can be decoded, int64 [n].
        logs: when each message was written, of all, nanoseconds, ascending.
        video: where its messages are pictures of an encoded video.
    """

    def __init__(
        self,
        path: Path,
        topic: str,
        msgtype: str,
        times: np.ndarray,
        kept: np.ndarray,
        logs: np.ndarray,
        late: int,
        video: Video | None,
    ) -> None:
        self._path, self._topic, self._msgtype = path, topic, msgtype
        self._kept, self._logs, self._video = kept, logs, video
        self.times = times
        self.late = late
        self.encoded: Path | None = None

    def read(self, indices: Sequence[int] | np.ndarray) -> Generator[np.ndarray | Frame]:
        wanted = self._kept[np.asarray(indices, np.int64)]
        if not len(wanted):
            return
        at, number = 0, -1
        # Opened anew: every camera is read by a thread of its own.
        with open_bag(self._path) as bag:
            try:
                for number, make in (self._stills if self._video is None else self._shown)(bag, wanted[0], wanted[-1]):
                    if number < wanted[at]:
                        continue
                    if number > wanted[at]:
                        raise EpisodeError("does not decode")
                    picture = make()
                    while at < len(wanted) and wanted[at] == number:
                        yield picture
                        at += 1
                    if at == len(wanted):
                        return
            except EpisodeError as error:
                raise EpisodeError(f"{self._topic} {error} at message {wanted[at]}") from None
        raise EpisodeError(f"{self._topic} ends at message {number} where {wanted[at]} is needed: truncated or damaged")

    def _messages(self, bag: Bag, first: int, last: int) -> Iterator[tuple[int, Message]]:
        """Messages with their numbers, both ends inside."""
        start = int(self._logs[first])
        number = int(np.searchsorted(self._logs, start)) - 1
        for message in bag.messages([self._topic], start, int(self._logs[last]) + 1):
            number += 1
            if first <= number <= last:
                yield number, message

    def _stills(self, bag: Bag, first: int, last: int) -> Iterator[tuple[int, Callable[[], np.ndarray | Jpeg]]]:
        """Messages by their numbers, and what decodes them."""
        jpegs = JpegDecoder()
        for number, message in self._messages(bag, first, last):
            yield number, partial(self._still, bag, message, jpegs)

    def _still(self, bag: Bag, message: Message, jpegs: JpegDecoder) -> np.ndarray | Jpeg:
        fields = bag.decode(message)
        data = messages.encoded(fields, self._msgtype)
        found = None if data is None else jpegs(data)
        return messages.picture(fields, self._msgtype) if found is None else found

    def _shown(self, bag: Bag, first: int, last: int) -> Iterator[video_messages.Shown]:
        """As :meth:`_stills`, from the last key picture on."""
        assert self._video is not None
        key = self._video.keys[int(np.searchsorted(self._video.keys, first, side="right")) - 1]
        packets = (
            (number, messages.raw_bytes(messages.get(bag.decode(message), "data")).tobytes())
            for number, message in self._messages(bag, key, last)
        )
        yield from video_messages.decode(packets, self._video.decoder)
