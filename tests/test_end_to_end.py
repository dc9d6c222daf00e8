"""Real recordings through convert, annotate, validate and report, as a user would run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import tree_digest

import igrft
from igrft import columns as c
from igrft.cli.main import run
from igrft.dataset.reader import DatasetReader

SMALL = Path(__file__).parent / "data/g1_small"


def through(source: Path, folder: Path, *convert_options: str) -> Path:
    """All four verbs with their defaults; the labelled dataset."""
    converted, labelled = folder / "converted", folder / "labelled"
    before = tree_digest(source)
    assert run(["convert", str(source), str(converted), "-q", *convert_options]) == 0
    assert tree_digest(source) == before
    between = tree_digest(converted)
    assert run(["annotate", str(converted), str(labelled), "-q"]) == 0
    assert tree_digest(converted) == between
    assert run(["validate", str(labelled), "-q"]) == 0
    assert run(["report", str(labelled), "--output", str(folder / "report"), "-q"]) == 0
    assert (folder / "report/index.html").stat().st_size > 50_000
    return labelled


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("g1_yellow_bottle_2ep", []),
        # Both carry timestamps that are off their frame rate, which validate rightly refuses.
        ("cr5_banana_3ep", ["--rebuild-timestamps"]),
        pytest.param("gr00t_robot_sim_PickNPlace", ["--rebuild-timestamps"], marks=pytest.mark.slow),
    ],
)
def test_real_sets(shared_data, tmp_path, name, options):
    labelled = through(shared_data / name, tmp_path, *options)
    labels = igrft.load_labels(labelled)
    record = DatasetReader.open(labelled).igrft["episodes"]
    for index in labels.episode_indices.tolist():
        episode = labels.episode(index)
        assert episode[c.RETURN][0] == pytest.approx(1.0, abs=1e-6)
        assert 0.05 < episode[c.INTERACTION].mean() < 0.99
        assert set(np.unique(episode[c.SUBTASK_INDEX])) == set(range(len(record[str(index)]["subtasks"])))
    moving = {record[str(i)]["interaction"]["camera_motion"] for i in labels.episode_indices.tolist()}
    # The CR5's camera rides on its wrist; the two others are fixed.
    assert moving == ({"compensate"} if name.startswith("cr5") else {"static"})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return through(SMALL, tmp_path_factory.mktemp("small"))


def test_lerobot_serves_pictures_and_labels(small):
    from lerobot.datasets import LeRobotDataset

    dataset = LeRobotDataset("local/labelled", root=small, delta_timestamps={c.RETURN: [0.0, 1 / 30]})
    item = dataset[len(dataset) - 1]
    assert item["observation.images.cam_high"].shape == (3, 480, 640)
    assert item[c.RETURN].shape == (2,)
    assert item[c.DONE].item() is True


def test_videos_are_linked_and_new_thresholds_decode_none(small):
    """The last of the small recording: it is labelled anew."""
    labelled = small
    video = next(labelled.rglob("*.mp4"))
    twin = labelled.parent / "converted" / video.relative_to(labelled)
    assert video.stat().st_ino == twin.stat().st_ino, "videos are linked, not copied"
    # New thresholds apply to the stored counts: with the pictures gone, no frame can be decoded again.
    before = igrft.load_labels(labelled)
    real = twin.read_bytes()
    override = ["--steps.interaction.pixel_threshold=5000", "--steps.interaction.flow_threshold=4"]
    import igrft.dataset.video as reader

    def no_frame(*_: object, **__: object):
        raise AssertionError("a frame was decoded again")

    with pytest.MonkeyPatch.context() as patch:
        for entry in ("open_frames", "episode_frames"):
            patch.setattr(reader, entry, no_frame)
        arguments = ["annotate", str(labelled.parent / "converted"), str(labelled), "-q", "--workers", "1", *override]
        assert run(arguments) == 0
    after = igrft.load_labels(labelled)
    assert (after[c.INTERACTION_PIXELS] <= before[c.INTERACTION_PIXELS]).all()
    assert (after[c.INTERACTION] == (after[c.INTERACTION_PIXELS] > 5000)).all()
    assert 0 < after[c.INTERACTION].sum() < before[c.INTERACTION].sum()
    assert twin.read_bytes() == real
