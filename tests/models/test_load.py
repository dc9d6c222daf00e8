"""Checkpoints that fit are loaded bit for bit; those that do not are refused, never half-loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_actor import one_thread  # noqa: F401
from torch import nn
from value_runs import CRITIC_SETTINGS, tiny_checkpoint

from igrft.errors import IgrftError, UsageError
from igrft.models.actors import build_policy
from igrft.models.load import (
    CheckpointFolder,
    fill,
    is_hub_id,
    load_checkpoint,
    load_config,
    load_critic,
    load_weights,
    read_weights,
)
from igrft.models.processors import load_processors, tokenizer_of
from igrft.models.text import byte_tokenizer
from igrft.training.recipe import TextSettings

CAMERA = "observation.images.top"
DATASET = SimpleNamespace(
    features={"observation.state": {"shape": [5]}, "action": {"shape": [6]}, CAMERA: {"shape": [48, 64, 3]}}
)
KINDS = ("state_flow", "pi05_tiny")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind with one checkpoint."""
    made = {}
    for kind in KINDS:
        run = tmp_path_factory.mktemp(kind)
        cameras = (CAMERA,) if kind == "pi05_tiny" else ()
        tiny_checkpoint(run / "checkpoints/000007", DATASET, kind=kind, cameras=cameras)
        (run / "checkpoints/last").symlink_to("000007")
        made[kind] = run
    return made


