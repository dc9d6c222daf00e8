"""Masks between those that are known, carried there by the flow.

F(f) goes from frame f to f + 1, so a mask comes back from the next known frame exactly:
``M(f)(p) = M(f + 1)(p + F(f)(p))``. Forward it is ``M(f + 1)(q) ~ M(f)(q - F(f)(q))``, which takes the flow at where
a pixel goes for the flow at where it comes from; flow is smooth enough for that (splatting each pixel forward was
worse: it breaks thin parts, and rounding piles up). Both are soft masks, and their mean, weighted by nearness, is
cut at a half.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

#: The flow's two components, float32 [h, w] each.
Planes = tuple[np.ndarray, np.ndarray]


def planes(flow: np.ndarray) -> Planes:
    """The two components of a flow, float32 [h, w, 2]."""
    import cv2

    x, y = cv2.split(flow)
    return np.asarray(x), np.asarray(y)


@dataclass(frozen=True)
class Carried:
    """One frame.

    Attributes:
        flow: F(f); None on the last frame.
        robot: uint8 [h, w], 1 on the robot; None where no masks are used.
        agreement: where frame f has a mask of its own: the intersection over union of it and the next known mask,
            carried to f. NaN elsewhere.
    """

    flow: Planes | None
    robot: np.ndarray | None
    agreement: float


def carried(flows: Iterable[Planes], robots: Iterator[np.ndarray | None], size: tuple[int, int]) -> Iterator[Carried]:
    """Masks of all frames, beside their flow. Holds the flow between two known masks in memory.

    Args:
        flows: F(f) of all frames but the last.
        robots: for every frame, uint8 [h, w] with 1 on the robot, or None where it is to be carried; the first and
            the last are known.
        size: (width, height) of both.
    """
    warp = Warp(*size)
    known = next(robots)
    assert known is not None
    held: list[Planes] = []
    for flow, robot in zip(flows, robots, strict=False):
        held.append(flow)
        if robot is None:
            continue
        masks, agreement = warp.between(known, robot, held)
        for i, (plane, mask) in enumerate(zip(held, masks, strict=True)):
            yield Carried(plane, mask, float("nan") if i else agreement)
        known, held = robot, []
    yield Carried(None, known, float("nan"))


class Warp:
    """Moves masks of one size; buffers are made once."""

    def __init__(self, width: int, height: int) -> None:
        x = np.arange(width, dtype=np.float32)
        y = np.arange(height, dtype=np.float32)[:, None]
        self._grid = tuple(np.ascontiguousarray(np.broadcast_to(v, (height, width))) for v in (x, y))
        self._from = tuple(np.empty((height, width), np.float32) for _ in range(2))

    def between(self, first: np.ndarray, last: np.ndarray, flows: Sequence[Planes]) -> tuple[list[np.ndarray], float]:
        """Masks of the frames from ``first``'s on, ``last``'s left out: uint8 [h, w] each; and the agreement.

        Args:
            first, last: uint8 [h, w], 1 on the robot.
            flows: from each frame to the next.
        """
        import cv2

        count = len(flows)
        back = [last * np.uint8(255)]
        for flow in reversed(flows):
            back.append(self.backward(back[-1], flow))
        back.reverse()
        masks = [first]
        soft = first * np.uint8(255)
        for i in range(1, count):
            soft = self.forward(soft, flows[i - 1])
            mean = cv2.addWeighted(soft, 1 - i / count, back[i], i / count, 0)
            masks.append((mean > 127).astype(np.uint8))
        return masks, overlap(first > 0, back[0] > 127)

    def forward(self, soft: np.ndarray, flow: Planes) -> np.ndarray:
        """A soft mask, uint8 [h, w], one frame later."""
        import cv2

        return self._move(soft, flow, cv2.subtract)

    def backward(self, soft: np.ndarray, flow: Planes) -> np.ndarray:
        """A soft mask, uint8 [h, w], one frame earlier; ``flow`` starts from there."""
        import cv2

        return self._move(soft, flow, cv2.add)

    def _move(self, soft: np.ndarray, flow: Planes, combine: object) -> np.ndarray:
        import cv2

        for grid, plane, out in zip(self._grid, flow, self._from, strict=True):
            combine(grid, plane, dst=out)  # type: ignore[operator]
        x, y = self._from
        return np.asarray(cv2.remap(soft, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool arrays; 1 where both are empty."""
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 1.0
