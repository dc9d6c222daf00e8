"""What strict loading takes for granted of LeRobot."""

from __future__ import annotations

from pathlib import Path

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors.torch import load_file, save_file
from tiny_actor import one_thread  # noqa: F401
from tiny_pi05 import tiny_policy

from igrft.models.pi05_tiny import TinyPI05Policy


def test_pi05s_own_loading_gives_random_weights_where_the_checkpoint_does_not_fit(tmp_path: Path, capsys):
    """Why igrft loads weights itself: a warning is printed, and nothing is raised, strict or not."""
    policy = tiny_policy(cameras=1)
    policy.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    del state["model.action_out_proj.weight"]
    save_file(state, path)
    torch.manual_seed(5)
    loaded = TinyPI05Policy.from_pretrained(tmp_path, strict=True)
    assert "Could not load state dict" in capsys.readouterr().out
    assert not torch.equal(loaded.model.action_out_proj.weight, policy.model.action_out_proj.weight)


def test_pi05_fixes_older_names_in_a_method_of_its_own():
    policy = tiny_policy(cameras=1)
    state = policy.state_dict()
    fixed = policy._fix_pytorch_state_dict_keys({**state, "state_proj.weight": torch.ones(1)}, policy.config)
    assert fixed.keys() == state.keys()
    assert all(torch.equal(fixed[n], t) for n, t in state.items())


def test_a_state_that_is_handed_over_is_what_is_saved(tmp_path: Path):
    """In one file under the stock names: how averages and merged adapters are saved."""
    policy = tiny_policy(cameras=1)
    other = {n: t + 1 for n, t in policy.state_dict().items()}
    policy.save_pretrained(tmp_path, state_dict=other)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".safetensors") == ["model.safetensors"]
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == other.keys() and all(torch.equal(saved[n], t) for n, t in other.items())
    assert issubclass(TinyPI05Policy, PreTrainedPolicy)


def test_the_word_embeddings_come_after_the_head_of_words(tmp_path: Path):
    """LeRobot copies the head over the embeddings while it reads names in order; ours must have the last word."""
    policy = tiny_policy(cameras=1)
    policy.save_pretrained(tmp_path)
    names = [n for n in load_file(tmp_path / "model.safetensors") if n.endswith(("lm_head.weight", "tokens.weight"))]
    vlm = [n for n in names if ".paligemma." in n]
    assert [n.rsplit(".", 2)[1] for n in vlm] in (["lm_head", "embed_tokens"], ["lm_head"])