@pytest.fixture
def copy_of(originals: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A run that may be damaged; gives its checkpoint."""

    def copy(kind: str) -> Path:
        run = Path(shutil.copytree(originals[kind], tmp_path / kind, symlinks=True))
        return run / "checkpoints/000007"

    return copy


def edit(path: Path, change: Callable[[dict], None]) -> None:
    """Change the tensors of a file."""
    state = load_file(path)
    change(state)
    save_file(state, path)


# Where a checkpoint is.


def test_run_checkpoint_and_pretrained_model_are_the_same(originals):
    run = originals["state_flow"]
    expected = CheckpointFolder(run / "checkpoints/000007/pretrained_model", run / "checkpoints/000007/critic")
    for path in (run, run / "checkpoints/000007", run / "checkpoints/last", expected.pretrained, str(run)):
        found = CheckpointFolder.find(path)
        assert found.pretrained.resolve() == expected.pretrained.resolve(), path
        assert found.critic is not None and found.critic.resolve() == expected.critic.resolve(), path


def test_a_run_means_its_newest_checkpoint(originals, tmp_path):
    run = Path(shutil.copytree(originals["state_flow"], tmp_path / "run", symlinks=True))
    shutil.copytree(run / "checkpoints/000007", run / "checkpoints/000014")
    assert CheckpointFolder.find(run).pretrained.parent.name == "000007"
    (run / "checkpoints/last").unlink()
    (run / "checkpoints/last").symlink_to("000014")
    assert CheckpointFolder.find(run).pretrained.parent.name == "000014"


def test_a_lerobot_checkpoint_has_no_critic(copy_of, tmp_path):
    """Flat, as on the Hub; a critic that was uploaded with it lies inside."""
    checkpoint = copy_of("state_flow")
    flat = Path(shutil.copytree(checkpoint / "pretrained_model", tmp_path / "flat"))
    assert CheckpointFolder.find(flat) == CheckpointFolder(flat, None)
    loaded = load_checkpoint(flat, device="cpu")
    assert loaded.critic is None and loaded.critic_layers == () and loaded.settings == {}
    shutil.copytree(checkpoint / "critic", flat / "critic")
    assert CheckpointFolder.find(flat) == CheckpointFolder(flat, flat / "critic")


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("pretrained_model/config.json", "holds no checkpoint: no pretrained_model/config.json and no config.json"),
        ("pretrained_model/model.safetensors", "has no model.safetensors; the checkpoint is incomplete"),
        ("pretrained_model", "holds no checkpoint"),
    ],
)
def test_incomplete_checkpoints(copy_of, remove, message):
    checkpoint = copy_of("state_flow")
    gone = checkpoint / remove
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(UsageError, match=message):
        CheckpointFolder.find(checkpoint)


def test_places_without_a_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="holds no checkpoint"):
        CheckpointFolder.find(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="holds no checkpoint"):
        CheckpointFolder.find(tmp_path / "file")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match="is a run without a checkpoint yet"):
        CheckpointFolder.find(tmp_path)
    (tmp_path / "checkpoints/last").symlink_to("000009")
    with pytest.raises(UsageError, match="is a run without a checkpoint yet"):
        CheckpointFolder.find(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/such/folder", "there is no run or checkpoint at 'no/such/folder' yet"),
        ("runs/sft", "there is no run or checkpoint at 'runs/sft' yet; train it first"),
        ("nobody/nothing", "no folder 'nobody/nothing', and the model could not be fetched from the Hub"),
    ],
)
def test_paths_that_lead_nowhere(path, message):
    if path == "nobody/nothing":
        assert is_hub_id(path)
    with pytest.raises(UsageError, match=message) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


# What is loaded.


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_the_saved_one(originals, kind):
    loaded = load_checkpoint(originals[kind], device="cpu")
    folder = CheckpointFolder.find(originals[kind])
    state = loaded.actor.policy.state_dict()
    saved = load_file(folder.pretrained / "model.safetensors")
    assert saved.keys() <= state.keys()
    assert all(torch.equal(state[n], t) for n, t in saved.items())
    assert not loaded.actor.policy.training and not loaded.critic.training
    assert loaded.actor.type == {"pi05_tiny": "pi05"}.get(kind, kind)
    critic = load_file(folder.critic / "model.safetensors")
    assert critic.keys() == loaded.critic.state_dict().keys()
    assert all(torch.equal(loaded.critic.state_dict()[n], t) for n, t in critic.items())
    for name in ("trajectory_weight", "subtask_weight", "discount", "advantage_steps", "reward_kind"):
        assert loaded.settings[name] == CRITIC_SETTINGS[name]
    assert loaded.critic_layers == tuple(loaded.settings["layers"])
    assert len(loaded.critic.former.blocks) == len(loaded.critic_layers)


def test_a_loaded_checkpoint_acts_and_judges(originals):
    """From a raw observation to the robot's units, and to three numbers of the critic."""
    loaded = load_checkpoint(originals["state_flow"], device="cpu")
    batch = loaded.preprocess({"observation.state": torch.randn(2, 5)})
    actions = loaded.postprocess(loaded.actor.sample(batch, torch.randn(2, loaded.actor.chunk_size, 6)))
    assert actions.shape == (2, loaded.actor.chunk_size, 6)
    with torch.no_grad():
        output = loaded.critic(loaded.actor.prefix(batch, loaded.critic_layers).features)
    assert output.trajectory.shape == (2,)


def test_the_tokenizer_of_a_tiny_policy_travels_with_it(originals):
    """The folder alone is enough: no name of a tokenizer, no Hub."""
    folder = CheckpointFolder.find(originals["pi05_tiny"]).pretrained
    assert (folder / "tokenizer").is_dir()
    loaded = load_checkpoint(originals["pi05_tiny"], device="cpu")
    text = "put the cube into the box, ~ü"
    own = loaded.actor.writer.tokenizer
    assert own(text)["input_ids"] == byte_tokenizer()(text)["input_ids"]
    assert (own.bos_token_id, own.eos_token_id, own.pad_token_id) == (2, 1, 0)
    assert own.decode(own(text)["input_ids"], skip_special_tokens=True) == text
    observation = {
        "observation.state": torch.zeros(1, 5),
        CAMERA: torch.zeros(1, 3, 48, 64),
        "task": ["fold the shirt"],
    }
    tokens = loaded.preprocess(dict(observation))["observation.language.tokens"]
    assert "fold the shirt" in own.decode(tokens[0], skip_special_tokens=True)


def test_a_tokenizer_of_the_recipe_goes_before_the_saved_one(originals):
    folder = CheckpointFolder.find(originals["pi05_tiny"]).pretrained
    other = byte_tokenizer()
    pre, _, found = load_processors(load_config(folder), folder, other)
    assert found is other and tokenizer_of(pre) is other
    loaded = load_checkpoint(originals["pi05_tiny"], device="cpu", text=TextSettings(max_tokens=3))
    assert loaded.actor.writer.max_tokens == 3


def test_a_policy_without_words_has_no_tokenizer(originals):
    folder = CheckpointFolder.find(originals["state_flow"]).pretrained
    assert load_processors(load_config(folder), folder)[2] is None
    assert not (folder / "tokenizer").exists()


# What is refused.


def weights_of(checkpoint: Path) -> Path:
    return checkpoint / "pretrained_model/model.safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_tensor(copy_of, kind):
    checkpoint = copy_of(kind)
    names = sorted(n for n in load_file(weights_of(checkpoint)) if n.endswith(".weight") and "norm" not in n)[:2]
    edit(weights_of(checkpoint), lambda state: [state.pop(n) for n in names])
    with pytest.raises(IgrftError, match="does not fit .*Policy: 'model.* and 1 more are not in it") as error:
        load_checkpoint(checkpoint, device="cpu")
    assert str(weights_of(checkpoint)) in str(error.value) and any(n in str(error.value) for n in names)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_too_many(copy_of, kind):
    checkpoint = copy_of(kind)
    edit(weights_of(checkpoint), lambda state: state.update({"model.strange.weight": torch.ones(2)}))
    with pytest.raises(IgrftError, match=r"holds 'model\.strange\.weight', which the model has not"):
        load_checkpoint(checkpoint, device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_of_another_shape(copy_of, kind):
    checkpoint = copy_of(kind)
    name = {"state_flow": "model.head.out.bias", "pi05_tiny": "model.action_out_proj.bias"}[kind]
    edit(weights_of(checkpoint), lambda state: state.update({name: state[name][1:].clone()}))
    with pytest.raises(IgrftError, match=rf"'{name}' is \[\d+\] there and \[\d+\] in the model; give the policy the"):
        load_checkpoint(checkpoint, device="cpu")


def test_sizes_that_are_not_the_checkpoints(copy_of):
    checkpoint = copy_of("state_flow")
    path = checkpoint / "pretrained_model/config.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "width": value["width"] * 2}))
    with pytest.raises(IgrftError, match=r"is \[\d+(, \d+)?\] there and \[\d+(, \d+)?\] in the model"):
        load_checkpoint(checkpoint, device="cpu")
    path.write_text(json.dumps({**value, "num_blocks": value["num_blocks"] + 1}))
    with pytest.raises(IgrftError, match=r"'model\.encoder\.blocks\.3\..* more are not in it"):
        load_checkpoint(checkpoint, device="cpu")


def test_weights_of_another_policy(copy_of):
    checkpoint, other = copy_of("state_flow"), copy_of("pi05_tiny")
    shutil.copy(weights_of(other), weights_of(checkpoint))
    with pytest.raises(IgrftError, match="does not fit StateFlowPolicy: it holds 'model.action_in_proj"):
        load_checkpoint(checkpoint, device="cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"type": "act"}', "unknown policy type 'act'"),
        ('{"type": "state_flo"}', "unknown policy type 'state_flo'; did you mean 'state_flow'"),
        ("{}", "unknown policy type 'None'"),
        ('{"type": "state_', "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"type": "state_flow", "widht": 3}', "cannot be read"),
    ],
)
def test_a_configuration_that_nobody_knows(copy_of, content, message):
    checkpoint = copy_of("state_flow")
    (checkpoint / "pretrained_model/config.json").write_text(content)
    with pytest.raises(UsageError, match=f"config.json.* ?{message}") as error:
        load_checkpoint(checkpoint, device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 5, 2000, -1])
def test_a_truncated_file(copy_of, keep):
    checkpoint = copy_of("state_flow")
    path = weights_of(checkpoint)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IgrftError, match="cannot be read .*; take another checkpoint") as error:
        load_checkpoint(checkpoint, device="cpu")
    assert "\n" not in str(error.value)


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(IgrftError, match="is missing; the checkpoint is incomplete"):
        read_weights(tmp_path / "model.safetensors")


