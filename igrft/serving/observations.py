"""Which value of a request is which input of the policy, and whether it can be.

A policy's inputs have the names of LeRobot's datasets. A request may use these, or openpi's, flat or nested; "/", "."
and nesting all mean the same. Of every input the first part ``observation`` may be left out, and of a camera
``images`` or ``image`` too:

=========================== ==========================================================================
input of the policy         a request may call it
=========================== ==========================================================================
observation.state           ``observation.state``, ``observation/state``, ``state``
observation.images.cam_high ``observation.images.cam_high``, ``observation/images/cam_high``,
                            ``images: {cam_high: …}``, ``image: {cam_high: …}``, ``observation/cam_high``, ``cam_high``
the only camera             also ``observation/image``, ``image``
observation.state           also ``observation/joint_position`` and ``observation/gripper_position``, one after the
                            other (openpi's DROID)
task                        ``prompt``, ``task``
=========================== ==========================================================================

A spelling that could mean two inputs means none. What the policy has no input for is left aside, as openpi does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from igrft.errors import IgrftError
from igrft.rollouts.protocols import Observation

PREFIX, STATE = "observation/", "observation.state"
TASKS = ("prompt", "task")
#: Of a task, in characters.
LONGEST_TASK = 2000
_DROID = ("joint_position", "gripper_position")
#: LeRobot's stand-ins for cameras that a base model was trained with and this robot has not.
_EMPTY_CAMERA = ".empty_camera_"


class RequestError(IgrftError):
    """What is wrong with a request, in words for the client: one line, nothing of the server's own."""


@dataclass(frozen=True)
class Input:
    """One input of a policy.

    Attributes:
        picture: uint8 [H, W, 3] of any size; otherwise float32 of exactly ``shape``.
        shape: of a vector. Of a picture as the policy's configuration says it: its order and size bind nobody.
    """

    name: str
    picture: bool
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, feature: Any) -> Input:
        """From a policy's feature of LeRobot, or a dataset's (``dtype``, ``shape``)."""
        if isinstance(feature, Mapping):
            kind, shape = str(feature.get("type", feature.get("dtype", ""))), feature["shape"]
        else:
            kind, shape = str(getattr(feature.type, "value", feature.type)), feature.shape
        return cls(name, kind in ("VISUAL", "image", "video"), tuple(int(n) for n in shape))

    def to_json(self) -> dict[str, Any]:
        """For a server's metadata, in the words of LeRobot's datasets."""
        return {"dtype": "image" if self.picture else "float32", "shape": list(self.shape)}


def inputs_of(features: Mapping[str, Any]) -> list[Input]:
    """What a policy reads, without cameras that are there by name alone."""
    return [Input.of(name, feature) for name, feature in features.items() if _EMPTY_CAMERA not in name]


class ObservationReader:
    """Makes observations of requests.

    Args:
        inputs: what the policy reads.
        task: what it is told where a request does not say.
    """

    def __init__(self, inputs: list[Input], task: str | None = None) -> None:
        self.inputs = inputs
        self.task = task
        self._named = _spellings(inputs)
        vectors = [i.name for i in inputs if not i.picture]
        self._droid = STATE in vectors and not any(n.rpartition(".")[2] in _DROID for n in vectors)

    def read(self, request: Mapping[Any, Any]) -> Observation:
        """One observation, with ``task``.

        Args:
            request: text keys; values as they came over the wire.

        Returns:
            By the policy's names: float32 of the input's shape, finite; uint8 [H, W, 3].

        Raises:
            RequestError: an input is missing, there twice, or of another dtype or shape; it is not finite.
        """
        given: dict[str, tuple[str, Any]] = {}
        unknown: dict[str, Any] = {}
        told: str | None = None
        for path, value in _leaves(request):
            if path in TASKS:
                text = _task(value)
                if told not in (None, text):
                    raise RequestError("the request holds two tasks that differ; send 'prompt' alone")
                told = text
                continue
            short = path.removeprefix(PREFIX)
            name = self._named.get(short)
            if name is None:
                unknown[short] = value
            elif name in given:
                raise RequestError(f"{name} is given twice, as {given[name][0]!r} and as {_shown(path)}")
            else:
                given[name] = path, value
        if self._droid and STATE not in given and all(n in unknown for n in _DROID):
            parts = [_vector(n, unknown[n]) for n in _DROID]
            given[STATE] = "/".join(_DROID), np.concatenate([p.reshape(-1) for p in parts])
        for wanted in self.inputs:
            if wanted.name not in given:
                raise RequestError(_missing(wanted, list(unknown)))
        task = self.task if told is None else told
        if task is None:
            raise RequestError("the request holds no 'prompt'; send one, or let the server be started with a --task")
        found: Observation = {i.name: _checked(i, given[i.name][1]) for i in self.inputs}
        found["task"] = task
        return found


