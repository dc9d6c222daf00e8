"""RAFT, by torchvision. Never with random weights."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.dataset.video import Color
from igrft.errors import IgrftError
from igrft.steps.interaction.flow import Precision

if TYPE_CHECKING:
    import torch

# RAFT works at an eighth of the size and looks four levels up a pyramid from there.
_MULTIPLE = 8
_SMALLEST = 128
#: Batches that a GPU is given before the first of them is asked for.
_IN_FLIGHT = 2


@dataclass
class Busy:
    """How long an estimator worked.

    Attributes:
        seconds: the device was at work.
        wall: from its first batch to the end of its last. The rest of it, the device waited for pictures.
        pairs: flows computed.
    """

    seconds: float = 0.0
    wall: float = 0.0
    pairs: int = 0

    def add(self, pairs: int, seconds: float, wall: float) -> None:
        self.pairs += pairs
        self.seconds += seconds
        self.wall += wall

    @property
    def share(self) -> float:
        """Of the time; NaN before any."""
        return self.seconds / self.wall if self.wall else float("nan")


class Raft:
    """torchvision's ``raft_small`` or ``raft_large``.

    Pictures are padded by repeating their edge to multiples of 8 (and to 128 at least), and the
    flow is cropped back: the flow is in pixels of the picture given.

    On a GPU two batches are under way at a time: while one is computed, the next is stacked and copied, and the flow
    of the one before is used.

    Args:
        name: of the model.
        weights: see :func:`load`.
        updates: refinement iterations.
        device: ``auto``, ``cpu``, ``cuda`` …
        batch: pairs computed at a time.
        threads: CPU threads, where that is the device.
        precision: of the layers.
        compiled: compile them first: worth its minute on a GPU and long recordings.

    Attributes:
        ahead: pictures worth decoding ahead of time, so that the device need not wait; 0 on a CPU.
        busy: how long it worked.

    Raises:
        IgrftError: no weights, or no such device.
    """

    color: Color = "rgb"

    def __init__(
        self,
        name: str,
        *,
        weights: str | None,
        updates: int = 12,
        device: str = "auto",
        batch: int = 8,
        threads: int = 1,
        precision: Precision = "auto",
        compiled: bool = False,
    ) -> None:
        import torch

        from igrft.steps.interaction.raft_network import Network

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(max(threads, 1))
        self._device, self._batch, self._compiled = device, max(batch, 1), compiled
        self._on_gpu = device.startswith("cuda")
        half = precision == "float16" or (precision == "auto" and self._on_gpu)
        self.ahead = 2 * self._batch if self._on_gpu else 0
        self.busy = Busy()
        model = load(name, weights)
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise IgrftError(f"device {device!r} cannot be used ({_first_line(error)}); set device: auto") from None
        if self._on_gpu:
            torch.backends.cudnn.benchmark = True  # every batch has the same size
        self._network = Network(model, updates, dtype=torch.float16 if half else torch.float32, compiled=compiled)

    def __call__(self, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
        return next(self.stream([previous, following]))

    def stream(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Flow between each picture and the next: float32 [h, w, 2].

        Raises:
            IgrftError: the device has too little memory.
        """
        mark = time.perf_counter()
        for sent in self._sent(pictures):
            flows, seconds = sent.wait()
            now = time.perf_counter()
            self.busy.add(len(flows), seconds, now - mark)
            mark = now
            yield from flows

    def _sent(self, pictures: Iterable[np.ndarray]) -> Iterator[_Sent]:
        """Batches in order, each when as many are under way as should be."""
        import torch

        waiting: deque[_Sent] = deque()
        last: tuple[torch.Tensor, torch.Tensor] | None = None
        for group in _first_alone(pictures, self._batch):
            try:
                with torch.inference_mode():
                    last, sent = self._send(group, last)
            except torch.OutOfMemoryError as error:
                raise IgrftError(
                    f"flow: {self._device} has too little memory for {self._batch} pairs of {group[0].shape[1]}x"
                    f"{group[0].shape[0]} at a time ({_first_line(error)}); set a smaller batch or flow_height"
                ) from None
            if sent is not None:
                waiting.append(sent)
            if len(waiting) >= (_IN_FLIGHT if self._on_gpu else 1):
                yield waiting.popleft()
        yield from waiting

    def _send(
        self, group: tuple[np.ndarray, ...], last: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], _Sent | None]:
        """Start the computation for pictures that follow ``last``; gives the new last one, with its features."""
        import torch

        sent = _Sent(len(group), group[0].shape[:2], self._on_gpu)
        # A compiled part would be compiled again for every number of pictures.
        full = self._batch if self._compiled and last is not None else len(group)
        pictures = self._upload(group, full)
        features = self._network.features(pictures)
        if last is not None:
            before = (torch.cat([one, many[:-1]]) for one, many in zip(last, (pictures, features), strict=True))
            first, first_features = before
            sent.finish(self._network.flow(first, first_features, features))
        end = slice(len(group) - 1, len(group))
        return (pictures[end].clone(), features[end].clone()), sent if last is not None else None

    def _upload(self, group: tuple[np.ndarray, ...], full: int) -> torch.Tensor:
        """[full, 3, h, w] in -1 … 1, padded; the last picture is repeated."""
        import torch

        shape = (full, *group[0].shape)
        # Only from pinned memory does a copy run beside the computation.
        held = torch.empty(shape, dtype=torch.uint8, pin_memory=self._on_gpu)
        np.stack([*group, *[group[-1]] * (full - len(group))], out=held.numpy())
        batch = held.to(self._device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1
        height, width = shape[1:3]
        padding = (0, _padded(width) - width, 0, _padded(height) - height)
        return torch.nn.functional.pad(batch, padding, mode="replicate")


class _Sent:
    """A batch under way."""

    def __init__(self, count: int, size: tuple[int, int], on_gpu: bool) -> None:
        self._count, self._size, self._on_gpu = count, size, on_gpu
        if on_gpu:
            import torch

            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._events[0].record()
        else:
            self._begun = time.perf_counter()

    def finish(self, flow: torch.Tensor) -> None:
        """Copy the flow [n, 2, h, w] to the host, without waiting for it."""
        import torch

        height, width = self._size
        flow = flow[: self._count, :, :height, :width].permute(0, 2, 3, 1).contiguous()
        if not self._on_gpu:
            self._flow, self._seconds = flow, time.perf_counter() - self._begun
            return
        self._flow = torch.empty(flow.shape, dtype=flow.dtype, pin_memory=True)
        self._flow.copy_(flow, non_blocking=True)
        self._events[1].record()

    def wait(self) -> tuple[np.ndarray, float]:
        """float32 [n, h, w, 2], and the seconds that it took the device."""
        if self._on_gpu:
            self._events[1].synchronize()
            self._seconds = self._events[0].elapsed_time(self._events[1]) / 1000
        return self._flow.numpy(), self._seconds


def _first_alone(pictures: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """The first picture, then the others ``size`` at a time."""
    left = iter(pictures)
    for first in left:
        yield (first,)
        break
    yield from batched(left, size)


def _padded(length: int) -> int:
    return max(-(-length // _MULTIPLE) * _MULTIPLE, _SMALLEST)


def load(name: str, weights: str | None) -> Any:
    """The model with trained weights.

    Args:
        name: ``raft_small`` or ``raft_large``.
        weights: a ``.safetensors`` file, or one that torch.save wrote (read with weights_only); None
            takes torchvision's own, from its cache or by download.

    Raises:
        IgrftError: no such file, weights of another model, or no way to download.
    """
    from torchvision.models import get_model

    model = get_model(name, weights=None)
    state = published_weights(name) if weights is None else _read(Path(weights))
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise IgrftError(
            f"{weights or name} does not hold the weights of torchvision's {name} ({_first_line(error)}); "
            "give raft_weights that were saved from this model"
        ) from None
    return model


def published_weights(name: str) -> Any:
    """torchvision's own weights, from its cache; downloaded into it where they are not there yet.

    Raises:
        IgrftError: no way to download them.
    """
    from torchvision.models import get_model_weights

    source = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    try:
        return source.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise IgrftError(
            f"flow: {name} needs weights, and {source.url} cannot be downloaded ({_first_line(error)}); set "
            "raft_weights to a file that holds them, or flow: dis"
        ) from None


def _read(path: Path) -> Any:
    refuse_missing_weights(str(path))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import torch

        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise IgrftError(f"{path} cannot be read as weights ({_first_line(error)}); download it again") from None


def refuse_missing_weights(path: str) -> None:
    """Raise IgrftError unless the file is there; cheap, so that it can be asked before any work."""
    if not Path(path).is_file():
        raise IgrftError(f"raft_weights: there is no file {path}; correct the path, or leave it unset to download them")


def weights_digest(path: str) -> str:
    """SHA-256 of a weights file, which keys staged work."""
    stat = Path(path).stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _digest(path: str, size: int, changed: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__
