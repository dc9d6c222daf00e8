"""ALOHA-style HDF5 episodes."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from recording_sets import (
    QUANTILES,
    igrft_json,
    info_json,
    open_in_lerobot,
    picture,
    row_groups,
    rows,
    shown,
    stats_json,
    tree_digest,
    write_aloha,
)

from igrft.errors import IgrftError, UsageError
from igrft.recordings.convert import ConvertResult, convert

TOP, WRIST = "observation.images.top", "observation.images.wrist"


def run(source: Path, target: Path, **options: Any) -> ConvertResult:
    before = tree_digest(source)
    try:
        return convert(source, target, progress=False, **{"task": "open the jar", "fps": 50, **options})
    finally:
        assert tree_digest(source) == before
        assert not target.with_name(target.name + ".staging").exists()


def looks_like(item: dict[str, Any], camera: str, expected: np.ndarray) -> bool:
    """Whether the picture is the expected one, colours included, give or take the encoder's loss."""
    return bool(np.abs(shown(item, camera).astype(int) - expected)[4:-4:8, 16:].max() < 20) and bool(
        np.abs(shown(item, camera)[24, 2].astype(int) - expected[24, 2]).max() < 60
    )


def test_raw_and_compressed_episodes_with_success(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Numbers, pictures in their colours, order of episodes (10 after 2), success on the last frame."""
    source = tmp_path / "aloha"
    write_aloha(source / "episode_0.hdf5", 6, episode=0, success=True)
    write_aloha(source / "episode_2.hdf5", 5, episode=2, success=False, compress=True)
    write_aloha(source / "episode_10.hdf5", 7, episode=1, compress=True)
    result = run(source, tmp_path / "out")

    assert (result.format, result.episodes, result.frames) == ("aloha-hdf5", 3, 18)
    assert result.set_aside == {}
    assert any("without the attribute success" in w and "episode_10.hdf5" in w for w in result.warnings)
    assert any("--format aloha-hdf5-bgr" in w for w in result.warnings)
    assert igrft_json(tmp_path / "out")["episode_map"]["2"] == "episode_10.hdf5"
    info = info_json(tmp_path / "out")
    assert (info["fps"], info["robot_type"]) == (50, "aloha")
    assert info["features"]["action"]["names"][7] == "right_waist"
    assert info["features"]["observation.velocity"]["shape"] == [14]
    assert row_groups(tmp_path / "out") == [6, 5, 7]
    assert stats_json(tmp_path / "out")[TOP].keys() >= QUANTILES
    dataset = open_in_lerobot(tmp_path / "out")
    for episode, first, length in ((0, 0, 6), (2, 6, 5), (1, 11, 7)):
        for frame in (0, length - 1):
            item = dataset[first + frame]
            assert looks_like(item, TOP, picture(episode, frame, 0))
            assert looks_like(item, WRIST, picture(episode, frame, 1))
            assert item["task"] == "open the jar"
    with h5py.File(source / "episode_10.hdf5") as file:
        np.testing.assert_array_equal(np.stack(rows(tmp_path / "out")["action"].to_pylist()[11:]), file["action"][:])
    assert rows(tmp_path / "out")["next.success"].to_pylist() == [*[False] * 5, True, *[False] * 5, *[False] * 6, True]
    assert not (tmp_path / "out/images").exists()
    assert capfd.readouterr() == ("", "")


def test_jpeg_made_from_bgr(tmp_path: Path) -> None:
    """The two ways to write a JPEG differ by red and blue; ``--format`` chooses."""
    write_aloha(tmp_path / "aloha/episode_0.hdf5", compress=True)
    result = run(tmp_path / "aloha", tmp_path / "out", format="aloha-hdf5-bgr")
    assert not any("bgr" in w for w in result.warnings)
    red, _, blue = shown(open_in_lerobot(tmp_path / "out")[0], TOP)[24, 2].astype(int)
    assert blue - red > 100


def test_one_file_and_what_it_says_of_itself(tmp_path: Path) -> None:
    path = write_aloha(tmp_path / "demo.hdf5", fps=30, task="fold the towel")
    result = run(path, tmp_path / "out", fps=None, task=None)
    assert (info_json(tmp_path / "out")["fps"], result.warnings) == (30, [])
    assert open_in_lerobot(tmp_path / "out")[0]["task"] == "fold the towel"


def test_frame_rate_nobody_says_is_acts(tmp_path: Path) -> None:
    result = run(write_aloha(tmp_path / "demo.hdf5"), tmp_path / "out", fps=None)
    assert info_json(tmp_path / "out")["fps"] == 50
    assert "give --fps" in result.warnings[0]


def test_task_nobody_says(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"demo.hdf5 does not say what its task is; give --task"):
        run(write_aloha(tmp_path / "demo.hdf5"), tmp_path / "out", task=None)
    assert not (tmp_path / "out").exists()


def test_frame_rate_that_is_not_whole(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"whole frame rates, and this is 29.97"):
        run(write_aloha(tmp_path / "demo.hdf5"), tmp_path / "out", fps=29.97)


def edit(path: Path, name: str, change: Any) -> None:
    with h5py.File(path, "r+") as file:
        value = change(file[name][:])
        del file[name]
        if value is not None:
            file[name] = value


def put(values: np.ndarray, at: Any, value: Any) -> np.ndarray:
    values[at] = value
    return values


BROKEN: dict[str, tuple[Any, str]] = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:3000]), "cannot be read"),
    "no hdf5": (lambda p: p.write_bytes(b"nothing of the kind"), "cannot be read"),
    "zero length": (lambda p: write_aloha(p, 0), "it has no frame"),
    "nan in qpos": (
        lambda p: edit(p, "observations/qpos", lambda v: put(v, (2, 5), np.nan)),
        "/observations/qpos holds NaN or infinity at frame 2",
    ),
    "nan in action": (
        lambda p: edit(p, "action", lambda v: put(v, 3, np.inf)),
        "/action holds NaN or infinity at frame 3",
    ),
    "shorter qpos": (
        lambda p: edit(p, "observations/qpos", lambda v: v[:4]),
        "/observations/qpos has 4 frames where /action has 6",
    ),
    "shorter camera": (
        lambda p: edit(p, "observations/images/top", lambda v: v[:5]),
        "camera top has 5 frames where /action has 6",
    ),
    "no action": (lambda p: edit(p, "action", lambda v: None), "it has no /action"),
    "camera missing": (
        lambda p: edit(p, "observations/images/wrist", lambda v: None),
        "where most have camera wrist 64x48",
    ),
    "other width": (lambda p: edit(p, "action", lambda v: v[:, :7]), "it has action of 7 where most have action of 14"),
    "picture of floats": (
        lambda p: edit(p, "observations/images/top", lambda v: v.astype(np.float32)),
        "holds float32 [48, 64, 3] a frame",
    ),
    "jpeg broken on the way": (
        lambda p: (write_aloha(p, compress=True), edit(p, "observations/images/top", lambda v: put(v, 4, 0))),
        "camera top holds no JPEG at frame 4",
    ),
}


def test_broken_episodes_are_set_aside(tmp_path: Path) -> None:
    """All of them at once, between two good ones: the good ones are converted, each bad one has its reason."""
    source = tmp_path / "aloha"
    write_aloha(source / "episode_0.hdf5", episode=0)
    expected = {}
    for number, (spoil, reason) in enumerate(BROKEN.values(), start=1):
        path = write_aloha(source / f"episode_{number}.hdf5", episode=number)
        spoil(path)
        expected[path.name] = reason
    write_aloha(source / "episode_99.hdf5", episode=3)
    result = run(source, tmp_path / "out")

    assert list(result.set_aside) == list(expected)
    for name, reason in expected.items():
        assert reason in result.set_aside[name], name
        assert str(tmp_path) not in result.set_aside[name]
    assert result.episodes == 2
    assert igrft_json(tmp_path / "out")["episode_map"] == {"0": "episode_0.hdf5", "1": "episode_99.hdf5"}
    dataset = open_in_lerobot(tmp_path / "out")
    assert looks_like(dataset[5], TOP, picture(0, 5))
    assert looks_like(dataset[11], TOP, picture(3, 5))


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    path = write_aloha(tmp_path / "aloha/episode_0.hdf5", 0)
    with pytest.raises(IgrftError, match=r"none of 1 episodes can be converted; episode_0.hdf5: it has no frame"):
        run(path.parent, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_left_unread_is_said(tmp_path: Path) -> None:
    path = write_aloha(tmp_path / "demo.hdf5")
    with h5py.File(path, "r+") as file:
        file["base_action"] = np.zeros((6, 2))
    assert any("base_action" in w for w in run(path, tmp_path / "out").warnings)


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_aloha(tmp_path / "demo.hdf5")
    real = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(IgrftError, match=r"pip install 'igrft\[hdf5\]'"):
        run(path, tmp_path / "out")
