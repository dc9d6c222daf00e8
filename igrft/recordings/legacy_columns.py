"""Decides which columns a converted dataset has, and what they are declared as."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from igrft import columns as c
from igrft.errors import IgrftError
from igrft.recordings.legacy_source import LegacySource
from igrft.recordings.options import listing

#: Columns that every LeRobot dataset has and that follow from the rows themselves.
REBUILT: dict[str, dict[str, Any]] = {
    c.TIMESTAMP: {"dtype": "float32", "shape": [1], "names": None},
    c.FRAME_INDEX: {"dtype": "int64", "shape": [1], "names": None},
    c.EPISODE_INDEX: {"dtype": "int64", "shape": [1], "names": None},
    c.INDEX: {"dtype": "int64", "shape": [1], "names": None},
    c.TASK_INDEX: {"dtype": "int64", "shape": [1], "names": None},
}


@dataclass(frozen=True)
class ColumnPlan:
    """The columns of the converted dataset.

    Attributes:
        features: as ``meta/info.json`` will declare them, cameras included.
        types: Arrow type by column in parquet; None leaves the column as it is (pictures, matrices).
        lacking: source episodes that lack a column which others have, with the reason.
    """

    features: dict[str, dict[str, Any]]
    types: dict[str, pa.DataType | None]
    lacking: dict[int, str]


def plan_columns(
    source: LegacySource, schemas: Mapping[int, tuple[Path, pa.Schema]], cameras: list[str], warn: Callable[[str], None]
) -> ColumnPlan:
    """Settle the columns, given file and schema of every readable episode.

    Args:
        cameras: the video features that have files; the others are left out.
        warn: told about every column that is dropped, declared or rebuilt.

    Raises:
        IgrftError: a feature is declared in a way that nothing can be made of.
    """
    present = {name for _, schema in schemas.values() for name in schema.names}
    features: dict[str, dict[str, Any]] = {}
    dropped, rebuilt = [], []
    for name, declared in source.features.items():
        if declared.get("dtype") == "video":
            if name in cameras:
                features[name] = _normalised(declared)
        elif name in present or name in REBUILT:
            features[name] = _normalised(declared)
        else:
            dropped.append(name)
    if dropped:
        warn(f"declared in meta/info.json and found in no parquet file, so dropped: {listing(dropped)}")
    for name, feature in REBUILT.items():
        if name not in present:
            rebuilt.append(name)
        features.setdefault(name, dict(feature))
    if rebuilt:
        warn(f"rebuilt, since no parquet file has them: {listing(rebuilt)}")
    features = _declare(features, schemas, present, warn)
    types = {name: _arrow_type(name, f, source.root) for name, f in features.items() if f["dtype"] != "video"}
    lacking = {}
    for index, (_, schema) in schemas.items():
        missing = [name for name in types if name not in schema.names and name not in REBUILT]
        if missing:
            lacking[index] = f"its parquet file has no column {listing(missing)}, which other episodes have"
    return ColumnPlan(features, types, lacking)


def _normalised(declared: Mapping[str, Any]) -> dict[str, Any]:
    """A feature as v3.0 spells it: ``info`` for v2.0's ``video_info``, ``names`` always there."""
    feature = dict(declared)
    if "video_info" in feature:
        info = feature.pop("video_info")
        feature.setdefault("info", info)
    feature["shape"] = list(feature.get("shape") or [1])
    feature.setdefault("names", None)
    return feature


def _declare(
    features: dict[str, dict[str, Any]],
    schemas: Mapping[int, tuple[Path, pa.Schema]],
    present: set[str],
    warn: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Declare columns that parquet has and info.json does not: LeRobot refuses to load such files."""
    added, left_out = [], []
    for name in sorted(present - features.keys()):
        if name.startswith("__index_level_"):
            continue
        path, schema = next((p, s) for p, s in schemas.values() if name in s.names)
        feature = _feature_of(path, name, schema.field(name).type)
        if feature is None:
            left_out.append(name)
        else:
            features[name] = feature
            added.append(name)
    if added:
        warn(f"in parquet without being declared in meta/info.json, so declared: {listing(added)}")
    if left_out:
        warn(f"in parquet without being declared, of a type LeRobot cannot hold, so dropped: {listing(left_out)}")
    return features


def _feature_of(path: Path, name: str, kind: pa.DataType) -> dict[str, Any] | None:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return {"dtype": "string", "shape": [1], "names": None}
    if _is_plain(kind):
        return {"dtype": _dtype_name(kind), "shape": [1], "names": None}
    if is_list(kind) and _is_plain(kind.value_type):
        width = kind.list_size if pa.types.is_fixed_size_list(kind) else _first_width(path, name)
        return {"dtype": _dtype_name(kind.value_type), "shape": [width], "names": None} if width else None
    return None


def _first_width(path: Path, name: str) -> int:
    first = pq.read_table(path, columns=[name]).column(name).slice(0, 1).to_pylist()
    return len(first[0]) if first and first[0] else 0


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_plain(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _dtype_name(kind: pa.DataType) -> str:
    names = {pa.float32(): "float32", pa.float64(): "float64", pa.float16(): "float16"}
    return names.get(kind, str(kind))


def _arrow_type(name: str, feature: Mapping[str, Any], root: Path) -> pa.DataType | None:
    dtype, shape = feature.get("dtype"), feature["shape"]
    if dtype in ("image", "language"):
        return None
    try:
        plain = pa.type_for_alias(str(dtype))
    except ValueError:
        raise IgrftError(
            f"{root / 'meta/info.json'} declares {name!r} with dtype {dtype!r}, which is none of LeRobot's; correct it "
            "in a copy of the dataset"
        ) from None
    if shape == [1]:
        return plain
    return pa.list_(plain, int(shape[0])) if len(shape) == 1 else None
