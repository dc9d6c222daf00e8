"""π0.5 at full size, on shapes alone: what a checkpoint of it would hold, and what it would take."""

from __future__ import annotations

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature

from igrft.models.actors import build_policy
from igrft.training.lora import add_adapters, count, merged_state
from igrft.training.recipe import LoraSettings
from igrft.training.recipe_file import load_recipe


@pytest.fixture(scope="module")
def full_config():
    config = load_recipe("sft", ["datasets.0.root=x"]).policy
    config.input_features = {
        "observation.state": PolicyFeature(FeatureType.STATE, (14,)),
        "observation.images.base": PolicyFeature(FeatureType.VISUAL, (3, 224, 224)),
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (14,))}
    config.device = "meta"
    return config


def lay_out(config):
    with torch.device("meta"):
        return build_policy(config)


def test_a_checkpoint_has_the_stock_policys_tensors(full_config) -> None:
    """Names, shapes and dtypes of ``PI05Policy``, so that its own from_pretrained finds all of them."""
    policy = lay_out(full_config)
    assert type(policy).__name__ == "PI05Policy"
    stock = {n: (t.shape, t.dtype) for n, t in policy.state_dict().items()}
    assert count(policy)[0] > 3.5e9
    assert {n: (t.shape, t.dtype) for n, t in merged_state(policy, {}).items()} == stock
    averages = {n: torch.empty_like(p, dtype=torch.float32) for n, p in policy.named_parameters()}
    assert {n: (t.shape, t.dtype) for n, t in merged_state(policy, averages).items()} == stock
    add_adapters(policy, LoraSettings(rank=8))
    assert {n: (t.shape, t.dtype) for n, t in merged_state(policy, {}).items()} == stock


def test_adapters_train_the_expert_and_nothing_else_of_the_weights(full_config) -> None:
    policy = lay_out(full_config)
    add_adapters(policy, LoraSettings(rank=8))
    trained = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert trained
    for name in trained:
        assert ".lora_" in name or "gemma_expert" in name or name.split(".")[1].startswith(("action_", "time_")), name
    assert sum(".lora_A." in n for n in trained) == 18 * 7
