"""The interaction step with DIS on 640x480 AV1, against a bare loop of PyAV decoding, resizing and DIS.

    python benchmarks/interaction.py                # seven minutes on two cores
    python benchmarks/interaction.py --minutes 1    # a shorter long episode

In one run, in turns (best of ``--rounds``), with one process and with two, each on one core:
- bare: PyAV decodes on one thread, ``to_ndarray(format="gray")``, cv2.resize, DIS at the same size and
  preset; nothing is counted;
- step: ours without the engine around it, on the same episodes;
- annotate: `igrft annotate` as a user runs it, start-up, statistics and writing included; and once
  more with the time taken off that it takes over 4 episodes of 3 frames, all of it start-up.
bare and step are timed from when all processes are ready. Then the peak memory of `igrft annotate`
over one episode of one minute and over one of ten.

The clip is ../shared/data's g1 recording (AV1 as LeRobot writes it, a fixed camera), its packets
repeated; without that folder a synthetic one. ``--video FILE`` takes another.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

CAMERA = "observation.images.front"
RECORDING = "g1_yellow_bottle_2ep/videos/chunk-000/observation.images.cam_high/episode_000000.mp4"
SHARED = Path(__file__).resolve().parents[2] / "shared/data"


# Clips and datasets.


def synthetic_clip(path: Path, frames: int = 120, fps: int = 30) -> Path:
    """A textured square over a textured background, encoded as LeRobot encodes."""
    import av
    import cv2

    rng = np.random.default_rng(0)
    background, square = (
        cv2.resize(rng.integers(0, 256, (h, w, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
        for h, w, size in ((80, 107, (640, 480)), (20, 20, (120, 120)))
    )
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libsvtav1", rate=fps, options={"g": "2", "crf": "30", "preset": "8"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for i in range(frames):
            picture = background.copy()
            x = 40 + round(200 * (1 - np.cos(2 * np.pi * i / frames)))
            picture[180:300, x : x + 120] = square
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def repeat_clip(clip: Path, path: Path, frames: int) -> Path:
    """The packets of ``clip`` over and over until there are ``frames``: no picture is encoded again."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream: Any = source.streams.video[0]
        out = target.add_stream_from_template(stream, opaque=True)
        period = int(1 / (stream.average_rate * stream.time_base))
        packets = [p for p in source.demux(stream) if p.pts is not None]
        for index in range(frames):
            packet = packets[index % len(packets)]
            copy = av.Packet(bytes(packet))
            copy.pts = copy.dts = index * period
            copy.duration, copy.time_base, copy.stream = period, Fraction(stream.time_base), out
            copy.is_keyframe = packet.is_keyframe
            target.mux(copy)
    return path


def write_set(root: Path, clip: Path, episodes: int, frames: int, fps: int = 30) -> Path:
    """A LeRobot v3.0 dataset of ``episodes`` times ``frames`` pictures in one mp4."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from igrft.dataset.parquet import with_pandas_index, write_json

    total = episodes * frames
    repeat_clip(clip, root / f"videos/{CAMERA}/chunk-000/file-000.mp4", total)
    frame = np.tile(np.arange(frames), episodes)
    table = pa.table(
        {
            "timestamp": (frame / fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.repeat(np.arange(episodes), frames),
            "index": np.arange(total),
            "task_index": np.zeros(total, np.int64),
        }
    )
    starts = np.arange(episodes) * frames
    columns = {
        "episode_index": np.arange(episodes),
        "tasks": [["move the can"]] * episodes,
        "length": np.full(episodes, frames),
        "data/chunk_index": np.zeros(episodes, np.int64),
        "data/file_index": np.zeros(episodes, np.int64),
        "dataset_from_index": starts,
        "dataset_to_index": starts + frames,
        f"videos/{CAMERA}/chunk_index": np.zeros(episodes, np.int64),
        f"videos/{CAMERA}/file_index": np.zeros(episodes, np.int64),
        f"videos/{CAMERA}/from_timestamp": starts / fps,
        f"videos/{CAMERA}/to_timestamp": (starts + frames) / fps,
    }
    tasks = with_pandas_index(pa.table({"task_index": [0], "task": ["move the can"]}), "task")
    for name, content in (
        ("data/chunk-000/file-000.parquet", table),
        ("meta/episodes/chunk-000/file-000.parquet", pa.table(columns)),
        ("meta/tasks.parquet", tasks),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(content, root / name)
    video = {"dtype": "video", "shape": [480, 640, 3], "names": ["height", "width", "channels"]}
    video["info"] = {"video.codec": "av1", "video.fps": fps, "video.is_depth_map": False}
    plain = {n: {"dtype": str(table.column(n).type), "shape": [1], "names": None} for n in table.column_names}
    plain["timestamp"]["dtype"] = "float32"
    info = {
        "codebase_version": "v3.0",
        "fps": fps,
        "total_episodes": episodes,
        "total_frames": total,
        "total_tasks": 1,
        "chunks_size": 1000,
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {CAMERA: video, **plain},
    }
    write_json(root / "meta/info.json", info)
    write_json(root / "meta/stats.json", {})
    return root


# What is compared. Each sets up in its process and gives a function of the episode's row.


def bare(root: Path, size: tuple[int, int], preset: int) -> Callable[[int], None]:
    """The least that anyone computing flow has to do."""
    import av
    import cv2

    from igrft.dataset.reader import DatasetReader

    cv2.setNumThreads(1)
    dataset = DatasetReader.open(root)

    def run(row: int) -> None:
        window, left = dataset.video(row, CAMERA), int(dataset.lengths[row])
        flow = cv2.DISOpticalFlow.create(preset)
        previous = None
        with av.open(str(window.path)) as container:
            stream: Any = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            container.seek(int(window.start / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time < window.start - 1e-3:
                    continue
                gray = cv2.resize(frame.to_ndarray(format="gray"), size, interpolation=cv2.INTER_AREA)
                if previous is not None:
                    flow.calc(previous, gray, None)
                previous = gray
                left -= 1
                if left == 0:
                    return

    return run


def step(root: Path, size: tuple[int, int], preset: int) -> Callable[[int], None]:
    """Ours, both halves of the step, without the engine."""
    from igrft.dataset.reader import DatasetReader
    from igrft.steps.base import Episode
    from igrft.steps.interaction import Interaction

    dataset = DatasetReader.open(root)
    label = Interaction(camera=CAMERA).open(dataset, None)
    return lambda row: (label(Episode(dataset, row)), None)[1]


def _work(
    make: Callable[..., Callable[[int], None]], root: Path, rows: list[int], size: Any, preset: int, gate: Any
) -> None:
    run = make(root, size, preset)
    gate.wait()
    for row in rows:
        run(row)
    gate.wait()


def timed(make: Callable[..., Callable[[int], None]], root: Path, rows: list[int], processes: int, args: Any) -> float:
    """Seconds from when all processes are ready until all are done."""
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(processes + 1)
    workers = [
        context.Process(target=_work, args=(make, root, rows[i::processes], *args, gate)) for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    gate.wait()
    begun = time.perf_counter()
    gate.wait()
    spent = time.perf_counter() - begun
    for worker in workers:
        worker.join()
    return spent


def annotate(root: Path, folder: Path, workers: int) -> tuple[float, float]:
    """`igrft annotate` with the interaction step alone: (seconds, peak MiB of the command's own process)."""
    pipeline = folder / "interaction.yaml"
    pipeline.write_text(f"steps:\n  - {{type: interaction, camera: {CAMERA}}}\n", encoding="utf-8")
    target = folder / "target"
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "igrft.cli.main", "annotate", str(root), str(target)]
    command += ["--pipeline", str(pipeline), "--workers", str(workers)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"igrft annotate failed: {said.strip()}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="length of the long episode; 0 leaves memory out")
    parser.add_argument("--episodes", type=int, default=30, help="episodes of 300 frames for the rates")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--video", type=Path, help="a 640x480 AV1 clip of one camera at 30 frames/s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="igrft-interaction-") as name:
        folder = Path(name)
        clip = options.video or (
            SHARED / RECORDING if (SHARED / RECORDING).is_file() else synthetic_clip(folder / "a.mp4")
        )
        result: dict[str, Any] = {"clip": str(clip), "cores": os.cpu_count(), "machine": platform.machine()}
        result |= rates(folder, clip, options.episodes, options.rounds)
        if options.minutes:
            result |= memory(folder, clip, options.minutes)
        print(json.dumps(result))


