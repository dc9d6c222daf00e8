"""Parameters that are spread over processes (FSDP2): the same losses, and checkpoints that are whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_recipe import TINY

SHARDED = """
import json, sys, torch
from pathlib import Path
from torch.distributed.fsdp import fully_shard
torch.set_num_threads(1)
from igrft.training import checkpoint, run as r
from igrft.training.ema import Ema
from igrft.training.loop import Loop
from igrft.training.recipe_file import recipe_from
from igrft.training.setup import build, open_data

value = json.loads(sys.argv[1])
for upto in (2, 4):
    recipe = recipe_from(value)
    accelerator = r.make_accelerator(recipe)
    folder = Path(recipe.output_dir)
    folder.mkdir(exist_ok=True)
    built = build(recipe, open_data(recipe), device="cpu", resume=checkpoint.newest(folder))
    fully_shard(built.critic, reshard_after_forward=False)
    fully_shard(built.module, reshard_after_forward=False)
    optimizers = {
        "actor": r._adamw(built.module.policy, recipe, recipe.optimizer.learning_rate, accelerator),
        "critic": r._adamw(built.critic, recipe, recipe.critic.learning_rate, accelerator),
    }
    schedule = r._schedule(optimizers["actor"], recipe)
    loop = Loop(built, accelerator, folder, built.module, optimizers, schedule, Ema(built.module, 0.9))
    assert hasattr(next(iter(built.module.policy.parameters())), "full_tensor")
    newest = checkpoint.newest(folder)
    if newest is not None:
        loop.restore(newest)
    recipe.steps = upto
    loop.go({})
"""


@pytest.mark.slow
def test_sharded_parameters_give_the_losses_and_checkpoints_of_whole_ones(labelled: Path, tmp_path: Path) -> None:
    """Two processes hold half of everything each, stop at step 2 and go on; accelerate shards on GPUs only, so
    the module is sharded here by torch itself."""
    from igrft.training.recipe_file import recipe_from
    from igrft.training.run import train

    value = {**json.loads(json.dumps(TINY)), "datasets": [{"root": str(labelled)}], "steps": 4, "save_every": 2}
    value["objective"]["type"] = "awr"
    value["optimizer"]["ema"] = 0.9
    value["critic"]["evaluate_every"] = 0
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29573", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    two = json.dumps({**value, "output_dir": str(tmp_path / "two")})
    done = subprocess.run([*command, two], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:3000]
    train(recipe_from({**value, "output_dir": str(tmp_path / "one")}))
    lines = [[json.loads(x) for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("one", "two")]
    assert [x["step"] for x in lines[1]] == [1, 2, 3, 4]
    for a, b in zip(*lines, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    for part in ("pretrained_model", "critic"):
        whole, sharded = (
            load_file(tmp_path / n / "checkpoints/last" / part / "model.safetensors") for n in ("one", "two")
        )
        assert whole.keys() == sharded.keys()
        assert all(torch.allclose(whole[k], sharded[k], atol=1e-5) for k in whole)
