"""RAFT, by torchvision. Never with random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from igrft.dataset.video import Color
from igrft.errors import IgrftError

# RAFT works at an eighth of the size and looks four levels up a pyramid from there.
_MULTIPLE = 8
_SMALLEST = 128


class Raft:
    """torchvision's ``raft_small`` or ``raft_large``.

    Pictures are padded by repeating their edge to multiples of 8 (and to 128 at least), and the
    flow is cropped back: the flow is in pixels of the picture given.
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
    ) -> None:
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(max(threads, 1))
        self._device, self._updates, self._batch = device, updates, max(batch, 1)
        self._model = load(name, weights).to(device).eval()

    def __call__(self, previous: np.ndarray, following: np.ndarray) -> np.ndarray:
        return self._many([previous], [following])[0]

    def stream(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        held: list[np.ndarray] = []
        for picture in pictures:
            held.append(picture)
            if len(held) == self._batch + 1:
                yield from self._many(held[:-1], held[1:])
                held = held[-1:]
        if len(held) > 1:
            yield from self._many(held[:-1], held[1:])

    def _many(self, previous: list[np.ndarray], following: list[np.ndarray]) -> np.ndarray:
        """float32 [n, h, w, 2] for n pairs."""
        import torch

        height, width = previous[0].shape[:2]
        with torch.inference_mode():
            flow = self._model(self._tensor(previous), self._tensor(following), num_flow_updates=self._updates)[-1]
            found: np.ndarray = flow[..., :height, :width].permute(0, 2, 3, 1).float().cpu().numpy()
        return np.ascontiguousarray(found)

    def _tensor(self, pictures: list[np.ndarray]) -> Any:
        """[n, 3, h, w] in -1 … 1, padded."""
        import torch

        batch = torch.from_numpy(np.stack(pictures)).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
        height, width = batch.shape[-2:]
        padding = (0, _padded(width) - width, 0, _padded(height) - height)
        return torch.nn.functional.pad(batch, padding, mode="replicate")


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
    from torchvision.models import get_model, get_model_weights

    model = get_model(name, weights=None)
    if weights is None:
        source = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
        try:
            state = source.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise IgrftError(
                f"flow: {name} needs weights, and {source.url} cannot be downloaded ({_first_line(error)}); set "
                "raft_weights to a file that holds them, or flow: dis"
            ) from None
    else:
        state = _read(Path(weights))
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise IgrftError(
            f"{weights or name} does not hold the weights of torchvision's {name} ({_first_line(error)}); "
            "give raft_weights that were saved from this model"
        ) from None
    return model


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
