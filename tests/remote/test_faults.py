"""What a store does wrong ends the run in one line, sets no episode aside, and is gone on from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import tree_digest
from remote_sets import VIDEO, labels, moving_set, noisy_set, pipeline_of, run
from s3_server import S3Server, refusing

from igrft.dataset.locate import locate
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import episode_frames
from igrft.errors import IgrftError
from igrft.remote import blocks
from igrft.remote.errors import ChangedError, StoreError
from igrft.remote.upload import MARK


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return pipeline_of(tmp_path)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text and "Traceback" not in text
    assert "never-to-be-seen" not in text
    return text


def test_no_access_says_so(s3: S3Server) -> None:
    s3.put("set/meta/info.json", b"{}")
    s3.fault = lambda method, key: 403
    with pytest.raises(StoreError, match="SOURCE|could not be listed: access is refused") as raised:
        locate(f"s3://{s3.bucket}/set", what="SOURCE")
    assert "check the credentials in the environment and their rights" in one_line(raised.value)


def test_no_credentials_says_so(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    try:
        with pytest.raises(StoreError, match="no credentials were found; set them in the environment"):
            locate(f"s3://{s3.bucket}/set", what="SOURCE")
    finally:
        fsspec.filesystem("s3").clear_instance_cache()


def test_no_bucket_says_so(s3: S3Server) -> None:
    with pytest.raises(IgrftError, match="holds nothing|is not there; check the URL"):
        locate("s3://no-such-bucket-anywhere/set", what="SOURCE")


def test_nobody_answers(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    try:
        with pytest.raises(StoreError, match="could not be listed: .*check the network and the store"):
            locate(f"s3://{s3.bucket}/set", what="SOURCE")
    finally:
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_store_that_fails_sets_no_episode_aside(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 16 << 10)
    noisy_set(tmp_path / "set", 4)
    pipeline = pipeline_of(tmp_path, camera_motion="static")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    s3.fault = refusing(status, "GET", ".mp4", after=6)
    with pytest.raises(StoreError, match=rf"{url}/{VIDEO} (could not be read|changed, or was removed)") as raised:
        run(url, target, pipeline)
    one_line(raised.value)
    assert s3.objects("labelled") == {}
    s3.fault = None
    result, _ = run(url, target, pipeline)
    assert result.set_aside == {}
    run(tmp_path / "set", tmp_path / "here", pipeline)
    assert labels(s3.digest("labelled")) == labels(tree_digest(tmp_path / "here"))


def test_wherever_reading_fails_it_is_the_stores_fault(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder may take a failing read for the end of the file, or for damage."""
    monkeypatch.setattr(blocks, "BLOCK", 32 << 10)
    monkeypatch.setattr(blocks, "_AHEAD", 1)
    noisy_set(tmp_path / "set", 2)
    remote = DatasetReader.open(locate(s3.upload(tmp_path / "set", "set"), what="SOURCE"))
    camera = remote.cameras[0]
    for after in range(100):
        # Nothing is kept from one try to the next.
        for path in (tmp_path / "cache").rglob("*.map"):
            path.unlink()
        s3.fault = refusing(403, "GET", ".mp4", after=after)
        try:
            found = len(list(episode_frames(remote, 1, camera, color="gray")))
        except StoreError:
            continue
        assert found == 20
        break
    assert after > 8


def test_ctrl_c_while_a_decoder_reads_is_ctrl_c(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 16 << 10)
    noisy_set(tmp_path / "set", 2)
    remote = DatasetReader.open(locate(s3.upload(tmp_path / "set", "set"), what="SOURCE"))
    frames = episode_frames(remote, 0, remote.cameras[0])
    next(frames)

    def pressed(method: str, key: str) -> int | None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return None

    s3.fault = pressed
    with pytest.raises(KeyboardInterrupt):
        list(frames)


def test_an_object_that_changes_under_the_feet_is_noticed(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 16 << 10)
    dataset = noisy_set(tmp_path / "set", 3)
    remote = DatasetReader.open(locate(s3.upload(tmp_path / "set", "set"), what="SOURCE"))
    frames = episode_frames(remote, 0, remote.cameras[0])
    next(frames)
    # Of the same size: only its tag tells.
    other = bytearray(dataset.video(0, dataset.cameras[0]).path.read_bytes())
    other[-5] ^= 1
    s3.put(f"set/{VIDEO}", bytes(other))
    with pytest.raises(ChangedError, match="changed, or was removed, while it was read; run the same command again"):
        list(episode_frames(remote, 2, remote.cameras[0]))
    s3.remove(f"set/{VIDEO}")
    with pytest.raises(ChangedError):
        list(episode_frames(remote, 1, remote.cameras[0]))


