"""The mapping file: which stream becomes which feature, in YAML.

A file in full::

    robot_type: my_robot          # all of these are optional
    fps: 30
    task: fold the towel
    clock: observation.images.head
    stamps: header                # or log
    max_skew: 0.1                 # seconds
    features:
      observation.images.head: /camera/image/compressed
      observation.state:
        - {stream: /joint_states, field: position, align: linear, joints: [j1, j2]}
        - {stream: [/gripper, /gripper_raw], select: [0], names: [gripper], optional: true}
      action: {stream: /command, align: hold}     # or {next: observation.state}: where the robot is a row later
    episodes: {by: marker, stream: /episode, field: data, start: 1}
    success: {stream: /episode_success}
"""

from __future__ import annotations

import csv
from collections.abc import Mapping as Items
from pathlib import Path
from typing import Any, cast

import yaml

from igrft import columns as c
from igrft.errors import UsageError, did_you_mean
from igrft.recordings.streams.model import ALIGNS, Align, Feature, Mapping, Part, Splitting, SuccessRule

_LIMITS = ("max_skew", "max_gap", "max_trim")
_TOP = ("features", "clock", "stamps", "fps", "task", "robot_type", *_LIMITS, "episodes", "success")
_PART = ("stream", "field", "align", "select", "names", "joints", "optional")
_SPLIT = ("by", "start", "stop", "seconds", "tolerance", "shortest", *_PART)
_SUCCESS = ("pattern", "table", *_PART)
_BY = ("file", "marker", "idle")
_TRUE, _FALSE = ("1", "1.0", "true", "yes", "success"), ("0", "0.0", "false", "no", "failure", "fail")


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file. Paths in it are relative to it.

    Raises:
        UsageError: no YAML, an unknown key, a value of the wrong kind; the message names the key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
    return _Reader(path).mapping(values)


