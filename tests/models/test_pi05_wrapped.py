"""The actor inside what a trainer wraps policies in: FSDP, low-rank adapters."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tiny_pi05 import draws, gradients, largest_difference, tiny_batch, tiny_policy
from torch import nn

from igrft.models.pi05 import Pi05Actor
from igrft.models.protocol import TextTargets

TARGETS = TextTargets(
    torch.tensor([[7, 200, 31, 1], [0, 0, 0, 0], [90, 1, 0, 0]]),
    torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool),
)


class Root(nn.Module):
    """Both passes and both losses, as a trainer's module runs them."""

    def __init__(self, policy, with_text: bool) -> None:
        super().__init__()
        self.policy = policy
        self.with_text = with_text

    def forward(self, batch, noise, time):
        actor = Pi05Actor(self.policy)
        prefix = actor.prefix(batch, (1, 2), TARGETS if self.with_text else None)
        loss = actor.flow_error(prefix, batch["action"], noise, time).mean()
        return loss + prefix.text_loss.mean() if self.with_text else loss


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_sharded_parameters_give_the_same_gradients(one_process, with_text, checkpointing):
    """Every layer a unit of its own, the rest in the root, as accelerate does it."""
    from torch.distributed.fsdp import fully_shard

    batch, (noise, time) = tiny_batch(), draws(3, 2)
    plain = Root(tiny_policy(gradient_checkpointing=checkpointing), with_text)
    loss = plain(batch, noise, time)
    expected = gradients(plain, loss)
    sharded = Root(tiny_policy(gradient_checkpointing=checkpointing), with_text)
    both = sharded.policy.model.paligemma_with_expert
    for layer in [*both.paligemma.model.language_model.layers, *both.gemma_expert.model.layers]:
        fully_shard(layer, mesh=one_process)
    fully_shard(sharded, mesh=one_process)
    again = sharded(batch, noise, time)
    torch.testing.assert_close(again, loss, rtol=1e-5, atol=1e-6)
    found = {n: getattr(g, "full_tensor", lambda g=g: g)() for n, g in gradients(sharded, again).items()}
    assert largest_difference(found, expected) < 1e-5


def test_adapters_get_gradients_in_every_layer():
    from peft import LoraConfig, inject_adapter_in_model

    policy = tiny_policy()
    actor, batch, (noise, time) = Pi05Actor(policy), tiny_batch(), draws(3)
    before = actor.flow_error(actor.prefix(batch, ()), batch["action"], noise, time)
    targets = r".*language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"
    inject_adapter_in_model(LoraConfig(r=2, target_modules=targets), policy)
    prefix = actor.prefix(batch, (), TARGETS)
    after = actor.flow_error(prefix, batch["action"], noise, time)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    (after.mean() + prefix.text_loss.mean()).backward()
    trained = {n for n, p in policy.named_parameters() if "lora_B" in n and p.grad is not None and p.grad.any()}
    assert len(trained) == 3 * 4


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_give_the_same_gradients(checkpointing):
    """One graph a kind of layer and of shape, whatever the number of layers."""
    from torch._dynamo.utils import counters

    batch, (noise, time) = tiny_batch(), draws(3, 2)
    for with_text in (False, True):
        plain = Root(tiny_policy(gradient_checkpointing=checkpointing, depth=5), with_text)
        loss = plain(batch, noise, time)
        compiled = Root(tiny_policy(gradient_checkpointing=checkpointing, depth=5, compile_model=True), with_text)
        again = compiled(batch, noise, time)
        torch.testing.assert_close(again, loss, rtol=1e-5, atol=1e-5)
        assert largest_difference(gradients(compiled, again), gradients(plain, loss)) < 1e-5
    assert counters["stats"]["unique_graphs"] <= 16 and not counters["graph_break"]
