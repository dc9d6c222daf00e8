"""Optical flow: direction and size against ground truth, RAFT's loading, the overlay."""

from __future__ import annotations

import dataclasses
import json
import urllib.error
from pathlib import Path

import cv2
import numpy as np
import pytest
from interaction_runs import label
from picture_sets import picture_set, square_over_background, texture

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError
from igrft.steps.interaction import Interaction
from igrft.steps.interaction.flow import DIS_PRESETS, make_flow
from igrft.steps.interaction.overlay import overlay


def flow_of(name: str, weights: str | None = None, updates: int = 12, batch: int = 8):
    return make_flow(name, weights=weights, updates=updates, device="cpu", batch=batch, threads=1)


@pytest.mark.parametrize("name", list(DIS_PRESETS))
def test_flow_points_where_things_go(name: str) -> None:
    wide = texture(500, 400)
    previous, following = wide[50:350, 50:450], wide[48:348, 45:445]  # all moves by (5, 2)
    flow = flow_of(name)(previous, following)
    assert flow.shape == (300, 400, 2) and flow.dtype == np.float32
    assert np.median(flow.reshape(-1, 2), axis=0) == pytest.approx([5, 2], abs=0.1)


def test_a_stream_has_one_flow_fewer_than_pictures() -> None:
    pictures = [texture(64, 64, seed=s) for s in range(4)]
    estimator = flow_of("dis")
    flows = list(estimator.stream(iter(pictures)))
    assert len(flows) == 3
    assert np.array_equal(flows[1], estimator(pictures[1], pictures[2]))  # nothing carries over
    assert list(estimator.stream(iter(pictures[:1]))) == []


def test_against_ground_truth(shared_data: Path) -> None:
    """End-point error on a pair of 50x50 pixels. (Of the folder's other pair, the truth does not explain
    the pictures: warping one by it brings it no nearer to the other.)"""
    folder = shared_data / "mmflow_flow_gt/tests/data"
    pictures = [cv2.imread(str(folder / f"00001_img{i}.ppm"), cv2.IMREAD_GRAYSCALE) for i in (1, 2)]
    truth = cv2.readOpticalFlow(str(folder / "00001_flow.flo"))
    flow = flow_of("dis")(*pictures)
    error, motion = np.linalg.norm(flow - truth, axis=2), np.linalg.norm(truth, axis=2)
    assert error.mean() < 0.5 * motion.mean()  # 0.70 of 1.78 pixels
    assert np.median(error) < 0.5
    backwards = np.linalg.norm(flow_of("dis")(*reversed(pictures)) - truth, axis=2)
    assert backwards.mean() > 1.5 * motion.mean()


# RAFT: loading is real, the weights of these tests are random.


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    state = raft_small(weights=None).state_dict()
    folder = tmp_path_factory.mktemp("weights")
    torch.save(state, folder / "small.pth")
    save_file(state, folder / "small.safetensors")
    return {"pth": folder / "small.pth", "safetensors": folder / "small.safetensors"}


def test_raft_pads_to_multiples_of_8_and_crops_back(weights: dict[str, Path]) -> None:
    pictures = [np.repeat(texture(130, 101, seed=s)[..., None], 3, axis=2) for s in range(4)]
    flows = {}
    for kind, path in weights.items():
        estimator = flow_of("raft_small", weights=str(path), updates=2, batch=2)
        assert estimator.color == "rgb"
        flows[kind] = list(estimator.stream(iter(pictures)))
        assert len(flows[kind]) == 3 and all(f.shape == (101, 130, 2) and f.dtype == np.float32 for f in flows[kind])
        assert flows[kind][2] == pytest.approx(estimator(pictures[2], pictures[3]), abs=1e-3)
    assert np.array_equal(flows["pth"][0], flows["safetensors"][0])