def _spellings(inputs: list[Input]) -> dict[str, str]:
    """Every spelling, without ``observation/`` and with "/" for ".", and the input that it alone means."""
    exact = {_short(i.name): i.name for i in inputs}
    cameras = [i for i in inputs if i.picture]
    more: dict[str, set[str]] = {}
    for camera in cameras:
        short = _short(camera.name)
        bare = short.removeprefix("images/").removeprefix("image/")
        for spelling in (bare, f"images/{bare}", f"image/{bare}", *(["image"] if len(cameras) == 1 else [])):
            more.setdefault(spelling, set()).add(camera.name)
    return {s: names.pop() for s, names in more.items() if len(names) == 1} | exact


def _short(name: str) -> str:
    return name.replace(".", "/").removeprefix(PREFIX)


def _leaves(request: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in request.items():
        if not isinstance(key, str):
            raise RequestError("the keys of an observation must be text")
        path = f"{above}{key.replace('.', '/')}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}/")
        else:
            yield path, value


def _task(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise RequestError("the prompt is not UTF-8") from None
    if not isinstance(value, str):
        raise RequestError(f"the prompt must be text, got {_what(value)}")
    if len(value) > LONGEST_TASK:
        raise RequestError(f"the prompt has {len(value)} characters, at most {LONGEST_TASK} are read")
    return value


def _missing(wanted: Input, unknown: list[str]) -> str:
    kind = "the picture" if wanted.picture else f"the vector of {_sizes(wanted.shape)}"
    there = f"; what it has besides is {', '.join(_shown(u) for u in unknown[:4])}" if unknown else ""
    return f"the request lacks {wanted.name!r}, {kind}{there}"


def _checked(wanted: Input, value: Any) -> np.ndarray:
    if wanted.picture:
        return _picture(wanted.name, value)
    found = _vector(wanted.name, value)
    if found.shape != wanted.shape:
        # A vector of one is a number to some clients.
        if found.size != 1 or wanted.shape not in ((), (1,)) or found.ndim > 1:
            raise RequestError(f"{wanted.name} must have shape {_sizes(wanted.shape)}, got {_sizes(found.shape)}")
        found = found.reshape(wanted.shape)
    return found


def _vector(name: str, value: Any) -> np.ndarray:
    """float32 of its own shape, finite."""
    if isinstance(value, list | float | int) and not isinstance(value, bool):
        flat = value if isinstance(value, list) else [value]
        if not all(isinstance(n, int | float | np.number) for n in flat):
            raise RequestError(f"{name} must be an array of numbers, got a list with something else in it")
        try:
            value = np.array(value, dtype=np.float64)
        except OverflowError:
            raise RequestError(f"{name} holds a number that is too large") from None
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "iuf":
        raise RequestError(f"{name} must be an array of numbers, got {_what(value)}")
    with np.errstate(over="ignore"):
        found = np.asarray(value).astype(np.float32)
    if not np.isfinite(found).all():
        where = int(np.flatnonzero(~np.isfinite(found))[0])
        raise RequestError(f"{name} must be finite, its number {where} is not (NaN, infinite, or beyond float32)")
    return found


def _picture(name: str, value: Any) -> np.ndarray:
    """uint8 [H, W, 3], whatever the order of the axes; floats are in 0 … 1, as openpi takes them."""
    if not isinstance(value, np.ndarray):
        raise RequestError(f"{name} must be a picture, uint8 [H, W, 3], got {_what(value)}")
    if value.dtype != np.uint8 and value.dtype.kind != "f":
        raise RequestError(f"{name} must be a picture of uint8 (or floats in 0 … 1), got {value.dtype}")
    if value.ndim != 3 or 3 not in (value.shape[0], value.shape[2]) or 0 in value.shape:
        raise RequestError(f"{name} must be a picture of shape [H, W, 3] or [3, H, W], got {_sizes(value.shape)}")
    if value.shape[2] != 3:
        value = value.transpose(1, 2, 0)
    if value.dtype.kind == "f":
        # NaN is in no range.
        if not (value.min() >= 0 and value.max() <= 1):
            raise RequestError(f"{name} is a picture of floats, which must lie in 0 … 1")
        value = np.rint(value.astype(np.float32) * 255).astype(np.uint8)
    return np.ascontiguousarray(value)


def _what(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return f"an array of {value.dtype} {_sizes(value.shape)}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _sizes(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _shown(text: str) -> str:
    """Short and on one line, whatever a client sent."""
    spelled = ascii(text)
    return spelled if len(spelled) <= 60 else f"{spelled[:57]}..."
