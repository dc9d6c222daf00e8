"""LeRobot v2.x sources that are broken: each episode set aside with its reason, or a clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_sets import (
    CAMERAS,
    TASK,
    check_episodes,
    convert_safely,
    data_file,
    igrft_json,
    info_json,
    picture,
    stats_json,
    video_file,
    write_legacy,
    write_lines,
    write_video,
)

from igrft.errors import IgrftError


def test_camera_without_any_file_is_dropped(tmp_path: Path) -> None:
    def declare(info: dict[str, Any]) -> None:
        info["features"]["observation.images.ghost"] = {"dtype": "video", "shape": [48, 64, 3], "names": None}

    source = write_legacy(tmp_path / "toy", info=declare)
    result = convert_safely(source, tmp_path / "out")
    assert result.set_aside == {}
    assert result.warnings == ["observation.images.ghost is declared and has no file in any episode, so it is dropped"]
    assert "observation.images.ghost" not in info_json(tmp_path / "out")["features"]
    assert igrft_json(tmp_path / "out")["warnings"] == result.warnings


def test_camera_missing_in_one_episode_sets_it_aside(toy: Path, tmp_path: Path) -> None:
    video_file(toy, CAMERAS[1], 1).unlink()
    result = convert_safely(toy, tmp_path / "out")
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
    result = convert_safely(toy, tmp_path / "out")
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
    result = convert_safely(source, tmp_path / "out")
    assert list(result.set_aside) == ["1"]
    assert result.frames == 120


def test_bytes_damaged_inside_a_video_set_its_episode_aside(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "toy", cameras=CAMERAS[:1])
    path = video_file(source, CAMERAS[0], 2)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat")
    data[at + 900 : at + 1000] = b"\xff" * 100
    path.write_bytes(bytes(data))
    result = convert_safely(source, tmp_path / "out")
    assert list(result.set_aside) == ["2"]
    assert "episode_000002.mp4" in result.set_aside["2"]
    assert str(tmp_path) not in result.set_aside["2"]
    assert str(tmp_path) not in (tmp_path / "out/meta/igrft.json").read_text()


def test_video_shorter_than_rows(toy: Path, tmp_path: Path) -> None:
    write_video(video_file(toy, CAMERAS[0], 1), [picture(1, t) for t in range(7)])
    result = convert_safely(toy, tmp_path / "out")
    assert result.set_aside == {"1": "observation.images.top: its video has 7 frames for 9 rows"}
    check_episodes(tmp_path / "out", [0, 2], [12, 15])


def test_video_longer_than_rows_shifts_nothing(toy: Path, tmp_path: Path) -> None:
    write_video(video_file(toy, CAMERAS[0], 0), [picture(0, t) for t in range(17)])
    result = convert_safely(toy, tmp_path / "out")
    assert result.set_aside == {}
    assert "up to 5 pictures more than rows" in result.warnings[0]
    check_episodes(tmp_path / "out", [0, 1, 2], [12, 9, 15])


def test_video_of_another_size_cannot_be_joined(toy: Path, tmp_path: Path) -> None:
    write_video(video_file(toy, CAMERAS[0], 2), [np.zeros((32, 32, 3), np.uint8)] * 15)
    result = convert_safely(toy, tmp_path / "out")
    assert "its video is h264 32x32" in result.set_aside["2"]
    assert "where most are h264 64x48" in result.set_aside["2"]


def test_wrong_codec_and_size_in_info_are_corrected(tmp_path: Path) -> None:
    def declare(info: dict[str, Any]) -> None:
        top = info["features"][CAMERAS[0]]
        top["shape"] = [480, 640, 3]
        top["video_info"] = {"video.codec": "av1", "video.height": 480, "video.width": 64}

    source = write_legacy(tmp_path / "toy", info=declare)
    result = convert_safely(source, tmp_path / "out")
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
    result = convert_safely(toy, tmp_path / "out")
    assert "episode_000001.parquet cannot be read" in result.set_aside["1"]
    check_episodes(tmp_path / "out", [0, 2], [12, 15])


def test_git_lfs_pointer_is_named(toy: Path, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    video_file(toy, CAMERAS[0], 1).write_bytes(pointer)
    data_file(toy, 2).write_bytes(pointer)
    result = convert_safely(toy, tmp_path / "out")
    assert all("Git LFS pointer" in reason and "git lfs pull" in reason for reason in result.set_aside.values())
    assert list(result.set_aside) == ["1", "2"]


def test_zero_length_and_missing_episodes(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "toy", lengths=(12, 0, 15, 9))
    data_file(source, 3).unlink()
    result = convert_safely(source, tmp_path / "out")
    assert result.set_aside == {"1": "it has no frame", "3": "it has no parquet file"}
    check_episodes(tmp_path / "out", [0, 2], [12, 15])


def test_length_that_disagrees_with_the_rows(toy: Path, tmp_path: Path) -> None:
    lines = [{"episode_index": i, "tasks": [TASK], "length": n} for i, n in enumerate((12, 10, 15))]
    write_lines(toy / "meta/episodes.jsonl", lines)
    result = convert_safely(toy, tmp_path / "out")
    assert result.set_aside == {"1": "meta/episodes.jsonl says 10 frames and its parquet file has 9"}


@pytest.mark.parametrize("column", ["observation.state", "action"])
def test_nan_sets_its_episode_aside(tmp_path: Path, column: str) -> None:
    def spoil(episode: int, columns: dict[str, Any]) -> dict[str, Any]:
        if episode == 1:
            columns[column][4][0] = np.nan
        return columns

    source = write_legacy(tmp_path / "toy", columns=spoil)
    result = convert_safely(source, tmp_path / "out")
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
    result = convert_safely(source, tmp_path / "out")
    assert result.set_aside == {
        "0": "action is empty at frame 3",
        "2": "observation.state has 2 numbers at frame 0 where meta/info.json declares 3",
    }


def test_nothing_left_is_an_error(toy: Path, tmp_path: Path) -> None:
    for episode in range(3):
        video_file(toy, CAMERAS[0], episode).write_bytes(b"")
    with pytest.raises(IgrftError, match=r"none of 3 episodes can be converted; episode 0: .*episode_000000.mp4"):
        convert_safely(toy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
        convert_safely(toy, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fps", [0, -3, "fast", None])
def test_frame_rate_that_is_none(tmp_path: Path, fps: Any) -> None:
    source = write_legacy(tmp_path / "toy", info=lambda info: info.update(fps=fps))
    with pytest.raises(IgrftError, match="fps"):
        convert_safely(source, tmp_path / "out")


def test_pictures_that_lerobots_converter_loses_are_missed(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lerobot.scripts import convert_dataset_v21_to_v30 as converter

    join = converter.concatenate_video_files
    monkeypatch.setattr(converter, "concatenate_video_files", lambda paths, target: join(paths[:-1], target))
    with pytest.raises(IgrftError, match="holds 21 pictures where its episodes have 36"):
        convert_safely(toy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_at_another_rate_than_declared(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "toy", fps=30, info=lambda info: info.update(fps=10))
    result = convert_safely(source, tmp_path / "out", rebuild_timestamps=True)
    assert sum("the pictures in its video are up to" in w for w in result.warnings) == 3
    assert "0.9333 s off the frame rate of 10" in result.warnings[-1]


def test_no_path_of_this_machine_in_the_dataset(toy: Path, tmp_path: Path) -> None:
    video_file(toy, CAMERAS[0], 1).write_bytes(b"no video")
    data_file(toy, 2).write_bytes(b"no parquet")
    convert_safely(toy, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes()


def test_failure_of_lerobots_converter_is_one_line(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.scripts import convert_dataset_v21_to_v30 as converter

    monkeypatch.setattr(converter, "convert_tasks", lambda *a: (_ for _ in ()).throw(ValueError("first\nsecond")))
    with pytest.raises(IgrftError, match=r"LeRobot's converter stopped \(ValueError: first\)") as caught:
        convert_safely(toy, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
