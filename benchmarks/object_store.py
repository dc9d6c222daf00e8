"""`annotate` from and to a store against the same run on this machine's disk: seconds, requests, bytes.

    python benchmarks/object_store.py [EPISODES] [LATENCY_MS]

The store is moto's server on loopback, in this process: its CPU counts, too. A latency may be
added to every request, as the store of a cloud has it. Cold: nothing is cached; warm: new flow, pictures cached.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

import av
import numpy as np
from picture_sets import CAMERA, write_set

RECORDING = Path(__file__).resolve().parents[1] / "tests/data/g1_small"
FPS = 30


def repeated(root: Path, episodes: int) -> int:
    """A set whose one video is a recording's first, ``episodes`` times, joined as LeRobot joins: bytes of it."""
    given = next((RECORDING / "videos").rglob("episode_000000.mp4"))
    path = root / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    path.parent.mkdir(parents=True)
    with av.open(str(given)) as first, av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        stream = first.streams.video[0]
        packets = [(p.pts, p.dts, bytes(p), p.is_keyframe) for p in first.demux(stream) if p.size]
        made: Any = out.add_stream_from_template(stream, opaque=True)
        made.time_base = stream.time_base
        step = round(Fraction(1, FPS) / Fraction(stream.time_base))
        for e in range(episodes):
            for pts, dts, content, key in packets:
                packet = av.Packet(content)
                packet.pts, packet.dts = (t + e * len(packets) * step for t in (pts, dts))
                packet.time_base, packet.stream, packet.is_keyframe = stream.time_base, made, key
                out.mux(packet)
    count = len(packets)
    lengths = [count] * episodes
    frame = np.tile(np.arange(count), episodes)
    table = {
        "timestamp": (frame / FPS).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(episodes), count),
        "index": np.arange(count * episodes),
        "task_index": np.zeros(count * episodes, np.int64),
    }
    feature = {"dtype": "video", "shape": [480, 640, 3], "names": ["height", "width", "channels"]}
    prefix = f"videos/{CAMERA}/"
    rows = {
        prefix + "chunk_index": [0] * episodes,
        prefix + "file_index": [0] * episodes,
        prefix + "from_timestamp": [e * count / FPS for e in range(episodes)],
        prefix + "to_timestamp": [(e + 1) * count / FPS for e in range(episodes)],
    }
    write_set(root, table, lengths, {CAMERA: feature}, FPS, rows)
    parts = [{"name": "all", "start": 0, "end": count}]
    entries = {str(e): {"success": True, "subtasks": parts} for e in range(episodes)}
    (root.parent / "subtasks.json").write_text(json.dumps({"episodes": entries}))
    return path.stat().st_size


def main() -> None:
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    latency = float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0
    from s3_server import s3_server

    from igrft import annotate
    from igrft.dataset.locate import locate
    from igrft.dataset.reader import DatasetReader
    from igrft.dataset.video import episode_frames

    with tempfile.TemporaryDirectory() as name, s3_server() as store:
        folder = Path(name)
        os.environ |= {
            "AWS_ENDPOINT_URL": store.endpoint,
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "IGRFT_CACHE": str(folder / "cache"),
        }
        size = repeated(folder / "set", episodes)
        (folder / "p.yaml").write_text(
            json.dumps(
                {
                    "steps": [
                        {"type": "subtasks", "source": "file", "path": "subtasks.json"},
                        {"type": "interaction", "camera_motion": "static"},
                        {"type": "rewards"},
                    ]
                }
            )
        )
        store.new_bucket()
        url = store.upload(folder / "set", "set")
        if latency:
            store.fault = lambda method, key: time.sleep(latency)
        print(f"{episodes} episodes, {size / 1e6:.1f} MB of video, {1000 * latency:g} ms a request")

        remote = DatasetReader.open(locate(url, what="SOURCE"))
        store.requests.clear()
        began = time.perf_counter()
        frames = sum(1 for _ in episode_frames(remote, episodes // 2, CAMERA, color="gray"))
        print(
            f"one episode: {frames} pictures in {time.perf_counter() - began:.1f} s, {len(store.requests)} requests, "
            f"{store.received('.mp4') / 1e6:.1f} MB"
        )
        shutil.rmtree(folder / "cache")

        def timed(what: str, source: str | Path, target: str | Path, *overrides: str) -> None:
            store.requests.clear()
            began, before = time.perf_counter(), os.times()
            annotate(source, target, pipeline=folder / "p.yaml", workers=1, overrides=overrides, say=lambda line: None)
            took, after = time.perf_counter() - began, os.times()
            busy = after.user + after.system - before.user - before.system
            got = store.received(".mp4")
            print(
                f"{what:12} {took:6.1f} s ({busy:5.1f} s of CPU), {len(store.requests):3} requests, "
                f"{got / 1e6:5.1f} MB of video read, {len([r for r in store.requests if r.copied])} copied by the store"
            )

        timed("disk", folder / "set", folder / "one")
        timed("store, cold", url, f"s3://{store.bucket}/one")
        timed("disk", folder / "set", folder / "two", "steps.interaction.flow=dis_ultrafast")
        timed("store, warm", url, f"s3://{store.bucket}/two", "steps.interaction.flow=dis_ultrafast")


if __name__ == "__main__":
    main()
