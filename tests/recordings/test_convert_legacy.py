"""LeRobot v2.x sources with something missing, odd or broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recording_sets import (
    CAMERAS,
    TASK,
    data_file,
    decoded,
    igrft_json,
    info_json,
    open_in_lerobot,
    picture,
    row_groups,
    rows,
    shown,
    stats_json,
    tree_digest,
    video_file,
    write_legacy,
    write_lines,
    write_video,
)

from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.recordings.convert import ConvertResult, convert


def run(source: Path, target: Path, **options: Any) -> ConvertResult:
    before = tree_digest(source)
    try:
        return convert(source, target, progress=False, **options)
    finally:
        assert tree_digest(source) == before
        assert not target.with_name(target.name + ".staging").exists()


def without(*names: str) -> Any:
    return lambda episode, columns: {k: v for k, v in columns.items() if k not in names}


def check_episodes(target: Path, kept: list[int], lengths: list[int]) -> None:
    """The target holds the source's episodes ``kept``, numbered anew, each with its own pictures and rows."""
    table = rows(target)
    total = sum(lengths)
    assert row_groups(target) == lengths
    assert table["index"].to_pylist() == list(range(total))
    assert table["episode_index"].to_pylist() == list(np.repeat(np.arange(len(kept)), lengths))
    assert table["frame_index"].to_pylist() == [t for n in lengths for t in range(n)]
    info = info_json(target)
    assert (info["total_episodes"], info["total_frames"]) == (len(kept), total)
    dataset = open_in_lerobot(target)
    first = 0
    for source_index, length in zip(kept, lengths, strict=True):
        for number, camera in enumerate(dataset.meta.camera_keys):
            for frame in (0, length - 1):
                found = shown(dataset[first + frame], camera).astype(int)
                number = CAMERAS.index(camera)
                assert np.abs(found - picture(source_index, frame, number))[4:-4:8, 16:].max() < 14
        first += length


def test_two_cameras(toy: Path, tmp_path: Path) -> None:
    result = run(toy, tmp_path / "out")
    assert (result.format, result.episodes, result.frames, result.warnings) == ("lerobot-v2.1", 3, 36, [])
    check_episodes(tmp_path / "out", [0, 1, 2], [12, 9, 15])
    assert igrft_json(tmp_path / "out")["source"] == {"name": "toy"}
    assert "episode_map" not in igrft_json(tmp_path / "out")


def test_no_path_of_this_machine_in_the_dataset(toy: Path, tmp_path: Path) -> None:
    video_file(toy, CAMERAS[0], 1).write_bytes(b"no video")
    data_file(toy, 2).write_bytes(b"no parquet")
    run(toy, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes()


def test_camera_without_any_file_is_dropped(tmp_path: Path) -> None:
    def declare(info: dict[str, Any]) -> None:
        info["features"]["observation.images.ghost"] = {"dtype": "video", "shape": [48, 64, 3], "names": None}

    source = write_legacy(tmp_path / "toy", info=declare)
    result = run(source, tmp_path / "out")
    assert result.set_aside == {}
    assert result.warnings == ["observation.images.ghost is declared and has no file in any episode, so it is dropped"]
    assert "observation.images.ghost" not in info_json(tmp_path / "out")["features"]
    assert igrft_json(tmp_path / "out")["warnings"] == result.warnings


def test_camera_missing_in_one_episode_sets_it_aside(toy: Path, tmp_path: Path) -> None:
    video_file(toy, CAMERAS[1], 1).unlink()
    result = run(toy, tmp_path / "out")
    assert result.set_aside == {"1": "it has no video of observation.images.side, which other episodes have"}
    check_episodes(tmp_path / "out", [0, 2], [12, 15])
    assert igrft_json(tmp_path / "out")["episode_map"] == {"0": "0", "1": "2"}
    assert igrft_json(tmp_path / "out")["set_aside"] == result.set_aside
    assert info_json(tmp_path / "out")["splits"] == {"train": "0:2"}


@pytest.mark.parametrize("kept_bytes", [0, 40, 0.5, 0.9])
def test_truncated_video_sets_its_episode_aside(toy: Path, tmp_path: Path, kept_bytes: float) -> None:
    path = video_file(toy, CAMERAS[0], 0)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept_bytes if kept_bytes >= 1 else kept_bytes * len(whole))])
    result = run(toy, tmp_path / "out")
    assert list(result.set_aside) == ["0"]
    assert "observation.images.top: " in result.set_aside["0"]
    assert "episode_000000.mp4" in result.set_aside["0"]
    check_episodes(tmp_path / "out", [1, 2], [9, 15])


