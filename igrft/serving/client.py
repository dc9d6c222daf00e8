"""A policy behind a server, as a source of actions: igrft's own server, or any that speaks openpi's protocol."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.protocols import Chunk, Judgement, Observation
from igrft.serving.access import HEADER, ApiKey
from igrft.serving.codec import CodecError, decode, encode
from igrft.serving.messages import ACTIONS, DELAY, JUDGE, LEFT_OVER, METADATA, NOISE, NORMALISED, RESET, judgement_of

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_FIRST_PAUSE, _LONGEST_PAUSE, _CLOSE = 0.05, 2.0, 1.0
#: Codes of a closed connection: protocol error, unsupported data, invalid data, against the rules, too large.
_REFUSALS = (1002, 1003, 1007, 1008, 1009)
_ANSWER_BYTES = 64 * 2**20
# websockets' debug messages hold headers, and with them the key.
_websockets_log = logging.getLogger("igrft.serving.client")
_websockets_log.setLevel(logging.CRITICAL)


class RemotePolicy:
    """A policy server. Implements :class:`igrft.rollouts.protocols.ActionSource`.

    A server that is not there yet, is full or has gone is asked again, with growing pauses; a request that was under
    way is sent once more. A server without igrft's extras has no critic, cannot be guided, and does not reset: its
    noise has no seed.

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
        if not _is_address(address):
            raise UsageError(f"a policy server's address looks like ws://host:port, got {address!r}")
        self.address = address
        self._key = ApiKey.from_environment(api_key_env)
        self._names = dict(names or {})
        self._answer_seconds = answer_seconds
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._connection: ClientConnection | None = None
        self._reset: dict[str, Any] = {}
        self._chunk_size = chunk_size
        self.metadata: dict[str, Any] = {}
        self._connect()
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
            raise IgrftError(f"{self.address} does not say how long its chunks are; give RemotePolicy chunk_size=")
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
        answer = self.ask(request)
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
        return self._judgement(self.ask({**self._request(observation), JUDGE: True}))

    def close(self) -> None:
        with self._lock:
            self._drop()

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

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send, and wait for the answer. Connects again where the connection is lost."""
        import websockets

        with self._lock:
            resets = self._reset
            message = encode({**request, **resets})
            deadline, pause = time.monotonic() + self._retry_seconds, _FIRST_PAUSE
            while True:
                if self._connection is None:
                    self._connect(deadline)
                assert self._connection is not None
                try:
                    self._connection.send(message)
                    answer = self._connection.recv(self._answer_seconds)
                    break
                except TimeoutError:
                    self._drop()
                    raise IgrftError(f"{self.address} gave no answer within {self._answer_seconds:g} s") from None
                except (websockets.ConnectionClosed, OSError) as error:
                    self._drop()
                    if _refused(error) or time.monotonic() > deadline:
                        raise IgrftError(f"{self.address} closes the connection: {_line(error)}") from None
                    time.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                except BaseException:
                    # Interrupted: the answer that is still to come must not be taken for the next one's.
                    self._drop()
                    raise
            if isinstance(answer, str):
                raise IgrftError(f"{self.address}: {_line(answer)}")
            if resets is self._reset:
                self._reset = {}
            return self._map(answer)

    def _map(self, message: bytes | str) -> dict[str, Any]:
        try:
            if isinstance(message, bytes) and isinstance(found := decode(message), dict):
                return found
        except CodecError as error:
            raise IgrftError(f"{self.address} answers what cannot be read: {error}") from None
        raise IgrftError(f"{self.address} answers what is no map; is it a policy server?")

    def _connect(self, deadline: float | None = None) -> None:
        """Connect, and read the metadata. Tries until ``deadline`` (monotonic), at least once."""
        import websockets
        from websockets.sync.client import connect

        deadline = time.monotonic() + self._retry_seconds if deadline is None else deadline
        pause = _FIRST_PAUSE
        while True:
            try:
                connection = connect(
                    self.address,
                    compression=None,
                    close_timeout=_CLOSE,
                    max_size=_ANSWER_BYTES,
                    additional_headers=None if self._key is None else {HEADER: self._key.header},
                    # A proxy of the environment is for the outside.
                    proxy=None if _is_here(self.address) else True,
                    logger=_websockets_log,
                )
                try:
                    found = self._map(connection.recv(self._answer_seconds))
                except BaseException:
                    connection.close()
                    raise
                break
            except websockets.InvalidStatus as error:
                status = error.response.status_code
                if status in (401, 403):
                    raise UsageError(
                        f"{self.address} refuses the API key (HTTP {status}); name the variable that holds it "
                        "(api_key_env)"
                    ) from None
                reason: object = f"HTTP {status}"
                if status != 503 or time.monotonic() > deadline:
                    raise IgrftError(f"{self.address} does not let anybody in: {reason}") from None
            except (websockets.InvalidURI, websockets.InvalidProxy) as error:
                raise UsageError(f"{self.address}: {_line(error)}") from None
            except (OSError, websockets.WebSocketException, EOFError) as error:
                if time.monotonic() > deadline:
                    raise IgrftError(f"no policy server answers at {self.address}: {_line(error)}") from None
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(2 * pause, _LONGEST_PAUSE)
        if self.metadata and found != self.metadata:
            connection.close()
            raise IgrftError(f"{self.address} serves another policy than before; start again with this one")
        self.metadata, self._connection = found, connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _refused(error: Exception) -> bool:
    """Whether a server will close at the same message again."""
    closing = getattr(error, "rcvd", None)
    return closing is not None and closing.code in _REFUSALS


def _openpi(name: str) -> str:
    """LeRobot's name as openpi's clients spell it."""
    return "observation/" + name.removeprefix("observation.").removeprefix("images.").replace(".", "/")


def _is_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        # Asking for a port that is no number raises.
        return parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_here(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _line(what: object) -> str:
    """On one line, and not endless: it comes from a server."""
    text = " ".join(str(what).split()) or type(what).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
