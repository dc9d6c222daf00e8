"""Which frames make up which batch: a function of the step, and of nothing else.

So a resumed run sees the batches that it would have seen, and any number of processes agree on them
without talking to each other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from igrft.errors import UsageError

#: Permutations kept a dataset: the one being walked, and its neighbour where a batch spans two.
_KEPT = 2
#: Stream of the generator that orders frames; the other draws of a run take other numbers.
_ORDER = 2


class BatchPlan:
    """Batches from several datasets, each given its share of every batch.

    Shares are met by rounding running totals: every batch holds exactly ``batch_size * share`` frames of a
    dataset where that is an integer, and after any number of batches the total is off by less than the number of
    datasets. Each dataset is walked in seeded permutations, one an epoch, so that every frame is seen once before
    any is seen twice.

    Args:
        sizes: frames of each dataset, at least 1 each.
        weights: relative shares, > 0; 1 and 2 are a third and two thirds.
        batch_size: frames of a batch over all processes and accumulation parts, B.
        seed: of the permutations.
        streams: datasets whose frames come in an order of their own: their positions are numbers of draws, from 0 on.

    Raises:
        ValueError: an empty dataset, a weight that is not positive, a batch without frames.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        streams: Iterable[int] = (),
    ) -> None:
        if not len(sizes) or len(sizes) != len(weights):
            raise ValueError(f"{len(sizes)} sizes and {len(weights)} weights")
        if min(sizes) < 1 or batch_size < 1:
            raise ValueError(f"sizes {list(sizes)} and batch_size {batch_size} must be at least 1")
        if not all(np.isfinite(w) and w > 0 for w in weights):
            raise ValueError(f"weights must be positive, got {list(weights)}")
        self.sizes = tuple(int(s) for s in sizes)
        self.batch_size = int(batch_size)
        self.seed = int(seed)
        self.streams = frozenset(streams)
        # Exact fractions: a running total in floats would be off by one somewhere in a long run.
        exact = [Fraction(str(float(w))) for w in weights]
        self.shares = tuple(w / sum(exact) for w in exact)
        # Datasets with an integer share come first: rounding the others must not touch theirs.
        whole = [(self.batch_size * share).denominator == 1 for share in self.shares]
        self._order = sorted(range(len(self.sizes)), key=lambda d: (not whole[d], d))
        self._permutations: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def drawn(self, step: int) -> list[int]:
        """Frames of each dataset in the batches before ``step``; they sum to ``step * batch_size``."""
        left, share_left = step * self.batch_size, Fraction(1)
        out = [0] * len(self.sizes)
        for d in self._order[:-1]:
            out[d] = _rounded(left * self.shares[d] / share_left)
            left -= out[d]
            share_left -= self.shares[d]
        out[self._order[-1]] = left
        return out

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The batch of a step.

        Datasets are spread evenly over the batch, so that its slices are mixed alike.

        Returns:
            (dataset, position in it), int64 [B] each.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        before, after = self.drawn(step), self.drawn(step + 1)
        counts = np.array([b - a for a, b in zip(before, after, strict=True)])
        dataset = np.repeat(np.arange(len(counts)), counts)
        position = np.concatenate([self._draws(d, before[d], after[d]) for d in range(len(counts))])
        nth = np.arange(self.batch_size) - np.repeat(np.cumsum(counts) - counts, counts)
        order = np.argsort((nth + 0.5) / counts[dataset], kind="stable")
        return dataset[order], position[order]

    def part(
        self, step: int, rank: int = 0, world: int = 1, accumulation_index: int = 0, accumulation: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The slice of a batch that process ``rank`` of ``world`` takes in one accumulation part.

        The parts of a step follow each other; within a part, the processes do.

        Returns:
            (dataset, position in it), int64 [B / (world * accumulation)] each.

        Raises:
            UsageError: the batch cannot be divided so.
        """
        size = self.part_size(world, accumulation)
        dataset, position = self.batch(step)
        at = slice((accumulation_index * world + rank) * size, (accumulation_index * world + rank + 1) * size)
        return dataset[at], position[at]

    def part_size(self, world: int = 1, accumulation: int = 1) -> int:
        """Frames of a slice. Raises UsageError where the batch cannot be divided so."""
        if self.batch_size % (world * accumulation):
            raise UsageError(
                f"batch_size {self.batch_size} cannot be divided by {world} processes x {accumulation} accumulation "
                "steps; change batch_size or gradient_accumulation"
            )
        return self.batch_size // (world * accumulation)

    def _draws(self, dataset: int, start: int, stop: int) -> np.ndarray:
        """Positions of the draws ``start`` to ``stop`` of a dataset, int64."""
        if dataset in self.streams:
            return np.arange(start, stop)
        size = self.sizes[dataset]
        out: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        while start < stop:
            epoch, at = divmod(start, size)
            upto = min(size, at + stop - start)
            out.append(self._permutation(dataset, epoch)[at:upto].astype(np.int64))
            start += upto - at
        return np.concatenate(out)

    def _permutation(self, dataset: int, epoch: int) -> np.ndarray:
        key = (dataset, epoch)
        if key not in self._permutations:
            size = self.sizes[dataset]
            order = np.random.default_rng([self.seed, _ORDER, dataset, epoch]).permutation(size)
            self._permutations[key] = order.astype(np.int32) if size < 2**31 else order
            if len(self._permutations) > _KEPT * len(self.sizes):
                self._permutations.popitem(last=False)
        self._permutations.move_to_end(key)
        return self._permutations[key]


def _rounded(value: Fraction) -> int:
    """The nearest integer, halves upwards: unlike round(), it never falls behind a rising value."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
