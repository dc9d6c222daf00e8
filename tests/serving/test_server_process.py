"""A server as a process: signals, addresses, and what it refuses to start with."""

from __future__ import annotations

import signal
import socket
import threading
import time

import numpy as np
import pytest
import websockets
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from policy_servers import FakePolicy, observation, served_by_process

from igrft.errors import IgrftError, UsageError
from igrft.serving.access import ApiKey, bind, is_loopback
from igrft.serving.limits import Limits
from igrft.serving.server import PolicyServer, address_of


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_in_progress_be_answered(number):
    with served_by_process() as (process, address):
        busy, idle, waiting = (WebsocketClientPolicy(address) for _ in range(3))
        idle.infer(observation())
        found: dict[str, float] = {}

        def ask(name: str, client: WebsocketClientPolicy, value: float) -> None:
            found[name] = float(client.infer(observation(value, task="slow 0.8"))["actions"][0, 0])

        threads = [threading.Thread(target=ask, args=(n, c, v)) for n, c, v in (("a", busy, 2.0), ("b", waiting, 3.0))]
        for thread in threads:
            thread.start()
            time.sleep(0.2)
        process.send_signal(number)
        # Who only listened is sent away at once, and nobody new is let in.
        with pytest.raises(websockets.ConnectionClosedOK) as closed:
            idle._ws.recv(5)
        assert closed.value.rcvd.code == 1001
        assert process.poll() is None
        with pytest.raises((ConnectionRefusedError, websockets.WebSocketException)):
            WebsocketClientPolicy(address)
        for thread in threads:
            thread.join(10)
        assert found == {"a": 2.0, "b": 3.0}
        assert process.wait(10) == 0
        assert "Traceback" not in process.communicate()[1]
        with pytest.raises(websockets.ConnectionClosedOK):
            busy.infer(observation())


def cut_off(client: WebsocketClientPolicy) -> None:
    with pytest.raises(websockets.ConnectionClosed):
        client.infer(observation(task="slow 30"))


def test_a_second_signal_does_not_wait():
    with served_by_process() as (process, address):
        client = WebsocketClientPolicy(address)
        thread = threading.Thread(target=cut_off, args=(client,))
        thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 1
        thread.join(10)
        assert not thread.is_alive()


def test_the_drain_ends_though_a_client_and_the_policy_do_not():
    with served_by_process("--limits", '{"drain": 0.5}') as (process, address):
        client = WebsocketClientPolicy(address)
        thread = threading.Thread(target=cut_off, args=(client,))
        thread.start()
        silent = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 1
        silent.close()
        thread.join(10)


def test_a_process_asks_for_its_key():
    with served_by_process("--api-key-env", "LAB_KEY", environment={"LAB_KEY": "abc"}) as (process, address):
        with pytest.raises(websockets.InvalidStatus):
            WebsocketClientPolicy(address)
        answer = WebsocketClientPolicy(address, api_key="abc").infer(observation(2))
        np.testing.assert_array_equal(answer["actions"][0], [2, 2, 2, 2])
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
        assert "abc" not in out + err


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_need_a_key_or_a_word(host):
    with pytest.raises(UsageError, match="no API key: give --api-key-env VARIABLE, or --insecure"):
        bind(host, 0, None, insecure=False)
    for key, insecure in ((ApiKey("k"), False), (None, True)):
        with bind(host, 0, key, insecure=insecure) as bound:
            assert not is_loopback(bound.getsockname()[0])


def test_addresses():
    with bind("localhost", 0, None, insecure=False) as bound:
        assert address_of(bound).startswith("ws://127.0.0.1:")
        port = bound.getsockname()[1]
        # It does not listen yet: clients know at once that they have to come again.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        bound.listen()
        with pytest.raises(IgrftError, match=f"cannot listen on 127.0.0.1:{port} .*choose another --port"):
            bind("127.0.0.1", port, None, insecure=False)
    with bind("::1", 0, None, insecure=False) as bound:
        assert address_of(bound).startswith("ws://[::1]:")
    for host, says in (("", "must not be empty"), ("no such host.invalid", "there is no address")):
        with pytest.raises(UsageError, match=says):
            bind(host, 0, None, insecure=False)
    with pytest.raises(UsageError, match="65535"):
        bind("127.0.0.1", 70_000, None, insecure=False)
    assert is_loopback("127.8.8.8") and is_loopback("::1")
    assert not any(is_loopback(a) for a in ("0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0"))


@pytest.mark.parametrize("value", ["", "with space", "line\nbreak", "schlüssel"])
def test_keys_that_cannot_be_sent_are_refused_without_being_shown(monkeypatch, value):
    monkeypatch.setenv("LAB_KEY", value)
    with pytest.raises(UsageError, match="LAB_KEY") as error:
        ApiKey.from_environment("LAB_KEY")
    assert not value or value not in str(error.value)
    monkeypatch.delenv("LAB_KEY")
    with pytest.raises(UsageError, match="LAB_KEY holds no API key"):
        ApiKey.from_environment("LAB_KEY")
    assert ApiKey.from_environment(None) is None


def test_limits_and_inputs_that_cannot_be():
    with pytest.raises(UsageError, match="limit idle must be positive"):
        Limits(idle=0)
    with pytest.raises(UsageError, match="limit message must be positive"):
        Limits(message=-1)
    nameless = FakePolicy()
    nameless.input_features = {}
    with pytest.raises(UsageError, match="names no inputs"):
        PolicyServer(nameless)
