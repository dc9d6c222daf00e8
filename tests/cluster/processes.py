"""Processes of a cluster on this computer: to find them, and to end them as a power cut would."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def find(belongs: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Those that live, may be asked, and for which it holds."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if lives(process) and belongs(process):
                found.append(process)
    return found


def has_environment(process: psutil.Process, **values: str) -> bool:
    """As it was when the program started; False of one that overwrote it."""
    env = process.environ()
    return all(env.get(name) == value for name, value in values.items())


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def kill_all(belongs: Callable[[psutil.Process], bool]) -> None:
    """End them and all that they started, at one moment: none may see another end and report it, none may be missed."""
    doomed: dict[int, psutil.Process] = {}
    while fresh := [process for process in find(belongs) if process.pid not in doomed]:
        while fresh:
            process = fresh.pop()
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid not in doomed:
                    process.suspend()  # it starts no more, and says no more
                    doomed[process.pid] = process
                    fresh.extend(process.children())
    for process in doomed.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    # One whose parent has not asked for its status yet is as good as gone.
    while any(lives(process) for process in doomed.values()):
        time.sleep(0.02)


def wait_until(condition: Callable[[], bool], timeout: float, what: str, logs: Callable[[], str] = str) -> None:
    """Ask until it holds.

    Raises:
        TimeoutError: with what was waited for and the logs.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}\n{logs()}")
        time.sleep(0.2)


def start_guard(program: str, folder: Path) -> subprocess.Popen[bytes]:
    """``program --guard folder``, which is to stop a cluster when its input ends: by us, or because we are gone."""
    return subprocess.Popen(
        [sys.executable, program, "--guard", str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )


def release_guard(guard: subprocess.Popen[bytes]) -> None:
    """Let it stop the cluster, and wait until it has."""
    assert guard.stdin is not None
    guard.stdin.close()
    guard.wait()


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Below those that the kernel deals out, so that a node that is down finds its own free when it returns; above
    those that Ray keeps for its workers."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randint(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            found += [port] * (port not in found)
    return found
