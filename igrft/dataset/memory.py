"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

import pyarrow as pa


def give_back() -> None:
    """Return what is free to the system.

    Footers of parquet files are allocated by C++, tables by Arrow's own pool, and neither takes what the other has
    freed but kept: after a file of many row groups that is hundreds of megabytes.
    """
    pa.default_memory_pool().release_unused()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    """glibc's; other libraries have none, and keep less."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
