"""What is recorded is what LeRobot reads, under every call of the recorder."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from rollout_sets import (
    CAMERAS,
    FPS,
    SETTINGS,
    TASK,
    add_episode,
    check_item,
    check_picture,
    check_with_lerobot,
    facts,
    features,
    frame,
    length,
    open_recorder,
    picture,
    record,
    success,
)

from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.rollouts.facts import first_difference, read_rollout


def _validated(root: Path) -> None:
    from igrft.reports.validate import validate

    assert [f.message for f in validate(root).findings] == []


@pytest.mark.parametrize("pictures", [False, True])
def test_frames_come_back(tmp_path: Path, pictures: bool) -> None:
    root = tmp_path / "rollout_shelf_0"
    with open_recorder(root, pictures=pictures) as recorder:
        record(recorder, 0, 1, 2, pictures=pictures)
        assert recorder.episodes == 3
    check_with_lerobot(root, [0, 1, 2], pictures=pictures)
    _validated(root)
    assert not root.with_name("rollout_shelf_0.staging").exists()
    found = read_rollout(root)
    assert found.settings == SETTINGS
    assert found.episodes == [facts(s) | {"success": success(s), "frames": length(s)} for s in (0, 1, 2)]


def test_windows_of_many_episodes_through_a_loader(tmp_path: Path) -> None:
    import torch
    from lerobot.datasets import LeRobotDataset

    root, seeds = tmp_path / "rollout", list(range(20))
    with open_recorder(root, pictures=True) as recorder:
        record(recorder, *seeds, pictures=True)
    steps = [-1, 0, 2]
    deltas = {name: [s / FPS for s in steps] for name in ("observation.state", "action", *CAMERAS)}
    dataset = LeRobotDataset("rollout", root=root, delta_timestamps=deltas, video_backend="pyav")
    seen = 0
    for batch in torch.utils.data.DataLoader(dataset, batch_size=16, num_workers=0):
        for i in range(len(batch["index"])):
            seed, t = int(batch["episode_index"][i]), int(batch["frame_index"][i])
            one = {k: v[i] for k, v in batch.items() if k not in deltas}
            check_item(one | {n: batch[n][i][1] for n in deltas}, seed, seed, t, pictures=True)
            for at, step in enumerate(steps):
                near = min(max(t + step, 0), length(seed) - 1)
                np.testing.assert_array_equal(batch["action"][i][at].numpy(), frame(seed, near)["action"])
                assert bool(batch["action_is_pad"][i][at]) == (near != t + step)
                check_picture(batch[CAMERAS[1]][i][at].numpy(), picture(seed, near, CAMERAS[1]))
            seen += 1
    assert seen == sum(map(length, seeds))


def test_a_failure_reads_as_one(tmp_path: Path) -> None:
    with open_recorder(tmp_path / "r") as recorder:
        for said in (False, None, True):
            add_episode(recorder, 0)
            recorder.save(success=said, facts={})
    reader = DatasetReader.open(tmp_path / "r")
    assert reader.any_true("next.success").tolist() == [False, False, True]
    assert reader.column(2, "next.success").tolist() == [False] * (length(0) - 1) + [True]
    assert reader.column(0, "next.done").tolist() == [False] * (length(0) - 1) + [True]
    assert [e["success"] for e in read_rollout(tmp_path / "r").episodes] == [False, None, True]


def test_an_episode_of_one_frame(tmp_path: Path) -> None:
    with open_recorder(tmp_path / "r", pictures=True) as recorder:
        recorder.add(frame(0, 0, pictures=True))
        recorder.save(success=False, facts={})
        record(recorder, 1, pictures=True)
    assert DatasetReader.open(tmp_path / "r").lengths.tolist() == [1, length(1)]
    _validated(tmp_path / "r")


def test_without_a_critic_its_columns_are_left_out(tmp_path: Path) -> None:
    with open_recorder(tmp_path / "r", judged=False) as recorder:
        values = {k: v for k, v in frame(0, 0).items() if k not in ("value", "interaction_probability")}
        recorder.add(values)
        with pytest.raises(UsageError, match="'value'"):
            recorder.add(values | {"value": 0.5})
        recorder.save(success=True, facts={})
    held = set(DatasetReader.open(tmp_path / "r").features)
    assert "intervention" in held and not held & {"value", "interaction_probability"}


def test_discarded_frames_leave_nothing(tmp_path: Path) -> None:
    root = tmp_path / "r"
    with open_recorder(root, pictures=True) as recorder:
        add_episode(recorder, 5, pictures=True)
        assert recorder.pending == length(5)
        recorder.discard()
        assert recorder.pending == 0 and not root.exists()
        record(recorder, 0, pictures=True)
        add_episode(recorder, 6, pictures=True)  # closed without being saved
    check_with_lerobot(root, [0], pictures=True)


@pytest.mark.parametrize("pictures", [False, True])
def test_the_last_episode_is_recorded_again(tmp_path: Path, pictures: bool) -> None:
    root = tmp_path / "r"
    with open_recorder(root, pictures=pictures) as recorder:
        record(recorder, 0, 1, 2, pictures=pictures)
        add_episode(recorder, 3, pictures=pictures)
        recorder.drop_last()
        assert recorder.pending == 0
        assert (recorder.episodes, [f["seed"] for f in recorder.facts]) == (2, [0, 1])
        check_with_lerobot(root, [0, 1], pictures=pictures)
        _validated(root)
        record(recorder, 4, pictures=pictures)
        recorder.drop_last()
        recorder.drop_last()
        recorder.drop_last()
        assert recorder.episodes == 0 and not root.exists()
        with pytest.raises(UsageError, match="no episode"):
            recorder.drop_last()
        record(recorder, 5, 6, pictures=pictures)
    check_with_lerobot(root, [5, 6], pictures=pictures)
    _validated(root)


def test_recording_goes_on_where_it_stopped(tmp_path: Path) -> None:
    root = tmp_path / "r"
    for seeds in ([0, 1], [2], []):
        with open_recorder(root, pictures=True) as recorder:
            assert [f["seed"] for f in recorder.facts] == list(range(recorder.episodes))
            record(recorder, *seeds, pictures=True)
    check_with_lerobot(root, [0, 1, 2], pictures=True)
    _validated(root)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"settings": SETTINGS | {"exploration": {"kind": "entropy", "sigma_base": 1.2}}}, "exploration.sigma_base"),
        ({"settings": {k: v for k, v in SETTINGS.items() if k != "seed"}}, "settings.seed"),
        ({"fps": 30}, "fps"),
        ({"task": "another"}, "task"),
        ({"robot_type": "other"}, "robot_type"),
        ({"judged": False}, "features.value"),
        ({"features": features(True)}, CAMERAS[0]),
    ],
)
def test_another_recording_does_not_go_on_in_it(tmp_path: Path, changed: dict, named: str) -> None:
    root = tmp_path / "r"
    with open_recorder(root) as recorder:
        record(recorder, 0)
    with pytest.raises(IgrftError, match="recorded otherwise") as error:
        open_recorder(root, **changed)
    assert named in str(error.value) and "\n" not in str(error.value)
    check_with_lerobot(root, [0])
    with open_recorder(root) as recorder:  # the refused one let go
        assert recorder.episodes == 1


def test_one_recorder_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "r"
    with open_recorder(root), pytest.raises(IgrftError, match="another recorder"):
        open_recorder(root)
    with open_recorder(root) as recorder:
        record(recorder, 0)
        recorder.close()
        recorder.close()
        with pytest.raises(UsageError, match="closed"):
            recorder.add(frame(1, 0))
    with pytest.raises(IgrftError, match="there already"):
        open_recorder(root, resume=False)


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(IgrftError, match="was not recorded by igrft rollout"):
        open_recorder(other)
    assert [p.name for p in other.iterdir()] == ["notes.txt"]
    staging = tmp_path / "r.staging"
    staging.mkdir()
    (staging / "steps").mkdir()
    with pytest.raises(IgrftError, match="'steps'"):
        open_recorder(tmp_path / "r")
    assert (staging / "steps").is_dir()
    (tmp_path / "empty").mkdir()
    with open_recorder(tmp_path / "empty") as recorder:
        record(recorder, 0)
    check_with_lerobot(tmp_path / "empty", [0])


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    with open_recorder(tmp_path / "r") as recorder:
        add_episode(recorder, 0)
        for name in ("value", "noise_scale"):
            with pytest.raises(IgrftError, match=f"'{name}' is not finite at frame {length(0)}"):
                recorder.add(frame(0, 0) | {name: np.nan})
        with pytest.raises(IgrftError, match="not finite"):
            recorder.add(frame(0, 0) | {"action": np.array([0, np.inf, 0])})
        recorder.save(success=True, facts=facts(0))
    check_with_lerobot(tmp_path / "r", [0])


def test_frames_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with open_recorder(tmp_path / "r", pictures=True) as recorder:
        good = frame(0, 0, pictures=True)
        for change, match in (
            ({"action": np.zeros(4)}, r"'action' has the shape \[4\] where \[3\]"),
            ({CAMERAS[0]: np.zeros((48, 64, 3), np.float32)}, "pictures are uint8"),
            ({CAMERAS[0]: np.zeros((64, 48, 3), np.uint8)}, r"\[64, 48, 3\]"),
            ({"next.done": True}, "filled in"),
            ({"vlaue": 1.0}, "did you mean 'value'"),
        ):
            with pytest.raises(UsageError, match=match):
                recorder.add(good | change)
        with pytest.raises(UsageError, match="lacks 'action'"):
            recorder.add({k: v for k, v in good.items() if k != "action"})
        assert recorder.pending == 0
        with pytest.raises(UsageError, match="without a frame"):
            recorder.save(success=True, facts={})
        add_episode(recorder, 0, pictures=True)
        with pytest.raises(UsageError, match="JSON"):
            recorder.save(success=True, facts={"return": float("nan")})
        recorder.save(success=success(0), facts={})
    check_with_lerobot(tmp_path / "r", [0], pictures=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"fps": 12.5}, "whole number"),
        ({"features": {}}, "'action'"),
        ({"features": features(False) | {"value": features(False)["action"]}}, "recorder's own"),
        ({"features": features(False) | {"x": {"dtype": "image", "shape": (4, 4, 3)}}}, "as video"),
        ({"features": features(False) | {"x": {"dtype": "float32", "shape": (4, 4)}}}, "of shape"),
        ({"features": features(True), "encoder": {"vcodec": "h265"}}, "encoder"),
        ({"features": features(True), "encoder": {"quality": 3}}, "encoder"),
        ({"settings": {"a": object()}}, "JSON"),
    ],
)
def test_what_cannot_be_recorded_is_said_at_once(tmp_path: Path, change: dict, match: str) -> None:
    with pytest.raises(UsageError, match=match) as error:
        open_recorder(tmp_path / "r", **change)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"features": features(True) | {CAMERAS[0]: {"dtype": "video", "shape": (47, 63, 3), "names": None}}},
        {"features": features(True), "encoder": {"vcodec": "h264", "preset": "warp"}},
    ],
)
def test_pictures_that_the_encoder_refuses_are_said_at_once(tmp_path: Path, changed: dict) -> None:
    with pytest.raises(IgrftError, match=f"{CAMERAS[0]} could not be encoded") as error:
        open_recorder(tmp_path / "r", **changed)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_another_encoder(tmp_path: Path) -> None:
    encoder = {"vcodec": "h264", "preset": "veryfast", "crf": 18, "g": 30}
    with open_recorder(tmp_path / "r", pictures=True, encoder=encoder) as recorder:
        record(recorder, 0, 1, pictures=True)
    check_with_lerobot(tmp_path / "r", [0, 1], pictures=True)
    info = json.loads((tmp_path / "r/meta/info.json").read_text())["features"][CAMERAS[0]]["info"]
    assert (info["video.codec"], info["video.g"], info["video.crf"]) == ("h264", 30, 18)


def _obstacle(root: Path, episode: int) -> Path:
    """A folder where a video of an episode must go."""
    path = root / f"videos/{CAMERAS[1]}/chunk-000/file-{episode:03d}.mp4"
    path.mkdir()
    return path


def test_a_failed_write_is_told_and_loses_one_episode(tmp_path: Path) -> None:
    root = tmp_path / "r"
    with open_recorder(root, pictures=True) as recorder:
        record(recorder, 0, 1, pictures=True)
        recorder.flush()
        obstacle = _obstacle(root, 2)
        record(recorder, 2, pictures=True)
        with pytest.raises(IgrftError, match="the last episode is lost") as error:
            recorder.flush()
        assert "\n" not in str(error.value)
        assert (recorder.episodes, recorder.facts[-1]["seed"]) == (2, 1)
        check_with_lerobot(root, [0, 1], pictures=True)
        obstacle.rmdir()
        record(recorder, 3, pictures=True)
    check_with_lerobot(root, [0, 1, 3], pictures=True)
    _validated(root)


def test_a_failure_is_told_by_the_next_call_and_the_frames_in_progress_stay(tmp_path: Path) -> None:
    root = tmp_path / "r"
    recorder = open_recorder(root, pictures=True)
    record(recorder, 0, pictures=True)
    recorder.flush()
    obstacle = _obstacle(root, 1)
    record(recorder, 1, pictures=True)
    with pytest.raises(IgrftError, match="lost"):
        recorder.flush()
    add_episode(recorder, 2, pictures=True)
    recorder.save(success=success(2), facts=facts(2))
    added = 0
    with pytest.raises(IgrftError, match="lost"):
        while added < length(4):
            recorder.add(frame(4, added, pictures=True))
            added += 1
        recorder.save(success=success(4), facts=facts(4))
    assert recorder.pending == added
    obstacle.rmdir()
    for t in range(added, length(4)):
        recorder.add(frame(4, t, pictures=True))
    recorder.save(success=success(4), facts=facts(4))
    recorder.flush()
    _obstacle(root, 2)
    record(recorder, 5, pictures=True)
    with pytest.raises(IgrftError, match="lost"):
        recorder.close()
    check_with_lerobot(root, [0, 4], pictures=True)
    assert not root.with_name("r.staging").exists()


def test_the_dataset_opens_while_it_is_recorded(tmp_path: Path) -> None:
    """A reader beside the recorder always finds whole episodes."""
    from lerobot.datasets import LeRobotDataset

    root = tmp_path / "r"
    with open_recorder(root) as recorder:
        record(recorder, 0)
        recorder.flush()
        enough = threading.Event()

        def go_on() -> None:
            for seed in range(1, 200):
                record(recorder, seed)
                if enough.wait(0.05):
                    return

        thread = threading.Thread(target=go_on)
        thread.start()
        counts: list[int] = []
        try:
            while len(counts) < 5:
                dataset = LeRobotDataset("rollout", root=root)
                counts.append(dataset.num_episodes)
                last = counts[-1] - 1
                assert len(dataset) == sum(map(length, range(counts[-1])))
                check_item(dataset[len(dataset) - 1], last, last, length(last) - 1)
        finally:
            enough.set()
            thread.join()
    assert counts == sorted(counts) and counts[-1] > counts[0]


def test_copied_elsewhere_it_is_the_same(tmp_path: Path) -> None:
    with open_recorder(tmp_path / "r") as recorder:
        record(recorder, 0, 1)
    shutil.copytree(tmp_path / "r", tmp_path / "copy")
    with open_recorder(tmp_path / "copy") as recorder:
        record(recorder, 2)
    check_with_lerobot(tmp_path / "copy", [0, 1, 2])


def test_first_difference_names_the_place() -> None:
    old = {"a": {"b": [1, 2, {"c": "x"}]}, "d": True}
    assert first_difference(old, old) is None
    assert first_difference(old, {"a": {"b": [1, 2, {"c": "y"}]}, "d": True}) == 'a.b[2].c is "x" there, and "y" now'
    assert first_difference(old, old | {"d": 1}) == "d is true there, and 1 now"
    assert first_difference(old, {"a": old["a"]}) == "d is true there, and not given now"
    assert first_difference(old, old | {"e": 0}) == "e is not there, and 0 now"
    assert TASK
