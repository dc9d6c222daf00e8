"""Where PyTorch computes, and on how many threads."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


def accelerator() -> str:
    """The device to compute on where none was named: an accelerator if there is one."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextlib.contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """PyTorch computes on ``number`` threads inside the block; None, or no PyTorch loaded, changes nothing."""
    torch = sys.modules.get("torch")
    if torch is None or number is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
