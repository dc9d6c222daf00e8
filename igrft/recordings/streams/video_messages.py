"""Pictures of topics that hold an encoded video, a picture a message (``foxglove.CompressedVideo``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from igrft.errors import EpisodeError
from igrft.recordings.streams.frame import Frame, shown
from igrft.recordings.streams.messages import get

#: FFmpeg's decoders, by the format that a message names.
_DECODERS = {"h264": "h264", "h265": "hevc", "hevc": "hevc", "vp9": "vp9", "av1": "libdav1d"}

#: Those of which :func:`is_key` knows where decoding can begin.
LOOKED_INTO = ("h264", "hevc")

#: A message's number, and what makes its picture.
Shown = tuple[int, Callable[[], np.ndarray | Frame]]


def codec(message: Any) -> str:
    """FFmpeg's decoder for a message. Raises EpisodeError: none."""
    form = str(get(message, "format"))
    if form.lower() not in _DECODERS:
        raise EpisodeError(f"holds video of format {form!r}, which is not decoded (known: {', '.join(_DECODERS)})")
    return _DECODERS[form.lower()]


def is_key(data: bytes, decoder: str) -> bool:
    """Whether decoding can begin at a message of H.264 or H.265; false for codecs that are not looked into.

    Looks at the units of the byte stream (Annex B) up to the first one that holds picture.
    """
    at = data.find(b"\x00\x00\x01")
    while 0 <= at < len(data) - 3:
        head = data[at + 3]
        if decoder == "h264":
            kind = head & 31
            if kind <= 5:
                return kind == 5
        elif decoder == "hevc":
            kind = head >> 1 & 63
            if kind <= 31:
                return 16 <= kind <= 23
        at = data.find(b"\x00\x00\x01", at + 3)
    return False


def decode(packets: Iterable[tuple[int, bytes]], decoder: str) -> Iterator[Shown]:
    """Decode messages: number and bytes, from one on at which decoding can begin.

    Raises:
        EpisodeError: damaged, or pictures are shown in another order than they come in.
    """
    import av

    context: Any = av.CodecContext.create(decoder, "r")
    context.thread_count = 1
    last: int | None = None
    for number, data in chain(packets, [(0, b"")]):
        # Nothing more makes the decoder hand out what it holds back.
        packet = av.Packet(data) if data else None
        if packet is not None:
            packet.pts = packet.dts = number
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            raise EpisodeError(f"holds bytes that are no {decoder}") from None
        for frame in frames:
            last = _check(frame, last)
            yield last, partial(shown, frame)


def _check(frame: Any, last: int | None) -> int:
    """The frame's number. Raises EpisodeError: damaged, or not the next message's."""
    if last is not None and frame.pts != last + 1:
        raise EpisodeError("is not followed by the next message's picture (lost, or the video has B frames)")
    if frame.is_corrupt:
        raise EpisodeError("holds a damaged picture")
    return int(frame.pts)
