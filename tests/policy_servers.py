"""A policy whose answers follow from its observation, and servers of it: in a thread, or as a process.

``python tests/policy_servers.py`` serves one until it is told to stop; its options are those of :func:`main`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from igrft.rollouts.protocols import Chunk, Judgement, Observation

STATE, CAMERAS = "observation.state", ("observation.images.front", "observation.images.wrist")
CHUNK, DIM = 6, 4


def features(state: int = DIM, cameras: tuple[str, ...] = CAMERAS) -> dict[str, Any]:
    """As a policy's configuration has them."""
    from types import SimpleNamespace

    vector = SimpleNamespace(type=SimpleNamespace(value="STATE"), shape=(state,))
    picture = SimpleNamespace(type=SimpleNamespace(value="VISUAL"), shape=(3, 224, 224))
    return {STATE: vector, **dict.fromkeys(cameras, picture)}


class FakePolicy:
    """Row i of a chunk is the state plus i, then noise drawn from the seed; values are means of what it saw.

    ``fails`` makes tasks of that name raise, with a path in the message; "slow N" takes N seconds; "nan" makes
    actions that are not finite.
    """

    has_critic, can_guide = True, True
    chunk_size, action_dim = CHUNK, DIM

    def __init__(self, *, critic: bool = True, guide: bool = True, sessions: bool = True) -> None:
        self.has_critic, self.can_guide = critic, guide
        self.input_features = features()
        self.seen: list[Observation] = []
        self.calls: list[tuple[Any, ...]] = []
        self._noise = np.random.default_rng(0)
        if sessions:
            self.session = self._session

    def _session(self) -> FakePolicy:
        other = FakePolicy(critic=self.has_critic, guide=self.can_guide, sessions=False)
        other.seen, other.calls = self.seen, self.calls
        return other

    def reset(self, seed: int | None) -> None:
        self.calls.append(("reset", seed))
        if seed is not None:
            self._noise = np.random.default_rng(seed)

    def infer(self, observation: Observation, *, left_over: np.ndarray | None = None, delay: int = 0) -> Chunk:
        self.calls.append(("infer", None if left_over is None else left_over.copy(), delay))
        self.seen[:] = [*self.seen[-7:], observation]
        self.calls[:] = self.calls[-999:]
        task = observation["task"]
        if task == "fails":
            raise ValueError("weights in /root/secret/model.safetensors\nare bad")
        if task.startswith("slow "):
            time.sleep(float(task.removeprefix("slow ")))
        rows = observation[STATE][None] + np.arange(CHUNK, dtype=np.float32)[:, None]
        actions = (rows + (np.nan if task == "nan" else 0)).astype(np.float32)
        normalised = self._noise.standard_normal((CHUNK, DIM)).astype(np.float32)
        return Chunk(actions, normalised, self.judge(observation), 0.5, 0.0)

    def judge(self, observation: Observation) -> Judgement | None:
        if not self.has_critic:
            return None
        first, second = (float(observation[c].mean()) / 255 for c in CAMERAS)
        return Judgement(first, second, 0.4 * first + 0.6 * second, float(np.clip(observation[STATE].mean(), 0, 1)))

    def close(self) -> None:
        self.calls.append(("close",))


def observation(value: float = 1.0, size: int = 8, task: str = "stack the cups") -> Observation:
    """By LeRobot's names; the state is ``value``, the pictures are 51 and 102."""
    return {
        STATE: np.full(DIM, value, np.float32),
        CAMERAS[0]: np.full((size, size + 2, 3), 51, np.uint8),
        CAMERAS[1]: np.full((size, size, 3), 102, np.uint8),
        "task": task,
    }


@contextlib.contextmanager
def served(policy: Any, *, key: Any = None, **settings: Any) -> Iterator[str]:
    """A server in a thread of this process; gives its address."""
    from igrft.serving.access import bind
    from igrft.serving.limits import Limits
    from igrft.serving.server import PolicyServer, running

    limits = settings.pop("limits", None) or Limits(drain=5.0)
    with (
        bind("127.0.0.1", 0, key, insecure=False) as socket,
        running(PolicyServer(policy, key=key, limits=limits, **settings), socket) as address,
    ):
        yield address


@contextlib.contextmanager
def served_by_process(*options: str, environment: dict[str, str] | None = None) -> Iterator[tuple[Any, str]]:
    """A server in a process of its own; gives the process and the address. Ended at the end."""
    command = [sys.executable, __file__, *options]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **(environment or {})}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, json.loads(line)["address"]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        finally:
            process.kill()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def main() -> None:
    from igrft.serving.access import ApiKey, bind
    from igrft.serving.limits import Limits
    from igrft.serving.server import PolicyServer, serve_policy

    parser = argparse.ArgumentParser()
    parser.add_argument("--api-key-env")
    parser.add_argument("--limits", type=json.loads, default={})
    given = parser.parse_args()
    key = ApiKey.from_environment(given.api_key_env)
    server = PolicyServer(FakePolicy(), key=key, limits=Limits(**given.limits))
    with bind("127.0.0.1", 0, key, insecure=False) as socket:
        serve_policy(server, socket, lambda address: print(json.dumps({"address": address}), flush=True))


if __name__ == "__main__":
    main()
