"""Robot masks: from a feature, from folders of three kinds, real ones, and bad ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from interaction_runs import label
from picture_sets import CAMERA, encode, picture_set, square_over_background

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError
from igrft.steps.interaction import Interaction
from igrft.steps.interaction.masks import Keep, folder_mask_at, folder_masks

COUNT = 5
MASK = "observation.images.robot_mask"


@pytest.fixture
def squares(tmp_path: Path) -> DatasetReader:
    """A square moves; it is the robot."""
    return picture_set(tmp_path / "set", [square_over_background(COUNT)], dtype="image")


def robot(frame: int) -> np.ndarray:
    """The square's mask, a little wider than it: flow bleeds over edges. uint8 [480, 640], 0 or 255."""
    mask = np.zeros((480, 640), np.uint8)
    left = 200 + 4 * frame
    mask[150:330, left - 30 : left + 150] = 255
    return mask


MASKS = [robot(f) for f in range(COUNT)]


def write(folder: Path, kind: str) -> Path:
    folder.mkdir()
    if kind == "npy":
        np.save(folder / "episode_000000.npy", np.stack(MASKS) > 0)
    elif kind == "float":
        np.save(folder / "episode_000000.npy", np.stack(MASKS).astype(np.float32) / 255)
    elif kind == "mp4":
        encode(folder / "episode_000000.mp4", MASKS)
    else:
        (folder / "episode_000000").mkdir()
        for f, mask in enumerate(MASKS):
            cv2.imwrite(str(folder / f"episode_000000/{f:06d}.png"), mask // 255 if kind == "png of 0 and 1" else mask)
    return folder


@pytest.mark.parametrize("kind", ["png", "png of 0 and 1", "mp4", "npy", "float"])
def test_a_folder_of_masks(squares: DatasetReader, tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path / "masks", kind)
    found = label(squares, Interaction(robot_mask="folder", mask_path=str(folder)))
    assert found.columns[c.INTERACTION_PIXELS].max() < 400
    assert label(squares, Interaction()).columns[c.INTERACTION_PIXELS].min() > 10_000
    assert found.record[c.INTERACTION]["robot_mask"] == "folder"
    streamed = list(folder_masks(folder, 0, COUNT))
    for frame in (0, 3):
        assert np.array_equal(folder_mask_at(folder, 0, COUNT, frame), streamed[frame])


@pytest.mark.parametrize("dtype", ["image", "video"])
def test_a_feature_of_masks(tmp_path: Path, dtype: str) -> None:
    dataset = picture_set(tmp_path / "set", [square_over_background(COUNT)], dtype="image")
    masks = picture_set(tmp_path / "masks", [MASKS], dtype=dtype, camera=MASK)
    dataset = merge(dataset, masks)
    found = label(dataset, Interaction(robot_mask="feature", mask_key=MASK))
    assert found.record[c.INTERACTION]["camera"] == CAMERA
    assert found.columns[c.INTERACTION_PIXELS].max() < 400


def merge(into: DatasetReader, other: DatasetReader) -> DatasetReader:
    """Add the camera of ``other`` to ``into``."""
    info = json.loads((into.root / "meta/info.json").read_text())
    info["features"][MASK] = other.features[MASK]
    (into.root / "meta/info.json").write_text(json.dumps(info))
    for path in ("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"):
        table, extra = pq.read_table(into.root / path), pq.read_table(other.root / path)
        for name in extra.column_names:
            if name not in table.column_names:
                table = table.append_column(name, extra.column(name))
        pq.write_table(pa.table(table), into.root / path)
    if (other.root / "videos").is_dir():
        (other.root / "videos").rename(into.root / "videos")
    return DatasetReader.open(into.root)


def test_a_mask_of_another_size(squares: DatasetReader, tmp_path: Path) -> None:
    small = np.stack([cv2.resize(m, (320, 240), interpolation=cv2.INTER_NEAREST) for m in MASKS]) > 0
    np.save(tmp_path / "episode_000000.npy", small)
    step = Interaction(robot_mask="folder", mask_path=str(tmp_path))
    with pytest.raises(
        EpisodeError, match=r"episode 0, frame 0: the robot mask is 320x240 and .* is 640x480; .*mask_resize"
    ):
        label(squares, step)
    allowed = Interaction(robot_mask="folder", mask_path=str(tmp_path), mask_resize=True)
    assert label(squares, allowed).columns[c.INTERACTION_PIXELS].max() < 400


def test_masks_that_are_not_there(squares: DatasetReader, tmp_path: Path) -> None:
    step = Interaction(robot_mask="folder", mask_path=str(tmp_path))
    with pytest.raises(EpisodeError, match=r"has no masks for it; expected episode_000000/000000.png"):
        label(squares, step)
    folder = write(tmp_path / "masks", "png")
    (folder / "episode_000000/000004.png").unlink()
    step = Interaction(robot_mask="folder", mask_path=str(folder))
    with pytest.raises(EpisodeError, match=r"000004.png is missing; 4 masks are there, 5 are needed"):
        label(squares, step)
    (folder / "episode_000000/000004.png").write_text("no picture")
    with pytest.raises(EpisodeError, match=r"000004.png is not a picture"):
        label(squares, step)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 480, 640), bool), r"is \[4, 480, 640\], expected \[5, height, width\]"),
        (np.zeros((5, 480), bool), r"is \[5, 480\], expected"),
        (np.zeros((5, 480, 640), np.int64), "holds int64; save the masks as bool, uint8 or float"),
    ],
)
def test_arrays_that_are_no_masks(squares: DatasetReader, tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "episode_000000.npy", array)
    with pytest.raises(EpisodeError, match=message):
        label(squares, Interaction(robot_mask="folder", mask_path=str(tmp_path)))