def test_truncated_after_its_index_sets_its_episode_aside(g1_small: Path, tmp_path: Path) -> None:
    """A real file whose index stands in front, cut in the middle of its pictures: it opens, and ends early."""
    import shutil

    source = tmp_path / "g1"
    shutil.copytree(g1_small, source)
    path = video_file(source, "observation.images.cam_high", 1)
    path.write_bytes(path.read_bytes()[:500_000])
    result = run(source, tmp_path / "out")
    assert list(result.set_aside) == ["1"]
    assert result.frames == 120


def test_bytes_damaged_inside_a_video_set_its_episode_aside(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "toy", cameras=CAMERAS[:1])
    path = video_file(source, CAMERAS[0], 2)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat")
    data[at + 900 : at + 1000] = b"\xff" * 100
    path.write_bytes(bytes(data))
    result = run(source, tmp_path / "out")
    assert list(result.set_aside) == ["2"]
    assert "episode_000002.mp4" in result.set_aside["2"]
    assert str(tmp_path) not in result.set_aside["2"]
    assert str(tmp_path) not in (tmp_path / "out/meta/igrft.json").read_text()


def test_video_shorter_than_rows(toy: Path, tmp_path: Path) -> None:
    write_video(video_file(toy, CAMERAS[0], 1), [picture(1, t) for t in range(7)])
    result = run(toy, tmp_path / "out")
    assert result.set_aside == {"1": "observation.images.top: its video has 7 frames for 9 rows"}
    check_episodes(tmp_path / "out", [0, 2], [12, 15])


def test_video_longer_than_rows_shifts_nothing(toy: Path, tmp_path: Path) -> None:
    write_video(video_file(toy, CAMERAS[0], 0), [picture(0, t) for t in range(17)])
    result = run(toy, tmp_path / "out")
    assert result.set_aside == {}
    assert "up to 5 pictures more than rows" in result.warnings[0]
    check_episodes(tmp_path / "out", [0, 1, 2], [12, 9, 15])


def test_video_of_another_size_cannot_be_joined(toy: Path, tmp_path: Path) -> None:
    write_video(video_file(toy, CAMERAS[0], 2), [np.zeros((32, 32, 3), np.uint8)] * 15)
    result = run(toy, tmp_path / "out")
    assert "its video is h264 32x32" in result.set_aside["2"]
    assert "where most are h264 64x48" in result.set_aside["2"]


def test_wrong_codec_and_size_in_info_are_corrected(tmp_path: Path) -> None:
    def declare(info: dict[str, Any]) -> None:
        top = info["features"][CAMERAS[0]]
        top["shape"] = [480, 640, 3]
        top["video_info"] = {"video.codec": "av1", "video.height": 480, "video.width": 64}

    source = write_legacy(tmp_path / "toy", info=declare)
    result = run(source, tmp_path / "out")
    top = info_json(tmp_path / "out")["features"][CAMERAS[0]]
    assert result.warnings == [
        "observation.images.top: meta/info.json declares codec av1 (it is h264), height 480 (it is 48); corrected"
    ]
    assert top["shape"] == [48, 64, 3]
    assert (top["info"]["video.codec"], top["info"]["video.height"]) == ("h264", 48)
    assert "video_info" not in top


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", None])
def test_unreadable_parquet(toy: Path, tmp_path: Path, content: bytes | None) -> None:
    path = data_file(toy, 1)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    result = run(toy, tmp_path / "out")
    assert "episode_000001.parquet cannot be read" in result.set_aside["1"]
    check_episodes(tmp_path / "out", [0, 2], [12, 15])


