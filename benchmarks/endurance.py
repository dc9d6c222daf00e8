"""What survives: runs killed at random, and a policy server under good, bad and vanishing clients.

    python benchmarks/endurance.py annotate [--kills 100] [--episodes 200]
    python benchmarks/endurance.py train [--kills 20]
    python benchmarks/endurance.py rollout [--kills 20]
    python benchmarks/endurance.py serve [--requests 100000] [--clients 8]

Each runs the toolkit's own commands as processes, kills them with SIGKILL at random moments (seeded), and compares the
end with a run that was left alone. One line of JSON each; the status is not 0 where something was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl"}
IGRFT = [sys.executable, "-m", "igrft.cli.main"]
STATE, CAMERA, DIM, CHUNK = "observation.state", "observation.images.cam", 14, 10


def digest(root: Path) -> dict[str, str]:
    """SHA-256 of every file under ``root``."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*IGRFT, *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(*arguments: object) -> float:
    """Run a command to its end; seconds."""
    began = time.monotonic()
    process = start(*arguments)
    _, error = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))} failed: {error.decode()[-2000:]}")
    return time.monotonic() - began


def kill_at_random(
    kills: int, seconds: float, command: list[object], look: Callable[[bool], None], chance: random.Random
) -> tuple[int, int]:
    """Start a command again and again, and kill it within 1.05 of the time that it takes when left alone.

    Args:
        look: called after every kill (False) and every end (True).

    Returns:
        Kills that struck, and runs that ended between them.
    """
    struck = ended = 0
    while struck < kills:
        process = start(*command)
        try:
            process.wait(chance.uniform(0.1, 1.05) * seconds)
        except subprocess.TimeoutExpired:
            # The process alone: its workers must notice by themselves.
            process.kill()
            process.wait()
            struck += 1
            look(False)
        else:
            if process.returncode != 0:
                assert process.stderr is not None
                raise SystemExit(f"a run failed by itself: {process.stderr.read().decode()[-2000:]}")
            ended += 1
            look(True)
        assert process.stderr is not None
        process.stderr.close()
    return struck, ended


def annotate(folder: Path, kills: int, episodes: int) -> dict[str, Any]:
    """The whole pipeline with optical flow and two workers; TARGET is absent or whole after every kill."""
    source, target = folder / "source", folder / "labelled"
    _moving_squares(source, episodes)
    before = digest(source)
    pipeline = folder / "pipeline.yaml"
    steps = ["{type: subtasks, source: proprio}", "{type: interaction}", "{type: rewards}", "{type: returns}"]
    pipeline.write_text("steps:\n" + "".join(f"  - {s}\n" for s in steps))
    command: list[object] = ["annotate", source, target, "--pipeline", pipeline, "--workers", 2, "-q"]
    seconds = finish(*[folder / "alone" if c == target else c for c in command])
    reference = digest(folder / "alone")
    whole = 0

    def look(ended: bool) -> None:
        nonlocal whole
        if target.exists():
            assert digest(target) == reference, "TARGET is there and not whole"
            shutil.rmtree(target)
            whole += 1

    struck, ended = kill_at_random(kills, seconds, command, look, random.Random(0))
    finish(*command)
    assert digest(target) == reference, "labels differ from those of a run that was left alone"
    assert digest(source) == before, "the source was changed"
    left = [p.name for p in folder.iterdir() if ".staging" in p.name]
    assert not left, f"left behind: {left}"
    return {"kills": struck, "episodes": episodes, "ended_between": ended, "whole_between": whole, "alone_s": seconds}


def train(folder: Path, kills: int) -> dict[str, Any]:
    """Stage II (IG-AWR with its critic) on a synthetic set: the same weights and losses, bit for bit."""
    _labelled(folder)
    command: list[object] = [
        "train",
        "tiny/offline_rl",
        f"--datasets.0.root={folder / 'labelled'}",
        "--init_from=null",
        "--steps=600",
        "--save_every=20",
        "--log_every=10",
        "-q",
    ]
    seconds = finish(*command, f"--output_dir={folder / 'alone'}")
    run = folder / "killed"
    struck, ended = kill_at_random(
        kills,
        seconds,
        [*command, f"--output_dir={run}"],
        lambda ended: shutil.rmtree(run) if ended else None,
        random.Random(1),
    )
    finish(*command, f"--output_dir={run}")
    same = [_losses(p) == _losses(folder / "alone") for p in (run,)]
    weights = [digest(p / "checkpoints/000600/pretrained_model") for p in (folder / "alone", run)]
    assert all(same), "losses differ from those of a run that was left alone"
    assert weights[0] == weights[1], "weights differ"
    return {"kills": struck, "ended_between": ended, "steps": 600, "alone_s": seconds}


