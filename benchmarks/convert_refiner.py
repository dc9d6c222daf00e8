"""One MCAP recording to LeRobot by ``igrft convert`` and by the package ``macrodata-refiner``, with the same encoder.

    python benchmarks/convert_refiner.py --venv FOLDER [--seconds 80] [--runs 3] [--default-encoder]

The recording is that of ``convert.py``: three cameras of 640x480 JPEGs at 30 a second, two arms at 100. FOLDER gets
a virtual environment of its own with the newest macrodata-refiner, unless it is there already.

Both are whole processes, from the file to the finished dataset, start and imports included, in turns. Both encode
H.264 by libx264 with preset veryfast, crf 20, a key frame every 10 rows and as many threads as cores by cameras.
Both align states and commands to the head camera by interpolation and take statistics. ``--default-encoder`` lets
macrodata-refiner encode MPEG-4 part 2 as it does by default, which is another thing at a tenth of the work.

Seconds of the clock depend on what else runs; seconds of all cores together (CPU) do so less. Both are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

#: Run by the Python of the other environment: source, target, folder of the run, codec.
_REFINER = """
import sys
import refiner as mdr

source, target, folder, codec = sys.argv[1:]
cameras = ["observation.images." + name for name in ("head", "wrist_left", "wrist_right")]
numbers = ("left", "right", "left_command", "right_command")
options = {"preset": "veryfast", "crf": "20", "g": "10"} if codec == "h264" else {"g": "2"}
pipeline = (
    mdr.read_mcap(
        source,
        fields={name: "/" + name + ".position" for name in numbers},
        videos={camera: "/" + camera.rpartition(".")[2] for camera in cameras},
        sync_primary=cameras[0],
        sync_method="interpolate",
        fps=30,
    )
    .map(lambda row: row.drop("videos").update({**row["videos"], "task": "benchmark"}))
    .to_robot_rows(
        nested_frames_key="records",
        fps=30,
        task_key="task",
        state_key=("left", "right"),
        action_key="left_command",
        video_keys=cameras,
    )
    .write_lerobot(target, codec=codec, encoder_options=options)
)
pipeline.launch_local(name="benchmark", num_workers=1, rundir=folder)
"""


@dataclass(frozen=True)
class Ran:
    """A process and its children: seconds of the clock, seconds of all cores, GiB of the largest of them."""

    wall: float
    cpu: float
    memory: float


def environment(folder: Path) -> Path:
    """The Python of an environment that has macrodata-refiner; made where it is not there."""
    python = folder / "bin/python"
    if not python.exists():
        uv = shutil.which("uv") or next(
            (str(p) for p in [Path(__file__).parents[1] / ".uv/bin/uv"] if p.exists()), None
        )
        subprocess.run([uv, "venv", folder] if uv else [sys.executable, "-m", "venv", folder], check=True)
        install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
        subprocess.run([*install, "macrodata-refiner[mcap,video]"], check=True)
    return python


def run(command: list[str | Path]) -> Ran:
    """Run a command to its end, which must be a good one."""
    # The largest child so far is all that the system says, so every run has a parent of its own.
    code = (
        "import json, resource, subprocess, sys, time\n"
        "began = time.perf_counter()\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "wall = time.perf_counter() - began\n"
        "sys.stderr.write('' if done.returncode == 0 else done.stdout + done.stderr)\n"
        "print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20]))\n"
        "sys.exit(done.returncode)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], stdout=subprocess.PIPE, text=True, check=True
    )
    return Ran(*json.loads(found.stdout))


def pictures(dataset: Path) -> tuple[int, float]:
    """How many pictures the videos of a dataset hold, and how many MiB they take."""
    from igrft.recordings.video_facts import frame_times

    found = list(dataset.rglob("*.mp4"))
    return sum(len(frame_times(path)) for path in found), sum(path.stat().st_size for path in found) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=80)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--default-encoder", action="store_true")
    given = parser.parse_args()
    import convert

    python = environment(given.venv.absolute())
    codec = "mpeg4" if given.default_encoder else "h264"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = convert.write(folder, given.seconds, convert.jpegs())
        ours, theirs, state = folder / "ours", folder / "theirs", folder / "run"
        igrft = [Path(sys.executable).with_name("igrft"), "convert", path, ours, "--mapping", folder / "mapping.yaml"]
        commands = {
            "igrft": [*igrft, "--quiet", "--overwrite"],
            "macrodata-refiner": [python, "-c", _REFINER, path, theirs, state, codec],
        }
        taken: dict[str, list[Ran]] = {label: [] for label in commands}
        for _ in range(given.runs):
            for label, command in commands.items():
                for left in (theirs, state):
                    shutil.rmtree(left, ignore_errors=True)
                taken[label].append(run(command))
        expected = len(convert.CAMERAS) * given.seconds * convert.FPS
        version = subprocess.run(
            [python, "-c", "from importlib.metadata import version; print(version('macrodata-refiner'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        print(
            f"{given.seconds} s, {expected} pictures, {path.stat().st_size / 2**20:.0f} MiB; {os.cpu_count()} cores, "
            f"load {os.getloadavg()[0]:.1f}; macrodata-refiner {version} encodes {codec}"
        )
        for label, dataset in (("igrft", ours), ("macrodata-refiner", theirs)):
            count, size = pictures(dataset)
            runs = taken[label]
            print(
                f"{label}: {statistics.median(r.wall for r in runs):.1f} s "
                f"(of {', '.join(f'{r.wall:.1f}' for r in runs)}), CPU {statistics.median(r.cpu for r in runs):.1f} s, "
                f"{max(r.memory for r in runs):.2f} GiB; {count} pictures in {size:.1f} MiB"
            )
            assert count == expected, f"{label} wrote {count} pictures"
        pairs = list(zip(*taken.values(), strict=True))
        wall, cpu = (
            statistics.median(getattr(b, what) / getattr(a, what) for a, b in pairs) for what in ("wall", "cpu")
        )
        print(f"igrft is {wall:.2f} times as fast by the clock, {cpu:.2f} by CPU (median of {len(pairs)} pairs)")


if __name__ == "__main__":
    main()
