"""Runs as processes, killed and told to stop from outside."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_recipe import TINY

COMMAND = [sys.executable, "-m", "igrft.cli.main", "train"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": ""}


@pytest.fixture
def start(labelled: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    recipe = {**json.loads(json.dumps(TINY)), "steps": 400, "save_every": 20, "log_every": 10}
    recipe["datasets"] = [{"root": str(labelled)}]
    recipe["objective"]["type"] = "ig_awr"
    (tmp_path / "mine.yaml").write_text(json.dumps(recipe))

    def begin(run: str, *more: str) -> subprocess.Popen[str]:
        command = [*COMMAND, str(tmp_path / "mine.yaml"), f"--output_dir={tmp_path / run}", "-q"]
        pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen([*command, *more], env=ENVIRONMENT, text=True, start_new_session=True, **pipes)

    return begin


def reached(run: Path, step: int, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until a run has logged ``step``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path = run / "metrics.jsonl"
        if path.is_file() and f'"step": {step}' in path.read_text():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    raise AssertionError(f"{run} did not reach step {step}")


def final(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints/000400/pretrained_model/model.safetensors")


STREAM = ("--datasets.0.streaming=true", "--datasets.0.buffer_size=100", "--datasets.0.shards=4")


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), STREAM], ids=["map", "stream"])
def test_killed_again_and_again_a_run_ends_with_the_bits_of_one_left_alone(start, tmp_path, more) -> None:
    alone = start("alone", *more)
    assert alone.wait(300) == 0
    rng = random.Random(0)
    for at in (30, 110, 200, 310):
        process = start("killed", *more)
        reached(tmp_path / "killed", at, process)
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.wait()
    assert start("killed", *more).wait(300) == 0
    a, b = final(tmp_path / "alone"), final(tmp_path / "killed")
    assert all(torch.equal(a[k], b[k]) for k in a)
    steps = [
        [json.loads(x).get("loss") for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("alone", "killed")
    ]
    assert steps[0] == steps[1]


def test_sigterm_ends_a_process_with_one_line_and_a_checkpoint(start, tmp_path) -> None:
    process = start("run")
    reached(tmp_path / "run", 10, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.count("\n") == 1
    assert "and saved; run the same command to go on" in error
    assert (tmp_path / "run/checkpoints/last/training_state/state.json").is_file()


def test_a_signal_to_the_whole_group_saves_too(shared_data, tmp_path) -> None:
    """As `timeout` and schedulers send it: the workers that read pictures get it as well."""
    from igrft.cli.main import run as cli

    assert cli(["convert", str(shared_data / "g1_yellow_bottle_2ep"), str(tmp_path / "converted"), "-q"]) == 0
    options = ["--policy.type=pi05_tiny", "--batch_size=4", "--num_workers=2", "--critic.enabled=false"]
    options.append("--log_every=2")
    # The action of this robot is wider than the policy's default: going on takes up the width that was made.
    command = [
        *COMMAND,
        "tiny/sft",
        f"--datasets.0.root={tmp_path / 'converted'}",
        f"--output_dir={tmp_path / 'run'}",
        "-q",
    ]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([*command, *options], env=ENVIRONMENT, text=True, start_new_session=True, **pipes)
    reached(tmp_path / "run", 4, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert "and saved; run the same command to go on" in error
    stopped = int(re.search(r"stopped at step (\d+)", error)[1])
    again = subprocess.Popen([*command, *options], env=ENVIRONMENT, text=True, start_new_session=True, **pipes)
    reached(tmp_path / "run", stopped + 2 - stopped % 2, again)
    again.send_signal(signal.SIGTERM)
    _, error = again.communicate(timeout=60)
    assert "and saved" in error, error
