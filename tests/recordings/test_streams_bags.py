"""Bags of every kind, written by their own writers, to LeRobot v3.0; and broken ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stream_sets as s
from recording_sets import igrft_json, info_json, open_in_lerobot, picture, row_groups, rows, shown, stats_json
from recording_sets import tree_digest as digest

from igrft.errors import IgrftError, UsageError
from igrft.recordings.convert import ConvertResult, convert

Edit = Callable[[list[s.Sent]], list[s.Sent]]


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "mapping.yaml"
    path.write_text(s.MAPPING)
    return path


def run(source: Path, target: Path, mapping: Path | str | None, **options: Any) -> ConvertResult:
    before = digest(source) if source.is_dir() else {source.name: source.read_bytes()}
    try:
        return convert(source, target, progress=False, mapping=mapping, **{"task": s.TASK, **options})
    finally:
        assert before == (digest(source) if source.is_dir() else {source.name: source.read_bytes()})


def near(item: dict[str, Any], camera: str, expected: np.ndarray) -> bool:
    return bool(np.abs(shown(item, camera).astype(int) - expected)[4:-4:8, 16:].max() < 20)


@pytest.mark.parametrize("kind", s.BAGS)
def test_a_bag_of_every_kind(tmp_path: Path, mapping: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Two episodes: pictures by nearest, joints by interpolation, orientation on the sphere, commands by nearest."""
    source = tmp_path / "bags"
    for episode, name in enumerate(("take_2", "take_10")):
        s.BAGS[kind](source, name, s.messages(episode, 1.0 if episode else 1.2))
    result = run(source, tmp_path / "out", mapping)

    assert result.set_aside == {}
    assert (result.episodes, result.frames) == (2, 22)
    assert result.format == ("mcap" if kind.startswith("mcap") else "rosbag")
    assert [Path(n).stem for n in igrft_json(tmp_path / "out")["episode_map"].values()] == ["take_2", "take_10"]
    info = info_json(tmp_path / "out")
    assert info["fps"] == 10
    assert info["features"]["observation.state"]["names"] == ["a", "b", "c", "x", "y", "z", "w"]
    assert info["features"]["action"]["names"] == ["command_0", "command_1"]
    assert info["features"][s.HEAD]["info"]["video.codec"] == "h264"
    assert row_groups(tmp_path / "out") == [12, 10]
    table = rows(tmp_path / "out")
    t = np.arange(10) / 10
    state = np.stack(table["observation.state"].to_pylist())[12:]
    np.testing.assert_allclose(state[:, :3], [s.state_at(x) for x in t], atol=1e-6)
    np.testing.assert_allclose(state[:, 3:], [s.orientation_at(x) for x in t], atol=1e-6)
    np.testing.assert_array_equal(np.stack(table["action"].to_pylist())[12:, 0], 2 * np.arange(10))
    dataset = open_in_lerobot(tmp_path / "out")
    for episode, first, length in ((0, 0, 12), (1, 12, 10)):
        for frame in (0, length - 1):
            assert near(dataset[first + frame], s.HEAD, picture(episode, frame, 0))
            assert near(dataset[first + frame], s.WRIST, picture(episode, frame, 1))
    red, _, blue = shown(dataset[0], s.HEAD)[24, 2].astype(int)
    assert red - blue > 100
    assert capfd.readouterr().err == ""


def test_what_is_kept_of_the_alignment(tmp_path: Path, mapping: Path) -> None:
    """Skew by stream and frame, its statistics, and statistics of pictures as LeRobot takes them."""
    source = s.write_mcap(tmp_path / "demo.mcap", s.messages())
    run(source, tmp_path / "out", mapping)
    facts = igrft_json(tmp_path / "out")["alignment"]["0"]
    assert (facts["clock"], facts["rate"]) == ("/head/compressed", 10.0)
    wrist = facts["skew"]["/wrist/image"]
    assert (wrist["align"], wrist["rate"], wrist["mean"], wrist["over_half_a_row"]) == ("nearest", 10.0, 0.02, 0)
    assert facts["skew"]["/pose.pose.orientation"]["max"] == 0
    skew = pq.read_table(tmp_path / "out/meta/igrft_skew.parquet")
    assert skew.column_names[:2] == ["episode_index", "frame_index"]
    np.testing.assert_allclose(skew["/wrist/image"].to_numpy(), 0.02, atol=1e-6)
    stats = stats_json(tmp_path / "out")[s.HEAD]
    assert stats["count"] == [10] and np.shape(stats["q99"]) == (3, 1, 1)
    assert 0 < stats["mean"][0][0][0] < 1


