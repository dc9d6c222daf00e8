"""Who may ask a server: keys from the environment, and addresses that only this machine reaches."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import socket
from dataclasses import dataclass

from igrft.errors import IgrftError, UsageError

#: As openpi's client sends a key.
HEADER, SCHEME = "Authorization", "Api-Key"


@dataclass(frozen=True, repr=False)
class ApiKey:
    """A secret that is compared, sent, and never shown."""

    secret: str

    @classmethod
    def from_environment(cls, variable: str | None) -> ApiKey | None:
        """The key in an environment variable; None where no variable is named.

        Raises:
            UsageError: it is not set, empty, or could not be sent in a header.
        """
        if variable is None:
            return None
        secret = os.environ.get(variable, "")
        if not secret:
            raise UsageError(f"the environment variable {variable} holds no API key; set it, or name another one")
        if not secret.isascii() or not secret.isprintable() or " " in secret:
            raise UsageError(f"the API key in {variable} must be printable ASCII without spaces")
        return cls(secret)

    @property
    def header(self) -> str:
        """What stands in ``Authorization``."""
        return f"{SCHEME} {self.secret}"

    def opens(self, header: str | None) -> bool:
        """Whether a request's ``Authorization`` carries this key, in a time that does not tell how nearly."""
        given = hashlib.sha256((header or "").encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(given, hashlib.sha256(self.header.encode()).digest())

    def __repr__(self) -> str:
        return "ApiKey(…)"


def bind(host: str, port: int, key: ApiKey | None, *, insecure: bool) -> socket.socket:
    """A socket on the first address that ``host`` stands for. It does not listen yet: until the server does, clients
    are turned away and know to come again.

    Args:
        port: 0 takes a free one.
        insecure: listen to other machines without a key.

    Raises:
        UsageError: other machines could reach it, there is no key and nobody said ``insecure``.
        IgrftError: the address cannot be had.
    """
    if not 0 <= port < 2**16:
        raise UsageError(f"a port lies in 0 … 65535, got {port}")
    if not host:
        raise UsageError("--host must not be empty; 0.0.0.0 is every address of this machine")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"there is no address {host!r} on this machine; give --host an address of it") from None
    # "localhost" is two addresses; a client that is told one port must find it there.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    if not is_loopback(str(address[0])) and key is None and not insecure:
        raise UsageError(
            f"{host} can be reached from other machines, and there is no API key: give --api-key-env VARIABLE, or "
            "--insecure to serve whoever asks"
        )
    # asyncio sends small messages at once only from sockets that say that they are TCP.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # A server that is started again must not wait for the last one's connections.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address[:2])
        return bound
    except OSError as error:
        bound.close()
        raise IgrftError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port (0 takes a free one)"
        ) from None


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach a numeric address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
