"""Two sources of one batch: arrays in memory, and LeRobot's dataset."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_set import CAMERA, TASK, make_labelled_set
from synthetic import write_dataset
from training_sets import add_column, drop_columns, edit_column, edit_info

import igrft
from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.recordings.convert import convert
from igrft.training.data import cameras_with_files
from igrft.training.frames import ACTION_IS_PAD, MemoryFrames, concatenated, place_of, read_matrix

G1_SMALL = Path(__file__).resolve().parents[1] / "data" / "g1_small"


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_set(tmp_path_factory.mktemp("pictured") / "set")


def both(root: Path, chunk: int, later: int | None):
    from igrft.training.pictures import LeRobotFrames

    dataset = DatasetReader.open(root)
    return (
        MemoryFrames(dataset, chunk, later),
        LeRobotFrames(dataset, cameras_with_files(dataset), chunk, later),
        dataset,
    )


def labelled_recording(source: Path, folder: Path) -> None:
    """Convert a recording and label it, without looking at its pictures."""
    convert(source, folder / "converted", rebuild_timestamps=True, progress=False)
    steps = '{"steps": [{"type": "subtasks", "source": "proprio"}, {"type": "rewards"}, {"type": "returns"}]}'
    (folder / "pipeline.yaml").write_text(steps)
    igrft.annotate(folder / "converted", folder / "labelled", pipeline=folder / "pipeline.yaml", workers=1)


def check_equal(root: Path, index: np.ndarray, chunk: int, later: int, cameras: list[str]):
    """The same batch from both; LeRobot's has pictures, too."""
    memory, lerobot, _ = both(root, chunk, later)
    for now in (True, False):
        mine, theirs = memory.gather(index, next_too=now), lerobot.gather(index, next_too=now)
        assert (mine[1] is None) == (theirs[1] is None) == (not now)
        for a, b in zip(mine, theirs, strict=True):
            if a is None or b is None:
                continue
            assert set(b) == set(a) | set(cameras)
            for name, value in a.items():
                if isinstance(value, torch.Tensor):
                    assert value.dtype == b[name].dtype and torch.equal(value, b[name]), name
                else:
                    assert value == b[name]
            for camera in cameras:
                assert b[camera].dtype == torch.uint8 and b[camera].shape[:2] == (len(index), 3)
    return mine, theirs


def test_a_batch_by_hand(pictured: Path) -> None:
    dataset = DatasetReader.open(pictured)
    frames = MemoryFrames(dataset, 3, 4)
    state, action = read_matrix(dataset, c.STATE), read_matrix(dataset, c.ACTION)
    now, later = frames.gather(np.array([0, 38, 39, 69]))
    assert later is not None
    np.testing.assert_array_equal(now[c.STATE], state[[0, 38, 39, 69]])
    np.testing.assert_array_equal(later[c.STATE], state[[4, 39, 39, 69]])
    np.testing.assert_array_equal(now[c.ACTION][1], action[[38, 39, 39]])
    assert now[ACTION_IS_PAD].tolist() == [[False] * 3, [False, False, True], [False, True, True], [False, True, True]]
    assert now["task"] == later["task"] == [TASK] * 4
    assert now[c.ACTION].shape == (4, 3, 3) and now[c.ACTION].dtype == torch.float32
    assert c.ACTION not in later and ACTION_IS_PAD not in later
    assert MemoryFrames(dataset, 3).gather(np.array([0]))[1] is None


def test_both_sources_agree_on_a_labelled_set(pictured: Path) -> None:
    index = np.array([0, 39, 40, 69, 94, 95, 144, 20])
    _, (now, _) = check_equal(pictured, index, 6, 4, [CAMERA])
    assert now[CAMERA].shape == (8, 3, 48, 64)
    # The first and the twentieth picture differ, so that pictures are not all the same one.
    assert not torch.equal(now[CAMERA][0], now[CAMERA][7])


