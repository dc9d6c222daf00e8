"""Reads trained checkpoints: LeRobot's ``pretrained_model`` folder, and the critic that stands beside it.

Weights that do not fit are an error. LeRobot's own ``PI05Policy.from_pretrained`` prints a warning and
returns random weights instead, so the weights are loaded here, with its key fixes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from igrft.errors import IgrftError, UsageError
from igrft.models.actors import build_policy, make_actor, register_policy
from igrft.models.critic import Critic, CriticConfig
from igrft.models.processors import load_processors

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig

    from igrft.models.protocol import Actor, Batch
    from igrft.training.recipe import TextSettings

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PRETRAINED = "pretrained_model"
CRITIC = "critic"
CHECKPOINTS = "checkpoints"
LAST = "last"
#: First parts of paths that are folders of runs, never owners on the Hub.
_OUR_FOLDERS = frozenset({"", ".", "..", "~", "runs", "outputs", "checkpoints"})


@dataclass(frozen=True)
class CheckpointFolder:
    """Where the parts of a checkpoint lie. ``critic`` is None where there is none."""

    pretrained: Path
    critic: Path | None

    @classmethod
    def find(cls, path: str | Path) -> CheckpointFolder:
        """A run's folder (its newest checkpoint), one checkpoint, a ``pretrained_model`` folder, or a Hub id.

        Raises:
            UsageError: nothing of the kind is there.
        """
        root = Path(path).expanduser()
        if is_hub_id(path):
            root = _download(str(path))
        if (root / CHECKPOINTS).is_dir():
            last = root / CHECKPOINTS / LAST
            if not last.exists():
                raise UsageError(f"{root} is a run without a checkpoint yet; let it train to its first one")
            root = last.resolve()
        pretrained = root / PRETRAINED if (root / PRETRAINED).is_dir() else root
        if not (pretrained / CONFIG).is_file():
            raise UsageError(f"{path} holds no checkpoint: no {PRETRAINED}/{CONFIG} and no {CONFIG} in it")
        if not (pretrained / WEIGHTS).is_file():
            raise UsageError(f"{pretrained} has no {WEIGHTS}; the checkpoint is incomplete")
        for beside in (pretrained.parent / CRITIC, pretrained / CRITIC):
            if (beside / WEIGHTS).is_file():
                return cls(pretrained, beside)
        return cls(pretrained, None)


@dataclass
class Loaded:
    """A trained actor, ready for inference, with its critic where there is one.

    Attributes:
        preprocess: LeRobot's preprocessor with the checkpoint's own normalisation.
        postprocess: actions back into the robot's units.
        critic_layers: layers to hand to ``actor.prefix`` for the critic.
        settings: what the critic learnt: weights of the two values, discount, N, kind of reward.
    """

    actor: Actor
    preprocess: Callable[[Batch], Batch]
    postprocess: Callable[[Tensor], Tensor]
    critic: Critic | None
    critic_layers: tuple[int, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def load_checkpoint(path: str | Path, *, device: str | None = None, text: TextSettings | None = None) -> Loaded:
    """Load what ``igrft train`` saved, or any LeRobot checkpoint of a policy that igrft knows.

    Args:
        device: where to; None is the accelerator if there is one.

    Raises:
        UsageError: no checkpoint there, or of a policy without an adapter.
        IgrftError: weights that do not fit.
    """
    folder = CheckpointFolder.find(path)
    config = load_config(folder.pretrained)
    config.device = device or config.device
    policy = build_policy(config)
    load_weights(policy, folder.pretrained / WEIGHTS)
    policy.to(config.device)
    policy.eval()
    pre, post, tokenizer = load_processors(config, folder.pretrained)
    loaded = Loaded(make_actor(policy, text, tokenizer), pre, post, None)
    if folder.critic is not None:
        loaded.critic, loaded.settings = load_critic(folder.critic)
        loaded.critic.to(config.device).eval()
        loaded.critic_layers = tuple(loaded.settings["layers"])
    return loaded


def load_config(pretrained: Path) -> PreTrainedConfig:
    """The policy's configuration.

    Raises:
        UsageError: a policy that neither LeRobot nor igrft knows.
    """
    from lerobot.configs import PreTrainedConfig

    try:
        kind = json.loads((pretrained / CONFIG).read_text(encoding="utf-8")).get("type")
        register_policy(str(kind))
        return PreTrainedConfig.from_pretrained(pretrained, local_files_only=True)
    except UsageError as error:
        raise UsageError(f"{pretrained / CONFIG}: {error}") from None
    except Exception as error:
        raise UsageError(f"{pretrained / CONFIG} cannot be read: {' '.join(str(error).split())}") from None


def load_critic(folder: Path) -> tuple[Critic, dict[str, Any]]:
    """The critic in ``folder`` and its settings.

    Raises:
        IgrftError: weights that do not fit.
    """
    try:
        settings: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        critic = Critic(CriticConfig(**settings["critic"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IgrftError(
            f"{folder / CONFIG} is not the configuration of a critic ({' '.join(str(error).split())}); take another "
            "checkpoint"
        ) from None
    fill(critic, read_weights(folder / WEIGHTS), folder / WEIGHTS)
    return critic, settings


def load_weights(policy: nn.Module, path: Path) -> None:
    """Load a policy's weights strictly, with LeRobot's own fixes of older key names.

    Raises:
        IgrftError: unreadable, or not of this architecture; names the first tensor that does not fit.
    """
    state = read_weights(path)
    if hasattr(policy, "_fix_pytorch_state_dict_keys"):
        fix: Any = policy._fix_pytorch_state_dict_keys
        state = fix(state, policy.config)
        state = {k if k.startswith("model.") else f"model.{k}": v for k, v in state.items()}
    fill(policy, state, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises IgrftError: missing or damaged."""
    try:
        return load_file(path, device="cpu")
    except FileNotFoundError:
        raise IgrftError(f"{path} is missing; the checkpoint is incomplete") from None
    except (SafetensorError, OSError) as error:
        raise IgrftError(f"{path} cannot be read ({' '.join(str(error).split())}); take another checkpoint") from None


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy ``state`` into a module that must have exactly these tensors.

    A tensor that shares its memory with one that was given (tied weights, which safetensors stores once)
    may be absent.

    Raises:
        IgrftError: a tensor is missing, of another shape, or unknown.
    """
    own = module.state_dict()
    what = type(module).__name__
    for name, tensor in state.items():
        if name not in own:
            raise IgrftError(f"{path} does not fit {what}: it holds {name!r}, which the model has not")
        if own[name].shape != tensor.shape:
            raise IgrftError(
                f"{path} does not fit {what}: {name!r} is {list(tensor.shape)} there and {list(own[name].shape)} in "
                "the model; give the policy the sizes that the checkpoint was made with"
            )
    held = {own[name].data_ptr() for name in state if own[name].numel()}
    missing = [n for n in own if n not in state and own[n].numel() and own[n].data_ptr() not in held]
    if missing:
        raise IgrftError(f"{path} does not fit {what}: {missing[0]!r} and {len(missing) - 1} more are not in it")
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def is_hub_id(path: str | Path) -> bool:
    """Whether ``path`` can only be the id of a model on the Hub: OWNER/NAME or OWNER/NAME@REVISION, and no folder here.

    Raises:
        UsageError: it names a folder that is not there.
    """
    text = str(path)
    if Path(text).expanduser().exists():
        return False
    owner, slash, name = text.partition("/")
    if not slash or not re.fullmatch(r"[\w.-]+(@[\w./-]+)?", name) or owner in _OUR_FOLDERS or Path(owner).is_dir():
        raise UsageError(f"there is no run or checkpoint at {text!r} yet; train it first, or name another one")
    return True


def _download(name: str) -> Path:
    """A model of the Hub, at a revision where one is named, from the cache where it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo_id, _, revision = name.partition("@")
    wanted = ["*.json", "*.safetensors", f"{CRITIC}/*", f"{PRETRAINED}/*"]
    try:
        return Path(snapshot_download(repo_id, revision=revision or None, allow_patterns=wanted))
    except (HFValidationError, ValueError):
        raise UsageError(f"no folder {name!r}, and it is no id of a model on the Hub (OWNER/NAME)") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(
            f"no folder {name!r}, and the model could not be fetched from the Hub: {' '.join(str(error).split())[:300]}"
        ) from None
