"""Generated bad messages by the thousand, to a server in its own process: memory stays flat, others are served."""

from __future__ import annotations

import contextlib
import gc
import random
import re
import socket
import struct
import threading
import time
from typing import Any

import msgpack
import numpy as np
import psutil
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from policy_servers import CAMERAS, STATE, FakePolicy, features, observation, served_by_process
from websockets.sync.client import connect

from igrft.serving.codec import CodecError, decode
from igrft.serving.messages import fulfil, read_request
from igrft.serving.observations import ObservationReader, RequestError, inputs_of

COUNT = 2000
PICTURE_SIZE = 64


def mutated(message: bytes, draw: random.Random) -> bytes:
    """Cut off, repeated, with bytes changed, taken out or put in."""
    kind = draw.randrange(5)
    out = bytearray(message)
    if kind == 0:
        return message[: draw.randrange(len(message))]
    if kind == 1:
        return message + draw.randbytes(draw.randrange(1, 50))
    for _ in range(draw.choice([1, 1, 3, 20])):
        # Headers are where it hurts; most of a message is pictures.
        at = draw.choice([draw.randrange(min(200, len(out))), draw.randrange(len(out))])
        if kind == 2:
            out[at] = draw.randrange(256)
        elif kind == 3:
            del out[at : at + draw.choice([1, 2, 50])]
        else:
            out[at:at] = draw.randbytes(draw.choice([1, 2, 50]))
    return bytes(out)


def wrong(draw: random.Random) -> Any:
    """Well packed and still no observation."""
    bad: Any = draw.choice(
        [
            None,
            True,
            10**18,
            float("nan"),
            "text",
            b"bytes",
            [],
            {},
            [[[[[[]]]]]],
            np.zeros((0, 3)),
            np.full(4, np.nan, np.float32),
            np.full(4, np.inf),
            np.zeros(5),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((4, 4, 3), np.int64),
            np.zeros((2, 2, 3)) + 2,
            np.float32(np.nan),
        ]
    )
    name = draw.choice([STATE, *CAMERAS, "task", "igrft/left_over", "igrft/delay", "igrft/reset", "igrft/judge"])
    return {**observation(size=PICTURE_SIZE), name: bad}


def hostile(draw: random.Random) -> bytes:
    """By hand: what packers do not write."""
    marked = {b"__ndarray__": True, b"data": b"\x80\x04.", b"dtype": "|O", b"shape": [1]}
    huge = {**marked, b"dtype": "|u1", b"shape": [2**31 - 1, 2**31 - 1, 3]}
    return draw.choice(
        [
            msgpack.packb({STATE: marked}),
            msgpack.packb({CAMERAS[0]: huge}),
            msgpack.packb({STATE: {**marked, b"dtype": "<f4", b"shape": [-1]}}),
            msgpack.packb(msgpack.ExtType(1, b"x" * 100)),
            b"\x91" * draw.randrange(1, 100_000),
            b"\x81\xa1a" * draw.randrange(1, 30_000),
            b"\xdd" + struct.pack(">I", 2**32 - 1) + b"\x90" * 100_000,
            b"\xdc\x23\x28" + b"\x90" * 9000,
            b"\xdf" + struct.pack(">I", 2**31),
            b"\xc6" + struct.pack(">I", 2**32 - 1) + b"x",
            draw.randbytes(draw.randrange(1, 2000)),
        ]
    )


def bad_message(draw: random.Random) -> bytes:
    good: bytes = msgpack_numpy.packb(observation(size=PICTURE_SIZE))
    kind = draw.randrange(4)
    if kind == 0:
        return hostile(draw)
    if kind == 1:
        return bytes(msgpack_numpy.packb(wrong(draw)))
    return mutated(good, draw)


def flood(address: str, draw: random.Random, count: int) -> tuple[int, int]:
    """Send; returns how many were answered with an error, and how many were, by chance, still an observation."""
    refused = accepted = 0
    connection = connect(address, compression=None)
    connection.recv()
    for _ in range(count):
        message = bad_message(draw)
        if draw.random() < 0.03:
            # A client that leaves without a word, now and then in the middle.
            connection.socket.sendall(b"\x82\xfe\x10\x00\0\0\0\0" + message[:100])
            connection.socket.shutdown(socket.SHUT_RDWR)
            connection = connect(address, compression=None)
            connection.recv()
            continue
        connection.send(message)
        answer = connection.recv(20)
        if isinstance(answer, str):
            assert "\n" not in answer and len(answer) < 400, answer
            assert not re.search(r"Traceback|\.py\b|(^|\s)/", answer), answer
            refused += 1
        else:
            found = msgpack_numpy.unpackb(answer)
            assert "actions" not in found or np.isfinite(found["actions"]).all()
            accepted += 1
    connection.close()
    return refused, accepted


def test_bad_messages_by_the_thousand_leave_memory_flat_and_others_served():
    limits = '{"message": 4194304, "drain": 10}'
    with served_by_process("--limits", limits) as (process, address):
        stop, failures, rounds = threading.Event(), [], [0]

        def good_client() -> None:
            try:
                client = WebsocketClientPolicy(address)
                while not stop.is_set():
                    value = float(rounds[0] % 100)
                    answer = client.infer(observation(value, size=PICTURE_SIZE))
                    assert answer["actions"][0, 0] == value
                    rounds[0] += 1
                    time.sleep(0.01)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=good_client)
        thread.start()
        draw = random.Random(0)
        server = psutil.Process(process.pid)
        flood(address, draw, COUNT // 3)
        before, files = server.memory_info().rss, server.num_fds()
        refused, accepted = flood(address, draw, COUNT)
        after = server.memory_info().rss
        served_meanwhile = rounds[0]
        stop.set()
        thread.join(20)
        assert not failures and served_meanwhile > 20
        # A changed byte in a picture is still a picture.
        assert refused >= 1000 and accepted < COUNT // 2
        assert after - before < 6 * 2**20, f"{(after - before) / 2**20:.1f} MiB more"
        time.sleep(0.5)
        assert server.num_fds() <= files
        client = WebsocketClientPolicy(address)
        assert client.infer(observation(5.0))["actions"][0, 0] == 5.0


READER = ObservationReader(inputs_of(features()))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from([np.zeros(4, np.float32), np.zeros((2, 2, 3), np.uint8), np.full(4, np.nan), np.float64(1)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from([STATE, *CAMERAS, "task", "state", "images", "igrft/left_over", "igrft/delay", "igrft/reset"])


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(names, values, max_size=3), st.booleans())
def test_any_request_is_read_or_refused_with_one_line(changes, complete):
    message = {**(observation() if complete else {}), **changes}
    policy = FakePolicy()
    with contextlib.suppress(RequestError, CodecError):
        try:
            request = read_request(decode(msgpack_numpy.packb(message)), READER, policy)
        except (RequestError, CodecError) as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            raise
        fulfil(request, policy)
        if request.observation is not None:
            assert np.isfinite(request.observation[STATE]).all()


def test_a_refused_request_leaves_nothing_behind():
    """What a client sent is not kept by an error that was raised for it."""
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        with contextlib.suppress(RequestError):
            read_request({**observation(), STATE: np.zeros(9)}, READER, FakePolicy())
    gc.collect()
    assert len(gc.get_objects()) - before < 100


def test_a_closed_connection_is_what_openpis_client_sees_when_it_sends_too_much():
    with served_by_process("--limits", '{"message": 1000}') as (_, address):
        client = WebsocketClientPolicy(address)
        with contextlib.suppress(websockets.ConnectionClosed):
            client.infer(observation(size=100))
            raise AssertionError("an oversized message was answered")
