"""The entry of a pipeline file: what it expands to, keys, choice of camera, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from picture_sets import picture_set

from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.steps.base import Step
from igrft.steps.interaction import Interaction, InteractionCounts, InteractionThreshold
from igrft.steps.interaction.camera import rides_on_robot
from igrft.steps.interaction.robot_mask import RobotMask

BLANK = [np.zeros((48, 64), np.uint8)] * 2


def with_cameras(root: Path, *names: str, files: tuple[str, ...] | None = None) -> DatasetReader:
    dataset = picture_set(root, [BLANK], dtype="image")
    feature = next(f for f in dataset.features.values() if f["dtype"] == "image")
    plain = {k: f for k, f in dataset.features.items() if f["dtype"] != "image"}
    dataset.info["features"] = {name: {**feature, "dtype": "video"} for name in names} | plain
    for name in files if files is not None else names:
        (root / f"videos/{name}/chunk-000").mkdir(parents=True)
        (root / f"videos/{name}/chunk-000/file-000.mp4").touch()
    return dataset


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("wrist", "front"), "front"),
        (("cam_left_wrist", "cam_high", "cam_low"), "cam_high"),
        (("hand_camera", "gripper", "eef_cam"), "hand_camera"),  # all ride: the first
        (("robot0_eye_in_hand", "agentview"), "agentview"),
        (("depth", "robot_mask", "top"), "top"),
    ],
)
def test_the_camera_unset(tmp_path: Path, names: tuple[str, ...], chosen: str) -> None:
    full = [f"observation.images.{n}" for n in names]
    assert Interaction().resolve(with_cameras(tmp_path, *full)).camera == f"observation.images.{chosen}"


def test_a_camera_without_files_is_passed_over(tmp_path: Path) -> None:
    dataset = with_cameras(tmp_path, "observation.images.a", "observation.images.b", files=("observation.images.b",))
    assert Interaction().resolve(dataset).camera == "observation.images.b"
    with pytest.raises(IgrftError, match="camera 'observation.images.a' has no file in any episode"):
        Interaction(camera="observation.images.a").resolve(dataset)
    with pytest.raises(IgrftError, match="no camera with files"):
        Interaction().resolve(with_cameras(tmp_path / "none", "observation.images.a", files=()))


def test_an_unknown_camera_names_the_near_miss(tmp_path: Path) -> None:
    dataset = with_cameras(tmp_path, "observation.images.cam_high", "observation.images.wrist")
    for wanted, said in (
        (
            "observation.images.cam_hihg",
            r"did you mean 'observation.images.cam_high'\? Its cameras: .*cam_high, .*wrist",
        ),
        ("cam_high", "did you mean 'observation.images.cam_high'"),
        ("xyz", "known: observation.images.cam_high, observation.images.wrist"),
    ):
        with pytest.raises(IgrftError, match=f"has no camera '{wanted}'; {said}"):
            Interaction(camera=wanted).resolve(dataset)


def test_names_that_ride() -> None:
    assert not rides_on_robot("observation.images.top")
    assert rides_on_robot("observation.images.cam_right_wrist")


def test_steps_with_their_own_settings() -> None:
    step = Interaction(camera="observation.images.front", pixel_threshold=99, close_gaps=3, threads=2)
    heavy, cheap = step.expand()
    assert isinstance(step, Step) and isinstance(heavy, InteractionCounts) and isinstance(cheap, InteractionThreshold)
    assert heavy.heavy and not cheap.heavy
    assert set(cheap.needs) == set(heavy.makes) and cheap.makes == step.makes
    assert (cheap.pixel_threshold, cheap.close_gaps, heavy.threads) == (99, 3, 2)
    # every setting reaches one of the parts
    finder, *both = dataclasses.replace(step, robot_mask="exemplar", mask_path="painted").expand()
    assert isinstance(finder, RobotMask) and finder.heavy and both[0].needs == finder.makes
    parts = {f.name for part in (finder, heavy, cheap) for f in dataclasses.fields(part)}
    assert {f.name for f in dataclasses.fields(step)} == parts


@pytest.mark.parametrize(
    "change",
    [
        {"flow_threshold": 4.0},
        {"pixel_threshold": 1000.0},
        {"camera_motion": "static"},
        {"motion_threshold": 1.0},
        {"moving_share": 0.5},
        {"clear_share": 0.5},
        {"min_inlier_share": 0.1},
        {"shortest_phase": 5},
        {"close_gaps": 5},
        {"threads": 2},
        {"device": "cuda"},
        {"batch": 2},
        {"raft_updates": 3},
        {"mask_resize": True},
        {"video_backend": "pyav"},
    ],
)
def test_what_does_not_decode_again(change: dict[str, object]) -> None:
    base, changed = Interaction(), Interaction(**change)  # type: ignore[arg-type]
    assert base.expand()[0].settings() == changed.expand()[0].settings()


@pytest.mark.parametrize(
    "change",
    [
        {"camera": "observation.images.b"},
        {"flow": "dis_medium"},
        {"flow_height": 480},
        {"reference_fps": None},
        {"ladder": (0.5, 2.0)},
        {"flow_threshold": 3.0},  # not on the ladder: joins it
        {"robot_mask": "folder", "mask_path": "masks"},
        {"robot_mask": "feature", "mask_key": "mask"},
        {"flow": "raft_small"},
    ],
)
def test_what_does(change: dict[str, object]) -> None:
    base, changed = Interaction(), Interaction(**change)  # type: ignore[arg-type]
    assert base.expand()[0].settings() != changed.expand()[0].settings()


def test_a_threshold_off_the_ladder_joins_it() -> None:
    heavy, cheap = Interaction(flow_threshold=3.0).expand()
    assert heavy.ladder == cheap.ladder == (0.5, 1.0, 2.0, 3.0, 4.0, 8.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flow": "rafts_mall"}, "unknown flow 'rafts_mall'; did you mean 'raft_small'"),
        ({"camera_motion": "statik"}, "unknown camera_motion 'statik'; did you mean 'static'"),
        ({"video_backend": "torchcodex"}, "unknown video_backend 'torchcodex'; did you mean 'torchcodec'"),
        ({"robot_mask": "feature"}, "robot_mask: feature needs mask_key"),
        ({"robot_mask": "folder"}, "robot_mask: folder needs mask_path"),
        ({"flow_height": 8}, "flow_height must be at least 32"),
        ({"flow_threshold": 0.0}, "must be positive"),
        ({"reference_fps": 0.0}, "reference_fps must be positive or null"),
        ({"min_inlier_share": 1.5}, "min_inlier_share is a share"),
        ({"close_gaps": -1}, "close_gaps must not be negative"),
        ({"mask_every": 0}, "mask_every must be at least 1"),
        ({"mask_every": 101}, "mask_every must be at most 100, got 101"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Interaction(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["exemplar", "roboengine", "sam3", "grounded_sam2"])
def test_thresholds_of_masks_that_are_found_are_probabilities(source: str) -> None:
    def step(**changed: object) -> Interaction:
        return Interaction(robot_mask=source, mask_path="painted", **changed)  # type: ignore[arg-type]

    for threshold in (0, 1, 127, -3, float("nan")):
        with pytest.raises(UsageError, match=f"mask_threshold is a probability where robot_mask: {source} finds"):
            step(mask_threshold=threshold)
    for score in (-0.1, 1.1, 50, float("nan")):
        with pytest.raises(UsageError, match="mask_score is a confidence from 0 to 1"):
            step(mask_score=score)
    for good in (0.01, 0.5, 0.99):
        step(mask_threshold=good, mask_score=good)
    step(mask_score=0.0), step(mask_score=1.0)
    # Given masks have units of their own.
    Interaction(robot_mask="folder", mask_path="masks", mask_threshold=127)


def test_by_default_pixels_are_counted_as_the_paper_does() -> None:
    assert Interaction().change_threshold == 0 == InteractionCounts().change_threshold


def test_refusals_before_any_work(tmp_path: Path) -> None:
    dataset = picture_set(tmp_path, [BLANK], dtype="image")
    with pytest.raises(IgrftError, match=r"mask_key 'observation.images.fornt' is not .*; did you mean"):
        Interaction(robot_mask="feature", mask_key="observation.images.fornt").resolve(dataset)
    with pytest.raises(IgrftError, match="mask_path .*nowhere is not a folder"):
        Interaction(robot_mask="folder", mask_path=str(tmp_path / "nowhere")).resolve(dataset)
    with pytest.raises(IgrftError, match="raft_weights: there is no file"):
        Interaction(flow="raft_small", raft_weights=str(tmp_path / "nowhere.pth")).resolve(dataset)


def test_decord_on_av1_is_refused_before_any_work(tmp_path: Path) -> None:
    dataset = picture_set(tmp_path, [[np.zeros((64, 64), np.uint8)] * 3], codec="libsvtav1")
    with pytest.raises(IgrftError, match="is AV1, which decord cannot decode; set video_backend: pyav"):
        Interaction(video_backend="decord").resolve(dataset)
