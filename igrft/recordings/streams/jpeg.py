"""JPEGs on their way into a video: decoded to the colours that the encoder takes, without becoming RGB in between.

Cameras send JPEGs, which hold brightness and colour apart, as videos do. Making RGB of them only to take it apart
again costs more than decoding them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from igrft.errors import EpisodeError
from igrft.recordings.streams.frame import Frame

_START, _EXIF = b"\xff\xd8\xff", b"Exif\0\0"
#: How far into a file its orientation would stand.
_HEAD = 512
# JPEGs use all values, videos 16 to 235 of brightness and 16 to 240 of colour.
_BRIGHTNESS = np.rint(16 + np.arange(256) * (219 / 255)).astype(np.uint8)
_COLOUR = np.rint(128 + (np.arange(256) - 128) * (224 / 255)).astype(np.uint8)
_SAME, _OTHERS = "yuvj420p", ("yuvj422p", "yuvj444p", "yuvj440p")


@dataclass(frozen=True)
class Jpeg(Frame):
    """A picture as a camera sent it, decoded; ``data`` is the file, uint8 [n]."""

    data: np.ndarray

    @property
    def rgb(self) -> np.ndarray:
        """RGB uint8 [H, W, 3], decoded anew, by the decoder of all other pictures.

        Raises:
            EpisodeError: it finds damage.
        """
        import cv2

        found = cv2.imdecode(self.data, cv2.IMREAD_COLOR)
        if found is None:
            raise EpisodeError("it has a damaged JPEG")
        return cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


class JpegDecoder:
    """Decodes the JPEGs of one camera. Not for two threads at a time."""

    def __init__(self) -> None:
        from av import CodecContext
        from av.video.reformatter import VideoReformatter

        self._codec: Any = CodecContext.create("mjpeg", "r")
        self._codec.thread_count = 1  # more would hand pictures out late
        self._codec.options = {"err_detect": "explode"}
        self._reformatter = VideoReformatter()

    def __call__(self, data: np.ndarray) -> Jpeg | None:
        """Decode a file, uint8 [n]; None where it is no JPEG, is damaged, or needs more than decoding."""
        from av import FFmpegError, Packet

        head = data[:_HEAD].tobytes()
        # What Exif says of the orientation is for OpenCV to follow.
        if not head.startswith(_START) or _EXIF in head:
            return None
        try:
            found = self._codec.decode(Packet(data.tobytes()))
        except FFmpegError:
            return None
        if len(found) != 1:
            return None
        frame = self._limited(found[0])
        return None if frame is None else Jpeg(frame, data)

    def _limited(self, frame: Any) -> Any:
        """As yuv420p in the range of videos; None where the JPEG is of another kind (gray, RGB, four colours)."""
        from av.video.reformatter import ColorRange

        if frame.format.name == _SAME:
            return _scaled(frame)
        if frame.format.name not in _OTHERS:
            return None
        out = self._reformatter.reformat(
            frame, format="yuv420p", src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG
        )
        # Else the encoder would make every picture a key frame, as it is one here.
        out.pict_type = 0
        return out


def _scaled(frame: Any) -> Any:
    """A frame of yuvj420p as one of yuv420p: four times as fast by a table as by FFmpeg's scaler, and exact."""
    import cv2
    from av import VideoFrame

    out = VideoFrame(frame.width, frame.height, "yuv420p")
    for plane, scaled, table in zip(frame.planes, out.planes, (_BRIGHTNESS, _COLOUR, _COLOUR), strict=True):
        cv2.LUT(_view(plane), table, dst=_view(scaled))
    return out


def _view(plane: Any) -> np.ndarray:
    """A plane's values, uint8 [H, W], without the padding of its lines."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
