"""openpi's own client against the server: values, errors, keys, several at once."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import websockets
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from policy_servers import CAMERAS, CHUNK, DIM, STATE, FakePolicy, observation, served

from igrft.serving.access import ApiKey
from igrft.serving.limits import Limits

KEY = ApiKey("s3cret-of-the-lab")


def request(value: float = 1.0, prompt: str = "stack the cups", **more: Any) -> dict[str, Any]:
    """In openpi's words."""
    seen = observation(value)
    return {
        "observation/state": seen[STATE],
        "observation/front": seen[CAMERAS[0]],
        "observation/wrist": seen[CAMERAS[1]],
        "prompt": prompt,
        **more,
    }


def rows(value: float) -> np.ndarray:
    return (value + np.arange(CHUNK)[:, None] + np.zeros(DIM)).astype(np.float32)


@pytest.fixture
def policy():
    return FakePolicy()


@pytest.fixture
def address(policy):
    with served(policy, metadata={"reset_pose": [0.0, 1.0]}) as address:
        yield address


def test_metadata_first_then_actions_values_and_timing(policy, address):
    client = WebsocketClientPolicy(address)
    metadata = client.get_server_metadata()
    assert metadata["reset_pose"] == [0.0, 1.0]
    ours = metadata["igrft"]
    assert (ours["chunk_size"], ours["action_dim"], ours["has_critic"], ours["can_guide"]) == (CHUNK, DIM, True, True)
    assert ours["inputs"][STATE] == {"dtype": "float32", "shape": [DIM]}
    assert list(ours["inputs"]) == [STATE, *CAMERAS]
    answer = client.infer(request(0.25))
    assert answer["actions"].dtype == np.float32
    np.testing.assert_array_equal(answer["actions"], rows(0.25))
    assert answer["value_trajectory"] == pytest.approx(51 / 255) and answer["value_subtask"] == pytest.approx(102 / 255)
    assert answer["value"] == pytest.approx(0.4 * 51 / 255 + 0.6 * 102 / 255)
    assert answer["interaction_probability"] == 0.25 and answer["noise_scale"] == 0.5
    assert answer["server_timing"].keys() == {"infer_ms", "queue_ms"}
    seen = policy.seen[-1]
    assert seen["task"] == "stack the cups" and seen[CAMERAS[0]].shape == (8, 10, 3)
    np.testing.assert_array_equal(seen[CAMERAS[1]], observation()[CAMERAS[1]])
    timing = client.infer(request(prompt="slow 0.05"))["server_timing"]
    assert timing["infer_ms"] >= 50 and timing["prev_total_ms"] > 0
    assert client.infer(request())["server_timing"]["prev_total_ms"] >= 50


def test_a_policy_without_critic_answers_no_values():
    with served(FakePolicy(critic=False, guide=False)) as address:
        client = WebsocketClientPolicy(address)
        assert client.get_server_metadata()["igrft"]["has_critic"] is False
        answer = client.infer({**request(), "igrft/reset": 1})
        assert "value" not in answer and "interaction_probability" not in answer
        for extra in ({"igrft/judge": True}, {"igrft/left_over": np.zeros((1, DIM), np.float32)}):
            with pytest.raises(RuntimeError, match="no critic|cannot be guided"):
                client.infer({**request(), **extra})


def test_openpis_broker_cuts_the_chunk(policy, address):
    broker = ActionChunkBroker(WebsocketClientPolicy(address), action_horizon=3)
    found = [broker.infer(request(v)) for v in (1.0, 2.0, 3.0, 4.0)]
    np.testing.assert_array_equal([f["actions"][0] for f in found], [1, 2, 3, 4])
    assert [f["value"] for f in found] == [pytest.approx(0.32)] * 4
    assert [c[0] for c in policy.calls] == ["infer", "infer"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"prompt": "x"}, "lacks 'observation.state'"),
        (request(np.nan), "observation.state must be finite"),
        ({**request(), "observation/state": np.zeros(3)}, r"must have shape \[4\], got \[3\]"),
        ({**request(), "observation/front": np.zeros((8, 8, 3), np.int32)}, "picture of uint8"),
        ({**request(), "igrft/unheard": 1}, "unknown field 'igrft/unheard'"),
        ({**request(), "igrft/delay": -1}, "igrft/delay must be an integer"),
        ({**request(), "igrft/reset": "now"}, "igrft/reset must be a seed"),
        ({**request(), "igrft/reset": 2**63}, "igrft/reset must be a seed"),
        ({**request(), "igrft/judge": 1}, "igrft/judge must be true or false"),
        ({**request(), "igrft/left_over": np.zeros((7, DIM), np.float32)}, "more than a chunk of 6"),
        ({**request(), "igrft/left_over": np.zeros((2, 9), np.float32)}, "actions of 9 numbers, the policy's have 4"),
        ({**request(), "igrft/left_over": np.full((2, DIM), np.nan)}, "must be finite"),
        ({**request(), "igrft/left_over": [[1.0] * DIM]}, "array of floats"),
        (request(prompt="nan"), "actions that are not finite"),
        ([1, 2], "must be a map"),
    ],
)
def test_errors_are_one_line_and_the_connection_stays(address, bad, says):
    client = WebsocketClientPolicy(address)
    with pytest.raises(RuntimeError, match=says) as error:
        client.infer(bad)
    first, told = str(error.value).split("\n", 1)
    assert first == "Error in inference server:" and "\n" not in told
    np.testing.assert_array_equal(client.infer(request(2))["actions"], rows(2))


