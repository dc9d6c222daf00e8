"""What the recorder takes for granted of LeRobot: the same episodes written by LeRobot's own recorder are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rollout_sets import CAMERAS, FPS, HEIGHT, TASK, WIDTH, features, frame, length, open_recorder, record, success

from igrft.dataset.files import read_episodes, read_strings_by_index, read_table
from igrft.dataset.reader import DatasetReader
from igrft.rollouts.commit import CHUNKS_SIZE
from igrft.rollouts.encoder import DEFAULT_ENCODER
from igrft.rollouts.layout import recorded_columns


def _by_lerobot(root: Path, seeds: list[int], *, pictures: bool) -> None:
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets import LeRobotDataset

    own = {n: {"dtype": d, "shape": (1,), "names": None} for n, d in recorded_columns(judged=True).items()}
    declared = features(pictures) | own
    dataset = LeRobotDataset.create(
        "rollout",
        FPS,
        declared,
        root=root,
        robot_type="mock",
        use_videos=pictures,
        rgb_encoder=RGBEncoderConfig(**DEFAULT_ENCODER),
        streaming_encoding=True,
        encoder_queue_maxsize=1000,
        encoder_threads=1,
    )
    for seed in seeds:
        for t in range(length(seed)):
            last = t == length(seed) - 1
            values: dict[str, Any] = frame(seed, t, pictures=pictures)
            values |= {"next.done": last, "next.success": last and success(seed) is True}
            for name, feature in declared.items():
                if feature["dtype"] != "video":
                    values[name] = np.asarray(values[name], dtype=feature["dtype"]).reshape(feature["shape"])
            dataset.add_frame(values | {"task": TASK})
        dataset.save_episode()
    dataset.finalize()


@pytest.mark.parametrize("pictures", [False, True])
def test_the_files_are_those_that_lerobot_writes(tmp_path: Path, pictures: bool) -> None:
    seeds = [0, 3, 1]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with open_recorder(ours, pictures=pictures) as recorder:
        record(recorder, *seeds, pictures=pictures)
    _by_lerobot(theirs, seeds, pictures=pictures)

    assert json.loads((ours / "meta/info.json").read_text()) == json.loads((theirs / "meta/info.json").read_text())
    assert read_table(ours / "meta/tasks.parquet").schema.names == ["task_index", "task"]
    for root in (ours, theirs):
        assert read_strings_by_index(root / "meta/tasks.parquet", "task_index", "task") == [TASK]

    a, b = DatasetReader.open(ours), DatasetReader.open(theirs)
    files = [[reader.parquet(path) for path, _ in reader.data_files] for reader in (a, b)]
    assert [f.num_row_groups for f in files[0]] == [1, 1, 1] and [f.num_row_groups for f in files[1]] == [3]
    schemas = [f[0].schema_arrow for f in files]
    assert schemas[0].equals(schemas[1])
    described = [json.loads(schema.metadata[b"huggingface"])["info"]["features"] for schema in schemas]
    assert described[0] == described[1]
    assert pa.concat_tables([f.read() for f in files[0]]).equals(files[1][0].read())

    for camera in CAMERAS if pictures else ():
        for row in range(3):
            one, two = _pictures(a, row, camera), _pictures(b, row, camera)
            np.testing.assert_array_equal(one, two)


def _pictures(reader: DatasetReader, row: int, camera: str) -> np.ndarray:
    import av

    window = reader.video(row, camera)
    with av.open(str(window.path)) as container:
        frames = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    return np.stack([p for time, p in frames if window.start - 1e-3 <= time < window.end - 1e-3])


@pytest.mark.parametrize("pictures", [False, True])
def test_statistics_are_those_that_lerobot_computes(tmp_path: Path, pictures: bool) -> None:
    seeds = [0, 3, 1]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with open_recorder(ours, pictures=pictures) as recorder:
        record(recorder, *seeds, pictures=pictures)
    _by_lerobot(theirs, seeds, pictures=pictures)
    a, b = (read_episodes(root, statistics=True) for root in (ours, theirs))
    moved = {"data/file_index", "meta/episodes/file_index"}
    moved |= {f"videos/{c}/{k}" for c in CAMERAS for k in ("file_index", "from_timestamp", "to_timestamp")}
    assert sorted(a.column_names) == sorted(b.column_names)
    for name in b.column_names:
        assert a.schema.field(name).type == b.schema.field(name).type, name
        if name not in moved:
            _close(a.column(name).to_pylist(), b.column(name).to_pylist(), name)
    one, two = (json.loads((root / "meta/stats.json").read_text()) for root in (ours, theirs))
    assert set(one) == set(two)
    for feature in one:
        assert set(one[feature]) == set(two[feature])
        for statistic in one[feature]:
            _close(one[feature][statistic], two[feature][statistic], f"stats/{feature}/{statistic}")


def _close(ours: Any, theirs: Any, name: str) -> None:
    if isinstance(ours, list) and ours and isinstance(ours[0], list) and isinstance(ours[0][0], str):
        assert ours == theirs
        return
    picture = "observation.images" in name
    if picture and name.endswith("count"):
        # LeRobot counts pictures where it writes them first, and pixels where it streams.
        np.testing.assert_array_equal(np.asarray(ours) * HEIGHT * WIDTH, theirs)
        return
    # LeRobot joins the histograms of pictures one by one, and rebins; ours counts values. Half a grey level.
    close = {"atol": 0.5 / 255, "rtol": 0} if picture else {"atol": 1e-6, "rtol": 1e-5}
    np.testing.assert_allclose(np.asarray(ours, float), np.asarray(theirs, float), **close, err_msg=name)


def test_lerobot_counts_chunks_as_we_do() -> None:
    from lerobot.datasets.utils import DEFAULT_CHUNK_SIZE, DEFAULT_EPISODES_PATH, update_chunk_file_indices

    from igrft.rollouts.commit import EPISODES_PATH, place

    assert DEFAULT_CHUNK_SIZE == CHUNKS_SIZE
    assert DEFAULT_EPISODES_PATH == EPISODES_PATH
    at = {"chunk_index": 0, "file_index": 0}
    for index in range(2100):
        assert place(index) == at
        chunk, file = update_chunk_file_indices(at["chunk_index"], at["file_index"], CHUNKS_SIZE)
        at = {"chunk_index": chunk, "file_index": file}


def test_lerobot_counts_by_info_and_never_asks_for_rows_beyond(tmp_path: Path) -> None:
    """Files of an episode that info.json does not count do no harm: all of a commit rests on it."""
    from lerobot.datasets import LeRobotDataset

    root = tmp_path / "r"
    with open_recorder(root, pictures=True) as recorder:
        record(recorder, 0, 1, pictures=True)
        recorder.flush()
        info = (root / "meta/info.json").read_text()
        record(recorder, 2, pictures=True)
    (root / "meta/info.json").write_text(info)
    dataset = LeRobotDataset("rollout", root=root, delta_timestamps={"action": [0.0, 1 / FPS]}, video_backend="pyav")
    assert (dataset.num_episodes, len(dataset)) == (2, length(0) + length(1))
    item = dataset[len(dataset) - 1]
    assert item["action_is_pad"].tolist() == [False, True]
    np.testing.assert_array_equal(item["action"][1].numpy(), frame(1, length(1) - 1)["action"])
    with open_recorder(root, pictures=True) as recorder:
        assert recorder.episodes == 2
    assert not (root / "data/chunk-000/file-002.parquet").exists()


def test_lerobot_opens_no_dataset_of_no_episode(tmp_path: Path) -> None:
    """Which is why there is none before the first episode."""
    from lerobot.datasets import LeRobotDataset
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

    LeRobotDatasetMetadata.create("rollout", FPS, features(False), root=tmp_path / "r", use_videos=False)
    with pytest.raises(Exception, match=r".") as error:
        LeRobotDataset("rollout", root=tmp_path / "r")
    assert error.type.__name__ in ("OfflineModeIsEnabled", "FileNotFoundError")
