"""torch.compile of functions that many layers share: each is compiled once for its settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

#: Gives the compiled form of a function.
Compiling = Callable[[Callable[..., Any]], Callable[..., Any]]


@functools.cache
def compiling(backend: str = "inductor", mode: str | None = None, whole: bool = False) -> Compiling:
    """How functions are compiled.

    Args:
        backend, mode: of torch.compile.
        whole: a function that cannot be compiled in one piece is an error.
    """

    @functools.cache
    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, fullgraph=whole, backend=backend, mode=mode)

    return compiled


def as_they_are(function: Callable[..., Any]) -> Callable[..., Any]:
    """Nothing is compiled."""
    return function
