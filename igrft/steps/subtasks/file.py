"""Reads subtask files: the source `file`, and corrections (`overrides`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from igrft.dataset.episode_entries import not_objects, read_episode_entries
from igrft.errors import EpisodeError, IgrftError


class SubtaskEntries(Mapping[int, dict[str, Any]]):
    """Entries of a subtask file by episode index, each made when it is asked for."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = entries
        self._keys = {int(key): key for key in entries}

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._entries[self._keys[index]]

    def __contains__(self, index: object) -> bool:
        return index in self._keys

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@lru_cache(maxsize=8)
def _read(path: str, stamp: tuple[int, int]) -> SubtaskEntries:
    value = read_episode_entries(Path(path))
    entries = value.get("episodes") if isinstance(value, Mapping) else None
    if not isinstance(entries, Mapping):
        raise IgrftError(f'{path} must be {{"episodes": {{"0": {{"success": …, "subtasks": […]}}}}}}')
    for key in entries:
        if not key.isdigit():
            raise IgrftError(f"{path}: {key!r} is not an episode index")
    for key in not_objects(entries):
        raise IgrftError(f"{path}: episode {key} must be an object with 'subtasks' and perhaps 'success'")
    return SubtaskEntries(entries)


def read_subtask_file(path: str) -> SubtaskEntries:
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
