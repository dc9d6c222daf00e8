"""Reads subtask files: the source `file`, and corrections (`overrides`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from igrft.dataset.files import read_json
from igrft.errors import EpisodeError, IgrftError


@lru_cache(maxsize=8)
def _read(path: str, stamp: tuple[int, int]) -> dict[int, dict[str, Any]]:
    value = read_json(Path(path))
    if not isinstance(value, Mapping) or not isinstance(value.get("episodes"), Mapping):
        raise IgrftError(f'{path} must be {{"episodes": {{"0": {{"success": …, "subtasks": […]}}}}}}')
    episodes: dict[int, dict[str, Any]] = {}
    for key, entry in value["episodes"].items():
        if not str(key).isdigit():
            raise IgrftError(f"{path}: {key!r} is not an episode index")
        if not isinstance(entry, Mapping):
            raise IgrftError(f"{path}: episode {key} must be an object with 'subtasks' and perhaps 'success'")
        episodes[int(key)] = dict(entry)
    return episodes


def read_subtask_file(path: str) -> dict[int, dict[str, Any]]:
    """Entries of a subtask file by episode index; read once a process and version of the file.

    Raises:
        IgrftError: no such file, not JSON, not of the documented shape.
    """
    try:
        stat = Path(path).stat()
    except OSError:
        raise IgrftError(f"subtask file {path} is missing; correct 'path' in the pipeline") from None
    return _read(str(path), (stat.st_mtime_ns, stat.st_size))


def check_episodes_exist(path: str, known: set[int]) -> None:
    """Refuse a file that names an episode that the dataset does not have.

    Raises:
        IgrftError: naming the episode.
    """
    stray = sorted(set(read_subtask_file(path)) - known)
    if stray:
        raise IgrftError(
            f"{path} names episode {stray[0]}, but the dataset has episodes {min(known)} to {max(known)}; "
            "remove the entry, or check that the file belongs to this dataset"
        )


def entry_success(entry: Mapping[str, Any], where: str) -> bool | None:
    """The entry's ``success``, or None where it does not say.

    Raises:
        EpisodeError: neither true nor false, or an unknown key.
    """
    unknown = set(entry) - {"success", "subtasks", "task"}
    if unknown:
        raise EpisodeError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    success = entry.get("success")
    if success is not None and not isinstance(success, bool):
        raise EpisodeError(f"{where}: 'success' must be true or false, got {success!r}")
    return success