def test_a_video_that_changed_is_not_copied_unseen(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"

    def replaced(method: str, key: str) -> int | None:
        if method == "PUT" and key.endswith(MARK):
            video = (tmp_path / "set" / VIDEO).read_bytes()
            s3.put(f"set/{VIDEO}", video[:-1] + b"?")
        return None

    s3.fault = replaced
    with pytest.raises(ChangedError, match=f"{url}/{VIDEO} changed"):
        run(url, target, pipeline)
    assert "labelled/meta/info.json" not in s3.objects("labelled/")


@pytest.mark.parametrize("after", [0, 1, 4, 7, 8])
def test_an_upload_that_breaks_off_never_looks_whole_and_goes_on(
    s3: S3Server, tmp_path: Path, pipeline: Path, after: int
) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    s3.fault = refusing(500, "PUT", "", after=after)
    with pytest.raises(StoreError, match="could not be written: .*run the same command again") as raised:
        run(url, target, pipeline)
    one_line(raised.value)
    assert "labelled/meta/info.json" not in s3.objects("labelled/")
    sent = {r.key for r in s3.asked("PUT") if r.status == 200}
    s3.fault = None
    s3.requests.clear()
    run(url, target, pipeline)
    again = {r.key for r in s3.asked("PUT")}
    assert again & sent <= {f"labelled/{MARK}", "labelled/meta/info.json"}, "what was sent was sent again"
    run(tmp_path / "set", tmp_path / "here", pipeline)
    assert labels(s3.digest("labelled")) == labels(tree_digest(tmp_path / "here"))


def test_an_upload_is_gone_on_from_by_another_machine(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    s3.fault = refusing(500, "PUT", "", after=4)
    with pytest.raises(StoreError):
        run(url, target, pipeline, staging=tmp_path / "here")
    s3.fault = None
    noisy_set(tmp_path / "other", 4)
    with pytest.raises(IgrftError, match="holds an interrupted upload of another source"):
        run(tmp_path / "other", target, pipeline, staging=tmp_path / "elsewhere")
    run(url, target, pipeline, staging=tmp_path / "elsewhere")
    run(tmp_path / "set", tmp_path / "local", pipeline)
    assert labels(s3.digest("labelled")) == labels(tree_digest(tmp_path / "local"))


def test_a_replacement_that_breaks_off_keeps_what_was_worked_out(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    run(url, target, pipeline)
    changed = ["steps.interaction.pixel_threshold=10000000"]
    s3.fault = refusing(500, "PUT", "meta/igrft.json")
    with pytest.raises(StoreError):
        run(url, target, pipeline, overrides=changed, staging=tmp_path / "here")
    assert "labelled/meta/info.json" not in s3.objects("labelled/")
    s3.fault = None
    s3.requests.clear()
    # With nothing but what is on the store.
    result, _ = run(url, target, pipeline, overrides=changed, staging=tmp_path / "elsewhere")
    assert result.episodes == 4
    assert not s3.asked("PUT", ".mp4") and s3.received(VIDEO) == 0


def test_two_uploads_to_one_target_are_noticed(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"

    def taken_over(method: str, key: str) -> int | None:
        if method == "PUT" and key.endswith("stats.json"):
            s3.put(f"labelled/{MARK}", b'{"fingerprint": "x", "upload": "another", "complete": false, "files": {}}')
        return None

    s3.fault = taken_over
    with pytest.raises(IgrftError, match="another run began to write to s3://"):
        run(url, target, pipeline)
    assert "labelled/meta/info.json" not in s3.objects("labelled/")


@pytest.mark.slow
def test_killed_in_mid_upload_the_same_command_goes_on(s3: S3Server, tmp_path: Path, pipeline: Path) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"

    def slow(method: str, key: str) -> int | None:
        if method == "PUT" and key.startswith("labelled/") and not key.endswith(MARK):
            time.sleep(0.5 if key.endswith("stats.json") else 30)
        return None

    s3.fault = slow
    command = [sys.executable, "-m", "igrft.cli.main", "annotate", url, target, "--pipeline", str(pipeline), "-q"]
    process = subprocess.Popen([*command, "--workers", "1"], start_new_session=True)
    while not s3.asked("PUT", "stats.json"):
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    s3.fault = None
    assert "labelled/meta/info.json" not in s3.objects("labelled/")
    s3.requests.clear()
    subprocess.run([*command, "--workers", "1"], check=True)
    assert s3.received(VIDEO) == 0, "labelled again, though it was done"
    run(tmp_path / "set", tmp_path / "here", pipeline)
    assert labels(s3.digest("labelled")) == labels(tree_digest(tmp_path / "here"))
