"""Does a training step wait for data?

    python benchmarks/loading.py            # what the loader delivers on this machine, by workers
    python benchmarks/loading.py --full     # the share of a full-size π0.5's step that waits, on a GPU

Three 224×224 cameras, AV1 as LeRobot encodes, random access, chunk 30. Without a GPU a step of the real size cannot be
timed, so only the loader is: samples a second, and the longest step that a batch of 64 would have to wait for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from values import write_set

from igrft import columns as c
from igrft.training.data import TrainingData
from igrft.training.recipe_file import recipe_from
from igrft.training.run import train


def with_statistics(root: Path, width: int) -> None:
    """Quantiles, by which π0.5 normalises."""
    path = root / "meta/stats.json"
    stats = json.loads(path.read_text()) if path.is_file() else {}
    for name in (c.STATE, c.ACTION):
        spread = {"min": -3.0, "max": 3.0, "mean": 0.0, "std": 1.0, "q01": -2.3, "q10": -1.3, "q90": 1.3, "q99": 2.3}
        stats[name] = {k: [v] * width for k, v in spread.items()} | {"count": [1000]}
    for name in (c.IMAGE_PREFIX + n for n in ("base", "left_wrist", "right_wrist")):
        stats[name] = {k: [[[v]]] * 3 for k, v in {"min": 0.0, "max": 1.0, "mean": 0.5, "std": 0.2}.items()}
        stats[name]["count"] = [1000]
    path.write_text(json.dumps(stats))


def settings(root: Path, run: Path, full: bool, batch: int, steps: int) -> dict[str, object]:
    policy = {"type": "pi05" if full else "pi05_tiny", "chunk_size": 30, "n_action_steps": 30}
    policy |= {"dtype": "bfloat16", "device": "cuda", "gradient_checkpointing": True} if full else {"device": "cpu"}
    return {
        "policy": policy,
        "datasets": [{"root": str(root)}],
        "output_dir": str(run),
        "steps": steps,
        "batch_size": batch,
        "log_every": 5,
        "save_every": 10**6,
        "objective": {"text_weight": 0.0, "insulate": False},
        "critic": {"enabled": False},
        "text": {"tokenizer": "bytes"},
        "optimizer": {"ema": None},
    }


def delivered(root: Path, workers: int, batch: int, batches: int) -> float:
    """Samples a second, after the workers have started."""
    recipe = recipe_from(settings(root, root / "run", False, batch, batches))
    data = TrainingData.open(recipe, image_policy=True, chunk=30, has_text=True)
    stream = data.loader(0, batches, workers=workers)
    warm = max(2 * workers, 2)
    for _ in range(warm):
        next(stream)
    start = time.perf_counter()
    count = sum(1 for _ in stream)
    return count * batch / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "set"
        dataset = write_set(root, 10, 3000, (224, 224))
        width = int(np.prod(dataset.features[c.STATE]["shape"]))
        with_statistics(root, width)
        if not arguments.full:
            for workers in (0, 1, 2):
                rate = delivered(root, workers, arguments.batch or 8, 14)
                print(f"{workers} workers: {rate:6.1f} samples/s; a batch of 64 every {64 / rate:.2f} s", flush=True)
            return
        run = Path(name) / "run"
        train(recipe_from(settings(root, run, True, arguments.batch or 64, arguments.steps)))
        lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()][1:]
        seconds, waiting = (float(np.mean([x[k] for x in lines])) for k in ("seconds", "seconds_data"))
        print(f"{seconds:.3f} s a step, of which {waiting:.3f} s wait for data: {waiting / seconds:.1%}")


if __name__ == "__main__":
    main()
