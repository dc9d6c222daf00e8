"""Episodes spread over processes. Each keeps the policy that it has loaded as long as there is work for it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import igrft
from igrft.errors import UsageError
from igrft.evaluation.bench import Job
from igrft.evaluation.contenders import Contender
from igrft.evaluation.recipe import EvalRecipe

#: Seconds that a process is given to end by itself.
_GRACE = 5.0


def run_jobs(
    recipe: EvalRecipe,
    contenders: Sequence[Contender],
    folder: Path,
    jobs: Sequence[Job],
    workers: int,
    *,
    say: Callable[[str], None],
    command: Sequence[str] = (sys.executable, "-m", "igrft.evaluation.worker"),
) -> Generator[dict[str, Any]]:
    """Run episodes in ``workers`` processes; yields their results as they are done, in any order.

    Args:
        say: is given lines for the user, each once.
        command: that starts a worker.

    Raises:
        UsageError, IgrftError: of an episode, which the message names; also where its process died.
    """
    from igrft.training.recipe_file import resolved

    head = {
        "recipe": resolved(recipe),
        "contenders": [one.to_json() for one in contenders],
        "folder": str(folder),
    }
    waiting: dict[int, deque[Job]] = {}
    for job in jobs:
        waiting.setdefault(job.contender, deque()).append(job)
    heard: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    said = set[str]()
    with contextlib.ExitStack() as stack:
        crew = [_Worker(command, recipe.cpu_threads, head, heard) for _ in range(min(workers, len(jobs)))]
        for worker in crew:
            stack.callback(worker.close)
        for worker in crew:
            worker.give(_next(worker, crew, waiting))
        while any(worker.job is not None for worker in crew):
            worker, message = heard.get()
            if message is None:
                if worker.job is not None:
                    raise worker.job.failed(contenders, worker.fate())
            elif "say" in message:
                if message["say"] not in said:
                    said.add(message["say"])
                    say(message["say"])
            elif "error" in message:
                kind, text = message["error"]
                assert worker.job is not None
                raise UsageError(text) if kind == "usage" else worker.job.failed(contenders, text)
            else:
                yield message["result"]
                worker.job = None
                worker.give(_next(worker, crew, waiting))


def _next(worker: _Worker, crew: Sequence[_Worker], waiting: dict[int, deque[Job]]) -> Job | None:
    """The next episode: of the policy that the worker has loaded, else of the one with most left for each worker."""
    left = {number: jobs for number, jobs in waiting.items() if jobs}
    if not left:
        return None
    number = worker.loaded
    if number not in left:
        at_it = [other.loaded for other in crew if other is not worker]
        number = max(left, key=lambda n: len(left[n]) / (1 + at_it.count(n)))
    return left[number].popleft()


@dataclass(eq=False)
class _Worker:
    """A process and the episode that it is at."""

    command: Sequence[str]
    threads: int
    head: dict[str, Any]
    heard: queue.Queue[Any]
    job: Job | None = None
    loaded: int = -1
    _log: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        package = str(Path(igrft.__file__).parents[1])
        path = os.pathsep.join([package, *([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(self.threads)}
        self._process = subprocess.Popen(
            list(self.command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            encoding="utf-8",
        )
        self._send(self.head)
        threading.Thread(target=self._listen, daemon=True).start()

    def give(self, job: Job | None) -> None:
        """Send an episode; None leaves it idle."""
        if job is not None:
            self.job, self.loaded = job, job.contender
            self._send(job.to_json())

    def fate(self) -> str:
        """How the process ended, and the last that it said."""
        code = self._process.wait()
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
        self._log.seek(0)
        lines = [x for x in self._log.read().decode("utf-8", errors="replace").splitlines() if x.strip()]
        return f"the process that ran it {how}" + (f"; it last said: {lines[-1].strip()[:300]}" if lines else "")

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _send(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # A process that is gone is heard of through its output.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # What a library printed before the worker could stop it is no answer.
            if line.startswith('{"'):
                self.heard.put((self, json.loads(line)))
        self.heard.put((self, None))
