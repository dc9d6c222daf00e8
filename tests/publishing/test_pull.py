"""SOURCE on the Hub: at a revision, fetched once, and of it only what is needed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hub_server import Fault

from igrft import load_labels
from igrft.dataset.locate import locate
from igrft.errors import IgrftError

REPO = "somebody/cubes"


@pytest.fixture
def pushed(hub, igrft, labelled):
    """The set on the Hub; calls so far are forgotten."""
    assert igrft("push", labelled, REPO, "-q").status == 0
    hub.calls.clear()
    return labelled


def fetched(hub) -> list[str]:
    """Paths that were asked for, in the repository."""
    return sorted({call.split("/", 6)[6] for call in hub.called(rf"^(GET|HEAD) /datasets/{REPO}/resolve/")})


def test_labels_come_without_videos(hub, igrft, pushed, tmp_path):
    labels = load_labels(REPO)
    np.testing.assert_array_equal(labels["return_to_go"], load_labels(pushed)["return_to_go"])
    names = fetched(hub)
    assert "data/chunk-000/file-001.parquet" in names and not [n for n in names if n.startswith(("videos", "assets"))]
    hub.calls.clear()
    assert igrft("inspect", REPO, "--json").status == 0
    assert igrft("subtasks", "export", REPO, tmp_path / "subtasks.json").status == 0
    assert igrft("subtasks", "score", REPO, tmp_path / "subtasks.json").status == 0
    assert len(json.loads((tmp_path / "subtasks.json").read_text())["episodes"]) == 3
    # In the cache already: which commit main is, is all that was asked.
    assert fetched(hub) == [] and len(hub.called("revision/main")) == 3


def test_videos_are_fetched_when_they_are_needed_and_then_alone(hub, igrft, pushed):
    load_labels(REPO)
    hub.calls.clear()
    assert igrft("validate", REPO, "--fast", "-q").status == 0
    assert fetched(hub) == [f"videos/observation.images.top/chunk-000/file-00{i}.mp4" for i in (0, 1)]
    hub.calls.clear()
    assert igrft("validate", REPO, "--fast", "-q").status == 0
    assert fetched(hub) == []


def test_annotate_takes_a_revision(hub, igrft, pushed, tmp_path):
    steps = [{"type": "subtasks", "source": "dataset"}, {"type": "rewards"}, {"type": "returns", "discount": 0.9}]
    (tmp_path / "p.yaml").write_text(json.dumps({"steps": steps}))
    said = igrft("annotate", f"{REPO}@v3.0", tmp_path / "out", "--pipeline", tmp_path / "p.yaml", "-q")
    assert said.status in (0, 1), said.err
    assert hub.called("revision/v3.0") and not hub.called("revision/main")
    assert (tmp_path / "out/videos/observation.images.top/chunk-000/file-000.mp4").is_file()
    found = load_labels(tmp_path / "out")
    assert found["return_to_go"][0] < load_labels(pushed)["return_to_go"][0]


def test_a_commit_needs_no_request_once_it_is_here(hub, igrft, pushed):
    commit = hub.dataset(REPO).branches["main"]
    first = locate(f"{REPO}@{commit}", what="SOURCE")
    hub.calls.clear()
    assert locate(f"{REPO}@{commit}", what="SOURCE") == first
    assert [c for c in hub.called("") if "agent-harnesses" not in c] == []


def test_a_branch_is_what_its_name_says(hub, igrft, pushed):
    info = pushed / "meta/info.json"
    info.write_text(info.read_text().replace("testbot", "otherbot"))
    igrft("push", pushed, REPO, "--revision", "other", "-q")
    assert json.loads(igrft("inspect", REPO, "--json").out)["totals"]["robot_type"] == "testbot"
    assert json.loads(igrft("inspect", f"{REPO}@other", "--json").out)["totals"]["robot_type"] == "otherbot"


@pytest.mark.parametrize(
    ("source", "fault", "message"),
    [
        (f"{REPO}@nothing", None, "has no revision 'nothing'"),
        ("somebody/nothing", None, "is not found; check the name"),
        (
            REPO,
            Fault("revision/main", 401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}),
            "token is not valid",
        ),
        (REPO, Fault("revision/main", 503), "answered 503"),
        (REPO, Fault("revision/main", 403, headers={"X-Error-Code": "GatedRepo"}), "is gated"),
    ],
)
def test_what_cannot_be_had_is_one_line(hub, igrft, pushed, source, fault, message):
    if fault is not None:
        fault.times = 99
        hub.faults.append(fault)
    with pytest.raises(IgrftError, match=message) as caught:
        locate(source, what="SOURCE")
    assert "\n" not in str(caught.value)


def test_a_pull_that_broke_off_goes_on(hub, igrft, pushed):
    hub.faults.append(Fault(r"^HEAD .*\.mp4", 500, times=1))
    hub.faults.append(Fault(r"^HEAD .*\.mp4", 404, times=99))
    with pytest.raises(IgrftError):
        locate(REPO, what="SOURCE")
    hub.faults.clear()
    hub.calls.clear()
    root = locate(REPO, what="SOURCE")
    assert all((root / p.relative_to(pushed)).read_bytes() == p.read_bytes() for p in pushed.rglob("*") if p.is_file())
