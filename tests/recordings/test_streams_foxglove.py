"""MCAP files of protobuf by Foxglove's own writer, and topics of encoded video, to LeRobot v3.0; and broken ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import foxglove_sets as f
import numpy as np
import pytest
import stream_sets as s
from foxglove import messages
from recording_sets import igrft_json, info_json, open_in_lerobot, picture, rows, shown
from rosbags.typesys import get_types_from_msg

from igrft.errors import IgrftError
from igrft.recordings.convert import ConvertResult, convert

CAMERA = "observation.images.cam"
VIDEO = f"features: {{{CAMERA}: /cam}}"


def run(source: Path, target: Path, mapping: str, **options: Any) -> ConvertResult:
    path = target.with_suffix(".yaml")
    path.write_text(mapping)
    return convert(source, target, progress=False, mapping=path, **{"task": s.TASK, **options})


def near(item: dict[str, Any], camera: str, expected: np.ndarray) -> bool:
    return bool(np.abs(shown(item, camera).astype(int) - expected)[4:-4:8, 16:].max() < 20)


def shots(count: int, episode: int = 0) -> list[np.ndarray]:
    return [picture(episode, t) for t in range(count)]


def filmed(path: Path, packets: list[bytes], form: str = "h264") -> Path:
    """A file with one camera at ten pictures a second."""
    return f.write_foxglove(path, [f.video("/cam", t / 10, data, form) for t, data in enumerate(packets)])


def test_foxgloves_schemas(tmp_path: Path) -> None:
    """Every kind of picture, joints by name and a pose, each by the time at which it was made."""
    logged: list[f.Logged] = []
    for frame, packet in enumerate(f.packets(shots(10))):
        t = frame / 10
        logged.append(f.compressed("/head", t, picture(0, frame)))
        logged.append(f.raw("/wrist", t + 0.01, picture(0, frame, 1)))
        logged.append(f.video("/side", t + 0.02, packet))
    for i in range(56):
        t = i / 50
        logged.append(f.joints("/joints", t, b=2 * t - 1, unused=None, a=t))
        logged.append(f.joints("/gripper", t, left=t, right=-t))
        logged.append(f.pose("/pose", t, (t, 0, 1), s.orientation_at(t)))
    f.write_foxglove(tmp_path / "in/a.mcap", logged)
    result = run(
        tmp_path / "in",
        tmp_path / "out",
        """
        features:
          observation.images.head: /head
          observation.images.wrist: /wrist
          observation.images.side: /side
          observation.state:
            - {stream: /joints, joints: [a, b]}
            - {stream: /gripper}
            - {stream: /pose, field: pose.position}
            - {stream: /pose, field: pose.orientation, align: quaternion, names: [x, y, z, w]}
          action: {stream: /gripper, field: joints.0.position}
        """,
    )
    assert (result.episodes, result.frames, result.set_aside) == (1, 10, {})
    info = info_json(tmp_path / "out")
    assert info["features"]["observation.state"]["names"][:4] == ["a", "b", "left", "right"]
    table = rows(tmp_path / "out")
    t = np.arange(10) / 10
    expected = np.stack([t, 2 * t - 1, t, -t, t, 0 * t, 0 * t + 1, 0 * t, 0 * t, np.sin(t / 2), np.cos(t / 2)], axis=1)
    np.testing.assert_allclose(np.stack(table["observation.state"].to_pylist()), expected, atol=1e-6)
    np.testing.assert_allclose(table["action"].to_pylist(), t, atol=1e-6)
    dataset = open_in_lerobot(tmp_path / "out")
    for frame in (0, 9):
        assert near(dataset[frame], "observation.images.head", picture(0, frame))
        assert near(dataset[frame], "observation.images.wrist", picture(0, frame, 1))
        assert near(dataset[frame], "observation.images.side", picture(0, frame))
    skew = igrft_json(tmp_path / "out")["alignment"]["0"]["skew"]
    assert (skew["/wrist"]["mean"], skew["/side"]["mean"], skew["/pose.pose.position"]["max"]) == (0.01, 0.02, 0)


@pytest.mark.parametrize("form", f.ENCODERS)
def test_encoded_video(tmp_path: Path, form: str) -> None:
    """All pictures, and every other one."""
    filmed(tmp_path / "a.mcap", f.packets(shots(21), form), form)
    for fps, step in ((10, 1), (5, 2)):
        result = run(tmp_path / "a.mcap", tmp_path / f"out{fps}", VIDEO, fps=fps)
        assert (result.frames, result.set_aside) == (20 // step + 1, {})
        dataset = open_in_lerobot(tmp_path / f"out{fps}")
        for row in range(0, 20 // step + 1, 5):
            assert near(dataset[row], CAMERA, picture(0, step * row))


def test_a_recording_that_begins_amid_a_video(tmp_path: Path) -> None:
    """What comes before the first key picture cannot be seen; episodes cut out are decoded from the key before them."""
    packets = f.packets(shots(40), gop=10)
    logged = [f.video("/cam", t / 10, data) for t, data in enumerate(packets) if t >= 4]
    logged += [("/go", t / 10, messages.JointState(name="go", position=float(23 <= t <= 35))) for t in range(41)]
    f.write_foxglove(tmp_path / "a.mcap", logged)
    result = run(tmp_path / "a.mcap", tmp_path / "all", VIDEO)
    assert result.frames == 30 and result.warnings == []
    assert near(open_in_lerobot(tmp_path / "all")[0], CAMERA, picture(0, 10))
    result = run(tmp_path / "a.mcap", tmp_path / "cut", f"{VIDEO}\nepisodes: {{by: marker, stream: /go}}")
    assert result.episodes == 1 and result.set_aside == {}
    assert near(open_in_lerobot(tmp_path / "cut")[0], CAMERA, picture(0, 23))


@pytest.mark.parametrize("kind", ["ros1", "ros2", "ros2 mcap", "mcap", "mcap of ros1"])
def test_video_of_foxglove_in_ros(tmp_path: Path, kind: str) -> None:
    """Stamps are read from the message, which has no header."""
    sent = s.video_messages("/cam", f.packets(shots(10)), delay=0.03)
    s.BAGS[kind](tmp_path / "in", "a", sent)
    result = run(tmp_path / "in", tmp_path / "out", f"{VIDEO}\nclock: {CAMERA}")
    assert (result.frames, result.set_aside) == (10, {})
    assert near(open_in_lerobot(tmp_path / "out")[9], CAMERA, picture(0, 9))


def test_a_ros2_bag_without_definitions(tmp_path: Path) -> None:
    """As SQLite's were up to ROS 2 Humble: Foxglove's video is known, a message of one's own is said to be unknown."""
    s.ROS2.register(get_types_from_msg("std_msgs/Header header\nfloat64[] q\n", "own_msgs/msg/Arm"))
    sent = s.video_messages("/cam", f.packets(shots(10)), delay=0.03)
    sent += [s.Sent("/arm", "own_msgs/msg/Arm", t / 10, t / 10, {"q": np.array([1.0])}) for t in range(10)]
    bag = s.write_ros2(tmp_path / "a", sent)
    with closing(sqlite3.connect(next(bag.glob("*.db3")))) as database, database:
        database.execute("drop table message_definitions")
        database.execute("update schema set schema_version = 3")
    told = bag / "metadata.yaml"
    told.write_text(told.read_text().replace("version: 9", "version: 5"))
    result = run(bag, tmp_path / "out", VIDEO)
    assert result.frames == 10 and near(open_in_lerobot(tmp_path / "out")[9], CAMERA, picture(0, 9))
    with pytest.raises(IgrftError, match=r"a carries no definition of own_msgs/msg/Arm, which /arm holds; add it with"):
        run(bag, tmp_path / "never", f"features: {{{CAMERA}: /cam, action: /arm}}")


