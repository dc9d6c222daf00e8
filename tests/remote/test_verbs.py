"""The other verbs on a URL: they say of it what they say of the folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tree_digest
from labelled_set import make_labelled_set
from remote_sets import labels, moving_set, pipeline_of
from s3_server import S3Server, refusing

from igrft.cli.main import run
from igrft.dataset.labels import load_labels
from igrft.dataset.locate import locate
from igrft.dataset.reader import DatasetReader

G1_SMALL = Path(__file__).resolve().parents[1] / "data" / "g1_small"


@pytest.fixture
def both(s3: S3Server, tmp_path: Path) -> tuple[str, Path]:
    """A labelled set: its URL, and its folder."""
    root = make_labelled_set(tmp_path / "set")
    return s3.upload(root, "sets/set"), root


def asked(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any]:
    status = run([*argv, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_inspect(both: tuple[str, Path], s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    url, root = both
    (status, ours), (_, theirs) = (asked(capsys, "inspect", str(place)) for place in both)
    assert status == 0
    assert ours.pop("root", None) in (url, None)
    assert json.loads(json.dumps(ours).replace(url, str(root))) | {"root": 0} == theirs | {"root": 0}
    assert s3.received(".mp4") == 0


@pytest.mark.parametrize("fast", [True, False])
def test_validate(both: tuple[str, Path], capsys: pytest.CaptureFixture[str], fast: bool) -> None:
    options = ["--fast"] if fast else []
    ours, theirs = (asked(capsys, "validate", str(place), "-q", *options) for place in both)
    assert ours == theirs


def test_validate_names_what_is_missing(
    both: tuple[str, Path], s3: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url, root = both
    video = next((root / "videos").rglob("*.mp4")).relative_to(root).as_posix()
    s3.remove(f"sets/set/{video}")
    status, found = asked(capsys, "validate", url, "-q")
    assert status == 1
    assert any(f"{video} is missing" in f["message"] for f in found["findings"])


def test_report(both: tuple[str, Path], s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, root = both
    monkeypatch.chdir(tmp_path)
    shutil.move(root, tmp_path / "elsewhere")
    assert run(["report", url, "-q"]) == 0
    assert run(["report", str(tmp_path / "elsewhere"), "--output", str(tmp_path / "local"), "-q"]) == 0
    ours, theirs = ((tmp_path / p / "index.html").read_text() for p in ("set.report", "local"))
    # The pages say when they were made.
    ours, theirs = (re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", text) for text in (ours, theirs))
    assert ours == theirs.replace(">elsewhere<", ">set<").replace("elsewhere ", "set ")


def test_subtasks(both: tuple[str, Path], s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, root = both
    assert run(["subtasks", "export", url, str(tmp_path / "ours.json")]) == 0
    assert run(["subtasks", "export", str(root), str(tmp_path / "theirs.json")]) == 0
    assert (tmp_path / "ours.json").read_text() == (tmp_path / "theirs.json").read_text()
    s3.put("notes/reference.json", (tmp_path / "theirs.json").read_bytes())
    capsys.readouterr()
    status, found = asked(capsys, "subtasks", "score", url, f"s3://{s3.bucket}/notes/reference.json")
    assert status == 0 and found["overall"]["f1"] == 1.0
    assert s3.received(".mp4") == 0


def test_load_labels(both: tuple[str, Path]) -> None:
    ours, theirs = (load_labels(place) for place in both)
    assert ours.columns.keys() == theirs.columns.keys()
    for name, values in theirs.columns.items():
        np.testing.assert_array_equal(ours[name], values)


@pytest.mark.slow
def test_training_frames_fetch_the_cameras_they_see(both: tuple[str, Path], s3: S3Server) -> None:
    from igrft.training.pictures import LeRobotFrames

    url, root = both
    theirs = DatasetReader.open(root)
    ours = DatasetReader.open(locate(url, what="DATASET"))
    cameras = theirs.cameras[:1]
    index = np.array([0, 17, 40])
    batches = [LeRobotFrames(d, cameras, 4).gather(index)[0] for d in (ours, theirs)]
    for name, values in batches[1].items():
        assert bool((batches[0][name] == values).all()) if hasattr(values, "all") else batches[0][name] == values
    for key in (k for k in s3.objects("sets/") if k.endswith(".mp4")):
        assert bool(s3.received(key)) == (f"/{cameras[0]}/" in key)


@pytest.mark.slow
def test_train_dry_run(both: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for place in both:
        status = run(["train", "recipes/tiny/sft.yaml", f"--datasets.0.root={place}", "--dry-run", "--json"])
        out = capsys.readouterr()
        assert status == 0, out.err
        found.append(json.loads(out.out)["datasets"][0])
    for summary in found:
        summary.pop("root")
    assert found[0] == found[1]


def test_convert_from_a_url(s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = s3.upload(G1_SMALL, "raw/g1_small")
    before = s3.digest("raw/g1_small")
    assert run(["convert", url, str(tmp_path / "ours"), "-q"]) == 0
    assert run(["convert", str(G1_SMALL), str(tmp_path / "theirs"), "-q"]) == 0
    ours, theirs = (tree_digest(tmp_path / name) for name in ("ours", "theirs"))
    assert ours == theirs
    assert s3.digest("raw/g1_small") == before


def test_push_lists_the_same_files(both: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for i, place in enumerate(both):
        status = run(["push", str(place), "me/set", "--dry-run", "--json", "-q", "--output", str(tmp_path / f"c{i}")])
        out = capsys.readouterr()
        assert status == 0, out.err
        found.append(json.loads(out.out)["files"])
    assert found[0] == found[1]


def test_the_command_line_says_where_to_and_what_is_wrong(
    s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moving_set(tmp_path / "set")
    url, target = s3.upload(tmp_path / "set", "set"), f"s3://{s3.bucket}/labelled"
    argv = ["annotate", url, target, "--pipeline", str(pipeline_of(tmp_path)), "--workers", "1", "-q"]
    assert run(argv) == 0
    assert capsys.readouterr().out.startswith(f"{target}: 4 episodes, 80 frames labelled\n")
    assert run(argv) == 0
    assert "already as asked, nothing to do" in capsys.readouterr().out
    assert run(["annotate", str(tmp_path / "set"), str(tmp_path / "here"), *argv[3:]]) == 0
    assert labels(s3.digest("labelled")) == labels(tree_digest(tmp_path / "here"))
    capsys.readouterr()
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    del info["fps"]
    s3.put("set/meta/info.json", json.dumps(info).encode())
    assert run(["inspect", url]) == 1
    assert capsys.readouterr().err == f"igrft: {url}/meta/info.json has no key 'fps'; restore it from the source\n"
    assert run(["inspect", "s3://key:hunter2@bucket/set"]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_convert_to_a_url_and_on_after_an_upload_that_broke_off(
    s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"s3://{s3.bucket}/converted/g1"
    before = tree_digest(G1_SMALL)
    s3.fault = refusing(500, "PUT", ".parquet")
    assert run(["convert", str(G1_SMALL), target, "-q"]) == 1
    assert "run the same command again" in capsys.readouterr().err
    assert "converted/g1/meta/info.json" not in s3.objects()
    s3.fault = None
    with monkeypatch.context() as patched:
        # It is converted already.
        patched.setattr("igrft.recordings.legacy.convert_lerobot", None)
        assert run(["convert", str(G1_SMALL), target, "-q"]) == 0
    assert capsys.readouterr().out.startswith(f"{target}: ")
    assert run(["convert", str(G1_SMALL), str(tmp_path / "g1"), "-q"]) == 0
    found = s3.digest("converted/g1")
    assert {n: d for n, d in found.items() if not n.startswith(".")} == tree_digest(tmp_path / "g1")
    assert tree_digest(G1_SMALL) == before
    assert not list((tmp_path / "cache/staging").rglob("*.mp4"))
    capsys.readouterr()
    assert run(["convert", str(G1_SMALL), target, "-q"]) == 2
    assert f"TARGET {target} exists and is not empty" in capsys.readouterr().err
    assert run(["convert", str(G1_SMALL), target, "-q", "--overwrite"]) == 0
    url = s3.upload(G1_SMALL, "raw")
    assert run(["convert", url, f"{url}/converted", "-q"]) == 2
    assert "lie one inside the other" in capsys.readouterr().err
