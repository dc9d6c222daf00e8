"""Numbers and pictures out of the messages of ROS's common packages, and of any other by its fields.

A message is whatever the decoder made of it: an object with attributes (ROS) or a dict (JSON).
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
    "Pose": "",
    "PoseStamped": "pose",
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
_COMPRESSED = ("CompressedImage",)
_RAW = ("Image", "RawImage")


def base_type(msgtype: str) -> str:
    """``JointState`` of ``sensor_msgs/msg/JointState`` or ``foxglove.JointState``."""
    return msgtype.replace(".", "/").rsplit("/", maxsplit=1)[-1]


def is_picture(msgtype: str) -> bool:
    """Whether messages of this type are pictures that :func:`picture` decodes."""
    return base_type(msgtype) in (*_COMPRESSED, *_RAW)


def default_field(msgtype: str) -> str:
    """The field that holds the numbers of a type; ``data`` for std_msgs, all fields for what is unknown."""
    if msgtype.startswith("std_msgs/"):
        return "data"
    return _DEFAULT_FIELDS.get(base_type(msgtype), "")


def get(message: Any, name: str) -> Any:
    """One field. Raises EpisodeError: there is none of that name; the message lists those there are."""
    if isinstance(message, dict):
        if name in message:
            return message[name]
        known = list(message)
    elif isinstance(message, list | np.ndarray) and name.isdigit() and int(name) < len(message):
        return message[int(name)]
    else:
        if hasattr(message, name):
            return getattr(message, name)
        known = list(getattr(message, "__dataclass_fields__", ()))
    raise EpisodeError(f"has no field {name!r} (known: {', '.join(known) or 'none'})")


def numbers(message: Any, path: str) -> np.ndarray:
    """The numbers under a field, in the order of its definition, float64 [n].

    Args:
        path: dotted; empty takes the whole message, its header left out.

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
    elif isinstance(value, list | tuple | np.ndarray):
        for item in value:
            _flatten(item, out)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "header":
                _flatten(item, out)
    elif fields := getattr(value, "__dataclass_fields__", None):
        for key in fields:
            if key not in ("header", "__msgtype__"):
                _flatten(getattr(value, key), out)
    else:
        raise EpisodeError(f"holds {type(value).__name__} where numbers are expected; name a field of numbers")


def joint_order(message: Any, joints: Sequence[str]) -> list[int]:
    """Where each joint stands in a JointState. Raises EpisodeError: one is not in it."""
    names = [str(name) for name in get(message, "name")]
    missing = [joint for joint in joints if joint not in names]
    if missing:
        raise EpisodeError(f"has no joint {missing[0]!r} (known: {', '.join(names) or 'none'})")
    return [names.index(joint) for joint in joints]


def picture(message: Any, msgtype: str) -> np.ndarray:
    """The picture of an Image or CompressedImage, RGB uint8 [H, W, 3].

    Raises:
        EpisodeError: an encoding that is no colour or gray picture (depth), or bytes that do not decode.
    """
    if base_type(msgtype) in _COMPRESSED:
        return _compressed(message)
    return _raw(message)


def _bytes(value: Any) -> np.ndarray:
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
    if "compressedDepth" in form or form.startswith(("16UC1", "32FC1")):
        raise EpisodeError(f"holds depth ({form}), not pictures")
    data = _bytes(get(message, "data"))
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
    step, data = int(get(message, "step")), _bytes(get(message, "data"))
    if step < width * channels or len(data) < height * step or not height or not width:
        raise EpisodeError(f"holds {len(data)} bytes where {width}x{height} {encoding} takes {height * step}")
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    image = np.ascontiguousarray(rows.reshape(height, width, channels) if channels > 1 else rows)
    return image if code is None else cv2.cvtColor(image, code)
