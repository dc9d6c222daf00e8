"""The data files: there, whole, with the columns and dtypes that meta/info.json declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from igrft.dataset.files import INFO
from igrft.errors import IgrftError
from igrft.reports.checks.findings import Context


def check_files(context: Context) -> list[tuple[Path, np.ndarray]]:
    """Check every data file's schema and counts; return those whose rows can be walked."""
    dataset = context.dataset
    good: list[tuple[Path, np.ndarray]] = []
    said: set[str] = set()
    for relative, rows in dataset.data_files:
        try:
            parquet = dataset.parquet(relative)
        except IgrftError as error:
            context.error("files", str(error))
            continue
        for problem in schema_problems(dataset.features, parquet.schema_arrow):
            # One wrong declaration concerns every file: say it once.
            if problem not in said:
                said.add(problem)
                context.error("columns", f"{relative}: {problem}")
        held, expected = parquet.metadata.num_rows, int(dataset.lengths[rows].sum())
        if held != expected:
            context.error(
                "counts",
                f"{relative} holds {held} rows, but the episodes in it ({_range(dataset.episode_indices[rows])}) have "
                f"{expected} frames by the episodes' table; restore the file from the source",
            )
            continue
        groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        if groups != [n for n in dataset.lengths[rows].tolist() if n > 0]:
            context.warn(
                "row groups",
                f"{relative} has {len(groups)} row groups for {len(rows)} episodes; one per episode is what LeRobot "
                "writes and reads fastest: igrft convert or annotate writes it so",
            )
        good.append((relative, rows))
    _strays(context)
    return good


def schema_problems(features: Mapping[str, Mapping[str, Any]], schema: pa.Schema) -> list[str]:
    """How a file's columns differ from the features declared; each a line without the file's name."""
    found = []
    for name in schema.names:
        if name not in features:
            found.append(f"column {name!r} is not declared in {INFO}, so LeRobot drops it; declare it or label again")
    for name, feature in features.items():
        if feature.get("dtype") == "video":
            continue
        if name not in schema.names:
            found.append(f"column {name!r} is declared in {INFO} and missing; remove the declaration or label again")
            continue
        kind = schema.field(name).type
        if not dtype_matches(feature, kind):
            said = f"{feature.get('dtype')} {list(feature.get('shape') or [])}"
            found.append(f"column {name!r} is {kind}, but {INFO} declares {said}; correct the declaration")
    return found


def dtype_matches(feature: Mapping[str, Any], kind: pa.DataType) -> bool:
    """Whether an Arrow type is the one that LeRobot reads for a feature."""
    dtype = str(feature.get("dtype"))
    if dtype == "image":
        return pa.types.is_struct(kind) or pa.types.is_binary(kind) or isinstance(kind, pa.ExtensionType)
    if dtype == "language":
        return pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
    shape = tuple(feature.get("shape") or ())
    depth = 0 if shape in ((), (1,)) else len(shape)
    if isinstance(kind, pa.ExtensionType):
        kind = kind.storage_type
    for axis in range(depth):
        if pa.types.is_fixed_size_list(kind):
            if kind.list_size != shape[axis]:
                return False
        elif not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            return False
        kind = kind.value_type
    if dtype == "string":
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)
    try:
        return kind == pa.type_for_alias(dtype)
    except ValueError:
        return False


def row_columns(features: Mapping[str, Mapping[str, Any]], schema: pa.Schema) -> list[str]:
    """Columns whose values are looked at: all that are declared and there, but for pictures."""
    return [n for n, f in features.items() if f.get("dtype") not in ("image", "video") and n in schema.names]


def _strays(context: Context) -> None:
    known = {relative for relative, _ in context.dataset.data_files}
    root = context.dataset.root
    for path in sorted((root / "data").glob("*/*.parquet")):
        if path.relative_to(root) not in known:
            context.error(
                "files",
                f"{path.relative_to(root)} belongs to no episode, but LeRobot reads every file in data/; remove it",
            )


def _range(indices: np.ndarray) -> str:
    return f"{indices.min()} to {indices.max()}" if len(indices) > 1 else f"{indices[0]}"
