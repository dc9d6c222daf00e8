"""``serve_command``: a server that the step starts, waits for and stops."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import vlm_server
from vlm_sets import plain_truth, run, segments, write_set, write_task

from igrft.errors import IgrftError, UsageError
from igrft.steps.subtasks.vlm.server import Server
from igrft.steps.subtasks.vlm.settings import VlmSettings

KEY = "5ecret-0123456789"
COMMAND = shlex.join([sys.executable, vlm_server.__file__, "--port"]) + " {port}"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def settings(tmp_path: Path, command: str, **more) -> VlmSettings:
    return VlmSettings(model="m", serve_command=command, cache=str(tmp_path / "cache"), **more)


def test_a_server_is_started_used_and_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_VLM_KEY", KEY)
    truths = [plain_truth(e) for e in range(2)]
    source = write_set(tmp_path / "source", truths)
    pid = tmp_path / "pid"
    said: list[str] = []
    command = f"{COMMAND} --pid-file {pid}"
    more = {"task": str(write_task(tmp_path)), "api_key_env": "TEST_VLM_KEY", "serve_command": command}
    result = run(source, tmp_path, None, said=said, **more)
    assert result.set_aside == {} and [segments(tmp_path / "out", e) for e in range(2)] == truths
    assert "go to a server on this machine (seer)" in said[0]
    assert not alive(int(pid.read_text()))
    # The server printed its key; its log, which is ours, has it not.
    (log,) = (tmp_path / "cache/logs").iterdir()
    assert "starting with the key ***" in log.read_text() and KEY not in log.read_text()
    # Where every answer is at hand, no server is started.
    pid.unlink()
    run(source, tmp_path, None, out="again", **more)
    assert not pid.exists()


def test_it_is_stopped_after_an_error_too(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(0)])
    pid = tmp_path / "pid"
    with pytest.raises(IgrftError, match="no episode could be labelled"):
        # Its pictures are another rate's: every time that it gives is wrong.
        run(source, tmp_path, None, serve_command=f"{COMMAND} --fps 3 --pid-file {pid}", task=str(write_task(tmp_path)))
    assert not alive(int(pid.read_text()))


def test_a_server_that_dies_or_stays_mute_names_its_log(tmp_path):
    stopping = threading.Event()
    with pytest.raises(IgrftError, match=r"ended with status 3 before .* last words: no such model .*/logs/serve-"):
        Server(settings(tmp_path, f"{COMMAND} --die"), None, stopping)
    with pytest.raises(IgrftError, match=r"did not answer at http://127.0.0.1:\d+/v1 within 0.5 s; look into .*/logs/"):
        Server(settings(tmp_path, f"{COMMAND} --mute", serve_timeout=0.5), None, stopping)
    stopping.set()
    start = time.monotonic()
    with pytest.raises(IgrftError, match="the run ended while the server"):
        Server(settings(tmp_path, f"{COMMAND} --mute"), None, stopping)
    assert time.monotonic() - start < 5


def test_wrong_commands_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be started: .*no-such-program"):
        Server(settings(tmp_path, "no-such-program --port {port}"), None, threading.Event())
    # What stands in a command line, everybody on the machine can read.
    with pytest.raises(UsageError, match="serve_command holds the key") as caught:
        Server(settings(tmp_path, f"serve --api-key {KEY} {{port}}"), KEY, threading.Event())
    assert KEY not in str(caught.value)


def test_a_cache_that_cannot_be_written_ends_the_run_and_blames_no_episode(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(0)])
    (tmp_path / "file").write_text("no folder")
    more = {"serve_command": COMMAND, "cache": str(tmp_path / "file")}
    with pytest.raises(IgrftError, match=r"^the cache .*/file/logs cannot be written .*steps.subtasks.cache=FOLDER"):
        run(source, tmp_path, None, task=str(write_task(tmp_path)), **more)


def test_the_server_ends_with_us_even_where_we_are_killed(tmp_path):
    pid = tmp_path / "pid"
    script = (
        "import sys, threading, time\n"
        "from igrft.steps.subtasks.vlm.server import Server\n"
        "from igrft.steps.subtasks.vlm.settings import VlmSettings\n"
        f"Server(VlmSettings(model='m', serve_command={f'{COMMAND} --pid-file {pid}'!r}, cache={str(tmp_path)!r}), "
        "None, threading.Event())\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    server = int(pid.read_text())
    assert alive(server)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 10
    while alive(server) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(server)