def test_validate_and_inspect_take_it(tmp_path: Path, mapping: Path) -> None:
    from igrft.reports.validate import validate

    run(s.write_mcap(tmp_path / "demo.mcap", s.messages()), tmp_path / "out", mapping)
    found = validate(tmp_path / "out")
    assert [f for f in found.findings if f.level == "error"] == []


def test_raw_messages_of_json(tmp_path: Path) -> None:
    """Foxglove's JSON: pictures as base64, stamps in the message."""
    import base64

    sent = []
    for frame in range(10):
        stamp = {"sec": 5, "nsec": frame * 100_000_000}
        data = base64.b64encode(bytes(s.jpeg(picture(0, frame)))).decode()
        sent.append(("/cam", frame / 10 + 0.3, {"timestamp": stamp, "format": "jpeg", "data": data}))
    source = s.write_json_mcap(tmp_path / "demo.mcap", sent, "foxglove.CompressedImage")
    (tmp_path / "m.yaml").write_text(f"features: {{{s.HEAD}: /cam}}")
    result = run(source, tmp_path / "out", tmp_path / "m.yaml")
    assert (result.episodes, result.frames) == (1, 10)
    assert near(open_in_lerobot(tmp_path / "out")[9], s.HEAD, picture(0, 9))


def without(*topics: str) -> Edit:
    return lambda sent: [m for m in sent if m.topic not in topics]


def shifted(topic: str, after: float, by: float) -> Edit:
    def edit(sent: list[s.Sent]) -> list[s.Sent]:
        for message in sent:
            if message.topic == topic and message.made >= after:
                message.made += by
        return sent

    return edit


def until(topic: str, end: float) -> Edit:
    return lambda sent: [m for m in sent if m.topic != topic or m.made < end]


def change(topic: str, number: int, **fields: Any) -> Edit:
    def edit(sent: list[s.Sent]) -> list[s.Sent]:
        [m for m in sent if m.topic == topic][number].fields.update(fields)
        return sent

    return edit


def replaced(topic: str, make: Callable[[float], s.Sent]) -> Edit:
    return lambda sent: [make(m.made) if m.topic == topic else m for m in sent]


