"""`annotate` from and to a store: the labels are those of a local run, and nothing passes that need not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import pytest
from helpers import tree_digest
from picture_sets import CAMERA
from remote_sets import VIDEO, labels, moving_set, noisy_set, pipeline_of, run
from s3_server import S3Server

from igrft.cluster.forecast import forecast
from igrft.errors import IgrftError, UsageError
from igrft.pipeline.config import load_pipeline
from igrft.pipeline.dry_run import dry_run
from igrft.remote.upload import MARK


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return pipeline_of(tmp_path)


@pytest.fixture
def local(tmp_path: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a run on this machine makes of the set."""
    moving_set(tmp_path / "set")
    run(tmp_path / "set", tmp_path / "labelled", pipeline)
    return labels(tree_digest(tmp_path / "labelled"))


def test_from_store_to_store(s3: S3Server, tmp_path: Path, pipeline: Path, local: dict[str, str]) -> None:
    url = s3.upload(tmp_path / "set", "sets/set")
    before = s3.digest("sets/set")
    target = f"s3://{s3.bucket}/labelled"
    result, said = run(url, target, pipeline)
    assert (result.target, result.episodes, result.set_aside) == (target, 4, {})
    assert labels(s3.digest("labelled")) == local
    assert s3.digest("sets/set") == before
    # The video was copied by the store; of what lies in TARGET only labels and metadata were sent.
    copies = [r for r in s3.requests if r.copied]
    assert [r.key for r in copies] == [f"labelled/{VIDEO}"]
    assert not [r for r in s3.asked("PUT", ".mp4") if not r.copied]
    assert said[-1].endswith("1 are copied by the store")
    # Last of all: what makes it a dataset.
    assert [r.key for r in s3.asked("PUT")][-1] == "labelled/meta/info.json"
    assert not [r for r in s3.requests if r.method in ("PUT", "DELETE", "POST") and r.key.startswith("sets/")]
    record = json.loads(s3.objects("labelled/meta/igrft.json")["labelled/meta/igrft.json"])
    assert record["source"]["name"] == "set"
    assert not (tmp_path / "cache/staging").exists() or not list((tmp_path / "cache/staging").rglob("*.staging"))
    for name, content in s3.objects("labelled/").items():
        for secret in (b"never-to-be-seen", b"testing", str(tmp_path).encode(), s3.endpoint.encode()):
            assert secret not in content, (name, secret)


def test_from_store_to_folder(s3: S3Server, tmp_path: Path, pipeline: Path, local: dict[str, str]) -> None:
    url = s3.upload(tmp_path / "set", "set")
    run(url, tmp_path / "here", pipeline)
    assert labels(tree_digest(tmp_path / "here")) == local
    # The cache may go: TARGET is whole without it.
    shutil.rmtree(tmp_path / "cache")
    assert labels(tree_digest(tmp_path / "here")) == local
    assert not [p for p in (tmp_path / "here").rglob("*") if p.is_symlink()]


def test_from_folder_to_store(s3: S3Server, tmp_path: Path, pipeline: Path, local: dict[str, str]) -> None:
    before = tree_digest(tmp_path / "set")
    run(tmp_path / "set", f"s3://{s3.bucket}/a/labelled", pipeline)
    assert labels(s3.digest("a/labelled")) == local
    assert tree_digest(tmp_path / "set") == before


def test_between_stores(s3: S3Server, tmp_path: Path, pipeline: Path, local: dict[str, str]) -> None:
    fs = fsspec.filesystem("memory")
    try:
        run(s3.upload(tmp_path / "set", "set"), "memory://there/labelled", pipeline)
        found = {k.removeprefix("/there/labelled/"): v for k, v in fs.find("/there", detail=True).items()}
        assert {n for n in found if n.startswith("videos/")} == {VIDEO}
        run("memory://there/labelled", tmp_path / "again", pipeline)
        assert labels(tree_digest(tmp_path / "again")) == local
        run("memory://there/labelled", f"s3://{s3.bucket}/again", pipeline)
        assert labels(s3.digest("again")) == local
    finally:
        fs.rm("/there", recursive=True)


def test_file_urls_are_folders(tmp_path: Path, s3: S3Server, pipeline: Path, local: dict[str, str]) -> None:
    result, _ = run(f"file://{tmp_path}/set", f"file://{tmp_path}/twice", pipeline)
    assert result.target == tmp_path / "twice"
    assert labels(tree_digest(tmp_path / "twice")) == local
    again, _ = run(tmp_path / "set", tmp_path / "twice", pipeline)
    assert again.unchanged


