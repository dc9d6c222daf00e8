"""Rewards and returns as plain maths: 1,000,000 frames in 2,000 episodes, one core.

    python benchmarks/rewards.py

Prints seconds, and the ratio to one pass of a cumulative sum over the same frames.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import json
import time

import numpy as np
from synthetic import episode_lengths, segments_of

from igrft.rewards import combine, return_to_go, subtask_rewards, trajectory_rewards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=1_000_000)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = np.random.default_rng(0)
    lengths = episode_lengths(arguments.episodes, arguments.frames)
    ends = [[b for _, _, b in segments_of(int(n), rng)] for n in lengths]

    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        for length, e in zip(lengths.tolist(), ends, strict=True):
            sub = subtask_rewards(length, e, [1 / len(e)] * len(e))
            trajectory = trajectory_rewards(length, True)
            streams = np.stack([trajectory, sub, combine(trajectory, sub)], axis=1)
            return_to_go(streams).astype(np.float32)
        seconds.append(time.perf_counter() - begun)

    flat = rng.random((int(lengths.sum()), 3))
    begun = time.perf_counter()
    np.cumsum(flat, axis=0)
    bare = time.perf_counter() - begun
    found = {
        "frames": int(lengths.sum()),
        "episodes": len(lengths),
        "seconds": round(min(seconds), 3),
        "times_a_bare_cumsum": round(min(seconds) / bare, 1),
        "limit_seconds": 1.0,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
