"""RAFT for streams against torchvision's model called pair by pair, and how busy the GPU is behind a decoder.

    python benchmarks/raft.py                 # on a CUDA GPU: three minutes; without one it says so and stops
    python benchmarks/raft.py --cpu           # on a CPU: the same answer, and the ratio at small sizes
    python benchmarks/raft.py --cpu --shapes 128x128 240x320

In one run, on one device, ``--model`` with ``--updates`` updates, at each of ``--shapes`` (HEIGHTxWIDTH), best of
``--rounds``:
- torchvision: the model in float32, one pair at a time, pictures copied there and the flow back;
- ours: ``igrft.steps.interaction.raft.Raft`` on the same pictures, for each of ``--batches``, as it comes (half
  precision on a GPU, float32 on a CPU), and on a GPU compiled too;
- how far the flows are apart.
On a GPU moreover the whole step: a 640x480 AV1 recording is decoded, its flow computed, its pixels counted, with and
without decoding ahead; with the share of the time that the GPU is busy.

Weights: ``--weights FILE``, else torchvision's if they are in its cache, else random ones: speed does not depend on
them. Of random weights the distances say little about trained ones, but for float32, where they should be near 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.models import get_model, get_model_weights

from igrft.steps.interaction.overlap import ahead
from igrft.steps.interaction.raft import Raft

#: On an H200, raft_large with 12 updates at 480x640.
GOAL_RATE, GOAL_RATIO = 300, 5


def weights_file(name: str, given: Path | None, folder: Path) -> tuple[str, str]:
    """A file that holds weights, and what to call them."""
    if given is not None:
        return str(given), str(given)
    url = get_model_weights(name).DEFAULT.url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if cached.is_file():
        return str(cached), "torchvision's"
    torch.manual_seed(0)
    path = folder / f"{name}.pth"
    torch.save(get_model(name, weights=None).state_dict(), path)
    return str(path), "random"


def moving_texture(count: int, height: int, width: int) -> list[np.ndarray]:
    """Pictures of a texture that moves by 3 and 1 pixels, uint8 [height, width, 3]."""
    import cv2

    rng = np.random.default_rng(0)
    size = (width + 3 * count, height + count)
    coarse = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(wide[i : i + height, 3 * i : 3 * i + width]) for i in range(count)]


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def best_of(rounds: int, device: str, run: Any) -> tuple[float, Any]:
    """Seconds of the fastest, and what it gave; the first call is for warming up."""
    found = run()
    best = float("inf")
    for _ in range(rounds):
        wait(device)
        begun = time.perf_counter()
        found = run()
        wait(device)
        best = min(best, time.perf_counter() - begun)
    return best, found


def pair_by_pair(model: Any, pictures: list[np.ndarray], updates: int, device: str) -> list[np.ndarray]:
    """torchvision's model as its documentation calls it."""
    flows = []
    with torch.inference_mode():
        for pair in itertools.pairwise(pictures):
            first, second = (torch.from_numpy(p).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in pair)
            flow = model(first, second, num_flow_updates=updates)[-1]
            flows.append(flow[0].permute(1, 2, 0).cpu().numpy())
    return flows


def compare(name: str, weights: str, shape: tuple[int, int], device: str, options: Any) -> list[dict[str, Any]]:
    """Rates at one size."""
    on_gpu = device.startswith("cuda")
    pairs = options.pairs or (128 if on_gpu else 8)
    pictures = moving_texture(pairs + 1, *shape)
    model = get_model(name, weights=None)
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model = model.to(device).eval()
    few = pictures[: min(pairs, 32) + 1]
    spent, expected = best_of(options.rounds, device, lambda: pair_by_pair(model, few, options.updates, device))
    base = (len(few) - 1) / spent
    where = f"{shape[0]}x{shape[1]}"
    print(f"\n{name}, {where}, {options.updates} updates; torchvision pair by pair, float32: {base:.1f} pairs/s\n")
    print(f"{'ours':>34}{'pairs/s':>10}{'ratio':>8}{'device busy':>13}{'apart, mean':>13}{'most, pixels':>14}")
    found = []
    for batch, compiled in itertools.product(options.batches, (False, True) if on_gpu else (False,)):
        raft = Raft(
            name,
            weights=weights,
            updates=options.updates,
            device=device,
            batch=batch,
            compiled=compiled,
            threads=options.threads,
        )

        def run(raft: Raft = raft) -> list[np.ndarray]:
            raft.busy.seconds = raft.busy.wall = 0.0
            return list(raft.stream(iter(pictures)))

        spent, flows = best_of(options.rounds, device, run)
        apart = np.array([np.abs(a - b) for a, b in zip(flows, expected, strict=False)])
        row = {
            "model": name,
            "shape": where,
            "batch": batch,
            "compiled": compiled,
            "pairs_per_second": round(pairs / spent, 2),
            "torchvision": round(base, 2),
            "ratio": round(pairs / spent / base, 2),
            "busy": round(raft.busy.share, 3),
            "apart_mean": float(apart.mean()),
            "apart_most": float(apart.max()),
        }
        found.append(row)
        kind = f"batch {batch}{', compiled' if compiled else ''}, {'float16' if on_gpu else 'float32'}"
        print(
            f"{kind:>34}{row['pairs_per_second']:>10.1f}{row['ratio']:>8.2f}{row['busy']:>13.0%}"
            f"{row['apart_mean']:>13.2g}{row['apart_most']:>14.2g}",
            flush=True,
        )
        del raft
        if on_gpu:
            torch.cuda.empty_cache()
    return found