class _Reader:
    """Checks values; every error names the file and the key."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _error(self, key: str, text: str) -> UsageError:
        return UsageError(f"{self._path.name}: {key} {text}")

    def _keys(self, key: str, values: Any, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(values, dict):
            raise self._error(key, f"must be keys and values, not {values!r}")
        for name in values:
            if name not in known:
                where = f"{key}.{name}" if key != "the file" else str(name)
                raise self._error(where, f"is unknown{did_you_mean(str(name), known)}")
        return values

    def mapping(self, values: Any) -> Mapping:
        values = self._keys("the file", values, _TOP)
        features = values.get("features")
        if not isinstance(features, dict) or not features:
            raise self._error("features", "must say which stream becomes which column")
        known = tuple(self._feature(str(name), spec) for name, spec in features.items())
        clock = str(values.get("clock", ""))
        names = [feature.name for feature in known if feature.parts]
        if clock and clock not in names:
            raise self._error("clock", f"is {clock!r}, which is no feature{did_you_mean(clock, names)}")
        for feature in known:
            numbers = [name for name in names if not name.startswith(c.IMAGE_PREFIX)]
            if feature.next_of and feature.next_of not in numbers:
                near = did_you_mean(feature.next_of, numbers)
                raise self._error(f"features.{feature.name}.next", f"is {feature.next_of!r}, which is no numbers{near}")
        fps = values.get("fps")
        return Mapping(
            features=known,
            clock=clock,
            stamps=cast(Any, self._one_of("stamps", values.get("stamps", "header"), ("header", "log"))),
            fps=None if fps is None else self._positive("fps", fps),
            task=self._text("task", values.get("task")),
            robot_type=self._text("robot_type", values.get("robot_type")),
            max_skew=self._positive("max_skew", values.get("max_skew", Mapping.max_skew)),
            max_gap=self._positive("max_gap", values.get("max_gap", Mapping.max_gap)),
            max_trim=self._positive("max_trim", values.get("max_trim", Mapping.max_trim)),
            episodes=self._episodes(values.get("episodes") or {}),
            success=self._success(values.get("success") or {}),
        )

    def _feature(self, name: str, spec: Any) -> Feature:
        key = f"features.{name}"
        if name in (c.TIMESTAMP, c.FRAME_INDEX, c.EPISODE_INDEX, c.INDEX, c.TASK_INDEX, c.SUCCESS):
            raise self._error(key, "is written by the toolkit itself; leave it out")
        if isinstance(spec, dict) and "next" in spec and not name.startswith(c.IMAGE_PREFIX):
            return Feature(name, (), str(self._keys(key, spec, ("next",))["next"]))
        parts = tuple(self._part(key, part) for part in (spec if isinstance(spec, list) else [spec]))
        feature = Feature(name, parts)
        if not parts or (feature.picture and len(parts) > 1):
            raise self._error(key, "must be one stream" if feature.picture else "has no stream")
        return feature

    def _part(self, key: str, spec: Any) -> Part:
        if isinstance(spec, str):
            spec = {"stream": spec}
        return self._part_of(key, self._keys(key, spec, _PART))

    def _part_of(self, key: str, spec: Items[str, Any]) -> Part:
        streams = spec.get("stream")
        streams = [streams] if isinstance(streams, str) else streams
        if not isinstance(streams, list) or not streams or not all(isinstance(s, str) for s in streams):
            raise self._error(f"{key}.stream", "must be the name of a stream, or a list of names")
        align = self._one_of(f"{key}.align", spec.get("align", "linear"), ALIGNS)
        select = spec.get("select")
        if select is not None and (
            not isinstance(select, list) or not select or not all(type(i) is int and i >= 0 for i in select)
        ):
            raise self._error(f"{key}.select", f"must be a list of whole numbers from 0, not {select!r}")
        return Part(
            streams=tuple(streams),
            field=self._text(f"{key}.field", spec.get("field")) or "",
            align=cast(Align, align),
            select=None if select is None else tuple(select),
            names=self._texts(f"{key}.names", spec.get("names", [])),
            joints=self._texts(f"{key}.joints", spec.get("joints", [])),
            optional=spec.get("optional") is True,
        )

    def _episodes(self, spec: Any) -> Splitting:
        spec = self._keys("episodes", spec, _SPLIT)
        by = self._one_of("episodes.by", spec.get("by", "file"), _BY)
        part = self._part_of("episodes", spec) if by != "file" else None
        return Splitting(
            by=cast(Any, by),
            part=part,
            start=self._number("episodes.start", spec.get("start", Splitting.start)),
            stop=None if spec.get("stop") is None else self._number("episodes.stop", spec["stop"]),
            seconds=self._positive("episodes.seconds", spec.get("seconds", Splitting.seconds)),
            tolerance=self._positive("episodes.tolerance", spec.get("tolerance", Splitting.tolerance)),
            shortest=self._number("episodes.shortest", spec.get("shortest", Splitting.shortest)),
        )

    def _success(self, spec: Any) -> SuccessRule:
        spec = self._keys("success", spec, _SUCCESS)
        if not spec:
            return SuccessRule()
        if sum(name in spec for name in ("stream", "pattern", "table")) != 1:
            raise self._error("success", "must have one of stream, pattern and table")
        if "stream" in spec:
            return SuccessRule(part=self._part_of("success", spec))
        if "table" in spec:
            return SuccessRule(table=self._table(self._path.parent / str(spec["table"])))
        return SuccessRule(pattern=self._pattern(spec["pattern"]))

    def _pattern(self, pattern: Any) -> str:
        import re

        try:
            re.compile(str(pattern))
        except re.error as error:
            raise self._error("success.pattern", f"is no regular expression ({error})") from None
        return str(pattern)

    def _table(self, path: Path) -> dict[str, bool]:
        """CSV or parquet, columns ``episode`` (a recording's name, or its file's name or stem) and ``success``."""
        out: dict[str, bool] = {}
        for number, row in enumerate(self._rows(path), start=1):
            name, word = (str("" if row.get(key) is None else row[key]).strip() for key in ("episode", "success"))
            if not name or word.lower() not in (*_TRUE, *_FALSE):
                raise self._error("success.table", f"has no episode, or success is not yes or no, in row {number}")
            out[name] = word.lower() in _TRUE
        return out

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if path.suffix.lower() == ".parquet":
                return pq.read_table(path).to_pylist()
            with path.open(newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
            raise self._error("success.table", f"cannot be read ({str(error).splitlines()[0]})") from None

    def _one_of(self, key: str, value: Any, known: tuple[str, ...]) -> str:
        if value not in known:
            raise self._error(key, f"is {value!r}{did_you_mean(str(value), known)}")
        return str(value)

    def _number(self, key: str, value: Any) -> float:
        if isinstance(value, bool):
            return float(value)
        if not isinstance(value, int | float):
            raise self._error(key, f"must be a number, not {value!r}")
        return float(value)

    def _positive(self, key: str, value: Any) -> float:
        number = self._number(key, value)
        if not 0 < number < float("inf"):
            raise self._error(key, f"must be above 0, got {value!r}")
        return number

    def _text(self, key: str, value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            raise self._error(key, f"must be text, not {value!r}")
        return value

    def _texts(self, key: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self._error(key, f"must be a list of names, not {value!r}")
        return tuple(value)
