"""Numbers and pictures out of the messages of ROS's common packages and Foxglove's, and of any other by its fields.

A message is whatever the decoder made of it: an object with attributes (ROS, protobuf) or a dict (JSON).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

from igrft.errors import EpisodeError

#: The field that a message's type is about, where the mapping names none. The header is never numbers.
_DEFAULT_FIELDS = {
    "JointState": "position",
    "JointStates": "joints.position",
    "Pose": "",
    "PoseStamped": "pose",
    "PoseInFrame": "pose",
    "PosesInFrame": "poses",
    "PoseWithCovariance": "pose",
    "PoseWithCovarianceStamped": "pose.pose",
    "Twist": "",
    "TwistStamped": "twist",
    "Transform": "",
    "TransformStamped": "transform",
    "Wrench": "",
    "WrenchStamped": "wrench",
    "Accel": "",
    "AccelStamped": "accel",
    "Point": "",
    "PointStamped": "point",
    "Vector3": "",
    "Vector3Stamped": "vector",
    "Quaternion": "",
    "QuaternionStamped": "quaternion",
    "Odometry": "pose.pose",
    "Joy": "axes",
    "JointTrajectoryPoint": "positions",
    "Range": "range",
    "Temperature": "temperature",
}
#: Where Foxglove's types differ from those of ROS that are called alike.
_FOXGLOVE_FIELDS = {"Odometry": "pose", "Point3InFrame": "point"}
_COMPRESSED = ("CompressedImage",)
_RAW = ("Image", "RawImage")
_VIDEO = ("CompressedVideo",)
#: Says when and where a message was made, which is no number of the robot's.
_NO_NUMBERS = ("header", "timestamp", "frame_id", "parent_frame_id", "child_frame_id", "__msgtype__")
_DEPTH = ("16uc1", "32fc1", "mono16")


def base_type(msgtype: str) -> str:
    """``JointState`` of ``sensor_msgs/msg/JointState`` or ``foxglove.JointState``."""
    return msgtype.replace(".", "/").rsplit("/", maxsplit=1)[-1]


def is_picture(msgtype: str) -> bool:
    """Whether messages of this type are pictures: each by itself, or one of a video."""
    return base_type(msgtype) in (*_COMPRESSED, *_RAW, *_VIDEO)


def is_video(msgtype: str) -> bool:
    """Whether messages of this type are pictures of an encoded video, which are decoded one after another."""
    return base_type(msgtype) in _VIDEO


def default_field(msgtype: str) -> str:
    """The field that holds the numbers of a type; ``data`` for std_msgs, all fields for what is unknown."""
    if msgtype.startswith("std_msgs/"):
        return "data"
    if msgtype.startswith("foxglove") and base_type(msgtype) in _FOXGLOVE_FIELDS:
        return _FOXGLOVE_FIELDS[base_type(msgtype)]
    return _DEFAULT_FIELDS.get(base_type(msgtype), "")


def get(message: Any, name: str) -> Any:
    """One field; of a list an item by its number, else the field of all items.

    Raises:
        EpisodeError: there is none of that name (the message lists those there are), or it was not set.
    """
    if isinstance(message, dict):
        if name in message:
            return message[name]
        known = list(message)
    elif isinstance(message, np.ndarray) or _is_list(message):
        if not name.isdigit():
            return [get(item, name) for item in message]
        if int(name) < len(message):
            return message[int(name)]
        known = [f"0 to {len(message) - 1}"] if len(message) else []
    elif (described := getattr(message, "DESCRIPTOR", None)) is not None:
        field = described.fields_by_name.get(name)
        if field is not None:
            # What was not set reads as zero, which is a number like any other.
            unset = field.has_presence and not message.HasField(name)
            if unset and field.message_type is not None:
                raise EpisodeError(f"has nothing in its field {name!r}")
            return float("nan") if unset else getattr(message, name)
        known = list(described.fields_by_name)
    else:
        if hasattr(message, name):
            return getattr(message, name)
        known = list(getattr(message, "__dataclass_fields__", ()))
    raise EpisodeError(f"has no field {name!r} (known: {', '.join(known) or 'none'})")


def _is_list(value: Any) -> bool:
    """Lists, tuples and protobuf's repeated fields, but no text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def numbers(message: Any, path: str) -> np.ndarray:
    """The numbers under a field, in the order of its definition, float64 [n].

    Args:
        path: dotted; empty takes the whole message, its header, timestamp and frame left out.

    Raises:
        EpisodeError: no such field, or text in it.
    """
    for name in path.split(".") if path else ():
        message = get(message, name)
    out: list[float] = []
    _flatten(message, out)
    return np.asarray(out, dtype=np.float64)


def _flatten(value: Any, out: list[float]) -> None:
    if isinstance(value, bool | int | float | np.number | np.bool_):
        out.append(float(value))
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        out.extend(value.ravel().tolist())
    elif isinstance(value, np.ndarray) or _is_list(value):
        for item in value:
            _flatten(item, out)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _NO_NUMBERS:
                _flatten(item, out)
    elif (described := getattr(value, "DESCRIPTOR", None)) is not None:
        for key in described.fields_by_name:
            if key not in _NO_NUMBERS:
                _flatten(get(value, key), out)
    elif fields := getattr(value, "__dataclass_fields__", None):
        for key in fields:
            if key not in _NO_NUMBERS:
                _flatten(getattr(value, key), out)
    else:
        raise EpisodeError(f"holds {type(value).__name__} where numbers are expected; name a field of numbers")


