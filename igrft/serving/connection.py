"""One client's websocket: bounded in what it may send, keep waiting, and leave unread."""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode

from igrft.serving.limits import Limits


class TooSlow(Exception):
    """A client kept the server waiting beyond a limit; the message is the reason for closing.

    Attributes:
        code: of the closing. One that only said nothing may come again.
    """

    def __init__(self, reason: str, code: int = CloseCode.POLICY_VIOLATION) -> None:
        super().__init__(reason)
        self.code = code


class BoundedConnection(ServerConnection):
    """websockets' connection with two more limits.

    It answers pings at once, whether or not the peer reads the answers, and counts nobody before the handshake.
    """

    limits: Limits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Twice: those that are being told (HTTP 503) that there are too many are connections, too.
        if len(self.server.handlers) >= 2 * self.limits.connections:
            Connection.connection_made(self, transport)
            self.transport.abort()
            return
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_write_buffer_size() > self.limits.unsent:
            self.transport.abort()


def bounded(limits: Limits) -> type[BoundedConnection]:
    """The connection's class for a server with these limits."""
    return type("BoundedConnection", (BoundedConnection,), {"limits": limits})


async def receive(connection: ServerConnection, limits: Limits) -> bytes | str:
    """The next message, whole.

    Raises:
        TooSlow: beyond ``idle`` before its first piece, beyond ``arrival`` after it, or in too many pieces.
        websockets.ConnectionClosed: the client left, or broke the protocol.
    """
    parts: list[Any] = []
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limits.idle) as timer:
            async for part in connection.recv_streaming():
                if not parts:
                    timer.reschedule(loop.time() + limits.arrival)
                parts.append(part)
                if len(parts) > limits.fragments:
                    raise TooSlow(f"a message in more than {limits.fragments} pieces")
    except TimeoutError:
        if parts:
            raise TooSlow("a message that did not end") from None
        raise TooSlow(f"nothing for {limits.idle:g} s", CloseCode.GOING_AWAY) from None
    return parts[0] if len(parts) == 1 else parts[0][:0].join(parts)


async def send(connection: ServerConnection, message: bytes | str, limits: Limits) -> None:
    """Raises TooSlow: the client does not read; websockets.ConnectionClosed: it left."""
    try:
        async with asyncio.timeout(limits.send):
            await connection.send(message)
    except TimeoutError:
        raise TooSlow("an answer that was not read") from None
