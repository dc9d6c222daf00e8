"""What several tests do to datasets and ask of them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from igrft.dataset.reader import DatasetReader
from igrft.steps.base import EpisodeLabels


def edit_subtasks(path: Path, change: Callable[[dict], None]) -> None:
    """Change the episodes of a subtask file in place."""
    value = json.loads(path.read_text())
    change(value["episodes"])
    path.write_text(json.dumps(value))


def tree_digest(root: Path) -> dict[str, str]:
    """SHA-256 of every file under ``root``."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def add_column(root: Path, name: str, values, dtype: str) -> None:
    """Add a column to a synthetic dataset: ``values(length, episode)``."""
    dataset = DatasetReader.open(root)
    for path, rows in dataset.data_files:
        table = pq.ParquetFile(root / path).read()
        column = np.concatenate([values(int(dataset.lengths[r]), r) for r in rows])
        pq.write_table(table.append_column(name, pa.array(column)), root / path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][name] = {"dtype": dtype, "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))


class DiesOn:
    """A step whose worker is killed on one episode."""

    type = "dies"
    version = 1

    def __init__(self, row: int) -> None:
        self.row = row

    def open(self, dataset, reduced):
        def label(episode):
            if episode.row == self.row:
                os.kill(os.getpid(), signal.SIGKILL)
            return EpisodeLabels(columns={"x": np.zeros(episode.length)})

        return label


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A real file system of ``size`` at ``folder``; skips where the machine lets us mount none."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system takes more rights")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
