"""A fingerprint of a dataset's content, by which resumed and finished work knows its source.

Metadata and tables are hashed whole. Of a video its size and 34 blocks spread over it are: enough to
notice another recording, without reading terabytes before any work. Times and paths do not
count, so a copied dataset is the same dataset.

Of a dataset on a store every object's name, size and tag (S3's ETag) count, as the store lists them: nothing need be
fetched. On a store without tags, times do. A folder and its copy on a store are therefore two datasets.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from igrft.remote.mirror import manifest_of

_BLOCK = 1 << 16
_SAMPLES = 34
_FOLDERS = ("meta", "data", "images", "videos")


def fingerprint(root: Path) -> str:
    """Hex digest over ``meta/``, ``data/`` and ``videos/`` (also ``images/``) of a LeRobot dataset."""
    remote = manifest_of(root)
    if remote is not None:
        return remote.fingerprint(_FOLDERS)
    total = hashlib.blake2b(digest_size=16)
    for folder in _FOLDERS:
        base = root / folder
        if not base.is_dir():
            continue
        for path in sorted(p for p in base.rglob("*") if p.is_file()):
            if any(part.startswith(".") for part in path.relative_to(root).parts):
                continue
            total.update(path.relative_to(root).as_posix().encode() + b"\0")
            total.update(_file_digest(path, whole=folder in ("meta", "data")))
    return total.hexdigest()


def _file_digest(path: Path, *, whole: bool) -> bytes:
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as stream:
        if whole or size <= _SAMPLES * _BLOCK:
            while block := stream.read(1 << 20):
                digest.update(block)
        else:
            for i in range(_SAMPLES):
                stream.seek(i * (size - _BLOCK) // (_SAMPLES - 1))
                digest.update(stream.read(_BLOCK))
    return digest.digest()


def whole_digest(path: Path) -> str:
    """Hex digest of a file's content."""
    return _file_digest(path, whole=True).hex()


def sampled_digest(path: Path) -> str:
    """Hex digest of a video's size and of blocks spread over it."""
    return _file_digest(path, whole=False).hex()


def digest_of(value: Any) -> str:
    """Hex digest of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
