"""From a real recording to an offline RL policy, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tree_digest

from igrft.cli.main import run as cli

PICTURES = [
    "--policy.type=pi05_tiny",
    "--objective.insulate=true",
    "--objective.text_weight=1.0",
    "--batch_size=8",
    "--num_workers=1",
]


@pytest.fixture(scope="module")
def labelled(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real episodes of a humanoid, converted and labelled as the README says."""
    folder = tmp_path_factory.mktemp("real")
    assert cli(["convert", str(shared_data / "g1_yellow_bottle_2ep"), str(folder / "converted"), "-q"]) == 0
    assert cli(["annotate", str(folder / "converted"), str(folder / "labelled"), "-q"]) == 0
    return folder / "labelled"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("policy", "steps"), [([], 60), (PICTURES, 8)], ids=["state_flow", "pi05_tiny"])
def test_sft_then_offline_rl_then_values(labelled: Path, tmp_path: Path, capsys, policy: list[str], steps: int) -> None:
    before = tree_digest(labelled)
    common = [
        f"--datasets.0.root={labelled}",
        f"--steps={steps}",
        f"--save_every={steps // 2}",
        "--log_every=4",
        *policy,
    ]
    sft, rl = tmp_path / "sft", tmp_path / "rl"
    assert cli(["train", "tiny/sft", f"--output_dir={sft}", *common, "--critic.start=2", "-q"]) == 0
    assert cli(["train", "tiny/offline_rl", f"--output_dir={rl}", f"--init_from={sft}", *common, "-q"]) == 0
    assert tree_digest(labelled) == before, "training touched the data"

    metrics = [json.loads(x) for x in (rl / "metrics.jsonl").read_text().splitlines()]
    steps_logged = [m for m in metrics if "loss" in m]
    assert steps_logged[-1]["step"] == steps
    assert all(np.isfinite(m["loss"]) for m in steps_logged)
    assert {"advantage_mean", "weight_mean", "ess", "clipped_share"} <= set(steps_logged[0])
    assert (rl / "checkpoints/last/pretrained_model/config.json").is_file()
    assert (rl / "checkpoints/last/critic/model.safetensors").is_file()

    valued = tmp_path / "valued"
    command = ["annotate", str(labelled), str(valued), "--pipeline", "values", f"--steps.values.checkpoint={rl}"]
    assert cli([*command, "--workers", "1", "-q"]) == 0
    from igrft import load_labels

    found = load_labels(valued)
    for name in ("value", "value_trajectory", "value_subtask", "interaction_probability", "advantage"):
        assert np.isfinite(found[name]).all(), name
    assert cli(["report", str(rl)]) == 0
    assert cli(["report", str(valued), "--max-episodes", "2", "-q"]) == 0
    assert (rl / "report/index.html").is_file()

    # The columns now serve as the values that the advantage is made from.
    columns = [f"--datasets.0.root={valued}", *common[1:], "--advantage.source=columns"]
    third = tmp_path / "columns"
    assert cli(["train", "tiny/offline_rl", f"--output_dir={third}", f"--init_from={sft}", *columns, "-q"]) == 0


def test_a_dry_run_says_what_it_found(labelled: Path, tmp_path: Path, capsys) -> None:
    command = ["train", "tiny/sft", f"--datasets.0.root={labelled}", f"--output_dir={tmp_path / 'run'}", "--dry-run"]
    assert cli([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["datasets"][0]["episodes"] == 2
    assert found["policy"]["parameters"] > 10_000
    assert found["memory_bytes"]["activations"] > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["tiny/sft", "--optimizer.learning_rat=1"], 2, "did you mean 'learning_rate'"),
        (["tiny/sft", "--stepz=5"], 2, "did you mean 'steps'"),
        (["tiny/sft", "--datasets.0.root=/nowhere"], 2, "/nowhere"),
        (["tiny/sftt"], 2, "did you mean"),
        (["tiny/sft", "extra"], 2, "unexpected argument 'extra'"),
        (["tiny/sft", "--policy.type=pi06"], 2, "did you mean 'pi05'"),
    ],
)
def test_wrong_usage_is_one_line(capsys, arguments: list[str], status: int, message: str) -> None:
    assert cli(["train", *arguments]) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_unlabelled_data_is_refused_naming_the_step(shared_data: Path, labelled: Path, tmp_path: Path, capsys) -> None:
    converted = labelled.parent / "converted"
    assert cli(["train", "tiny/offline_rl", "--init_from=null", f"--datasets.0.root={converted}"]) != 0
    error = capsys.readouterr().err
    assert "rewards" in error and error.count("\n") == 1
