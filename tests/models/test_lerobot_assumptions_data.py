"""What reading datasets relies on inside LeRobot 0.6.1: an upgrade that changes it fails here, loudly."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_set import CAMERA, make_labelled_set
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.dataset_reader import DatasetReader as LeRobotReader

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.recordings.video_facts import TOLERANCE_S


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_set(tmp_path_factory.mktemp("lerobot") / "set")


def test_our_narrow_reader_gives_what_lerobots_dataset_gives(root: Path) -> None:
    from igrft.training.pictures import LeRobotFrames

    ahead = {name: [0.0, 0.7] for name in (c.STATE, CAMERA)} | {c.ACTION: [i / 10 for i in range(5)]}
    theirs = LeRobotDataset("local/set", root=root, delta_timestamps=ahead, return_uint8=True)
    index = np.array([0, 12, 37, 39, 69, 144])
    now, later = LeRobotFrames(DatasetReader.open(root), [CAMERA], 5, 7).gather(index)
    assert later is not None
    for i, at in enumerate(index.tolist()):
        item = theirs[at]
        assert item["index"].item() == at
        assert now["task"][i] == item["task"]
        for name in (c.STATE, CAMERA):
            assert torch.equal(item[name][0], now[name][i]) and torch.equal(item[name][1], later[name][i])
        for name in (c.ACTION, "action_is_pad"):
            assert torch.equal(item[name], now[name][i])


def test_the_reader_has_the_parts_that_ours_replaces() -> None:
    assert "self._load_hf_dataset()" in inspect.getsource(LeRobotReader.load_and_activate)
    parameters = inspect.signature(LeRobotReader).parameters
    assert {"meta", "root", "episodes", "tolerance_s", "video_backend", "delta_timestamps"} <= parameters.keys()
    assert {"image_transforms", "return_uint8"} <= parameters.keys()
    assert inspect.signature(LeRobotDataset).parameters["tolerance_s"].default == TOLERANCE_S


def test_features_taken_out_of_the_metadata_are_not_read(root: Path) -> None:
    meta = LeRobotDatasetMetadata("local/set", root=root)
    assert meta.video_keys == [CAMERA]
    del meta.features[CAMERA]
    assert meta.video_keys == meta.camera_keys == []


def test_a_frame_that_has_no_picture_is_a_timestamp_error() -> None:
    from lerobot.datasets.video_utils import FrameTimestampError

    assert issubclass(FrameTimestampError, ValueError)


def test_the_module_that_warns_of_torchcodec() -> None:
    from lerobot.utils.import_utils import get_safe_default_video_backend

    assert get_safe_default_video_backend.__module__ == "lerobot.utils.import_utils"
    level = logging.getLogger("lerobot.utils.import_utils").level
    from igrft.training.pictures import backend

    assert backend() in ("torchcodec", "pyav")
    assert logging.getLogger("lerobot.utils.import_utils").level == level


def test_policy_features_by_name() -> None:
    from lerobot.utils.constants import OBS_ENV_STATE
    from lerobot.utils.feature_utils import dataset_to_policy_features

    declared = {
        c.STATE: {"dtype": "float32", "shape": (3,)},
        OBS_ENV_STATE: {"dtype": "float32", "shape": (5,)},
        CAMERA: {"dtype": "video", "shape": (48, 64, 3), "names": ["height", "width", "channels"]},
        c.ACTION: {"dtype": "float32", "shape": (2,)},
        c.REWARD: {"dtype": "float32", "shape": (1,)},
    }
    found = {k: (f.type.value, f.shape) for k, f in dataset_to_policy_features(declared).items()}
    assert found == {
        c.STATE: ("STATE", (3,)),
        OBS_ENV_STATE: ("ENV", (5,)),
        CAMERA: ("VISUAL", (3, 48, 64)),
        c.ACTION: ("ACTION", (2,)),
    }


def test_statistics_of_one_dataset_aggregate_to_themselves(root: Path) -> None:
    from lerobot.datasets.compute_stats import aggregate_stats
    from lerobot.datasets.io_utils import load_stats

    stats = load_stats(root)
    assert stats is not None
    for name, parts in aggregate_stats([stats]).items():
        for key, values in parts.items():
            np.testing.assert_allclose(values, stats[name][key], rtol=1e-6)


def test_a_data_loader_pins_batches_of_our_own() -> None:
    from torch.utils.data._utils.pin_memory import pin_memory

    class Batch:
        pinned = False

        def pin_memory(self) -> Batch:
            self.pinned = True
            return self

    assert pin_memory(Batch()).pinned
