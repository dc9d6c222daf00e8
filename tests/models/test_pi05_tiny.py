"""The tiny π0.5 as LeRobot's own tools see it, and its processors."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors
from lerobot.policies.pi05.processor_pi05 import make_pi05_pre_post_processors
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from tiny_pi05 import draws, tiny_batch, tiny_config, tiny_policy

from igrft.errors import IgrftError, UsageError
from igrft.models.pi05 import Pi05Actor
from igrft.models.pi05_processors import make_processors
from igrft.models.pi05_tiny import TinyPI05Config, TinyPI05Policy
from igrft.models.protocol import at_fractions
from igrft.models.text import byte_tokenizer


def default_config() -> TinyPI05Config:
    """Default sizes, a robot of 14 joints with two cameras."""
    inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (14,))}
    inputs |= {f"observation.images.cam{i}": PolicyFeature(FeatureType.VISUAL, (3, 20, 30)) for i in range(2)}
    return TinyPI05Config(
        device="cpu",
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (14,))},
    )


def statistics(state: int, dim: int) -> dict:
    def of(width: int) -> dict:
        low, high = -torch.arange(1.0, width + 1), torch.arange(2.0, width + 2)
        return {"q01": low, "q99": high, "min": low, "max": high, "mean": high + low, "std": high - low}

    return {"observation.state": of(state), "action": of(dim)}


def raw_batch(state: int, dim: int, chunk: int, rows: int = 2) -> dict:
    return {
        "observation.state": torch.linspace(-1, 1.5, rows * state).reshape(rows, state),
        "observation.images.cam0": torch.rand(rows, 3, 20, 30),
        "observation.images.cam1": torch.rand(rows, 3, 20, 30),
        "action": torch.linspace(-2, 2, rows * chunk * dim).reshape(rows, chunk, dim),
        "task": ["Put the_cup down", "reach"][:rows],
    }


def test_lerobots_factories_know_it():
    config = make_policy_config("pi05_tiny", device="cpu", depth=2)
    assert type(config) is TinyPI05Config and config.type == "pi05_tiny" and config.depth == 2
    assert get_policy_class("pi05_tiny") is TinyPI05Policy
    before, after = make_pre_post_processors(tiny_config(), dataset_stats=statistics(5, 6))
    assert before.steps and after.steps


def test_default_sizes():
    policy = TinyPI05Policy(default_config())
    assert sum(p.numel() for p in policy.parameters()) < 1_000_000
    assert at_fractions((11, 14, 17), Pi05Actor(policy).depth) == (3, 4, 5)


def test_a_training_step_is_quick():
    """Forward and backward of 8 samples, both passes and the text loss, in processor time of one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    policy = TinyPI05Policy(default_config()).train()
    actor, (noise, at) = Pi05Actor(policy), (torch.randn(8, 1, 10, 16), torch.rand(8, 1))
    batch = tiny_batch((100,) * 8, length=160) | {"action": torch.randn(8, 10, 14)}
    targets = actor.text_targets(["reach the cup"] * 8)
    seconds = []
    for _ in range(6):
        start = time.process_time()
        prefix = actor.prefix(batch, (3, 4, 5), targets)
        loss = actor.flow_error(prefix, batch["action"], noise, at).mean() + prefix.text_loss.mean()
        loss.backward()
        seconds.append(time.process_time() - start)
    torch.set_num_threads(before)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_and_loaded_it_acts_the_same(tmp_path, dtype):
    """With LeRobot's own loader, which copies ``lm_head`` over the embeddings where those are not in the file."""
    policy = tiny_policy(dtype=dtype)
    policy.save_pretrained(tmp_path)
    loaded = TinyPI05Policy.from_pretrained(tmp_path)
    assert type(PreTrainedConfig.from_pretrained(tmp_path)) is TinyPI05Config
    own, other = policy.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[n], other[n]) for n in own)
    both = loaded.model.paligemma_with_expert.paligemma
    assert not torch.equal(both.lm_head.weight, both.model.language_model.embed_tokens.weight)
    if dtype == "float32":
        batch, noise = tiny_batch(), draws(3)[0][:, 0]
        assert torch.equal(
            policy.predict_action_chunk(batch, noise=noise), loaded.predict_action_chunk(batch, noise=noise)
        )


def test_wrong_sizes_are_refused():
    with pytest.raises(UsageError, match="head_width must be even, got 5"):
        tiny_config(head_width=5)
    with pytest.raises(UsageError, match=r"image_resolution must be a square whose side 14 .* got \[28, 30\]"):
        tiny_config(image_resolution=(28, 30))


def test_processors_are_lerobots_own(tmp_path, monkeypatch):
    """A folder of the name that LeRobot asks the Hub for stands in for PaliGemma's tokenizer."""
    monkeypatch.chdir(tmp_path)
    byte_tokenizer().save_pretrained(Path("google/paligemma-3b-pt-224"))
    config, stats = tiny_config(), statistics(5, 6)
    config.tokenizer_max_length = 64
    ours, stock = make_processors(config, stats), make_pi05_pre_post_processors(config, stats)
    for mine, theirs in zip(ours, stock, strict=True):
        assert [type(s) for s in mine.steps] == [type(s) for s in theirs.steps]
        assert [s.get_config() for s in mine.steps if "tokenizer_name" not in str(s)] == [
            s.get_config() for s in theirs.steps if "tokenizer_name" not in str(s)
        ]
    batch = raw_batch(5, 6, 4)
    mine, theirs = (pipeline(dict(batch)) for pipeline in (ours[0], stock[0]))
    assert mine.keys() == theirs.keys()
    for key in ("observation.state", "action", OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK):
        assert torch.equal(mine[key], theirs[key])
    words = mine[OBS_LANGUAGE_TOKENS][1][mine[OBS_LANGUAGE_ATTENTION_MASK][1]]
    assert byte_tokenizer().decode(words, skip_special_tokens=True).startswith("Task: reach, State: ")
    assert torch.equal(ours[1](mine["action"]), stock[1](theirs["action"]))


def test_the_full_size_asks_for_its_tokenizer_by_name(tmp_path, monkeypatch):
    from lerobot.policies.pi05.configuration_pi05 import PI05Config

    config = PI05Config(
        device="cpu",
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (5,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IgrftError, match="google/paligemma-3b-pt-224"):
        make_processors(config, statistics(5, 6))
    byte_tokenizer().save_pretrained(Path("google/paligemma-3b-pt-224"))
    before, _ = make_processors(config, statistics(5, 6))
    named = [s.get_config()["tokenizer_name"] for s in before.steps if "tokenizer_name" in s.get_config()]
    assert named == ["google/paligemma-3b-pt-224"]
    given, _ = make_processors(config, statistics(5, 6), byte_tokenizer())
    assert not any("tokenizer_name" in s.get_config() for s in given.steps)


def test_the_whole_way_from_raw_observations_to_actions():
    policy = TinyPI05Policy(default_config())
    before, after = make_processors(policy.config, statistics(14, 14))
    batch = before(raw_batch(14, 14, 10))
    actor = Pi05Actor(policy)
    targets = actor.text_targets(["reach", "put"], batch["action"])
    prefix = actor.prefix(batch, (3, 4, 5), targets)
    assert prefix.text_loss.shape == (2,)
    assert after(actor.sample(batch)).shape == (2, 10, 14)
