"""openpi's wire format: msgpack, in which a numpy array is a map of four marked keys. Nothing is unpickled.

An array is ``{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [2, 3]}``, a numpy scalar
``{b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"}``. Writing is msgpack's own work. Reading is done here, since
what comes from a network must be bounded before it is built: msgpack's limits are per container, and an empty list
takes one byte of a message and 56 of memory.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from igrft.errors import IgrftError

_ARRAY, _SCALAR, _DATA, _DTYPE, _SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"
#: Booleans, integers and floats of at most 8 bytes: no objects, text, times, records or complex numbers.
_DTYPES = re.compile(r"[<>|=][biuf][1248]")
_KINDS = "biuf"


class CodecError(IgrftError):
    """A message that is not openpi's wire format, or leaves the limits."""


@dataclass(frozen=True)
class Bounds:
    """What a message may be.

    Attributes:
        items: values in it, containers and keys included.
        depth: containers in one another. An array in ``images`` is at 3: message, images, array.
        dimensions: of an array.
    """

    items: int = 10_000
    depth: int = 16
    dimensions: int = 8


def encode(value: Any) -> bytes:
    """A message of maps, lists, text, bytes, numbers, None, and numpy arrays and scalars.

    Raises:
        CodecError: something else is in it, or an array of objects, text, times or complex numbers.
    """
    import msgpack

    try:
        return bytes(msgpack.packb(value, default=_mark))
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"the message cannot be written: {' '.join(str(error).split())}") from None


def decode(message: bytes, bounds: Bounds | None = None) -> Any:
    """What :func:`encode`, or openpi's packer, was given. Tuples come back as lists, memoryviews as bytes.

    Arrays own their memory: aligned and writable.

    Raises:
        CodecError: cut off, followed by something, not msgpack, beyond the bounds, keys that are neither text nor
            bytes or stand there twice, extension types, or an array whose data does not fit its dtype and shape.
    """
    reader = _Reader(message, bounds or Bounds())
    value = _owned(reader.value(0, ""))
    if reader.at != len(message):
        raise CodecError(f"the message goes on for {len(message) - reader.at} bytes after its end")
    return value


