"""Replay buffers in zarr and robomimic's HDF5 to LeRobot v3.0; and broken ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import stream_sets as s
from recording_sets import igrft_json, info_json, open_in_lerobot, picture, row_groups, rows, shown
from recording_sets import tree_digest as digest

from igrft.errors import IgrftError, UsageError
from igrft.recordings.convert import ConvertResult, convert, dry_run


def run(source: Path, target: Path, **options: Any) -> ConvertResult:
    before = digest(source.parent)
    try:
        return convert(source, target, progress=False, **{"task": s.TASK, **options})
    finally:
        after = digest(source.parent)
        assert {k: after[k] for k in before} == before


def near(item: dict[str, Any], camera: str, expected: np.ndarray) -> bool:
    return bool(np.abs(shown(item, camera).astype(int) - expected)[4:-4:8, 16:].max() < 20)


@pytest.mark.parametrize("form", ["zarr", "in a folder"])
def test_a_replay_buffer(tmp_path: Path, form: str) -> None:
    """Pictures of floats, across chunks; state and action as they were recorded; what else there is stays behind."""
    path = s.write_replay_buffer(tmp_path / "in/pusht_cchi_v7_replay.zarr")
    result = run(path if form == "zarr" else path.parent, tmp_path / "out", fps=10)
    assert (result.format, result.episodes, result.frames, result.set_aside) == ("zarr", 2, 21, {})
    assert row_groups(tmp_path / "out") == [9, 12]
    info = info_json(tmp_path / "out")
    assert info["fps"] == 10 and info["features"]["observation.state"]["names"] == ["state_0", "state_1", "state_2"]
    assert not any("contacts" in name for name in info["features"])
    table = rows(tmp_path / "out")
    np.testing.assert_array_equal(np.stack(table["action"].to_pylist()), np.arange(42).reshape(21, 2))
    assert table["observation.state"].to_pylist()[9 + 5] == [1, 5, 0.5]
    dataset = open_in_lerobot(tmp_path / "out")
    for row, (episode, frame) in {0: (0, 0), 8: (0, 8), 9: (1, 0), 20: (1, 11)}.items():
        assert near(dataset[row], "observation.images.img", picture(episode, frame))
    assert igrft_json(tmp_path / "out")["episode_map"] == {"0": "episode 0", "1": "episode 1"}


def test_a_replay_buffer_that_says_when(tmp_path: Path) -> None:
    """Stamps give the rate, and a mapping chooses the arrays."""
    stamps = 1e9 + np.arange(21) / 15
    path = s.write_replay_buffer(tmp_path / "buffer.zarr", timestamp=stamps)
    (tmp_path / "m.yaml").write_text("features: {observation.images.top: img, action: {stream: state, select: [1]}}")
    result = run(path, tmp_path / "out", mapping=tmp_path / "m.yaml")
    assert result.frames == 21 and info_json(tmp_path / "out")["fps"] == 15
    assert rows(tmp_path / "out")["action"].to_pylist()[:3] == [0, 1, 2]


def test_umi(tmp_path: Path) -> None:
    """By its own mapping: the action is the next state, and does not reach into the next episode."""
    path = s.write_umi(tmp_path / "cup.zarr.zip")
    result = run(path, tmp_path / "out", mapping="umi")
    assert (result.episodes, result.frames, info_json(tmp_path / "out")["fps"]) == (2, 21, 60)
    names = info_json(tmp_path / "out")["features"]["observation.state"]["names"]
    assert len(names) == 7 and names[-1] == "robot0_gripper_width" and not any("demo" in n for n in names)
    assert info_json(tmp_path / "out")["features"]["action"]["names"] == names
    table = rows(tmp_path / "out")
    state, action = (np.stack(table[name].to_pylist()) for name in ("observation.state", "action"))
    np.testing.assert_array_equal(action[:, 0], [*range(1, 9), 8, *range(10, 21), 20])
    np.testing.assert_array_equal(action[[0, 9, 19]], state[[1, 10, 20]])
    assert near(open_in_lerobot(tmp_path / "out")[20], "observation.images.camera0_rgb", picture(1, 11))


def test_a_replay_buffer_without_action(tmp_path: Path) -> None:
    path = s.write_umi(tmp_path / "cup.zarr.zip")
    with pytest.raises(UsageError, match=r"cup.zarr.zip has no array action; to take the next step's state .* umi"):
        run(path, tmp_path / "out", fps=60)
    path = s.write_replay_buffer(tmp_path / "buffer.zarr")
    shutil.rmtree(path / "data/action")
    with pytest.raises(UsageError, match=r"give --mapping FILE.yaml with action: \{next: observation.state\}"):
        run(path, tmp_path / "out", fps=10)
    (tmp_path / "m.yaml").write_text(
        "features: {action: {next: observation.state}, observation.state: {stream: state}}"
    )
    result = run(path, tmp_path / "out", fps=10, mapping=tmp_path / "m.yaml")
    assert result.frames == 21 and rows(tmp_path / "out")["action"].to_pylist()[8:10] == [[0, 8, 0.5], [1, 1, 0.5]]
    found = dry_run(path, tmp_path / "look", fps=10, mapping=tmp_path / "m.yaml")
    assert "action <- observation.state of the next row" in found.lines


def test_nobody_says_the_rate(tmp_path: Path) -> None:
    path = s.write_replay_buffer(tmp_path / "buffer.zarr")
    with pytest.raises(UsageError, match=r"buffer.zarr does not say its frame rate; give --fps"):
        run(path, tmp_path / "out")


def test_broken_replay_buffers(tmp_path: Path) -> None:
    """A damaged chunk and NaN set their episodes aside; what concerns all episodes is an error of one line."""
    good = s.write_replay_buffer(tmp_path / "good.zarr", (8, 8, 8))

    def broken(name: str, edit: Callable[[Path], None]) -> Path:
        path = tmp_path / f"{name}.zarr"
        shutil.copytree(good, path)
        edit(path)
        return path

    # Pictures 12 to 15 lie in one chunk, which is of the second episode.
    path = broken("chunk", lambda p: (p / "data/img/3.0.0.0").write_bytes(b"x" * 100))
    result = run(path, tmp_path / "out", fps=10)
    assert result.episodes == 2 and list(result.set_aside) == ["episode 1"]
    assert "chunk.zarr cannot be read" in result.set_aside["episode 1"]
    assert str(tmp_path) not in result.set_aside["episode 1"]
    state = np.zeros((24, 3), np.float32)
    state[17] = np.nan
    result = run(s.write_replay_buffer(tmp_path / "nan.zarr", (8, 8, 8), state=state), tmp_path / "out2", fps=10)
    assert result.set_aside == {"episode 2": "state holds NaN or infinity at sample 1"}
    short = s.write_replay_buffer(tmp_path / "short.zarr", (8, 8, 8), action=np.zeros((20, 2), np.float32))
    result = run(short, tmp_path / "out3", fps=10)
    assert result.set_aside == {"episode 2": "action has 20 steps where the episode ends at 24: truncated or damaged"}
    for name, edit, message in (
        ("ends", lambda p: shutil.rmtree(p / "data"), "ends.zarr cannot be read"),
        ("none", lambda p: (p / "meta/episode_ends/.zarray").write_text("{"), "none.zarr cannot be read"),
    ):
        with pytest.raises(IgrftError) as error:
            run(broken(name, edit), tmp_path / "never", fps=10)
        assert message in str(error.value) and "\n" not in str(error.value)
    back = s.write_replay_buffer(
        tmp_path / "back.zarr", (8, 8, 8), timestamp=np.arange(24) / 10 - 3 * (np.arange(24) == 12)
    )
    result = run(back, tmp_path / "out4")
    assert "jumps back by" in result.set_aside["episode 1"] and result.episodes == 2
    shapes = s.write_replay_buffer(tmp_path / "shapes.zarr", (8,), state=np.zeros((8, 3, 3), np.float32))
    (tmp_path / "m.yaml").write_text("features: {observation.state: state, action: action}")
    with pytest.raises(IgrftError, match=r"state holds float32 \[3, 3\] a step, where numbers are expected"):
        run(shapes, tmp_path / "never", fps=10, mapping=tmp_path / "m.yaml")
    zipped = s.write_umi(tmp_path / "cut.zarr.zip")
    zipped.write_bytes(zipped.read_bytes()[:-500])
    with pytest.raises(IgrftError, match=r"cut.zarr.zip cannot be read \(File is not a zip file\)"):
        run(zipped, tmp_path / "never", fps=10)


def test_robomimic(tmp_path: Path) -> None:
    path = s.write_robomimic(tmp_path / "low_dim.hdf5")
    result = run(path, tmp_path / "out")
    assert (result.format, result.episodes, result.frames, result.set_aside) == ("robomimic-hdf5", 2, 21, {})
    assert igrft_json(tmp_path / "out")["episode_map"] == {"0": "demo_0", "1": "demo_1"}
    info = info_json(tmp_path / "out")
    assert info["fps"] == 20
    shapes = {name: f["shape"] for name, f in info["features"].items()}
    assert (shapes["observation.state"], shapes["action"], shapes["observation.environment_state"]) == ([9], [7], [10])
    table = rows(tmp_path / "out")
    assert [i for i, won in enumerate(table["next.success"].to_pylist()) if won] == [20]
    assert table["observation.state"].to_pylist()[9] == [1.25] * 3 + [0, 0, 0, 1] + [0, 0]
    assert near(open_in_lerobot(tmp_path / "out")[20], "observation.images.agentview", picture(1, 11))


def test_robomimic_without_rewards_says_nothing_of_success(tmp_path: Path) -> None:
    run(s.write_robomimic(tmp_path / "a.hdf5", rewards=False), tmp_path / "out")
    assert "next.success" not in info_json(tmp_path / "out")["features"]


def test_broken_robomimic(tmp_path: Path) -> None:
    source = tmp_path / "in"
    s.write_robomimic(source / "a.hdf5", (8, 8, 8, 8, 8))
    with h5py.File(source / "a.hdf5", "r+") as file:
        del file["data/demo_0/actions"]
        file["data/demo_1/actions"][3] = np.nan
        del file["data/demo_2/obs/agentview_image"]
        file["data/demo_2/obs/agentview_image"] = np.zeros((8, 4))
        del file["data/demo_3/obs/robot0_eef_pos"]
        file["data/demo_3/obs/robot0_eef_pos"] = np.zeros((5, 3))
    s.write_robomimic(source / "b.hdf5")
    cut = s.write_robomimic(source / "c.hdf5")
    cut.write_bytes(cut.read_bytes()[:5000])
    (tmp_path / "m.yaml").write_text(
        "features: {observation.images.agentview: obs/agentview_image, "
        "observation.state: {stream: obs/robot0_eef_pos, align: nearest}, action: {stream: actions, align: nearest}}"
    )
    result = run(source, tmp_path / "out", mapping=tmp_path / "m.yaml")
    assert result.episodes == 3
    assert result.set_aside.pop("c.hdf5").startswith("c.hdf5 cannot be read (")
    assert result.set_aside == {
        "a.hdf5/demo_0": "it has no actions",
        "a.hdf5/demo_1": "actions holds NaN or infinity at sample 3",
        "a.hdf5/demo_2": "obs/agentview_image holds float64 [4] a step, which is no picture",
        "a.hdf5/demo_3": "obs/robot0_eef_pos has 5 steps where most have 8: truncated or damaged",
    }
