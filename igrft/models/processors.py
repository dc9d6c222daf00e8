"""LeRobot's pre- and postprocessors of a policy: made from statistics, saved and read back.

A tokenizer that was handed over as an object (a tiny model's own) is saved beside the processors, since
LeRobot saves only the names of tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igrft.errors import IgrftError

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig

TOKENIZER = "tokenizer"
PREPROCESSOR = "policy_preprocessor.json"


def make_processors(config: PreTrainedConfig, stats: Mapping[str, Any], tokenizer: Any = None) -> tuple[Any, Any, Any]:
    """(preprocessor, postprocessor, tokenizer) of a policy that starts from a dataset's statistics.

    Args:
        tokenizer: an object to use instead of the one that LeRobot would load by name.
    """
    from lerobot.policies.factory import make_pre_post_processors

    if config.type.startswith("pi05"):
        from igrft.models.pi05_processors import make_processors as make

        pre, post = make(config, stats, tokenizer)
    else:
        pre, post = make_pre_post_processors(config, dataset_stats=dict(stats))
    return pre, post, tokenizer_of(pre)


def load_processors(config: PreTrainedConfig, folder: Path, tokenizer: Any = None) -> tuple[Any, Any, Any]:
    """(preprocessor, postprocessor, tokenizer) as saved beside a policy, on the policy's device.

    Raises:
        IgrftError: none are there, or their tokenizer cannot be had.
    """
    from lerobot.policies.factory import make_pre_post_processors

    if not (folder / PREPROCESSOR).is_file():
        raise IgrftError(f"{folder} has no {PREPROCESSOR}; the checkpoint is of an older LeRobot, or incomplete")
    overrides: dict[str, Any] = {"device_processor": {"device": config.device}}
    if tokenizer is None and (folder / TOKENIZER).is_dir():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER)
    if tokenizer is not None and "tokenizer_processor" in (folder / PREPROCESSOR).read_text(encoding="utf-8"):
        overrides["tokenizer_processor"] = {"tokenizer": tokenizer}
    try:
        pre, post = make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=overrides)
    except Exception as error:
        raise IgrftError(f"{folder}: the processors cannot be read: {' '.join(str(error).split())}") from None
    return pre, post, tokenizer_of(pre)


def save_processors(pre: Any, post: Any, folder: Path) -> None:
    """Write both as LeRobot does, and the tokenizer where it has no name."""
    pre.save_pretrained(folder)
    post.save_pretrained(folder)
    step = _tokenizer_step(pre)
    if step is not None and step.tokenizer is not None:
        step.tokenizer.save_pretrained(folder / TOKENIZER)


def name_tokenizer(pre: Any, name: str) -> None:
    """Have the name of a tokenizer saved, so that LeRobot alone can read the processors back."""
    step = _tokenizer_step(pre)
    if step is not None:
        step.tokenizer_name, step.tokenizer = name, None


def tokenizer_of(pre: Any) -> Any:
    """The tokenizer that a preprocessor uses, or None."""
    step = _tokenizer_step(pre)
    return None if step is None else step.input_tokenizer


def _tokenizer_step(pre: Any) -> Any:
    from lerobot.processor import TokenizerProcessorStep

    return next((s for s in pre.steps if isinstance(s, TokenizerProcessorStep)), None)
