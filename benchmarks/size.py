"""Does time per frame stay the same, and memory within bounds, from 1,000 to 100,000 short episodes without video?

    python benchmarks/size.py                                  # 1,000 / 3,000 / 10,000 / 30,000 / 100,000 episodes
    python benchmarks/size.py --episodes 1000 10000 --rounds 3
    python benchmarks/size.py --lerobot --episodes 10000 100000 # LeRobot's own ways to the same sets, too
    python benchmarks/size.py --train                           # and what `igrft train --dry-run` takes

Sets are those of size_set.py, made where they are missing in ``--folder`` (4 GB with labels; LeRobot's cache takes
another 10 at 100,000). Each verb is a process of its own: `igrft annotate` with subtasks from a file, rewards and
returns, then `validate` and `inspect` of what it made. Start-up is the same command over two episodes. Limits: at most
1.2 times the time a frame at 1,000 episodes, at most 2 GiB. On a machine that is not idle seconds by the clock mean
little, and those of the CPU grow with the load: before and after every size the first one is run again.
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
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from time import perf_counter

HERE = Path(__file__).parent
VERBS = ("annotate", "validate", "inspect")
LIMIT_RATIO, LIMIT_MIB = 1.2, 2048
#: Episodes of the set by which start-up is known.
_FEW = 2


@dataclass
class Run:
    """A process: seconds by the clock and of all its threads, peak of what it held in memory."""

    wall: float
    cpu: float
    mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000, 100_000])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "igrft_size")
    parser.add_argument("--rounds", type=int, default=3, help="of a probe: start-up and the first size")
    parser.add_argument("--verbs", nargs="*", default=list(VERBS), choices=VERBS)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--lerobot", action="store_true")
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/DATE-size.md")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"Machine: {platform.machine()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} at the beginning",
        "",
    ]
    lines += table_of_verbs(arguments) if arguments.verbs else []
    if arguments.train:
        lines += ["", *table_of_training(arguments)]
    if arguments.lerobot:
        lines += ["", *table_of_lerobot(arguments)]
    lines += ["", f"Load at the end: {os.getloadavg()[0]:.1f}"]
    print("\n".join(lines))
    if arguments.save:
        path = HERE / "results" / f"{date.today()}-size.md"
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"## `python benchmarks/size.py {' '.join(sys.argv[1:])}`\n\n" + "\n".join(lines) + "\n\n")


# The sets.


def source_of(folder: Path, episodes: int) -> Path:
    """The set, made in a process of its own: what a child holds at its peak is counted from its parent's size."""
    root = folder / str(episodes)
    if not (root / "meta/info.json").is_file():
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run([sys.executable, str(HERE / "size_set.py"), str(root), str(episodes)], check=True)
    return root


def labelled_of(folder: Path, episodes: int) -> Path:
    out = folder / f"{episodes}.labelled"
    if not out.is_dir():
        measure(command("annotate", folder, episodes))
    return out


def frames_of(root: Path) -> int:
    return int(json.loads((root / "meta/info.json").read_text())["total_frames"])


# Our verbs.


def command(verb: str, folder: Path, episodes: int) -> list[str]:
    """The command line of a verb over a set."""
    source, labelled = source_of(folder, episodes), folder / f"{episodes}.labelled"
    ours = [sys.executable, "-m", "igrft.cli.main", verb]
    if verb == "inspect":
        return [*ours, str(labelled)]
    if verb == "validate":
        return [*ours, str(labelled), "--quiet"]
    pipeline = folder / f"{episodes}.yaml"
    file = {"type": "subtasks", "source": "file", "path": str(folder / f"{episodes}.subtasks.json")}
    pipeline.write_text(json.dumps({"steps": [file, {"type": "rewards"}, {"type": "returns"}]}))
    shutil.rmtree(labelled, ignore_errors=True)
    return [*ours, str(source), str(labelled), "--pipeline", str(pipeline), "--quiet"]


@dataclass
class Probe:
    """The first size and a set of two episodes, at one moment of a machine that others use, too."""

    start: Run
    first: Run

    @classmethod
    def take(cls, verb: str, arguments: argparse.Namespace) -> Probe:
        """The means of several runs in turns."""
        sizes = (_FEW, arguments.episodes[0])
        runs = [[measure(command(verb, arguments.folder, n)) for n in sizes] for _ in range(arguments.rounds)]
        return cls(*(mean(list(of_one)) for of_one in zip(*runs, strict=True)))


def mean(runs: list[Run]) -> Run:
    """Mean seconds; the most memory."""
    return Run(sum(r.wall for r in runs) / len(runs), sum(r.cpu for r in runs) / len(runs), max(r.mib for r in runs))


def table_of_verbs(arguments: argparse.Namespace) -> list[str]:
    """Every size between two probes, so that its time a frame is compared under the load that it ran under."""
    lines = [
        "| verb | episodes | frames | s | less start-up | CPU s | less start-up | µs a frame | to the first, CPU | "
        "by the clock | peak MiB |",
        "|" + "---|" * 11,
    ]
    for verb in VERBS:
        if verb not in arguments.verbs:
            continue
        for episodes in [_FEW, *arguments.episodes] if verb != "annotate" else ():
            labelled_of(arguments.folder, episodes)
        before = Probe.take(verb, arguments)
        lines.append(_row(verb, arguments, arguments.episodes[0], before.first, [before]))
        for episodes in arguments.episodes[1:]:
            run = measure(command(verb, arguments.folder, episodes))
            after = Probe.take(verb, arguments)
            lines.append(_row(verb, arguments, episodes, run, [before, after]))
            before = after
    return [*lines, "", f"Limits: {LIMIT_RATIO} to the first, {LIMIT_MIB} MiB. Rounds of a probe: {arguments.rounds}."]


