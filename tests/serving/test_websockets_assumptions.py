"""What serving relies on inside websockets and asyncio, beyond what they document."""

from __future__ import annotations

import socket

import pytest
from policy_servers import FakePolicy, observation
from websockets.sync.client import connect

from igrft.serving.access import bind
from igrft.serving.client import RemotePolicy
from igrft.serving.limits import Limits
from igrft.serving.server import PolicyServer, running


@pytest.fixture
def server():
    return PolicyServer(FakePolicy(), limits=Limits(drain=5))


@pytest.fixture
def address(server):
    with bind("127.0.0.1", 0, None, insecure=False) as bound, running(server, bound) as address:
        yield address


def test_small_messages_are_sent_at_once_from_both_ends(server, address):
    remote = RemotePolicy(address)
    remote.infer(observation())
    ours = remote._channel._connection.socket
    (connection,) = server._server.connections
    theirs = connection.transport.get_extra_info("socket")
    for end in (ours, theirs):
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_nothing_is_compressed_though_a_client_offers_it(address):
    with connect(address, compression="deflate") as connection:
        assert "permessage-deflate" in connection.request.headers["Sec-WebSocket-Extensions"]
        assert "Sec-WebSocket-Extensions" not in connection.response.headers


def test_the_bounded_connection_is_the_one_in_use(server, address):
    with connect(address) as connection:
        connection.recv()
        (theirs,) = server._server.handlers
        assert type(theirs).__name__ == "BoundedConnection" and theirs.limits is server.limits
        assert theirs.transport.get_write_buffer_size() == 0


def test_frames_are_masked_in_c():
    """In Python a picture takes milliseconds."""
    from websockets.frames import apply_mask
    from websockets.speedups import apply_mask as fast

    assert apply_mask is fast
