"""Pipeline files: YAML in, a list of steps out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from igrft.cluster.settings import Executor, read_executor
from igrft.errors import UsageError, did_you_mean
from igrft.resources import find, folder
from igrft.steps.base import Step
from igrft.steps.registry import STEP_TYPES, step_class


@dataclass(frozen=True)
class Pipeline:
    """A named list of steps, as the file has them (not yet expanded or resolved), and where they run."""

    name: str
    steps: tuple[Step, ...]
    executor: Executor = field(default_factory=Executor)


def load_pipeline(name_or_path: str, overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline file, or one that comes with the toolkit by its name.

    Args:
        name_or_path: ``offline``, or a path.
        overrides: ``steps.TYPE.KEY=VALUE`` and ``executor.KEY=VALUE``, as after ``--`` on the command line. Paths in
            them are relative to the working directory, paths in the file to the file.

    Raises:
        UsageError: no such file, not YAML, an unknown step or key (naming the near miss), a bad value.
    """
    path = find("pipelines", name_or_path)
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, Mapping) or not isinstance(value.get("steps"), list) or not value["steps"]:
        raise UsageError(f"{path} needs a list of 'steps'")
    for key in value:
        if key not in ("steps", "executor"):
            raise UsageError(f"{path} has an unknown key {key!r}{did_you_mean(str(key), ['steps', 'executor'])}")
    where_it_runs = [o for o in overrides if o.startswith("executor.")]
    executor = read_executor(value.get("executor") or {}, where_it_runs, str(path))
    entries = [_entry(e, path) for e in value["steps"]]
    made = _built(path.stem, entries, [o for o in overrides if o not in where_it_runs], str(path))
    return dataclasses.replace(made, executor=executor)


def recorded_pipeline(record: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "the record") -> Pipeline:
    """The pipeline that a dataset was labelled with, as its ``meta/igrft.json`` has it, for other data of its kind.

    A record holds names of files, not paths. Task files that come with the toolkit are found again by theirs; any
    other file must be named by an override. Steps that a trained critic makes are left out.

    Args:
        record: ``pipeline`` of the record.
        overrides: as of :func:`load_pipeline`.

    Raises:
        UsageError: the record names no pipeline, or a file that is not found.
    """
    entries = [dict(step) for step in record.get("steps", []) if step.get("type") != "values"]
    if not entries:
        raise UsageError(f"{where} names no pipeline")
    named = {override.partition("=")[0] for override in overrides}
    for entry in entries:
        for key in getattr(_class(str(entry.get("type")), where), "paths", ()):
            name = entry.get(key)
            if not isinstance(name, str) or f"steps.{entry['type']}.{key}" in named:
                continue
            found = folder("pipelines") / "tasks" / name
            if not found.is_file():
                raise UsageError(
                    f"{where} names {name!r} for {key!r} of step {entry['type']!r}, and not where it lies; give "
                    f"steps.{entry['type']}.{key}=PATH"
                )
            entry[key] = str(found)
    return _built(str(record.get("name")), entries, overrides, where)


def _built(name: str, entries: list[dict[str, Any]], overrides: Sequence[str], where: str) -> Pipeline:
    for override in overrides:
        _apply(override, entries)
    return Pipeline(name, tuple(build_step(e, where) for e in entries))


def _entry(entry: Any, path: Path) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
        raise UsageError(f"{path}: every step needs a 'type', got {entry!r}")
    found = dict(entry)
    cls = _class(found["type"], str(path))
    for key in getattr(cls, "paths", ()):
        if isinstance(found.get(key), str):
            found[key] = str((path.parent / Path(found[key]).expanduser()).resolve())
    return found


def _apply(override: str, entries: list[dict[str, Any]]) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or len(parts) != 3 or parts[0] != "steps":
        raise UsageError(f"override {override!r} is not of the form --steps.TYPE.KEY=VALUE or --executor.KEY=VALUE")
    found = [e for e in entries if e["type"] == parts[1]]
    if not found:
        near = did_you_mean(parts[1], [e["type"] for e in entries])
        raise UsageError(f"override {override!r}: the pipeline has no step {parts[1]!r}{near}")
    if len(found) > 1:
        raise UsageError(
            f"override {override!r}: the pipeline has {len(found)} steps {parts[1]!r}; edit the file instead"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if parts[2] in getattr(_class(parts[1], "the command line"), "paths", ()) and isinstance(value, str):
        value = str(Path(value).expanduser().resolve())
    found[0][parts[2]] = value


def _class(name: str, where: str) -> Any:
    if name not in STEP_TYPES:
        raise UsageError(f"{where}: unknown step {name!r}{did_you_mean(name, STEP_TYPES)}")
    return step_class(name)


def build_step(entry: Mapping[str, Any], where: str) -> Step:
    """Make a step from its entry.

    Raises:
        UsageError: unknown step or key, or a value of the wrong kind.
    """
    settings = {k: v for k, v in entry.items() if k != "type"}
    cls = _class(entry["type"], where)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key, value in settings.items():
        if key not in fields:
            raise UsageError(f"{where}: step {entry['type']!r} has no key {key!r}{did_you_mean(key, list(fields))}")
        settings[key] = _convert(value, hints[key], f"{where}: step {entry['type']!r}: {key}")
    missing = [
        n
        for n, f in fields.items()
        if n not in settings and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"{where}: step {entry['type']!r} needs {missing[0]!r}")
    try:
        step: Step = cls(**settings)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return step


def _convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the type that a step's field declares."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        errors = []
        for option in args:
            if option is type(None):
                continue
            try:
                return _convert(value, option, where)
            except UsageError as error:
                errors.append(error)
        raise errors[0]
    if origin is Literal:
        if value in args:
            return value
        options = [str(a) for a in args]
        near = did_you_mean(str(value), options)
        hint = near if "did you mean" in near else ""
        raise UsageError(f"{where} must be one of {', '.join(options)}, got {value!r}{hint}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(v, args[0], where) for v in value)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} must be a mapping, got {value!r}")
        return dict(value)
    if hint is Any:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(float(value), where)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text.
        with contextlib.suppress(ValueError):
            return _finite(float(value), where)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise UsageError(f"{where} must be a {name}, got {value!r}")


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise UsageError(f"{where} must be a finite number, got {value}")
    return value
