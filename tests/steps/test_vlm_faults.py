"""``source: vlm`` where the server fails, the run is killed, and secrets must not get out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from vlm_server import thirty_percent, vlm_server
from vlm_sets import entry, plain_truth, record, run, segments, write_set, write_task

from igrft.errors import IgrftError, UsageError

SECRET = "sk-test-5ecret-0123456789abcdef"
PROJECT = Path(__file__).resolve().parents[2]


def everything_under(*folders: Path) -> bytes:
    return b"".join(p.read_bytes() for folder in folders for p in folder.rglob("*") if p.is_file())


def test_a_server_that_fails_in_three_calls_of_ten(tmp_path, monkeypatch, capfd):
    """Every episode is labelled, and rightly, or set aside with its reason; the key gets nowhere."""
    monkeypatch.setenv("TEST_VLM_KEY", SECRET)
    truths = [plain_truth(e) for e in range(30)]
    source = write_set(tmp_path / "source", truths)
    settings = {"task": str(write_task(tmp_path)), "timeout": 2, "retries": 2, "concurrency": 8}
    said: list[str] = []
    with vlm_server(fault=thirty_percent(), key=SECRET) as server:
        result = run(source, tmp_path, server.base_url, api_key_env="TEST_VLM_KEY", said=said, **settings)
        assert set(server.faults.values()) == {"500", "hang", "cut", "prose", "json", "names", "beyond", "echo"}
        assert 0.25 < len(server.faults) / len(server.bodies) < 0.35
    labelled = [e for e in range(30) if e not in result.set_aside]
    assert len(labelled) == result.episodes >= 20
    for e in labelled:
        assert segments(tmp_path / "out", e) == truths[e]
    for e, reason in result.set_aside.items():
        assert reason.startswith(f"episode {e}: the model's ") and "\n" not in reason
        assert record(tmp_path / "out", e) == {"set_aside": reason}
    assert result.spent["subtasks"]["sent_back"] > 0
    assert result.spent["subtasks"]["requests"] == len(server.bodies)
    captured = capfd.readouterr()
    shown = json.dumps(result.to_json()) + "".join(said) + captured.out + captured.err
    assert SECRET not in shown and "5ecret" not in shown
    assert SECRET.encode() not in everything_under(tmp_path / "out", tmp_path / "cache", tmp_path / "source")
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    # Set-aside episodes are tried again; what was answered is not paid for again.
    with vlm_server(key=SECRET) as server:
        again = run(source, tmp_path, server.base_url, api_key_env="TEST_VLM_KEY", ask_again=True, **settings)
        assert again.set_aside == {} and len(server.bodies) <= 2 * len(result.set_aside)
    for e in range(30):
        assert segments(tmp_path / "out", e) == truths[e]


@pytest.mark.parametrize("secret", [SECRET, 'sk/te"st\\5ecret'])
@pytest.mark.parametrize("closed", [True, False])
def test_a_key_that_comes_back_in_an_answer_goes_nowhere(tmp_path, monkeypatch, capfd, closed, secret):
    """In a description, in a name that is refused, in a name that is taken."""
    monkeypatch.setenv("TEST_VLM_KEY", secret)
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(2)])
    more = {"task": str(write_task(tmp_path))} if closed else {}
    said: list[str] = []
    # Of the first episode every answer but the description, and of the second that alone.
    echo = {0, 1, 2, 3} if closed else {0, 1, 2}
    with vlm_server(fault=lambda number: "echo" if number in echo else None, key=secret) as server:
        result = run(
            source,
            tmp_path,
            server.base_url,
            api_key_env="TEST_VLM_KEY",
            concurrency=1,
            said=said,
            merge="spelling",
            **more,
        )
    assert len(server.faults) == len(echo)
    if closed:
        ((e, reason),) = result.set_aside.items()
        assert "refused twice: 'Bearer ***' is none of the subtasks" in reason
        assert record(tmp_path / "out", e) == {"set_aside": reason}
    else:
        assert result.set_aside == {}
        assert "bearer ***" in {segments(tmp_path / "out", e)[0][0] for e in range(2)}
    assert any("You sent Bearer ***." in part["text"] for part in server.bodies[1]["messages"][0]["content"][-1:])
    captured = capfd.readouterr()
    shown = json.dumps(result.to_json()) + "".join(said) + captured.out + captured.err
    kept = everything_under(tmp_path / "out", tmp_path / "cache", *tmp_path.glob("*.staging"))
    assert "5ecret" not in shown and b"5ecret" not in kept


@pytest.mark.parametrize("fault", ["drip", "page", "empty", "length", "object"])
def test_what_else_a_server_may_do_sets_the_episode_aside(tmp_path, fault):
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(2)])
    settings = {"task": str(write_task(tmp_path)), "concurrency": 1, "timeout": 1, "retries": 1, "describe": False}
    # The longest episode comes first.
    with vlm_server(fault=lambda number: fault if number < 2 else None) as server:
        result = run(source, tmp_path, server.base_url, **settings)
    (reason,) = result.set_aside.values()
    expected = {
        "drip": "no answer within 1 s",
        "page": "answers what is no chat completion",
        "empty": "answers what is no chat completion",
        "object": "answers what is no chat completion",
        "length": "refused twice: it was cut off after 4096 tokens (max_tokens)",
    }
    assert expected[fault] in reason and result.episodes == 1 and len(server.bodies) == 3


def test_a_refused_answer_goes_back_once_with_its_reason(tmp_path):
    truths = [plain_truth(0)]
    source = write_set(tmp_path / "source", truths)
    with vlm_server(fault=lambda number: "names" if number == 1 else None) as server:
        result = run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)))
        assert result.set_aside == {} and segments(tmp_path / "out", 0) == truths[0]
        assert result.spent["subtasks"]["sent_back"] == 1 and len(server.bodies) == 3
    first, reply, reason = server.bodies[2]["messages"]
    assert first == server.bodies[1]["messages"][0] and "dance" in reply["content"]
    assert "'dance' is none of the subtasks" in reason["content"]
    # Both answers are in the cache: a run that comes to the same question pays for neither.
    with vlm_server() as server:
        run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)), out="again")
        assert server.bodies == []


def test_what_was_refused_twice_is_asked_anew_only_where_that_is_asked_for(tmp_path):
    truths = [plain_truth(e) for e in range(2)]
    source = write_set(tmp_path / "source", truths)
    task = str(write_task(tmp_path))
    # The longest episode is asked first: two calls, and one after the refusal.
    with vlm_server(fault=lambda number: "beyond" if number in (1, 2) else None) as server:
        result = run(source, tmp_path, server.base_url, task=task, concurrency=1)
        ((e, reason),) = result.set_aside.items()
        assert "refused twice: subtask 4" in reason and "--steps.subtasks.ask_again=true" in reason
        calls = len(server.bodies)
        assert run(source, tmp_path, server.base_url, task=task).set_aside == {e: reason}
        assert len(server.bodies) == calls
        assert run(source, tmp_path, server.base_url, task=task, ask_again=True).set_aside == {}
        # The description was good and is kept.
        assert len(server.bodies) == calls + 1
    assert [segments(tmp_path / "out", i) for i in range(2)] == truths


def test_a_server_that_is_down_ends_the_run_at_once(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(20)])
    start = time.monotonic()
    with pytest.raises(IgrftError, match="the last 8 calls to http://127.0.0.1:9/v1 all failed, the last: the conn"):
        run(source, tmp_path, "http://127.0.0.1:9/v1", task=str(write_task(tmp_path)), retries=0)
    assert time.monotonic() - start < 60


def test_a_wrong_key_ends_the_run_and_is_not_shown(tmp_path, monkeypatch):
    source = write_set(tmp_path / "source", [plain_truth(0)])
    task = str(write_task(tmp_path))
    monkeypatch.setenv("TEST_VLM_KEY", SECRET)
    # A key of the user's for another service goes to no other host.
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-5ecret")
    with vlm_server(key="right") as server:
        with pytest.raises(IgrftError, match=r"refuses the key: 401 Incorrect API key provided: \*\*\*") as caught:
            run(source, tmp_path, server.base_url, task=task, api_key_env="TEST_VLM_KEY")
        with pytest.raises(IgrftError, match="401"):
            run(source, tmp_path, server.base_url, task=task)
    assert "5ecret" not in str(caught.value) and "5ecret" not in json.dumps(server.headers[1])
    monkeypatch.delenv("TEST_VLM_KEY")
    with pytest.raises(UsageError, match="variable TEST_VLM_KEY, which 'api_key_env' of step 'subtasks' names, is not"):
        run(source, tmp_path, server.base_url, task=task, api_key_env="TEST_VLM_KEY")


def start_run(tmp_path: Path, source: Path, base_url: str, **settings) -> subprocess.Popen[str]:
    path = tmp_path / "pipeline.json"
    path.write_text(json.dumps({"steps": [entry(base_url, tmp_path, **settings)]}))
    command = [sys.executable, "-m", "igrft.cli.main", "annotate", str(source), str(tmp_path / "out")]
    return subprocess.Popen(
        [*command, "--pipeline", str(path)], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    assert condition()


def test_a_killed_run_pays_nothing_twice(tmp_path):
    truths = [plain_truth(e) for e in range(8)]
    source = write_set(tmp_path / "source", truths)
    task = str(write_task(tmp_path))
    with vlm_server(delay=0.2) as server:
        process = start_run(tmp_path, source, server.base_url, task=task, concurrency=2)
        wait_for(lambda: len(server.bodies) >= 9, 120)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.5)
        result = run(source, tmp_path, server.base_url, task=task, concurrency=2)
        # Staged episodes are not asked again, answered questions neither: only those in flight are.
        paid = Counter(server.digests())
        assert result.set_aside == {} and len(paid) == 16
        assert len(server.bodies) <= 16 + 2 and max(paid.values()) <= 2
    assert [segments(tmp_path / "out", e) for e in range(8)] == truths


@pytest.mark.slow
def test_ctrl_c_is_quick_whatever_the_server_does(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(4)])
    with vlm_server(fault=lambda number: "hang" if number > 1 else None) as server:
        process = start_run(tmp_path, source, server.base_url, task=str(write_task(tmp_path)), timeout=100)
        wait_for(lambda: len(server.bodies) >= 4, 120)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        # Long before the server's 100 seconds are over.
        _, err = process.communicate(timeout=40)
    assert process.returncode == 130 and "run the same command again to go on" in err
    assert "Traceback" not in err and "frames of 4 episodes go to http://127.0.0.1" in err
