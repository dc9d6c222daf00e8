"""A dataset goes to the Hub whole, comes back the same, and stays as it was."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tree_digest
from hub_server import TOKEN, card_problems

from igrft.dataset.locate import locate

REPO = "somebody/cubes"


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_what_arrives_is_what_lies_here(hub, igrft, labelled):
    before, beside = tree_digest(labelled), sorted(labelled.parent.iterdir())
    said = igrft("push", labelled, REPO, "--license", "mit", "-q")
    assert (said.status, said.err) == (0, "")
    assert said.out.strip() == f"{hub.url}/datasets/{REPO}"
    repo = hub.dataset(REPO)
    sent, mine = repo.files(), contents(labelled)
    pictures = {f"assets/episode_{e:06d}.jpg" for e in (0, 1, 3)}
    assert set(sent) == {*mine, *pictures, "README.md", ".gitattributes"}
    assert all(sent[name] == data for name, data in mine.items())
    assert repo.tags == {"v3.0": repo.branches["main"]}
    assert len(repo.commits) == 2 and not repo.private
    assert card_problems(sent["README.md"].decode(), "dataset") == ([], [])
    # Nothing was written beside or into the set.
    assert tree_digest(labelled) == before and sorted(labelled.parent.iterdir()) == beside
    pulled = locate(REPO, what="SOURCE")
    assert {n: d for n, d in contents(pulled).items() if n in mine} == mine


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, igrft, labelled, tmp_path):
    igrft("push", labelled, REPO, "--json")
    igrft("push", labelled, REPO, "--dry-run", "--output", tmp_path / "card", "--json")
    given = {authorization for _, path, authorization in hub.calls if not path.startswith("/store/")}
    assert given == {f"Bearer {TOKEN}", None} or given == {f"Bearer {TOKEN}"}
    for method, path, authorization in hub.calls:
        assert authorization is None or not (method == "PUT" or path.startswith("/cdn/")), path
    held = [*hub.dataset(REPO).files().values(), *contents(labelled).values(), *contents(tmp_path / "card").values()]
    assert not any(TOKEN.encode() in data for data in held)


def test_again_sends_nothing(hub, igrft, labelled):
    igrft("push", labelled, REPO, "-q")
    repo = hub.dataset(REPO)
    commits, tags = len(repo.commits), dict(repo.tags)
    hub.calls.clear()
    assert igrft("push", labelled, REPO, "-q").status == 0
    assert not hub.called("^PUT") and not hub.called("/commit/") and not hub.called("/tag/")
    assert (len(repo.commits), repo.tags) == (commits, tags)


def test_a_changed_set_takes_the_tag_along_and_leaves_nothing_stale(hub, igrft, labelled):
    (labelled / "meta/extra.json").write_text("{}")
    igrft("push", labelled, REPO, "-q")
    repo = hub.dataset(REPO)
    first = repo.tags["v3.0"]
    commit = dict(repo.commits[first])
    commit["notes.md"] = commit["README.md"]
    repo.add(commit, "main")
    (labelled / "meta/extra.json").unlink()
    said = igrft("push", labelled, REPO, "--json")
    assert "1 files of an earlier push" in said.err and json.loads(said.out)["removed"] == ["meta/extra.json"]
    assert repo.tags["v3.0"] == repo.branches["main"] != first
    assert "meta/extra.json" not in repo.files() and "notes.md" in repo.files()
    assert "meta/extra.json" in repo.commits[first]


def test_what_is_not_the_dataset_stays(hub, igrft, labelled):
    for name in ("images/observation.images.top/frame.png", "notes.txt", ".cache/huggingface/x", "meta/.hidden"):
        (labelled / name).parent.mkdir(parents=True, exist_ok=True)
        (labelled / name).write_text("private")
    (labelled / "LICENSE").write_text("MIT")
    (labelled / "meta/igrft").mkdir()
    (labelled / "meta/igrft/counts.arrow").write_bytes(b"counts")
    said = igrft("push", labelled, REPO, "--dry-run")
    assert "left out: images/, notes.txt" in said.out
    igrft("push", labelled, REPO, "-q")
    sent = hub.dataset(REPO).files()
    assert b"private" not in sent.values()
    assert sent["LICENSE"] == b"MIT" and sent["meta/igrft/counts.arrow"] == b"counts"


def test_a_dry_run_asks_nobody_and_writes_the_card_alone(hub, igrft, labelled):
    before = tree_digest(labelled)
    said = igrft("push", labelled, REPO, "--dry-run")
    assert said.status == 0 and not hub.calls
    assert "would go to the dataset somebody/cubes (branch main, tag v3.0)" in said.out
    card = labelled.with_name("set.card")
    assert sorted(contents(card)) == ["README.md", *(f"assets/episode_{e:06d}.jpg" for e in (0, 1, 3))]
    assert tree_digest(labelled) == before
    listed = json.loads(igrft("push", labelled, REPO, "--dry-run", "--json").out)
    assert {f["name"] for f in listed["files"]} == {*contents(labelled), *contents(card)}
    assert listed["bytes"] == sum(f["bytes"] for f in listed["files"])
    # What a push then sends is what the dry run wrote.
    igrft("push", labelled, REPO, "-q")
    assert hub.dataset(REPO).files()["README.md"] == (card / "README.md").read_bytes()


def test_what_validate_rejects_is_refused(hub, igrft, labelled):
    next(labelled.glob("videos/*/*/*.mp4")).unlink()
    said = igrft("push", labelled, REPO, "-q")
    assert said.status == 1 and said.err.count("\n") == 1
    assert "error" in said.err and "is not sent" in said.err and "igrft validate" in said.err
    assert not hub.repos


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere", REPO], 2, "does not exist"),
        (["SET", "cubes"], 2, "OWNER/NAME"),
        (["SET", "a/b--c"], 2, "OWNER/NAME"),
        (["SET", REPO, "--license", "MIT License"], 2, "identifiers"),
        (["SET", REPO, "--card", "labeled"], 2, "did you mean 'labelled'"),
        (["SET", REPO, "--output", "x"], 2, "--dry-run"),
        (["SET", REPO, "--revision", "v3.0"], 2, "version tag"),
        (["SET", REPO, "--revision", "a b"], 2, "name of a branch"),
        (["SET", REPO, "--revison", "x"], 2, "No such option"),
        (["EMPTY", REPO], 2, "neither a dataset"),
    ],
)
def test_wrong_usage_is_one_line(hub, igrft, good_set, tmp_path, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    names = {"SET": str(good_set), "EMPTY": str(tmp_path / "empty")}
    said = igrft("push", *[names.get(a, a) for a in arguments])
    assert said.status == status and message in said.err and said.err.count("\n") == 1
    assert not hub.calls


def test_private(hub, igrft, labelled):
    igrft("push", labelled, REPO, "--private", "-q")
    assert hub.dataset(REPO).private
    igrft("push", labelled, "somebody/open", "-q")
    hub.calls.clear()
    said = igrft("push", labelled, "somebody/open", "--private", "-q")
    assert said.status == 1 and "is there and public" in said.err
    assert not hub.called("^PUT") and not hub.called("commit")


def test_a_branch_of_its_own(hub, igrft, labelled):
    igrft("push", labelled, REPO, "-q")
    repo = hub.dataset(REPO)
    before = repo.branches["main"], dict(repo.tags)
    (labelled / "meta/extra.json").write_text("{}")
    assert igrft("push", labelled, REPO, "--revision", "try-2", "-q").status == 0
    assert "meta/extra.json" in repo.files("try-2")
    assert (repo.branches["main"], repo.tags) == before
    assert 'LeRobotDataset("somebody/cubes", revision="try-2")' in repo.files("try-2")["README.md"].decode()


def test_the_readme_of_the_recording_is_replaced_and_its_licence_kept(hub, igrft, labelled):
    own = "---\nlicense: cc-by-4.0\n---\nAbout my recording.\n"
    (labelled / "README.md").write_text(own)
    said = igrft("push", labelled, REPO)
    assert "--card" in said.err
    card = hub.dataset(REPO).files()["README.md"].decode()
    assert "license: cc-by-4.0" in card and "About my recording" not in card
    igrft("push", labelled, REPO, "--card", labelled / "README.md", "-q")
    assert hub.dataset(REPO).files()["README.md"].decode() == own


def test_lerobot_opens_it_by_its_id(hub, igrft, labelled, tmp_path):
    igrft("push", labelled, REPO, "-q")
    code = (
        "from lerobot.datasets import LeRobotDataset\n"
        f"d = LeRobotDataset({REPO!r})\n"
        "i = d[7]\n"
        "print(len(d), d.revision, float(i['return_to_go']), tuple(i['observation.images.top'].shape))\n"
    )
    environment = hub.environment(HF_HOME=str(tmp_path / "hf"), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.split(maxsplit=3)
    assert shown[:2] == ["145", "v3.0"] and shown[3].strip() == "(3, 48, 64)"
    from igrft import load_labels

    assert float(shown[2]) == pytest.approx(float(load_labels(labelled)["return_to_go"][7]))


def test_a_set_on_the_hub_may_be_pushed_on(hub, igrft, labelled, tmp_path, monkeypatch):
    igrft("push", labelled, REPO, "-q")
    monkeypatch.chdir(tmp_path)
    assert igrft("push", REPO, "lab/cubes", "-q").status == 0
    first, second = hub.dataset(REPO).files(), hub.dataset("lab/cubes").files()
    assert {n for n in first if first[n] != second.get(n)} == {"README.md"}
    shutil.rmtree(tmp_path / "cache")