def test_a_failing_policy_tells_the_log_and_not_the_client(address, caplog):
    client = WebsocketClientPolicy(address)
    with pytest.raises(RuntimeError) as error:
        client.infer(request(prompt="fails"))
    assert str(error.value).endswith("inference failed; the server's log says why")
    assert "/root/secret" in caplog.text and "ValueError" in caplog.text
    np.testing.assert_array_equal(client.infer(request(2))["actions"], rows(2))


def test_text_is_answered_with_an_error(address):
    from websockets.sync.client import connect

    with connect(address) as connection:
        connection.recv()
        connection.send("hello")
        assert connection.recv() == "a request must be a binary message of msgpack, got text"
        connection.send(b"\xc1")
        assert connection.recv() == "the message holds something that is no plain msgpack (0xc1)"
        connection.ping().wait(5)


def test_clients_at_once_get_their_own_answers_in_turn(policy, address):
    """A client that asks all the time does not keep the others waiting."""
    found: dict[int, list[float]] = {}
    finished: list[int] = []

    def ask(number: int, count: int) -> None:
        client = WebsocketClientPolicy(address)
        found[number] = [
            float(client.infer(request(100 * number + i, "slow 0.005"))["actions"][0, 0]) for i in range(count)
        ]
        finished.append(number)

    threads = [threading.Thread(target=ask, args=(n, 40 if n == 0 else 10)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {n: [100.0 * n + i for i in range(40 if n == 0 else 10)] for n in range(4)}
    assert finished[-1] == 0


def test_every_client_draws_its_own_noise(policy, address):
    first, second = WebsocketClientPolicy(address), WebsocketClientPolicy(address)
    noise = np.random.default_rng(7).standard_normal((3, CHUNK, DIM)).astype(np.float32)
    for client in (first, second):
        assert client.infer({"igrft/reset": 7}).keys() == {"server_timing"}
    for i in range(3):
        for client in (first, second):
            np.testing.assert_array_equal(client.infer(request())["igrft/normalised"], noise[i])
    # Without sessions the stream is one.
    with served(FakePolicy(sessions=False)) as shared:
        first, second = WebsocketClientPolicy(shared), WebsocketClientPolicy(shared)
        first.infer({"igrft/reset": 7})
        np.testing.assert_array_equal(first.infer(request())["igrft/normalised"], noise[0])
        np.testing.assert_array_equal(second.infer(request())["igrft/normalised"], noise[1])


def test_keys(caplog):
    caplog.set_level("DEBUG")
    with served(FakePolicy(), key=KEY) as address:
        client = WebsocketClientPolicy(address, api_key=KEY.secret)
        np.testing.assert_array_equal(client.infer(request(2))["actions"], rows(2))
        for wrong in ("wrong", KEY.secret + "x", KEY.secret[:-1], KEY.secret.upper(), None):
            with pytest.raises(websockets.InvalidStatus) as error:
                WebsocketClientPolicy(address, api_key=wrong)
            assert error.value.response.status_code == 401
        from websockets.sync.client import connect

        for headers in (
            {"Authorization": f"Bearer {KEY.secret}"},
            {"Authorization": KEY.secret},
            [("Authorization", KEY.header), ("Authorization", KEY.header)],
            {"Authorization": "Api-Key \udcff".encode("utf-8", "surrogateescape").decode("latin-1")},
        ):
            with pytest.raises(websockets.InvalidStatus):
                connect(address, additional_headers=headers)
        np.testing.assert_array_equal(client.infer(request(3))["actions"], rows(3))
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("igrft")]
    assert any("wrong or no API key" in line for line in ours)
    assert not any(KEY.secret in line for line in ours)
    assert KEY.secret not in repr(KEY) and KEY.secret not in f"{KEY}"


def test_no_page_of_a_browser_gets_in(address):
    from websockets.sync.client import connect

    with pytest.raises(websockets.InvalidStatus) as error:
        connect(address, origin="http://localhost:8000")
    assert error.value.response.status_code == 403


def test_too_many_clients_are_told_so():
    with served(FakePolicy(), limits=Limits(connections=2, drain=5)) as address:
        first, second = WebsocketClientPolicy(address), WebsocketClientPolicy(address)
        with pytest.raises(websockets.InvalidStatus) as error:
            WebsocketClientPolicy(address)
        assert error.value.response.status_code == 503
        first._ws.close()
        for _ in range(50):
            try:
                third = WebsocketClientPolicy(address)
                break
            except websockets.InvalidStatus:
                time.sleep(0.05)
        for client in (second, third):
            np.testing.assert_array_equal(client.infer(request(2))["actions"], rows(2))


def test_inference_beyond_its_time_is_an_error_and_the_next_request_is_answered():
    with served(FakePolicy(), limits=Limits(inference=0.3, drain=5)) as address:
        client = WebsocketClientPolicy(address)
        with pytest.raises(RuntimeError, match=r"gave no answer within 0\.3 s"):
            client.infer(request(prompt="slow 0.5"))
        time.sleep(0.4)
        np.testing.assert_array_equal(client.infer(request(2))["actions"], rows(2))
