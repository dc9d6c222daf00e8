"""Recorders that die: run as a program, so that LeRobot is imported once and every recorder is a fork of it.

Reads lines from standard input, answers each with one line of JSON.

``die ROOT PICTURES AT WHERE WHAT``: a fork opens the recorder at ROOT, does WHAT (``record SEED``, ``drop``) and is
gone before its AT-th change of the file system (WHERE is ``root``: in the dataset; ``all``: in its staging folder,
too). Answers whether it ``died``.

``run ROOT PICTURES FIRST``: a fork records episodes from seed FIRST on until it is killed. Answers its ``pid``; it
writes ``safe N`` to ROOT.log after every episode that is said to be safe.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rollout_sets import facts, frame, length, open_recorder, record, success

_DIED, _IN_PLACE = 73, 74


def changes(event: str, args: tuple[Any, ...]) -> list[str]:
    """Paths that an audit event is about to change; empty where it changes none."""
    if event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
        return [os.fspath(args[0])]
    if event == "os.rename":
        return [os.fspath(args[0]), os.fspath(args[1])]
    if (
        event == "open"
        and isinstance(args[0], str)
        and isinstance(args[2], int)
        and args[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        return [args[0]]
    return []


def die_at(number: int, root: Path, everywhere: bool) -> None:
    """From now on the process ends before the ``number``-th change."""
    left = number
    beside = f"{root}.staging"

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        touched = changes(event, args)
        # A file of the dataset appears by a rename alone: written in place it would be half there for a while.
        if event == "open" and any(p.startswith(f"{root}/") for p in touched):
            os._exit(_IN_PLACE)
        if any(p == str(root) or p.startswith(f"{root}/") or (everywhere and p.startswith(beside)) for p in touched):
            left -= 1
            if left == 0:
                os._exit(_DIED)

    sys.addaudithook(hook)


def die(root: Path, pictures: bool, at: int, everywhere: bool, what: list[str]) -> bool:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            recorder = open_recorder(root, pictures=pictures)
            die_at(at, root, everywhere)
            if what[0] == "drop":
                recorder.drop_last()
            else:
                record(recorder, int(what[1]), pictures=pictures)
            recorder.close()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, _DIED), "written in place" if code == _IN_PLACE else code
    return code == _DIED


def run(root: Path, pictures: bool, first: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            recorder = open_recorder(root, pictures=pictures)
            seed = first
            with Path(f"{root}.log").open("a", buffering=1) as log:
                log.write("begun\n")
                while True:
                    for t in range(length(seed)):
                        recorder.add(frame(seed, t, pictures=pictures))
                        time.sleep(0.01)
                    recorder.save(success=success(seed), facts=facts(seed))
                    if seed % 2:
                        recorder.flush()
                        log.write(f"safe {seed + 1}\n")
                    seed += 1
        finally:
            os._exit(1)
    return child


def main() -> None:
    import lerobot.datasets  # noqa: F401

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command, root, pictures, *rest = line.split()
        answer: dict[str, Any]
        if command == "die":
            answer = {"died": die(Path(root), pictures == "1", int(rest[0]), rest[1] == "all", rest[2:])}
        else:
            answer = {"pid": run(Path(root), pictures == "1", int(rest[0]))}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
