"""What was paid for all episodes together is paid for once and kept; facts of an earlier labelling."""

from __future__ import annotations

import json
import shutil
from collections import Counter

from vlm_server import NAMES, vlm_server
from vlm_sets import plain_truth, record, run, write_set, write_task

import igrft
from igrft.cli.main import run as cli
from igrft.dataset.reader import DatasetReader
from igrft.pipeline.reductions import Reductions
from igrft.steps.base import Provisional, StepDefaults


class Paid(StepDefaults):
    """Counts how often it is asked."""

    type = "paid"

    def __init__(self, certain: bool = True) -> None:
        self.asked, self.certain = 0, certain

    def reduced_from(self, records):
        return sorted(name for _, r in records for name in r["names"])

    def reduce(self, records):
        self.asked += 1
        found = dict(Counter(name for _, r in records for name in r["names"]))
        return found if self.certain else Provisional(found)


def records():
    return iter([(0, {"names": ["b"]}), (1, {"names": ["a", "b"]})])


def test_a_reduction_is_kept_by_what_it_was_made_from(tmp_path):
    (tmp_path / "staging").mkdir()
    step, kept = Paid(), Reductions.read(tmp_path / "target", tmp_path / "staging")
    assert not kept.costs_nothing(step, records)
    assert kept.of(step, records) == kept.of(step, records) == {"b": 2, "a": 1} and step.asked == 1
    # A run that is killed now has it in its staging folder, a finished dataset in its own.
    assert Reductions.read(tmp_path / "target", tmp_path / "staging").costs_nothing(step, records)
    kept.write(tmp_path / "target")
    shutil.rmtree(tmp_path / "staging")
    again = Reductions.read(tmp_path / "target", tmp_path / "staging")
    assert again.of(step, records) == {"b": 2, "a": 1} and step.asked == 1
    assert again.of(step, lambda: iter([(0, {"names": ["c"]})])) == {"c": 1} and step.asked == 2
    (tmp_path / "target/meta/igrft/reductions.json").write_text("{")
    assert not Reductions.read(tmp_path / "target", tmp_path / "staging").costs_nothing(step, records)


def test_what_may_get_better_is_used_in_one_run_alone(tmp_path):
    step, kept = Paid(certain=False), Reductions.read(tmp_path, tmp_path)
    assert kept.of(step, records) == kept.of(step, records) == {"b": 2, "a": 1} and step.asked == 1
    kept.write(tmp_path)
    assert not (tmp_path / "meta").exists() and not Reductions.read(tmp_path, tmp_path).costs_nothing(step, records)


def test_a_finished_vocabulary_needs_neither_server_nor_cache(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(4)])
    with vlm_server(open_names=True) as server:
        run(source, tmp_path, server.base_url)
    names = DatasetReader.open(tmp_path / "out").subtask_names
    shutil.rmtree(tmp_path / "cache")
    again = run(source, tmp_path, "http://127.0.0.1:9/v1")
    assert again.unchanged and DatasetReader.open(tmp_path / "out").subtask_names == names


def test_a_refused_merge_is_asked_for_once_a_run(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(3)])
    answer = lambda kind, body: "I would rather not." if kind == "merge" else None  # noqa: E731
    with vlm_server(open_names=True, answer=answer) as server:
        run(source, tmp_path, server.base_url)
        before = len(server.bodies)
        said: list[str] = []
        run(source, tmp_path, server.base_url, said=said, ask_again=True)
    assert [server.kind(b) for b in server.bodies[before:]] == ["merge", "merge"]
    assert sum("merged by their spelling alone" in line for line in said) == 1


def test_a_dry_run_on_a_finished_dataset_has_nothing_to_do(tmp_path, capsys):
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(3)])
    with vlm_server(open_names=True) as server:
        run(source, tmp_path, server.base_url)
        calls = len(server.bodies)
        shutil.rmtree(tmp_path / "cache")
        command = ["annotate", str(source), str(tmp_path / "out"), "--pipeline", str(tmp_path / "pipeline.yaml")]
        assert cli([*command, "--dry-run", "--json"]) == 0
        assert len(server.bodies) == calls
    found = json.loads(capsys.readouterr().out)["steps"]
    assert [s["episodes"] for s in found if s["heavy"]] == [0]


def test_a_dry_run_refuses_what_a_run_refuses(tmp_path, capsys):
    source = write_set(tmp_path / "source", [plain_truth(0)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    assert cli(["annotate", str(source), str(tmp_path / "out"), "--pipeline", "offline", "--dry-run"]) == 1
    assert "was not made by igrft annotate" in capsys.readouterr().err
    assert cli(["annotate", str(source), str(tmp_path / "out"), "--dry-run", "--overwrite"]) == 0


def test_another_source_of_subtasks_takes_their_facts_away(tmp_path):
    truth = [(NAMES[0], 0, 12, True), (NAMES[2], 12, 30, True)]
    source = write_set(tmp_path / "source", [truth], [True])
    with vlm_server() as server:
        run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)))
    assert record(tmp_path / "out", 0)["skipped"]
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"episodes": {"0": {"subtasks": [{"name": "all", "start": 0, "end": 30}]}}}))
    steps = {"steps": [{"type": "subtasks", "source": "file", "path": str(own)}, {"type": "rewards"}]}
    (tmp_path / "file.yaml").write_text(json.dumps(steps))
    igrft.annotate(tmp_path / "out", tmp_path / "third", pipeline=tmp_path / "file.yaml")
    assert "skipped" not in record(tmp_path / "third", 0)
