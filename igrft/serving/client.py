"""A policy behind a server, as a source of actions: igrft's own server, or any that speaks openpi's protocol."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.protocols import Chunk, Judgement, Observation
from igrft.serving.access import ApiKey
from igrft.serving.channel import Channel
from igrft.serving.codec import encode
from igrft.serving.messages import (
    ACTIONS,
    DELAY,
    JUDGE,
    LEFT_OVER,
    METADATA,
    NOISE,
    NORMALISED,
    RESET,
    TIMING,
    judgement_of,
)
from igrft.serving.observations import inputs_of


class RemotePolicy:
    """A policy server. Implements :class:`igrft.rollouts.protocols.ActionSource`.

    A server that is not there yet, is full or has gone is asked again, with growing pauses; a request that was under
    way is sent once more. A server without igrft's extras has no critic, cannot be guided, and does not reset: its
    noise has no seed.

    Attributes:
        metadata: what the server said first.
        timing: ``server_timing`` of the last answer, milliseconds; empty where there was none.

    Args:
        address: ``ws://host:port``, or ``wss://…``.
        api_key_env: name of the environment variable that holds the server's key.
        names: what the server calls what an observation holds, where it does not take LeRobot's names.
            Of a server without igrft's extras these are by default openpi's: ``observation/state``,
            ``observation/NAME`` of a camera, ``prompt``.
        chunk_size: of a server that does not say it. Without it, it is known after the first answer.
        answer_seconds: that an answer may take.
        retry_seconds: that a server may be away.

    Raises:
        UsageError: no address; the server wants another key.
        IgrftError: no server answers there, or none that speaks the protocol.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key_env: str | None = None,
        names: Mapping[str, str] | None = None,
        chunk_size: int | None = None,
        answer_seconds: float = 60.0,
        retry_seconds: float = 30.0,
    ) -> None:
        key = ApiKey.from_environment(api_key_env)
        self._channel = Channel(address, key, answer_seconds=answer_seconds, retry_seconds=retry_seconds)
        self.address = address
        self._names = dict(names or {})
        self._lock = threading.Lock()
        self._reset: dict[str, Any] = {}
        self._chunk_size = chunk_size
        self.metadata = self._channel.metadata
        self.timing: dict[str, Any] = {}
        ours = self.metadata.get(METADATA)
        self._ours: dict[str, Any] = ours if isinstance(ours, dict) else {}
        self.has_critic = self._ours.get("has_critic") is True
        self.can_guide = self._ours.get("can_guide") is True
        if isinstance(self._ours.get("chunk_size"), int):
            self._chunk_size = self._ours["chunk_size"]

    @property
    def chunk_size(self) -> int:
        """N of its chunks.

        Raises:
            IgrftError: the server has not said it, and has given no answer yet.
        """
        if self._chunk_size is None:
            raise IgrftError(f"{self.address} does not say how long its chunks are; give inference.steps (chunk_size)")
        return self._chunk_size

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk that are done, as the policy's configuration says."""
        found = self._ours.get("n_action_steps")
        return found if isinstance(found, int) else self.chunk_size

    @property
    def action_dim(self) -> int | None:
        """Width of the actions; None where the server does not say it."""
        found = self._ours.get("action_dim")
        return found if isinstance(found, int) else None

    @property
    def input_features(self) -> dict[str, Any]:
        """What the policy reads, ``dtype`` and ``shape`` by name; empty where the server does not say it."""
        found = self._ours.get("inputs")
        return found if isinstance(found, dict) else {}

    @property
    def uses_images(self) -> bool:
        """Whether the policy reads pictures; true where the server does not say it."""
        return not self.input_features or any(i.picture for i in inputs_of(self.input_features))

    def refuse_unfit(self, features: Mapping[str, Mapping[str, Any]]) -> None:
        """What is driven gives what the policy reads, as far as the server says it.

        Args:
            features: of an embodiment.

        Raises:
            UsageError: a camera or vector is missing, or a vector or the action is of another width.
        """
        there = {self._names.get(name, name): feature for name, feature in features.items()}
        for wanted in inputs_of(self.input_features):
            if wanted.name not in there:
                raise UsageError(
                    f"the policy at {self.address} looks at {wanted.name!r}, which the environment does not give: it "
                    f"has {', '.join(sorted(features))}"
                )
            shape = tuple(there[wanted.name]["shape"])
            if not wanted.picture and shape != wanted.shape:
                raise UsageError(
                    f"{wanted.name!r} has shape {shape} here, and the policy at {self.address} was trained on "
                    f"{wanted.shape}"
                )
        width = features["action"]["shape"][0] if "action" in features else None
        if None not in (width, self.action_dim) and width != self.action_dim:
            raise UsageError(
                f"the environment takes actions of {width} numbers, and the policy at {self.address} makes "
                f"{self.action_dim}"
            )

    def reset(self, seed: int | None) -> None:
        """Goes out with the next request."""
        if self._ours:
            self._reset = {RESET: seed}

    def infer(self, observation: Observation, *, left_over: np.ndarray | None = None, delay: int = 0) -> Chunk:
        """See :class:`igrft.rollouts.protocols.ActionSource`. ``seconds`` includes the way there and back.

        Raises:
            IgrftError: the server refuses the observation, is away for too long, or answers no actions.
        """
        began = time.perf_counter()
        request = self._request(observation)
        if left_over is not None and len(left_over) and self.can_guide:
            request |= {LEFT_OVER: np.asarray(left_over, dtype=np.float32), DELAY: int(delay)}
        answer = self._ask(request)
        actions = self._floats(answer, ACTIONS)
        self._chunk_size = self._chunk_size or len(actions)
        normalised = self._floats(answer, NORMALISED) if self.can_guide else None
        noise = answer.get(NOISE, 1.0)
        scale = float(noise) if isinstance(noise, int | float | np.number) else 1.0
        return Chunk(actions, normalised, self._judgement(answer), scale, time.perf_counter() - began)

    def judge(self, observation: Observation) -> Judgement | None:
        """See :class:`igrft.rollouts.protocols.ActionSource`. Raises IgrftError as :meth:`infer` does."""
        if not self.has_critic:
            return None
        return self._judgement(self._ask({**self._request(observation), JUDGE: True}))

    def close(self) -> None:
        self._channel.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """With the reset that goes first. What was not answered has not been heard."""
        with self._lock:
            resets = self._reset
            answer = self._channel.ask(encode({**request, **resets}))
            if resets is self._reset:
                self._reset = {}
        timing = answer.get(TIMING)
        self.timing = timing if isinstance(timing, dict) else {}
        return answer

    def _request(self, observation: Observation) -> dict[str, Any]:
        """By the server's names; of igrft's server only what its policy reads."""
        known = self.input_features
        request: dict[str, Any] = {}
        for name, value in observation.items():
            if name == "task":
                request[self._names.get(name, "prompt")] = str(value)
            elif name in self._names:
                request[self._names[name]] = value
            elif name in known or (not known and name.startswith("observation.")):
                request[name if known else _openpi(name)] = value
        return request

    def _judgement(self, answer: dict[str, Any]) -> Judgement | None:
        if not self.has_critic:
            return None
        found = judgement_of(answer)
        if found is None:
            raise IgrftError(f"{self.address} answered without its critic's values, though it says that it has one")
        return found

    def _floats(self, answer: dict[str, Any], name: str) -> np.ndarray:
        """A chunk: float32 [N, dim], finite, at least one action."""
        found = answer.get(name)
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf" or found.ndim != 2 or not found.size:
            raise IgrftError(f"{self.address} answered no {name!r} of shape [N, dim]; is it a policy server?")
        with np.errstate(over="ignore"):
            floats: np.ndarray = found.astype(np.float32)
        if not np.isfinite(floats).all():
            raise IgrftError(f"{self.address} answered {name!r} that are not finite")
        return floats


def _openpi(name: str) -> str:
    """LeRobot's name as openpi's clients spell it."""
    return "observation/" + name.removeprefix("observation.").removeprefix("images.").replace(".", "/")