BROKEN: dict[str, tuple[Edit, str]] = {
    "missing topic": (without("/joints"), "it has no message in /joints"),
    "missing clock": (without("/head/compressed"), "it has no message in /head/compressed"),
    "pictures where numbers are expected": (
        replaced("/joints", lambda t: s.raw("/joints", t, picture(0, 0))),
        "/joints holds sensor_msgs/msg/Image, where numbers are expected",
    ),
    "numbers where pictures are expected": (
        replaced("/wrist/image", lambda t: s.array("/wrist/image", t, [1])),
        "/wrist/image holds std_msgs/msg/Float64MultiArray, which is no picture",
    ),
    "no such field": (
        replaced("/pose", lambda t: s.joints("/pose", t, [0, 0, 0, 1])),
        "/pose has no field 'pose' (known: header, name, position",
    ),
    "clock jumps back": (shifted("/head/compressed", 0.5, -5), "the clock of /head/compressed jumps back by 4.9"),
    "a stream's clock jumps back": (shifted("/joints", 0.5, -5), "the clock of /joints jumps back by"),
    "one stream stops early": (until("/joints", 1.1), "/joints stops 1.8"),
    "another clock": (shifted("/wrist/image", 0.0, 50.0), "/wrist/image begins 50.02 s after the clock"),
    "a gap in the clock": (
        lambda sent: [m for m in sent if m.topic != "/head/compressed" or not 0.95 < m.made < 1.65],
        "its clock stops for 0.80 s after row 9",
    ),
    "a gap in another stream": (
        lambda sent: [m for m in sent if m.topic != "/wrist/image" or not 0.95 < m.made < 1.65],
        "above max_skew 0.1 s",
    ),
    "joints come and go": (change("/joints", 7, position=np.zeros(2)), "/joints has 2 numbers where it had 3"),
    "nan": (change("/joints", 7, position=np.full(3, np.nan)), "/joints holds NaN or infinity at sample 7"),
    "zero quaternion": (
        change("/pose", 5, pose={"position": dict.fromkeys("xyz", 0.0), "orientation": dict.fromkeys("xyzw", 0.0)}),
        "/pose.pose.orientation: a quaternion is all zeros",
    ),
    "no jpeg": (
        change("/head/compressed", 4, data=np.zeros(9, np.uint8)),
        f"{s.HEAD}: /head/compressed holds bytes that are no picture (format 'jpeg') at message 4",
    ),
    "depth": (
        change("/wrist/image", 0, encoding="16UC1"),
        "/wrist/image holds depth (16UC1), which is not converted: labels and policies look at colours; leave it out",
    ),
    "compressed depth": (
        change("/head/compressed", 0, format="16UC1; compressedDepth png"),
        "/head/compressed holds depth (16UC1; compressedDepth png), which is not converted",
    ),
    "depth that says it is a png": (
        change(
            "/head/compressed", 0, format="png", data=cv2.imencode(".png", np.zeros((48, 64), np.uint16))[1].ravel()
        ),
        "/head/compressed holds depth (png), which is not converted",
    ),
    "an encoding that nobody knows": (
        change("/wrist/image", 2, encoding="yuv9"),
        "/wrist/image holds yuv9 pictures, which are not decoded (known: rgb8",
    ),
    "size changes": (
        change("/head/compressed", 6, data=s.jpeg(np.zeros((32, 32, 3), np.uint8))),
        f"{s.HEAD}: its pictures change their size at row 6",
    ),
    "odd size": (
        lambda sent: [
            s.compressed(m.topic, m.made, np.zeros((33, 32, 3), np.uint8)) if m.topic == "/head/compressed" else m
            for m in sent
        ],
        "odd sizes cannot be encoded",
    ),
    "raw picture cut short": (
        change("/wrist/image", 2, data=np.zeros(100, np.uint8)),
        "/wrist/image holds 100 bytes where 64x48 rgb8 takes 9216 at message 2",
    ),
}


def test_broken_bags_are_set_aside(tmp_path: Path, mapping: Path) -> None:
    """All at once among good ones: each bad one has its reason, the good ones are converted."""
    source = tmp_path / "bags"
    s.write_mcap(source / "good_0.mcap", s.messages(0, 3))
    expected = {}
    for number, (edit, reason) in enumerate(BROKEN.values()):
        expected[f"take_{number}.mcap"] = reason
        s.write_mcap(source / f"take_{number}.mcap", edit(s.messages(1, 3)))
    s.write_mcap(source / "z_good_99.mcap", s.messages(2, 3))
    result = run(source, tmp_path / "out", mapping, fps=10)
    for name, reason in expected.items():
        assert reason in result.set_aside.get(name, "nothing"), name
        assert str(tmp_path) not in result.set_aside[name]
    assert set(result.set_aside) == set(expected)
    assert result.episodes == 2
    dataset = open_in_lerobot(tmp_path / "out")
    assert near(dataset[29], s.HEAD, picture(0, 29))
    assert near(dataset[59], s.HEAD, picture(2, 29))


