"""Tokenizers and target tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from igrft.errors import IgrftError, UsageError
from igrft.models.text import TargetWriter, byte_tokenizer, load_action_tokenizer, load_tokenizer, make_writer
from igrft.training.recipe import TextSettings

TOKENIZER = byte_tokenizer()


class Fast:
    """The interface of a FAST tokenizer: float32 [B, H, D] to lists of ids."""

    def __call__(self, actions: np.ndarray) -> list[list[int]]:
        assert actions.dtype == np.float32 and actions.ndim == 3
        return [[int(x) for x in row.flatten()] for row in actions]


def test_byte_tokenizer():
    assert len(TOKENIZER) == TOKENIZER.vocab_size == 260
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.bos_token_id) == (0, 1, 2)
    batch = TOKENIZER(["ab", "é"], padding="max_length", max_length=5, padding_side="right", return_tensors="pt")
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert batch["input_ids"][:, 0].tolist() == [2, 2] and batch["input_ids"][0, 3:].tolist() == [0, 0]


@given(st.text(max_size=20))
def test_byte_tokenizer_gives_every_text_back(text):
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(ids) == text
    assert all(4 <= i < 260 for i in ids) and len(ids) == len(text.encode())


def test_byte_tokenizer_is_saved_and_loaded(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    text = "Task: reach, State: 12 200;\nAction: "
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(str(tmp_path))):
        assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text
    assert load_tokenizer("bytes")(text)["input_ids"] == TOKENIZER(text)["input_ids"]


def test_targets_are_text_end_and_actions():
    writer = TargetWriter(TOKENIZER, 512, action_tokenizer=Fast(), max_tokens=6)
    actions = torch.tensor([[[0.0, 3.0]], [[1.0, 2.0]], [[5.0, 0.0]]], dtype=torch.float64)
    found = writer(["ab", "", "abcdefgh"], actions)
    words = TOKENIZER("abcdefgh", add_special_tokens=False)["input_ids"]
    # 512 - 1 - 128 = 383 is action token 0.
    assert found.tokens.tolist() == [[*words[:2], 1, 383, 380, 0], [382, 381, 0, 0, 0, 0], words[:6]]
    assert found.mask.sum(1).tolist() == [5, 2, 6]
    assert found.tokens.dtype == torch.int64 and found.mask.dtype == torch.bool
    assert writer(["ab", ""]).tokens.tolist() == [[*words[:2], 1], [0, 0, 0]]
    assert writer.read(found.tokens[0].tolist()) == "ab"


def test_no_text_and_no_actions_are_no_targets():
    writer = TargetWriter(TOKENIZER, 512)
    assert writer(["", ""], torch.zeros(2, 3, 1)) is None
    assert writer([]) is None


def test_reading_stops_at_the_end_token():
    writer = TargetWriter(TOKENIZER, 512)
    ids = TOKENIZER(" put it ", add_special_tokens=False)["input_ids"]
    assert writer.read([*ids, 1, *ids]) == "put it"
    assert writer.read([1, 383]) == "" and writer.read(ids[:4]) == "put"


def test_action_tokens_need_room_behind_the_words():
    writer = TargetWriter(TOKENIZER, 512, action_tokenizer=Fast())
    assert writer([""], torch.full((1, 1, 1), 123.0)).tokens.tolist() == [[260]]
    with pytest.raises(UsageError, match="wrote token 124, and the language model has room for 124"):
        writer([""], torch.full((1, 1, 1), 124.0))
    with pytest.raises(UsageError, match="text.action_tokenizer=null"):
        writer([""], torch.full((1, 1, 1), -1.0))


def test_a_tokenizer_that_fills_the_vocabulary_gives_up_its_last_words():
    """As PaliGemma's does: action token 0 stands 129 before the end."""
    writer = TargetWriter(TOKENIZER, 260, action_tokenizer=Fast())
    assert writer([""], torch.tensor([[[0.0, 100.0]]])).tokens.tolist() == [[131, 31]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="260 tokens and the language model 100"):
        TargetWriter(TOKENIZER, 100)
    with pytest.raises(UsageError, match="max_tokens must be at least 1"):
        TargetWriter(TOKENIZER, 512, max_tokens=0)
    endless = byte_tokenizer()
    endless.eos_token = None
    with pytest.raises(UsageError, match="no end token"):
        TargetWriter(endless, 512)


def test_settings_choose_the_tokenizer(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    own = byte_tokenizer()
    assert make_writer(None, 512, "nowhere", own).tokenizer is own
    assert make_writer(TextSettings(), 512, "bytes").tokenizer.vocab_size == 260
    chosen = make_writer(TextSettings(tokenizer=str(tmp_path), max_tokens=3), 512, "nowhere", own)
    assert chosen.tokenizer is not own and chosen.max_tokens == 3


def test_what_cannot_be_had_says_so():
    with pytest.raises(IgrftError, match=r"tokenizer 'no/such' cannot be loaded .*--text.tokenizer=DIR"):
        load_tokenizer("no/such")
    with pytest.raises(IgrftError, match=r"FAST tokenizer 'no/such' cannot be loaded .*--text.action_tokenizer=DIR"):
        load_action_tokenizer("no/such")


CODE = '''
from transformers.processing_utils import ProcessorMixin


class Rounding(ProcessorMixin):
    """Each number of a chunk is a token."""

    attributes = []

    def __init__(self, step=1.0):
        self.step = step
        super().__init__()

    def __call__(self, actions):
        return [[int(round(float(x) / self.step)) for x in row.flatten()] for row in actions]
'''


def test_a_fast_tokenizer_is_loaded_with_its_code(tmp_path: Path):
    """As LeRobot loads it: AutoProcessor and the code that lies beside the weights."""
    (tmp_path / "rounding.py").write_text(CODE)
    settings = {"processor_class": "Rounding", "auto_map": {"AutoProcessor": "rounding.Rounding"}, "step": 0.5}
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    tokenizer = load_action_tokenizer(str(tmp_path))
    writer = TargetWriter(TOKENIZER, 512, action_tokenizer=tokenizer)
    assert writer(["", ""], torch.tensor([[[1.0]], [[0.5]]])).tokens.tolist() == [[381], [382]]
    made = make_writer(TextSettings(action_tokenizer=str(tmp_path)), 512, "bytes")
    assert made.action_tokenizer is not None
