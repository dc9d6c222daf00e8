"""`igrft serve` with checkpoints as training leaves them, asked by openpi's client and by our own."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from value_runs import tiny_checkpoint

from igrft.cli.main import run
from igrft.rollouts.policy import LocalPolicy
from igrft.serving.client import RemotePolicy

CAMERA = "observation.images.front"
DATASET = SimpleNamespace(
    features={
        "observation.state": {"shape": (5,)},
        "action": {"shape": (4,)},
        CAMERA: {"shape": (48, 64, 3)},
    }
)
SEEN = {
    "observation.state": np.linspace(-0.5, 0.5, 5, dtype=np.float32),
    # Another size than the policy was trained with.
    CAMERA: np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8),
    "task": "stack the cups",
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["state_flow", "pi05_tiny"])
def checkpoint(request, tmp_path_factory) -> Path:
    cameras = (CAMERA,) if request.param == "pi05_tiny" else ()
    return tiny_checkpoint(tmp_path_factory.mktemp("run"), DATASET, kind=request.param, cameras=cameras)


def while_serving(checkpoint: Path, capsys: Any, ask: Callable[[str], None], *options: str) -> tuple[int, str]:
    """Run the command here, ``ask`` in a thread once it is ready, then SIGTERM. Its status and what it said."""
    failures: list[BaseException] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

    def client() -> None:
        deadline = time.monotonic() + 120
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            ask(f"ws://127.0.0.1:{port}")
        except BaseException as error:
            failures.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client)
    thread.start()
    status = run(["serve", str(checkpoint), "--port", str(port), "--device", "cpu", *options])
    thread.join()
    if failures:
        raise failures[0]
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_a_served_checkpoint_is_the_checkpoint(checkpoint, capsys):
    local = LocalPolicy.load(checkpoint, device="cpu")
    local.reset(5)
    # The server's first chunk, of zeros, comes before the seed.
    expected = [local.infer(SEEN), local.infer(SEEN)]
    left_over = expected[0].normalised[2:]
    expected.append(local.infer(SEEN, left_over=left_over, delay=1))
    judged = local.judge(SEEN)

    def ask(address: str) -> None:
        remote = RemotePolicy(address)
        assert remote.chunk_size == local.chunk_size and remote.n_action_steps == local.n_action_steps
        remote.reset(5)
        found = [remote.infer(SEEN), remote.infer(SEEN), remote.infer(SEEN, left_over=left_over, delay=1)]
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(theirs.actions, ours.actions, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(theirs.normalised, ours.normalised, rtol=1e-4, atol=1e-5)
            assert theirs.judgement.value == pytest.approx(ours.judgement.value, abs=1e-5)
            assert theirs.judgement.interaction == pytest.approx(ours.judgement.interaction, abs=1e-5)
        assert not np.allclose(found[0].actions, found[1].actions)
        assert remote.judge(SEEN).trajectory == pytest.approx(judged.trajectory, abs=1e-5)
        remote.close()
        client = WebsocketClientPolicy(address)
        request = {"observation/state": SEEN["observation.state"], "observation/image": SEEN[CAMERA], "prompt": "go"}
        answer = client.infer(request)
        assert answer["actions"].shape == (local.chunk_size, 4) and answer["actions"].dtype == np.float32
        assert answer["noise_scale"] == 1.0
        assert {"value", "interaction_probability", "server_timing"} <= answer.keys()
        with pytest.raises(RuntimeError, match=r"must have shape \[5\], got \[6\]"):
            client.infer({**request, "observation/state": np.zeros(6)})

    status, said = while_serving(checkpoint, capsys, ask)
    assert status == 0
    assert f"serving {checkpoint} at ws://127.0.0.1:" in said and "stopping" in said and "connected" in said


def test_options(checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("LAB_KEY", "s3cret")
    options = ("--noise-temperature", "0", "--task", "fold", "--api-key-env", "LAB_KEY", "--json", "-q")

    def ask(address: str) -> None:
        client = WebsocketClientPolicy(address, api_key="s3cret")
        request = {"observation/state": SEEN["observation.state"], "observation/image": SEEN[CAMERA]}
        first, second = client.infer(request), client.infer(request)
        assert first["noise_scale"] == 0.0
        np.testing.assert_array_equal(first["actions"], second["actions"])

    status, said = while_serving(checkpoint, capsys, ask, *options)
    assert status == 0 and "s3cret" not in said
    ready = json.loads(said)
    assert ready["address"].startswith("ws://127.0.0.1:") and ready["checkpoint"] == str(checkpoint)


def test_exploration_follows_the_critic(checkpoint, capsys):
    def ask(address: str) -> None:
        chunk = RemotePolicy(address).infer(SEEN)
        assert chunk.noise_scale == pytest.approx(0.8 * (1 - 0.5 * chunk.judgement.interaction) + 0.1)

    options = ("--explore", "--sigma-base", "0.8", "--alpha", "0.5", "--sigma-min", "0.1")
    assert while_serving(checkpoint, capsys, ask, *options)[0] == 0


def test_what_is_refused_before_anything_is_loaded(tmp_path, capsys):
    for options, says in (
        (["--host", "0.0.0.0"], "--insecure"),
        (["--api-key-env", "UNSET_KEY"], "UNSET_KEY holds no API key"),
        (["--max-message", "-1"], "limit message must be positive"),
        (["--explore", "--noise-temperature", "1"], "not both"),
        (["--horizon", "0"], "horizon of real-time chunking must be at least 1"),
        ([], "no run or checkpoint"),
    ):
        assert run(["serve", str(tmp_path / "nowhere"), "--port", "0", *options]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1


def test_noise_beyond_training_is_warned_of(checkpoint, capsys):
    _, said = while_serving(checkpoint, capsys, lambda address: None, "--noise-temperature", "1.5")
    assert "warning: the noise has standard deviation 1.5 and the flow was trained on noise up to 1" in said
