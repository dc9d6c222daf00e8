"""A server that the step starts, waits for and stops."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from urllib.parse import urlsplit

from igrft.errors import IgrftError, UsageError
from igrft.steps.subtasks.vlm.cache import cache_folder, unwritable
from igrft.steps.subtasks.vlm.settings import VlmSettings

#: Seconds that a server gets to end by itself.
_PATIENCE = 15.0


class Server:
    """The command of ``serve_command``, running.

    Attributes:
        base_url: where it answers.
        log: the file with what it printed.
    """

    def __init__(self, settings: VlmSettings, key: str | None, stopping: threading.Event) -> None:
        """Start the command and wait until ``GET /models`` answers.

        Args:
            stopping: set where nobody wants the server any more.

        Raises:
            UsageError: the command cannot be started, or holds the key.
            IgrftError: it ended, or did not answer in time (the message names the log), or the log cannot be written.
        """
        command = settings.serve_command or ""
        if key and key in command:
            raise UsageError(
                "step 'subtasks': serve_command holds the key, which every user of this machine could then read; "
                "let the server take it from the environment"
            )
        port = urlsplit(settings.base_url).port if settings.base_url else _free_port()
        self.base_url = settings.base_url or f"http://127.0.0.1:{port}/v1"
        self.log = cache_folder(settings.cache) / "logs" / f"serve-{os.getpid()}-{time.time_ns()}.log"
        self._key = key
        try:
            # Here and not by the thread that writes it: the run ends then, and no episode is to blame.
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.touch()
        except OSError as error:
            raise unwritable(self.log.parent, error) from None
        try:
            # A session of its own: Ctrl-C is ours to hand on, and what the command starts ends with it.
            self._process = subprocess.Popen(
                shlex.split(command.replace("{port}", str(port))),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise UsageError(f"step 'subtasks': serve_command cannot be started: {error}") from None
        self._watchdog = _watchdog(self._process.pid)
        self._writer = threading.Thread(target=self._write_log, daemon=True)
        self._writer.start()
        try:
            self._wait(settings.serve_timeout, stopping)
        except BaseException:
            self.stop()
            raise

    def _write_log(self) -> None:
        """What the server prints, without the key, which some servers print among their settings."""
        assert self._process.stdout is not None
        key = self._key.encode() if self._key else None
        with self.log.open("wb", buffering=0) as stream:
            for line in self._process.stdout:
                # Read on where the disk is full: a server that nobody listens to stops.
                with contextlib.suppress(OSError):
                    stream.write(line.replace(key, b"***") if key else line)

    def _wait(self, patience: float, stopping: threading.Event) -> None:
        import httpx

        until = time.monotonic() + patience
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        while time.monotonic() < until:
            status = self._process.poll()
            if status is not None:
                self._writer.join(2)
                raise IgrftError(
                    f"the server of 'serve_command' ended with status {status} before it answered; its last words: "
                    f"{self._last_words()} (all of them: {self.log})"
                )
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.base_url.rstrip('/')}/models", headers=headers, timeout=5).status_code == 200:
                    return
            if stopping.wait(0.2):
                raise IgrftError("the run ended while the server of 'serve_command' started")
        raise IgrftError(
            f"the server of 'serve_command' did not answer at {self.base_url} within {patience:g} s; look into "
            f"{self.log}, or give it longer with --steps.subtasks.serve_timeout=SECONDS"
        )

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if lines:
                return " ".join(lines[-1].split())[:200]
        return "none"

    def stop(self) -> None:
        """End the server and what it started; returns when they are gone."""
        if self._process.poll() is None:
            _signal(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
        _signal(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._watchdog.kill()
        self._watchdog.wait()
        self._writer.join(2)


def _watchdog(group: int) -> subprocess.Popen[bytes]:
    """A shell that ends the server's processes when we die without a word: its input then closes."""
    script = 'read -r _; kill -TERM "-$1"; sleep 5; kill -KILL "-$1"'
    return subprocess.Popen(
        ["sh", "-c", script, "sh", str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _signal(group: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, what)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