def _mark(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in _KINDS:
        raise TypeError(f"arrays of dtype {value.dtype} cannot be sent")
    if isinstance(value, np.ndarray):
        whole = value if value.flags.c_contiguous else value.copy(order="C")
        # A view of the array's own memory: msgpack copies it once, into the message.
        return {
            _ARRAY: True,
            _DATA: whole.reshape(-1).view(np.uint8).data,
            _DTYPE: value.dtype.str,
            _SHAPE: value.shape,
        }
    if isinstance(value, np.generic):
        return {_SCALAR: True, _DATA: value.item(), _DTYPE: value.dtype.str}
    raise TypeError(f"a {type(value).__name__} cannot be sent")


#: First byte -> how the number after it is packed.
_NUMBERS = {code: struct.Struct(f">{kind}") for code, kind in zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True)}
#: First byte -> how many bytes tell the length: of bytes, of text, of lists, of maps.
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class _Reader:
    """Reads one message. Byte strings are returned as views of it; ``at`` is the next byte."""

    def __init__(self, message: bytes, bounds: Bounds) -> None:
        self.at = 0
        self._view = memoryview(message)
        self._size = len(message)
        self._bounds = bounds
        self._left = bounds.items

    def value(self, depth: int, where: str) -> Any:
        """The next value; ``where`` is the key it stands at, for errors."""
        self._left -= 1
        if self._left < 0:
            raise CodecError(f"the message holds more than {self._bounds.items} values")
        if self.at >= self._size:
            raise self._cut_off()
        first = self._view[self.at]
        self.at += 1
        if first < 0x80:
            return first
        if first < 0x90:
            return self._map(first & 0x0F, depth, where)
        if first < 0xA0:
            return self._list(first & 0x0F, depth, where)
        if first < 0xC0:
            return self._text(first & 0x1F)
        if first >= 0xE0:
            return first - 0x100
        if first in _BYTES:
            return self._take(self._length(_BYTES[first]))
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        number = _NUMBERS.get(first)
        if number is not None:
            return number.unpack(self._take(number.size))[0]
        if first in _TEXTS:
            return self._text(self._length(_TEXTS[first]))
        if first in _LISTS:
            return self._list(self._length(_LISTS[first]), depth, where)
        if first in _MAPS:
            return self._map(self._length(_MAPS[first]), depth, where)
        raise CodecError(f"the message holds something that is no plain msgpack (0x{first:02x})")

    def _length(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _take(self, count: int) -> memoryview:
        end = self.at + count
        if end > self._size:
            raise self._cut_off()
        self.at, start = end, self.at
        return self._view[start:end]

    def _cut_off(self) -> CodecError:
        return CodecError(f"the message is cut off at {self._size} bytes")

    def _text(self, count: int) -> str:
        try:
            return str(self._take(count), "utf-8")
        except UnicodeDecodeError:
            raise CodecError("text in the message is not UTF-8") from None

    def _enter(self, count: int, depth: int) -> int:
        """Into a container of ``count`` values: refused before any of them is built."""
        if depth >= self._bounds.depth:
            raise CodecError(f"the message is nested deeper than {self._bounds.depth}")
        if count > self._left:
            raise CodecError(f"the message holds more than {self._bounds.items} values")
        return depth + 1

    def _list(self, count: int, depth: int, where: str) -> list[Any]:
        deeper = self._enter(count, depth)
        return [_owned(self.value(deeper, where)) for _ in range(count)]

    def _map(self, count: int, depth: int, where: str) -> Any:
        deeper = self._enter(2 * count, depth)
        found: dict[str | bytes, Any] = {}
        for _ in range(count):
            key = _owned(self.value(deeper, where))
            if not isinstance(key, str | bytes):
                raise CodecError(f"keys must be text, got a {type(key).__name__}")
            if key in found:
                raise CodecError(f"the key {_spelled(key)} stands twice in one map")
            found[key] = self.value(deeper, where if isinstance(key, bytes) else key)
        if _ARRAY in found:
            return _array(found, self._bounds, where)
        if _SCALAR in found:
            return _scalar(found, where)
        return {key: _owned(value) for key, value in found.items()}


def _owned(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def _array(found: dict[Any, Any], bounds: Bounds, where: str) -> np.ndarray:
    if found.keys() != {_ARRAY, _DATA, _DTYPE, _SHAPE} or found[_ARRAY] is not True:
        raise CodecError(f"{_at(where)}an array must have __ndarray__, data, dtype and shape, and nothing else")
    dtype, shape, data = _dtype(found[_DTYPE], where), found[_SHAPE], found[_DATA]
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise CodecError(f"{_at(where)}an array's shape must be a list of sizes")
    if len(shape) > bounds.dimensions:
        raise CodecError(f"{_at(where)}an array has {len(shape)} dimensions, at most {bounds.dimensions} are read")
    if not isinstance(data, memoryview):
        raise CodecError(f"{_at(where)}an array's data must be bytes")
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise CodecError(
            f"{_at(where)}an array of shape {shape} and dtype {dtype.str} takes {expected} bytes, its data has "
            f"{len(data)}"
        )
    if dtype.kind == "b" and len(data) and np.frombuffer(data, np.uint8).max() > 1:
        raise CodecError(f"{_at(where)}a boolean array holds more than 0 and 1")
    try:
        return np.frombuffer(data, dtype).reshape(shape).copy()
    except ValueError:
        # Sizes like [0, 2**30, 2**30]: nothing in it, and still too large for numpy.
        raise CodecError(f"{_at(where)}an array of shape {shape} cannot be made") from None


def _scalar(found: dict[Any, Any], where: str) -> np.generic:
    if found.keys() != {_SCALAR, _DATA, _DTYPE} or found[_SCALAR] is not True:
        raise CodecError(f"{_at(where)}a numpy scalar must have __npgeneric__, data and dtype, and nothing else")
    dtype, value = _dtype(found[_DTYPE], where), found[_DATA]
    kind = type(value)
    if kind is not {"b": bool, "i": int, "u": int, "f": float}[dtype.kind]:
        raise CodecError(f"{_at(where)}a numpy scalar of dtype {dtype.str} cannot be a {kind.__name__}")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise CodecError(f"{_at(where)}{value} does not fit dtype {dtype.str}")
    with np.errstate(over="ignore"):
        made: np.generic = dtype.type(value)
    return made


def _dtype(name: Any, where: str) -> np.dtype[Any]:
    if not isinstance(name, str) or not _DTYPES.fullmatch(name):
        raise CodecError(f"{_at(where)}arrays are of booleans, integers or floats, got dtype {_spelled(name)}")
    try:
        return np.dtype(name)
    except TypeError:
        raise CodecError(f"{_at(where)}there is no dtype {_spelled(name)}") from None


def _at(where: str) -> str:
    return f"{_spelled(where)}: " if where else ""


def _spelled(value: Any) -> str:
    """Short and on one line, whatever a client sent."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
