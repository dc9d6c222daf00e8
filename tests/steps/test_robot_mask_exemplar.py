"""Masks learned from a few painted frames: how well, from what, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from interaction_runs import label
from picture_sets import CAMERA, picture_set, texture
from robot_scenes import COUNT, arm_set, paint, scene

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import episode_frames, stream_at
from igrft.errors import IgrftError, UsageError
from igrft.pipeline.config import Pipeline
from igrft.pipeline.run import annotate
from igrft.steps.base import Episode
from igrft.steps.interaction import Interaction
from igrft.steps.interaction.robot_mask import RobotMask
from igrft.steps.interaction.robot_mask.carry import overlap
from igrft.steps.interaction.robot_mask.exemplar import learn
from igrft.steps.interaction.robot_mask.features import WIDTH, pixel_features
from igrft.steps.interaction.robot_mask.given import Exemplar, read_exemplar
from igrft.steps.interaction.robot_mask.network import train
from igrft.steps.interaction.robot_mask.packed import anchors, unpack


@pytest.fixture
def arms(tmp_path: Path) -> DatasetReader:
    return arm_set(tmp_path / "set")


def found_masks(dataset: DatasetReader, step: Interaction, row: int) -> list[np.ndarray | None]:
    finder = step.resolve(dataset).expand()[0]
    assert isinstance(finder, RobotMask)
    labels = finder.open(dataset, None)(Episode(dataset, row))
    size = tuple(labels.record["robot_mask"]["size"])
    return [None if m is None else unpack(m, size) for m in labels.staged["robot_mask"]]


@pytest.mark.parametrize("value", [255, 1])
def test_two_painted_frames_are_enough_for_another_episode(arms: DatasetReader, tmp_path: Path, value: int) -> None:
    folder = paint(tmp_path / "painted", (0, 0), (0, 7), value=value)
    step = Interaction(robot_mask="exemplar", mask_path=str(folder), mask_every=1)
    masks = found_masks(arms, step, row=1)
    assert min(overlap(m, scene(f, 1)[1]) for f, m in enumerate(masks) if m is not None) > 0.95


def test_masks_of_every_third_frame_and_the_last(arms: DatasetReader, tmp_path: Path) -> None:
    assert anchors(8, 3) == [0, 3, 6, 7] and anchors(7, 3) == [0, 3, 6] and anchors(1, 3) == [0] and anchors(0, 3) == []
    folder = paint(tmp_path / "painted", (0, 0), (0, 7))
    step = Interaction(robot_mask="exemplar", mask_path=str(folder), mask_every=3, mask_batch=2)
    masks = found_masks(arms, step, row=0)
    assert [f for f, m in enumerate(masks) if m is not None] == [0, 3, 6, 7]
    found = label(arms, step)
    facts = found.record[c.INTERACTION]["mask"]
    truth = np.array([scene(f)[1].mean() for f in range(COUNT)])
    assert np.abs(found.staged["interaction_mask_coverage"] - truth).max() < 0.01
    assert facts["vanished"] == facts["full"] == facts["flicker"] == 0 and facts["agreement"] > 0.7
    bare = label(arms, Interaction()).columns[c.INTERACTION_PIXELS]
    grown = Interaction(robot_mask="exemplar", mask_path=str(folder), mask_every=3, mask_grow=24)
    assert label(arms, grown).columns[c.INTERACTION_PIXELS].max() < 0.1 * bare.max()


@pytest.mark.parametrize("dtype", ["image", "video"])
@pytest.mark.parametrize("every", [1, 3, 30])
def test_some_frames_of_a_camera(tmp_path: Path, dtype: str, every: int) -> None:
    dataset = picture_set(
        tmp_path / "set", [[texture(64, 48, seed=40 * e + f) for f in range(40)] for e in range(2)], dtype=dtype
    )
    all_of_them = list(episode_frames(dataset, 1, CAMERA, size=(32, 24)))
    wanted = anchors(40, every)
    found = list(stream_at(dataset, 1, CAMERA, wanted, size=(32, 24)))
    assert [f for f, _ in found] == wanted
    assert all(np.array_equal(picture, all_of_them[f]) for f, picture in found)
    assert list(stream_at(dataset, 1, CAMERA, [])) == []


def test_the_same_frames_give_the_same_masks(arms: DatasetReader, tmp_path: Path) -> None:
    folder = paint(tmp_path / "painted", (0, 3))
    pictures = [scene(5, 1)[0]]
    first, second = (learn(arms, CAMERA, folder, 240)(pictures) for _ in range(2))
    assert first.dtype == bool and first.shape == (1, 240, 320)
    assert np.array_equal(first, second)


def test_another_painted_frame_redoes_the_masks_and_a_plain_rerun_nothing(
    arms: DatasetReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = paint(tmp_path / "painted", (0, 0), (0, 7)), tmp_path / "out"
    opened: list[str] = []
    for kind in (RobotMask, type(Interaction().expand()[0])):
        plain = kind.open

        def counting(self, dataset, reduced, plain=plain):
            opened.append(self.type)
            return plain(self, dataset, reduced)

        monkeypatch.setattr(kind, "open", counting)

    def run(**settings: object) -> bool:
        opened.clear()
        step = Interaction(robot_mask="exemplar", mask_path=str(folder), **settings)  # type: ignore[arg-type]
        return annotate(arms.root, target, pipeline=Pipeline("masks", (step,)), workers=1).unchanged

    assert not run() and opened == ["robot_mask", "interaction_counts"]
    assert run() and opened == []
    assert not run(flow="dis_medium", flow_height=120) and opened == ["interaction_counts"]
    assert not run(pixel_threshold=100) and opened == ["interaction_counts"]  # the flow is the default one again
    assert not run(mask_every=2) and opened == ["robot_mask", "interaction_counts"]
    paint(folder, (1, 4))
    assert not run(mask_every=2) and opened == ["robot_mask", "interaction_counts"]
    paint(folder, (1, 4), value=255)  # written again, the same
    assert run(mask_every=2) and opened == []


def test_what_is_refused(arms: DatasetReader, tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        """Before any work: `resolve` says it, where no step has spent anything yet."""
        with pytest.raises(IgrftError) as caught:
            Interaction(robot_mask="exemplar", mask_path=str(folder)).resolve(arms)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with pytest.raises(UsageError, match="exemplar needs mask_path"):
        Interaction(robot_mask="exemplar")
    with pytest.raises(UsageError, match="did you mean 'exemplar'"):
        Interaction(robot_mask="exemplars")  # type: ignore[arg-type]
    assert "holds no painted frame" in refusal(tmp_path / "none")
    assert "there is no episode 7" in refusal(paint(tmp_path / "episode", (7, 0)))
    assert "has 8 frames" in refusal(paint(tmp_path / "frame", (0, 8)))
    assert "shows no robot" in refusal(paint(tmp_path / "black", (0, 0), value=0))
    write_mask(tmp_path / "white", np.full((240, 320), 255, np.uint8))
    assert "shows nothing but robot" in refusal(tmp_path / "white")
    folder = paint(tmp_path / "size", (0, 0))
    cv2.imwrite(str(folder / "episode_000000/000000.png"), np.zeros((24, 32), np.uint8))
    assert "is 32x24 and observation.images.front is 320x240" in refusal(folder)
    (folder / "episode_000000/000000.png").write_text("no picture")
    assert "is not a picture" in refusal(folder)
    (folder / "episode_000000/000000.png").rename(folder / "episode_000000/first.png")
    assert "names no frame" in refusal(folder)


def write_mask(folder: Path, picture: np.ndarray) -> Exemplar:
    """A picture as what somebody painted of frame 0 of episode 0."""
    path = folder / "episode_000000/000000.png"
    path.parent.mkdir(parents=True)
    assert cv2.imwrite(str(path), picture)
    return Exemplar(path, 0, 0)


def test_white_paint_on_the_photograph_itself_is_refused(arms: DatasetReader, tmp_path: Path) -> None:
    picture, robot = scene(7)
    picture = picture[..., ::-1].copy()
    picture[robot] = 255
    write_mask(tmp_path / "photo", picture)
    with pytest.raises(IgrftError, match=r"000000\.png: a mask is black and white: \d\d% of this picture is neither"):
        Interaction(robot_mask="exemplar", mask_path=str(tmp_path / "photo")).resolve(arms)
    half = np.dstack([picture, np.where(robot, 128, 0).astype(np.uint8)])  # a brush that covers half
    write_mask(tmp_path / "half", half)
    with pytest.raises(IgrftError, match="a mask is black and white"):
        Interaction(robot_mask="exemplar", mask_path=str(tmp_path / "half")).resolve(arms)


def test_a_soft_outline_is_no_photograph(tmp_path: Path) -> None:
    robot = scene(0)[1]
    soft = cv2.GaussianBlur(robot.astype(np.uint8) * 255, (5, 5), 0)
    found = read_exemplar(write_mask(tmp_path, soft), CAMERA, (320, 240))
    assert overlap(found, robot) > 0.99


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colour", ["black", "white", "photograph"])
def test_of_a_transparent_picture_robot_is_what_is_opaque(tmp_path: Path, colour: str, dtype: type) -> None:
    picture, robot = scene(0)
    most = np.iinfo(dtype).max
    below = {"black": np.zeros_like(picture), "white": np.full_like(picture, 255), "photograph": picture}[colour]
    layers = np.dstack([below, np.where(robot, 255, 0).astype(np.uint8)]).astype(dtype) * dtype(most // 255)
    found = read_exemplar(write_mask(tmp_path / "layer", layers), CAMERA, (320, 240))
    assert np.array_equal(found, robot)


def test_a_picture_with_nothing_transparent_is_read_by_its_colours(tmp_path: Path) -> None:
    robot = scene(0)[1]
    layers = np.dstack([robot.astype(np.uint8) * 255] * 3 + [np.full((240, 320), 255, np.uint8)])
    assert np.array_equal(read_exemplar(write_mask(tmp_path, layers), CAMERA, (320, 240)), robot)


def test_features_of_a_flat_picture() -> None:
    picture = np.full((240, 320, 3), 128, np.uint8)
    found = pixel_features(picture).reshape(240, 320, WIDTH)
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2Lab)[0, 0]
    for at in (0, 3, 6, 9):
        assert np.allclose(found[..., at : at + 3], lab, atol=1e-3)
    assert np.allclose(found[..., 12:14], 0, atol=0.3)
    assert np.allclose(found[..., 14:20], 0)
    assert np.allclose(found[120, 160, 20:], [160 / 240, 0.5])
    ramp = np.repeat(np.arange(240, dtype=np.uint8)[:, None], 320, axis=1)
    edges = pixel_features(np.stack([ramp] * 3, axis=2)).reshape(240, 320, WIDTH)[100:140, 100:220, 14:20]
    assert np.abs(edges[..., [0, 2, 3, 5]]).max() < 1e-3 < 1 < edges[..., [1, 4]].min()  # all of it downwards


def test_a_network_learns_what_no_plane_separates() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (4000, 2)).astype(np.float32)
    y = (x[:, 0] > 0) != (x[:, 1] > 0)
    network = train(x[:3000], y[:3000], updates=600)
    assert np.mean((network(x[3000:]) > 0.5) == y[3000:]) > 0.95
    assert np.array_equal(network(x), train(x[:3000], y[:3000], updates=600)(x))
