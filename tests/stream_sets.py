"""Makes small bags with the real writers of each kind: MCAP by ``mcap``, ROS 1 and 2 by ``rosbags``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from recording_sets import picture, write_video
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

ROS2, ROS1 = get_typestore(Stores.ROS2_HUMBLE), get_typestore(Stores.ROS1_NOETIC)
VIDEO = "foxglove_msgs/msg/CompressedVideo"
for _types in (ROS2, ROS1):
    _text = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
    _types.register(get_types_from_msg(_text, VIDEO))
START = 1_700_000_000_000_000_000
TASK = "put the cube into the box"
HEAD, WRIST = "observation.images.head", "observation.images.wrist"

#: The mapping of :func:`messages`.
MAPPING = f"""
features:
  {HEAD}: /head/compressed
  {WRIST}: /wrist/image
  observation.state:
    - {{stream: /joints}}
    - {{stream: /pose, field: pose.orientation, align: quaternion, names: [x, y, z, w]}}
  action: {{stream: /command, align: nearest}}
"""


@dataclass
class Sent:
    """A message: its topic and type, when it was written and made (seconds from the start), and its fields."""

    topic: str
    msgtype: str
    log: float
    made: float
    fields: dict[str, Any]


def nanoseconds(seconds: float) -> int:
    return START + round(seconds * 1e9)


def jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel()


def compressed(topic: str, t: float, image: np.ndarray, delay: float = 0.01) -> Sent:
    return Sent(topic, "sensor_msgs/msg/CompressedImage", t + delay, t, {"format": "jpeg", "data": jpeg(image)})


def raw(topic: str, t: float, image: np.ndarray, delay: float = 0.012) -> Sent:
    height, width = image.shape[:2]
    fields = {
        "height": height,
        "width": width,
        "encoding": "rgb8",
        "is_bigendian": 0,
        "step": 3 * width,
        "data": image.ravel(),
    }
    return Sent(topic, "sensor_msgs/msg/Image", t + delay, t, fields)


def joints(topic: str, t: float, position: Iterable[float], names: Iterable[str] = (), delay: float = 0.001) -> Sent:
    position = np.asarray(list(position), np.float64)
    empty = np.zeros(0)
    fields = {"name": list(names), "position": position, "velocity": position * 2, "effort": empty}
    return Sent(topic, "sensor_msgs/msg/JointState", t + delay, t, fields)


def state_at(t: float) -> np.ndarray:
    """Joints that move evenly, so that interpolating them is exact: [3]."""
    return np.array([t, 2 * t - 1, 0.5])


def orientation_at(t: float) -> np.ndarray:
    """A turn about z at 1 radian a second: x, y, z, w."""
    return np.array([0, 0, np.sin(t / 2), np.cos(t / 2)])


def pose(topic: str, t: float) -> Sent:
    x, y, z, w = orientation_at(t)
    fields = {"pose": {"position": {"x": t, "y": 0.0, "z": 1.0}, "orientation": {"x": x, "y": y, "z": z, "w": w}}}
    return Sent(topic, "geometry_msgs/msg/PoseStamped", t + 0.002, t, fields)


def array(topic: str, t: float, values: Iterable[float]) -> Sent:
    """std_msgs has no header: what counts is when it was written."""
    layout = {"dim": [], "data_offset": 0}
    return Sent(
        topic, "std_msgs/msg/Float64MultiArray", t, t, {"layout": layout, "data": np.asarray(list(values), np.float64)}
    )


def flag(topic: str, t: float, value: bool) -> Sent:
    return Sent(topic, "std_msgs/msg/Bool", t, t, {"data": value})


def video_messages(topic: str, packets: list[bytes], delay: float, form: str = "h264") -> list[Sent]:
    """Pictures of an encoded video, ten a second, as Foxglove's message for ROS holds them."""
    return [
        Sent(
            topic,
            VIDEO,
            i / 10 + delay * (i % 2),
            i / 10,
            {"frame_id": "", "data": np.frombuffer(p, np.uint8), "format": form},
        )
        for i, p in enumerate(packets)
    ]


