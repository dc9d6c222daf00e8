"""Optical flow: one protocol, OpenCV's DIS, and the choice between it and RAFT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol, get_args

import numpy as np

from igrft.dataset.video import Color
from igrft.errors import UsageError, did_you_mean

#: DIS presets by the name of the flow. ``dis`` is OpenCV's FAST. More effort is not better here: on
#: the g1 set MEDIUM at 480 lines takes 18 times as long and finds the same motion (counts correlate at
#: 0.98; 96 % of the labels agree at a pixel_threshold of 10,000), but its finer grid also sees specks of
#: camera noise, thousands of pixels of them where nothing moves, so that at 400 only 69 % agree.
DIS_PRESETS = {"dis_ultrafast": 0, "dis": 1, "dis_medium": 2}
RAFT_NAMES = ("raft_small", "raft_large")
FLOWS = (*DIS_PRESETS, *RAFT_NAMES)
#: Of RAFT's layers. ``auto`` is float16 on a GPU, float32 on a CPU.
Precision = Literal["auto", "float16", "float32"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


class FlowEstimator(Protocol):
    """Dense flow between two pictures of the same size."""

    #: What the pictures must be: uint8 [h, w] for ``gray``, [h, w, 3] for ``rgb``.
    color: Color
    #: Pictures worth decoding ahead of time by a thread of their own; 0 where the flow needs the CPU itself.
    ahead: int

    def __call__(self, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
        """Flow from ``previous`` to ``following``: float32 [h, w, 2], pixels to the right and down."""
        ...

    def stream(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Flow between each picture and the next: one fewer than there are pictures."""
        ...


class Dis:
    """OpenCV's dense inverse search, on one core."""

    color: Color = "gray"
    ahead = 0

    def __init__(self, preset: int) -> None:
        import cv2

        self._dis = cv2.DISOpticalFlow.create(preset)

    def __call__(self, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
        # DIS refuses views. A fresh result every time: given one, OpenCV takes what it holds as the initial guess.
        pair = np.ascontiguousarray(previous), np.ascontiguousarray(following)
        return self._dis.calc(*pair, None)  # type: ignore[call-overload, no-any-return]

    def stream(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        previous: np.ndarray | None = None
        for picture in pictures:
            if previous is not None:
                yield self(previous, picture)
            previous = picture


def refuse_unknown_flow(name: str) -> None:
    """Raise UsageError for a flow that is not there, naming the near miss."""
    if name not in FLOWS:
        raise UsageError(f"step 'interaction': unknown flow {name!r}{did_you_mean(name, FLOWS)}")


def make_flow(
    name: str,
    *,
    weights: str | None,
    updates: int,
    device: str,
    batch: int,
    threads: int,
    precision: Precision = "auto",
    compiled: bool = False,
) -> FlowEstimator:
    """Load an estimator. Called in the worker: RAFT imports torch and reads its weights.

    Args:
        name: one of FLOWS.
        weights: path of RAFT's weights; None lets torchvision fetch its own.
        updates: RAFT's refinement iterations.
        device: for RAFT: ``auto``, ``cpu``, ``cuda`` …
        batch: pairs that RAFT computes at a time.
        threads: CPU threads of RAFT.
        precision: of RAFT's layers.
        compiled: whether RAFT is compiled first.

    Raises:
        UsageError: unknown name.
        IgrftError: RAFT's weights are not to be had.
    """
    refuse_unknown_flow(name)
    if name in DIS_PRESETS:
        return Dis(DIS_PRESETS[name])
    from igrft.steps.interaction.raft import Raft

    return Raft(
        name,
        weights=weights,
        updates=updates,
        device=device,
        batch=batch,
        threads=threads,
        precision=precision,
        compiled=compiled,
    )
