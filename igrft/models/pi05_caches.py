"""Keys and values: kept of a pass, and objects that stand where transformers' cache stands in a layer's call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from igrft.errors import IgrftError


@dataclass
class Seen:
    """Keys and values of every layer.

    Attributes:
        keys, values: a layer each, [B, K, N, D]; keys with their positions in them.
    """

    keys: list[Tensor]
    values: list[Tensor]

    def add(self, key: Tensor, value: Tensor) -> None:
        """Those of the next layer."""
        self.keys.append(key)
        self.values.append(value)

    def with_room(self, places: int) -> Seen:
        """A copy with empty places behind every prefix, into which chunks are written without copying it again."""
        return Seen([_roomy(k, places) for k in self.keys], [_roomy(v, places) for v in self.values])


class Record:
    """Stands where a cache stands: hands on a layer's keys and values, and keeps them."""

    key: Tensor | None = None
    value: Tensor | None = None

    def update(self, key: Tensor, value: Tensor, layer_idx: int, cache_kwargs: Any = None) -> tuple[Tensor, Tensor]:
        self.key, self.value = key, value
        return key, value

    def kept(self) -> tuple[Tensor, Tensor]:
        if self.key is None or self.value is None:
            raise IgrftError(
                "a layer of the language model kept no keys: Hugging Face's own gradient checkpointing is on; "
                "set policy.gradient_checkpointing instead"
            )
        return self.key, self.value


class Given:
    """Stands where a cache stands: a layer attends over these keys and values, not over its own."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value

    def update(self, key: Tensor, value: Tensor, layer_idx: int, cache_kwargs: Any = None) -> tuple[Tensor, Tensor]:
        return self.key, self.value


class Growing:
    """A layer's cache with room to write token by token.

    Args:
        key, value: [B, K, N, D], of the prefix.
        room: tokens that can be added.
    """

    def __init__(self, key: Tensor, value: Tensor, room: int) -> None:
        self.length = key.shape[2]
        self._key, self._value = _roomy(key, room), _roomy(value, room)

    def update(self, key: Tensor, value: Tensor, layer_idx: int, cache_kwargs: Any = None) -> tuple[Tensor, Tensor]:
        end = self.length + key.shape[2]
        self._key[:, :, self.length : end] = key
        self._value[:, :, self.length : end] = value
        self.length = end
        return self._key[:, :, :end], self._value[:, :, :end]


def _roomy(x: Tensor, places: int) -> Tensor:
    """[B, K, N, D] to [B, K, N + places, D]."""
    return nn.functional.pad(x, (0, 0, 0, places))