def messages(episode: int = 0, seconds: float = 1.0, fps: float = 10) -> list[Sent]:
    """An episode: a head camera at ``fps`` (the clock), a wrist camera 20 ms later, joints, a pose and commands."""
    out: list[Sent] = []
    for frame in range(round(seconds * fps)):
        t = frame / fps
        out.append(compressed("/head/compressed", t, picture(episode, frame, 0)))
        out.append(raw("/wrist/image", t + 0.02, picture(episode, frame, 1)))
    for i in range(round((seconds + 0.1) * 50)):
        out += [joints("/joints", i / 50, state_at(i / 50), ("a", "b", "c")), pose("/pose", i / 50)]
    out += [array("/command", i / 20, (i, -i)) for i in range(round((seconds + 0.1) * 20))]
    return out


def scene(episode: int, frame: int, camera: int = 0) -> np.ndarray:
    """What a fixed camera sees: a wall that stays and a block that crosses it, uint8 [48, 64, 3]."""
    wall = np.random.default_rng(camera).integers(60, 200, (12, 16, 3), np.uint8)
    out = cv2.resize(wall, (64, 48), interpolation=cv2.INTER_CUBIC)
    left = 2 + frame % 44
    out[18:30, left : left + 14] = (230, 30 + 40 * (episode % 4), 30)
    return out


def galaxea_messages(arm: int = 6, frames: int = 10) -> list[Sent]:
    """What Galaxea's drivers publish: two arms of ``arm`` joints; no camera on the right wrist, no torso."""
    out: list[Sent] = []
    for frame in range(frames):
        t = 0.05 + frame / 10
        out.append(compressed("/hdas/camera_head/left_raw/image_raw_color/compressed", t, picture(0, frame)))
        out.append(raw("/hdas/camera_wrist_left/color/image_raw", t + 0.01, picture(0, frame, 1)))
    for i in range(5 * frames + 5):
        t = i / 50
        for side, sign in (("left", 1), ("right", -1)):
            names = [f"joint{n}" for n in range(arm)]
            out.append(joints(f"/hdas/feedback_arm_{side}", t, sign * (t + np.arange(arm)), names))
            out.append(joints(f"/hdas/feedback_gripper_{side}", t, [50 * sign]))
            if i % 10 == 0:
                out.append(joints(f"/motion_target/target_joint_state_arm_{side}", t, sign * np.full(arm, t)))
                out.append(joints(f"/motion_target/target_position_gripper_{side}", t, [100]))
    return out


def in_order(sent: list[Sent]) -> list[Sent]:
    return sorted(sent, key=lambda m: m.log)


