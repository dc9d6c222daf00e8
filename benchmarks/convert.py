"""MCAP with three 640x480 JPEG cameras to LeRobot, against bare decoding and encoding of the same pictures.

    python benchmarks/convert.py [--seconds 30] [--runs 3] [--memory]

Bare: the JPEGs already in memory, a thread a camera that decodes each and feeds the encoder that ``convert`` uses,
nothing else; once to RGB by OpenCV, as is usual, and once as ``convert`` decodes. Convert: the whole of it, from the
file to a dataset in its place, LeRobot already imported. All in one process, in turns. Seconds of all cores together
(CPU) say more than those of the clock where something else runs.
``--memory`` converts a recording and one four times as long, each in a process of its own, and gives their peaks.
The pictures are those of the real recording that comes with the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

CAMERAS = ("head", "wrist_left", "wrist_right")
FPS = 30


def jpegs() -> list[np.ndarray]:
    """Real pictures, 640x480, as JPEGs of quality 90."""
    import av
    import cv2

    path = sorted((ROOT / "tests/data/g1_small").rglob("*.mp4"))[0]
    with av.open(str(path)) as container:
        shots = [frame.to_ndarray(format="bgr24") for frame in container.decode(container.streams.video[0])]
    return [
        cv2.imencode(".jpg", cv2.resize(shot, (640, 480)), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].ravel() for shot in shots
    ]


def write(folder: Path, seconds: int, shots: list[np.ndarray]) -> Path:
    """A recording of ``seconds``: cameras at 30 a second, two arms' states and commands at 100."""
    import stream_sets as s

    sent = []
    for i in range(seconds * FPS):
        for number, camera in enumerate(CAMERAS):
            fields = {"format": "jpeg", "data": shots[(i + 40 * number) % len(shots)]}
            made = i / FPS + 0.002 * number
            sent.append(s.Sent(f"/{camera}", "sensor_msgs/msg/CompressedImage", made + 0.01, made, fields))
    for i in range(seconds * 100 + 10):
        for topic in ("/left", "/right", "/left_command", "/right_command"):
            sent.append(s.joints(topic, i / 100, np.sin(i / 50 + np.arange(7)), [f"{topic}{j}" for j in range(7)]))
    (folder / "mapping.yaml").write_text(
        "task: benchmark\nfeatures:\n"
        + "".join(f"  observation.images.{camera}: /{camera}\n" for camera in CAMERAS)
        + "  observation.state: [{stream: /left}, {stream: /right}]\n"
        + "  action: [{stream: /left_command}, {stream: /right_command}]\n"
    )
    return s.write_mcap(folder / "recording.mcap", sent, chunk=1 << 22)


Seconds = tuple[float, float]


def timed(work: Callable[[], object]) -> Seconds:
    """Seconds of the clock, and of all cores together."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - used


def bare(folder: Path, seconds: int, shots: list[np.ndarray], *, by_opencv: bool) -> None:
    """Decode and encode, and nothing else."""
    import av
    import cv2

    from igrft.recordings.streams.encode import encoder
    from igrft.recordings.streams.jpeg import JpegDecoder

    settings = encoder()
    options = settings.options(max(1, (os.cpu_count() or 1) // len(CAMERAS)))

    def one(number: int) -> None:
        decode = JpegDecoder()
        with av.open(str(folder / f"bare_{number}.mp4"), "w") as container:
            stream = container.add_stream(settings.vcodec, FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
            for i in range(seconds * FPS):
                shot = shots[(i + 40 * number) % len(shots)]
                if by_opencv:
                    picture = cv2.cvtColor(cv2.imdecode(shot, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                else:
                    frame = decode(shot).frame
                frame.pts, frame.time_base = i, Fraction(1, FPS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())

    with ThreadPoolExecutor(len(CAMERAS)) as pool:
        list(pool.map(one, range(len(CAMERAS))))


def converted(path: Path, target: Path) -> None:
    """Convert the whole recording."""
    from igrft.recordings.convert import convert

    convert(path, target, mapping=path.parent / "mapping.yaml", progress=False, overwrite=True)


def peak(path: Path, target: Path) -> float:
    """Peak memory of a conversion in a process of its own, GiB."""
    command = [sys.executable, __file__, "--one", str(path), str(target)]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        converted(*given.one)
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
        return
    shots = jpegs()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write(folder, given.seconds, shots)
        frames = len(CAMERAS) * given.seconds * FPS
        converted(path, folder / "out")  # imports, caches
        works: dict[str, Callable[[], object]] = {
            "bare, RGB by OpenCV": lambda: bare(folder, given.seconds, shots, by_opencv=True),
            "bare, as convert decodes": lambda: bare(folder, given.seconds, shots, by_opencv=False),
            "convert": lambda: converted(path, folder / "out"),
        }
        runs = [{label: timed(work) for label, work in works.items()} for _ in range(given.runs)]
        print(
            f"{frames} pictures, {path.stat().st_size / 2**20:.0f} MiB, {os.cpu_count()} cores, "
            f"load {os.getloadavg()[0]:.1f}"
        )
        for label in works:
            wall, cpu = (statistics.median(run[label][i] for run in runs) for i in (0, 1))
            speed = [statistics.median(run[label][i] / run["convert"][i] for run in runs) for i in (0, 1)]
            of = ", ".join(f"{run[label][0]:.2f}" for run in runs)
            print(
                f"{label}: {wall:.2f} s, {frames / wall:.0f} pictures/s (of {of}), CPU {cpu:.2f} s; "
                f"convert runs at {speed[0]:.2f} of its speed, {speed[1]:.2f} by CPU"
            )
        print(f"medians of {given.runs} turns; the aim is 0.8")
        if given.memory:
            for times in (1, 4):
                path = write(folder, given.seconds * times, shots)
                print(f"peak memory over {given.seconds * times} s: {peak(path, folder / 'out'):.2f} GiB")


if __name__ == "__main__":
    main()