def rollout(folder: Path, kills: int) -> dict[str, Any]:
    """Collection in simulation: what was counted before a kill is there after it, and opens."""
    finish("convert", "metaworld:assembly-v3", folder / "demos", "--episodes", 6, "-q", "--overwrite")
    finish("annotate", folder / "demos", folder / "labelled", "-q")
    finish(
        "train",
        "tiny/sft",
        f"--datasets.0.root={folder / 'labelled'}",
        f"--output_dir={folder / 'sft'}",
        "--steps=100",
        "--save_every=100",
        "-q",
    )
    root = folder / "rollouts"
    command: list[object] = [
        "rollout",
        "tiny/hil",
        f"--init_from={folder / 'sft'}",
        f"--datasets.0.root={folder / 'labelled'}",
        f"--output_dir={root}",
        "--environment.task=assembly-v3",
        "--rollout.episodes=100000",
        "-q",
    ]
    chance, lost, counts = random.Random(2), 0, []
    for kill in range(kills):
        process = start(*command)
        held = counts[-1] if counts else 0
        deadline = time.monotonic() + 180
        # Past the start: then episodes are made one after the other.
        while _counted(root) == held and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[1].decode()[-2000:]
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 3.0))
        seen = _counted(root)
        process.kill()
        process.wait()
        found = _opened(root)
        lost += found < seen
        assert found >= seen, f"kill {kill}: {seen} episodes were counted before it, {found} are there"
        counts.append(found)
    assert counts == sorted(counts)
    return {"kills": kills, "episodes": counts[-1], "counted_and_lost": lost}


