"""``results.jsonl``: one line an episode, appended when it is done, so that an evaluation goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from igrft.dataset.files import read_json
from igrft.dataset.locks import locked
from igrft.dataset.parquet import write_json
from igrft.errors import IgrftError, UsageError

RESULTS = "results.jsonl"
SETTINGS = "settings.json"
SUMMARY = "summary.json"
EPISODES = "episodes"
#: What an evaluation writes into its folder.
OURS = (RESULTS, SETTINGS, SUMMARY, EPISODES, "table.txt", "figures")

#: What names an episode: method, task, training seed, temperature, episode seed.
Key = tuple[str, str, int, str, int]


def key_of(result: Mapping[str, Any]) -> Key:
    """The episode that a line of results is about."""
    return (
        str(result["name"]),
        str(result["task"]),
        int(result["training_seed"]),
        str(result["temperature"]),
        int(result["seed"]),
    )


class ResultStore:
    """The folder of an evaluation.

    Attributes:
        folder: absolute.
        results: by episode, of this and earlier calls.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[Key, dict[str, Any]] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[ResultStore]:
        """The store in ``folder``, for this process alone.

        Args:
            settings: what decides how an episode goes; results made under others do not belong beside these.
            overwrite: start anew.

        Raises:
            UsageError: it holds results of other settings, or something else.
            IgrftError: another process is at it, or a file is damaged.
        """
        if folder.is_file():
            raise UsageError(f"{folder} is a file; give another --output_dir")
        if folder.is_dir() and not (folder / SETTINGS).is_file() and any(p.name != ".lock" for p in folder.iterdir()):
            raise UsageError(f"{folder} holds something that is no evaluation of igrft; give another --output_dir")
        folder.mkdir(parents=True, exist_ok=True)
        refusal = f"{folder} is written by another evaluation; wait for it, or give another --output_dir"
        with locked(folder / ".lock", refusal):
            if overwrite:
                clear(folder)
            store = cls(folder)
            store._begin(settings)
            yield store

    def _begin(self, settings: Mapping[str, Any]) -> None:
        path = self.folder / SETTINGS
        now = json.loads(json.dumps(settings))
        if path.is_file():
            then = read_json(path)
            different = first_difference(then, now)
            if different is not None and (self.folder / RESULTS).is_file():
                raise UsageError(
                    f"{self.folder} holds results with another {different}; give another --output_dir, or --overwrite"
                )
        write_json(path, now)
        for line in read_lines(self.folder / RESULTS):
            self.results[key_of(line)] = line

    def refuse_others(self, digests: Mapping[tuple[str, str, int], str]) -> None:
        """Stop where stored results are of a policy that has the name of another now.

        Args:
            digests: of the checkpoint by method, task and training seed.

        Raises:
            UsageError: names the policy.
        """
        for key, line in self.results.items():
            digest = digests.get(key[:3])
            if digest is not None and line.get("digest") != digest:
                raise UsageError(
                    f"{self.folder / RESULTS} holds episodes of other weights under the name {key[0]!r} "
                    f"({key[1]}, seed {key[2]}); give another --output_dir, or --overwrite"
                )

    def add(self, result: Mapping[str, Any]) -> None:
        """Append an episode. It is on the disk when this returns."""
        line = json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n"
        with (self.folder / RESULTS).open("a", encoding="utf-8") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        self.results[key_of(result)] = dict(result)

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those of ``keys`` that have no result yet, in order."""
        return [key for key in keys if key not in self.results]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The results in a file. A last line that was cut off by a crash is taken away: its episode runs again.

    Raises:
        IgrftError: any other line is damaged.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    found = []
    for number, line in enumerate(whole.decode("utf-8", errors="replace").splitlines(), start=1):
        try:
            found.append(json.loads(line))
            key_of(found[-1])
        except (ValueError, KeyError, TypeError):
            raise IgrftError(f"{path}, line {number} is no result; delete that line, its episode runs again") from None
    return found


def first_difference(then: Any, now: Any, place: str = "") -> str | None:
    """The first setting in which two differ, in words; None where they are equal."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*now, *(k for k in then if k not in now)]:
            found = first_difference(then.get(key), now.get(key), f"{place}.{key}" if place else str(key))
            if found is not None:
                return found
        return None
    return None if then == now else f"{place} ({json.dumps(then)} there, {json.dumps(now)} now)"


def clear(folder: Path) -> None:
    """Remove what an evaluation wrote into ``folder``, and nothing else."""
    for name in OURS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
