"""A policy behind a server as a source of actions: igrft's own server, and a plain one of openpi's kind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from openpi_client import msgpack_numpy
from policy_servers import CAMERAS, CHUNK, DIM, STATE, FakePolicy, observation, port_of, served, served_by_process

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.protocols import ActionSource
from igrft.serving.access import ApiKey
from igrft.serving.client import RemotePolicy
from igrft.serving.limits import Limits


@contextlib.contextmanager
def plain_server(answer: Callable[[Any], Any], metadata: Any = None, port: int = 0) -> Iterator[str]:
    """What openpi's protocol asks for and no more: metadata, then an answer to each observation.

    ``answer`` gives a map to be packed, or bytes or text that are sent as they are; it may raise ConnectionError to
    leave.
    """
    from websockets.asyncio.server import serve

    async def converse(connection: Any) -> None:
        await connection.send(msgpack_numpy.packb({} if metadata is None else metadata))
        async for message in connection:
            try:
                found = answer(msgpack_numpy.unpackb(message))
            except ConnectionError:
                connection.transport.abort()
                return
            await connection.send(found if isinstance(found, str | bytes) else msgpack_numpy.packb(found))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Any:
        return await serve(converse, "127.0.0.1", port, compression=None, max_size=None)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        asyncio.run_coroutine_threadsafe(server.wait_closed(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_it_is_the_policy_itself():
    """Chunks, noise, judgements: equal to those of the policy in this process, call for call."""
    local, behind = FakePolicy(), FakePolicy()
    left_over = np.arange(2 * DIM, dtype=np.float32).reshape(2, DIM)
    with served(behind) as address:
        remote = RemotePolicy(address)
        assert isinstance(remote, ActionSource)
        assert (remote.chunk_size, remote.has_critic, remote.can_guide, remote.action_dim) == (CHUNK, True, True, DIM)
        assert remote.n_action_steps == CHUNK and list(remote.input_features) == [STATE, *CAMERAS]
        for source in (local, remote):
            source.reset(11)
        for value in (0.1, 0.2):
            ours, theirs = local.infer(observation(value)), remote.infer(observation(value))
            np.testing.assert_array_equal(theirs.actions, ours.actions)
            np.testing.assert_array_equal(theirs.normalised, ours.normalised)
            assert theirs.judgement == ours.judgement and theirs.noise_scale == 0.5
            assert theirs.actions.dtype == theirs.normalised.dtype == np.float32
            assert remote.judge(observation(value)) == local.judge(observation(value))
        chunk = remote.infer(observation(task="slow 0.1"), left_over=left_over, delay=3)
        assert chunk.seconds >= 0.1 and remote.timing["infer_ms"] >= 100
        kind, given, delay = behind.calls[-1]
        assert (kind, delay) == ("infer", 3)
        np.testing.assert_array_equal(given, left_over)
        remote.infer(observation(), left_over=left_over[:0], delay=3)
        assert behind.calls[-1] == ("infer", None, 0)
        remote.reset(None)
        remote.reset(5)
        remote.infer(observation())
        assert [c for c in behind.calls if c[0] == "reset"] == [("reset", 11), ("reset", 5)]
        remote.close()
        remote.close()


def test_what_is_driven_must_fit():
    state, picture, action = {"shape": (DIM,)}, {"shape": (48, 64, 3)}, {"shape": (DIM,)}
    fits = {STATE: state, **dict.fromkeys(CAMERAS, picture), "action": action}
    with served(FakePolicy()) as address:
        remote = RemotePolicy(address)
        assert remote.uses_images
        remote.refuse_unfit(fits)
        RemotePolicy(address, names={"observation.proprio": STATE}).refuse_unfit(
            {**{k: v for k, v in fits.items() if k != STATE}, "observation.proprio": state}
        )
        for change, says in (
            ({CAMERAS[0]: None}, "looks at 'observation.images.front', which the environment does not give"),
            ({STATE: {"shape": (7,)}}, r"shape \(7,\) here, .* trained on \(4,\)"),
            ({"action": {"shape": (7,)}}, "takes actions of 7 numbers, and the policy at .* makes 4"),
        ):
            with pytest.raises(UsageError, match=says):
                remote.refuse_unfit({k: v for k, v in {**fits, **change}.items() if v is not None})
    with plain_server(lambda request: {}) as address:
        remote = RemotePolicy(address)
        remote.refuse_unfit({"action": action})
        assert remote.uses_images


def test_only_what_the_policy_reads_is_sent():
    behind = FakePolicy()
    with served(behind) as address:
        RemotePolicy(address).infer({**observation(), "observation.images.other": object(), "reward": object()})
        assert behind.seen[-1].keys() == {STATE, *CAMERAS, "task"}


def test_without_critic_nothing_is_asked():
    with served(FakePolicy(critic=False, guide=False)) as address:
        remote = RemotePolicy(address)
        assert remote.judge(observation()) is None
        chunk = remote.infer(observation(), left_over=np.zeros((1, DIM), np.float32), delay=1)
        assert chunk.judgement is None


def test_a_plain_openpi_server():
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return {"actions": np.arange(12.0).reshape(3, 4), "server_timing": {"infer_ms": 1.0}}

    with plain_server(answer, {"reset_pose": [0, 1]}) as address:
        remote = RemotePolicy(address)
        assert (remote.has_critic, remote.can_guide, remote.metadata) == (False, False, {"reset_pose": [0, 1]})
        assert remote.action_dim is None and remote.input_features == {}
        with pytest.raises(IgrftError, match="does not say how long its chunks are"):
            _ = remote.chunk_size
        remote.reset(3)
        chunk = remote.infer({**observation(), "next.reward": 1.0}, left_over=np.zeros((1, 4), np.float32), delay=1)
        assert chunk.actions.dtype == np.float32 and chunk.actions.shape == (3, 4) and chunk.normalised is None
        assert remote.chunk_size == 3 and chunk.noise_scale == 1.0 and chunk.judgement is None
        assert remote.judge(observation()) is None
        assert seen[0].keys() == {"observation/state", "observation/front", "observation/wrist", "prompt"}
        names = {STATE: "state", CAMERAS[0]: "observation/image", "task": "instruction"}
        named = RemotePolicy(address, names=names, chunk_size=50)
        assert named.chunk_size == 50
        named.infer(observation())
        assert seen[1].keys() == {"state", "observation/image", "observation/wrist", "instruction"}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({}, "answered no 'actions'"),
        ({"actions": np.zeros(3)}, r"answered no 'actions' of shape \[N, dim\]"),
        ({"actions": np.zeros((0, 3))}, "answered no 'actions'"),
        ({"actions": [[1.0]]}, "answered no 'actions'"),
        ({"actions": np.full((2, 2), np.nan)}, "'actions' that are not finite"),
        ({"actions": np.full((2, 2), 1e300)}, "'actions' that are not finite"),
        ([1], "answers what is no map"),
        (b"\xc1", "answers what cannot be read"),
        ("Traceback (most recent call last):\n  File x\nValueError: no", "last.: File x ValueError: no"),
    ],
)
def test_answers_that_are_none(answer, says):
    with plain_server(lambda request: answer) as address:
        remote = RemotePolicy(address)
        with pytest.raises(IgrftError, match=says) as error:
            remote.infer(observation())
        assert "\n" not in str(error.value) and address in str(error.value)


def test_a_critic_that_is_promised_must_speak():
    metadata = {"igrft": {"chunk_size": 2, "has_critic": True, "can_guide": False, "inputs": {}}}
    with (
        plain_server(lambda request: {"actions": np.zeros((2, 2))}, metadata) as address,
        pytest.raises(IgrftError, match="without its critic's values"),
    ):
        RemotePolicy(address).infer(observation())


def test_what_the_server_refuses_is_said():
    with served(FakePolicy()) as address:
        remote = RemotePolicy(address)
        with pytest.raises(IgrftError, match=r"ws://127.*observation.state must be finite"):
            remote.infer(observation(np.nan))
        assert remote.infer(observation(2)).actions[0, 0] == 2
    with (
        served(FakePolicy(), limits=Limits(message=1000, drain=5)) as address,
        pytest.raises(IgrftError, match="closes the connection.*1009"),
    ):
        RemotePolicy(address).infer(observation(size=100))


def test_keys(monkeypatch):
    monkeypatch.setenv("LAB_KEY", "abc")
    monkeypatch.setenv("WRONG_KEY", "xyz")
    with served(FakePolicy(), key=ApiKey("abc")) as address:
        assert RemotePolicy(address, api_key_env="LAB_KEY").infer(observation(2)).actions[0, 0] == 2
        for variable in ("WRONG_KEY", None):
            with pytest.raises(UsageError, match="refuses the API key") as error:
                RemotePolicy(address, api_key_env=variable)
            assert "xyz" not in str(error.value)
        with pytest.raises(UsageError, match="UNSET_KEY holds no API key"):
            RemotePolicy(address, api_key_env="UNSET_KEY")


@pytest.mark.parametrize("address", ["localhost:8000", "http://localhost:8000", "ws://", "ws://:80", "", "ws://x:port"])
def test_addresses(address):
    with pytest.raises(UsageError, match="ws"):
        RemotePolicy(address, retry_seconds=0)


def test_nobody_there():
    began = time.monotonic()
    with pytest.raises(IgrftError, match="no policy server answers at ws://127.0.0.1:1"):
        RemotePolicy("ws://127.0.0.1:1", retry_seconds=0.3)
    assert 0.3 <= time.monotonic() - began < 5


def test_it_waits_for_a_server_that_comes_later():
    with served(FakePolicy()) as address:
        port = port_of(address)
    found: list[RemotePolicy] = []
    thread = threading.Thread(target=lambda: found.append(RemotePolicy(f"ws://127.0.0.1:{port}", retry_seconds=20)))
    thread.start()
    time.sleep(0.3)
    with plain_server(lambda request: {"actions": np.zeros((2, 2))}, port=port):
        thread.join(20)
        assert found[0].infer(observation()).actions.shape == (2, 2)
        found[0].close()


def test_a_lost_connection_is_made_again_and_the_request_sent_again():
    dropped: list[int] = []

    def answer(request: Any) -> Any:
        if len(dropped) < 3:
            dropped.append(1)
            raise ConnectionError
        return {"actions": np.full((2, 2), request["observation/state"][0])}

    with plain_server(answer) as address:
        remote = RemotePolicy(address, retry_seconds=10)
        assert remote.infer(observation(7)).actions[0, 0] == 7
        assert len(dropped) == 3
        remote = RemotePolicy(address, retry_seconds=0.2)
    with pytest.raises(IgrftError, match="no policy server answers|closes the connection"):
        remote.infer(observation(7))


def test_a_server_that_always_leaves_is_given_up():
    def leave(request: Any) -> Any:
        raise ConnectionError

    with plain_server(leave) as address, pytest.raises(IgrftError, match="closes the connection"):
        RemotePolicy(address, retry_seconds=0.4).infer(observation())


def test_a_seed_that_was_not_heard_is_sent_again():
    heard: list[Any] = []

    def answer(request: Any) -> Any:
        heard.append(request.get("igrft/reset", "none"))
        if len(heard) == 1:
            raise ConnectionError
        return {"actions": np.zeros((2, 2))}

    metadata = {"igrft": {"chunk_size": 2, "has_critic": False, "can_guide": False, "inputs": {}}}
    with plain_server(answer, metadata) as address:
        remote = RemotePolicy(address)
        remote.reset(9)
        remote.infer(observation())
        remote.infer(observation())
    assert heard == [9, 9, "none"]


def test_another_policy_at_the_same_address_is_not_taken_for_the_first():
    with served(FakePolicy()) as address:
        remote = RemotePolicy(address, retry_seconds=5)
        remote.infer(observation())
    with (
        plain_server(lambda request: {"actions": np.zeros((2, 2))}, {"igrft": {}}, port=port_of(address)),
        pytest.raises(IgrftError, match="serves another policy than before"),
    ):
        remote.infer(observation())


def test_an_answer_that_does_not_come():
    with served(FakePolicy()) as address:
        remote = RemotePolicy(address, answer_seconds=0.3)
        with pytest.raises(IgrftError, match=r"gave no answer within 0\.3 s"):
            remote.infer(observation(1, task="slow 0.6"))
        # The late answer is not taken for that of the next request.
        time.sleep(0.5)
        assert remote.infer(observation(2)).actions[0, 0] == 2


def test_an_interrupted_request_leaves_no_answer_behind(monkeypatch):
    with served(FakePolicy()) as address:
        remote = RemotePolicy(address)
        connection = remote._channel._connection
        assert connection is not None

        def interrupted(timeout: float) -> bytes:
            raise KeyboardInterrupt

        monkeypatch.setattr(connection, "recv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remote.infer(observation(1))
        assert remote.infer(observation(2)).actions[0, 0] == 2


def test_threads_may_share_it():
    with served(FakePolicy()) as address:
        remote = RemotePolicy(address)
        found: dict[int, list[float]] = {}

        def ask(number: int) -> None:
            found[number] = [float(remote.infer(observation(100 * number + i)).actions[0, 0]) for i in range(20)]

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert found == {n: [100.0 * n + i for i in range(20)] for n in range(3)}


def test_a_restarted_server_is_found_again():
    with served_by_process() as (process, address):
        remote = RemotePolicy(address, retry_seconds=10)
        remote.infer(observation())
        process.terminate()
        assert process.wait(10) == 0
    answers = {"actions": np.zeros((CHUNK, DIM)), "value": 0.0, "value_trajectory": 0.0, "value_subtask": 0.0}
    answers |= {"interaction_probability": 0.5, "igrft/normalised": np.zeros((CHUNK, DIM))}
    with plain_server(lambda request: answers, remote.metadata, port=port_of(address)):
        assert remote.infer(observation()).judgement.interaction == 0.5