def build(types: Any, msgtype: str, fields: dict[str, Any], made: int, ros1: bool) -> Any:
    """A message of ``rosbags`` from plain values; a header is filled in."""
    given: dict[str, Any] = {}
    for name, (_, what) in types.fielddefs[msgtype][1]:
        if name == "header":
            stamp = types.types["builtin_interfaces/msg/Time"](made // 10**9, made % 10**9)
            extra = (0,) if ros1 else ()
            given[name] = types.types["std_msgs/msg/Header"](*extra, stamp, "")
        elif name == "timestamp":
            given[name] = types.types["builtin_interfaces/msg/Time"](made // 10**9, made % 10**9)
        elif isinstance(fields[name], dict):
            given[name] = build(types, what, fields[name], made, ros1)
        else:
            given[name] = fields[name]
    return types.types[msgtype](**given)


def encode(sent: Sent, ros1: bool) -> bytes:
    types = ROS1 if ros1 else ROS2
    message = build(types, sent.msgtype, sent.fields, nanoseconds(sent.made), ros1)
    return bytes((types.serialize_ros1 if ros1 else types.serialize_cdr)(message, sent.msgtype))


def write_mcap(path: Path, sent: list[Sent], *, ros1: bool = False, chunk: int = 1 << 16) -> Path:
    """An MCAP file as ROS's recorders write it."""
    from mcap.writer import Writer

    path.parent.mkdir(parents=True, exist_ok=True)
    types = ROS1 if ros1 else ROS2
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=chunk)
        writer.start(profile="ros1" if ros1 else "ros2")
        channels: dict[str, int] = {}
        for message in in_order(sent):
            if message.topic not in channels:
                text, _ = types.generate_msgdef(message.msgtype, ros_version=1 if ros1 else 2)
                name = message.msgtype.replace("/msg/", "/") if ros1 else message.msgtype
                schema = writer.register_schema(name, "ros1msg" if ros1 else "ros2msg", text.encode())
                channels[message.topic] = writer.register_channel(message.topic, "ros1" if ros1 else "cdr", schema)
            log = nanoseconds(message.log)
            writer.add_message(channels[message.topic], log, encode(message, ros1), log)
        writer.finish()
    return path


def write_json_mcap(path: Path, sent: list[tuple[str, float, dict[str, Any]]], schema: str) -> Path:
    """An MCAP file of JSON, as web tools write it: (topic, seconds, message)."""
    from mcap.writer import Writer

    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        schemas = writer.register_schema(schema, "jsonschema", b"{}")
        channels: dict[str, int] = {}
        for topic, t, message in sent:
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "json", schemas)
            writer.add_message(channels[topic], nanoseconds(t), json.dumps(message).encode(), nanoseconds(t))
        writer.finish()
    return path


