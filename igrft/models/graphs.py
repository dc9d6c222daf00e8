"""Functions whose kernels are recorded once and replayed (CUDA graphs), so that the host launches one thing.

A chunk of π0.5 is some thousand small kernels; launched one by one they take longer to launch than to run.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Runs before recording: kernels are compiled and chosen in them, which a recording cannot do.
_WARM_UPS = 3

Function = Callable[..., tuple[Tensor, ...]]
#: Takes a function and its inputs; gives what runs it again on the same memory, and its outputs.
Capture = Callable[[Function, Sequence[Tensor]], tuple[Callable[[], object], tuple[Tensor, ...]]]


def cuda_capture(function: Function, inputs: Sequence[Tensor]) -> tuple[Callable[[], object], tuple[Tensor, ...]]:
    """Record a function as a CUDA graph. It must not wait for the device, and make nothing on the host."""
    with torch.cuda.device(inputs[0].device):
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                function(*inputs)
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads (cameras, a server's clients) go on with what they do.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = function(*inputs)
    return graph.replay, outputs


@dataclass
class _Recording:
    """One set of shapes: where inputs and outputs lie, and what was put in last."""

    inputs: list[Tensor]
    outputs: tuple[Tensor, ...]
    replay: Callable[[], object]
    last: list[tuple[Tensor, int] | None] = field(default_factory=list)


class Recorded:
    """A function of tensors, without gradient, recorded for every set of shapes that it is given.

    Inputs are copied to where the recording reads them (one that is the same as last time is not), outputs are copies:
    what a call returns stays as it is. Calls from several threads follow one another. Where recording fails the
    function is run as it is from then on, with a warning.

    Args:
        function: of tensors alone, to a tuple of tensors. May write into its inputs.
        device: where it runs; inputs may lie elsewhere.
        capture: None calls the function as it is.
    """

    def __init__(self, function: Function, device: torch.device, capture: Capture | None) -> None:
        self._function = function
        self._device = device
        self._capture = capture
        self._recordings: dict[tuple[object, ...], _Recording] = {}
        self._lock = threading.Lock()

    @torch.inference_mode(False)  # what is made in it could not be written outside
    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self._capture is None:
            return self._function(*(x.to(self._device) for x in inputs))
        key = tuple((x.shape, x.dtype) for x in inputs)
        with self._lock:
            if key not in self._recordings:
                try:
                    self._recordings[key] = self._record(inputs, self._capture)
                except RuntimeError as error:
                    self._capture = None
                    reason = " ".join(str(error).split())[:200]
                    warnings.warn(f"kernels could not be recorded, so inference is slower: {reason}", stacklevel=2)
                    return self._function(*(x.to(self._device) for x in inputs))
            recording = self._recordings[key]
            for i, (place, given) in enumerate(zip(recording.inputs, inputs, strict=True)):
                recording.last[i] = _put(place, given, recording.last[i])
            recording.replay()
            return tuple(x.clone() for x in recording.outputs)

    def _record(self, inputs: Sequence[Tensor], capture: Capture) -> _Recording:
        places = [torch.empty(x.shape, dtype=x.dtype, device=self._device).copy_(x) for x in inputs]
        replay, outputs = capture(self._function, places)
        return _Recording(places, outputs, replay, [None] * len(places))


def _put(place: Tensor, given: Tensor, last: tuple[Tensor, int] | None) -> tuple[Tensor, int] | None:
    """Copy an input, unless it is the one that was put there last, unchanged."""
    if given.is_inference():  # its changes are not counted
        place.copy_(given)
        return None
    if last is None or last[0] is not given or last[1] != given._version:
        place.copy_(given)
    return given, given._version
