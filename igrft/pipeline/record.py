"""``meta/igrft.json``: what was done to a dataset, by what, and what came of each episode."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import igrft
from igrft.dataset.parquet import whole_file
from igrft.dataset.reader import DatasetReader
from igrft.pipeline.plan import Plan
from igrft.steps.base import Step

_PACKAGES = (
    "lerobot",
    "datasets",
    "torch",
    "torchvision",
    "transformers",
    "numpy",
    "pyarrow",
    "opencv-python-headless",
    "av",
    "ruptures",
)


def record_head(dataset: DatasetReader, plan: Plan, name: str, key: str, columns: Sequence[str]) -> dict[str, Any]:
    """The record of a run but for its episodes. Names, never paths: a dataset is published, its
    author's folders are not.

    Args:
        key: digest of everything that determined the result.
        columns: label columns that were written. Steps and columns of an earlier labelling of the
            source that were not made again are listed before them.
    """
    earlier = dataset.igrft or {}
    done_again = {step.type for step in plan.entries}
    kept_steps = [s for s in earlier.get("pipeline", {}).get("steps", []) if s.get("type") not in done_again]
    kept_columns = [n for n in earlier.get("columns", []) if n not in columns and n in dataset.features]
    record = {
        "igrft_version": igrft.__version__,
        "packages": package_versions(),
        "source": {"name": dataset.root.resolve().name, "fingerprint": plan.source},
        "key": key,
        "pipeline": {"name": name, "steps": kept_steps + [step_json(step) for step in plan.entries]},
        "columns": [*kept_columns, *columns],
    }
    conversion = earlier.get("convert")
    return record | ({"convert": conversion} if conversion else {})


def write_record(path: Path, head: Mapping[str, Any], episodes: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Write ``meta/igrft.json``, an episode at a time, so that memory does not grow with their number."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(head, ensure_ascii=False, allow_nan=False)[:-1] + ',\n"episodes": {')
        for i, (index, record) in enumerate(episodes):
            stream.write(",\n" if i else "\n")
            stream.write(f'"{index}": ' + json.dumps(record, ensure_ascii=False, allow_nan=False))
        stream.write("\n}}\n")


_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s/:;,'\"]+/)+")


def without_paths(text: str, root: Path) -> str:
    """A reason without the folders of this machine: what lies in the dataset by its place there."""
    for folder in (root, root.resolve()):
        text = text.replace(f"{folder}/", "").replace(str(folder), root.resolve().name)
    return _ABSOLUTE.sub("", text)


def package_versions() -> dict[str, str]:
    """Versions of the packages that a label may depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def step_json(step: Step) -> dict[str, Any]:
    """A step as the pipeline file would have it; of paths only the last part."""
    settings = step.recorded()
    for name in step.paths:
        if isinstance(settings.get(name), str):
            settings[name] = settings[name].rstrip("/").rsplit("/", 1)[-1]
    return {"type": step.type, **{k: v for k, v in settings.items() if v is not None}}
