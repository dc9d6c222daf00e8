"""Processes of an evaluation: who gets which episode, and what becomes of one whose process dies."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from igrft.errors import IgrftError, UsageError
from igrft.evaluation import worker
from igrft.evaluation.bench import Job
from igrft.evaluation.contenders import Contender
from igrft.evaluation.pool import run_jobs
from igrft.evaluation.recipe import EvalRecipe

#: Speaks as a worker does, and dies, fails or hangs where an episode's seed says so.
DOUBLE = """
import json, os, signal, sys, time
head = json.loads(sys.stdin.readline())
print("a library says hello")
print("loading", file=sys.stderr, flush=True)
print(json.dumps({"say": "once"}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if job["seed"] == 901:
        print("Segmentation fault in mj_step", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if job["seed"] == 902:
        sys.exit(3)
    if job["seed"] == 903:
        print(json.dumps({"error": ["failure", "RuntimeError: no memory"]}), flush=True)
        continue
    if job["seed"] == 904:
        print(json.dumps({"error": ["usage", "the policy looks at what is not there"]}), flush=True)
        continue
    if job["seed"] == 905:
        time.sleep(600)
    time.sleep(0.02)
    print(json.dumps({"result": {**job, "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"],
                                 "names": [c["name"] for c in head["contenders"]]}}), flush=True)
"""
CONTENDERS = [Contender(n, "task", i, f"/{n}", "d", n) for i, n in enumerate(("a", "b"))]


def jobs(seeds, contender: int = 0) -> list[Job]:
    return [Job(contender, 1.0, seed, number) for number, seed in enumerate(seeds)]


@pytest.fixture
def go(tmp_path: Path):
    script = tmp_path / "double.py"
    script.write_text(DOUBLE)

    def run(wanted: list[Job], workers: int = 2, said: list | None = None):
        say = (lambda line: None) if said is None else said.append
        command = [sys.executable, str(script)]
        return run_jobs(EvalRecipe(cpu_threads=3), CONTENDERS, tmp_path, wanted, workers, say=say, command=command)

    return run


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "double.py" in " ".join(p.cmdline())]


def test_every_episode_is_run_once_by_several_processes(go):
    said: list[str] = []
    found = list(go(jobs(range(40)), 3, said))
    assert sorted(r["seed"] for r in found) == list(range(40))
    assert len({r["pid"] for r in found}) == 3
    assert found[0]["names"] == ["a", "b"] and found[0]["threads"] == "3"
    # Each process says it, and the user hears it once.
    assert said == ["once"]
    assert not children()


def test_no_more_processes_than_episodes(go):
    assert len({r["pid"] for r in go(jobs([1]), 4)}) == 1


def test_a_process_keeps_the_policy_that_it_has(go):
    found = list(go(jobs(range(12), 0) + jobs(range(12), 1), 2))
    by = {}
    for r in found:
        by.setdefault(r["pid"], []).append(r["contender"])
    # Each loads one policy, and at most one of them the other for what is left at the end.
    changes = [sum(a != b for a, b in itertools.pairwise(seen)) for seen in by.values()]
    assert sorted(seen[0] for seen in by.values()) == [0, 1] and sum(changes) <= 1


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (901, r"the process that ran it was killed \(SIGKILL\); it last said: Segmentation fault in mj_step; finished"),
        (902, r"the process that ran it ended with status 3; it last said: loading; finished episodes are kept"),
        (903, r"RuntimeError: no memory; finished episodes are kept, and the same command goes on"),
    ],
)
def test_what_goes_wrong_names_the_episode(go, seed, message):
    done = []
    with pytest.raises(IgrftError, match=rf"^a \(task seed 0, temperature 1.0\), episode 2 \(seed {seed}\): {message}"):
        for result in go(jobs([0, 1, seed, 3, 4]), 1):
            done.append(result["seed"])
    assert done == [0, 1] and not children()


def test_wrong_usage_stays_wrong_usage(go):
    with pytest.raises(UsageError, match="^the policy looks at what is not there$"):
        list(go(jobs([904])))


def test_leaving_early_ends_the_processes(go):
    results = go(jobs([0, 1, 2, 905, 905]), 2)
    next(results)
    assert len(children()) == 2
    began = time.monotonic()
    results.close()
    assert not children() and time.monotonic() - began < 30


# The worker's side.


def test_the_worker_answers_line_by_line(tmp_path: Path):
    heard: list[tuple[str, object]] = []
    head = {"recipe": {"checkpoint": "x"}, "contenders": [], "folder": str(tmp_path)}
    lines = iter([json.dumps(head), json.dumps(jobs([5])[0].to_json())])

    def following() -> str:
        try:
            return next(lines)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        worker.serve(following, lambda kind, value: heard.append((kind, value)))
    # There is no such policy: an error in one line, and it waits for the next.
    assert heard == [("error", ["failure", "IndexError: list index out of range"])]


def test_a_recipe_that_the_worker_cannot_read_is_told(tmp_path: Path):
    heard: list = []
    lines = iter([json.dumps({"recipe": {"strange": 1}, "contenders": [], "folder": str(tmp_path)})])
    with pytest.raises(StopIteration):
        worker.serve(lambda: next(lines), lambda kind, value: heard.append((kind, value)))
    assert heard == [("error", ["usage", heard[0][1][1]])] and "unknown key 'strange'" in heard[0][1][1]


def test_a_worker_ends_with_its_parent():
    code = "import igrft.evaluation.worker as w, queue, time; w._read(queue.Queue()); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"{}\n")
    process.stdin.close()
    assert process.wait(timeout=120) == 0


def test_ctrl_c_is_the_parents_to_answer():
    code = "import igrft.evaluation.worker as w; w.main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"no JSON\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["error"][0] == "failure"
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def test_reading_puts_every_line(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(worker.os, "_exit", lambda status: ended.set())
    import queue

    lines: queue.Queue[str] = queue.Queue()
    worker._read(lines, io.StringIO("a\nb\n"))
    assert [lines.get(), lines.get()] == ["a\n", "b\n"] and ended.is_set()