def write_ros2(path: Path, sent: list[Sent], *, mcap: bool = False) -> Path:
    """A ROS 2 bag: a folder."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3) as writer:
        _write(writer, sent, ROS2, ros1=False)
    return path


def write_ros1(path: Path, sent: list[Sent]) -> Path:
    """A ROS 1 bag: a file."""
    from rosbags.rosbag1 import Writer

    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path) as writer:
        _write(writer, sent, ROS1, ros1=True)
    return path


def _write(writer: Any, sent: list[Sent], types: Any, *, ros1: bool) -> None:
    connections: dict[str, Any] = {}
    for message in in_order(sent):
        if message.topic not in connections:
            connections[message.topic] = writer.add_connection(message.topic, message.msgtype, typestore=types)
        writer.write(connections[message.topic], nanoseconds(message.log), encode(message, ros1))


#: The kinds of bag, by name: what is written where for an episode of the name given.
BAGS: dict[str, Callable[[Path, str, list[Sent]], Path]] = {
    "mcap": lambda folder, name, sent: write_mcap(folder / f"{name}.mcap", sent),
    "mcap of ros1": lambda folder, name, sent: write_mcap(folder / f"{name}.mcap", sent, ros1=True),
    "ros1": lambda folder, name, sent: write_ros1(folder / f"{name}.bag", sent),
    "ros2": lambda folder, name, sent: write_ros2(folder / name, sent),
    "ros2 mcap": lambda folder, name, sent: write_ros2(folder / name, sent, mcap=True),
}


def write_replay_buffer(path: Path, lengths: tuple[int, ...] = (9, 12), **arrays: np.ndarray) -> Path:
    """A replay buffer as diffusion policy writes it (zarr, format 2), in a folder; ``arrays`` replace what it holds."""
    import zarr

    total = sum(lengths)
    where = [(episode, t) for episode, length in enumerate(lengths) for t in range(length)]
    held = {
        "img": np.stack([picture(e, t) for e, t in where]).astype(np.float32),
        "state": np.stack([np.array([e, t, 0.5]) for e, t in where]).astype(np.float32),
        "action": np.arange(2 * total, dtype=np.float32).reshape(total, 2),
        "n_contacts": np.zeros((total, 1), np.float32),
        **arrays,
    }
    root = zarr.open_group(path, mode="w", zarr_format=2)
    for name, values in held.items():
        chunks = (4, *values.shape[1:]) if values.ndim == 4 else values.shape
        root.create_array(f"data/{name}", shape=values.shape, dtype=values.dtype, chunks=chunks)[:] = values
    ends = np.cumsum(lengths)
    root.create_array("meta/episode_ends", shape=ends.shape, dtype=ends.dtype)[:] = ends
    return path


def write_umi(path: Path, lengths: tuple[int, ...] = (9, 12)) -> Path:
    """A set as UMI publishes it: a zip, a JPEG XL picture a chunk, poses by name, no action."""
    import zarr
    from imagecodecs.numcodecs import Jpegxl, register_codecs

    register_codecs(verbose=False)
    total = sum(lengths)
    shots = np.stack([picture(e, t) for e, length in enumerate(lengths) for t in range(length)])
    store = zarr.storage.ZipStore(path, mode="w")
    root = zarr.open_group(store, mode="w", zarr_format=2)
    made = root.create_array(
        "data/camera0_rgb",
        shape=shots.shape,
        dtype=shots.dtype,
        chunks=(1, *shots.shape[1:]),
        compressors=Jpegxl(level=95, numthreads=1),
    )
    made[:] = shots
    held = {
        "robot0_demo_end_pose": np.zeros((total, 6)),
        "robot0_eef_pos": np.tile(np.arange(total)[:, None], (1, 3)).astype(np.float64),
        "robot0_eef_rot_axis_angle": np.ones((total, 3)),
        "robot0_gripper_width": np.full((total, 1), 0.08),
    }
    for name, values in held.items():
        root.create_array(f"data/{name}", shape=values.shape, dtype=values.dtype)[:] = values
    ends = np.cumsum(lengths)
    root.create_array("meta/episode_ends", shape=ends.shape, dtype=ends.dtype)[:] = ends
    store.close()
    return path


def write_robomimic(path: Path, lengths: tuple[int, ...] = (9, 12), *, rewards: bool = True) -> Path:
    """Demonstrations as robomimic writes them; the second one succeeds."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "env_kwargs": {"control_freq": 20}}
        )
        for number, length in enumerate(lengths):
            demo = file.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = length
            demo["actions"] = np.arange(7.0 * length).reshape(length, 7)
            won = np.zeros(length)
            won[-1] = number == 1 and rewards
            demo["rewards"] = won
            demo["obs/agentview_image"] = np.stack([picture(number, t) for t in range(length)])
            demo["obs/robot0_eef_pos"] = np.full((length, 3), number + 0.25)
            demo["obs/robot0_eef_quat"] = np.tile([0, 0, 0, 1.0], (length, 1))
            demo["obs/robot0_gripper_qpos"] = np.zeros((length, 2))
            demo["obs/object"] = np.zeros((length, 10))
            demo["next_obs/object"] = np.zeros((length, 10))
    return path


def write_video_folder(
    root: Path, lengths: tuple[int, ...] = (9, 12), *, fps: float = 10, codec: str = "libx264", suffix: str = ".mp4"
) -> Path:
    """Episodes ``take_N.csv`` with two videos each, a picture a row."""
    for episode, length in enumerate(lengths):
        write_rows(root / f"take_{episode}.csv", length, fps)
        for number, camera in enumerate(("top", "side")):
            shots = [picture(episode, t, number) for t in range(length)]
            write_video(root / f"take_{episode}_{camera}{suffix}", shots, fps, codec)
    return root


def write_rows(path: Path, length: int, fps: float = 10, **columns: Iterable[Any]) -> Path:
    """A CSV with a timestamp, two numbers of state and an action; ``columns`` replace or add some."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held: dict[str, Any] = {
        "timestamp": [100 + i / fps for i in range(length)],
        "state.x": [0.5 * i for i in range(length)],
        "state.y": [1.0] * length,
        "action": list(range(length)),
        "note": ["-"] * length,
        **columns,
    }
    rows = zip(*held.values(), strict=True)
    path.write_text("\n".join([",".join(held), *(",".join(str(v) for v in row) for row in rows)]) + "\n")
    return path
