"""Reads recipes: YAML, then dotted overrides, then draccus into :class:`igrft.training.recipe.Recipe`, or into the
dataclass of another verb's recipes.

Overrides with list indices are applied to the YAML, since draccus refuses them. Keys are checked here,
before draccus, so that an unknown one is named together with its near miss. LeRobot is imported only for what a
policy's configuration says, and once all else was found right.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import yaml

from igrft.errors import UsageError, did_you_mean
from igrft.models.actors import POLICY_TYPES, register_policy
from igrft.resources import find
from igrft.training import overrides as overrides_
from igrft.training.recipe import STAGES, Recipe, know_policies

#: Stages whose recipes are not run by ``igrft train``.
_OTHER_VERBS = {"eval": "igrft eval", "record": "igrft record"}


class HasStage(Protocol):
    """A recipe: a dataclass whose defaults alone make one."""

    stage: str


@overload
def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe: ...
@overload
def load_recipe[R: HasStage](name_or_path: str, overrides: Sequence[str], cls: type[R]) -> R: ...
def load_recipe(name_or_path: str, overrides: Sequence[str] = (), cls: type[Any] = Recipe) -> Any:
    """Read a recipe that comes with the toolkit by its name, or a file.

    Args:
        overrides: ``a.b.0.c=value``, as after ``--`` on the command line.
        cls: dataclass of the recipe; its default ``stage`` says whose it is.

    Raises:
        UsageError: no such recipe, not YAML, a stage of another verb, an unknown key (naming the near miss), a bad
            value.
    """
    path, value = _found(name_or_path, cls)
    return recipe_from(value, overrides, str(path), cls)


def check_keys(name_or_path: str, overrides: Sequence[str] = (), cls: type[Any] = Recipe) -> None:
    """Look for what :func:`load_recipe` refuses, but for a policy's own settings and values: in no time, since
    nothing of LeRobot's is imported.

    Raises:
        UsageError: as there.
    """
    path, value = _found(name_or_path, cls)
    _check_keys(_copied(value), overrides, str(path), cls)


def _found(name_or_path: str, cls: type[Any]) -> tuple[Path, dict[str, Any]]:
    path = find("recipes", name_or_path)
    value = read_yaml(path)
    # Before the keys: another verb's recipe has others.
    _refuse_stage(str(value.get("stage", cls().stage)), name_or_path, cls().stage)
    return path, value


def _check_keys(tree: dict[str, Any], overrides: Sequence[str], where: str, cls: type[Any]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if not key.startswith("policy.") or key == "policy.type":
            overrides_.apply(tree, override, cls)
    _check(tree, cls, where, "")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UsageError: it is none."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, Mapping):
        raise UsageError(f"{path} holds no mapping of settings")
    return dict(value)


@overload
def recipe_from(value: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "recipe") -> Recipe: ...
@overload
def recipe_from[R: HasStage](value: Mapping[str, Any], overrides: Sequence[str], where: str, cls: type[R]) -> R: ...
def recipe_from(
    value: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "recipe", cls: type[Any] = Recipe
) -> Any:
    """A recipe from a mapping and overrides.

    Args:
        cls: as in :func:`load_recipe`.

    Raises:
        UsageError: see :func:`load_recipe`.
    """
    import draccus
    from draccus.utils import DraccusException

    _check_keys(_copied(value), overrides, where, cls)
    if any(field.name == "policy" for field in dataclasses.fields(cls)):
        know_policies()
    tree: dict[str, Any] = _copied(value)
    for override in overrides:
        overrides_.apply(tree, override, cls)
    _check(tree, cls, where, "")
    _refuse_device(tree, where)
    # LeRobot warns on every configuration that names no device.
    logging.getLogger("lerobot.configs.policies").setLevel(logging.ERROR)
    try:
        return draccus.decode(cls, _numbers(tree))
    except (DraccusException, ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"{where}: {_one_line(_cause(error))}") from None


def _refuse_device(tree: Mapping[str, Any], where: str) -> None:
    """LeRobot would go on on the processor, with a warning."""
    device = str((tree.get("policy") or {}).get("device") or "")
    if not device.startswith("cuda"):
        return
    import torch

    if not torch.cuda.is_available():
        raise UsageError(f"{where}: policy.device is {device}, and PyTorch finds no GPU here")


def resolved_yaml(recipe: HasStage) -> str:
    """The recipe with every default filled in, as it was run."""
    return yaml.safe_dump(resolved(recipe), sort_keys=False, allow_unicode=True)


def resolved(recipe: HasStage) -> dict[str, Any]:
    """The same as JSON."""
    import draccus

    # Through JSON: LeRobot's enumerations are text to it, and unknown objects to YAML.
    out: dict[str, Any] = json.loads(json.dumps(draccus.encode(recipe)))
    return out


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def _check(tree: Mapping[str, Any], cls: type, where: str, prefix: str) -> None:
    """Refuse unknown keys, whatever their depth."""
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    for key, value in tree.items():
        if key not in known:
            raise UsageError(f"{where}: unknown key {prefix + key!r}{did_you_mean(key, known)}")
        name, inner = prefix + key, overrides_.inside(hints[key])
        if name == "policy":
            _check_policy(value, where, whole=overrides_.is_policy(hints[key]))
        elif inner is None or (value is None and type(None) in typing.get_args(hints[key])):
            continue
        elif typing.get_origin(hints[key]) is list:
            _check_list(value, inner, where, name)
        elif not isinstance(value, Mapping):
            raise UsageError(f"{where}: {name!r} must be a mapping, got {value!r}")
        else:
            _check(value, inner, where, name + ".")


def _check_policy(value: Any, where: str, whole: bool) -> None:
    """Refuse unknown types, and where LeRobot is at hand (``whole``) unknown keys."""
    if not isinstance(value, Mapping) or "type" not in value:
        raise UsageError(f"{where}: 'policy' needs a 'type': {', '.join(POLICY_TYPES)}")
    if value["type"] not in POLICY_TYPES:
        near = did_you_mean(str(value["type"]), POLICY_TYPES)
        raise UsageError(f"{where}: unknown policy type {value['type']!r}{near}")
    if not whole:
        return
    from lerobot.configs import PreTrainedConfig

    register_policy(value["type"])
    known = [f.name for f in dataclasses.fields(PreTrainedConfig.get_choice_class(value["type"]))]
    for key in value:
        if key != "type" and key not in known:
            raise UsageError(f"{where}: policy {value['type']!r} has no key {key!r}{did_you_mean(key, known)}")


def _check_list(value: Any, cls: type, where: str, name: str) -> None:
    if not isinstance(value, list):
        raise UsageError(f"{where}: {name!r} must be a list, got {value!r}")
    for i, entry in enumerate(value):
        if not isinstance(entry, Mapping):
            raise UsageError(f"{where}: '{name}.{i}' must be a mapping, got {entry!r}")
        _check(entry, cls, where, f"{name}.{i}.")


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 5e-5 as text: make numbers of what can only be one."""
    if isinstance(value, Mapping):
        return {k: v if k in _TEXT else _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            number = float(value)
            return int(number) if number.is_integer() else number
        except ValueError:
            return value
    return value


#: Settings that are text whatever they look like.
_TEXT = frozenset({"root", "repo_id", "init_from", "output_dir", "name", "project", "entity"}) | frozenset(
    {"tokenizer", "action_tokenizer", "targets", "full", "checkpoint", "path", "task", "curve", "baseline"}
)


def _cause(error: BaseException) -> BaseException:
    """The reason at the bottom: draccus says only that a class could not be made."""
    while "instantiate class" in str(error) and (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def refuse_other_verbs(recipe: Recipe, name: str, stages: Sequence[str]) -> None:
    """Raises UsageError: the recipe's stage is unknown, or another verb's."""
    _refuse_stage(recipe.stage, name, recipe.stage if recipe.stage in stages else stages[0])


def _refuse_stage(stage: str, name: str, wanted: str) -> None:
    """Refuse a recipe whose verb is not that of ``wanted``."""
    verb, own = _OTHER_VERBS.get(stage), _OTHER_VERBS.get(wanted)
    if own is None and verb is not None:
        raise UsageError(f"{name}: stage {stage!r} is not trained; run: {verb} {name}")
    if own is None and stage not in STAGES:
        raise UsageError(f"{name}: unknown stage {stage!r}{did_you_mean(stage, STAGES)}")
    if own is not None and stage != wanted:
        told = f"; run: {verb or 'igrft train'} {name}" if verb or stage in STAGES else ""
        raise UsageError(f"{name}: {own} runs recipes of stage {wanted!r}, and this is of stage {stage!r}{told}")
