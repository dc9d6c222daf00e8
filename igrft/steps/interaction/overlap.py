"""Decoding beside the flow: a thread that is a few pictures ahead.

Worth it where something else than the CPU computes the flow: the decoder then works while the GPU does. Decoders let go
of Python's lock while they decode.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

#: Name of the thread.
THREAD = "igrft-ahead"


def ahead[T](items: Iterator[T], depth: int) -> Iterator[T]:
    """``items``, taken by a thread of their own that is up to ``depth`` of them ahead; as they are where that is 0.

    An error that ``items`` raises is raised here, in its place. When they are used up, when an error is raised, and
    when the returned generator is closed or no longer held, ``items`` is closed (a generator's ``finally`` runs) and
    the thread is gone.
    """
    if depth < 1:
        yield from items
        return
    shared = _Shared[T](items, depth)
    thread = threading.Thread(target=shared.fill, name=THREAD, daemon=True)
    thread.start()
    try:
        yield from shared.take()
    finally:
        shared.stop()
        thread.join()


def on_gpu(device: str) -> bool:
    """Whether a setting ``device`` means a GPU here. ``auto`` imports torch: ask only where a model is used."""
    if device != "auto":
        return device.startswith("cuda")
    import torch

    return bool(torch.cuda.is_available())


class _Shared[T]:
    """What the thread and its user both hold."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items, self._depth = items, depth
        self._held: deque[T] = deque()
        self._changed = threading.Condition()
        self._stopped = self._ended = False
        self._error: BaseException | None = None

    def fill(self) -> None:
        """The thread's work."""
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:
            self._error = error
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, item: T) -> bool:
        """Whether there is still somebody who takes."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._held) < self._depth)
            if not self._stopped:
                self._held.append(item)
                self._changed.notify_all()
            return not self._stopped

    def take(self) -> Iterator[T]:
        """The items, and at last the error."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._held)
                if not self._held:
                    break
                item = self._held.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
