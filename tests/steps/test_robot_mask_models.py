"""Large models behind the protocol: real classes with tiny random weights, and a stand-in for RoboEngine's package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import Blob, Fault, Repo, hub_server
from picture_sets import picture_set, square_over_background
from roboengine_package import forget_roboengine, put_roboengine
from tiny_segmenters import tiny_grounding_dino, tiny_sam2, tiny_sam3

from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.pipeline.record import step_json
from igrft.steps.base import Episode
from igrft.steps.interaction import Interaction
from igrft.steps.interaction.robot_mask import RobotMask
from igrft.steps.interaction.robot_mask.grounded_sam2 import GroundedSam2
from igrft.steps.interaction.robot_mask.packed import unpack
from igrft.steps.interaction.robot_mask.protocol import SegmenterSettings
from igrft.steps.interaction.robot_mask.sam3 import Sam3

FRAMES = [np.random.default_rng(i).integers(0, 255, (120, 160, 3), dtype=np.uint8) for i in range(3)]


def settings(source: str, **changed: Any) -> SegmenterSettings:
    plain: dict[str, Any] = {
        "source": source,
        "camera": "observation.images.front",
        "folder": None,
        "model": None,
        "detector": None,
        "prompt": "robot",
        "score": 0.0,
        "threshold": 0.5,
        "device": "cpu",
        "threads": 1,
    }
    return SegmenterSettings(**plain | changed)


@pytest.fixture(scope="module")
def sam3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_sam3(tmp_path_factory.mktemp("sam3")))


@pytest.fixture(scope="module")
def grounded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    model, detector = (tmp_path_factory.mktemp(n) for n in ("sam2", "dino"))
    return {"model": str(tiny_sam2(model)), "detector": str(tiny_grounding_dino(detector))}


def test_sam3_a_batch_is_its_pictures_one_by_one(sam3: str) -> None:
    model = Sam3(settings("sam3", model=sam3))
    masks = model(FRAMES)
    assert masks.shape == (3, 120, 160) and masks.dtype == bool and 0 < masks.mean() < 1
    for frame, mask in zip(FRAMES, masks, strict=True):
        assert np.mean(model([frame])[0] == mask) > 0.999
    assert not Sam3(settings("sam3", model=sam3, score=1.0))(FRAMES).any()
    other = Sam3(settings("sam3", model=sam3, prompt="a table"))(FRAMES)
    assert (other != masks).any()


def test_grounded_sam2_a_batch_is_its_pictures_one_by_one(grounded: dict[str, str]) -> None:
    model = GroundedSam2(settings("grounded_sam2", **grounded))
    masks = model(FRAMES)
    assert masks.shape == (3, 120, 160) and masks.dtype == bool and masks.any()
    for frame, mask in zip(FRAMES, masks, strict=True):
        assert np.mean(model([frame])[0] == mask) > 0.999
    assert not GroundedSam2(settings("grounded_sam2", **grounded, score=1.0))(FRAMES).any()


def test_weights_that_cannot_be_had(sam3: str, grounded: dict[str, str], tmp_path: Path) -> None:
    for model, said in (
        (str(tmp_path / "none"), "cannot be loaded from"),
        ("nobody/nothing-of-the-kind", "cannot be loaded from 'nobody/nothing-of-the-kind'"),
        (grounded["model"], "robot_mask: sam3: "),
    ):
        with pytest.raises(IgrftError, match=r"give mask_model a folder that holds them") as caught:
            Sam3(settings("sam3", model=model))
        assert said in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(IgrftError, match="give mask_detector a folder"):
        GroundedSam2(settings("grounded_sam2", model=grounded["model"], detector=str(tmp_path / "none")))


def test_weights_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_sam3(tmp_path / "sam3")
    weights = load_file(folder / "model.safetensors")

    def without(*parts: str) -> SegmenterSettings:
        some = {k: v for k, v in weights.items() if not k.startswith(parts)}
        save_file(some, folder / "model.safetensors", metadata={"format": "pt"})
        return settings("sam3", model=str(folder))

    whole = Sam3(settings("sam3", model=str(folder)))(FRAMES)
    with pytest.raises(IgrftError, match="does not hold the weights of Sam3Model .text_projection.bias and 1 more"):
        Sam3(without("text_projection."))
    # SAM 3.1 comes without what nothing reads.
    less = Sam3(without("text_encoder.text_projection.", "vision_encoder.neck.fpn_layers.3."))
    assert np.array_equal(less(FRAMES), whole)


def test_a_model_in_the_step(sam3: str, squares: DatasetReader) -> None:
    step = Interaction(robot_mask="sam3", mask_model=sam3, mask_score=0.0, mask_every=2, mask_batch=2, device="cpu")
    finder, counts, _ = step.resolve(squares).expand()
    assert isinstance(finder, RobotMask) and finder.max_workers == 1 and counts.max_workers is None
    found = finder.open(squares, None)(Episode(squares, 0))
    assert [f for f, m in enumerate(found.staged["robot_mask"]) if m is not None] == [0, 2, 4]
    assert found.record["robot_mask"] == {"source": "sam3", "size": [640, 480], "every": 2, "frames": 3}


def test_what_keys_the_masks() -> None:
    def key(**changed: Any) -> Any:
        return Interaction(robot_mask="sam3", **changed).expand()[0].settings()

    plain = key()
    for same in ({"device": "cpu"}, {"mask_batch": 3}, {"threads": 2}, {"flow": "dis_medium"}, {"flow_height": 480}):
        assert key(**same) == plain
    for other in ({"mask_prompt": "arm"}, {"mask_model": "x"}, {"mask_every": 2}, {"mask_score": 0.3}):
        assert key(**other) != plain


def test_what_a_source_does_not_read_keys_nothing() -> None:
    def key(source: Any, **changed: Any) -> Any:
        return Interaction(robot_mask=source, **changed).expand()[0].settings()

    assert key("roboengine", mask_threshold=0.3, mask_score=0.9, mask_detector="x") == key("roboengine")
    assert key("roboengine", mask_prompt="arm") != key("roboengine") != key("roboengine", mask_model="x")
    for source in ("sam3", "grounded_sam2"):
        for other in ({"mask_threshold": 0.3}, {"mask_score": 0.9}):
            assert key(source, **other) != key(source)
    assert key("sam3", mask_detector="x") == key("sam3")
    assert key("grounded_sam2", mask_detector="x") != key("grounded_sam2")


@pytest.mark.parametrize("setting", ["mask_model", "mask_detector"])
def test_a_folder_of_weights_keys_by_its_content(setting: str, tmp_path: Path) -> None:
    def key(folder: Path) -> Any:
        return Interaction(robot_mask="grounded_sam2", **{setting: str(folder)}).expand()[0].settings()  # type: ignore[arg-type]

    here = some_weights(tmp_path / "here")
    before = key(here)
    assert key(here) == before
    moved = here.rename(tmp_path / "there")
    (moved / "README.md").write_text("what nothing reads")
    assert key(moved) == before
    (moved / "model.safetensors").write_bytes(b"other weights, or longer")
    changed = key(moved)
    assert changed != before
    (moved / "config.json").write_text('{"width": 2}')
    assert key(moved) not in (before, changed)


def test_ids_of_the_hub_are_published_whole_and_folders_by_their_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def published(**settings: str) -> dict[str, Any]:
        made = step_json(Interaction(robot_mask="grounded_sam2", **settings))  # type: ignore[arg-type]
        return {name: made.get(name) for name in ("mask_model", "mask_detector")}

    home = tmp_path / "home/somebody"
    some_weights(home / "sam2")
    assert published(mask_model=str(home / "sam2"), mask_detector="IDEA-Research/grounding-dino-tiny") == {
        "mask_model": "sam2",
        "mask_detector": "IDEA-Research/grounding-dino-tiny",
    }
    assert published(mask_detector="/home/somebody/gone/dino/") == {"mask_model": None, "mask_detector": "dino"}
    monkeypatch.chdir(tmp_path)
    assert published(mask_model="home/somebody/sam2") == {"mask_model": "sam2", "mask_detector": None}
    made = step_json(
        Interaction(
            robot_mask="exemplar",
            mask_path="/home/somebody/painted",
            flow="raft_small",
            raft_weights="/home/s/raft.pth",
        )
    )
    assert (made["mask_path"], made["raft_weights"]) == ("painted", "raft.pth")


# Whether weights are to be had, before any other step has spent anything.


def some_weights(folder: Path) -> Path:
    """What looks like a model until it is loaded."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"width": 1}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def ready(source: Any, **settings: str) -> None:
    Interaction(robot_mask=source, **settings).expand()[0].ready()  # type: ignore[arg-type]


