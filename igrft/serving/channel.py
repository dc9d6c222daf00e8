"""A websocket to a policy server, made again when it is lost."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from igrft.errors import IgrftError, UsageError
from igrft.serving.access import HEADER, ApiKey
from igrft.serving.codec import CodecError, decode

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_FIRST_PAUSE, _LONGEST_PAUSE, _CLOSE = 0.05, 2.0, 1.0
#: Codes of a closed connection: protocol error, unsupported data, invalid data, against the rules, too large.
_REFUSALS = (1002, 1003, 1007, 1008, 1009)
_ANSWER_BYTES, _SEND_BUFFER = 64 * 2**20, 2**20
# websockets' debug messages hold headers, and with them the key.
_websockets_log = logging.getLogger("igrft.serving.client")
_websockets_log.setLevel(logging.CRITICAL)


class Channel:
    """Connected from the start. Threads may share it: one request is under way at a time.

    Attributes:
        metadata: what the server said first.

    Raises:
        UsageError: no address; the server wants another key.
        IgrftError: no server answers there within ``retry_seconds``, or none that speaks the protocol.
    """

    def __init__(self, address: str, key: ApiKey | None, *, answer_seconds: float, retry_seconds: float) -> None:
        if not _is_address(address):
            raise UsageError(f"a policy server's address looks like ws://host:port, got {address!r}")
        self.address = address
        self._key = key
        self._answer_seconds = answer_seconds
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self.metadata: dict[str, Any] = {}
        self._connection: ClientConnection | None = None
        self._connect(time.monotonic() + retry_seconds)

    def ask(self, message: bytes) -> dict[str, Any]:
        """Send a packed request and wait for the answer; where the connection is lost, once more.

        Raises:
            IgrftError: the server says that something is wrong, is away for too long, gives no answer in time or none
                that can be read.
        """
        import websockets

        with self._lock:
            deadline, pause = time.monotonic() + self._retry_seconds, _FIRST_PAUSE
            while True:
                connection = self._connection or self._connect(deadline)
                try:
                    connection.send(message)
                    answer = connection.recv(self._answer_seconds)
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
        return self._map(answer)

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _map(self, message: bytes | str) -> dict[str, Any]:
        try:
            if isinstance(message, bytes) and isinstance(found := decode(message), dict):
                return found
        except CodecError as error:
            raise IgrftError(f"{self.address} answers what cannot be read: {error}") from None
        raise IgrftError(f"{self.address} answers what is no map; is it a policy server?")

    def _connect(self, deadline: float) -> ClientConnection:
        """Connect, and read the metadata. Tries until ``deadline`` (monotonic), at least once."""
        import websockets

        pause = _FIRST_PAUSE
        while True:
            try:
                connection, found = self._handshake()
                break
            except websockets.InvalidStatus as error:
                status = error.response.status_code
                if status in (401, 403):
                    raise UsageError(
                        f"{self.address} refuses the API key (HTTP {status}); name the variable that holds it "
                        "(api_key_env)"
                    ) from None
                if status != 503 or time.monotonic() > deadline:
                    raise IgrftError(f"{self.address} does not let anybody in: HTTP {status}") from None
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
        return connection

    def _handshake(self) -> tuple[ClientConnection, dict[str, Any]]:
        """A connection and the metadata."""
        from websockets.sync.client import connect

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
            # A request lies ready as a whole: sending it does not wait for the server to read.
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            return connection, self._map(connection.recv(self._answer_seconds))
        except BaseException:
            connection.close()
            raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _refused(error: Exception) -> bool:
    """Whether a server will close at the same message again."""
    closing = getattr(error, "rcvd", None)
    return closing is not None and closing.code in _REFUSALS


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