def test_processors_that_are_gone(copy_of):
    checkpoint = copy_of("state_flow")
    (checkpoint / "pretrained_model/policy_preprocessor.json").unlink()
    with pytest.raises(IgrftError, match=r"pretrained_model has no policy_preprocessor\.json") as error:
        load_checkpoint(checkpoint, device="cpu")
    assert "\n" not in str(error.value)


def test_a_critic_that_does_not_fit(copy_of):
    critic = copy_of("state_flow") / "critic"
    edit(critic / "model.safetensors", lambda state: state.pop("former.queries"))
    with pytest.raises(IgrftError, match="does not fit Critic: 'former.queries' and 0 more are not in it"):
        load_critic(critic)
    value = json.loads((critic / "config.json").read_text())
    value["critic"]["hidden"] *= 2
    (critic / "config.json").write_text(json.dumps(value))
    with pytest.raises(IgrftError, match=r"does not fit Critic: '.*' is \[.*\] there and \[.*\] in the model"):
        load_critic(critic)


# Filling.


class Tied(nn.Module):
    """One weight under two names, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("steps", torch.zeros(1))


def test_a_refused_state_leaves_the_module_as_it_was():
    module = nn.Linear(2, 2)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    for state in (
        {"weight": torch.ones(2, 2)},
        {"weight": torch.ones(2, 2), "bias": torch.ones(3)},
        {"weight": torch.ones(2, 2), "bias": torch.ones(2), "x": torch.ones(1)},
    ):
        with pytest.raises(IgrftError):
            fill(module, state, Path("w"))
        assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())


def test_tied_weights_are_stored_once():
    module = Tied()
    fill(module, {"second.weight": torch.ones(2, 2), "steps": torch.ones(1)}, Path("w"))
    assert (module.first.weight == 1).all() and module.first.weight is module.second.weight
    with pytest.raises(IgrftError, match="'first.weight' and 1 more are not in it"):
        fill(module, {"steps": torch.ones(1)}, Path("w"))
    with pytest.raises(IgrftError, match="'steps' and 0 more are not in it"):
        fill(module, {"first.weight": torch.ones(2, 2)}, Path("w"))


def test_weights_take_the_models_type():
    module = nn.Linear(2, 1).bfloat16()
    fill(module, {"weight": torch.tensor([[0.5, 1.25]]), "bias": torch.tensor([2.0])}, Path("w"))
    assert module.weight.dtype == torch.bfloat16 and module.weight.tolist() == [[0.5, 1.25]]


def test_older_names_of_a_pi05(originals, tmp_path):
    """openpi's weights lack the prefix and the word embeddings, and have a head of words instead."""
    folder = CheckpointFolder.find(originals["pi05_tiny"]).pretrained
    saved = load_file(folder / "model.safetensors")
    head = "model.paligemma_with_expert.paligemma.lm_head.weight"
    words = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    old = {n.removeprefix("model."): t for n, t in saved.items() if n != words}
    save_file(old, tmp_path / "model.safetensors")
    torch.manual_seed(9)
    policy = build_policy(load_config(folder))
    load_weights(policy, tmp_path / "model.safetensors")
    state = policy.state_dict()
    assert all(torch.equal(state[n], t) for n, t in saved.items() if n != words)
    assert torch.equal(state[words], saved[head])
