"""Runs the interaction step on small sets, with its own flow or with a given one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from picture_sets import picture_set

from igrft.dataset.reader import DatasetReader
from igrft.steps.base import Episode, EpisodeLabels
from igrft.steps.interaction import Interaction


class Given:
    """A flow estimator that hands out fields prepared before, whatever the pictures."""

    color = "gray"
    ahead = 0

    def __init__(self, flows: list[np.ndarray]) -> None:
        self.flows = flows

    def stream(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        assert len(list(pictures)) == len(self.flows) + 1
        yield from self.flows


def blank_set(root: Path, lengths: tuple[int, ...], size: tuple[int, int] = (640, 480), fps: int = 30) -> DatasetReader:
    return picture_set(root, [[np.zeros(size[::-1], np.uint8)] * n for n in lengths], dtype="image", fps=fps)


def label(
    dataset: DatasetReader, step: Interaction, row: int = 0, flows: list[np.ndarray] | None = None
) -> EpisodeLabels:
    """All parts; their labels together."""
    *finders, heavy, cheap = step.resolve(dataset).expand()
    estimator = Given(flows) if flows is not None else heavy.estimator()
    found = EpisodeLabels()
    for finder in finders:
        found = finder.open(dataset, None)(Episode(dataset, row))
    counted = heavy.count(Episode(dataset, row, found.staged, found.record), estimator)
    after = cheap.open(dataset, None)(Episode(dataset, row, counted.staged, counted.record))
    return EpisodeLabels(after.columns, found.staged | counted.staged, found.record | counted.record | after.record)