def test_git_lfs_pointer_is_named(toy: Path, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    video_file(toy, CAMERAS[0], 1).write_bytes(pointer)
    data_file(toy, 2).write_bytes(pointer)
    result = run(toy, tmp_path / "out")
    assert all("Git LFS pointer" in reason and "git lfs pull" in reason for reason in result.set_aside.values())
    assert list(result.set_aside) == ["1", "2"]


def test_zero_length_and_missing_episodes(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "toy", lengths=(12, 0, 15, 9))
    data_file(source, 3).unlink()
    result = run(source, tmp_path / "out")
    assert result.set_aside == {"1": "it has no frame", "3": "it has no parquet file"}
    check_episodes(tmp_path / "out", [0, 2], [12, 15])


def test_length_that_disagrees_with_the_rows(toy: Path, tmp_path: Path) -> None:
    lines = [{"episode_index": i, "tasks": [TASK], "length": n} for i, n in enumerate((12, 10, 15))]
    write_lines(toy / "meta/episodes.jsonl", lines)
    result = run(toy, tmp_path / "out")
    assert result.set_aside == {"1": "meta/episodes.jsonl says 10 frames and its parquet file has 9"}


@pytest.mark.parametrize("column", ["observation.state", "action"])
def test_nan_sets_its_episode_aside(tmp_path: Path, column: str) -> None:
    def spoil(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        if episode == 1:
            columns[column][4][0] = np.nan
        return columns

    source = write_legacy(tmp_path / "toy", columns=spoil)
    result = run(source, tmp_path / "out")
    assert result.set_aside == {"1": f"{column} holds NaN at frame 4"}
    assert np.isfinite(stats_json(tmp_path / "out")[column]["mean"]).all()


def test_empty_cell_and_other_width(tmp_path: Path) -> None:
    def spoil(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        if episode == 0:
            columns["action"][3] = None
        if episode == 2:
            columns["observation.state"] = [row[:2] for row in columns["observation.state"]]
        return columns

    source = write_legacy(tmp_path / "toy", columns=spoil)
    result = run(source, tmp_path / "out")
    assert result.set_aside == {
        "0": "action is empty at frame 3",
        "2": "observation.state has 2 numbers at frame 0 where meta/info.json declares 3",
    }


def test_nothing_left_is_an_error(toy: Path, tmp_path: Path) -> None:
    for episode in range(3):
        video_file(toy, CAMERAS[0], episode).write_bytes(b"")
    with pytest.raises(IgrftError, match=r"none of 3 episodes can be converted; episode 0: .*episode_000000.mp4"):
        run(toy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_index_columns_are_rebuilt_and_declared(tmp_path: Path) -> None:
    gone = ("frame_index", "index", "episode_index", "task_index", "timestamp")

    def forget(info: dict[str, Any]) -> None:
        for name in gone:
            del info["features"][name]

    source = write_legacy(tmp_path / "toy", version="v2.0", columns=without(*gone), info=forget)
    result = run(source, tmp_path / "out")
    assert result.format == "lerobot-v2.0"
    assert result.warnings == [
        "rebuilt, since no parquet file has them: timestamp, frame_index, episode_index, index, task_index"
    ]
    check_episodes(tmp_path / "out", [0, 1, 2], [12, 9, 15])
    features = info_json(tmp_path / "out")["features"]
    assert features["frame_index"] == {"dtype": "int64", "shape": [1], "names": None, "fps": 10}
    assert features["timestamp"]["dtype"] == "float32"
    assert set(gone) <= stats_json(tmp_path / "out").keys()


def test_columns_that_count_wrongly_are_rebuilt(tmp_path: Path) -> None:
    def spoil(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        if episode == 1:
            columns["frame_index"] = columns["frame_index"] + 3
            columns["index"] = columns["index"][::-1].copy()
        return columns

    source = write_legacy(tmp_path / "toy", columns=spoil)
    result = run(source, tmp_path / "out")
    assert result.warnings == [
        "frame_index did not count the frames in episode 1; rebuilt",
        "index did not count the frames in episode 1; rebuilt",
    ]
    check_episodes(tmp_path / "out", [0, 1, 2], [12, 9, 15])


def test_declared_without_data_and_data_without_declaration(tmp_path: Path) -> None:
    def declare(info: dict[str, Any]) -> None:
        info["features"]["observation.force"] = {"dtype": "float32", "shape": [6], "names": None}

    def extend(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        length = len(columns["frame_index"])
        return {**columns, "next.done": np.arange(length) == length - 1, "extra": [[1.0, 2.0]] * length}

    source = write_legacy(tmp_path / "toy", info=declare, columns=extend)
    result = run(source, tmp_path / "out")
    features = info_json(tmp_path / "out")["features"]
    assert result.warnings == [
        "declared in meta/info.json and found in no parquet file, so dropped: observation.force",
        "in parquet without being declared in meta/info.json, so declared: extra, next.done",
    ]
    assert "observation.force" not in features
    assert (features["extra"]["dtype"], features["extra"]["shape"]) == ("float64", [2])
    assert features["next.done"]["dtype"] == "bool"
    assert open_in_lerobot(tmp_path / "out")[11]["next.done"].item() is True


def test_column_missing_in_one_episode(tmp_path: Path) -> None:
    source = write_legacy(
        tmp_path / "toy", columns=lambda e, c: {k: v for k, v in c.items() if not (e == 0 and k == "action")}
    )
    result = run(source, tmp_path / "out")
    assert result.set_aside == {"0": "its parquet file has no column action, which other episodes have"}


def test_declared_dtype_wins(tmp_path: Path) -> None:
    def widen(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        return {**columns, "action": [row.astype(np.float64) for row in columns["action"]]}

    run(write_legacy(tmp_path / "toy", columns=widen), tmp_path / "out")
    assert rows(tmp_path / "out").schema.field("action").type == pa.list_(pa.float32(), 2)


@pytest.mark.parametrize("fps", [12.5, 30000 / 1001, 0.5])
def test_frame_rate_that_is_not_whole_survives(tmp_path: Path, fps: float) -> None:
    source = write_legacy(tmp_path / "toy", fps=fps)
    result = run(source, tmp_path / "out")
    assert info_json(tmp_path / "out")["fps"] == fps
    assert DatasetReader.open(tmp_path / "out").fps == fps
    assert result.warnings == []
    check_episodes(tmp_path / "out", [0, 1, 2], [12, 9, 15])


def test_timestamps_are_kept_or_rebuilt(tmp_path: Path) -> None:
    def drift(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        if episode == 2:
            columns["timestamp"] = (columns["timestamp"] * 1.02).astype(np.float32)
        return columns

    source = write_legacy(tmp_path / "toy", columns=drift)
    kept = run(source, tmp_path / "kept")
    assert len(kept.warnings) == 1
    assert "episode 2: timestamps are up to 0.028 s off the frame rate of 10 (kept" in kept.warnings[0]
    assert igrft_json(tmp_path / "kept")["timestamps"] == pytest.approx({"2": 0.028}, abs=1e-6)
    rebuilt = run(source, tmp_path / "rebuilt", rebuild_timestamps=True)
    assert "(rebuilt)" in rebuilt.warnings[0]
    assert igrft_json(tmp_path / "rebuilt")["timestamps_rebuilt"] is True
    times = [t for n in (12, 9, 15) for t in np.arange(n) / 10]
    np.testing.assert_allclose(rows(tmp_path / "rebuilt")["timestamp"].to_pylist(), times, atol=1e-6)
    assert stats_json(tmp_path / "rebuilt")["timestamp"]["max"] == pytest.approx([1.4])


def test_rounding_of_long_float32_timestamps_is_no_deviation(tmp_path: Path) -> None:
    """After an hour at 30 frames a second float32 alone is off by more than LeRobot's tolerance."""
    from igrft.recordings.legacy_columns import REBUILT, ColumnPlan
    from igrft.recordings.legacy_rows import mend_rows, off_the_frame_rate

    frame = np.arange(200_000)
    table = pa.table({"timestamp": (frame / 30).astype(np.float32), "task_index": np.zeros(len(frame), np.int64)})
    types = {name: pa.float32() if name == "timestamp" else pa.int64() for name in REBUILT}
    plan = ColumnPlan(dict(REBUILT), types, {})
    made = mend_rows(table, plan, episode=0, first_index=0, fps=30, task_index=0, tasks=1, rebuild_timestamps=False)
    assert np.abs(table["timestamp"].to_numpy().astype(np.float64) - frame / 30).max() > 1e-4
    assert not off_the_frame_rate(made.deviation)


def test_gaps_in_numbering_and_in_tasks(tmp_path: Path) -> None:
    """Episodes 0, 1, 4 and tasks 0, 2: LeRobot counts both by position."""
    source = write_legacy(tmp_path / "toy", columns=lambda e, c: {**c, "task_index": np.full(len(c["index"]), 2)})
    for camera in CAMERAS:
        video_file(source, camera, 2).rename(video_file(source, camera, 4))
    data_file(source, 2).rename(data_file(source, 4))
    lines = [{"episode_index": i, "tasks": ["second"], "length": n} for i, n in {0: 12, 1: 9, 4: 15}.items()]
    write_lines(source / "meta/episodes.jsonl", lines)
    write_lines(source / "meta/tasks.jsonl", [{"task_index": 0, "task": TASK}, {"task_index": 2, "task": "second"}])
    result = run(source, tmp_path / "out")
    assert any("has no task 1" in w for w in result.warnings)
    assert igrft_json(tmp_path / "out")["episode_map"] == {"0": "0", "1": "1", "2": "4"}
    assert open_in_lerobot(tmp_path / "out")[30]["task"] == "second"


def test_task_for_a_source_without_any(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "toy", columns=without("task_index"))
    (source / "meta/tasks.jsonl").unlink()
    write_lines(source / "meta/episodes.jsonl", [{"episode_index": i, "length": n} for i, n in enumerate((12, 9, 15))])
    with pytest.raises(IgrftError, match="give --task"):
        run(source, tmp_path / "out")
    run(source, tmp_path / "out", task="stack")
    assert open_in_lerobot(tmp_path / "out")[0]["task"] == "stack"


def test_task_index_that_is_no_task(tmp_path: Path) -> None:
    source = write_legacy(
        tmp_path / "toy", columns=lambda e, c: {**c, "task_index": np.full(len(c["index"]), 3 if e == 1 else 0)}
    )
    assert "task_index 3 is none of the 1 tasks" in run(source, tmp_path / "out").set_aside["1"]


def test_splits_follow_the_episodes_that_were_kept(tmp_path: Path) -> None:
    def split(info: dict[str, Any]) -> None:
        info["splits"] = {"train": "0:3", "val": "3:100"}

    source = write_legacy(tmp_path / "toy", lengths=(4, 4, 4, 4, 4), info=split)
    data_file(source, 1).unlink()
    run(source, tmp_path / "out")
    assert info_json(tmp_path / "out")["splits"] == {"train": "0:2", "val": "2:4"}


def test_pictures_embedded_in_parquet(tmp_path: Path) -> None:
    import cv2

    def embed(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        shots = [picture(episode, t) for t in range(len(columns["index"]))]
        coded = [cv2.imencode(".png", s[:, :, ::-1])[1].tobytes() for s in shots]
        return {**columns, "observation.images.top": [{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(coded)]}

    def declare(info: dict[str, Any]) -> None:
        info["features"]["observation.images.top"] = {
            "dtype": "image",
            "shape": [48, 64, 3],
            "names": ["height", "width", "channels"],
        }
        info["video_path"] = None

    source = write_legacy(tmp_path / "toy", cameras=(), columns=embed, info=declare)
    run(source, tmp_path / "out")
    item = open_in_lerobot(tmp_path / "out")[12 + 3]
    np.testing.assert_array_equal(shown(item, "observation.images.top"), picture(1, 3))
    stats = stats_json(tmp_path / "out")["observation.images.top"]
    assert np.shape(stats["q99"]) == (3, 1, 1)
    assert stats["max"][0][0][0] == pytest.approx(220 / 255, abs=1e-6)
    assert row_groups(tmp_path / "out") == [12, 9, 15]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("meta/info.json", "{", "info.json is not valid JSON"),
        ("meta/info.json", '{"codebase_version": "v2.1"}', "declares no features"),
        ("meta/episodes.jsonl", None, "episodes.jsonl is missing"),
        ("meta/episodes.jsonl", '{"episode_index": 0}\n{oops', "line 2, is not valid JSON"),
        ("meta/episodes.jsonl", '{"length": 3}', "no number under 'episode_index'"),
        ("meta/episodes.jsonl", "", "names no episode"),
        ("meta/tasks.jsonl", '{"task": "x"}', "lacks 'task_index' or 'task'"),
    ],
)
def test_broken_metadata(toy: Path, tmp_path: Path, path: str, content: str | None, message: str) -> None:
    if content is None:
        (toy / path).unlink()
    else:
        (toy / path).write_text(content)
    with pytest.raises(IgrftError, match=message) as caught:
        run(toy, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fps", [0, -3, "fast", None])
def test_frame_rate_that_is_none(tmp_path: Path, fps: Any) -> None:
    source = write_legacy(tmp_path / "toy", info=lambda info: info.update(fps=fps))
    with pytest.raises(IgrftError, match="fps"):
        run(source, tmp_path / "out")


def test_other_fps_than_recorded_is_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="recorded at 10 frames a second"):
        run(toy, tmp_path / "out", fps=30)


def test_failure_of_lerobots_converter_is_one_line(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.scripts import convert_dataset_v21_to_v30 as converter

    monkeypatch.setattr(converter, "convert_tasks", lambda *a: (_ for _ in ()).throw(ValueError("first\nsecond")))
    with pytest.raises(IgrftError, match=r"LeRobot's converter stopped \(ValueError: first\)") as caught:
        run(toy, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_pictures_that_lerobots_converter_loses_are_missed(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lerobot.scripts import convert_dataset_v21_to_v30 as converter

    join = converter.concatenate_video_files
    monkeypatch.setattr(converter, "concatenate_video_files", lambda paths, target: join(paths[:-1], target))
    with pytest.raises(IgrftError, match="holds 21 pictures where its episodes have 36"):
        run(toy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_at_another_rate_than_declared(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "toy", fps=30, info=lambda info: info.update(fps=10))
    result = run(source, tmp_path / "out", rebuild_timestamps=True)
    assert sum("the pictures in its video are up to" in w for w in result.warnings) == 3
    assert "0.9333 s off the frame rate of 10" in result.warnings[-1]


def test_lerobot_leaves_nothing_in_the_users_cache(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import datasets
    import huggingface_hub.constants as hub

    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    offline = hub.HF_HUB_OFFLINE
    run(toy, tmp_path / "out")
    assert not cache.exists()
    assert cache == datasets.config.HF_DATASETS_CACHE
    assert offline == hub.HF_HUB_OFFLINE
    assert not datasets.are_progress_bars_disabled()
    assert capfd.readouterr() == ("", "")


def test_warnings_are_handed_on_as_they_come(toy: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    write_video(video_file(toy, CAMERAS[0], 0), [picture(0, t) for t in range(17)])
    result = run(toy, tmp_path / "out", warn=heard.append)
    assert heard == result.warnings
    assert len(heard) == 1


def test_source_videos_are_not_encoded_again(g1_small: Path, tmp_path: Path) -> None:
    run(g1_small, tmp_path / "out")
    joined = decoded(next((tmp_path / "out/videos").rglob("*.mp4")))
    given = [p for path in sorted(g1_small.rglob("*.mp4")) for p in decoded(path)]
    assert len(joined) == len(given) == 220
    assert all((a == b).all() for a, b in zip(joined, given, strict=True))


def test_extra_keys_of_episodes_become_columns(toy: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"episode_index": i, "tasks": TASK, "length": n} for i, n in enumerate((12, 9, 15))]
    lines[1]["operator"] = "b"
    (toy / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(toy, tmp_path / "out")
    table = pq.read_table(next((tmp_path / "out/meta/episodes").glob("*/*.parquet")))
    assert table["operator"].to_pylist() == [None, "b", None]
    assert table["tasks"].to_pylist() == [[TASK]] * 3