def joint_names(message: Any) -> tuple[str, ...]:
    """Names of the joints in a JointState or JointStates; empty in another message."""
    for path in (("name",), ("joints", "name")):
        found = message
        try:
            for name in path:
                found = get(found, name)
        except EpisodeError:
            continue
        if _is_list(found) and all(isinstance(name, str) for name in found):
            return tuple(found)
    return ()


def joint_order(message: Any, joints: Sequence[str]) -> list[int]:
    """Where each joint stands in a JointState or JointStates. Raises EpisodeError: one is not in it."""
    names = joint_names(message)
    missing = [joint for joint in joints if joint not in names]
    if missing:
        raise EpisodeError(f"has no joint {missing[0]!r} (known: {', '.join(names) or 'none'})")
    return [names.index(joint) for joint in joints]


def check_picture(message: Any, msgtype: str) -> None:
    """Raises EpisodeError: pictures of a kind that is not converted, by what the message says of itself."""
    form = str(get(message, "encoding" if base_type(msgtype) in _RAW else "format"))
    kind = form.lower()
    deep = base_type(msgtype) in _COMPRESSED and _is_deep_png(get(message, "data"))
    if kind.startswith(_DEPTH) or "compresseddepth" in kind or deep:
        raise EpisodeError(
            f"holds depth ({form}), which is not converted: labels and policies look at colours; "
            "leave it out of the mapping"
        )


def _is_deep_png(data: Any) -> bool:
    """Whether bytes are a PNG of 16 bits, which holds depth and would decode to 8."""
    head = bytes(raw_bytes(data[:64] if isinstance(data, str) else data)[:26])
    return head[:8] == b"\x89PNG\r\n\x1a\n" and head[24:25] == b"\x10"


def picture(message: Any, msgtype: str) -> np.ndarray:
    """The picture of an Image or CompressedImage, RGB uint8 [H, W, 3].

    Raises:
        EpisodeError: an encoding that is no colour or gray picture, or bytes that do not decode.
    """
    check_picture(message, msgtype)
    if base_type(msgtype) in _COMPRESSED:
        return _compressed(message)
    return _raw(message)


def encoded(message: Any, msgtype: str) -> np.ndarray | None:
    """The file that a CompressedImage holds, uint8 [n]; None where the message is of another type.

    Raises:
        EpisodeError: a text that is no base64.
    """
    return raw_bytes(get(message, "data")) if base_type(msgtype) in _COMPRESSED else None


def raw_bytes(value: Any) -> np.ndarray:
    """Bytes, or in JSON base64 or a list, as uint8 [n]. Raises EpisodeError: a text that is no base64."""
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise EpisodeError("holds a text that is no base64") from None
    if isinstance(value, list):
        return np.asarray(value, np.uint8)
    return np.frombuffer(value, np.uint8)


def _compressed(message: Any) -> np.ndarray:
    import cv2

    form = str(get(message, "format"))
    data = raw_bytes(get(message, "data"))
    found = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if found is None:
        raise EpisodeError(f"holds bytes that are no picture (format {form!r})")
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def _raw(message: Any) -> np.ndarray:
    import cv2

    codes = {
        "rgb8": None,
        "8uc3": cv2.COLOR_BGR2RGB,
        "bgr8": cv2.COLOR_BGR2RGB,
        "rgba8": cv2.COLOR_RGBA2RGB,
        "bgra8": cv2.COLOR_BGRA2RGB,
        "8uc4": cv2.COLOR_BGRA2RGB,
        "mono8": cv2.COLOR_GRAY2RGB,
        "8uc1": cv2.COLOR_GRAY2RGB,
        # OpenCV names a Bayer pattern by its second row and second column.
        "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
        "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
        "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
        "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
        "yuv422": cv2.COLOR_YUV2RGB_UYVY,
        "uyvy": cv2.COLOR_YUV2RGB_UYVY,
        "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
        "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    }
    encoding = str(get(message, "encoding"))
    if encoding.lower() not in codes:
        raise EpisodeError(f"holds {encoding} pictures, which are not decoded (known: {', '.join(codes)})")
    code = codes[encoding.lower()]
    channels = 2 if "yu" in encoding.lower() else {"3": 3, "4": 4}.get(encoding[-1], 1)
    if encoding.lower() in ("rgb8", "bgr8"):
        channels = 3
    elif encoding.lower() in ("rgba8", "bgra8"):
        channels = 4
    height, width = int(get(message, "height")), int(get(message, "width"))
    # Rows may be padded, and foxglove's RawImage has no is_bigendian; both have step.
    step, data = int(get(message, "step")), raw_bytes(get(message, "data"))
    if step < width * channels or len(data) < height * step or not height or not width:
        raise EpisodeError(f"holds {len(data)} bytes where {width}x{height} {encoding} takes {height * step}")
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    image = np.ascontiguousarray(rows.reshape(height, width, channels) if channels > 1 else rows)
    return image if code is None else cv2.cvtColor(image, code)
