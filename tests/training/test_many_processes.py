"""Runs of two processes: the losses of one, whatever is divided; going on with more, or fewer."""

from __future__ import annotations

import json
import os
import socket
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


def launch(processes: int, jobs: list[dict[str, Any]], file: Path, configuration: str = "ddp", *more: str) -> None:
    """Run jobs one after the other in as many processes, as accelerate starts them; ``more``: options for it."""
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


def start(jobs: list[dict[str, Any]], file: Path) -> None:
    """The same in two processes without a launcher, which takes as long to import as a process."""
    file.write_text(json.dumps(jobs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(HERE.parent / "several_processes.py"), str(file)]
    started = []
    for rank in ("0", "1"):
        environment = {**ENVIRONMENT, **world, "RANK": rank, "LOCAL_RANK": rank}
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(text[-3000:] for text in said)


class Runs:
    """Runs in ``root``: ``one/NAME`` by one process, ``two/NAME`` and ``spread/NAME`` by two.

    Those that are stopped go on with the other number of processes.
    """

    def __init__(self, labelled: Path, root: Path) -> None:
        self.labelled, self.root = labelled, root

    @property
    def streamed(self) -> list[dict[str, Any]]:
        """What a recipe's ``datasets`` are, of a stream."""
        return [{"root": str(self.labelled), "streaming": True, "buffer_size": 64, "shards": 4}]

    def job(self, folder: str, name: str, stop: int | None = None, **settings: Any) -> dict[str, Any]:
        spread = "sharding" in settings
        return {"recipe": value(self.labelled, self.root / folder, name, **settings), "stop": stop, "spread": spread}

    def make(self, one: Jobs, two: Jobs, after: Jobs, *, launched: bool = True) -> None:
        """Runs of one process, of two started once, and of one again."""
        from several_processes import run

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for job in one:
            run(job)
        if launched:
            launch(2, two, self.root / "jobs.json")
        else:
            start(two, self.root / "jobs.json")
        for job in after:
            run(job)
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runs(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Runs(labelled, tmp_path_factory.mktemp("runs"))
    made.make(
        [made.job("one/stream", "ig_awr", datasets=made.streamed), made.job("one/judge", "judge")],
        [
            made.job("two/stream", "parts", stop=4, datasets=made.streamed),
            made.job("spread/judge", "judge", sharding="fsdp"),
        ],
        [made.job("two/stream", "ig_awr", datasets=made.streamed)],
        launched=False,
    )
    return made.root


@pytest.fixture(scope="module")
def more_runs(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Runs(labelled, tmp_path_factory.mktemp("runs"))
    streamed = {"datasets": made.streamed}
    made.make(
        [
            *(made.job(f"one/{name}", name) for name in OBJECTIVES),
            made.job("one/stream", "ig_awr", **streamed),
            made.job("more", "ig_awr", stop=2),
            made.job("more_stream", "ig_awr", stop=2, **streamed),
        ],
        [
            *(made.job(f"two/{name}", name) for name in OBJECTIVES),
            *(made.job(f"spread/{name}", name, sharding="fsdp") for name in OBJECTIVES),
            made.job("spread_fewer", "iql", stop=2, sharding="fsdp"),
            made.job("fewer", "ig_awr", stop=2),
            made.job("more", "ig_awr"),
            made.job("more_stream", "ig_awr", **streamed),
        ],
        [made.job("spread_fewer", "iql"), made.job("fewer", "ig_awr")],
    )
    return made.root


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]


def check_same(run: Path, one: Path, frames: int = 31) -> None:
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
            assert a["heldout"]["frames"] == frames
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


def test_two_processes_get_the_losses_of_one(runs: Path) -> None:
    """Each takes half of every batch, and holds half of everything."""
    check_same(runs / "spread/judge", runs / "one/judge")


def test_a_stream_over_two_processes_goes_on_in_one(runs: Path) -> None:
    """Stopped after step 4 of 6; in two processes each takes its half of a batch in two parts."""
    check_same(runs / "two/stream", runs / "one/stream")


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("folder", ["two", "spread"])
def test_every_objective_gets_the_losses_of_one_process(more_runs: Path, folder: str, name: str) -> None:
    check_same(more_runs / folder / name, more_runs / "one" / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "one"), [("fewer", "ig_awr"), ("more", "ig_awr"), ("more_stream", "stream"), ("spread_fewer", "iql")]
)
def test_a_run_goes_on_with_more_processes_or_fewer(more_runs: Path, folder: str, one: str) -> None:
    """Stopped after step 2 of 6."""
    check_same(more_runs / folder, more_runs / "one" / one)


@pytest.mark.slow
@pytest.mark.parametrize("lets_go", ["false", "true"])
def test_a_language_model_is_spread_layer_by_layer(tmp_path: Path, lets_go: str) -> None:
    """A tiny π0.5 with text, insulation, recomputation and a frozen part; every linear layer is gathered by itself."""
    from labelled_set import make_labelled_set
    from several_processes import run

    root = make_labelled_set(tmp_path / "set")
    policy = {"type": "pi05_tiny", "device": "cpu", "chunk_size": 6, "n_action_steps": 6}
    policy |= {"gradient_checkpointing": True, "freeze_vision_encoder": True}
    objective = {"type": "ig_awr", "insulate": True, "text_weight": 1.0}
    settings = {"policy": policy, "num_workers": 0, "text": {"tokenizer": "bytes"}, "objective": objective}

    def job(name: str, stop: int | None = None) -> dict[str, Any]:
        made = value(root, tmp_path / name, "ig_awr", **settings)
        made["critic"]["evaluate_frames"] = 7
        return {"recipe": made, "stop": stop, "spread": True}

    run(job("one"))
    options = ["--fsdp_min_num_params", "500", "--fsdp_reshard_after_forward", lets_go]
    launch(2, [job("two"), job("fewer", stop=2)], tmp_path / "jobs.json", "fsdp", *options)
    run(job("fewer"))
    check_same(tmp_path / "two", tmp_path / "one", frames=7)
    check_same(tmp_path / "fewer", tmp_path / "one", frames=7)
