"""What we rely on inside LeRobot 0.6.1: an upgrade that changes it fails here, loudly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic import write_dataset

from igrft import annotate
from igrft import columns as c


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    root = tmp_path_factory.mktemp("labelled")
    write_dataset(root / "a", 3, 120, width=3)
    steps = [
        {"type": "subtasks", "source": "file", "path": "a.subtasks.json"},
        {"type": "rewards"},
        {"type": "returns"},
    ]
    (root / "p.yaml").write_text(json.dumps({"steps": steps}))
    annotate(root / "a", root / "out", pipeline=root / "p.yaml")
    return root / "out"


def test_the_language_column_has_lerobots_type():
    from lerobot.datasets.language import LANGUAGE_PERSISTENT, PERSISTENT_STYLES, language_persistent_arrow_type

    assert c.language_type() == language_persistent_arrow_type()
    assert LANGUAGE_PERSISTENT == c.LANGUAGE_PERSISTENT
    assert c.SUBTASK_STYLE in PERSISTENT_STYLES


def test_the_names_of_files_are_lerobots():
    from lerobot.datasets import CODEBASE_VERSION, utils

    from igrft.dataset import files

    assert CODEBASE_VERSION == "v3.0"
    assert (utils.INFO_PATH, utils.STATS_PATH, utils.EPISODES_DIR) == (files.INFO, files.STATS, files.EPISODES)
    assert (utils.DEFAULT_TASKS_PATH, utils.DEFAULT_DATA_PATH) == (files.TASKS, files.DATA_PATH)
    assert utils.DEFAULT_VIDEO_PATH == files.VIDEO_PATH


def test_lerobot_opens_the_result_with_delta_timestamps(labelled):
    import torch
    from lerobot.datasets import LeRobotDataset
    from lerobot.utils.collate import lerobot_collate_fn

    deltas = {c.RETURN: [0.0, 1 / 30, 2 / 30], c.SUBTASK_INDEX: [0.0, 1 / 30], c.ACTION: [0.0, 1 / 30]}
    dataset = LeRobotDataset("local/out", root=labelled, delta_timestamps=deltas)
    plain = LeRobotDataset("local/out", root=labelled)
    assert len(dataset) == 120
    item, later = dataset[7], [plain[7 + i] for i in range(3)]
    assert item[c.RETURN].tolist() == [x[c.RETURN].item() for x in later]
    assert item[c.RETURN].dtype == torch.float32 and item[c.SUBTASK_INDEX].dtype == torch.int64
    assert [item[n].dtype for n in (c.DONE, c.SUCCESS)] == [torch.bool, torch.bool]
    rows = item[c.LANGUAGE_PERSISTENT]
    assert rows[0]["style"] == "subtask" and rows[0]["content"] == "reach the cup"
    last = dataset[int(plain.meta.episodes[0]["dataset_to_index"]) - 1]
    assert last[f"{c.RETURN}_is_pad"].tolist() == [False, True, True]
    batch = next(iter(torch.utils.data.DataLoader(plain, batch_size=4, collate_fn=lerobot_collate_fn)))
    assert batch[c.REWARD].shape == (4,)
    np.testing.assert_allclose(dataset.meta.stats[c.REWARD]["count"], [120])


def test_lerobots_recipes_resolve_the_subtask(labelled):
    """LeRobot's renderer finds the subtask that is active at a frame in our language rows."""
    from lerobot.datasets import LeRobotDataset
    from lerobot.datasets.language_render import active_at

    dataset = LeRobotDataset("local/out", root=labelled)
    names = json.loads((labelled / "meta/igrft.json").read_text())["episodes"]["0"]["subtasks"]
    for segment in names:
        item = dataset[segment["start"]]
        row = active_at(item["timestamp"].item(), persistent=item[c.LANGUAGE_PERSISTENT], style="subtask")
        assert row["content"] == segment["name"]
