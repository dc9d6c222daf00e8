"""Masks as they are staged: a mask of 640x480 takes about a kilobyte."""

from __future__ import annotations

import zlib

import numpy as np

from igrft.errors import IgrftError


def pack(mask: np.ndarray) -> bytes:
    """A mask, bool [h, w], as compressed bits."""
    return zlib.compress(np.packbits(mask).tobytes(), 6)


def unpack(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """The mask, bool [h, w], that :func:`pack` was given.

    Args:
        size: its (width, height).

    Raises:
        IgrftError: other bytes, or a mask of another size.
    """
    width, height = size
    try:
        bits = np.frombuffer(zlib.decompress(data), np.uint8)
    except zlib.error as error:
        raise IgrftError(f"a staged robot mask is damaged ({error}); remove the staging folder") from None
    if len(bits) != -(-width * height // 8):
        raise IgrftError(f"a staged robot mask is not {width}x{height}; remove the staging folder")
    return np.unpackbits(bits, count=width * height).reshape(height, width).astype(bool)


def anchors(length: int, every: int) -> list[int]:
    """Frames that get a mask of their own: every n-th, and the last."""
    return [*range(0, length - 1, every), length - 1] if length else []