def rates(folder: Path, clip: Path, episodes: int, rounds: int) -> dict[str, Any]:
    """Frames a second of the three, with one process and two."""
    root = write_set(folder / "rates", clip, episodes, 300)
    tiny = write_set(folder / "tiny", clip, 4, 3)
    rows, frames = list(range(episodes)), episodes * 300
    best: dict[tuple[str, int], float] = {}
    for _ in range(rounds):
        for processes in (1, 2):
            for kind, make in (("bare", bare), ("step", step)):
                spent = timed(make, root, rows, processes, ((320, 240), 1))
                best[kind, processes] = min(best.get((kind, processes), 1e9), spent)
            for kind, of in (("annotate", root), ("start-up", tiny)):
                spent, _peak = annotate(of, folder, processes)
                best[kind, processes] = min(best.get((kind, processes), 1e9), spent)
    start_up = {n: best.pop(("start-up", n)) for n in (1, 2)}
    for n in (1, 2):
        best["labelling", n] = best["annotate", n] - start_up[n]
    rate = {key: frames / spent for key, spent in best.items()}
    print(f"{frames} frames of 640x480 AV1, DIS fast at 320x240; frames/s\n")
    print(f"{'':10}{'1 process':>12}{'2 processes':>14}{'two/one':>10}{'1: of bare':>13}{'2: of bare':>13}")
    for kind in ("bare", "step", "annotate", "labelling"):
        one, two = rate[kind, 1], rate[kind, 2]
        of_bare = [rate[kind, n] / rate["bare", n] for n in (1, 2)]
        print(f"{kind:10}{one:12.0f}{two:14.0f}{two / one:10.2f}{of_bare[0]:13.2f}{of_bare[1]:13.2f}")
    print(f"labelling is annotate without its start-up, {start_up[1]:.1f} s and {start_up[2]:.1f} s\n")
    found: dict[str, Any] = {f"{kind}_{n}_fps": round(r, 1) for (kind, n), r in rate.items()}
    for kind in ("step", "annotate", "labelling"):
        found |= {f"{kind}_{n}_of_bare": round(rate[kind, n] / rate["bare", n], 3) for n in (1, 2)}
    found |= {
        f"{kind}_two_over_one": round(rate[kind, 2] / rate[kind, 1], 3)
        for kind in ("bare", "step", "annotate", "labelling")
    }
    return found


def memory(folder: Path, clip: Path, minutes: float) -> dict[str, Any]:
    """Peak memory of `igrft annotate` over a short episode and a long one."""
    found = {}
    for name, length in (("short", min(1.0, minutes / 10)), ("long", minutes)):
        root = write_set(folder / name, clip, 1, round(length * 60 * 30))
        spent, peak = annotate(root, folder, 1)
        print(f"one episode of {length:g} min: peak {peak:.0f} MiB, {spent:.0f} s")
        found[f"{name}_peak_mib"] = round(peak, 1)
    return found


if __name__ == "__main__":
    main()
