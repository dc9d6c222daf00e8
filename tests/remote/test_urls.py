"""What is a URL, and that nothing secret in one is taken or told."""

from __future__ import annotations

from pathlib import Path

import pytest

from igrft.dataset.locate import locate
from igrft.errors import UsageError
from igrft.pipeline.target import open_target
from igrft.remote.errors import StoreError, told
from igrft.remote.store import Store
from igrft.remote.urls import checked_url, is_url, local_folder, local_path, url_name, without_secrets


@pytest.mark.parametrize("text", ["s3://b/k", "memory://x", "file:///a", "gcs://b/a/b", "zip::s3://b/x.zip"])
def test_urls_are_known(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize("text", ["user/name", "user/name@v1", "metaworld:shelf-place-v3", "a/b", "/a", ".", "C:x"])
def test_paths_and_hub_ids_are_none(text: str) -> None:
    assert not is_url(text)


def test_urls_are_made_alike() -> None:
    assert checked_url("S3://bucket/a/b/", "SOURCE") == "s3://bucket/a/b"
    assert url_name("s3://bucket/a/b") == "b"
    assert local_path("file:///data/set") == Path("/data/set")
    assert local_path("s3://bucket/set") is None


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("s3://key:hunter2@bucket/a", "holds a password"),
        ("https://host/a?X-Amz-Signature=hunter2", "has a query"),
        ("s3://bucket/a#hunter2", "has a query"),
        ("simplecache::s3://bucket/a", "chained"),
        ("s3://bucket/a/../b", "'..'"),
        ("s3://bucket//a/b", "empty part"),
        ("s3://", "names no folder"),
    ],
)
def test_what_is_not_taken_is_not_repeated(url: str, match: str) -> None:
    for call in (lambda: locate(url, what="SOURCE"), lambda: open_target(url)):
        with pytest.raises(UsageError, match=match) as raised:
            call()
        assert "hunter2" not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_others_messages_lose_their_secrets() -> None:
    text = 'GET "https://me:hunter2@host/a?X-Amz-Signature=hunter2&b=1" failed: s3://u:hunter2@b/k'
    assert without_secrets(text) == 'GET "https://host/a" failed: s3://b/k'
    with pytest.raises(StoreError) as raised, told("s3://b/k", "read"):
        raise RuntimeError(text)
    assert "hunter2" not in str(raised.value)


def test_a_url_in_a_path_is_refused() -> None:
    for call in (lambda: locate(Path("s3://bucket/a"), what="SOURCE"), lambda: open_target(Path("s3://bucket/a"))):
        with pytest.raises(UsageError, match="give it as text"):
            call()


@pytest.mark.parametrize("url", ["s3://bucket/a", Path("s3://bucket/a")])
def test_what_grows_on_this_machine_is_no_url(url: str | Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--output is written on this machine, and a URL is no folder"):
        local_folder(url, "--output")
    assert local_folder(f"file://{tmp_path}/a", "--output") == local_folder(tmp_path / "a", "x") == tmp_path / "a"


def test_a_whole_bucket_is_refused() -> None:
    with pytest.raises(UsageError, match="is a whole bucket; name a folder in it"):
        Store("s3://bucket", "TARGET")


@pytest.mark.parametrize(
    ("protocol", "match"), [("gcs", "pip install gcsfs"), ("abfs", "pip install adlfs"), ("nosuch", "no protocol")]
)
def test_a_missing_package_is_one_line(protocol: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        locate(f"{protocol}://bucket/set", what="SOURCE")


def test_s3_without_s3fs_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("igrft.extras._PACKAGES", {"s3": ("no_such_package",)})
    with pytest.raises(
        UsageError, match=r"SOURCE s3://bucket/set needs no_such_package; run: pip install 'igrft\[s3\]'"
    ):
        locate("s3://bucket/set", what="SOURCE")


def test_file_urls_are_paths(tmp_path: Path) -> None:
    assert locate(f"file://{tmp_path}", what="SOURCE") == tmp_path
    assert open_target(f"file://{tmp_path}/out").path == tmp_path / "out"
    with pytest.raises(UsageError, match="--staging is for a TARGET on a store"):
        open_target(tmp_path / "out", tmp_path)
