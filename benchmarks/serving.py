"""What a policy server adds to inference: a round trip on loopback with three cameras, minus the policy's own time.

    python benchmarks/serving.py [--rounds 1000] [--size 224]

The server is a process of its own, with a policy that answers at once: 30 actions of 14 numbers, with a critic. Both
clients speak to it: igrft's (``rollout.inference.server``) and openpi's. The aim is under 3 ms at the median.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from igrft.rollouts.protocols import Chunk, Judgement, Observation

STATE, CAMERAS = "observation.state", tuple(f"observation.images.cam{i}" for i in range(3))
DIM, CHUNK = 14, 30


class AtOnce:
    """The same chunk for every observation."""

    chunk_size, action_dim = CHUNK, DIM
    has_critic, can_guide = True, True

    def __init__(self) -> None:
        self.input_features = {camera: {"dtype": "image", "shape": (224, 224, 3)} for camera in CAMERAS}
        self.input_features[STATE] = {"dtype": "float32", "shape": (DIM,)}

    def reset(self, seed: int | None) -> None: ...

    def infer(self, observation: Observation, *, left_over: np.ndarray | None = None, delay: int = 0) -> Chunk:
        actions = np.tile(observation[STATE], (CHUNK, 1))
        return Chunk(actions, actions, Judgement(0.5, 0.5, 0.5, 0.5), 1.0)

    def judge(self, observation: Observation) -> Judgement:
        return Judgement(0.5, 0.5, 0.5, 0.5)

    def close(self) -> None: ...


def serve() -> None:
    from igrft.serving.access import bind
    from igrft.serving.server import PolicyServer, serve_policy

    with bind("127.0.0.1", 0, None, insecure=False) as socket:
        serve_policy(PolicyServer(AtOnce()), socket, lambda address: print(address, flush=True))


def observation(size: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    pictures = {camera: random.integers(0, 256, (size, size, 3), np.uint8) for camera in CAMERAS}
    return {STATE: random.standard_normal(DIM).astype(np.float32), **pictures, "task": "stack the cups"}


def overheads(address: str, rounds: int, size: int) -> dict[str, np.ndarray]:
    """Milliseconds of each round trip beyond the policy's own, by client. The clients take turns."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    from igrft.serving.client import RemotePolicy

    openpi = WebsocketClientPolicy(address)
    ours = RemotePolicy(address)
    seen = [observation(size, i) for i in range(8)]
    found: dict[str, list[float]] = {"igrft": [], "openpi": []}
    for i in range(rounds + 50):
        request = seen[i % len(seen)]
        for name in found:
            began = time.perf_counter()
            if name == "openpi":
                answer = openpi.infer(request)
                actions, timing = answer["actions"], answer["server_timing"]
            else:
                actions, timing = ours.infer(request).actions, ours.timing
            took = 1e3 * (time.perf_counter() - began)
            assert actions.shape == (CHUNK, DIM)
            if i >= 50:
                found[name].append(took - timing["infer_ms"])
    ours.close()
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    # One core for either side, as with a robot and its server.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    process = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = overheads(process.stdout.readline().strip(), arguments.rounds, arguments.size)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    for name, values in found.items():
        median, p99 = np.percentile(values, [50, 99])
        size = arguments.size
        print(
            json.dumps(
                {
                    "client": name,
                    "cameras": f"3 x {size}x{size} uint8",
                    "rounds": len(values),
                    "median_ms": round(float(median), 3),
                    "p99_ms": round(float(p99), 3),
                    "aim_ms": 3.0,
                }
            )
        )


if __name__ == "__main__":
    main()