def test_raft_labels_an_episode(weights: dict[str, Path], tmp_path: Path) -> None:
    pictures = square_over_background(3, size=(160, 128), side=40, start=(40, 30), step=(2, 0))
    dataset = picture_set(tmp_path, [pictures], dtype="image")
    step = Interaction(
        flow="raft_small", raft_weights=str(weights["pth"]), raft_updates=1, device="cpu", camera_motion="static"
    )
    found = label(dataset, step)
    assert found.record[c.INTERACTION]["flow"] == "raft_small"
    assert np.isfinite(found.columns[c.INTERACTION_PIXELS]).all()


def test_weights_of_another_model_are_refused(weights: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(IgrftError, match="does not hold the weights of torchvision's raft_large"):
        flow_of("raft_large", weights=str(weights["pth"]))
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    with pytest.raises(IgrftError, match=r"broken.pth cannot be read as weights"):
        flow_of("raft_small", weights=str(broken))


def test_weights_key_staged_work_by_content(weights: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(weights["pth"].read_bytes())
    step = Interaction(flow="raft_small", raft_weights=str(weights["pth"]))
    first = step.expand()[0].settings()
    assert dataclasses.replace(step, raft_weights=str(copy)).expand()[0].settings() == first
    copy.write_bytes(b"other")
    assert dataclasses.replace(step, raft_weights=str(copy)).expand()[0].settings() != first


def test_no_weights_and_no_network_is_an_error_never_random(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path), raising=False)
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(
        IgrftError, match=r"raft_large needs weights, and https://.* cannot be downloaded .*raft_weights"
    ):
        flow_of("raft_large")


# The overlay of a report.


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> DatasetReader:
    return picture_set(tmp_path_factory.mktemp("squares"), [square_over_background(6)])


def test_overlay_shows_what_was_counted(squares: DatasetReader) -> None:
    step = Interaction()
    stored = label(squares, step)
    entry = json.loads(json.dumps(dataclasses.asdict(step)))  # as meta/igrft.json has it
    for settings in (step, entry):
        for shown in overlay(squares, 0, [5, 0, 3], settings, stored.record[c.INTERACTION]):
            f = shown["frame"]
            assert shown["pixels"] == stored.columns[c.INTERACTION_PIXELS][f]
            assert shown["interaction"] == stored.columns[c.INTERACTION][f]
            assert shown["rgb"].shape == shown["flow"].shape == (240, 320, 3)
            assert shown["moving"].sum() * 4 == shown["pixels"]
            assert not shown["mask"].any()
            red, green, blue = shown["flow"][shown["moving"]].mean(axis=0)
            assert red > 100 > max(green, blue)  # to the right is red
    assert [s["frame"] for s in overlay(squares, 0, [5, 0, 3], step)] == [5, 0, 3]
    with pytest.raises(EpisodeError, match="episode 0 has no frame 6"):
        overlay(squares, 0, [6], step)


def test_overlay_blackens_the_robot_and_takes_out_the_cameras_motion(tmp_path: Path) -> None:
    dataset = picture_set(tmp_path / "set", [square_over_background(4, step=(-4, 2), pan=(3, 1), start=(300, 180))])
    masks = np.zeros((4, 480, 640), bool)
    masks[:, :, :100] = True
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks/episode_000000.npy", masks)
    step = Interaction(robot_mask="folder", mask_path=str(tmp_path / "masks"))
    stored = label(dataset, step)
    (shown,) = overlay(dataset, 0, [1], step, stored.record[c.INTERACTION])
    assert shown["compensated"] and shown["pixels"] == stored.columns[c.INTERACTION_PIXELS][1]
    assert shown["mask"][:, :50].all() and not shown["mask"][:, 50:].any()
    assert shown["flow"][:, :50].max() == 0
    (alone,) = overlay(dataset, 0, [1], step)
    assert alone["pixels"] == shown["pixels"]
    (static,) = overlay(dataset, 0, [1], step, {"camera_motion": "static"})
    assert static["pixels"] > 10 * shown["pixels"]
