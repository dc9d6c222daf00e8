"""Makes MCAP files of Foxglove's schemas in protobuf with Foxglove's own writer, and videos a picture a message."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import foxglove
import numpy as np
from foxglove import channels, messages
from foxglove.messages import Timestamp
from stream_sets import jpeg, nanoseconds

#: A message: topic, when it was made (seconds from the start), the message.
Logged = tuple[str, float, Any]


def stamp(t: float) -> Timestamp:
    return Timestamp(nanoseconds(t) // 10**9, nanoseconds(t) % 10**9)


def write_foxglove(path: Path, logged: Iterable[Logged], delay: float = 0.005) -> Path:
    """An MCAP file; every message is written ``delay`` seconds after it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    context = foxglove.Context()
    made: dict[str, Any] = {}
    with foxglove.open_mcap(path, context=context):
        for topic, t, message in sorted(logged, key=lambda one: one[1]):
            if topic not in made:
                made[topic] = getattr(channels, f"{type(message).__name__}Channel")(topic, context=context)
            made[topic].log(message, log_time=nanoseconds(t + delay))
    return path


def compressed(topic: str, t: float, picture: np.ndarray) -> Logged:
    return topic, t, messages.CompressedImage(timestamp=stamp(t), data=bytes(jpeg(picture)), format="jpeg")


def raw(topic: str, t: float, picture: np.ndarray) -> Logged:
    height, width = picture.shape[:2]
    padded = np.pad(picture.reshape(height, -1), ((0, 0), (0, 8)))
    fields = {"width": width, "height": height, "encoding": "rgb8", "step": 3 * width + 8, "data": padded.tobytes()}
    return topic, t, messages.RawImage(timestamp=stamp(t), **fields)


def joints(topic: str, t: float, **positions: float | None) -> Logged:
    held = [messages.JointState(name=name, position=position) for name, position in positions.items()]
    return topic, t, messages.JointStates(timestamp=stamp(t), joints=held)


def pose(topic: str, t: float, position: Iterable[float], orientation: Iterable[float]) -> Logged:
    x, y, z = position
    at = messages.Vector3(x=x, y=y, z=z)
    turned = messages.Quaternion(**dict(zip("xyzw", orientation, strict=True)))
    held = messages.Pose(position=at, orientation=turned)
    return topic, t, messages.PoseInFrame(timestamp=stamp(t), frame_id="base", pose=held)


def video(topic: str, t: float, data: bytes, form: str = "h264") -> Logged:
    return topic, t, messages.CompressedVideo(timestamp=stamp(t), data=data, format=form)


#: Encoders by the format that a message names, and what makes them write a picture a packet as a recorder does.
ENCODERS = {
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "crf": "10"}),
    "h265": ("libx265", {"preset": "ultrafast", "tune": "zerolatency", "crf": "10", "x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "lag-in-frames": "0", "crf": "10", "b": "0"}),
    "av1": ("libsvtav1", {"preset": "12", "crf": "20", "svtav1-params": "pred-struct=1:lookahead=0"}),
}


def packets(pictures: list[np.ndarray], form: str = "h264", gop: int = 5, **options: str) -> list[bytes]:
    """Encode pictures to one packet each, as byte streams without a container."""
    name, settings = ENCODERS[form]
    context: Any = av.CodecContext.create(name, "w")
    context.height, context.width = pictures[0].shape[:2]
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 10), Fraction(10)
    context.options = {**settings, "g": str(gop), **options}
    out: list[bytes] = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = number
        out += [bytes(packet) for packet in context.encode(frame)]
    return out + [bytes(packet) for packet in context.encode(None)]
