"""Folders of videos with tables to LeRobot v3.0, kept without encoding where they can be; and broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stream_sets as s
from recording_sets import (
    decoded,
    igrft_json,
    info_json,
    open_in_lerobot,
    picture,
    row_groups,
    rows,
    shown,
    stats_json,
    write_video,
)
from recording_sets import tree_digest as digest

from igrft.errors import IgrftError
from igrft.recordings.convert import ConvertResult, convert

TOP, SIDE = "observation.images.top", "observation.images.side"


def run(source: Path, target: Path, **options: Any) -> ConvertResult:
    before = digest(source)
    try:
        return convert(source, target, progress=False, **{"task": s.TASK, **options})
    finally:
        assert digest(source) == before


def near(item: dict[str, Any], camera: str, expected: np.ndarray) -> bool:
    return bool(np.abs(shown(item, camera).astype(int) - expected)[4:-4:8, 16:].max() < 20)


def video(target: Path, camera: str) -> Path:
    return target / f"videos/{camera}/chunk-000/file-000.mp4"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_videos_are_kept_as_they_are(tmp_path: Path, suffix: str) -> None:
    source = s.write_video_folder(tmp_path / "in", suffix=suffix)
    result = run(source, tmp_path / "out")
    assert (result.format, result.episodes, result.frames, result.set_aside) == ("videos", 2, 21, {})
    # Every picture decodes to exactly what it was: an encoder would have lost something.
    was = [shot for i in range(2) for shot in decoded(source / f"take_{i}_top{suffix}")]
    np.testing.assert_array_equal(decoded(video(tmp_path / "out", TOP)), was)
    info = info_json(tmp_path / "out")
    assert info["fps"] == 10 and "video.crf" not in info["features"][TOP]["info"]
    assert info["features"]["observation.state"]["names"] == ["state.x", "state.y"]
    table = rows(tmp_path / "out")
    assert table["observation.state"].to_pylist()[9 + 4] == [2.0, 1.0]
    assert table["action"].to_pylist() == [*range(9), *range(12)]
    dataset = open_in_lerobot(tmp_path / "out")
    for row, (episode, frame) in {0: (0, 0), 8: (0, 8), 9: (1, 0), 20: (1, 11)}.items():
        assert near(dataset[row], TOP, picture(episode, frame))
        assert near(dataset[row], SIDE, picture(episode, frame, 1))
    assert stats_json(tmp_path / "out")[TOP]["count"] == [21]


def test_unlike_videos_are_all_encoded(tmp_path: Path) -> None:
    """One camera's files have different codecs: joined as they are, only the first could be read."""
    source = s.write_video_folder(tmp_path / "in")
    write_video(source / "take_1_top.mp4", [picture(1, t) for t in range(12)], 10, "libsvtav1")
    run(source, tmp_path / "out")
    features = info_json(tmp_path / "out")["features"]
    assert "video.crf" in features[TOP]["info"] and "video.crf" not in features[SIDE]["info"]
    dataset = open_in_lerobot(tmp_path / "out")
    assert near(dataset[8], TOP, picture(0, 8)) and near(dataset[20], TOP, picture(1, 11))


def test_a_video_with_a_clock_of_its_own(tmp_path: Path) -> None:
    """The table at 50 a second, the video at 10: the camera is the clock, its first picture when the table begins."""
    source = tmp_path / "in"
    s.write_rows(source / "a.csv", 60, 50)
    write_video(source / "a.mp4", [picture(0, t) for t in range(12)], 10)
    result = run(source, tmp_path / "out")
    assert result.frames == 12
    np.testing.assert_allclose(
        np.stack(rows(tmp_path / "out")["observation.state"].to_pylist())[:, 0], 2.5 * np.arange(12)
    )
    assert near(open_in_lerobot(tmp_path / "out")[11], "observation.images.main", picture(0, 11))


def test_one_table_for_all_with_lists_task_and_success(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    lengths, columns = (5, 7), {"episode": [], "action": [], "success": [], "task": []}
    for episode, length in enumerate(lengths):
        columns["episode"] += [episode] * length
        columns["action"] += [[float(i), -float(i)] for i in range(length)]
        columns["success"] += [False] * (length - 1) + [episode == 1]
        columns["task"] += [f"task {episode}"] * length
        write_video(source / f"wrist/episode_{episode:06d}.mp4", [picture(episode, t) for t in range(length)], 10)
    pq.write_table(pa.table(columns), source / "all.parquet")
    result = run(source, tmp_path / "out", task=None)
    assert (result.episodes, result.frames, result.set_aside) == (2, 12, {})
    assert row_groups(tmp_path / "out") == [5, 7]
    assert [i for i, won in enumerate(rows(tmp_path / "out")["next.success"].to_pylist()) if won] == [11]
    dataset = open_in_lerobot(tmp_path / "out")
    assert (dataset[0]["task"], dataset[11]["task"]) == ("task 0", "task 1")
    assert dataset[11]["action"].tolist() == [6.0, -6.0]
    assert near(dataset[11], "observation.images.wrist", picture(1, 6))


def test_broken_folders(tmp_path: Path) -> None:
    source = s.write_video_folder(tmp_path / "in", (30,) * 8)
    cut = source / "take_1_top.mp4"
    cut.write_bytes(cut.read_bytes()[:2000])
    data = bytearray((source / "take_2_side.mp4").read_bytes())
    data[len(data) // 3 : len(data) // 2] = b"\x00" * (len(data) // 2 - len(data) // 3)
    (source / "take_2_side.mp4").write_bytes(bytes(data))
    (source / "take_3_top.mp4").unlink()
    s.write_rows(source / "take_4.csv", 30, timestamp=[0, 1, 2, 3, 4, *range(25)])
    s.write_rows(source / "take_5.csv", 30, **{"state.x": ["left"] * 30})
    (source / "take_6.csv").write_text("timestamp,action\n1,2\n1,2,3,4\n")
    write_video(source / "take_7_side.mp4", [picture(7, t) for t in range(10)], 10)
    result = run(source, tmp_path / "out", fps=10)
    reasons = {
        "take_1": "take_1_top.mp4 cannot be read",
        "take_2": "take_2_side.mp4",
        "take_3": "it has no video top",
        "take_4": "jumps back by",
        "take_5": "column state.x holds string, where numbers are expected",
        "take_6": "take_6.csv cannot be read",
        "take_7": "its clock stops 2.00 s before all other streams",
    }
    for name, reason in reasons.items():
        assert reason in result.set_aside.get(name, "nothing"), (name, result.set_aside)
        assert str(tmp_path) not in result.set_aside[name] and "\n" not in result.set_aside[name]
    assert igrft_json(tmp_path / "out")["episode_map"] == {"0": "take_0"}


def test_nothing_that_fits(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_video(source / "b.mp4", [picture(0, t) for t in range(5)], 10)
    (source / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(IgrftError, match=r"no column begins with state or action, and no video fits; give --mapping"):
        run(source, tmp_path / "out")
