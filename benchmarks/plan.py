"""`igrft plan`, and the run that it foretold: seconds said against seconds taken.

    python benchmarks/plan.py                                   # the sets below
    python benchmarks/plan.py --real RECORDING ... --copies 20  # and real recordings, each as a set of many copies

Every set is planned and then labelled with the command line, each in a process of its own, with the machine otherwise
idle (the load is printed). Sets: tables alone (3,000 short episodes: phases from the state, rewards, returns), the
default pipeline with optical flow on a simulated task, and the real recordings. `--jobs` does it for jobs of this
machine (executor `local` with `tasks`), too, which are processes of their own, two a core in turns. A set smaller than
half a minute is not worth a plan; what a run takes before it begins (imports) is not foretold and counts as error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from size_set import write_set

IGRFT = [sys.executable, "-m", "igrft.cli.main"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl"}
LIMIT = 0.2


def igrft(*arguments: object) -> tuple[str, float]:
    """What a command prints, and its seconds."""
    began = time.perf_counter()
    done = subprocess.run([*IGRFT, *map(str, arguments)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"igrft {' '.join(map(str, arguments))} failed")
    return done.stdout, time.perf_counter() - began


def compare(name: str, source: Path, pipeline: str, measured: int, *, jobs: int = 0) -> str:
    """Plan, run, compare: a row of the table. ``jobs``: of the executor ``local``; 0 is a plain call."""
    out = source.with_name(f"{source.name}.labelled")
    shutil.rmtree(out, ignore_errors=True)
    nodes = ["--nodes", 1, "--cores", jobs] if jobs else []
    options = [f"--executor.tasks={2 * jobs}", f"--executor.workers={jobs}"] if jobs else []
    text, planning = igrft("plan", source, "--pipeline", pipeline, "--episodes", measured, *nodes, *options, "--json")
    found = json.loads(text)
    _, taken = igrft("annotate", source, out, "--pipeline", pipeline, "--quiet", *options)
    shutil.rmtree(out)
    said = 3600 * found["hours"]
    row = (
        f"| {name} | {found['episodes']:,} | {found['frames']:,} | {found['measured_episodes']} | {planning:.0f} | "
        f"{said:.0f} | {taken:.0f} | {100 * (said / taken - 1):+.0f} % | {found['bottleneck']} | "
        f"{os.getloadavg()[0]:.1f} |"
    )
    print(row, file=sys.stderr, flush=True)
    return row


# The sets.


def tables(folder: Path, episodes: int) -> Path:
    root = folder / "tables"
    if not root.is_dir():
        write_set(root, episodes)
    return root


def simulated(folder: Path, episodes: int) -> Path:
    root = folder / "simulated"
    if not root.is_dir():
        igrft("convert", "metaworld:assembly-v3", root, "--episodes", episodes, "--quiet")
    return root


def copies(folder: Path, recording: Path, count: int) -> Path:
    """A real recording again and again, put together by LeRobot."""
    from lerobot.datasets.aggregate import aggregate_datasets

    root = folder / f"{recording.name}.copies"
    if not root.is_dir():
        one = folder / recording.name
        igrft("convert", recording, one, "--quiet", "--overwrite")
        names = [f"local/{recording.name}"] * count
        aggregate_datasets(names, "local/copies", roots=[one] * count, aggr_root=root)
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "igrft_plan")
    parser.add_argument("--real", type=Path, nargs="*", default=[])
    parser.add_argument("--copies", type=int, default=20, help="of a real recording")
    parser.add_argument("--episodes", type=int, default=60, help="of the simulated task")
    parser.add_argument("--rows", type=int, default=3000, help="episodes of the set without video")
    parser.add_argument("--measured", type=int, default=8)
    parser.add_argument("--jobs", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    by_state = given.folder / "by_state.yaml"
    by_state.write_text("steps: [{type: subtasks, source: proprio}, {type: rewards}, {type: returns}]\n")
    print(f"Machine: {platform.machine()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} at the beginning\n")
    lines = [
        "| set | episodes | frames | measured | planning, s | said, s | taken, s | error | bottleneck | load |",
        "|" + "---|" * 10,
    ]
    sets = [
        ("tables alone, `proprio`, rewards, returns", tables(given.folder, given.rows), str(by_state)),
        ("simulated, default pipeline", simulated(given.folder, given.episodes), "offline"),
        *((f"{r.name} × {given.copies}", copies(given.folder, r, given.copies), "offline") for r in given.real),
    ]
    for name, source, pipeline in sets:
        lines.append(compare(name, source, pipeline, given.measured))
        if given.jobs:
            lines.append(compare(f"{name}, as jobs", source, pipeline, given.measured, jobs=os.cpu_count() or 1))
    print("\n".join(lines))
    print(f"\nAim: within {100 * LIMIT:.0f} %.")


if __name__ == "__main__":
    main()
