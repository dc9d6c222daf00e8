"""A policy behind a websocket, as openpi's clients expect it: metadata first, then an answer to each request.

An error is a text message of one line, and the connection stays open. ``/healthz`` answers over plain HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import websockets
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import MultipleValuesError
from websockets.frames import CloseCode
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response as HttpResponse
from websockets.protocol import State

import igrft
from igrft.errors import IgrftError, UsageError
from igrft.rollouts.protocols import ActionSource
from igrft.serving.access import HEADER, ApiKey
from igrft.serving.codec import CodecError, decode, encode
from igrft.serving.connection import TooSlow, bounded, receive, send
from igrft.serving.limits import Limits
from igrft.serving.messages import METADATA, TIMING, VERSION, fulfil, read_request
from igrft.serving.observations import ObservationReader, RequestError, inputs_of
from igrft.serving.worker import Done, InferenceThread, Unwanted

HEALTH = "/healthz"
#: Seconds that a client has to answer a closing handshake.
_CLOSE = 5.0
_STOPS = "the server stops"
log = logging.getLogger("igrft.serving")
# Its debug messages hold headers, and with them the key; what it says of broken connections is noise.
_websockets_log = logging.getLogger("igrft.serving.websockets")
_websockets_log.setLevel(logging.CRITICAL)


class PolicyServer:
    """Serves one :class:`ActionSource` to several clients.

    Where the source has a method ``session()`` that gives an :class:`ActionSource` whose noise is drawn afresh, every
    client gets one; otherwise all draw from the same stream, and a seed means something to a client that is alone.

    Args:
        features: LeRobot's features of what the policy reads; None is the source's ``input_features``.
        task: what the policy is told where a request does not say.
        metadata: more of it, for clients.

    Raises:
        UsageError: neither ``features`` nor ``input_features``.
    """

    def __init__(
        self,
        source: ActionSource,
        *,
        features: Mapping[str, Any] | None = None,
        task: str | None = None,
        key: ApiKey | None = None,
        limits: Limits | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        known = features if features is not None else getattr(source, "input_features", None)
        if not known:
            raise UsageError("the policy names no inputs, so that requests cannot be read; give features=")
        inputs = inputs_of(known)
        self.limits = limits or Limits()
        self._source = source
        self._reader = ObservationReader(inputs, task)
        self._key = key
        self._worker = InferenceThread()
        self._busy: set[ServerConnection] = set()
        self._stopping = False
        self._server: Server | None = None
        ours: dict[str, Any] = {
            "protocol": VERSION,
            "version": igrft.__version__,
            "chunk_size": int(source.chunk_size),
            "has_critic": bool(source.has_critic),
            "can_guide": bool(source.can_guide),
            "inputs": {i.name: i.to_json() for i in inputs},
        }
        for name in ("action_dim", "action_names", "n_action_steps"):
            value = getattr(source, name, None)
            if value is not None:
                ours[name] = list(value) if name == "action_names" else int(value)
        self._metadata = encode({**(metadata or {}), METADATA: ours})

    async def start(self, bound: socket.socket) -> None:
        """Listen, and serve whoever connects, from now on."""
        self._server = await serve(
            self._converse,
            sock=bound,
            # A page in a browser sends an origin, and may reach loopback: none is let in.
            origins=[None],
            compression=None,
            server_header=None,
            process_request=self._admit,
            open_timeout=self.limits.handshake,
            ping_interval=self.limits.ping,
            ping_timeout=self.limits.ping,
            close_timeout=_CLOSE,
            max_size=self.limits.message,
            max_queue=1,
            logger=_websockets_log,
            create_connection=bounded(self.limits),
        )

    async def drain(self) -> bool:
        """Accept nobody any more, answer what is being answered, close.

        Returns:
            Whether all of it was done within ``limits.drain``.
        """
        assert self._server is not None
        self._stopping = True
        self._server.close(close_connections=False)
        closing = []
        for connection in list(self._server.handlers):
            if connection.state is State.CONNECTING:
                connection.transport.abort()
            elif connection not in self._busy:
                closing.append(asyncio.create_task(connection.close(CloseCode.GOING_AWAY, _STOPS)))
        in_time = True
        try:
            async with asyncio.timeout(self.limits.drain):
                await self._server.wait_closed()
        except TimeoutError:
            in_time = False
            for connection in list(self._server.handlers):
                connection.transport.abort()
        for task in closing:
            with contextlib.suppress(Exception):
                await task
        return self._worker.close(1.0) and in_time

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> HttpResponse | None:
        """Who may come in. None lets the handshake go on."""
        if request.path.partition("?")[0] == HEALTH:
            stuck = self._worker.busy_for
            if stuck > self.limits.inference:
                return connection.respond(
                    http.HTTPStatus.SERVICE_UNAVAILABLE, f"inference has not ended for {stuck:.0f} s\n"
                )
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._key is not None:
            try:
                given = request.headers.get(HEADER)
            except MultipleValuesError:
                given = None
            if not self._key.opens(given):
                log.info("%s: wrong or no API key", _peer(connection))
                return connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong or no API key\n")
        if len(connection.server.connections) >= self.limits.connections:
            log.info("%s: too many connections", _peer(connection))
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None

    async def _converse(self, connection: ServerConnection) -> None:
        """One client, from its handshake to its end. Raises nothing."""
        peer = _peer(connection)
        log.info("%s: connected", peer)
        reason = "closed"
        try:
            await self._answer_all(connection)
        except websockets.ConnectionClosed as error:
            if error.rcvd is None:
                reason = "gone" if error.sent is None else error.sent.reason or "gone"
        except TooSlow as error:
            reason = str(error)
            await connection.close(error.code, reason)
        except Unwanted:
            reason = "gone while it waited for its turn"
        finally:
            self._busy.discard(connection)
            log.info("%s: %s", peer, reason)

    async def _answer_all(self, connection: ServerConnection) -> None:
        session = getattr(self._source, "session", None)
        source: ActionSource = self._source if session is None else session()
        await send(connection, self._metadata, self.limits)
        before: float | None = None
        while not self._stopping:
            message = await receive(connection, self.limits)
            began = time.perf_counter()
            self._busy.add(connection)
            answer = await self._answer(connection, source, message, before)
            # Not needed while the answer is on its way, and the next message while waiting for it.
            del message
            await send(connection, answer, self.limits)
            self._busy.discard(connection)
            before = 1e3 * (time.perf_counter() - began)
        await connection.close(CloseCode.GOING_AWAY, _STOPS)

    async def _answer(
        self, connection: ServerConnection, source: ActionSource, message: bytes | str, before: float | None
    ) -> bytes | str:
        """Packed, or one line of text that says what is wrong."""
        try:
            if isinstance(message, str):
                raise RequestError("a request must be a binary message of msgpack, got text")
            request = read_request(decode(message), self._reader, source)
            done: Done[dict[str, Any]] = await self._worker.run(
                functools.partial(fulfil, request, source),
                limit=self.limits.inference,
                wanted=lambda: connection.state is State.OPEN,
            )
            timing = {"infer_ms": 1e3 * done.took, "queue_ms": 1e3 * done.waited}
            if before is not None:
                timing["prev_total_ms"] = before
            return encode({**done.value, TIMING: timing})
        except (CodecError, RequestError) as error:
            log.debug("%s: %s", _peer(connection), error)
            return str(error)
        except TimeoutError:
            log.warning("%s: no answer within %g s", _peer(connection), self.limits.inference)
            return f"the policy gave no answer within {self.limits.inference:g} s"
        except Unwanted:
            raise
        except Exception:
            log.exception("%s: inference failed", _peer(connection))
            return "inference failed; the server's log says why"


def serve_policy(
    server: PolicyServer, bound: socket.socket, ready: Callable[[str], None] = lambda address: None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal does not wait. For the main thread.

    Args:
        bound: from :func:`igrft.serving.access.bind`; closed at the end.
        ready: told the address once clients can connect.

    Raises:
        IgrftError: requests in progress were not done in time.
    """

    async def run() -> bool:
        loop, stop, now = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        def stopped() -> None:
            (now if stop.is_set() else stop).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped)
        await server.start(bound)
        ready(address_of(bound))
        await stop.wait()
        log.info("stopping: requests in progress are answered first")
        draining, hurry = asyncio.create_task(server.drain()), asyncio.create_task(now.wait())
        await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if draining.done():
            return draining.result()
        draining.cancel()
        return False

    if not asyncio.run(run()):
        raise IgrftError("stopped with requests in progress that were not answered")


@contextlib.contextmanager
def running(server: PolicyServer, bound: socket.socket) -> Iterator[str]:
    """Serve from a thread for as long as the context lasts; gives the address. Drains at its end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="igrft-server", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(bound), loop).result()
        try:
            yield address_of(bound)
        finally:
            asyncio.run_coroutine_threadsafe(server.drain(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def address_of(bound: socket.socket) -> str:
    """Where clients find a socket: ``ws://host:port``."""
    host, port = bound.getsockname()[:2]
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


def _peer(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "a client"
