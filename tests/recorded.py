"""Stand-ins for a CUDA graph on machines without CUDA, for the tests of what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

Function = Callable[..., tuple[Tensor, ...]]

#: What ends a recording: values brought to the host, shapes that depend on values, tensors made on the host.
HOST = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "unique", "equal", "_assert_async")
#: Operations that copy.
COPIES = ("copy_", "clone", "cat", "_to_copy", "constant_pad_nd", "stack")


class Recordable(TorchDispatchMode):
    """Refuses what a recording cannot hold, counts the rest in ``calls``, and lists the shapes of ``copies``."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.copies: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        by_value = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in HOST or by_value:
            raise AssertionError(f"{name} cannot be recorded")
        self.calls[name] = self.calls.get(name, 0) + 1
        out = func(*args, **(kwargs or {}))
        if name in COPIES:
            self.copies.append(tuple(out.shape))
        return out


def run_again(function: Function, inputs: Sequence[Tensor]) -> tuple[Callable[[], object], tuple[Tensor, ...]]:
    """As ``cuda_capture``: the function on this very memory, checked to be fit for recording."""
    with Recordable():
        outputs = tuple(x.clone() for x in function(*inputs))
    return lambda: _into(outputs, function(*inputs)), outputs


def traced(function: Function, inputs: Sequence[Tensor]) -> tuple[Callable[[], object], tuple[Tensor, ...]]:
    """The same with the operations of one run written down, whatever Python would decide another time. Slower."""
    with Recordable():
        function(*inputs)
    graph = make_fx(lambda *given: function(*given))(*inputs)
    outputs = tuple(x.clone() for x in graph(*inputs))
    return lambda: _into(outputs, graph(*inputs)), outputs


def _into(places: Sequence[Tensor], made: Sequence[Tensor]) -> None:
    for place, x in zip(places, made, strict=True):
        place.copy_(x)
