"""Writes the subtasks of a dataset as a subtask file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from igrft import columns as c
from igrft.dataset.locate import locate
from igrft.dataset.parquet import write_json
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.steps.subtasks.existing import episode_table_success, existing_segments, existing_success, has_existing


def export_subtasks(source: str | Path, file: Path, *, overwrite: bool = False) -> int:
    """Write the subtask file of a labelled dataset; of one that other tools labelled, too.

    Args:
        source: folder or Hub id of the dataset.
        file: the JSON to write.

    Returns:
        Number of episodes written; those set aside are left out.

    Raises:
        IgrftError: no labels, or ``file`` exists and ``overwrite`` is false.
    """
    if file.exists() and not overwrite:
        raise IgrftError(f"{file} exists; name another FILE or give --overwrite")
    dataset = DatasetReader.open(locate(source, what="DATASET", pictures=False))
    if not has_existing(dataset):
        raise IgrftError(f"{dataset.root} has no subtask labels; run: igrft annotate {dataset.root} TARGET")
    spelling = next((n for n in c.SUCCESS_SPELLINGS if n in dataset.features), None)
    episodes: dict[str, Any] = {}
    for row, index in enumerate(dataset.episode_indices.tolist()):
        segments = existing_segments(dataset, row)
        if not segments:
            continue
        recorded = existing_success(dataset, row)
        success = recorded[0] if recorded else None
        if success is None and spelling is not None:
            success = bool(dataset.any_true(spelling)[row])
        if success is None:
            success = episode_table_success(dataset, row)
        entry: dict[str, Any] = {} if success is None else {"success": success}
        entry["subtasks"] = [
            {"name": s.name, "start": s.start, "end": s.end, **({} if s.done is None else {"done": s.done})}
            for s in segments
        ]
        episodes[str(index)] = entry
    if not episodes:
        raise IgrftError(f"{dataset.root}: every episode was set aside, so there is no subtask to export")
    write_json(file, {"episodes": episodes}, indent=1)
    return len(episodes)