def test_a_video_of_too_few_masks(squares: DatasetReader, tmp_path: Path) -> None:
    encode(tmp_path / "episode_000000.mp4", MASKS[:3])
    with pytest.raises(EpisodeError, match="holds 3 masks, the episode has 5 frames"):
        label(squares, Interaction(robot_mask="folder", mask_path=str(tmp_path)))


def test_changed_masks_change_the_episodes_key(squares: DatasetReader, tmp_path: Path) -> None:
    heavy = Interaction(robot_mask="folder", mask_path=str(tmp_path / "masks")).expand()[0]
    assert heavy.episode_input(squares, 0) is None
    folder = write(tmp_path / "masks", "png")
    first = heavy.episode_input(squares, 0)
    assert json.loads(json.dumps(first)) == first
    assert heavy.episode_input(squares, 0) == first
    os.utime(folder / "episode_000000/000002.png", ns=(1, 2**62))
    second = heavy.episode_input(squares, 0)
    assert second != first
    # Two masks that change places: the same names, sizes and times together.
    a, b = (folder / f"episode_000000/{i:06d}.png" for i in (0, 1))
    a.rename(folder / "c"), b.rename(a), (folder / "c").rename(b)
    assert heavy.episode_input(squares, 0) != second


def test_the_threshold_of_a_mask() -> None:
    def kept(mask: np.ndarray, threshold: float | None) -> list[float]:
        keep = Keep(CAMERA, (4, 1), (4, 1), allow_resize=False, threshold=threshold)
        return keep(mask, 0, 0)[0].tolist()

    assert kept(np.array([[0, 127, 128, 255]], np.uint8), None) == [1, 1, 0, 0]
    assert kept(np.array([[0, 127, 128, 255]], np.uint8), 0) == [1, 0, 0, 0]
    assert kept(np.array([[0, 0.5, 0.6, 1]], np.float32), None) == [1, 1, 0, 0]
    assert kept(np.array([[0, 0.5, 0.6, 1]], np.float32), 0.9) == [1, 1, 1, 0]
    assert kept(np.array([[False, False, True, True]]), None) == [1, 1, 0, 0]


def test_a_pixel_of_the_flow_is_robot_where_half_of_it_is() -> None:
    keep = Keep(CAMERA, (8, 2), (4, 1), allow_resize=False, threshold=None)
    mask = np.array([[0, 255, 255, 255, 0, 0, 255, 255], [0, 0, 0, 255, 0, 255, 255, 255]], np.uint8)
    assert keep(mask, 0, 0)[0].tolist() == [1, 0, 1, 0]


# Real masks.


def test_exact_masks_of_a_simulated_robot(shared_data: Path, tmp_path: Path) -> None:
    """With the robot masked fewer pixels move, and their number tells frames on which the object moves."""
    source = shared_data / "cosmos_gr1_sim_gtmask"
    truth = json.loads((source / "cosmos_example1_gt.json").read_text())
    dataset = picture_set(tmp_path / "set", [[np.zeros((64, 64), np.uint8)] * len(truth)], fps=20)
    path = dataset.video(0, CAMERA).path
    path.unlink()
    path.symlink_to(source / "input_video.mp4")
    for entry in truth:
        png = cv2.imread(
            str(source / f"segmentation/semantic_segmentation_{entry['png']:06d}.png"), cv2.IMREAD_UNCHANGED
        )
        names = json.loads(
            (source / f"segmentation_label/semantic_segmentation_labels_{entry['png']:06d}.json").read_text()
        )
        code = png[..., 2] + 256 * png[..., 1].astype(np.int32)
        robot = [
            int(k.strip("()").split(",")[0]) + 256 * int(k.split(",")[1])
            for k, v in names.items()
            if _robot(v["class"])
        ]
        mask = np.isin(code, robot)
        assert abs(int(mask.sum()) - entry["robot_px"]) < 0.02 * entry["robot_px"]
        target = tmp_path / "masks/episode_000000" / f"{entry['frame']:06d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), cv2.dilate(mask.astype(np.uint8) * 255, np.ones((15, 15), np.uint8)))
    bare = label(dataset, Interaction())
    masked = label(dataset, Interaction(robot_mask="folder", mask_path=str(tmp_path / "masks")))
    pixels = masked.columns[c.INTERACTION_PIXELS]
    assert pixels.sum() < 0.75 * bare.columns[c.INTERACTION_PIXELS].sum()
    centre = np.array([entry["obj_cxy"] for entry in truth])
    moved = np.linalg.norm(np.diff(centre, axis=0), axis=1) * (480 / 800) * (20 / 30) > 2**0.5  # as flow_threshold
    on, off = pixels[:-1][moved], pixels[:-1][~moved]
    assert np.mean(on[:, None] > off) > 0.8  # area under the curve; 0.87


def _robot(name: str) -> bool:
    return name.startswith(("gripper0", "robot0"))


def test_a_models_masks_of_a_moving_camera(shared_data: Path, tmp_path: Path) -> None:
    """RoboEngine's example: a Franka folds a towel before a camera that moves with it."""
    source = shared_data / "roboengine_examples"
    dataset = picture_set(tmp_path / "set", [[np.zeros((64, 64), np.uint8)] * 219])
    path = dataset.video(0, CAMERA).path
    path.unlink()
    path.symlink_to(source / "video_original.mp4")
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "episode_000000.mp4").symlink_to(source / "video_mask_robot.mp4")
    found = label(dataset, Interaction(robot_mask="folder", mask_path=str(masks)))
    record = found.record[c.INTERACTION]
    assert record["camera_motion"] == "compensate" and record["inlier_share"] > 0.9
    assert 0.05 < record["share"] < 0.95
