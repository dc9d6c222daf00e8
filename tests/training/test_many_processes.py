"""Runs of two processes: the losses of one, whatever is divided; going on with more, or fewer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tiny_recipe import TINY

HERE = Path(__file__).resolve().parent
CONFIGURATIONS = HERE.parents[1] / "recipes/accelerate"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
#: What of a line is compared otherwise, or not.
OTHERS = {"seconds", "seconds_data", "samples_per_second", "memory_gb", "heldout", "critic_stopped"}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "ig_awr": {"objective": {"type": "ig_awr"}},
    "iql": {"objective": {"type": "iql"}},
    "judge": {
        "objective": {"type": "awr"},
        "advantage": {"refresh": 2},
        "critic": {"patience": 1, "evaluate_every": 2},
    },
    "normalised": {"objective": {"type": "awr", "normalise_weights": True}},
    "parts": {"objective": {"type": "ig_awr"}, "gradient_accumulation": 4},
}


def value(root: Path, run: Path, name: str, **settings: Any) -> dict[str, Any]:
    """A recipe of six steps; held-out episodes are looked at after the third."""
    made = json.loads(json.dumps({**TINY, "datasets": [{"root": str(root)}], "output_dir": str(run), **settings}))
    made["critic"]["evaluate_frames"] = 31
    made["optimizer"]["ema"] = 0.9
    for section, change in OBJECTIVES[name].items():
        made[section] = {**made[section], **change} if isinstance(made.get(section), dict) else change
    return made


def launch(processes: int, jobs: list[dict[str, Any]], file: Path, configuration: str = "ddp") -> None:
    """Run jobs one after the other in as many processes, as accelerate starts them."""
    file.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", str(CONFIGURATIONS / f"{configuration}.yaml"), "--num_processes", str(processes)]
    done = subprocess.run(
        [*command, str(HERE.parent / "several_processes.py"), str(file)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]


Jobs = list[dict[str, Any]]


class Runs:
    """Runs in ``root``: ``one/NAME`` by one process, ``two/NAME`` and ``spread/NAME`` by two.

    ``fewer``, ``more`` and ``spread_fewer`` are stopped after step 2 and go on with the other number.
    """

    def __init__(self, labelled: Path, root: Path) -> None:
        self.labelled, self.root = labelled, root

    @property
    def streamed(self) -> list[dict[str, Any]]:
        """What a recipe's ``datasets`` are, of a stream."""
        return [{"root": str(self.labelled), "streaming": True, "buffer_size": 64, "shards": 4}]

    def job(self, folder: str, name: str, stop: int | None = None, **settings: Any) -> dict[str, Any]:
        return {"recipe": value(self.labelled, self.root / folder, name, **settings), "stop": stop}

    def make(self, one: Jobs, two: Jobs, after: Jobs) -> None:
        """Runs of one process, of two in a single launch, and of one again."""
        from several_processes import run

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for job in one:
            run(job)
        launch(2, two, self.root / "jobs.json")
        for job in after:
            run(job)
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runs(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Runs(labelled, tmp_path_factory.mktemp("runs"))
    made.make(
        [
            *(made.job(f"one/{name}", name) for name in ("ig_awr", "parts", "judge")),
            made.job("one/stream", "ig_awr", datasets=made.streamed),
            made.job("more", "ig_awr", stop=2),
        ],
        [
            made.job("two/stream", "parts", datasets=made.streamed),
            made.job("fewer_stream", "ig_awr", stop=2, datasets=made.streamed),
            *(made.job(f"two/{name}", name) for name in ("ig_awr", "parts")),
            made.job("fewer", "ig_awr", stop=2),
            made.job("more", "ig_awr"),
            made.job("spread/judge", "judge", sharding="fsdp"),
        ],
        [made.job("fewer", "ig_awr"), made.job("fewer_stream", "ig_awr", datasets=made.streamed)],
    )
    return made.root


@pytest.fixture(scope="module")
def more_runs(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Runs(labelled, tmp_path_factory.mktemp("runs"))
    spread = [made.job(f"spread/{name}", name, sharding="fsdp") for name in OBJECTIVES]
    made.make(
        [made.job(f"one/{name}", name) for name in OBJECTIVES],
        [
            *(made.job(f"two/{name}", name) for name in OBJECTIVES),
            *spread,
            made.job("spread_fewer", "iql", stop=2, sharding="fsdp"),
        ],
        [made.job("spread_fewer", "iql")],
    )
    return made.root


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def check_same(run: Path, one: Path) -> None:
    """Losses, gradients, held-out fit and what is saved, to rounding."""
    assert [x["step"] for x in lines(run)] == [x["step"] for x in lines(one)] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(lines(run), lines(one), strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {
            "seconds",
            "seconds_data",
            "samples_per_second",
            "memory_gb",
            "heldout",
            "critic_stopped",
        }:
            assert a[key] == pytest.approx(b[key], rel=2e-3, abs=1e-5), (a["step"], key)
        if "heldout" in a:
            known = [k for k, v in b["heldout"].items() if v is not None]
            assert all(a["heldout"][k] == pytest.approx(b["heldout"][k], rel=1e-2, abs=1e-4) for k in known)
            assert a["heldout"]["frames"] == 31
    for part in ("pretrained_model", "critic", "training_state"):
        files = (one / "checkpoints/last" / part).rglob("*.safetensors")
        for file in sorted(f for f in files if f.name != "rng_state.safetensors"):
            whole = load_file(file)
            found = load_file(run / file.relative_to(one))
            assert whole.keys() == found.keys()
            for name in whole:
                assert torch.allclose(whole[name].float(), found[name].float(), rtol=2e-2, atol=5e-4), (file.name, name)
    samples = [pq.read_table(r / "diagnosis/samples").sort_by([("step", "ascending")]) for r in (run, one)]
    assert samples[0]["step"].equals(samples[1]["step"])
    order = [sorted(zip(*(t[n].to_pylist() for n in ("step", "episode", "frame")), strict=True)) for t in samples]
    assert order[0] == order[1]


@pytest.mark.parametrize(
    ("folder", "name"), [("two", "ig_awr"), ("two", "parts"), ("spread", "judge"), ("two", "stream")]
)
def test_two_processes_get_the_losses_of_one(runs: Path, folder: str, name: str) -> None:
    """Each takes half of every batch; spread, each holds half of everything."""
    check_same(runs / folder / name, runs / "one" / name)


@pytest.mark.parametrize(("folder", "one"), [("fewer", "ig_awr"), ("more", "ig_awr"), ("fewer_stream", "stream")])
def test_a_run_goes_on_with_more_processes_or_fewer(runs: Path, folder: str, one: str) -> None:
    check_same(runs / folder, runs / "one" / one)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("folder", ["two", "spread"])
def test_every_objective_gets_the_losses_of_one_process(more_runs: Path, folder: str, name: str) -> None:
    check_same(more_runs / folder / name, more_runs / "one" / name)


@pytest.mark.slow
def test_a_run_that_was_spread_goes_on_in_one_process(more_runs: Path) -> None:
    check_same(more_runs / "spread_fewer", more_runs / "one/iql")
