"""torch.compile of functions that many layers share: each is compiled once for its settings."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch

#: Gives the compiled form of a function.
Compiling = Callable[[Callable[..., Any]], Callable[..., Any]]


@functools.cache
def compiling(
    backend: str | Callable[..., Any] = "inductor", mode: str | None = None, *, whole: bool = False, must: bool = True
) -> Compiling:
    """How functions are compiled.

    Args:
        backend, mode: of torch.compile.
        whole: a function that cannot be compiled in one piece is not compiled.
        must: whether what cannot be compiled is an error; else it is run as it is, with a warning.
    """

    @functools.cache
    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any] = torch.compile(function, fullgraph=whole, backend=backend, mode=mode)
        return made if must else _Tried(function, made)

    return compiled


class _Tried:
    """A compiled function that is run as it is from the first time on that it cannot be compiled."""

    def __init__(self, function: Callable[..., Any], compiled: Callable[..., Any]) -> None:
        self._function = function
        self._run = compiled

    def __call__(self, *args: Any) -> Any:
        try:
            return self._run(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            if self._run is self._function:
                raise
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"{self._function.__name__} is not compiled, so it is slower: {reason}", stacklevel=2)
            self._run = self._function
            return self._function(*args)


def as_they_are(function: Callable[..., Any]) -> Callable[..., Any]:
    """Nothing is compiled."""
    return function
