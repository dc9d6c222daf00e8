"""MCAP with three 640x480 JPEG cameras to LeRobot, against bare decoding and encoding of the same pictures.

    python benchmarks/convert.py [--seconds 30] [--runs 3] [--memory]

Bare: the JPEGs already in memory, a thread a camera that decodes each (cv2) and feeds the encoder that ``convert``
uses, nothing else. Convert: the whole of it, from the file to a dataset in its place. Both in one process, in turns.
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


def bare(folder: Path, seconds: int, shots: list[np.ndarray]) -> float:
    """Seconds that decoding and encoding take by themselves."""
    import av
    import cv2

    from igrft.recordings.streams.encode import encoder

    settings = encoder()
    options = settings.get_codec_options(max(1, (os.cpu_count() or 1) // len(CAMERAS)), as_strings=True)

    def one(number: int) -> None:
        with av.open(str(folder / f"bare_{number}.mp4"), "w") as container:
            stream = container.add_stream(settings.vcodec, FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = 640, 480, settings.pix_fmt
            for i in range(seconds * FPS):
                picture = cv2.imdecode(shots[(i + 40 * number) % len(shots)], cv2.IMREAD_COLOR)
                frame = av.VideoFrame.from_ndarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, FPS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())

    began = time.perf_counter()
    with ThreadPoolExecutor(len(CAMERAS)) as pool:
        list(pool.map(one, range(len(CAMERAS))))
    return time.perf_counter() - began


def converted(path: Path, target: Path) -> float:
    """Seconds that ``convert`` takes."""
    from igrft.recordings.convert import convert

    began = time.perf_counter()
    convert(path, target, mapping=path.parent / "mapping.yaml", progress=False, overwrite=True)
    return time.perf_counter() - began


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
        pairs = [(bare(folder, given.seconds, shots), converted(path, folder / "out")) for _ in range(given.runs)]
        ratio = statistics.median(one / other for one, other in pairs)
        print(f"{frames} pictures, {path.stat().st_size / 2**20:.0f} MiB, {os.cpu_count()} cores")
        for label, times in (("bare decode and encode", [p[0] for p in pairs]), ("convert", [p[1] for p in pairs])):
            best = statistics.median(times)
            print(f"{label}: {best:.2f} s, {frames / best:.0f} pictures/s (of {', '.join(f'{t:.2f}' for t in times)})")
        print(f"convert runs at {ratio:.2f} of the bare speed (median of {given.runs} pairs; the aim is 0.8)")
        if given.memory:
            for times in (1, 4):
                path = write(folder, given.seconds * times, shots)
                print(f"peak memory over {given.seconds * times} s: {peak(path, folder / 'out'):.2f} GiB")


if __name__ == "__main__":
    main()