def refusal(source: str, **settings: str) -> str:
    with pytest.raises(IgrftError) as caught:
        ready(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_weights_is_refused_before_any_work(tmp_path: Path) -> None:
    good = str(some_weights(tmp_path / "good"))
    ready("sam3", mask_model=good)
    ready("grounded_sam2", mask_model=good, mask_detector=good)
    none = str(tmp_path / "none")
    assert f"there is no folder {none}; give mask_model a folder that holds them" in refusal("sam3", mask_model=none)
    said = refusal("grounded_sam2", mask_model=good, mask_detector=none)
    assert f"robot_mask: grounded_sam2: there is no folder {none}; give mask_detector a folder" in said
    (Path(good) / "model.safetensors").unlink()
    assert "good holds no config.json and weights beside it" in refusal("sam3", mask_model=good)


def test_without_a_network_only_weights_that_are_cached_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "'facebook/sam3' is no folder, not cached, and cannot be had from the Hub (" in refusal("sam3")
    assert "'IDEA-Research/grounding-dino-base' is no folder, not cached" in refusal("grounded_sam2")
    assert "give mask_model a folder" in refusal("sam3", mask_model="no id: it has blanks")
    cached = some_weights(tmp_path / "models--facebook--sam3/snapshots/0123456789")
    (cached.parents[1] / "refs").mkdir()
    (cached.parents[1] / "refs/main").write_text("0123456789")
    ready("sam3")
    (cached / "model.safetensors").unlink()  # a download that was cut
    assert "not cached" in refusal("sam3")


def test_the_hub_is_asked_whether_it_would_send_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    with hub_server() as hub:
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        close_session()
        repo = hub.repos["model", "facebook/sam3"] = Repo()
        repo.add({"config.json": Blob(b"{}", lfs=False)}, "main")
        ready("sam3")
        assert hub.called("") == ["HEAD /facebook/sam3/resolve/main/config.json"]
        said = refusal("sam3", mask_model="nobody/nothing")
        assert "'nobody/nothing' is no folder, not cached, and cannot be had from the Hub (" in said
        gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model facebook/sam3 is restricted"}
        hub.faults.append(Fault("HEAD /facebook/sam3/", status=403, headers=gated))
        assert "(hf auth login where it is gated)" in refusal("sam3")
    close_session()


# RoboEngine: a package of the same interface in a temporary folder.


@pytest.fixture
def squares(tmp_path: Path) -> DatasetReader:
    return picture_set(tmp_path / "set", [square_over_background(5)], dtype="image")


@pytest.fixture
def roboengine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_roboengine(tmp_path, monkeypatch)


def test_roboengine(squares: DatasetReader, roboengine: None, capsys: pytest.CaptureFixture[str]) -> None:
    step = Interaction(robot_mask="roboengine", mask_prompt="robot arm", mask_batch=2, mask_every=2, device="cpu")
    finder = step.resolve(squares).expand()[0]
    found = finder.open(squares, None)(Episode(squares, 0))
    masks = [m for m in found.staged["robot_mask"] if m is not None]
    pictures = square_over_background(5)
    assert [np.array_equal(unpack(m, (640, 480)), p > 128) for m, p in zip(masks, pictures[::2], strict=True)] == [
        True
    ] * 3
    # What it prints would break the one JSON object of `annotate --json`.
    said = capsys.readouterr()
    assert said.out == "" and said.err.split() == ["importing", "loading", "segmenting", "segmenting"]


def test_roboengine_that_cannot_start(squares: DatasetReader, roboengine: None) -> None:
    step = Interaction(robot_mask="roboengine", device="cuda")
    with pytest.raises(IgrftError, match="Found no NVIDIA driver on your system.*the device cuda") as caught:
        step.resolve(squares).expand()[0].open(squares, None)
    assert "\n" not in str(caught.value)


def test_roboengine_that_is_not_installed(squares: DatasetReader, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_roboengine(monkeypatch)
    with pytest.raises(IgrftError, match="needs the package 'robo_engine', which is not installed; run: git clone"):
        Interaction(robot_mask="roboengine").resolve(squares).expand()[0].open(squares, None)
    # It is known before any other step has spent anything.
    with pytest.raises(UsageError, match="needs the package 'robo_engine', which is not installed; run: git clone"):
        Interaction(robot_mask="roboengine").resolve(squares).expand()[0].ready()
