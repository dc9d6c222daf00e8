"""Mirrors: what is fetched, that a changed source is another one, and that the cache stays below its limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import tree_digest
from remote_sets import moving_set, noisy_set
from s3_server import S3Server

from igrft.dataset.fingerprint import fingerprint
from igrft.dataset.labels import load_labels
from igrft.dataset.locate import locate
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import episode_frames, frames_at
from igrft.errors import IgrftError, UsageError
from igrft.remote import blocks, cache
from igrft.remote.mirror import fetch, here, is_there, manifest_of, shown


def held() -> int:
    """Bytes on the disk of everything that the cache keeps."""
    return sum(b.size for b in cache.blobs())


def test_metadata_and_tables_come_at_once_and_no_video(s3: S3Server, tmp_path: Path) -> None:
    local = moving_set(tmp_path / "set")
    url = s3.upload(tmp_path / "set", "sets/set")
    root = locate(url, what="SOURCE")
    assert s3.received(".mp4") == 0
    # One listing, and each file once.
    assert len(s3.requests) == 1 + 4
    remote = DatasetReader.open(root)
    assert root.name == "set"
    assert remote.cameras == local.cameras
    assert remote.camera_has_files(local.cameras[0])
    assert remote.column(2, "index").tolist() == local.column(2, "index").tolist()
    s3.requests.clear()
    assert locate(url, what="SOURCE") == root
    assert [r.query.split("&")[0] for r in s3.requests] == ["list-type=2"]


def test_an_episodes_pictures_take_its_part_of_the_file(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 16 << 10)
    local = noisy_set(tmp_path / "set", 12)
    camera = local.cameras[0]
    size = local.video(0, camera).path.stat().st_size
    remote = DatasetReader.open(locate(s3.upload(tmp_path / "set", "set"), what="SOURCE"))
    s3.requests.clear()
    ours, theirs = (list(episode_frames(d, 5, camera, color="gray")) for d in (remote, local))
    assert len(ours) == 20
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    got = s3.received(".mp4")
    assert got < size / 4, f"{got} of {size} bytes for one episode of 12"
    s3.requests.clear()
    again = frames_at(remote, 5, camera, [0, 7, 19], color="gray")
    assert all((a == theirs[i]).all() for a, i in zip(again, [0, 7, 19], strict=True))
    assert s3.requests == [], "what is kept was asked for again"


@pytest.mark.parametrize("backend", ["pyav", "torchcodec", "decord"])
def test_other_decoders_get_the_file_whole(s3: S3Server, tmp_path: Path, backend: str) -> None:
    local = moving_set(tmp_path / "set", 2)
    camera = local.cameras[0]
    remote = DatasetReader.open(locate(s3.upload(tmp_path / "set", "set"), what="SOURCE"))
    try:
        theirs = list(episode_frames(local, 1, camera, backend=backend))
    except IgrftError as error:
        pytest.skip(str(error))
    ours = list(episode_frames(remote, 1, camera, backend=backend))
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    assert remote.video(1, camera).path.exists() == (backend != "pyav")


def test_pictures_in_tables_come_by_row_groups(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from picture_sets import picture_set

    monkeypatch.setattr(blocks, "BLOCK", 16 << 10)
    rng = np.random.default_rng(0)
    pictures = [list(rng.integers(0, 256, (4, 48, 64), dtype=np.uint8)) for _ in range(20)]
    local = picture_set(tmp_path / "set", pictures, dtype="image")
    path = tmp_path / "set" / local.data_files[0][0]
    pq.write_table(pq.read_table(path), path, row_group_size=4)
    local = DatasetReader.open(tmp_path / "set")
    remote = DatasetReader.open(locate(s3.upload(tmp_path / "set", "set"), what="SOURCE", tables=False))
    assert s3.received("data/chunk-000/file-000.parquet") == 0
    ours = list(episode_frames(remote, 7, local.cameras[0], color="gray"))
    assert all((a == b).all() for a, b in zip(ours, pictures[7], strict=True))
    assert s3.received("data/chunk-000/file-000.parquet") < path.stat().st_size / 2


def test_the_fingerprint_needs_nothing_and_notices_every_change(s3: S3Server, tmp_path: Path) -> None:
    local = moving_set(tmp_path / "set")
    url = s3.upload(tmp_path / "set", "set")
    before = fingerprint(locate(url, what="SOURCE"))
    s3.requests.clear()
    assert fingerprint(locate(url, what="SOURCE")) == before
    assert not s3.asked("GET", ".mp4") and not s3.asked("GET", ".parquet")
    copied = s3.upload(tmp_path / "set", "elsewhere/set")
    assert fingerprint(locate(copied, what="SOURCE")) == before, "a copy on the store is the same dataset"
    s3.put("set/.hidden", b"x")
    s3.put("set/README.md", b"x")
    assert fingerprint(locate(url, what="SOURCE")) == before, "what is no part of the dataset counts"
    video = local.video(0, local.cameras[0]).path
    s3.put(f"set/{video.relative_to(tmp_path / 'set').as_posix()}", video.read_bytes()[:-1] + b"\0")
    assert fingerprint(locate(url, what="SOURCE")) != before


def test_what_did_not_change_is_not_fetched_again(s3: S3Server, tmp_path: Path) -> None:
    moving_set(tmp_path / "set")
    url = s3.upload(tmp_path / "set", "set")
    first = locate(url, what="SOURCE")
    before = tree_digest(first)
    info = (tmp_path / "set/meta/info.json").read_text()
    s3.put("set/meta/info.json", info.replace('"fps": 30', '"fps": 15').encode())
    s3.requests.clear()
    second = locate(url, what="SOURCE")
    assert second != first
    assert DatasetReader.open(second).fps == 15
    assert [r.key for r in s3.requests if r.key] == ["set/meta/info.json"]
    assert tree_digest(first) == before, "a mirror changed"


def test_the_cache_stays_below_its_limit_and_drops_what_is_longest_unused(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 16 << 10)
    urls = []
    for name in ("one", "two", "three"):
        noisy_set(tmp_path / name, 4)
        urls.append(s3.upload(tmp_path / name, name))
    size = (tmp_path / "one/videos").rglob("*.mp4").__next__().stat().st_size
    monkeypatch.setenv("IGRFT_CACHE_SIZE", str(int(1.5 * size)))
    remote = [DatasetReader.open(locate(url, what="SOURCE")) for url in urls]
    camera = remote[0].cameras[0]
    for _ in range(2):
        for dataset in remote:
            for row in range(dataset.num_episodes):
                assert len(list(episode_frames(dataset, row, camera, color="gray"))) == 20
            # Looked at after every eighth of the limit.
            assert held() < 1.5 * size * (1 + 1 / 8) + 8 * (16 << 10)


def test_a_file_larger_than_the_cache_is_an_error_that_says_so(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy_set(tmp_path / "set", 2)
    monkeypatch.setenv("IGRFT_CACHE_SIZE", "100kB")
    root = locate(s3.upload(tmp_path / "set", "set"), what="SOURCE")
    with pytest.raises(IgrftError, match="the cache in .* may hold 0.1 MB .*; set IGRFT_CACHE_SIZE"):
        here(next((root / "videos").rglob("*.mp4")))
    monkeypatch.setenv("IGRFT_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match="IGRFT_CACHE_SIZE must be a size like 200GB or 500MB, got 'much'"):
        here(next((root / "videos").rglob("*.mp4")))


def test_pinned_files_stay(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_GRACE_S", -1.0)
    noisy_set(tmp_path / "set", 2)
    root = locate(s3.upload(tmp_path / "set", "set"), what="SOURCE")
    video = next((root / "videos").rglob("*.mp4"))
    fetch(root, lambda name: name.endswith(".mp4"))
    monkeypatch.setenv("IGRFT_CACHE_SIZE", str(video.stat().st_size + 100_000))
    cache.make_room(50_000, "x")
    assert video.exists()
    # Another process does not remove it either, while this one lives.
    code = "from igrft.remote import cache; cache._GRACE_S = -1.0; cache.make_room(100_000, 'x')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert video.exists()


def test_many_processes_fetch_one_file_once(s3: S3Server, tmp_path: Path) -> None:
    noisy_set(tmp_path / "set", 8)
    root = locate(s3.upload(tmp_path / "set", "set"), what="SOURCE")
    video = next((root / "videos").rglob("*.mp4"))
    code = f"import hashlib, pathlib; from igrft.remote.mirror import here; p = here(pathlib.Path({str(video)!r}));"
    code += "print(hashlib.sha256(p.read_bytes()).hexdigest())"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    found = {process.communicate()[0].strip() for process in running}
    assert found == {s3.digest("set")[video.relative_to(root).as_posix()]}
    assert s3.received(".mp4") == video.stat().st_size
    assert not list(cache.mirrors_folder().rglob("*.part"))


@pytest.mark.parametrize("name", ["set/../../escape", "set/a//b", "set/./c"])
def test_names_that_lead_elsewhere_are_refused(s3: S3Server, name: str) -> None:
    s3.put("set/meta/info.json", b"{}")
    s3.put(name, b"x")
    with pytest.raises(IgrftError, match="which can be no file here"):
        locate(f"s3://{s3.bucket}/set", what="SOURCE")


def test_an_object_and_a_folder_of_one_name_are_refused(s3: S3Server) -> None:
    s3.put("set/a", b"x")
    s3.put("set/a/b", b"x")
    with pytest.raises(IgrftError, match="remove one"):
        locate(f"s3://{s3.bucket}/set", what="SOURCE")


def test_nothing_there_is_wrong_usage(s3: S3Server) -> None:
    s3.put("set2/meta/info.json", b"{}")
    with pytest.raises(UsageError, match="SOURCE s3://.*/set holds nothing; check the URL"):
        locate(f"s3://{s3.bucket}/set", what="SOURCE")


def test_a_single_object_is_a_file(s3: S3Server) -> None:
    s3.put("notes/subtasks.json", b"{}")
    path = locate(f"s3://{s3.bucket}/notes/subtasks.json", what="REFERENCE")
    assert (path.name, path.read_bytes()) == ("subtasks.json", b"{}")


def test_messages_name_the_url(s3: S3Server, tmp_path: Path) -> None:
    moving_set(tmp_path / "set")
    url = s3.upload(tmp_path / "set", "set")
    root = locate(url, what="SOURCE")
    assert shown(f"{root}/meta/info.json is wrong") == f"{url}/meta/info.json is wrong"
    assert shown(f"{tmp_path}/set is wrong") == f"{tmp_path}/set is wrong"


def test_a_store_in_memory_is_fetched_whole(tmp_path: Path, s3: S3Server) -> None:
    local = moving_set(tmp_path / "set")
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path / "set"), "/there/set", recursive=True)
    try:
        root = locate("memory://there/set", what="SOURCE")
        assert tree_digest(root) == tree_digest(tmp_path / "set")
        assert load_labels("memory://there/set", ["index"])["index"].tolist() == list(range(local.num_frames))
    finally:
        fs.rm("/there", recursive=True)


def test_plain_paths_are_left_alone(tmp_path: Path, s3: S3Server) -> None:
    path = tmp_path / "a.txt"
    assert (here(path), is_there(path), manifest_of(path)) == (path, False, None)
    path.write_text("x")
    assert (here(path), is_there(path), manifest_of(path)) == (path, True, None)
    assert s3.requests == []
