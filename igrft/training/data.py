"""A recipe's datasets as the trainer sees them: checked, labelled, mixed, batched."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.utils.feature_utils import dataset_to_policy_features

from igrft import columns as c
from igrft.dataset.files import STATS, read_json
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.training import checks
from igrft.training.batches import Part, RawBatch, batches, by_dataset
from igrft.training.frames import STATES, Frames
from igrft.training.kept import digest_of
from igrft.training.labels import needs_next
from igrft.training.mixture import BatchPlan
from igrft.training.opening import Keep, LabelledSet, labelled, open_entry, read_labelled
from igrft.training.recipe import Recipe
from igrft.training.world import processes_here

if TYPE_CHECKING:
    from igrft.training.streams import Streams

#: Workers that are started where nobody says how many.
_MOST_WORKERS = 16

Stats = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class DatasetSummary:
    """What ``--dry-run`` says of a dataset.

    Attributes:
        share: of every batch, in (0, 1].
        episodes, frames: of the dataset, whether used or not.
        successes: of the episodes used; None where nothing says.
        set_aside, held_out: episodes.
        frames_used: frames that the actor trains on.
    """

    root: str
    kind: str
    share: float
    episodes: int
    frames: int
    successes: int | None
    set_aside: int
    held_out: int
    frames_used: int


class TrainingData:
    """A recipe's datasets. Made by :meth:`open`.

    Attributes:
        entries: one an entry of the recipe's list.
        features: LeRobot's policy features: states and cameras that the policy may see, and the action.
        stats: of those features over all datasets, by LeRobot's own aggregation.
        fps: frames a second.
        chunk: actions of a sample.
        steps: N of the advantage and of the later observation.
        has_next: whether batches hold the later observation.
        warnings: one line each.
    """

    def __init__(
        self, recipe: Recipe, entries: list[LabelledSet], chunk: int, warnings: list[str], keep: Keep | None = None
    ) -> None:
        self.recipe = recipe
        self.entries = entries
        self.chunk = chunk
        self.steps = recipe.advantage.steps or chunk
        self.has_next = needs_next(recipe)
        self.fps = entries[0].reader.fps
        self.features = _policy_features(entries[0].reader, entries[0].cameras)
        self.stats = _aggregated([held.reader for held in entries], self.features)
        self.warnings = warnings
        self._keep = keep
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def open(
        cls, recipe: Recipe, *, image_policy: bool, chunk: int, has_text: bool, keep: Keep | None = None
    ) -> TrainingData:
        """Open and check every dataset of a recipe, and compute its labels. Pictures are not touched.

        Args:
            image_policy: whether the policy looks at cameras.
            chunk: actions that the policy predicts.
            has_text: whether it has a language model.
            keep: where the labels are kept for other processes, or were by one; None keeps them in memory, and of
                streams in a temporary folder.

        Raises:
            UsageError: a recipe that cannot be run.
            IgrftError: data that it cannot be run on; see :mod:`igrft.training.checks`.
        """
        checks.check_recipe(recipe)
        readers = [open_entry(entry, image_policy) for entry in recipe.datasets]
        cameras = [cameras_with_files(r) if image_policy else [] for r in readers]
        if keep is not None and keep.written:
            held = zip(recipe.datasets, readers, cameras, strict=True)
            entries = [read_labelled(e, r, seen, recipe, chunk, keep.of(i)) for i, (e, r, seen) in enumerate(held)]
            return cls(recipe, entries, chunk, [], keep)
        for reader, seen in zip(readers, cameras, strict=True):
            if image_policy and not seen:
                raise IgrftError(
                    f"{reader.root} has no pictures, and the policy looks at cameras; choose another policy"
                )
            checks.check_columns(reader, recipe, has_text)
        checks.check_alike(readers, cameras)
        temporary = None
        if keep is None and any(entry.streaming for entry in recipe.datasets):
            temporary = tempfile.TemporaryDirectory(prefix="igrft-labels-")
        folder = Path(temporary.name) if temporary is not None else keep.folder if keep is not None else None
        entries = [
            labelled(entry, reader, seen, recipe, chunk, None if folder is None else folder / str(i))
            for i, (entry, reader, seen) in enumerate(zip(recipe.datasets, readers, cameras, strict=True))
        ]
        warnings = checks.check_labels(readers, [held.labels for held in entries], recipe)
        data = cls(recipe, entries, chunk, warnings, keep)
        data._temporary = temporary
        # A checkpoint may bring its own statistics: whoever loads it decides.
        if recipe.policy is not None and (recipe.init_from is None or recipe.normalisation == "dataset"):
            data.check_normalisation(recipe.policy.normalization_mapping)
        return data

    @property
    def input_features(self) -> dict[str, PolicyFeature]:
        """States and cameras."""
        return {name: feature for name, feature in self.features.items() if name != c.ACTION}

    @property
    def output_features(self) -> dict[str, PolicyFeature]:
        """The action."""
        return {c.ACTION: self.features[c.ACTION]}

    def check_normalisation(self, mapping: Mapping[str, Any]) -> None:
        """The datasets have the statistics that ``normalization_mapping`` of a policy reads.

        Raises:
            IgrftError: naming what is missing.
        """
        for held in self.entries:
            checks.check_statistics(held.reader, _stats_of(held.reader), self.features, mapping)

    @property
    def summary(self) -> list[DatasetSummary]:
        """One row a dataset."""
        return [_summary(held, float(share)) for held, share in zip(self.entries, self.plan.shares, strict=True)]

    @cached_property
    def digest(self) -> str:
        """Hex digest of which frames are trained on, and of their labels; read where another process found it."""
        path = None if self._keep is None else self._keep.folder / "digest"
        if path is not None and path.is_file() and self._keep is not None and self._keep.written:
            return path.read_text(encoding="utf-8")
        found = digest_of([held.labels for held in self.entries])
        if path is not None:
            path.write_text(found, encoding="utf-8")
        return found

    @cached_property
    def plan(self) -> BatchPlan:
        """Which frames make up which batch."""
        return BatchPlan(
            [held.frames_used for held in self.entries],
            [held.entry.weight for held in self.entries],
            self.recipe.batch_size,
            self.recipe.seed,
            [number for number, held in enumerate(self.entries) if held.entry.streaming],
        )

    @cached_property
    def streams(self) -> Streams | None:
        """Those of the datasets that are streamed; None where there are none."""
        if not self.plan.streams:
            return None
        from igrft.training.streams import Streams

        return Streams(self.recipe, self.entries, self.plan, self.chunk, self.steps if self.has_next else None)

    @cached_property
    def frames(self) -> list[Frames]:
        """Where observations come from, one a dataset; opened when first asked for."""
        later = self.steps if self.has_next else None
        found: list[Frames] = []
        for number, held in enumerate(self.entries):
            if self.streams is not None and held.entry.streaming:
                found.append(self.streams.frames(number))
            elif held.memory is not None:
                found.append(held.memory)
            else:
                from igrft.training.pictures import LeRobotFrames

                found.append(LeRobotFrames(held.reader, held.cameras, self.chunk, later))
        return found

    def loader(
        self,
        start_step: int,
        stop_step: int,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        *,
        workers: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[RawBatch]:
        """Batches of the steps from ``start_step`` to ``stop_step`` (exclusive), in order.

        One an accumulation part, for process ``rank`` of ``world``. They depend on nothing else: not on the
        workers, nor on where a run began.

        Args:
            workers: processes that read pictures; None is the recipe's ``num_workers``, or else one a core, shared
                by the processes on this machine, and 16 at most. Without pictures none are started.
            device: observations for a CUDA device come in page-locked memory.

        Raises:
            UsageError: a batch that cannot be divided so (at once).
            IgrftError: a frame that cannot be read (when its batch comes).
        """
        self.plan.part_size(world, accumulation)
        count = (stop_step - start_step) * accumulation
        if self.streams is not None:
            others = {n: (self.frames[n], held.used) for n, held in enumerate(self.entries) if held.used is not None}
            share = (rank, world, accumulation)
            chosen = self._workers(workers, count)
            return self.streams.batches(start_step, stop_step, share, others, workers=chosen, device=device)
        parts = (
            self._drawn(*self.plan.part(step, rank, world, part, accumulation))
            for step in range(start_step, stop_step)
            for part in range(accumulation)
        )
        return self._stream(parts, count, self.has_next, workers, device)

    @property
    def has_heldout(self) -> bool:
        """Whether there are held-out episodes."""
        return any(held.labels.episodes.held_out.any() for held in self.entries)

    @cached_property
    def _heldout(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Held-out episodes: (dataset, absolute index of the first frame, frames), int64 each."""
        found = []
        for number, held in enumerate(self.entries):
            episodes = held.labels.episodes
            rows = np.flatnonzero(episodes.held_out)
            found.append((np.full(len(rows), number), episodes.start[rows], episodes.length[rows]))
        dataset, start, length = (np.concatenate(x) for x in zip(*found, strict=True))
        return dataset, start, length

    def heldout_count(self, frames: int) -> int:
        """How many of ``frames`` held-out frames there are to look at."""
        return min(frames, int(self._heldout[2].sum()))

    def heldout_batches(
        self,
        batch_size: int,
        frames: int,
        rank: int = 0,
        world: int = 1,
        *,
        workers: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[RawBatch]:
        """Evenly spaced frames of held-out episodes, without later observations; the last batch may be smaller.

        Every process gets as many: where they do not divide, the last frame comes again.

        Args:
            frames: how many over all processes; fewer where there are not as many.
        """
        number, start, length = self._heldout
        count = self.heldout_count(frames)
        dealt = np.minimum(np.arange(-(-count // world) * world), count - 1)[rank::world]
        picked = ((dealt + 0.5) * length.sum() / max(count, 1)).astype(np.int64)
        ends = np.cumsum(length)
        episode = np.searchsorted(ends, picked, side="right")
        dataset, index = number[episode], start[episode] + picked - (ends - length)[episode]
        edges = [*range(0, len(picked), batch_size), len(picked)]
        parts = [(dataset[a:b], index[a:b]) for a, b in pairwise(edges) if b > a]
        return self._stream(parts, len(parts), False, workers, device)

    def _stream(
        self,
        parts: Iterable[Part],
        count: int,
        next_too: bool,
        workers: int | None,
        device: torch.device | str,
    ) -> Iterator[RawBatch]:
        chosen = self._workers(workers, count)
        labels = [held.labels for held in self.entries]
        return batches(self.frames, labels, parts, count, next_too=next_too, workers=chosen, device=device)

    def _workers(self, workers: int | None, count: int) -> int:
        """Processes that read, for so many batches."""
        if not self.entries[0].cameras:
            return 0
        chosen = self.recipe.num_workers if workers is None else workers
        if chosen is None:
            chosen = min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) // processes_here()))
        return min(chosen, max(count, 1))

    def _drawn(self, dataset: np.ndarray, position: np.ndarray) -> Part:
        """Absolute indices for positions among the frames used."""
        index = np.empty_like(position)
        for number, at in by_dataset(dataset):
            used = self.entries[number].used
            assert used is not None
            index[at] = used[position[at]]
        return dataset, index


def cameras_with_files(dataset: DatasetReader) -> list[str]:
    """Cameras that have pictures, depth maps left out, in the order declared."""
    return [camera for camera in dataset.cameras if dataset.camera_has_files(camera)]


def _policy_features(reader: DatasetReader, cameras: Sequence[str]) -> dict[str, PolicyFeature]:
    wanted = [*STATES, *cameras, c.ACTION]
    declared = {
        name: {**reader.features[name], "shape": tuple(reader.features[name]["shape"])}
        for name in wanted
        if name in reader.features
    }
    return dataset_to_policy_features(declared)


def _stats_of(reader: DatasetReader) -> Stats:
    """``meta/stats.json`` in arrays, as LeRobot reads it; empty where there is none."""
    path = reader.root / STATS
    if not path.is_file():
        return {}
    return {
        name: {k: np.atleast_1d(np.array(v)) for k, v in parts.items()}
        for name, parts in read_json(path).items()
        if parts
    }


def _aggregated(readers: Sequence[DatasetReader], features: Mapping[str, PolicyFeature]) -> Stats:
    """Statistics of the policy's features over all datasets, weighted by their frames.

    Those of a camera may be missing: most policies take pictures as they are.
    """
    needed = ("min", "max", "mean", "std", "count")
    found = [_stats_of(reader) for reader in readers]
    whole = []
    for name, feature in features.items():
        lacks = [
            (r, k) for r, stats in zip(readers, found, strict=True) for k in needed if k not in stats.get(name, {})
        ]
        if lacks and feature.type is not FeatureType.VISUAL:
            raise IgrftError(
                f"{lacks[0][0].root / STATS} has no {lacks[0][1]} of {name!r}, by which policies normalise; convert "
                "the recording again (igrft convert computes it)"
            )
        if not lacks:
            whole.append(name)
    found = [{name: stats[name] for name in whole} for stats in found]
    if len(found) == 1:
        return found[0]
    # Costs seconds.
    from lerobot.datasets.compute_stats import aggregate_stats

    return aggregate_stats(found)


def _summary(held: LabelledSet, share: float) -> DatasetSummary:
    episodes = held.labels.episodes
    return DatasetSummary(
        root=str(held.reader.root),
        kind=held.entry.kind,
        share=share,
        episodes=len(episodes.index),
        frames=len(held.labels),
        successes=int((episodes.success & episodes.usable).sum()) if episodes.knows_success else None,
        set_aside=int((episodes.set_aside & episodes.chosen).sum()),
        held_out=int(episodes.held_out.sum()),
        frames_used=held.frames_used,
    )
