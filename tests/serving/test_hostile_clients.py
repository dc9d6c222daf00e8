"""Clients that break the protocol, vanish, dawdle or flood: a closed connection, and the others are served."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import time
from collections.abc import Iterator

import numpy as np
import pytest
import websockets
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from policy_servers import FakePolicy, observation, port_of, served
from websockets.sync.client import connect

from igrft.serving.limits import Limits


@pytest.fixture
def policy():
    return FakePolicy()


@contextlib.contextmanager
def raw(address: str) -> Iterator[socket.socket]:
    """A websocket past its handshake and metadata, as a bare socket."""
    with socket.create_connection(("127.0.0.1", port_of(address)), timeout=10) as sock:
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(4096)
        assert received.startswith(b"HTTP/1.1 101")
        yield sock


def frame(payload: bytes, opcode: int = 2, fin: bool = True, mask: bool = True, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    first = bytes([(0x80 if fin else 0) | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head = bytes([bit | size])
    elif size < 65536:
        head = bytes([bit | 126]) + struct.pack(">H", size)
    else:
        head = bytes([bit | 127]) + struct.pack(">Q", size)
    # A mask of zeros leaves the payload as it is.
    return first + head + (b"\0\0\0\0" if mask else b"") + payload


def closed(sock: socket.socket, within: float = 5.0) -> bytes:
    """What still came until the server closed."""
    sock.settimeout(within)
    received = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while part := sock.recv(65536):
            received += part
    return received


def still_served(address: str) -> None:
    client = WebsocketClientPolicy(address)
    np.testing.assert_array_equal(client.infer(observation(3))["actions"][0], [3, 3, 3, 3])
    client._ws.close()


GOOD = msgpack_numpy.packb(observation(2))


@pytest.mark.parametrize(
    "sent",
    [
        frame(GOOD, mask=False),
        frame(GOOD, opcode=3),
        frame(GOOD, opcode=0),
        frame(GOOD, fin=False) + frame(GOOD),
        b"\xf2\x00",
        frame(b"x" * 200, opcode=9),
        frame(b"\xff\xfe", opcode=1),
        frame(b"", length=2**63),
        frame(b"", length=2**21),
        frame(b"\x03", opcode=8),
        random.Random(0).randbytes(4096),
        b"GET /healthz HTTP/1.1\r\n\r\n",
    ],
    ids=lambda sent: sent[:6].hex(),
)
def test_broken_frames_close_their_connection_alone(policy, sent):
    with served(policy, limits=Limits(message=2**20, drain=5)) as address, raw(address) as other:
        with raw(address) as sock:
            sock.sendall(sent)
            closed(sock)
        other.sendall(frame(GOOD))
        assert other.recv(10)
        still_served(address)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_frame_that_is_cut_off_by_leaving(policy, share):
    with served(policy) as address:
        with raw(address) as sock:
            whole = frame(GOOD)
            sock.sendall(whole[: int(share * len(whole))])
        still_served(address)
        assert len(policy.calls) == 1


def test_an_oversized_message_is_refused_before_it_is_read(policy):
    with served(policy, limits=Limits(message=100_000, drain=5)) as address:
        with connect(address, max_size=None) as connection:
            connection.recv()
            with pytest.raises(websockets.ConnectionClosed) as error:
                connection.send(bytes(10**8))
                connection.recv(10)
            assert error.value.rcvd is None or error.value.rcvd.code == 1009
        # In pieces, each of which would do.
        with connect(address, max_size=None) as connection:
            connection.recv()
            with pytest.raises(websockets.ConnectionClosed) as error:
                connection.send([bytes(60_000), bytes(60_000)])
                connection.recv(10)
            assert error.value.rcvd.code == 1009
        still_served(address)


def test_a_message_in_pieces_is_whole(policy):
    with served(policy) as address, connect(address) as connection:
        connection.recv()
        connection.send([GOOD[:100], GOOD[100:200], GOOD[200:]])
        np.testing.assert_array_equal(msgpack_numpy.unpackb(connection.recv())["actions"][0], [2, 2, 2, 2])


@pytest.mark.parametrize(
    ("limits", "pause", "says"),
    [
        (Limits(fragments=100, drain=5), 0.0, "more than 100 pieces"),
        (Limits(arrival=0.3, drain=5), 0.2, "a message that did not end"),
    ],
)
def test_a_message_that_does_not_end_is_given_up(policy, limits, pause, says):
    def pieces() -> Iterator[bytes]:
        for _ in range(1000):
            time.sleep(pause)
            yield b""

    with served(policy, limits=limits) as address:
        with connect(address) as connection:
            connection.recv()
            began = time.monotonic()
            with pytest.raises(websockets.ConnectionClosed) as error:
                connection.send(pieces())
            assert error.value.rcvd.code == 1008 and says in error.value.rcvd.reason
            # Where reading was paused, the connection goes after the close time-out of 5 s.
            assert time.monotonic() - began < 15
        still_served(address)


def test_silence_is_closed_politely(policy):
    with served(policy, limits=Limits(idle=0.3, drain=5)) as address, connect(address) as connection:
        connection.recv()
        with pytest.raises(websockets.ConnectionClosedOK) as error:
            connection.recv(5)
        assert error.value.rcvd.code == 1001


def test_a_handshake_that_does_not_end_is_given_up(policy):
    with served(policy, limits=Limits(handshake=0.3, drain=5)) as address:
        with socket.create_connection(("127.0.0.1", port_of(address))) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost:")
            assert closed(sock) == b""
        still_served(address)


def test_a_crowd_without_handshakes_keeps_nobody_out_for_long(policy):
    with served(policy, limits=Limits(connections=4, handshake=3.0, drain=5)) as address:
        began = time.monotonic()
        crowd = [socket.create_connection(("127.0.0.1", port_of(address))) for _ in range(40)]
        # All but eight are gone at once, these when the time for their handshake is over.
        for sock in crowd[8:]:
            closed(sock)
        assert time.monotonic() - began < 2.5
        for sock in crowd:
            closed(sock)
            sock.close()
        still_served(address)


def test_a_client_that_does_not_read_its_answers_is_cut_off(policy):
    with served(policy, limits=Limits(send=0.5, unsent=2**24, drain=5)) as address:
        with raw(address) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(2)
            small = frame(msgpack_numpy.packb(observation(2, size=1)))
            with pytest.raises((TimeoutError, ConnectionError)):
                for _ in range(200_000):
                    sock.sendall(small)
        still_served(address)


def test_a_flood_of_pings_whose_answers_are_not_read_is_cut_off(policy):
    with served(policy, limits=Limits(unsent=2**16, drain=5)) as address:
        with raw(address) as sock:
            # With less, the kernel drops what would let this client send on, and it stands still by itself.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            # A busy machine takes its time.
            sock.settimeout(60)
            pings = frame(b"x" * 125, opcode=9) * 100
            with pytest.raises(ConnectionError):
                for _ in range(20_000):
                    sock.sendall(pings)
        still_served(address)


def test_a_client_that_gives_no_sign_of_life_is_closed(policy):
    with served(policy, limits=Limits(ping=0.3, drain=5)) as address, raw(address) as sock:
        # It answers no ping.
        began = time.monotonic()
        assert b"keepalive ping timeout" in closed(sock, 10)
        assert time.monotonic() - began < 5


def test_a_client_that_vanishes_in_the_middle_leaves_the_next_ones_alone(policy):
    slow = frame(msgpack_numpy.packb(observation(2, task="slow 0.3")))
    with served(policy) as address:
        with raw(address) as sock:
            sock.sendall(slow)
            time.sleep(0.1)
            # Not even a FIN: reset.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        still_served(address)
        # Those who left while they waited for their turn are not served.
        policy.calls.clear()
        with raw(address) as first:
            first.sendall(slow)
            time.sleep(0.1)
            for _ in range(5):
                with raw(address) as sock:
                    sock.sendall(slow)
                    time.sleep(0.02)
            still_served(address)
        assert len(policy.calls) == 2


def test_healthz_answers_without_a_key_and_says_when_the_policy_hangs(policy):
    from igrft.serving.access import ApiKey

    def health(path: str = "/healthz") -> tuple[int, bytes]:
        request = http.client.HTTPConnection("127.0.0.1", port_of(address), timeout=10)
        request.request("GET", path)
        answer = request.getresponse()
        found = answer.status, answer.read()
        request.close()
        return found

    with served(policy, key=ApiKey("k"), limits=Limits(inference=0.2, drain=5)) as address:
        assert health() == (200, b"OK\n") == health("/healthz?now")
        assert health("/")[0] == 401 and health("/healthzz")[0] == 401
        client = WebsocketClientPolicy(address, api_key="k")
        with pytest.raises(RuntimeError, match="no answer within"):
            client.infer(observation(task="slow 1"))
        status, text = health()
        assert status == 503 and b"inference has not ended" in text
        time.sleep(1)
        assert health()[0] == 200