def test_pictures_are_those_of_the_frame(pictured: Path) -> None:
    from igrft.dataset.video import episode_frames

    _, lerobot, dataset = both(pictured, 2, 7)
    now, later = lerobot.gather(np.array([45, 97]))
    assert later is not None
    for row, frames, i in ((1, (5, 12), 0), (3, (2, 9), 1)):
        pictures = [torch.from_numpy(p.copy()).permute(2, 0, 1) for p in episode_frames(dataset, row, CAMERA)]
        for found, frame in ((now, frames[0]), (later, frames[1])):
            off = [(found[CAMERA][i].int() - p.int()).abs().float().mean().item() for p in pictures]
            assert off[frame] < 1
            assert off[frame] <= min(off)


def test_both_sources_agree_on_a_synthetic_set(tmp_path: Path) -> None:
    lengths = write_dataset(tmp_path / "set", 6, 200, width=3, episodes_per_file=4)
    add_column(tmp_path / "set", "observation.environment_state", lambda n, e: np.arange(5 * n).reshape(n, 5) + e)
    add_column(tmp_path / "set", "observation.velocity", lambda n, e: np.zeros(n))
    index = np.random.default_rng(0).choice(int(lengths.sum()), 40)
    mine, _ = check_equal(tmp_path / "set", index, 9, 5, [])
    assert set(mine[0]) == {c.STATE, "observation.environment_state", c.ACTION, ACTION_IS_PAD, "task"}


def test_columns_of_one_number(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", 3, 40, width=2)
    drop_columns(tmp_path / "set", c.STATE, c.ACTION)
    for name in (c.STATE, c.ACTION):
        add_column(tmp_path / "set", name, lambda n, e: np.arange(n) + 100 * e)
    mine, _ = check_equal(tmp_path / "set", np.array([0, 5, 39]), 4, 3, [])
    assert mine[0][c.STATE].shape == (3, 1) and mine[0][c.ACTION].shape == (3, 4, 1)


def test_both_sources_agree_on_the_small_recording(tmp_path: Path) -> None:
    labelled_recording(G1_SMALL, tmp_path)
    camera = "observation.images.cam_high"
    mine, theirs = check_equal(tmp_path / "labelled", np.array([0, 60, 109, 110, 219]), 30, 30, [camera])
    assert theirs[0][camera].shape == (5, 3, 480, 640)
    assert len(set(mine[0]["task"])) == 1


@pytest.mark.slow
def test_both_sources_agree_on_a_real_set_of_five_tasks(shared_data: Path, tmp_path: Path) -> None:
    labelled_recording(shared_data / "gr00t_robot_sim_PickNPlace", tmp_path)
    dataset = DatasetReader.open(tmp_path / "labelled")
    index = np.random.default_rng(0).choice(dataset.num_frames, 16, replace=False)
    mine, _ = check_equal(tmp_path / "labelled", index, 16, 16, cameras_with_files(dataset))
    assert len(set(mine[0]["task"])) > 1


def test_pictures_that_lie_in_the_table(tmp_path: Path) -> None:
    import io

    from PIL import Image

    write_dataset(tmp_path / "set", 2, 20, width=2)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (20, 6, 8, 3), dtype=np.uint8)
    dataset = DatasetReader.open(tmp_path / "set")

    def png(picture: np.ndarray) -> dict:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, format="PNG")
        return {"bytes": stream.getvalue(), "path": None}

    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "set" / dataset.data_files[0][0]
    column = pa.array([png(p) for p in pictures], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pq.read_table(path).append_column("observation.images.top", column), path)
    feature = {"dtype": "image", "shape": [6, 8, 3], "names": ["height", "width", "channels"]}
    edit_info(tmp_path / "set", lambda i: i["features"].update({"observation.images.top": feature}))
    _, (now, later) = check_equal(tmp_path / "set", np.array([3, 19]), 2, 2, ["observation.images.top"])
    _, lerobot, _ = both(tmp_path / "set", 2, 2)
    now, later = lerobot.gather(np.array([3, 19]))
    np.testing.assert_array_equal(now["observation.images.top"].permute(0, 2, 3, 1), pictures[[3, 19]])
    assert later is not None
    np.testing.assert_array_equal(later["observation.images.top"].permute(0, 2, 3, 1), pictures[[5, 19]])


