"""Subtask text of the SmolVLA actor: its loss, that nothing of it leaks, and the subtasks that it writes."""

from __future__ import annotations

import pytest
import torch
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from models.tiny_smolvlm import draws, tiny_batch, tiny_policy, write_backbone

from igrft.models.protocol import TextTargets
from igrft.models.smolvla import SmolVLAActor
from igrft.training.recipe import TextSettings

TEXTS = ["reach the cup", "", "lift"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("smolvlm"))


@pytest.fixture(scope="module", params=[-1, 40], ids=["plain", "padded_prefix"])
def actor(backbone, request):
    """Not to be changed by tests."""
    return SmolVLAActor(tiny_policy(backbone, train_expert_only=False, prefix_length=request.param))


def next_token(policy, batch, row, tokens):
    """Logits [V] behind one observation and some tokens, with every mask written out and nothing padded."""
    both = policy.model.vlm_with_expert
    words = int(batch[OBS_LANGUAGE_ATTENTION_MASK][row].sum())
    one = {k: v[row : row + 1] for k, v in batch.items()}
    images, masks = policy.prepare_images(one)
    language = one[OBS_LANGUAGE_TOKENS][:, :words], one[OBS_LANGUAGE_ATTENTION_MASK][:, :words]
    embedded, _, _ = policy.model.embed_prefix(images, masks, *language, state=policy.prepare_state(one))
    state = len(images) + words  # the state token's place
    embedded = embedded[:, : state + 1]
    written = both.embed_language_tokens(torch.tensor([tokens], dtype=torch.int64)) * 32**0.5
    places = torch.arange(state + 1 + len(tokens))
    sees = (places[None, :] < state) | ((places[:, None] >= state) & (places[None, :] <= places[:, None]))
    out, _ = both.forward(
        attention_mask=sees[None],
        position_ids=places[None],
        inputs_embeds=[torch.cat([embedded, written], dim=1), None],
        use_cache=True,
    )
    return both.vlm.lm_head(out[0][0, -1])


def test_targets_are_the_subtasks_tokens_and_an_end(actor):
    tokenizer = actor.policy.model.vlm_with_expert.processor.tokenizer
    targets = actor.text_targets(TEXTS)
    assert targets.tokens.shape == (3, 14) and targets.mask.sum(dim=1).tolist() == [14, 0, 5]
    assert targets.tokens[2, :5].tolist() == [*tokenizer("lift")["input_ids"], tokenizer.eos_token_id]
    assert actor.text_targets(["", "", ""]) is None
    short = SmolVLAActor(actor.policy, TextSettings(max_tokens=3)).text_targets(TEXTS)
    assert short.mask.sum(dim=1).tolist() == [3, 0, 3]
    bytes_ = SmolVLAActor(actor.policy, TextSettings(tokenizer="bytes")).text_targets(TEXTS)
    assert bytes_.tokens.shape == (3, 14) and not torch.equal(bytes_.tokens, targets.tokens)
    given = SmolVLAActor(actor.policy, None, tokenizer).text_targets(TEXTS)
    assert torch.equal(given.tokens, targets.tokens)


def test_the_text_loss_is_that_of_the_language_model_token_by_token(actor):
    batch, targets = tiny_batch(), actor.text_targets(TEXTS)
    prefix = actor.prefix(batch, (), targets)
    assert prefix.text_loss.dtype == torch.float32 and prefix.text_loss[1] == 0 and prefix.text_correct[1] == 0
    for row in (0, 2):
        tokens = targets.tokens[row][targets.mask[row]].tolist()
        logits = torch.stack([next_token(actor.policy, batch, row, tokens[:j]) for j in range(len(tokens))])
        wanted = torch.tensor(tokens)
        expected = torch.nn.functional.cross_entropy(logits, wanted)
        torch.testing.assert_close(prefix.text_loss[row], expected, atol=1e-5, rtol=1e-5)
        assert prefix.text_correct[row] == pytest.approx((logits.argmax(dim=-1) == wanted).float().mean().item())
    assert not prefix.text_correct.requires_grad
    assert actor.prefix(batch, ()).text_loss is None


def test_nothing_of_the_targets_leaks(actor):
    batch, (noise, time) = tiny_batch(), draws()
    targets = actor.text_targets(TEXTS)
    other = TextTargets(targets.tokens.flip(1), targets.mask)
    plain, first, second = (actor.prefix(batch, (0, 3), t) for t in (None, targets, other))
    assert not torch.equal(first.text_loss, second.text_loss)
    errors = [actor.flow_error(p, batch[ACTION], noise, time) for p in (plain, first, second)]
    assert torch.equal(errors[1], errors[2])
    torch.testing.assert_close(errors[0], errors[1], atol=1e-5, rtol=1e-5)
    real = plain.features.mask
    for a, b, c in zip(*(p.features.keys + p.features.values for p in (plain, first, second)), strict=True):
        # Padding attends to all alike, and nothing attends to padding.
        assert torch.equal(b[real], c[real])
        torch.testing.assert_close(a[real], b[real], atol=1e-5, rtol=1e-5)
    assert torch.equal(plain.features.mask, first.features.mask)


def test_the_text_trains_the_language_model_and_not_the_expert(actor):
    actor.prefix(tiny_batch(), (), actor.text_targets(TEXTS)).text_loss.mean().backward()
    found = {n: 0.0 if p.grad is None else float(p.grad.abs().sum()) for n, p in actor.policy.named_parameters()}
    still = {n for n, p in actor.policy.named_parameters() if not p.requires_grad}
    actor.policy.zero_grad(set_to_none=True)
    assert all(g == 0 for n, g in found.items() if "lm_expert" in n or "model.action_" in n)
    assert all(g > 0 for n, g in found.items() if "text_model.layers" in n and n not in still)
    # LeRobot freezes what its flow loss does not reach, and so it stays.
    assert any("lm_head" in n for n in still) and any("text_model.layers.3." in n for n in still)


def test_text_written_token_by_token_is_what_one_pass_predicts(actor):
    batch = tiny_batch()
    with torch.no_grad():
        written = actor._write(batch, 6, end=-1)
    assert written.shape == (3, 6)
    prefix = actor.prefix(batch, (), TextTargets(written, torch.ones_like(written, dtype=torch.bool)))
    assert prefix.text_correct.tolist() == [1, 1, 1]


def test_it_learns_to_write_the_subtask_of_a_prompt(backbone):
    policy = tiny_policy(backbone, train_expert_only=False)
    policy.requires_grad_(True)
    actor, batch = SmolVLAActor(policy), tiny_batch()
    wanted = ["reach", "lift it", "put"]
    targets = actor.text_targets(wanted)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    for _ in range(60):
        loss = actor.prefix(batch, (), targets).text_loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert actor.generate_subtasks(batch) == wanted
    assert actor.generate_subtasks(batch, max_tokens=3) == ["rea", "lif", "put"]
    assert policy.training


def test_the_stock_policys_actions_do_not_change(actor):
    batch, (noise, _) = tiny_batch(), draws()
    before = actor.sample(batch, noise[:, 0])
    actor.prefix(batch, (0,), actor.text_targets(TEXTS))
    actor.generate_subtasks(batch, max_tokens=2)
    assert torch.equal(actor.sample(batch, noise[:, 0]), before)