def _row(verb: str, arguments: argparse.Namespace, episodes: int, run: Run, probes: list[Probe]) -> str:
    start, first = mean([p.start for p in probes]), mean([p.first for p in probes])
    frames, few = (frames_of(arguments.folder / str(n)) for n in (episodes, arguments.episodes[0]))
    wall, cpu = run.wall - start.wall, run.cpu - start.cpu
    of_first = first.cpu - start.cpu, first.wall - start.wall
    ratios = [part / frames / (one / few) for part, one in zip((cpu, wall), of_first, strict=True)]
    row = (
        f"| {verb} | {episodes:,} | {frames:,} | {run.wall:.1f} | {wall:.1f} | {run.cpu:.1f} | {cpu:.1f} | "
        f"{1e6 * cpu / frames:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {run.mib:.0f} |"
    )
    print(row, file=sys.stderr, flush=True)
    return row


def measure(arguments: list[str], **environment: str) -> Run:
    """Run a process that must succeed."""
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    begun = perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env={**os.environ, **quiet})
    _, status, usage = os.wait4(process.pid, 0)
    wall = perf_counter() - begun
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


# The trainer.


def table_of_training(arguments: argparse.Namespace) -> list[str]:
    """Opening a labelled set for training: labels, states and actions of every frame, checked and recombined."""
    lines = ["| `igrft train tiny/sft --dry-run` over | s | CPU s | peak MiB |", "|---|---|---|---|"]
    for episodes in [_FEW * 50, *arguments.episodes]:
        labelled = labelled_of(arguments.folder, episodes)
        recipe = str(HERE.parent / "recipes/tiny/sft.yaml")
        options = [f"--datasets.0.root={labelled}", "--critic.enabled=false", f"--output_dir={arguments.folder}/run"]
        run = measure([sys.executable, "-m", "igrft.cli.main", "train", recipe, "--dry-run", *options])
        print(f"train {episodes}: {run}", file=sys.stderr, flush=True)
        lines.append(f"| {episodes:,} episodes | {run.wall:.1f} | {run.cpu:.1f} | {run.mib:.0f} |")
    return lines


# LeRobot.

_IMPORTS, _FIRST = "imports", "LeRobotDataset, first time"
_WAYS = {
    _IMPORTS: "",
    "LeRobotDatasetMetadata, first time": "meta()",
    "LeRobotDatasetMetadata, from its cache": "meta()",
    _FIRST: "open_()",
    "LeRobotDataset, from its cache": "open_()",
    "the same and 1,000 frames at random": "frames()",
    "aggregate_stats of all episodes": "aggregate()",
}
_LEROBOT = """
import logging, sys, warnings
logging.disable(logging.CRITICAL)
import numpy as np
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
root = sys.argv[1]
def meta():
    return LeRobotDatasetMetadata("local/set", root=root)
def open_():
    return LeRobotDataset("local/set", root=root)
def frames():
    dataset = open_()
    for i in np.random.default_rng(0).integers(0, len(dataset), 1000).tolist():
        dataset[i]
def aggregate():
    # As LeRobot's own tools over a dataset do it: a dictionary of every episode's statistics.
    from pathlib import Path
    import pyarrow.parquet as pq
    parts = []
    for path in sorted(Path(root, "meta/episodes").glob("*/*.parquet")):
        with pq.ParquetFile(path) as parquet:
            names = [n for n in parquet.schema_arrow.names if n.startswith("stats/")]
            for batch in parquet.iter_batches(columns=names):
                for row in batch.to_pylist():
                    found = {}
                    for name, value in row.items():
                        _, feature, statistic = name.split("/")
                        found.setdefault(feature, {})[statistic] = np.array(value)
                    parts.append(found)
    aggregate_stats(parts)
"""


def table_of_lerobot(arguments: argparse.Namespace) -> list[str]:
    """LeRobot's own ways to the same sets, as they were recorded and as we labelled them."""
    lines = ["| LeRobot | episodes | set | s | less imports | CPU s | less imports | peak MiB |", "|" + "---|" * 8]
    for episodes in arguments.episodes:
        for kind, make in (("recorded", source_of), ("labelled", labelled_of)):
            for way, run, imports in lerobot_runs(arguments.folder, make(arguments.folder, episodes)):
                print(f"{way} {kind} {episodes}: {run}", file=sys.stderr, flush=True)
                spent = f"{run.wall:.1f} | {run.wall - imports.wall:.1f} | {run.cpu:.1f} | {run.cpu - imports.cpu:.1f}"
                lines.append(f"| {way} | {episodes:,} | {kind} | {spent} | {run.mib:.0f} |")
    return lines


def lerobot_runs(folder: Path, root: Path) -> Iterator[tuple[str, Run, Run]]:
    """(what, its run, the run of the imports alone), each in a process of its own and with a cache of its own."""
    cache = folder / "datasets_cache"
    imports: Run | None = None
    for way, call in _WAYS.items():
        if way in (_IMPORTS, _FIRST):
            shutil.rmtree(cache, ignore_errors=True)
        run = measure([sys.executable, "-c", f"{_LEROBOT}\n{call}", str(root)], HF_DATASETS_CACHE=str(cache))
        imports = imports or run
        yield way, run, imports
    shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    main()
