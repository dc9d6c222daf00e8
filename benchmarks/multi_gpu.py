"""What more devices bring: samples a second, memory of each process, and efficiency against one.

    python benchmarks/multi_gpu.py                         # two CPU processes and a tiny π0.5: does it run?
    python benchmarks/multi_gpu.py --full                  # π0.5 at full size with random weights, on 1, 2, 4 … GPUs
    python benchmarks/multi_gpu.py --full --kinds fsdp --processes 2 4 8 --batch 16
    python benchmarks/multi_gpu.py --full --strong 64      # the same batch whatever the number, as a recipe has it

Every number of processes is a run of its own, started by ``accelerate launch`` with the configurations that come with
the recipes, on a set of three 224×224 cameras (AV1, random access), IG-AWR with the critic. ``--batch`` samples a
process (weak scaling), unless ``--strong`` says how many in all. The first steps are left out. Efficiency is samples a
second against those of the smallest number of processes of the same kind, per process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
#: Steps that are left out: the first passes compile, allocate and fill the loader.
WARM = 5


def settings(root: Path, run: Path, full: bool, batch: int, steps: int, precision: str | None) -> dict[str, Any]:
    """A recipe: IG-AWR with V judged in the loop."""
    policy: dict[str, Any] = {"type": "pi05" if full else "pi05_tiny", "chunk_size": 30, "n_action_steps": 30}
    policy |= {"dtype": "bfloat16", "device": "cuda", "gradient_checkpointing": True} if full else {"device": "cpu"}
    return {
        "policy": policy,
        "datasets": [{"root": str(root)}],
        "output_dir": str(run),
        "steps": steps,
        "batch_size": batch,
        "precision": precision,
        "log_every": 1,
        "save_every": 10**6,
        "cpu_threads": None if full else 1,
        "objective": {"type": "ig_awr", "text_weight": 0.0, "insulate": True},
        "critic": {"start": 0, "holdout": 0.0, "evaluate_every": 0},
        "text": {"tokenizer": "bytes"},
    }


def work(recipe: Path, out: Path) -> None:
    """One process of a run: train, and say what memory it took."""
    import os

    import torch

    from igrft.training.loop import memory_gb
    from igrft.training.recipe_file import recipe_from
    from igrft.training.run import train

    value = json.loads(recipe.read_text(encoding="utf-8"))
    train(recipe_from(value))
    cuda = value["policy"]["device"] == "cuda"
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    rank = os.environ.get("RANK", "0")
    (out / f"memory_{rank}").write_text(str(memory_gb(device)), encoding="utf-8")


def measured(kind: str, processes: int, value: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A run of so many processes: samples a second, share that waits for data, GB of each process."""
    out = folder / f"{kind}_{processes}"
    out.mkdir()
    recipe = out / "recipe.json"
    recipe.write_text(json.dumps(value | {"output_dir": str(out / "run")}), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(REPOSITORY / f"recipes/accelerate/{kind}.yaml"), "--main_process_port", "0"]
    command += ["--num_processes", str(processes)]
    if processes == 1:
        # One process is no distributed run; accelerate's launcher asks for two.
        command = [sys.executable]
    done = subprocess.run([*command, __file__, "work", str(recipe), str(out)], capture_output=True, text=True)
    if done.returncode != 0:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else str(done.returncode)}
    lines = [json.loads(x) for x in (out / "run/metrics.jsonl").read_text().splitlines()][WARM:]
    seconds = float(np.median([x["seconds"] for x in lines]))
    return {
        "samples_per_second": value["batch_size"] / seconds,
        "waits": float(np.median([x["seconds_data"] for x in lines])) / seconds,
        "memory": [float((out / f"memory_{rank}").read_text()) for rank in range(processes)],
        "loss": lines[-1]["loss"],
    }


def labelled_set(root: Path, frames: int) -> None:
    """Three cameras, rewards and an interaction column."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from loading import with_statistics
    from values import write_set

    from igrft import columns as c

    dataset = write_set(root, max(4, frames // 300), frames, (224, 224))
    info = json.loads((root / "meta/info.json").read_text())
    for path in root.glob("data/*/*.parquet"):
        rows = pq.read_table(path)
        # Not the same everywhere: a return that does not vary teaches nothing.
        rows = rows.append_column(c.INTERACTION, pa.array(np.arange(len(rows)) % 7 < 3))
        rows = rows.append_column(c.SUCCESS, pa.array(np.arange(len(rows)) % 2 == 0))
        pq.write_table(rows, path)
    for name in (c.INTERACTION, c.SUCCESS):
        info["features"][name] = {"dtype": "bool", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    with_statistics(root, int(np.prod(dataset.features[c.STATE]["shape"])))


def counts_of(arguments: argparse.Namespace) -> list[int]:
    if arguments.processes:
        return list(arguments.processes)
    if not arguments.full:
        return [1, 2]
    import torch

    most = torch.cuda.device_count()
    return [n for n in (1, 2, 4, 8, 16) if n <= most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="full size, on GPUs")
    parser.add_argument("--processes", type=int, nargs="+", help="numbers of processes")
    parser.add_argument("--kinds", nargs="+", default=["ddp", "fsdp"], choices=["ddp", "fsdp"])
    parser.add_argument("--batch", type=int, default=None, help="samples of a process")
    parser.add_argument("--strong", type=int, default=None, help="samples of all processes together")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--frames", type=int, default=3000)
    arguments = parser.parse_args()
    batch = arguments.batch or (8 if arguments.full else 4)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "set"
        labelled_set(root, arguments.frames)
        for kind in arguments.kinds:
            first: tuple[int, float] | None = None
            for processes in counts_of(arguments):
                whole = arguments.strong or batch * processes
                value = settings(root, Path(name), arguments.full, whole, arguments.steps, None)
                found = measured(kind, processes, value, Path(name))
                told = f"{kind:4s} {processes:2d} processes, batch {whole:4d}"
                if "error" in found:
                    print(f"{told}: {found['error']}", flush=True)
                    continue
                rate = found["samples_per_second"]
                first = first or (processes, rate)
                share = rate / processes / (first[1] / first[0])
                memory = " ".join(f"{gb:.2f}" for gb in found["memory"])
                rest = f"waits {found['waits']:5.1%}, GB {memory}, loss {found['loss']:.4f}"
                print(f"{told}: {rate:8.2f} samples/s, {share:6.1%} of {first[0]} a process, {rest}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "work":
        work(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