def serve(requests: int, clients: int) -> dict[str, Any]:
    """A policy server in a process of its own. Good requests are answered with their own state; memory is watched."""
    import psutil

    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    memory: list[float] = []
    over = threading.Event()

    def watch() -> None:
        process = psutil.Process(server.pid)
        while not over.wait(0.5):
            memory.append(process.memory_info().rss / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    each = requests // clients
    command = [sys.executable, __file__, "--client", address, "--requests", str(each)]
    running = [
        subprocess.Popen([*command, "--seed", str(i)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for i in range(clients)
    ]
    told = [json.loads(c.communicate()[0]) for c in running]
    seconds = time.monotonic() - began
    over.set()
    watcher.join()
    server.send_signal(signal.SIGTERM)
    status = server.wait(30)
    took = np.concatenate([np.array(t["ms"]) for t in told])
    median, p99 = np.percentile(took, [50, 99])
    early, late = np.median(memory[len(memory) // 10 : len(memory) // 5]), np.median(memory[-len(memory) // 10 :])
    found = {
        "requests": sum(len(t["ms"]) for t in told) + sum(t["malformed"] + t["vanished"] for t in told),
        "good": len(took),
        "malformed": sum(t["malformed"] for t in told),
        "vanished": sum(t["vanished"] for t in told),
        "errors_of_good": sum(t["errors"] for t in told),
        "clients": clients,
        "per_second": round(requests / seconds),
        "median_ms": round(float(median), 2),
        "p99_ms": round(float(p99), 2),
        "p99_over_median": round(float(p99 / median), 2),
        "memory_mib": [round(float(early), 1), round(float(late), 1)],
        "exit_status": status,
    }
    assert found["errors_of_good"] == 0, found
    return found


# Parts.


def _moving_squares(root: Path, episodes: int) -> None:
    """Short episodes of a square that moves, with a state to find phases in."""
    import av
    from synthetic import write_dataset

    lengths = write_dataset(root, episodes, 40 * episodes, width=6, episodes_per_file=50)
    path = root / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    background = rng.integers(0, 255, (96, 128, 3), np.uint8)
    square = rng.integers(0, 255, (32, 32, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.gop_size = 10
        for length in lengths.tolist():
            for i in range(length):
                picture = background.copy()
                left = (2 * i) % 90
                picture[30:62, left : left + 32] = square
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    _declare_camera(root, lengths)


def _declare_camera(root: Path, lengths: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA] = {
        "dtype": "video",
        "shape": [96, 128, 3],
        "names": ["height", "width", "channels"],
        "info": {"video.codec": "h264", "video.fps": 30, "video.is_depth_map": False},
    }
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (root / "meta/info.json").write_text(json.dumps(info))
    ends = np.cumsum(lengths)
    for path in sorted((root / "meta/episodes").rglob("*.parquet")):
        table = pq.read_table(path)
        rows = table.column("episode_index").to_numpy()
        for name, values in (
            ("chunk_index", pa.array(np.zeros(len(rows), np.int64))),
            ("file_index", pa.array(np.zeros(len(rows), np.int64))),
            ("from_timestamp", pa.array((ends[rows] - lengths[rows]) / 30.0)),
            ("to_timestamp", pa.array(ends[rows] / 30.0)),
        ):
            table = table.append_column(f"videos/{CAMERA}/{name}", values)
        pq.write_table(table, path)


def _labelled(folder: Path) -> None:
    _moving_squares(folder / "source", 30)
    finish("annotate", folder / "source", folder / "labelled", "-q")


def _losses(run: Path) -> list[Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line.get("step"), line.get("loss")) for line in lines]


def _counted(root: Path) -> int:
    """Episodes that the dataset says it has."""
    for path in sorted(root.rglob("meta/info.json")):
        with contextlib.suppress(OSError, json.JSONDecodeError):
            return int(json.loads(path.read_text())["total_episodes"])
    return 0


def _opened(root: Path) -> int:
    """Episodes as LeRobot reads them, every row where its table says."""
    from igrft.dataset.reader import DatasetReader
    from igrft.pipeline.screen import screen

    path = next(iter(sorted(root.rglob("meta/info.json"))), None)
    if path is None:
        return 0
    dataset = DatasetReader.open(path.parent.parent)
    assert not screen(dataset)
    return dataset.num_episodes


class Echo:
    """The state again and again: an answer tells whose question it answers."""

    chunk_size, action_dim = CHUNK, DIM
    has_critic, can_guide = True, True

    def __init__(self) -> None:
        self.input_features = {
            CAMERA: {"dtype": "image", "shape": (64, 64, 3)},
            STATE: {"dtype": "float32", "shape": (DIM,)},
        }

    def reset(self, seed: int | None) -> None: ...

    def infer(self, observation: Any, *, left_over: np.ndarray | None = None, delay: int = 0) -> Any:
        from igrft.rollouts.protocols import Chunk, Judgement

        actions = np.tile(observation[STATE], (CHUNK, 1))
        return Chunk(actions, actions, Judgement(0.5, 0.5, 0.5, 0.5), 1.0)

    def judge(self, observation: Any) -> Any:
        from igrft.rollouts.protocols import Judgement

        return Judgement(0.5, 0.5, 0.5, 0.5)

    def close(self) -> None: ...


def _serve() -> None:
    from igrft.serving.access import bind
    from igrft.serving.server import PolicyServer, serve_policy

    with bind("127.0.0.1", 0, None, insecure=False) as socket:
        serve_policy(PolicyServer(Echo()), socket, lambda address: print(address, flush=True))


def _client(address: str, requests: int, seed: int) -> None:
    """One client: of its requests one in a hundred is malformed, and one in two hundred is left before its answer."""
    from openpi_client import msgpack_numpy
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    rng = np.random.default_rng(seed)
    packer = msgpack_numpy.Packer()
    ms: list[float] = []
    counts = {"malformed": 0, "vanished": 0, "errors": 0}
    picture = rng.integers(0, 256, (64, 64, 3), np.uint8)

    def again() -> Any:
        made = connect(address, max_size=None, compression=None)
        made.recv()
        return made

    connection = again()
    for _ in range(requests):
        state = rng.standard_normal(DIM).astype(np.float32)
        message = packer.pack({STATE: state, CAMERA: picture, "task": "stack"})
        kind = rng.random()
        if kind < 0.01:
            counts["malformed"] += 1
            bad = [b"\xc1" + message, message[: len(message) // 2], b"", packer.pack({STATE: "none"}), bytes(2000)]
            with contextlib.suppress(WebSocketException, OSError):
                connection.send(bad[counts["malformed"] % len(bad)])
                connection.recv(30)
            with contextlib.suppress(WebSocketException, OSError):
                connection.close()
            connection = again()
        elif kind < 0.015:
            counts["vanished"] += 1
            connection.send(message)
            # Without a word, as a cable that is pulled.
            connection.socket.close()
            connection = again()
        else:
            began = time.perf_counter()
            try:
                connection.send(message)
                answer = msgpack_numpy.unpackb(connection.recv(60))
                counts["errors"] += not np.array_equal(answer["actions"][0], state)
            except (WebSocketException, OSError, TimeoutError, KeyError, TypeError):
                counts["errors"] += 1
                connection = again()
            ms.append(1e3 * (time.perf_counter() - began))
    print(json.dumps({"ms": ms, **counts}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["annotate", "train", "rollout", "serve"])
    parser.add_argument("--kills", type=int)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve()
        return
    if given.client:
        _client(given.client, given.requests, given.seed)
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.what == "annotate":
            found = annotate(folder, given.kills or 100, given.episodes)
        elif given.what == "train":
            found = train(folder, given.kills or 20)
        elif given.what == "rollout":
            found = rollout(folder, given.kills or 20)
        elif given.what == "serve":
            found = serve(given.requests, given.clients)
        else:
            parser.error("say what: annotate, train, rollout or serve")
    print(
        json.dumps(
            {"endurance": given.what, **found, "seconds": round(time.monotonic() - began), "load": os.getloadavg()[0]}
        )
    )


if __name__ == "__main__":
    main()