def whole_step(name: str, weights: str, batch: int, device: str, frames: int) -> list[dict[str, Any]]:
    """Decoding, flow and counting of a 640x480 AV1 recording, with and without a thread that decodes ahead."""
    from interaction import CAMERA, synthetic_clip, write_set

    from igrft.dataset.reader import DatasetReader
    from igrft.steps.base import Episode
    from igrft.steps.interaction.counts import InteractionCounts

    found = []
    with tempfile.TemporaryDirectory(prefix="igrft-raft-") as folder:
        root = write_set(Path(folder) / "set", synthetic_clip(Path(folder) / "clip.mp4"), 2, frames)
        dataset = DatasetReader.open(root)
        step = InteractionCounts(
            camera=CAMERA, flow=name, flow_height=480, raft_weights=weights, device=device, batch=batch
        )
        print(f"\nthe step on {frames} frames of 640x480 AV1, batch {batch}\n")
        print(f"{'pictures decoded ahead':>34}{'frames/s':>10}{'GPU busy':>13}")
        estimator = step.estimator()
        assert isinstance(estimator, Raft)
        for depth in (0, estimator.ahead):
            estimator.ahead = depth
            step.count(Episode(dataset, 0), estimator)
            estimator.busy.seconds = estimator.busy.wall = 0.0
            begun = time.perf_counter()
            step.count(Episode(dataset, 1), estimator)
            rate = frames / (time.perf_counter() - begun)
            found.append({"ahead": depth, "frames_per_second": round(rate, 1), "busy": round(estimator.busy.share, 3)})
            print(f"{depth:>34}{rate:>10.1f}{estimator.busy.share:>13.0%}", flush=True)
    return found


def overlap_on_cpu() -> dict[str, float]:
    """What decoding ahead brings a consumer that waits as a GPU would be waited for: seconds without and with."""

    def decode() -> Any:
        for _ in range(100):
            time.sleep(0.003)
            yield None

    spent = {}
    for depth in (0, 16):
        begun = time.perf_counter()
        for _ in ahead(decode(), depth):
            time.sleep(0.003)
        spent[f"depth_{depth}"] = round(time.perf_counter() - begun, 3)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="raft_large", choices=("raft_small", "raft_large"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--shapes", nargs="+", help="HEIGHTxWIDTH, multiples of 8; default: 480x640, on a CPU 128x160")
    parser.add_argument("--batches", nargs="+", type=int, help="default: 8 16 32, on a CPU 1 4")
    parser.add_argument("--pairs", type=int, help="default: 128, on a CPU 8")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--cpu", action="store_true", help="compare on the CPU")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        print(
            "no CUDA GPU here: nothing was measured. The goal, at least "
            f"{GOAL_RATE} pairs/s at 480x640 on an H200 and {GOAL_RATIO} times torchvision's model pair by pair, is "
            "shown by this command on such a machine; --cpu compares small sizes on the CPU"
        )
        return
    device = "cpu" if options.cpu else "cuda"
    if options.cpu:
        torch.set_num_threads(options.threads)
    options.batches = options.batches or ([1, 4] if options.cpu else [8, 16, 32])
    shapes = options.shapes or (["128x160"] if options.cpu else ["480x640"])
    result: dict[str, Any] = {"device": torch.cuda.get_device_name() if not options.cpu else "cpu"}
    print(f"device: {result['device']}; torch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="igrft-raft-") as folder:
        weights, result["weights"] = weights_file(options.model, options.weights, Path(folder))
        print(f"weights: {result['weights']}")
        result["rates"] = []
        for shape in shapes:
            height, width = (int(v) for v in shape.split("x"))
            result["rates"] += compare(options.model, weights, (height, width), device, options)
        if device == "cuda":
            result["step"] = whole_step(options.model, weights, max(options.batches), device, 900)
        else:
            result["ahead_seconds"] = overlap_on_cpu()
            print(f"\na decoder and a device that take 3 ms each, 100 pictures: {result['ahead_seconds']}")
    print(json.dumps(result))
    if device == "cuda":
        best = max(result["rates"], key=lambda r: r["pairs_per_second"])
        reached = best["pairs_per_second"] >= GOAL_RATE and best["ratio"] >= GOAL_RATIO
        print(
            f"goal ({GOAL_RATE} pairs/s and {GOAL_RATIO} times, on an H200): {'reached' if reached else 'not reached'}"
        )


if __name__ == "__main__":
    main()
