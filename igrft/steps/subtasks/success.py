"""Whether an episode succeeded, and who said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from igrft.steps.base import Episode
from igrft.steps.subtasks.existing import episode_table_success, existing_success
from igrft.steps.subtasks.file import entry_success


def success_of(entry: Mapping[str, Any] | None, episode: Episode, success_columns: Sequence[str]) -> tuple[bool, str]:
    """Success and who said so: ``file``, else ``source``, else ``model`` (in an earlier labelling), else ``assumed``.

    Args:
        entry: of the subtask file and the corrections, or None.
        success_columns: columns of the dataset that may say it.

    Raises:
        EpisodeError: the entry says neither true nor false.
    """
    if entry is not None:
        said = entry_success({k: v for k, v in entry.items() if k != "from"}, f"episode {episode.index}")
        if said is not None:
            return said, "file"
    for name in success_columns:
        if name not in episode.dataset.recorded:
            continue
        return bool(episode.dataset.any_true(name)[episode.row]), "source"
    known = episode_table_success(episode.dataset, episode.row)
    if known is not None:
        return known, "source"
    return existing_success(episode.dataset, episode.row) or (True, "assumed")


def known_success(found: tuple[bool, str]) -> bool | None:
    """Success where it is known: neither assumed nor a model's word."""
    success, said_by = found
    return None if said_by in ("assumed", "model") else success
