"""LeRobot v2.x sources with something missing or odd that can be mended."""

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
    check_episodes,
    convert_safely,
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
    video_file,
    without,
    write_legacy,
    write_lines,
    write_video,
)

from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError


def test_two_cameras(toy: Path, tmp_path: Path) -> None:
    result = convert_safely(toy, tmp_path / "out")
    assert (result.format, result.episodes, result.frames, result.warnings) == ("lerobot-v2.1", 3, 36, [])
    check_episodes(tmp_path / "out", [0, 1, 2], [12, 9, 15])
    assert igrft_json(tmp_path / "out")["source"] == {"name": "toy"}
    assert "episode_map" not in igrft_json(tmp_path / "out")


def test_missing_index_columns_are_rebuilt_and_declared(tmp_path: Path) -> None:
    gone = ("frame_index", "index", "episode_index", "task_index", "timestamp")

    def forget(info: dict[str, Any]) -> None:
        for name in gone:
            del info["features"][name]

    source = write_legacy(tmp_path / "toy", version="v2.0", columns=without(*gone), info=forget)
    result = convert_safely(source, tmp_path / "out")
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
    result = convert_safely(source, tmp_path / "out")
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
    result = convert_safely(source, tmp_path / "out")
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
    result = convert_safely(source, tmp_path / "out")
    assert result.set_aside == {"0": "its parquet file has no column action, which other episodes have"}


def test_declared_dtype_wins(tmp_path: Path) -> None:
    def widen(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        return {**columns, "action": [row.astype(np.float64) for row in columns["action"]]}

    convert_safely(write_legacy(tmp_path / "toy", columns=widen), tmp_path / "out")
    assert rows(tmp_path / "out").schema.field("action").type == pa.list_(pa.float32(), 2)


@pytest.mark.parametrize("fps", [12.5, 30000 / 1001, 0.5])
def test_frame_rate_that_is_not_whole_survives(tmp_path: Path, fps: float) -> None:
    source = write_legacy(tmp_path / "toy", fps=fps)
    result = convert_safely(source, tmp_path / "out")
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
    kept = convert_safely(source, tmp_path / "kept")
    assert len(kept.warnings) == 1
    assert "episode 2: timestamps are up to 0.028 s off the frame rate of 10 (kept" in kept.warnings[0]
    assert igrft_json(tmp_path / "kept")["timestamps"] == pytest.approx({"2": 0.028}, abs=1e-6)
    rebuilt = convert_safely(source, tmp_path / "rebuilt", rebuild_timestamps=True)
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
    result = convert_safely(source, tmp_path / "out")
    assert any("has no task 1" in w for w in result.warnings)
    assert igrft_json(tmp_path / "out")["episode_map"] == {"0": "0", "1": "1", "2": "4"}
    assert open_in_lerobot(tmp_path / "out")[30]["task"] == "second"


def test_task_for_a_source_without_any(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "toy", columns=without("task_index"))
    (source / "meta/tasks.jsonl").unlink()
    write_lines(source / "meta/episodes.jsonl", [{"episode_index": i, "length": n} for i, n in enumerate((12, 9, 15))])
    with pytest.raises(IgrftError, match="give --task"):
        convert_safely(source, tmp_path / "out")
    convert_safely(source, tmp_path / "out", task="stack")
    assert open_in_lerobot(tmp_path / "out")[0]["task"] == "stack"


def test_task_index_that_is_no_task(tmp_path: Path) -> None:
    source = write_legacy(
        tmp_path / "toy", columns=lambda e, c: {**c, "task_index": np.full(len(c["index"]), 3 if e == 1 else 0)}
    )
    assert "task_index 3 is none of the 1 tasks" in convert_safely(source, tmp_path / "out").set_aside["1"]


def test_splits_follow_the_episodes_that_were_kept(tmp_path: Path) -> None:
    def split(info: dict[str, Any]) -> None:
        info["splits"] = {"train": "0:3", "val": "3:100"}

    source = write_legacy(tmp_path / "toy", lengths=(4, 4, 4, 4, 4), info=split)
    data_file(source, 1).unlink()
    convert_safely(source, tmp_path / "out")
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
    convert_safely(source, tmp_path / "out")
    item = open_in_lerobot(tmp_path / "out")[12 + 3]
    np.testing.assert_array_equal(shown(item, "observation.images.top"), picture(1, 3))
    stats = stats_json(tmp_path / "out")["observation.images.top"]
    assert np.shape(stats["q99"]) == (3, 1, 1)
    assert stats["max"][0][0][0] == pytest.approx(220 / 255, abs=1e-6)
    assert row_groups(tmp_path / "out") == [12, 9, 15]


def test_other_fps_than_recorded_is_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="recorded at 10 frames a second"):
        convert_safely(toy, tmp_path / "out", fps=30)


def test_lerobot_leaves_nothing_in_the_users_cache(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import datasets
    import huggingface_hub.constants as hub

    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    offline = hub.HF_HUB_OFFLINE
    convert_safely(toy, tmp_path / "out")
    assert not cache.exists()
    assert cache == datasets.config.HF_DATASETS_CACHE
    assert offline == hub.HF_HUB_OFFLINE
    assert not datasets.are_progress_bars_disabled()
    assert capfd.readouterr() == ("", "")


def test_warnings_are_handed_on_as_they_come(toy: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    write_video(video_file(toy, CAMERAS[0], 0), [picture(0, t) for t in range(17)])
    result = convert_safely(toy, tmp_path / "out", warn=heard.append)
    assert heard == result.warnings
    assert len(heard) == 1


def test_source_videos_are_not_encoded_again(g1_small: Path, tmp_path: Path) -> None:
    convert_safely(g1_small, tmp_path / "out")
    joined = decoded(next((tmp_path / "out/videos").rglob("*.mp4")))
    given = [p for path in sorted(g1_small.rglob("*.mp4")) for p in decoded(path)]
    assert len(joined) == len(given) == 220
    assert all((a == b).all() for a, b in zip(joined, given, strict=True))


def test_extra_keys_of_episodes_become_columns(toy: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"episode_index": i, "tasks": TASK, "length": n} for i, n in enumerate((12, 9, 15))]
    lines[1]["operator"] = "b"
    (toy / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    convert_safely(toy, tmp_path / "out")
    table = pq.read_table(next((tmp_path / "out/meta/episodes").glob("*/*.parquet")))
    assert table["operator"].to_pylist() == [None, "b", None]
    assert table["tasks"].to_pylist() == [[TASK]] * 3
