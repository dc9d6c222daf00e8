"""`igrft eval` on trained policies in Meta-World, in this process and spread over several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluation_runs import train_policy, write_labelled

from igrft.cli.main import run
from igrft.errors import IgrftError, UsageError
from igrft.evaluation.run import evaluate

pytest.importorskip("metaworld")

#: T(s) follows from where the policy was led, digit by digit: it shows whether two episodes were the same.
TEMPERATURES = "temperatures=[1.0, exploration]"


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("policies")
    labelled = write_labelled(root)
    return [train_policy(labelled, root / name, seed=seed) for name, seed in (("a", 0), ("b", 1))]


def asked(policies: list[Path], folder: Path, *more: str) -> list[str]:
    return [
        f"checkpoints=[{{path: {policies[0]}, name: a}}, {{path: {policies[1]}, name: b}}]",
        "baseline=a",
        f"output_dir={folder}",
        "environment.task=shelf-place-v3",
        "environment.max_steps=40",
        "episodes=3",
        *more,
    ]


def results(folder: Path) -> dict[tuple, dict]:
    """By episode, without how long it took."""
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for r in found:
        r.pop("seconds")
    return {(r["name"], str(r["temperature"]), r["seed"]): r for r in found}


def test_from_the_command_line(policies, tmp_path, capsys):
    arguments = [f"--{a}" for a in asked(policies, tmp_path / "out", TEMPERATURES, "workers=1", "episodes=2")]
    assert run(["eval", "tiny/eval", "--quiet", "--json", *arguments]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [(r["name"], r["temperature"], r["n"]) for r in value["results"]] == [
        ("a", 1.0, 2),
        ("b", 1.0, 2),
        ("a", "exploration", 2),
        ("b", "exploration", 2),
    ]
    assert [c["seed"] for c in value["checkpoints"]] == [0, 1]
    pair = value["comparisons"][0]
    # Two training seeds, and the only ones of their task: they are compared.
    assert (pair["first"]["name"], pair["second"]["name"], pair["episodes"]) == ("b", "a", 2)
    assert all(0 <= r["progress"] < 1 and r["steps"] == 40 for r in value["results"])
    (low, high) = {r["temperature"]: r["noise"][1:] for r in value["results"]}["exploration"]
    assert 0.35 < low < high < 1.7
    assert run(["eval", "tiny/eval", "--quiet", *arguments]) == 0
    text = capsys.readouterr().out
    assert text.startswith("policy  task") and "T(s) 1." in text and str(tmp_path / "out") in text


def test_wrong_usage_is_one_line(policies, tmp_path, capsys):
    arguments = [f"--{a}" for a in asked(policies, tmp_path / "out", "workers=1")]
    for extra, message in (
        (["--episode=3"], "unknown key 'episode'; did you mean 'episodes'?"),
        (["--environment.task=shelf-plaec-v3"], "did you mean 'shelf-place-v3'?"),
        (["--temperatures=[explore]"], "did you mean 'exploration'?"),
    ):
        assert run(["eval", "tiny/eval", *arguments, *extra]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error
    assert run(["train", "tiny/eval"]) == 2
    assert "stage 'eval' is not trained; run: igrft eval tiny/eval" in capsys.readouterr().err


def test_an_expert_who_takes_over_is_counted(policies, tmp_path):
    more = [
        "environment.max_steps=null", "episodes=1", "workers=1", "human.type=expert", "human.until=episode",
        "human.limit=30", "monitor.enabled=true", "monitor.window=0.3", "monitor.grace=0.2", "monitor.margin=0.2",
        "inference.judge_every=1",
    ]  # fmt: skip
    found = evaluate("tiny/eval", asked(policies, tmp_path / "out", *more))
    (first, _second) = found.summary.rows
    assert (first.success_rate, first.interventions, first.successes_alone) == (1.0, 1, 0)
    (made, _) = results(tmp_path / "out").values()
    assert 0 < made["human_steps"] < made["steps"] and made["completed"] == made["subtasks"] == 4


@pytest.mark.slow
def test_results_are_the_same_however_many_processes(policies, tmp_path):
    """Alone, in two processes, and stopped half way and gone on with."""
    alone = evaluate("tiny/eval", asked(policies, tmp_path / "one", TEMPERATURES, "workers=1"))
    spread = evaluate("tiny/eval", asked(policies, tmp_path / "two", TEMPERATURES, "workers=3"))
    assert results(tmp_path / "one") == results(tmp_path / "two")
    assert alone.summary.to_json() == spread.summary.to_json()
    evaluate("tiny/eval", asked(policies, tmp_path / "three", TEMPERATURES, "workers=2", "episodes=1"))
    evaluate("tiny/eval", asked(policies, tmp_path / "three", TEMPERATURES, "workers=1"))
    assert results(tmp_path / "three") == results(tmp_path / "one")


@pytest.mark.slow
def test_pictures_beside_a_policy_that_sees_none_change_nothing(policies, tmp_path):
    evaluate("tiny/eval", asked(policies, tmp_path / "plain", "workers=1", "episodes=2"))
    evaluate("tiny/eval", asked(policies, tmp_path / "filmed", "workers=2", "episodes=2", "videos=all"))
    plain, filmed = results(tmp_path / "plain"), results(tmp_path / "filmed")
    assert all((tmp_path / "filmed" / r.pop("video")).is_file() for r in filmed.values())
    assert all((tmp_path / "filmed" / r.pop("figure")).is_file() for r in filmed.values())
    assert plain == filmed


@pytest.mark.slow
def test_a_killed_process_is_named_and_the_evaluation_goes_on(policies, tmp_path):
    """A worker is killed in the middle; run again, what is missing is run."""
    import threading

    import psutil

    def kill() -> None:
        until = time.monotonic() + 500
        while time.monotonic() < until:
            held = len(results(tmp_path / "out")) if (tmp_path / "out/results.jsonl").is_file() else 0
            workers = [p for p in psutil.Process().children() if "igrft.evaluation.worker" in " ".join(p.cmdline())]
            if held >= 2 and workers:
                workers[0].kill()
                return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    more = asked(policies, tmp_path / "out", "workers=2", "episodes=8", "environment.max_steps=150")
    with pytest.raises(IgrftError, match=r"the process that ran it was killed \(SIGKILL\)"):
        evaluate("tiny/eval", more)
    killer.join()
    before = len(results(tmp_path / "out"))
    assert 2 <= before < 16
    found = evaluate("tiny/eval", [*more, "workers=1"])
    assert found.ran == 16 - before and found.summary.rows[0].n == 8


@pytest.mark.slow
def test_sigterm_keeps_what_is_done_and_leaves_no_process(policies, tmp_path):
    arguments = [f"--{a}" for a in asked(policies, tmp_path / "out", "workers=2", "episodes=40")]
    command = [sys.executable, "-m", "igrft.cli.main", "eval", "tiny/eval", "--quiet", *arguments]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 500
    while time.monotonic() < until and not (tmp_path / "out/results.jsonl").is_file():
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 130
    import psutil

    held = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert not held and 1 <= len(results(tmp_path / "out")) < 80


def test_a_checkpoint_that_was_trained_on_is_another(policies, tmp_path):
    """The folder's results are of weights that are no longer there."""
    import shutil

    copy = tmp_path / "a"
    shutil.copytree(policies[0], copy, symlinks=True)
    more = asked([copy, policies[1]], tmp_path / "out", "workers=1", "episodes=1")
    evaluate("tiny/eval", more)
    weights = next(copy.rglob("pretrained_model/model.safetensors"))
    newest = (copy / "checkpoints/last").resolve() / "pretrained_model/model.safetensors"
    shutil.copy(next(policies[1].rglob("pretrained_model/model.safetensors")), newest)
    assert weights.is_file()
    with pytest.raises(UsageError, match="other weights under the name 'a'"):
        evaluate("tiny/eval", more)
