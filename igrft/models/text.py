"""Target tokens: the subtask that a language model learns to write, and the FAST tokens of its actions.

A row of targets is the subtask's tokens, the end token, then the action tokens. A row without a subtask
holds its action tokens alone, as they would follow the stock prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from igrft.errors import IgrftError, UsageError
from igrft.models.protocol import TextTargets
from igrft.training.recipe import TextSettings

#: The name of :func:`byte_tokenizer` in recipes.
BYTES = "bytes"

#: Ids at the end of PaliGemma's vocabulary that LeRobot leaves free before FAST tokens (ActionTokenizerProcessorStep).
FAST_SKIP_TOKENS = 128

#: Special tokens in front of the 256 bytes; the first three stand where PaliGemma's do.
_SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")


def byte_tokenizer() -> Any:
    """A tokenizer with one token a byte, built in memory: for tiny models, and where nothing can be downloaded.

    Returns:
        transformers.PreTrainedTokenizerFast of 260 tokens: pad 0, eos 1, bos 2, unk 3, then the bytes. It puts bos
        before a text, as PaliGemma's does, and is saved and loaded like any other.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    pad, eos, bos, unk = _SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=eos,
        bos_token=bos,
        unk_token=unk,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(name: str) -> Any:
    """A tokenizer: ``bytes``, a folder, or an id on the Hub.

    Raises:
        IgrftError: it cannot be had.
    """
    if name == BYTES:
        return byte_tokenizer()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise no_tokenizer(name, error) from None


def no_tokenizer(name: str, error: Exception) -> IgrftError:
    """The error of a tokenizer that cannot be had."""
    return IgrftError(
        f"the tokenizer {name!r} cannot be loaded ({_short(error)}); give a folder that holds it: --text.tokenizer=DIR"
    )


def load_action_tokenizer(name: str) -> Any:
    """A FAST tokenizer from a folder or the Hub. Its code comes with it and is run, as LeRobot does.

    Raises:
        IgrftError: it cannot be had.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(name, trust_remote_code=True)
    except Exception as error:
        raise IgrftError(
            f"the FAST tokenizer {name!r} cannot be loaded ({_short(error)}); give a folder that holds it: "
            "--text.action_tokenizer=DIR, or leave action tokens out: --text.action_tokenizer=null"
        ) from None


class TargetWriter:
    """Turns subtasks and actions into target tokens, and tokens back into subtasks.

    Args:
        tokenizer: a transformers tokenizer with an end token.
        vocabulary: tokens that the language model can write.
        action_tokenizer: takes float32 [B, chunk, dim] and gives B lists of ids from 0 (FAST); None leaves action
            tokens out.
        max_tokens: targets of a row; the rest is cut.
        skip: ids left free at the end of the vocabulary; action token i is vocabulary - 1 - skip - i.

    Raises:
        UsageError: no end token, a tokenizer larger than the vocabulary, or no room for a token.
    """

    def __init__(
        self,
        tokenizer: Any,
        vocabulary: int,
        *,
        action_tokenizer: Callable[[Any], Sequence[Sequence[int]]] | None = None,
        max_tokens: int = 64,
        skip: int = FAST_SKIP_TOKENS,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise UsageError("the tokenizer has no end token; take one that has: --text.tokenizer")
        if tokenizer.vocab_size > vocabulary:
            raise UsageError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the language model {vocabulary}; "
                "take the model's own: --text.tokenizer"
            )
        if max_tokens < 1:
            raise UsageError(f"text.max_tokens must be at least 1, got {max_tokens}")
        self.tokenizer = tokenizer
        self.action_tokenizer = action_tokenizer
        self.max_tokens = max_tokens
        self._first_action = vocabulary - 1 - skip
        # A tokenizer that fills the vocabulary gives up its last words (places in pictures, for PaliGemma).
        self._last_action = 0 if tokenizer.vocab_size == vocabulary else len(tokenizer)
        self._known: dict[str, list[int]] = {}

    @property
    def end(self) -> int:
        """The id of the end token."""
        return int(self.tokenizer.eos_token_id)

    def __call__(
        self, texts: Sequence[str], actions: Tensor | None = None, device: torch.device | str | None = None
    ) -> TextTargets | None:
        """Target tokens of a batch.

        Args:
            texts: subtask of each sample, "" where there is none.
            actions: normalised, float [B, chunk, dim]; used only where there is an action tokenizer.

        Returns:
            int64 and bool [B, L], L that of the longest row; None where no row has a token.

        Raises:
            UsageError: an action token outside the room that the vocabulary has for them.
        """
        rows = [self._text(t) for t in texts]
        if self.action_tokenizer is not None and actions is not None:
            rows = [r + a for r, a in zip(rows, self._actions(actions), strict=True)]
        rows = [r[: self.max_tokens] for r in rows]
        length = max((len(r) for r in rows), default=0)
        if not length:
            return None
        tokens = torch.zeros(len(rows), length, dtype=torch.int64)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = True
        return TextTargets(tokens.to(device), mask.to(device))

    def read(self, tokens: Sequence[int]) -> str:
        """The text of tokens up to the end token."""
        ids = list(tokens)
        if self.end in ids:
            ids = ids[: ids.index(self.end)]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _text(self, text: str) -> list[int]:
        if not text:
            return []
        if text not in self._known:
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            self._known[text] = [*map(int, ids), self.end]
        return self._known[text]

    def _actions(self, actions: Tensor) -> list[list[int]]:
        assert self.action_tokenizer is not None
        found = self.action_tokenizer(actions.detach().float().cpu().numpy())
        rows = [[self._first_action - int(t) for t in row] for row in found]
        low, high = min((min(r) for r in rows if r), default=0), max((max(r) for r in rows if r), default=0)
        if any(rows) and (low < self._last_action or high > self._first_action):
            raise UsageError(
                f"the action tokenizer wrote token {self._first_action - low}, and the language model has room for "
                f"{max(0, self._first_action - self._last_action + 1)} behind its words; leave action tokens out: "
                "--text.action_tokenizer=null"
            )
        return rows


def make_writer(settings: TextSettings | None, vocabulary: int, default: str, tokenizer: Any = None) -> TargetWriter:
    """The writer that a recipe asks for.

    Args:
        default: name of the tokenizer where neither ``settings`` nor ``tokenizer`` gives one.
        tokenizer: an object that goes before ``default``, the preprocessor's own for instance.

    Raises:
        IgrftError: a tokenizer that cannot be had.
    """
    chosen = settings or TextSettings()
    if chosen.tokenizer is not None or tokenizer is None:
        tokenizer = load_tokenizer(chosen.tokenizer or default)
    fast = None if chosen.action_tokenizer is None else load_action_tokenizer(chosen.action_tokenizer)
    return TargetWriter(tokenizer, vocabulary, action_tokenizer=fast, max_tokens=chosen.max_tokens)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