@pytest.mark.parametrize("kind", s.BAGS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_bags(tmp_path: Path, mapping: Path, kind: str, share: float) -> None:
    """Cut anywhere, a bag is set aside with one line that names it."""
    source = tmp_path / "bags"
    s.BAGS[kind](source, "a_0", s.messages(0))
    bad = s.BAGS[kind](source, "b_1", s.messages(1))
    file = bad if bad.is_file() else next(p for p in bad.iterdir() if p.suffix != ".yaml")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    result = run(source, tmp_path / "out", mapping)
    assert list(result.set_aside) == [bad.name]
    reason = result.set_aside[bad.name]
    assert "\n" not in reason and str(tmp_path) not in reason and result.episodes == 1


@pytest.mark.parametrize("kind", ["mcap", "ros1"])
def test_flipped_bytes_never_pass_unseen_or_crash(tmp_path: Path, mapping: Path, kind: str) -> None:
    """Damage in the middle: set aside, or (in a bag without checksums) at worst another value; never a traceback."""
    source = tmp_path / "bags"
    s.BAGS[kind](source, "a_0", s.messages(0))
    rng = np.random.default_rng(0)
    for number in range(1, 9):
        path = s.BAGS[kind](source, f"b_{number}", s.messages(0))
        data = bytearray(path.read_bytes())
        at = int(rng.integers(len(data) // 10, len(data)))
        data[at : at + 16] = rng.integers(0, 256, 16, np.uint8).tobytes()
        path.write_bytes(bytes(data))
    result = run(source, tmp_path / "out", mapping)
    assert result.episodes + len(result.set_aside) == 9
    for reason in result.set_aside.values():
        assert "\n" not in reason and str(tmp_path) not in reason


def test_no_bag_left(tmp_path: Path, mapping: Path) -> None:
    path = tmp_path / "demo.mcap"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(IgrftError, match=r"none of 1 episodes can be converted; demo.mcap: demo.mcap cannot be read"):
        run(path, tmp_path / "out", mapping)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.staging").exists()


def test_without_a_mapping_the_topics_are_listed(tmp_path: Path) -> None:
    path = s.write_mcap(tmp_path / "demo.mcap", s.messages())
    with pytest.raises(
        UsageError, match=r"give --mapping FILE.yaml; found /command \(std_msgs/msg/Float64MultiArray\)"
    ):
        run(path, tmp_path / "out", None)
    s.write_mcap(path, [s.joints("/hdas/feedback_arm_left", 0, [1])])
    with pytest.raises(UsageError, match=r"give --mapping galaxea; found /hdas/feedback_arm_left"):
        run(path, tmp_path / "out", None)


def test_without_a_task(tmp_path: Path, mapping: Path) -> None:
    path = s.write_mcap(tmp_path / "demo.mcap", s.messages())
    with pytest.raises(UsageError, match=r"demo.mcap does not say what its task is; give --task"):
        run(path, tmp_path / "out", mapping, task=None)


def test_warnings_of_skew_drops_and_thinning(tmp_path: Path, mapping: Path) -> None:
    sent = [m for m in s.messages(0, 3) if m.topic != "/wrist/image" or round((m.made - 0.02) * 10) % 2 == 0]
    sent = [m for m in sent if m.topic != "/head/compressed" or not 0.95 < m.made < 1.15]
    result = run(s.write_mcap(tmp_path / "a.mcap", sent), tmp_path / "out", mapping)
    assert any(
        w.startswith("/wrist/image is off by more than half a row (50.0 ms) in ") and "a.mcap" in w
        for w in result.warnings
    )
    assert "the clock dropped 2 rows in a.mcap; time jumps there" in result.warnings
    assert igrft_json(tmp_path / "out")["alignment"]["0"]["gaps"] == [[9, 0.3]]
    result = run(tmp_path / "a.mcap", tmp_path / "half", mapping, fps=5)
    assert any("the clock runs at 10.0 a second, thinned to 5" in w for w in result.warnings)


def test_a_header_that_nobody_set(tmp_path: Path, mapping: Path) -> None:
    """Stamps of zero: what counts is when messages were written."""
    sent = s.messages()
    for message in sent:
        message.made = -s.START / 1e9
    result = run(s.write_mcap(tmp_path / "a.mcap", sent), tmp_path / "out", mapping)
    assert (result.episodes, result.frames) == (1, 10)
    skew = igrft_json(tmp_path / "out")["alignment"]["0"]["skew"]
    # Written 10 ms and 12 ms after they were made, the one made 20 ms later.
    assert skew["/wrist/image"]["mean"] == pytest.approx(0.022, abs=1e-5)


EXTRA = """
episodes: {by: marker, stream: /recording, start: 1}
success: {stream: /success}
"""


def test_episodes_by_a_marker_and_success_by_a_field(tmp_path: Path, mapping: Path) -> None:
    sent = s.messages(0, 6)
    sent += [s.flag("/recording", t, on) for t, on in ((0.45, True), (2.05, False), (3.05, True), (5.05, False))]
    sent += [s.flag("/success", t, won) for t, won in ((2.0, False), (5.0, True))]
    mapping.write_text(s.MAPPING + EXTRA)
    result = run(s.write_mcap(tmp_path / "a.mcap", sent), tmp_path / "out", mapping)
    assert igrft_json(tmp_path / "out")["episode_map"] == {"0": "a.mcap#0", "1": "a.mcap#1"}
    assert row_groups(tmp_path / "out") == [16, 20]
    assert rows(tmp_path / "out")["next.success"].to_pylist() == [*[False] * 35, True]
    dataset = open_in_lerobot(tmp_path / "out")
    assert near(dataset[0], s.HEAD, picture(0, 5)) and near(dataset[16], s.HEAD, picture(0, 31))
    assert result.set_aside == {}


def test_episodes_by_idle_time(tmp_path: Path, mapping: Path) -> None:
    def position(t: float) -> list[float]:
        return [min(t, 2.0) + max(0.0, t - 6.0), 0, 0]

    sent = replaced("/joints", lambda t: s.joints("/joints", t, position(t)))(s.messages(0, 8))
    mapping.write_text(s.MAPPING + "\nepisodes: {by: idle, stream: /joints, seconds: 2}")
    run(s.write_mcap(tmp_path / "a.mcap", sent), tmp_path / "out", mapping)
    assert row_groups(tmp_path / "out") == [21, 20]


def test_success_by_name_and_by_table(tmp_path: Path, mapping: Path) -> None:
    source = tmp_path / "bags"
    for name in ("good_1", "bad_2"):
        s.write_mcap(source / f"{name}.mcap", s.messages())
    mapping.write_text(s.MAPPING + "\nsuccess: {pattern: '^good'}")
    run(source, tmp_path / "out", mapping)
    assert [i for i, won in enumerate(rows(tmp_path / "out")["next.success"].to_pylist()) if won] == [9]
    (tmp_path / "table.csv").write_text("episode,success\ngood_1,no\nbad_2.mcap,yes\n")
    pq.write_table(pa.table({"episode": ["good_1", "bad_2"], "success": [False, True]}), tmp_path / "table.parquet")
    for suffix in ("csv", "parquet"):
        mapping.write_text(s.MAPPING + f"\nsuccess: {{table: table.{suffix}}}")
        run(source, tmp_path / suffix, mapping)
        assert [i for i, won in enumerate(rows(tmp_path / suffix)["next.success"].to_pylist()) if won] == [19]


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished episodes are not read again, a changed file is; nothing is left when all is done."""
    kept = tmp_path / "out.staging/kept"
    from igrft.recordings.streams import episodes as module

    source = tmp_path / "bags"
    for number in range(3):
        s.write_mcap(source / f"take_{number}.mcap", s.messages(number))
    made: list[str] = []
    real = module.plan

    def plan(streams: Any, recording: Any, *rest: Any) -> Any:
        made.append(recording.name)
        if len(made) == 3:
            while len(list(kept.glob("*/done.json"))) < 2:
                time.sleep(0.01)
            raise KeyboardInterrupt
        return real(streams, recording, *rest)

    monkeypatch.setattr(module, "plan", plan)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", mapping)
    assert not (tmp_path / "out").exists() and kept.is_dir()
    assert not (tmp_path / "out.staging/work").exists()
    s.write_mcap(source / "take_1.mcap", s.messages(4))
    result = run(source, tmp_path / "out", mapping)
    assert sorted(made[:3]) == ["take_0.mcap", "take_1.mcap", "take_2.mcap"]
    assert sorted(made[3:]) == sorted(["take_1.mcap", made[2]])
    assert result.episodes == 3 and not (tmp_path / "out.staging").exists()
    dataset = open_in_lerobot(tmp_path / "out")
    assert near(dataset[10], s.HEAD, picture(4, 0)) and near(dataset[20], s.HEAD, picture(2, 0))


@pytest.mark.parametrize("arm", [6, 7])
@pytest.mark.parametrize("kind", ["ros1", "mcap"])
def test_galaxea(tmp_path: Path, kind: str, arm: int) -> None:
    """Two arms of six or seven joints, compressed head camera, raw wrist camera on the left only."""
    s.BAGS[kind](tmp_path / "bags", "a", s.galaxea_messages(arm))
    result = run(tmp_path / "bags", tmp_path / "out", "galaxea")
    assert (result.episodes, result.frames, result.set_aside) == (1, 10, {})
    assert any("wrist_right goes without" in w for w in result.warnings)
    features = info_json(tmp_path / "out")["features"]
    assert features["observation.state"]["shape"] == [2 * arm + 2] and features["action"]["shape"] == [2 * arm + 2]
    assert "observation.images.wrist_left" in features and "observation.images.wrist_right" not in features
    table = rows(tmp_path / "out")
    np.testing.assert_allclose(table["observation.state"].to_pylist()[3][:2], [0.35, 1.35], atol=1e-6)
    assert table["action"].to_pylist()[3][0] == pytest.approx(0.2)
    assert info_json(tmp_path / "out")["robot_type"] == "galaxea"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("feature: {}", "feature is unknown; did you mean 'features'"),
        ("features: {}", "features must say which stream becomes which column"),
        ("features: {action: {topic: /a}}", "features.action.topic is unknown"),
        ("features: {action: {stream: 3}}", "features.action.stream must be the name of a stream"),
        ("features: {action: {stream: /a, align: lineer}}", "features.action.align is 'lineer'; did you mean 'linear'"),
        ("features: {action: {stream: /a, select: [-1]}}", "select must be a list of whole numbers from 0"),
        ("features: {action: {next: state}, state: /a, b: {next: action}}", "b.next is 'action', which is no numbers"),
        ("features: {action: {next: stat}, state: /a}", "next is 'stat', which is no numbers; did you mean 'state'"),
        ("features: {timestamp: /a}", "features.timestamp is written by the toolkit itself"),
        ("features: {observation.images.a: [/a, /b]}", "must be one stream"),
        ("features: {action: /a}\nclock: actoin", "clock is 'actoin', which is no feature; did you mean 'action'"),
        ("features: {action: /a}\nfps: fast", "fps must be a number"),
        ("features: {action: /a}\nmax_skew: 0", "max_skew must be above 0"),
        ("features: {action: /a}\nsuccess: {pattern: '('}", "success.pattern is no regular expression"),
        ("features: {action: /a}\nsuccess: {table: none.csv}", "success.table cannot be read"),
        ("features: {action: /a}\nsuccess: {table: m.yaml}", "success.table has no episode, or success is not"),
        ("features: {action: /a}\nsuccess: {table: none.parquet}", "success.table cannot be read"),
        ("features: {action: /a}\nepisodes: {by: marker}", "episodes.stream must be the name"),
        ("features: [", "cannot be read"),
    ],
)
def test_a_mapping_that_makes_no_sense(tmp_path: Path, text: str, message: str) -> None:
    from igrft.recordings.streams.mapping import load_mapping

    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UsageError) as error:
        load_mapping(tmp_path / "m.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_mapping_where_none_is_taken(tmp_path: Path, mapping: Path, g1_small: Path) -> None:
    with pytest.raises(UsageError, match="takes no mapping"):
        convert(g1_small, tmp_path / "out", mapping=mapping, progress=False)


def test_the_command_line(tmp_path: Path, mapping: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from igrft.cli.main import run as command

    s.write_mcap(tmp_path / "bags/a.mcap", s.messages())
    words = ["convert", str(tmp_path / "bags"), str(tmp_path / "out"), "--mapping", str(mapping), "--task", "x"]
    assert command([*words, "--quiet"]) == 0
    assert capsys.readouterr().out.strip().endswith("out: 1 episode, 10 frames (from mcap)")


def test_a_dry_run_shows_the_mapping_and_writes_nothing(
    tmp_path: Path, mapping: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from igrft.cli.main import run as command

    sent = [*s.messages(), s.flag("/unused", 0.5, True)]
    s.write_mcap(tmp_path / "bags/a.mcap", sent)
    s.write_mcap(tmp_path / "bags/b.mcap", without("/joints")(s.messages()))
    before = digest(tmp_path)
    words = ["convert", str(tmp_path / "bags"), str(tmp_path / "out"), "--dry-run"]
    assert command(words) == 0
    assert "/head/compressed: sensor_msgs/msg/CompressedImage, 10 messages" in capsys.readouterr().out
    assert command([*words, "--mapping", str(mapping)]) == 1
    out, err = capsys.readouterr()
    assert "observation.images.head <- /head/compressed (nearest, 10.0 a second, the clock)" in out
    assert "observation.state <- /pose.pose.orientation (quaternion, 50.0 a second)" in out
    assert "observation.state: 7 numbers: a, b, c, x, y, z, w" in out
    assert "not mapped: /unused" in out
    assert "a.mcap: 10 rows, 1.0 s, clock at 10.00 a second" in out
    assert "worst skew of /wrist/image: 20.0 ms" in out
    assert "1 episodes, 10 frames at 10 a second; nothing was written" in out
    assert "b.mcap" in err and "it has no message in /joints" in err
    assert digest(tmp_path) == before
