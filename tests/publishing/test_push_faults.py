"""What goes wrong on the way: tried again where that helps, one line where it does not, and nothing sent twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from hub_server import Fault, Hub

REPO = "somebody/cubes"


def arrived(hub: Hub) -> set[str]:
    return {call.split("/")[2] for call in hub.called(r"^PUT /store/")}


@pytest.mark.parametrize(
    ("fault", "repo", "message"),
    [
        (Fault("whoami", 401), REPO, "token"),
        (None, "strangers/cubes", "may not write there"),
        (Fault("repos/create", 402), REPO, "must pay"),
        (Fault("preupload", 404), REPO, "no such repository"),
        (Fault("^PUT", 403), REPO, "may not write there"),
        (Fault("^PUT", 413), REPO, "larger than the Hub takes"),
        (
            Fault(
                "objects/batch",
                200,
                body={"objects": [{"oid": "0", "size": 1, "error": {"code": 422, "message": "no"}}]},
            ),
            REPO,
            "LFS batch API returned errors",
        ),
        (Fault("preupload", 200, body={"files": "none"}), REPO, "sending files failed"),
        (Fault("commit", 418, body={"error": "I am a teapot"}), REPO, "answered 418: I am a teapot"),
        (
            Fault("validate-yaml", 400, body={"errors": [{"message": "no such licence"}]}),
            REPO,
            "refuses the card: no such",
        ),
    ],
)
def test_refusals_are_one_line(hub, igrft, plain_set, no_waiting, fault, repo, message):
    if fault is not None:
        fault.times = 99
        hub.faults.append(fault)
    said = igrft("push", plain_set, repo, "--license", "mit", "-q")
    assert said.status == 1 and message in said.err and said.err.count("\n") == 1
    assert "secret" not in said.err and not no_waiting
    held = hub.repos.get(("dataset", repo))
    assert held is None or (len(held.commits) == 1 and not held.tags)


def test_nobody_logged_in(hub, igrft, plain_set, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    said = igrft("push", plain_set, REPO, "-q")
    assert said.status == 1 and "hf auth login" in said.err and said.err.count("\n") == 1
    assert not hub.calls


def test_offline(hub, igrft, plain_set, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = igrft("push", plain_set, REPO, "-q")
    assert said.status == 1 and "HF_HUB_OFFLINE is set" in said.err


@pytest.mark.parametrize(
    ("where", "status"),
    [
        ("whoami", 429),
        ("repos/create", 503),
        ("validate-yaml", 500),
        ("/tree/", 429),
        ("/commit/", 429),
        ("/commit/", 502),
        ("/refs", 503),
        ("/tag/", 504),
    ],
)
def test_what_passes_is_tried_again(hub, igrft, plain_set, no_waiting, where, status):
    hub.faults.append(Fault(where, status, headers={"Retry-After": "7"}))
    said = igrft("push", plain_set, REPO)
    assert said.status == 0 and no_waiting == [7.0]
    assert f"the Hub cannot take this now (it answered {status}); again in 7 s" in said.err
    assert hub.dataset(REPO).tags["v3.0"] == hub.dataset(REPO).branches["main"]


def test_a_limit_while_files_are_sent_is_kept_to_and_said(hub, igrft, plain_set):
    hub.faults.append(Fault("^PUT", 429, headers={"Retry-After": "0"}))
    started = time.monotonic()
    said = igrft("push", plain_set, REPO)
    assert said.status == 0 and time.monotonic() - started >= 1
    assert "Rate limited" in said.err and "secret" not in said.err


def test_the_repository_is_there_already(hub, igrft, plain_set):
    igrft("push", plain_set, REPO, "-q")
    hub.calls.clear()
    assert igrft("push", plain_set, REPO, "-q").status == 0
    assert hub.called("POST /api/repos/create")


@pytest.mark.parametrize("status", [409, 412])
def test_somebody_else_commits_in_between(hub, igrft, plain_set, no_waiting, status):
    hub.faults.append(Fault("/commit/", status, body={"error": "A commit has happened since. Please refresh"}))
    assert igrft("push", plain_set, REPO, "-q").status == 0
    assert no_waiting == [1.0]


def test_a_fault_that_stays_is_one_line_and_nothing_is_sent_twice(hub, igrft, plain_set, no_waiting):
    hub.faults.append(Fault("/commit/", 500, times=5))
    said = igrft("push", plain_set, REPO, "-q")
    assert said.status == 1 and "has a fault (it answered 500)" in said.err and said.err.count("\n") == 1
    assert no_waiting == [1.0, 2.0, 4.0, 8.0]
    sent = arrived(hub)
    hub.calls.clear()
    assert len(sent) > 4 and igrft("push", plain_set, REPO, "-q").status == 0
    assert not arrived(hub)


def test_a_connection_cut_within_a_file(hub, igrft, plain_set):
    hub.faults.append(Fault("^PUT", 0, after=500))
    assert igrft("push", plain_set, REPO, "-q").status == 0
    sent = hub.called("^PUT")
    assert len(sent) == len(set(sent)) + 1


def test_a_refused_file_names_itself_and_the_rest_is_not_sent_again(hub, igrft, plain_set):
    hub.faults.append(Fault("^PUT", 403, skip=3))
    said = igrft("push", plain_set, REPO, "--workers", "1", "-q")
    assert said.status == 1 and "sending '" in said.err and said.err.count("\n") == 1
    there = set(hub.stored)
    assert len(there) >= 3
    hub.calls.clear()
    assert igrft("push", plain_set, REPO, "-q").status == 0
    assert arrived(hub) == set(hub.stored) - there


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_it_goes_on(hub, igrft, plain_set, tmp_path, how):
    hub.faults.append(Fault("^PUT", -1, times=99, skip=3, after=200))
    command = [sys.executable, "-m", "igrft.cli.main", "push", str(plain_set), REPO, "--workers", "1", "-q"]
    environment = hub.environment(HF_HOME=str(tmp_path / "hf"))
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while len(hub.called("^PUT")) < 4 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        os.kill(process.pid, how)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
    if how == signal.SIGINT:
        assert process.returncode == 130 and "run the same command again" in said and said.strip().count("\n") == 0
    there = set(hub.stored)
    assert len(there) == 3 and len(hub.dataset(REPO).commits) == 1
    hub.faults.clear()
    hub.hanging.set()
    hub.calls.clear()
    assert igrft("push", plain_set, REPO, "-q").status == 0
    assert arrived(hub) == set(hub.stored) - there
    sent = hub.dataset(REPO).files()
    assert all(sent[str(p.relative_to(plain_set))] == p.read_bytes() for p in plain_set.rglob("*") if p.is_file())


def test_large_files_go_in_parts(hub, igrft, plain_set):
    hub.part_size = 1000
    assert igrft("push", plain_set, REPO, "-q").status == 0
    assert len(hub.called(r"^PUT /store/\w+/\d")) > 10
    sent = hub.dataset(REPO).files()
    assert all(sent[str(p.relative_to(plain_set))] == p.read_bytes() for p in plain_set.rglob("*") if p.is_file())


def test_an_unknown_licence_is_the_hubs_to_refuse(hub, igrft, plain_set):
    said = igrft("push", plain_set, REPO, "--license", "my-own", "-q")
    assert said.status == 1 and "the Hub refuses the card" in said.err and not hub.repos