def test_only_the_camera_looked_through_is_fetched(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    # A second camera, of the same pictures.
    other = "observation.images.wrist"
    (tmp_path / f"set/videos/{other}").mkdir()
    shutil.copytree(tmp_path / f"set/videos/{CAMERA}/chunk-000", tmp_path / f"set/videos/{other}/chunk-000")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    info["features"][other] = info["features"][CAMERA]
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    import pyarrow.parquet as pq

    path = tmp_path / "set/meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    for name in [n for n in table.column_names if CAMERA in n]:
        table = table.append_column(name.replace(CAMERA, other), table.column(name))
    pq.write_table(table, path)
    run(s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled", pipeline)
    size = (tmp_path / "set" / VIDEO).stat().st_size
    assert 0 < s3.received(f"set/{VIDEO}") <= size
    assert s3.received(f"set/{VIDEO.replace(CAMERA, other)}") == 0
    assert {r.key for r in s3.requests if r.copied} == {
        f"labelled/{VIDEO}",
        f"labelled/{VIDEO.replace(CAMERA, other)}",
    }


@pytest.mark.slow
def test_a_video_passes_once_whatever_the_number_of_workers_and_runs(
    s3: S3Server, tmp_path: Path, pipeline: Path
) -> None:
    moving_set(tmp_path / "set")
    url = s3.upload(tmp_path / "set", "set")
    run(url, f"s3://{s3.bucket}/one", pipeline, workers=2)
    size = (tmp_path / "set" / VIDEO).stat().st_size
    # Two processes may ask for a block at the same time.
    assert size <= s3.received(VIDEO) <= 2 * size
    before = s3.received(VIDEO)
    run(url, f"s3://{s3.bucket}/two", pipeline, overrides=["steps.interaction.flow=dis_ultrafast"], workers=2)
    assert s3.received(VIDEO) == before
    run(tmp_path / "set", tmp_path / "here", pipeline)
    assert labels(s3.digest("one")) == labels(tree_digest(tmp_path / "here"))


def test_run_again_nothing_is_done(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    run(url, target, pipeline)
    before = s3.digest("labelled")
    # Another machine: neither cache nor staging is there.
    shutil.rmtree(tmp_path / "cache")
    s3.requests.clear()
    result, said = run(url, target, pipeline)
    assert result.unchanged
    assert not said
    assert not [r for r in s3.requests if r.method not in ("GET", "HEAD")]
    assert s3.received(VIDEO) == 0
    assert s3.digest("labelled") == before


def test_new_thresholds_fetch_no_picture_and_send_no_video(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    run(url, target, pipeline)
    before = s3.digest("labelled")
    shutil.rmtree(tmp_path / "cache")
    s3.requests.clear()
    changed = ["steps.interaction.pixel_threshold=10000000"]
    result, _ = run(url, target, pipeline, overrides=changed)
    assert not result.unchanged
    assert s3.received(VIDEO) == 0
    assert not s3.asked("PUT", ".mp4")
    put = [r.key.removeprefix("labelled/") for r in s3.asked("PUT")]
    assert put[0] == MARK and put[-1] == "meta/info.json"
    # It was no dataset from before the first file changed until after the last.
    assert [r.method for r in s3.requests if r.key == "labelled/meta/info.json" and r.method != "GET"] == [
        "DELETE",
        "PUT",
    ]
    after = s3.digest("labelled")
    assert {n for n in after if after[n] != before.get(n)} >= {"data/chunk-000/file-000.parquet", "meta/igrft.json"}
    run(tmp_path / "set", tmp_path / "here", pipeline, overrides=changed)
    assert labels(after) == labels(tree_digest(tmp_path / "here"))


def test_a_damaged_target_is_made_whole(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    run(url, target, pipeline)
    before = s3.digest("labelled")
    s3.remove(f"labelled/{VIDEO}")
    s3.put("labelled/data/chunk-000/file-000.parquet", b"overwritten")
    s3.put("labelled/left/behind.txt", b"x")
    result, said = run(url, target, pipeline)
    assert not result.unchanged
    after = s3.digest("labelled")
    assert {n: d for n, d in after.items() if n != MARK} == {n: d for n, d in before.items() if n != MARK}
    assert "1 are copied by the store" in said[-1]


def test_strangers_are_refused(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    noisy_set(tmp_path / "other", 4)
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    s3.put("labelled/notes.txt", b"mine")
    with pytest.raises(IgrftError, match=r"s3://.*/labelled exists and was not made by igrft annotate; .*--overwrite"):
        run(url, target, pipeline)
    assert s3.objects("labelled/") == {"labelled/notes.txt": b"mine"}
    run(url, target, pipeline, overwrite=True)
    assert "labelled/notes.txt" not in s3.objects("labelled/")
    with pytest.raises(IgrftError, match="was made from another source, or the source has changed since"):
        run(s3.upload(tmp_path / "other", "other"), target, pipeline)


@pytest.mark.parametrize("inside", ["set", "set/labelled", ""])
def test_source_and_target_lie_apart(s3: S3Server, tmp_path: Path, pipeline: Path, inside: str) -> None:
    moving_set(tmp_path / "set")
    url = s3.upload(tmp_path / "set", "sets/set")
    with pytest.raises(UsageError, match="are the same|lie one inside the other"):
        run(url, f"s3://{s3.bucket}/sets/{inside}".rstrip("/"), pipeline)


def test_a_changed_source_is_another_one(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    run(url, target, pipeline)
    s3.put("set/meta/tasks.parquet", (tmp_path / "set/meta/tasks.parquet").read_bytes() + b"\0")
    with pytest.raises(IgrftError, match="or the source has changed since"):
        run(url, target, pipeline)


def test_a_labelled_set_on_a_store_is_labelled_further(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    url = s3.upload(tmp_path / "set", "set")
    run(url, f"s3://{s3.bucket}/one", pipeline)
    pipeline.write_text(json.dumps({"steps": [{"type": "subtasks", "source": "dataset"}, {"type": "rewards"}]}))
    run(f"s3://{s3.bucket}/one", f"s3://{s3.bucket}/two", pipeline)
    record = json.loads(s3.objects("two/")["two/meta/igrft.json"])
    assert {"interaction", "reward", "return_to_go"} <= set(record["columns"])
    assert s3.digest("two")[VIDEO] == s3.digest("set")[VIDEO]


def test_staging_lies_where_it_is_told(
    s3: S3Server, tmp_path: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    from igrft.pipeline.target import open_target

    assert open_target(target).staging.is_relative_to(tmp_path / "cache/staging")
    monkeypatch.setenv("IGRFT_STAGING", str(tmp_path / "shared"))
    assert open_target(target).staging.is_relative_to(tmp_path / "shared")
    s3.fault = lambda method, key: 403 if method == "PUT" else None
    with pytest.raises(IgrftError, match="could not be written: access is refused"):
        run(url, target, pipeline, staging=tmp_path / "work")
    assert (next((tmp_path / "work").glob("*/labelled.staging")) / "out/meta/info.json").is_file()
    with pytest.raises(UsageError, match="--staging must be a folder on this machine"):
        run(url, target, pipeline, staging=f"s3://{s3.bucket}/work")


def test_a_dry_run_leaves_no_trace_on_the_store(
    s3: S3Server, tmp_path: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving_set(tmp_path / "set")
    url = s3.upload(tmp_path / "set", "set")
    before = s3.digest("set")
    found = dry_run(url, f"s3://{s3.bucket}/labelled", pipeline=pipeline)
    assert "interaction_counts: 4 episodes, 80 frames to do" in found.to_text()
    assert (s3.digest("set"), s3.objects("labelled")) == (before, {})
    assert not [r for r in s3.requests if r.method not in ("GET", "HEAD")]


def test_a_plan_fetches_a_part_and_tells_the_size_of_all(s3: S3Server, tmp_path: Path) -> None:
    noisy_set(tmp_path / "set", 30)
    pipeline = pipeline_of(tmp_path, 30, camera_motion="static")
    url = s3.upload(tmp_path / "set", "set")
    before = s3.digest("set")
    found = forecast(url, load_pipeline(str(pipeline)), episodes=1, workers=1, say=lambda line: None)
    videos = sum(p.stat().st_size for p in (tmp_path / "set/videos").rglob("*.mp4"))
    assert found.video_bytes == videos and found.measured_episodes < found.episodes
    assert sum(r.got for r in s3.asked("GET", ".mp4")) < videos
    assert s3.digest("set") == before and not [r for r in s3.requests if r.method not in ("GET", "HEAD")]


@pytest.mark.slow
def test_jobs_on_this_machine_do_the_same(s3: S3Server, tmp_path: Path, pipeline: Path, local: dict[str, str]) -> None:
    url = s3.upload(tmp_path / "set", "set")
    run(url, f"s3://{s3.bucket}/labelled", pipeline, workers=None, overrides=["executor.tasks=2"])
    assert labels(s3.digest("labelled")) == local
