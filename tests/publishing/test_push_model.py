"""A run becomes a model that LeRobot and igrft load, and names no folder of the machine it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_server import card_problems
from safetensors.numpy import save_file
from training_runs import Made, write_run

REPO = "somebody/policy"
CONFIG = {
    "type": "pi05",
    "chunk_size": 30,
    "pretrained_path": "/home/me/runs/sft/checkpoints/last/pretrained_model",
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [14]},
        "observation.images.top": {"type": "VISUAL", "shape": [3, 224, 224]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [14]}},
}


@pytest.fixture
def a_run(tmp_path: Path) -> Path:
    """A run with two checkpoints; its recipe names folders, and its training state must stay."""
    root = write_run(
        tmp_path / "home" / "run", Made(steps=100, log_every=50, overrides={"init_from": "lerobot/pi05_base"})
    )
    for step in (50, 100):
        folder = root / f"checkpoints/{step:06d}"
        (folder / "pretrained_model").mkdir(parents=True, exist_ok=True)
        (folder / "critic").mkdir()
        (folder / "training_state").mkdir()
        (folder / "pretrained_model/config.json").write_text(json.dumps(CONFIG))
        save_file({"w": np.full((10, 20), step, np.float32)}, folder / "pretrained_model/model.safetensors")
        (folder / "pretrained_model/policy_preprocessor.json").write_text(
            '{"steps": [], "tokenizer": "/opt/tok/gemma"}'
        )
        (folder / "critic/config.json").write_text("{}")
        save_file({"v": np.zeros(3, np.float32)}, folder / "critic/model.safetensors")
        (folder / "training_state/state.json").write_text('{"secret": 1}')
    (root / "checkpoints/last").symlink_to("000100")
    return root


def test_a_run_becomes_a_model(hub, igrft, a_run):
    said = igrft("push", a_run, REPO, "--license", "apache-2.0", "-q")
    assert (said.status, said.out.strip()) == (0, f"{hub.url}/{REPO}"), said.err
    sent = hub.model(REPO).files()
    weights = {"model.safetensors", "critic/model.safetensors"}
    texts = {
        "README.md",
        "config.json",
        "policy_preprocessor.json",
        "critic/config.json",
        "recipe.yaml",
        "metrics.jsonl",
    }
    assert set(sent) == weights | texts | {".gitattributes"}
    newest = a_run / "checkpoints/000100"
    assert sent["model.safetensors"] == (newest / "pretrained_model/model.safetensors").read_bytes()
    assert sent["critic/model.safetensors"] == (newest / "critic/model.safetensors").read_bytes()
    assert not hub.model(REPO).tags
    recipe = yaml.safe_load(sent["recipe.yaml"])
    assert [d["root"] for d in recipe["datasets"]] == ["cups", "rollout_cups_1"]
    assert json.loads(sent["config.json"])["pretrained_path"] == "pretrained_model"
    text = b"\n".join(data for name, data in sent.items() if not name.endswith(".safetensors")).decode()
    for folder in (str(a_run.parent), "/home/me", "/data/", "/opt/tok", str(Path.home()) + "/"):
        assert folder not in text, folder


def test_the_card(hub, igrft, a_run, tmp_path):
    igrft("push", a_run, REPO, "--license", "mit", "--dry-run", "--output", tmp_path / "card")
    text = (tmp_path / "card/README.md").read_text()
    assert card_problems(text, "model") == ([], [])
    data = yaml.safe_load(text.split("---\n")[1])
    assert data["base_model"] == "lerobot/pi05_base" and data["pipeline_tag"] == "robotics"
    assert data["library_name"] == "lerobot" and {"igrft", "pi05", "lerobot"} <= set(data["tags"])
    for line in (
        "at step 100",
        "Stage II",
        "| `observation.state` | state | [14] |",
        "| `action` (out) | action | [14] |",
        "| started from | lerobot/pi05_base |",
        "| demonstrations | cups |",
        "| batch size | 16 |",
        "PI05Policy.from_pretrained",
        "[B, 30, 14]",
        "`critic/` holds",
    ):
        assert line in text, line
    assert "`loss`" in text and "samples_per_second" not in text


def test_one_checkpoint_of_a_run(hub, igrft, a_run):
    igrft("push", a_run / "checkpoints/000050", REPO, "-q")
    sent = hub.model(REPO).files()
    assert sent["model.safetensors"] == (a_run / "checkpoints/000050/pretrained_model/model.safetensors").read_bytes()
    assert "at step 50" in sent["README.md"].decode()


def test_again_without_the_critic(hub, igrft, a_run):
    igrft("push", a_run, REPO, "-q")
    for path in (a_run / "checkpoints/000100/critic").iterdir():
        path.unlink()
    igrft("push", a_run, REPO, "-q")
    assert not [n for n in hub.model(REPO).files() if n.startswith("critic/")]


def test_it_is_found_by_its_id_and_revision(hub, igrft, a_run):
    from igrft.models.load import CheckpointFolder

    igrft("push", a_run, REPO, "--revision", "first", "-q")
    found = CheckpointFolder.find(f"{REPO}@first")
    newest = a_run / "checkpoints/000100"
    assert (found.pretrained / "model.safetensors").read_bytes() == (
        newest / "pretrained_model/model.safetensors"
    ).read_bytes()
    assert found.critic is not None and (found.critic / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "checkpoints/last").unlink(), "without a checkpoint yet"),
        (
            lambda run: (run / "checkpoints/000100/pretrained_model/model.safetensors").unlink(),
            "has no model.safetensors",
        ),
        (lambda run: cut(run / "checkpoints/000100/pretrained_model/model.safetensors"), "is cut short"),
        (lambda run: cut(run / "checkpoints/000100/critic/model.safetensors"), "is cut short"),
    ],
)
def test_what_is_not_whole_is_refused(hub, igrft, a_run, damage, message):
    damage(a_run)
    said = igrft("push", a_run, REPO, "-q")
    assert said.status in (1, 2) and message in said.err and said.err.count("\n") == 1
    assert not hub.repos


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])
