"""A rewards-and-returns pipeline on the command line, against bare pyarrow and LeRobot.

    python benchmarks/annotate.py                 # 1,000,000 frames in 2,000 episodes
    python benchmarks/annotate.py --skip-lerobot  # without the slow part

In one run, and in turns so that a busy machine disturbs all alike:
- ours: `igrft annotate` with subtasks from a file, rewards and returns; `igrft --help`'s time taken off;
- bare: read the source and write the same columns in the same row groups with pyarrow, nothing else:
  `columns` has the finished table in memory beforehand but for what it reads from the source;
  `copy` reads the finished dataset row group by row group and writes it again;
- LeRobot: `add_features` with a callable that returns one precomputed reward a frame.
Also the peak memory of ours at one and at two times the number of episodes.
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

from synthetic import write_dataset

BARE = """
import sys, time
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
source, labelled, out, how = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
begun = time.perf_counter()
spent = 0.0
for path in sorted((labelled / "data").glob("*/*.parquet")):
    finished = pq.ParquetFile(path)
    original = pq.ParquetFile(source / path.relative_to(labelled))
    new = [n for n in finished.schema_arrow.names if n not in original.schema_arrow.names]
    target = out / path.relative_to(labelled)
    target.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(target, finished.schema_arrow, compression="snappy") as writer:
        for group in range(finished.num_row_groups):
            if how == "copy":
                table = finished.read_row_group(group)
            else:
                # The labels come from nowhere: reading them is not counted.
                begun_labels = time.perf_counter()
                labels = finished.read_row_group(group, columns=new)
                spent += time.perf_counter() - begun_labels
                table = original.read_row_group(group)
                for name in new:
                    table = table.append_column(finished.schema_arrow.field(name), labels.column(name))
                table = table.select(finished.schema_arrow.names).cast(finished.schema_arrow)
            writer.write_table(table)
print(time.perf_counter() - begun - spent)
"""

LEROBOT = """
import sys, time
import numpy as np
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.dataset_tools import add_features
dataset = LeRobotDataset("local/source", root=sys.argv[1])
rewards = np.random.default_rng(0).random(len(dataset)).astype(np.float32)
feature = {"dtype": "float32", "shape": (1,), "names": None}
begun = time.perf_counter()
add_features(
    dataset,
    {"reward": (lambda row, episode, frame: float(rewards[int(row["index"])]), feature)},
    output_dir=sys.argv[2],
    repo_id="local/out",
)
print(time.perf_counter() - begun)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-lerobot", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    source, labelled = folder / "source", folder / "labelled"
    pipeline = make(source, arguments.episodes, arguments.frames)
    seconds: dict[str, list[float]] = {"help": [], "ours": [], "bare_columns": [], "bare_copy": []}
    memory = 0.0
    for _ in range(arguments.rounds):
        shutil.rmtree(labelled, ignore_errors=True)
        seconds["help"].append(timed([*igrft(), "--help"])[0])
        spent, memory = timed([*igrft(), "annotate", str(source), str(labelled), "--pipeline", str(pipeline), "-q"])
        seconds["ours"].append(spent)
        for how in ("columns", "copy"):
            shutil.rmtree(folder / "bare", ignore_errors=True)
            command = [sys.executable, "-c", BARE, str(source), str(labelled), str(folder / "bare"), how]
            seconds[f"bare_{how}"].append(float(subprocess.check_output(command, text=True)))
    best = {name: min(values) for name, values in seconds.items()}
    ours = best["ours"] - best["help"]
    imports = timed([sys.executable, "-c", "import numpy, pyarrow.parquet, igrft.pipeline.run"])[1]
    found: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "episodes": arguments.episodes,
        "frames": arguments.frames,
        "seconds": {name: round(value, 2) for name, value in best.items()},
        "ours_over_bare_columns": round(ours / best["bare_columns"], 2),
        "ours_over_bare_copy": round(ours / best["bare_copy"], 2),
        "limit": 1.5,
        "peak_memory_mib": round(memory),
        "imports_mib": round(imports),
    }
    double = folder / "double"
    pipeline = make(double, 2 * arguments.episodes, 2 * arguments.frames)
    _, twice = timed([*igrft(), "annotate", str(double), str(labelled) + "2", "--pipeline", str(pipeline), "-q"])
    found["peak_memory_mib_twice_the_episodes"] = round(twice)
    if not arguments.skip_lerobot:
        command = [sys.executable, "-c", LEROBOT, str(source), str(folder / "lerobot")]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
        theirs = float(subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True).stdout)
        found["seconds_lerobot_add_features"] = round(theirs, 2)
        found["lerobot_over_ours"] = round(theirs / ours, 1)
        found["limit_lerobot"] = 10
    print(json.dumps(found, indent=2))


def make(source: Path, episodes: int, frames: int) -> Path:
    """A dataset and a pipeline that takes its subtasks from the file beside it."""
    write_dataset(source, episodes, frames)
    steps = [
        {"type": "subtasks", "source": "file", "path": str(source.parent / f"{source.name}.subtasks.json")},
        {"type": "rewards"},
        {"type": "returns"},
    ]
    path = source.parent / f"{source.name}.yaml"
    path.write_text(json.dumps({"steps": steps}))
    return path


def igrft() -> list[str]:
    return [sys.executable, "-m", "igrft.cli.main"]


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a command that must succeed."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    spent = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return spent, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