def test_cameras_without_files_and_depth_are_left_out(pictured: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(pictured, tmp_path / "set"))

    def declare(info: dict) -> None:
        ghost = dict(info["features"][CAMERA])
        info["features"]["observation.images.ghost"] = ghost
        info["features"]["observation.images.depth"] = {**ghost, "info": {**ghost["info"], "is_depth_map": True}}

    edit_info(root, declare)
    assert cameras_with_files(DatasetReader.open(root)) == [CAMERA]
    check_equal(root, np.array([0, 144]), 3, 2, [CAMERA])


def test_a_timestamp_without_a_picture(pictured: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(pictured, tmp_path / "set"))
    edit_column(root, c.TIMESTAMP, lambda v, e: v + 0.03 * (e == 1) * (np.arange(len(v)) == 4))
    _, lerobot, _ = both(root, 2, None)
    lerobot.gather(np.array([43]))
    with pytest.raises(IgrftError, match=r"set: episode 1, frame 4: .*0.1 ms.*--rebuild-timestamps") as error:
        lerobot.gather(np.array([44]))
    assert "\n" not in str(error.value)


def test_a_video_that_is_gone(pictured: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(pictured, tmp_path / "set"))
    _, lerobot, _ = both(root, 2, None)
    next(root.glob("videos/*/*/file-001.mp4")).unlink()
    with pytest.raises(IgrftError, match=r"episode 3, frame 5 cannot be read \(.*file-001.mp4.*run: igrft validate"):
        lerobot.gather(np.array([100]))


def test_metadata_that_disagrees_with_the_files(pictured: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(pictured, tmp_path / "set"))
    edit_info(root, lambda i: i["features"][c.STATE].update(shape=[4]))
    with pytest.raises(IgrftError, match=r"LeRobot cannot open .*set \(.*\); run: igrft validate") as error:
        both(root, 2, None)
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", 2, 20, width=2)
    edit_column(tmp_path / "set", c.TASK_INDEX, lambda v, e: v + (np.arange(len(v)) == 3) * e)
    with pytest.raises(
        IgrftError, match=r"set: episode 1, frame 3 has task_index 1, but meta/tasks.parquet has 1 rows"
    ):
        MemoryFrames(DatasetReader.open(tmp_path / "set"), 2)
    for name in (c.STATE, c.ACTION):
        drop_columns(tmp_path / "set", name)
        with pytest.raises(IgrftError, match=f"has no column '{name}'"):
            MemoryFrames(DatasetReader.open(tmp_path / "set"), 2)


def test_a_frame_is_named_by_its_place(pictured: Path) -> None:
    dataset = DatasetReader.open(pictured)
    assert [place_of(dataset, i) for i in (0, 39, 40, 144)] == [
        "episode 0, frame 0",
        "episode 0, frame 39",
        "episode 1, frame 0",
        "episode 3, frame 49",
    ]


def test_parts_of_several_datasets_are_put_in_place() -> None:
    parts = [
        (np.array([0, 2]), {"x": torch.tensor([1, 2]), "task": ["a", "b"]}),
        (np.array([3, 1]), {"x": torch.tensor([3, 4]), "task": ["c", "d"]}),
    ]
    whole = concatenated(parts, 4)
    assert whole["x"].tolist() == [1, 4, 2, 3] and whole["task"] == ["a", "d", "b", "c"]
    alone = {"x": torch.tensor([1, 2])}
    assert concatenated([(np.array([0, 1]), alone)], 2) is alone


def test_a_batch_takes_well_under_a_millisecond(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_dataset(tmp_path / "set", 50, 20_000, width=14)
    frames = MemoryFrames(DatasetReader.open(tmp_path / "set"), 30, 30)
    index = np.random.default_rng(0).choice(20_000, 256)
    took = []
    for _ in range(30):
        start = time.perf_counter()
        frames.gather(index)
        took.append(time.perf_counter() - start)
    assert min(took) < 1e-3
