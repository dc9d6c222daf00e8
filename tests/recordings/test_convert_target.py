"""TARGET is absent or whole, whatever happens; SOURCE is found out by looking."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import small_disk
from recording_sets import CAMERAS, open_in_lerobot, tree_digest, video_file, write_aloha, write_legacy, write_video

from igrft.dataset.files import read_episodes
from igrft.dataset.locate import locate
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.recordings.convert import convert
from igrft.recordings.finish import correct_video_starts
from igrft.recordings.quiet import lerobot_quietly
from igrft.recordings.staging import LOCK, open_staging, staging_folder
from igrft.recordings.video_facts import TOLERANCE_S, frame_times


def test_target_that_is_there(toy: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    convert(toy, target, progress=False)  # an empty folder is no obstacle
    digest = tree_digest(target)
    with pytest.raises(UsageError, match="is not empty; give another, or --overwrite"):
        convert(toy, target, progress=False)
    (target / "note.txt").write_text("mine")
    convert(toy, target, progress=False, overwrite=True)
    assert tree_digest(target).keys() == digest.keys()
    assert not staging_folder(target).exists()


def test_target_that_is_a_file(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        convert(toy, tmp_path / "out", progress=False)


def test_source_and_target_in_one_another(toy: Path, tmp_path: Path) -> None:
    before = tree_digest(toy)
    link = tmp_path / "link"
    link.symlink_to(toy)
    for target in (toy, toy / "out", toy.parent, link, toy / ".." / "toy"):
        with pytest.raises(UsageError, match=r"same folder|in one another"):
            convert(toy, target, progress=False, overwrite=True)
    inside = staging_folder(tmp_path / "out") / "toy"
    shutil.copytree(toy, inside)
    with pytest.raises(UsageError, match="where TARGET is put together"):
        convert(inside, tmp_path / "out", progress=False)
    assert tree_digest(toy) == before == tree_digest(inside)


def test_current_folder_is_not_overwritten(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "work"
    (target / "deep").mkdir(parents=True)
    monkeypatch.chdir(target / "deep")
    with pytest.raises(UsageError, match="holds the current folder"):
        convert(toy, target, progress=False, overwrite=True)


def test_failure_leaves_what_was_there(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    convert(toy, target, progress=False)
    before = tree_digest(target)
    (toy / "meta/episodes.jsonl").unlink()
    with pytest.raises(IgrftError, match="is missing"):
        convert(toy, target, progress=False, overwrite=True)
    assert tree_digest(target) == before
    assert not staging_folder(target).exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_full_disk(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    def full(*args: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if wrapped:
                raise RuntimeError("could not write") from error
            raise

    from igrft.dataset import parquet

    monkeypatch.setattr(parquet.DataWriter, "write", full)
    with pytest.raises(IgrftError, match=r"the disk of .* is full; nothing was left behind") as caught:
        convert(toy, tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize("kind", ["lerobot", "aloha"])
def test_full_disk_for_real(tmp_path: Path, g1_small: Path, kind: str) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        source = g1_small
        if kind == "aloha":
            import h5py

            source = write_aloha(tmp_path / "episode_0.hdf5", 40, task="x", fps=50)
            with h5py.File(source, "r+") as file:
                noise = np.random.default_rng(0).integers(0, 255, (40, 120, 160, 3), dtype=np.uint8)
                file["observations/images/noise"] = noise
        with pytest.raises(IgrftError, match="is full"):
            convert(source, disk / "out", progress=False)
        assert list(disk.iterdir()) == []


def test_folder_that_may_not_be_written(toy: Path) -> None:
    with pytest.raises(IgrftError, match="give a TARGET where you may write"):
        convert(toy, "/proc/out", progress=False)


def test_stale_staging_is_removed_and_work_of_others_is_not(toy: Path, tmp_path: Path) -> None:
    folder = staging_folder(tmp_path / "out")
    (folder / "work/dataset").mkdir(parents=True)
    (folder / LOCK).touch()
    convert(toy, tmp_path / "out", progress=False)
    assert not folder.exists()

    (staging_folder(tmp_path / "other") / "subtasks").mkdir(parents=True)
    with pytest.raises(IgrftError, match="was not made by igrft convert"):
        convert(toy, tmp_path / "other", progress=False)
    assert (staging_folder(tmp_path / "other") / "subtasks").is_dir()


def test_two_runs_at_once(toy: Path, tmp_path: Path) -> None:
    with (
        open_staging(tmp_path / "out", overwrite=False),
        pytest.raises(IgrftError, match="another igrft convert is at work"),
    ):
        convert(toy, tmp_path / "out", progress=False)
    assert not staging_folder(tmp_path / "out").exists()


def test_killed_between_the_two_renames_puts_the_old_target_back(toy: Path, tmp_path: Path) -> None:
    target, folder = tmp_path / "out", staging_folder(tmp_path / "out")
    (folder / "replaced").mkdir(parents=True)
    (folder / "replaced/old.txt").write_text("old")
    (folder / LOCK).touch()
    with pytest.raises(UsageError, match="is not empty"):
        convert(toy, target, progress=False)
    assert (target / "old.txt").read_text() == "old"
    assert not folder.exists()


def test_killed_at_random_times(tmp_path: Path) -> None:
    """SIGKILL ten times: TARGET is absent or whole each time, and the next run gets the same bytes."""
    import lerobot.scripts.convert_dataset_v21_to_v30  # noqa: F401  so that the forked runs need not

    source, target = write_legacy(tmp_path / "toy"), tmp_path / "out"
    start = time.monotonic()
    convert(source, tmp_path / "undisturbed", progress=False)
    usual = time.monotonic() - start
    expected = tree_digest(tmp_path / "undisturbed")
    fork = multiprocessing.get_context("fork")
    chance = random.Random(0)
    killed = 0
    for _ in range(10):
        run = fork.Process(target=convert, args=(source, target), kwargs={"progress": False, "overwrite": True})
        run.start()
        run.join(chance.uniform(0.0, 1.2) * usual)
        killed += run.is_alive()
        run.kill()
        run.join()
        if target.exists():
            assert tree_digest(target) == expected
    assert killed >= 3
    convert(source, target, progress=False, overwrite=True)
    assert tree_digest(target) == expected
    assert not staging_folder(target).exists()


def test_formats(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown format 'lerobot-v2'; did you mean 'lerobot-v2.[01]'"):
        convert(toy, tmp_path / "out", format="lerobot-v2")
    with pytest.raises(IgrftError, match=r"holds no \*.hdf5, so it is not aloha-hdf5"):
        convert(toy, tmp_path / "out", format="aloha-hdf5")
    with pytest.raises(IgrftError, match=r"did you mean .*toy\?"):
        convert(toy.parent, tmp_path.with_name("elsewhere"))
    path = write_aloha(tmp_path / "one.hdf5")
    with pytest.raises(IgrftError, match=r"has no meta/info.json, so it is not lerobot-v2.1"):
        convert(path, tmp_path / "out", format="lerobot-v2.1")
    with pytest.raises(IgrftError, match="holds no recording that igrft knows"):
        convert(toy / "videos", tmp_path / "out")
    convert(toy, tmp_path / "out", progress=False)
    with pytest.raises(IgrftError, match=r"is a LeRobot v3.0 dataset already; run: igrft annotate"):
        convert(tmp_path / "out", tmp_path / "again")


def test_format_insisted_on(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "toy", version="v2.7")
    with pytest.raises(IgrftError, match=r"codebase_version 'v2.7', which igrft cannot convert"):
        convert(source, tmp_path / "out")
    assert convert(source, tmp_path / "out", format="lerobot-v2.1", progress=False).format == "lerobot-v2.1"


def test_apostrophe_in_the_path(tmp_path: Path) -> None:
    """LeRobot cannot join files below such a path; of the source it never learns."""
    source = write_legacy(tmp_path / "bob's" / "toy")
    convert(source, tmp_path / "out", progress=False)
    assert len(open_in_lerobot(tmp_path / "out")) == 36
    with pytest.raises(IgrftError, match="apostrophe"):
        convert(source, tmp_path / "bob's" / "out", progress=False)


def test_source_of_links_as_in_the_hubs_cache(toy: Path, tmp_path: Path) -> None:
    for path in [p for p in toy.rglob("*") if p.is_file()]:
        blob = tmp_path / "blobs" / str(abs(hash(path)))
        blob.parent.mkdir(exist_ok=True)
        path.rename(blob)
        path.symlink_to(blob)
    convert(toy, tmp_path / "out", progress=False)
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))
    assert len(open_in_lerobot(tmp_path / "out")) == 36


def test_hundreds_of_episodes_start_where_they_start(tmp_path: Path) -> None:
    """FFmpeg joins in whole microseconds: LeRobot's own start of episode 399 is off by more than its tolerance."""
    from lerobot.scripts.convert_dataset_v21_to_v30 import convert_videos_of_camera

    root, source = tmp_path / "out", tmp_path / "toy"
    camera, count = CAMERAS[0], 400
    write_video(tmp_path / "one.mp4", [np.full((48, 64, 3), 20 * t, np.uint8) for t in range(10)], fps=30)
    for episode in range(count):
        path = video_file(source, camera, episode)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / "one.mp4", path)
    with lerobot_quietly(tmp_path / "scratch"):
        made = pa.Table.from_pylist([{**e, "length": 10} for e in convert_videos_of_camera(source, root, camera, 500)])
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(made, root / "meta/episodes/chunk-000/file-000.parquet")
    feature = {"dtype": "video", "shape": [48, 64, 3], "names": None}
    info = {"codebase_version": "v3.0", "fps": 30, "features": {camera: feature}}
    (root / "meta/info.json").write_text(json.dumps(info))

    correct_video_starts(DatasetReader.open(root), {(camera, i): 10 for i in range(count)})

    name = f"videos/{camera}/from_timestamp"
    found = read_episodes(root)[name].to_numpy()
    shown = frame_times(root / f"videos/{camera}/chunk-000/file-000.mp4")
    assert abs(made[name][-1].as_py() - shown[-10]) > TOLERANCE_S
    np.testing.assert_array_equal(found, shown[::10])
    with pytest.raises(IgrftError, match="holds 4000 pictures where its episodes have 4400"):
        correct_video_starts(DatasetReader.open(root), {(camera, i): 11 for i in range(count)})


def test_locate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    assert locate(str(tmp_path), what="SOURCE") == tmp_path
    for nonsense in ("nowhere", "/no/where/at/all", "a/b/c", "user/ name", "./user/name"):
        with pytest.raises(UsageError, match="SOURCE .* does not exist; give an existing folder, or a Hub id"):
            locate(nonsense, what="SOURCE")
    asked: list[Any] = []

    def answer(repo: str, **options: Any) -> str:
        asked.append((repo, options["repo_type"], options["revision"]))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert locate("user/name@v2.1", what="SOURCE") == tmp_path
    assert locate("user/na.me", what="SOURCE") == tmp_path
    assert asked == [("user/name", "dataset", "v2.1"), ("user/na.me", "dataset", None)]


def test_locate_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        IgrftError, match=r"DATASET 'igrft-nobody/nothing' .* cannot be reached .*HF_HUB_OFFLINE"
    ) as caught:
        locate("igrft-nobody/nothing", what="DATASET")
    assert "\n" not in str(caught.value)
