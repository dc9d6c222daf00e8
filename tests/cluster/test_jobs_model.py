"""A model's server asked by jobs, with interaction beside it: the same labels, and no key left anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import tree_digest
from vlm_server import vlm_server
from vlm_sets import entry, plain_truth, write_set

from igrft import annotate
from igrft.cluster.jobs import Jobs
from igrft.errors import IgrftError
from igrft.pipeline.target import open_target

KEY = "sk-a-key-that-nobody-may-read"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes whose pictures tell their subtasks."""
    return write_set(tmp_path_factory.mktemp("pictures") / "source", [plain_truth(e) for e in range(3)])


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_THE_MODEL", KEY)


def pipeline(folder: Path, base_url: str, *more: dict[str, Any], **settings: Any) -> Path:
    folder.mkdir()
    steps = [entry(base_url, folder, api_key_env="KEY_OF_THE_MODEL", **settings), *more]
    path = folder / "pipeline.yaml"
    path.write_text(json.dumps({"steps": steps}))
    return path


def quiet(line: str) -> None:
    """Nobody listens."""


def test_a_model_a_vocabulary_of_all_and_optical_flow_beside_it(pictures: Path, tmp_path: Path) -> None:
    more = [{"type": "interaction"}, {"type": "rewards"}, {"type": "returns"}]
    with vlm_server(key=KEY, open_names=True) as server:
        annotate(
            pictures,
            tmp_path / "plain/labelled",
            pipeline=pipeline(tmp_path / "plain", server.base_url, *more),
            workers=1,
            say=quiet,
        )
        asked = sorted(server.digests())
        server.bodies.clear()
        found = annotate(
            pictures,
            tmp_path / "jobs/labelled",
            pipeline=pipeline(tmp_path / "jobs", server.base_url, *more),
            overrides=["executor.tasks=2", "executor.steps.interaction.tasks=1"],
            say=quiet,
        )
        assert sorted(server.digests()) == asked, "no question more, and none less"
        assert any(server.kind(body) == "merge" for body in server.bodies)
    assert found.episodes == 3
    assert tree_digest(tmp_path / "plain/labelled") == tree_digest(tmp_path / "jobs/labelled")
    jobs = Jobs.of(open_target(tmp_path / "jobs/labelled"))
    heavy = [s for s in jobs.stages() if s.kind == "label"]
    assert [(s.owner, s.after, jobs.rows(s.name, 0)[1]) for s in heavy] == [("subtasks", (), 2), ("interaction", (), 1)]
    # What the tasks spent and what the last job did for the vocabulary, in one.
    assert found.spent["subtasks"]["answers"] == len(asked) and found.spent["subtasks"]["model"] == "seer"
    assert json.loads((jobs.folder / "result.json").read_text())["spent"] == found.spent
    refuse_key(tmp_path)


@pytest.mark.parametrize("trouble", ["wrong key", "no server"])
def test_no_key_is_written_where_tasks_fail(pictures: Path, tmp_path: Path, trouble: str) -> None:
    """Their logs tell where it happened, and no value of a variable there."""
    with vlm_server(key="another" if trouble == "wrong key" else KEY) as server:
        base_url = server.base_url
        path = pipeline(tmp_path / "jobs", base_url, retries=0, timeout=2)
        if trouble == "wrong key":
            fail(pictures, tmp_path, path)
    if trouble == "no server":
        fail(pictures, tmp_path, path)
    jobs = Jobs.of(open_target(tmp_path / "jobs/labelled"))
    logs = [p.read_text() for p in jobs.folder.rglob("*.log")]
    # Without a server every episode is set aside; with a wrong key the task itself gives up.
    assert any("Traceback" in log for log in logs) == (trouble == "wrong key")
    refuse_key(tmp_path)


def fail(pictures: Path, tmp_path: Path, path: Path) -> None:
    with pytest.raises(IgrftError):
        annotate(
            pictures,
            tmp_path / "jobs/labelled",
            pipeline=path,
            overrides=["executor.tasks=1", "executor.retries=0"],
            say=quiet,
        )


def refuse_key(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert not (path.is_file() and KEY.encode() in path.read_bytes()), path
