"""Which adapter serves which of LeRobot's policies."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from igrft.errors import IgrftError, UsageError, did_you_mean

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.pretrained import PreTrainedPolicy

    from igrft.models.protocol import Actor
    from igrft.training.recipe import TextSettings

#: Policy type → module that registers its configuration, module and class of its adapter.
_HOMES = {
    "pi05": ("lerobot.policies.pi05", "igrft.models.pi05", "Pi05Actor"),
    "pi05_tiny": ("igrft.models.pi05_tiny", "igrft.models.pi05", "Pi05Actor"),
    "smolvla": ("lerobot.policies.smolvla", "igrft.models.smolvla", "SmolVLAActor"),
    "state_flow": ("igrft.models.state_flow", "igrft.models.state_flow", "StateFlowActor"),
}

#: Policies that ``igrft train`` knows.
POLICY_TYPES = tuple(_HOMES)
#: Those that look at low-dimensional state alone, and have no language model.
_STATE_ONLY = frozenset({"state_flow"})


def looks_at_pictures(policy_type: str) -> bool:
    """Whether policies of this type want pictures, and have a language model."""
    return policy_type not in _STATE_ONLY


def register_policy(kind: str) -> None:
    """Make a policy type known to LeRobot's configuration registry. Imports of one type cost seconds, so not all.

    Raises:
        UsageError: igrft has no adapter for it.
    """
    _refuse_unknown(kind)
    importlib.import_module(_HOMES[kind][0])


def build_policy(config: PreTrainedConfig) -> PreTrainedPolicy:
    """A policy with random weights. ``config`` knows its features."""
    from lerobot.policies.factory import get_policy_class

    _refuse_unknown(config.type)
    try:
        return get_policy_class(config.type)(config)
    except OSError as error:
        raise IgrftError(
            f"policy {config.type!r}: a model it is built on could not be fetched "
            f"({' '.join(str(error).split())[:200]}); fetch it where there is a network, or name a folder that holds it"
        ) from None


def make_actor(policy: PreTrainedPolicy, text: TextSettings | None = None, tokenizer: Any = None) -> Actor:
    """The adapter of a policy.

    Raises:
        UsageError: a policy that igrft has no adapter for.
    """
    kind = policy.config.type
    _refuse_unknown(kind)
    _, module, name = _HOMES[kind]
    cls = getattr(importlib.import_module(module), name)
    actor: Actor = cls(policy, text, tokenizer)
    return actor


def _refuse_unknown(kind: str) -> None:
    if kind not in _HOMES:
        raise UsageError(f"unknown policy type {kind!r}{did_you_mean(kind, POLICY_TYPES)}")
