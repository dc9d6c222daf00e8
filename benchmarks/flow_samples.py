"""What several flow times and noises an observation buy: less gradient noise for the prefix that is paid already.

    python benchmarks/flow_samples.py          # a tiny π0.5 on a real recording, CPU

For S = 1, 2, 4, 8 in one run: the variance of the action expert's gradient over batches and draws (relative to
S = 1), and the time of a step (likewise). Their product is what a fixed amount of compute has to pay for the same
gradient noise: below 1, S is worth it. A larger batch would divide the variance by as much as it multiplies the
time; that line stands below for comparison.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from igrft.pipeline.run import annotate
from igrft.recordings.convert import convert
from igrft.training.inputs import Inputs
from igrft.training.module import TrainingModule
from igrft.training.recipe_file import load_recipe
from igrft.training.setup import Built, build, open_data

RECORDING = Path(__file__).parents[1] / "tests/data/g1_small"


def built_with(labelled: Path, samples: int, batch: int) -> Built:
    recipe = load_recipe(
        "tiny/sft",
        [
            "policy.type=pi05_tiny",
            f"datasets.0.root={labelled}",
            f"batch_size={batch}",
            f"objective.flow_samples={samples}",
            "objective.insulate=true",
            "critic.enabled=false",
            "num_workers=0",
        ],
    )
    return build(recipe, open_data(recipe))


def gradients(built: Built, module: TrainingModule, draws: int) -> tuple[torch.Tensor, float]:
    """(the expert's gradient of each draw [draws, parameters], seconds of a forward and backward pass)."""
    inputs = Inputs(built, torch.device("cpu"))
    size = built.recipe.batch_size
    batches = [
        inputs.step_batch(raw, step, slice(0, size)) for step, raw in enumerate(built.data.loader(0, draws, workers=0))
    ]
    expert = [p for n, p in module.policy.named_parameters() if "gemma_expert" in n and p.requires_grad]
    found, seconds = [], []
    for batch in batches:
        module.zero_grad(set_to_none=True)
        start = time.perf_counter()
        module(batch)["loss"].backward()
        seconds.append(time.perf_counter() - start)
        found.append(torch.cat([p.grad.flatten() for p in expert if p.grad is not None]))
    return torch.stack(found), sorted(seconds)[len(seconds) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=150, help="training steps before the gradients are looked at")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        convert(RECORDING, folder / "converted")
        annotate(folder / "converted", folder / "labelled", pipeline="offline", workers=1)
        built = built_with(folder / "labelled", 1, arguments.batch)
        module = built.module
        module.train()
        optimizer = torch.optim.AdamW(module.policy.parameters(), lr=1e-3)
        inputs = Inputs(built, torch.device("cpu"))
        for step, raw in enumerate(built.data.loader(0, arguments.warmup, workers=0)):
            optimizer.zero_grad()
            module(inputs.step_batch(raw, step, slice(0, arguments.batch)))["loss"].backward()
            optimizer.step()
        reference: tuple[float, float] | None = None
        print(f"{'':>22}  variance  time  product")
        for label, samples, batch in (
            *((f"S = {s}", s, arguments.batch) for s in (1, 2, 4, 8)),
            *((f"S = 1, batch x {k}", 1, arguments.batch * k) for k in (2, 4)),
        ):
            other = built_with(folder / "labelled", samples, batch)
            other.module.load_state_dict(module.state_dict())
            other.module.train()
            found, seconds = gradients(other, other.module, arguments.draws)
            variance = float(found.var(dim=0).sum())
            reference = reference or (variance, seconds)
            v, t = variance / reference[0], seconds / reference[1]
            print(f"{label:>22}  {v:8.2f}  {t:4.2f}  {v * t:7.2f}", flush=True)


if __name__ == "__main__":
    main()
