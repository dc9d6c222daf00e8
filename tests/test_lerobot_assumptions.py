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


class _Finished:
    """All that LeRobot's writer asks of a streaming encoder while whole episodes are saved: anything more fails."""

    def __init__(self, results):
        self.results, self.asked = results, []

    def finish_episode(self):
        self.asked.append("finish")
        return self.results.pop(0)

    def cancel_episode(self):
        self.asked.append("cancel")

    def close(self):
        self.asked.append("close")


def test_lerobots_writer_takes_finished_videos_and_whole_episodes(tmp_path):
    """`convert` of streams gives `DatasetWriter` columns of an episode at once, and videos that are encoded already."""
    import av
    import pyarrow.parquet as pq
    from lerobot.configs.video import VIDEO_ENCODER_INFO_FIELD_NAMES, RGBEncoderConfig
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.datasets.dataset_writer import DatasetWriter
    from recording_sets import decoded, picture, write_video

    camera, lengths = "observation.images.top", (5, 7)
    features = {
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        camera: {"dtype": "video", "shape": (48, 64, 3), "names": ["height", "width", "channels"]},
        c.SUCCESS: {"dtype": "bool", "shape": (1,), "names": None},
    }
    meta = LeRobotDatasetMetadata.create(
        repo_id="local/out", fps=10, features=features, robot_type="arm", root=tmp_path / "out", use_videos=True
    )
    paths, given = [], []
    for episode, length in enumerate(lengths):
        paths.append(tmp_path / f"given/{episode}/episode.mp4")
        write_video(paths[-1], [picture(episode, t) for t in range(length)])
        statistics = {k: np.full((3, 1, 1), 51.0) for k in ("mean", "std", "min", "max", "q01", "q99")}
        given.append({camera: (paths[-1], statistics | {"count": np.array([length])})})
    was = [shot for path in paths for shot in decoded(path)]
    finished = _Finished(given)
    writer = DatasetWriter(
        meta=meta,
        root=meta.root,
        rgb_encoder=RGBEncoderConfig(vcodec="h264"),
        depth_encoder=None,
        encoder_threads=None,
        batch_encoding_size=1,
        streaming_encoder=finished,
    )
    for episode, length in enumerate(lengths):
        buffer = {name: [] for name in meta.features} | {"size": length, "task": ["fold"] * length}
        buffer |= {"episode_index": meta.total_episodes, "frame_index": list(range(length)), camera: [None] * length}
        buffer |= {"timestamp": [t / 10 for t in range(length)], "action": [np.full(2, episode, np.float32)] * length}
        writer.save_episode(buffer | {c.SUCCESS: [np.array([t == length - 1]) for t in range(length)]})
    writer.finalize()
    writer.close_writer()
    assert finished.asked[:2] == ["finish", "finish"] and set(finished.asked[2:]) <= {"close"}
    # The videos are moved away, and what was a folder of their own with them; joined, none is encoded again.
    assert not any(path.parent.exists() for path in paths)
    np.testing.assert_array_equal(decoded(tmp_path / f"out/videos/{camera}/chunk-000/file-000.mp4"), was)
    assert av.open(str(tmp_path / f"out/videos/{camera}/chunk-000/file-000.mp4")).streams.video[0].frames == 12
    with pq.ParquetFile(tmp_path / "out/data/chunk-000/file-000.parquet") as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == list(lengths)
        table = file.read()
    assert table["index"].to_pylist() == list(range(12)) and table["task_index"].to_pylist() == [0] * 12
    assert table[c.SUCCESS].to_pylist() == [t in (4, 11) for t in range(12)]
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    assert stats[camera]["mean"] == [[[pytest.approx(0.2)]]] * 3 and stats[camera]["count"] == [12]
    # The encoder's settings are noted, from which `convert` takes those of videos that it keeps.
    noted = json.loads((tmp_path / "out/meta/info.json").read_text())["features"][camera]["info"]
    assert {"crf", "g", "preset"} <= set(VIDEO_ENCODER_INFO_FIELD_NAMES) and noted["video.crf"] == 30
