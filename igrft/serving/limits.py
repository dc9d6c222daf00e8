"""What a client may ask of a server, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from igrft.errors import UsageError

#: Three cameras of 1920×1080 are 18 MiB.
MESSAGE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Limits:
    """Of one server. Seconds, where nothing else is said.

    Attributes:
        message: bytes of a request.
        fragments: pieces that a request may come in.
        connections: clients at a time; more are told to come again (HTTP 503).
        handshake: until a new connection has said what it wants.
        arrival: from the first piece of a request to its last.
        inference: from a whole request to its answer, its turn included. What takes longer is answered with an
            error; the policy cannot be stopped in the middle, so the next request waits for it.
        send: until a client has taken its answer.
        idle: without a request, until the connection is closed.
        ping: between two signs of life that are asked for; a client that gives none for as long again is gone.
        drain: for requests in progress when the server is told to stop.
        unsent: bytes that lie ready for a client which does not read them, until it is cut off.
    """

    message: int = MESSAGE_BYTES
    fragments: int = 1024
    connections: int = 16
    handshake: float = 10.0
    arrival: float = 30.0
    inference: float = 60.0
    send: float = 10.0
    idle: float = 3600.0
    ping: float = 20.0
    drain: float = 90.0
    unsent: int = 2**20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UsageError(f"a server's limit {name} must be positive, got {value}")