def test_broken_videos(tmp_path: Path) -> None:
    good = f.packets(shots(30))
    torn = [*good[:12], good[12][: len(good[12]) // 2] + b"\x00" * 40, *good[13:]]
    ordered = {"x264-params": "b-adapt=0:bframes=2:scenecut=0", "tune": "film", "preset": "fast"}
    cases: dict[str, tuple[list[bytes], str, str]] = {
        "none": ([data for i, data in enumerate(good) if i % 5], "h264", "/cam holds no key picture"),
        "form": (good, "mjpeg", "/cam holds video of format 'mjpeg', which is not decoded (known: h264"),
        "order": (f.packets(shots(30), gop=30, **ordered), "h264", "(lost, or the video has B frames)"),
        "torn": (torn, "h264", f"{CAMERA}: /cam "),
        "text": ([*good[:7], b"no video", *good[8:]], "h264", f"{CAMERA}: /cam "),
        "other": (good, "h265", "/cam holds no key picture"),
    }
    filmed(tmp_path / "in/good.mcap", good)
    for name, (packets, form, _) in cases.items():
        filmed(tmp_path / f"in/{name}.mcap", packets, form)
    result = run(tmp_path / "in", tmp_path / "out", VIDEO, fps=10)
    assert result.episodes == 1
    for name, (_, _, reason) in cases.items():
        found = result.set_aside.get(f"{name}.mcap", "nothing")
        assert reason in found and "\n" not in found and str(tmp_path) not in found, (name, found)


def test_flipped_bytes_in_a_video_never_crash(tmp_path: Path) -> None:
    """ROS 1's bags have no checksums: damage is found by the decoder, or is a picture that looks wrong."""
    rng = np.random.default_rng(0)
    packets = f.packets(shots(10))
    s.write_ros1(tmp_path / "in/a.bag", s.video_messages("/cam", packets, delay=0.0))
    for number in range(12):
        damaged = list(packets)
        torn = bytearray(packets[at := int(rng.integers(10))])
        where = int(rng.integers(4, len(torn)))
        torn[where : where + 6] = rng.integers(0, 256, len(torn[where : where + 6]), np.uint8).tobytes()
        damaged[at] = bytes(torn) if number else b""
        s.write_ros1(tmp_path / f"in/b_{number}.bag", s.video_messages("/cam", damaged, delay=0.0))
    result = run(tmp_path / "in", tmp_path / "out", VIDEO, fps=10)
    assert result.episodes + len(result.set_aside) == 13 and "b_0.bag" in result.set_aside
    for reason in result.set_aside.values():
        assert "\n" not in reason and str(tmp_path) not in reason


MISSING: dict[str, tuple[Callable[[float], f.Logged], str, str]] = {
    "position": (lambda t: f.joints("/x", t, a=None), "/x", "/x holds NaN or infinity at sample 0"),
    "joint": (lambda t: f.joints("/x", t, a=1.0), "{stream: /x, joints: [b]}", "/x has no joint 'b' (known: a)"),
    "pose": (
        lambda t: ("/x", t, messages.PoseInFrame(timestamp=f.stamp(t))),
        "/x",
        "/x has nothing in its field 'pose'",
    ),
    "field": (
        lambda t: f.joints("/x", t, a=1.0),
        "{stream: /x, field: joint}",
        "/x has no field 'joint' (known: timestamp, joints)",
    ),
    "text": (
        lambda t: ("/x", t, messages.Log(message="a")),
        "{stream: /x, field: message}",
        "/x holds str where numbers",
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_numbers_that_are_not_there(tmp_path: Path, name: str) -> None:
    make, spec, reason = MISSING[name]
    f.write_foxglove(tmp_path / "a.mcap", [make(t / 10) for t in range(10)])
    with pytest.raises(IgrftError) as error:
        run(tmp_path / "a.mcap", tmp_path / "out", f"features: {{action: {spec}}}")
    assert reason in str(error.value)


def test_messages_of_ones_own(tmp_path: Path) -> None:
    """Protobuf of another schema: a header as in ROS, numbers by their field."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from mcap_protobuf.writer import Writer

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="own.proto", package="own", syntax="proto3")
    for name, fields in {
        "Time": (("sec", field.TYPE_INT32, ""), ("nanosec", field.TYPE_UINT32, "")),
        "Header": (("stamp", field.TYPE_MESSAGE, ".own.Time"), ("frame_id", field.TYPE_STRING, "")),
        "Arm": (
            ("header", field.TYPE_MESSAGE, ".own.Header"),
            ("q", field.TYPE_DOUBLE, ""),
            ("on", field.TYPE_BOOL, ""),
        ),
    }.items():
        made = file.message_type.add(name=name)
        for number, (called, kind, what) in enumerate(fields, start=1):
            label = field.LABEL_REPEATED if called == "q" else field.LABEL_OPTIONAL
            made.field.add(name=called, number=number, type=kind, type_name=what or None, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    arm = message_factory.GetMessageClass(pool.FindMessageTypeByName("own.Arm"))
    with (tmp_path / "a.mcap").open("wb") as out, Writer(out) as writer:
        for i in range(20):
            message = arm(header={"stamp": {"sec": 5, "nanosec": i * 50_000_000}}, q=[i, -i], on=i > 9)
            writer.write_message("/arm", message, log_time=s.nanoseconds(i / 20 + 0.01 * (i % 3)))
    result = run(
        tmp_path / "a.mcap", tmp_path / "out", "features: {action: /arm, observation.state: {stream: /arm, field: q}}"
    )
    assert (result.frames, info_json(tmp_path / "out")["fps"]) == (20, 20)
    table = rows(tmp_path / "out")
    assert table["action"].to_pylist()[12] == [12, -12, 1] and table["observation.state"].to_pylist()[3] == [3, -3]


def test_joints_in_json(tmp_path: Path) -> None:
    held = [
        (
            "/joints",
            t / 10,
            {"timestamp": {"sec": 5, "nsec": t * 100_000_000}, "joints": [{"name": "a", "position": t}]},
        )
        for t in range(10)
    ]
    s.write_json_mcap(tmp_path / "a.mcap", held, "foxglove.JointStates")
    run(tmp_path / "a.mcap", tmp_path / "out", "features: {action: /joints}")
    assert rows(tmp_path / "out")["action"].to_pylist() == list(range(10))
    assert info_json(tmp_path / "out")["features"]["action"]["names"] == ["a"]
