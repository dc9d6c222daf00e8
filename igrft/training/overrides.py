"""Dotted overrides, applied to a recipe's YAML: draccus knows none into lists."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import yaml

from igrft.errors import UsageError
from igrft.models.actors import POLICY_TYPES, register_policy
from igrft.training import recipe
from igrft.training.recipe import Recipe


def apply(tree: dict[str, Any], override: str, cls: type[Any] = Recipe) -> None:
    """Set ``a.b.0.c=value`` in place; missing mappings, and the next entry of a list, are made.

    A setting that is text is taken as it stands (``007`` is no number there); any other is read as YAML.

    Args:
        cls: the recipe's dataclass.

    Raises:
        UsageError: not of this form, or a place that cannot be.
    """
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise UsageError(f"override {override!r} is not of the form --KEY=VALUE")
    fields = _fields(tree, parts, cls)
    value = _read(text, fields[-1])
    node: Any = tree
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        above = ".".join(parts[:i])
        child: Any = part
        if isinstance(node, list):
            child = _entry(node, part, key, above)
        elif not isinstance(node, dict):
            raise UsageError(f"override --{key}: {above} is a value, it has no key {part!r}")
        elif not last and node.get(part) is None:
            node[part] = _empty(fields[i], parts[i + 1])
        if last:
            node[child] = value
            return
        node = node[child]


def _entry(node: list[Any], part: str, key: str, where: str) -> int:
    if not part.isdecimal():
        raise UsageError(f"override --{key}: {where} is a list; number its entry")
    at = int(part)
    if at > len(node):
        raise UsageError(f"override --{key}: {where} has only {len(node)} entries")
    if at == len(node):
        node.append({})
    return at


def _empty(field: dataclasses.Field[Any] | None, following: str) -> Any:
    """What stands where nothing stood: the setting's default list, or an empty list or mapping."""
    if not following.isdecimal():
        return {}
    default = field.default_factory if field is not None else dataclasses.MISSING
    return list(default()) if callable(default) else []


def _fields(tree: dict[str, Any], parts: list[str], cls: Any) -> list[dataclasses.Field[Any] | None]:
    """The dataclass field at each part of a path; None in lists and where there is none."""
    found: list[dataclasses.Field[Any] | None] = []
    for part in parts:
        if part.isdecimal():
            found.append(None)
            continue
        fields = {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
        found.append(fields.get(part))
        hint = typing.get_type_hints(cls).get(part) if part in fields else None
        cls = _policy(tree) if is_policy(hint) else inside(hint)
    return found


def inside(hint: Any) -> Any:
    """The dataclass that a field of this type holds: itself, in a list or beside None; None where it holds none."""
    inner = [hint, *typing.get_args(hint)]
    return next((h for h in inner if isinstance(h, type) and dataclasses.is_dataclass(h)), None)


def is_policy(hint: Any) -> bool:
    """Whether a field of this type holds LeRobot's configuration of a policy (see ``know_policies``)."""
    config = recipe.PreTrainedConfig
    return config is not Any and config in (hint, *typing.get_args(hint))


def _policy(tree: dict[str, Any]) -> Any:
    """The configuration class of the recipe's policy, as far as the YAML says."""
    from lerobot.configs import PreTrainedConfig

    kind = (tree.get("policy") or {}).get("type") if isinstance(tree.get("policy"), dict) else None
    if kind not in POLICY_TYPES:
        return PreTrainedConfig
    register_policy(kind)
    return PreTrainedConfig.get_choice_class(kind)


def _read(text: str, field: dataclasses.Field[Any] | None) -> Any:
    kind: Any = field.type if field is not None else None
    # Text under `from __future__ import annotations`, as here; types in LeRobot's modules.
    names = kind.split("|") if isinstance(kind, str) else [t.__name__ for t in typing.get_args(kind) or [kind] if t]
    told = {n.strip() for n in names}
    if "str" in told and told <= {"str", "None", "NoneType", "Path"}:
        return None if text in ("null", "~", "") and told != {"str"} else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
