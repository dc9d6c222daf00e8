"""Finds the pipelines, recipes, mappings and cards that come with the toolkit.

In a checkout they are folders at the top level; in a wheel they lie under ``igrft/_resources``.
"""

from __future__ import annotations

from pathlib import Path

from igrft.errors import UsageError, did_you_mean

_PACKAGE = Path(__file__).parent


def folder(kind: str) -> Path:
    """The folder of ``kind``: ``pipelines``, ``recipes``, ``mappings`` or ``dataset_cards``."""
    for candidate in (_PACKAGE / "_resources" / kind, _PACKAGE.parent / kind):
        if candidate.is_dir():
            return candidate
    raise UsageError(f"the folder {kind!r} did not come with this installation of igrft; reinstall it")


def find(kind: str, name_or_path: str) -> Path:
    """Resolve a path to a file, or the bare name of one that comes with the toolkit.

    Raises:
        UsageError: neither exists; the message names the near miss.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    base = folder(kind)
    for candidate in (base / name_or_path, base / f"{name_or_path}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(str(p.relative_to(base).with_suffix("")) for p in base.rglob("*.yaml"))
    raise UsageError(f"no file {name_or_path!r} and none of that name in {kind}{did_you_mean(name_or_path, known)}")
