"""The real sets through convert, then opened by LeRobot: nothing shifted, nothing lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recording_sets import (
    QUANTILES,
    decoded,
    igrft_json,
    info_json,
    open_in_lerobot,
    row_groups,
    rows,
    shown,
    stats_json,
    tree_digest,
)

from igrft.dataset.reader import DatasetReader
from igrft.recordings.convert import convert

SETS = {
    # name: (camera, lengths, whether its timestamps must be rebuilt for LeRobot to read it)
    "g1_yellow_bottle_2ep": ("observation.images.cam_high", [343, 290], False),
    "cr5_banana_3ep": ("observation.images.top", [215, 209, 259], True),
    "gr00t_robot_sim_PickNPlace": ("observation.images.ego_view", [416, 470, 470, 412, 328], True),
    "cr5_cube5/badts": ("observation.images.top", [107, 167, 76, 83, 97], True),
}


@pytest.mark.parametrize("name", SETS)
def test_real_set(name: str, shared_data: Path, tmp_path: Path) -> None:
    camera, lengths, rebuild = SETS[name]
    source, target = shared_data / name, tmp_path / "out"
    before = tree_digest(source)

    result = convert(source, target, rebuild_timestamps=rebuild, progress=False)

    assert tree_digest(source) == before
    assert not (tmp_path / "out.staging").exists()
    assert result.set_aside == {}
    assert (result.episodes, result.frames) == (len(lengths), sum(lengths))
    assert row_groups(target) == lengths
    dataset = open_in_lerobot(target, delta_timestamps={"action": [0.0, 1 / info_json(target)["fps"]]})
    assert (dataset.num_episodes, dataset.num_frames) == (len(lengths), sum(lengths))
    first = 0
    for episode, length in enumerate(lengths):
        pictures = decoded(next(source.glob(f"videos/*/{camera}/episode_{episode:06d}.mp4")))
        given = pq.read_table(next(source.glob(f"data/*/episode_{episode:06d}.parquet")))
        for frame in (0, length - 1):
            item = dataset[first + frame]
            assert item["episode_index"] == episode
            assert item["frame_index"] == frame
            np.testing.assert_array_equal(shown(item, camera), pictures[frame])
            np.testing.assert_allclose(item["action"][0].numpy(), given["action"][frame].as_py(), rtol=1e-6)
        first += length
    check_statistics(target, source, camera)


def check_statistics(target: Path, source: Path, camera: str) -> None:
    stats = stats_json(target)
    features = info_json(target)["features"]
    assert stats.keys() == features.keys()
    for name, feature in features.items():
        assert stats[name].keys() >= QUANTILES | {"min", "max", "mean", "std", "count"}
        assert np.shape(stats[name]["q50"]) == ((3, 1, 1) if feature["dtype"] == "video" else tuple(feature["shape"]))
    table = pq.read_table(next((target / "meta/episodes").glob("*/*.parquet")))
    assert all(f"stats/{name}/{q}" in table.column_names for name in features for q in QUANTILES)
    states = np.stack(rows(target)["observation.state"].to_pylist())
    np.testing.assert_allclose(stats["observation.state"]["mean"], states.mean(axis=0), atol=1e-4)
    assert (np.array(stats["observation.state"]["q10"]) <= np.array(stats["observation.state"]["q90"])).all()
    pictures = [p for path in sorted(source.glob(f"videos/*/{camera}/*.mp4")) for p in decoded(path)[::7]]
    mean = np.mean([p.mean(axis=(0, 1)) for p in pictures], axis=0) / 255
    np.testing.assert_allclose(np.ravel(stats[camera]["mean"]), mean, atol=0.01)


def test_gr00t_defects_are_mended_and_said(shared_data: Path, tmp_path: Path) -> None:
    """v2.0, no frame_index, a camera without files, two tasks an episode, times one frame late."""
    result = convert(shared_data / "gr00t_robot_sim_PickNPlace", tmp_path / "out", progress=False)

    info = info_json(tmp_path / "out")
    assert result.format == "lerobot-v2.0"
    assert any("egoview is declared and has no file" in w for w in result.warnings)
    assert any("rebuilt" in w and "frame_index" in w for w in result.warnings)
    assert "observation.images.egoview" not in info["features"]
    assert info["features"]["frame_index"]["dtype"] == "int64"
    assert (info["total_tasks"], info["splits"]) == (6, {"train": "0:5"})
    assert igrft_json(tmp_path / "out")["timestamps"] == pytest.approx({str(i): 0.05 for i in range(5)}, abs=1e-6)
    table = pq.read_table(next((tmp_path / "out/meta/episodes").glob("*/*.parquet")), columns=["tasks"])
    assert table["tasks"][1].as_py()[1] == "valid"
    assert rows(tmp_path / "out")["task_index"].unique().to_pylist() == [0, 2, 3, 4, 5]
    assert (tmp_path / "out/meta/modality.json").is_file()
    assert (tmp_path / "out/LICENSE").is_file()


def test_drifting_timestamps_are_reported_and_kept(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "cr5_cube5/badts"
    result = convert(source, tmp_path / "out", progress=False)

    record = igrft_json(tmp_path / "out")
    assert len(record["timestamps"]) == 5
    assert record["timestamps"]["1"] == pytest.approx(0.495, abs=0.001)
    assert "timestamps_rebuilt" not in record
    assert sum("off the frame rate of 10" in w for w in result.warnings) == 5
    assert any("0.495 s" in w and "--rebuild-timestamps" in w for w in result.warnings)
    given = pq.read_table(next(source.glob("data/*/episode_000001.parquet")))["timestamp"].to_pylist()
    assert rows(tmp_path / "out")["timestamp"].to_pylist()[107 : 107 + 167] == given


def test_timestamps_as_fixed_by_the_owner_are_not_reported(shared_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "fixed"
    shutil.copytree(shared_data / "cr5_cube5/fixedts_overlay", source)
    shutil.copytree(shared_data / "cr5_cube5/badts/videos", source / "videos")
    result = convert(source, tmp_path / "out", progress=False)
    assert result.warnings == []
    assert igrft_json(tmp_path / "out")["timestamps"] == {}


def test_v1_of_umi(shared_data: Path, tmp_path: Path) -> None:
    result = convert(shared_data / "umi_cup_in_the_wild_v1", tmp_path / "out", task="serve the cup", progress=False)
    assert (result.format, result.episodes, result.frames, result.warnings) == ("lerobot-v1", 1, 400, [])
    reader = DatasetReader.open(tmp_path / "out")
    assert reader.cameras == ["observation.image"] and reader.episode_tasks(0) == ["serve the cup"]
    source = shared_data / "umi_cup_in_the_wild_v1/umi_cup_in_the_wild"
    given = pa.ipc.open_stream(pa.memory_map(str(source / "train/data-00000-of-00001.arrow"))).read_all()
    for name in ("observation.state", "end_pose", "gripper_width", "timestamp"):
        made, told = rows(tmp_path / "out")[name].to_pylist(), given[name].to_pylist()
        # One value a frame is kept as one, not as a list of one: LeRobot's converter and ours have it so.
        assert made == ([x for (x,) in told] if name == "gripper_width" else told)
    assert pq.ParquetFile(next((tmp_path / "out/data").rglob("*.parquet"))).metadata.num_rows == 400
    assert set(given.column_names) - set(reader.features) == {"episode_data_index_from", "episode_data_index_to"}
