"""Weights of models that find robots: whether they are to be had, and what tells one from another. None is loaded."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from igrft.errors import IgrftError

_CONFIG = "config.json"
#: Of the files in a folder of weights, what no model reads.
_NOT_READ = (".md", ".png", ".jpg")
#: Seconds that the Hub may take to answer.
_PATIENCE = 10.0


def how_to_give(setting: str) -> str:
    """What to do about weights that are missing, for messages."""
    return (
        f"give {setting} a folder that holds them, or an id on the Hub that is cached or that you may download "
        "(hf auth login where it is gated)"
    )


def refuse_no_weights(source: str, setting: str, name: str) -> None:
    """Raise IgrftError unless ``name`` is a folder with weights, or weights that are cached or that the Hub would send.

    Nothing is downloaded: the Hub is asked for the head of one file.

    Args:
        source: value of ``robot_mask``, for messages.
        setting: name of the setting that gives ``name``, for messages.
        name: folder or Hub id.
    """
    folder = Path(name)
    if folder.is_dir():
        if not _holds_weights(folder):
            raise IgrftError(
                f"robot_mask: {source}: {folder} holds no {_CONFIG} and weights beside it; {how_to_give(setting)}"
            )
        return
    if folder.is_absolute():
        raise IgrftError(f"robot_mask: {source}: there is no folder {folder}; {how_to_give(setting)}")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, _CONFIG)
        if not (isinstance(cached, str) and _holds_weights(Path(cached).parent)):
            get_hf_file_metadata(hf_hub_url(name, _CONFIG), timeout=_PATIENCE)
    except Exception as error:
        # What it raises depends on where it failed: no id, no network, no such model, not for this user …
        raise IgrftError(
            f"robot_mask: {source}: {name!r} is no folder, not cached, and cannot be had from the Hub "
            f"({first_line(error)}); {how_to_give(setting)}"
        ) from None


def weights_identity(name: str | None) -> str | None:
    """What keys staged work for ``name``: of a folder its content, wherever it lies; else the name."""
    folder = Path(name or "")
    if name is None or not folder.is_dir():
        return name
    total = hashlib.blake2b(digest_size=12)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _NOT_READ:
            stat = path.stat()
            total.update(f"{path.name}\0{stat.st_size}\0{_digest(path, stat.st_size, stat.st_mtime_ns)}\0".encode())
    return total.hexdigest()


def public_name(name: str | None) -> str | None:
    """``name`` as a dataset may publish it: of a folder its last part, since its author's folders are not published."""
    if name is None or not (Path(name).is_absolute() or Path(name).is_dir()):
        return name
    return Path(name).resolve().name


def first_line(error: BaseException) -> str:
    """The first line of an error, not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _holds_weights(folder: Path) -> bool:
    weights = (path for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind))
    return (folder / _CONFIG).is_file() and any(path.is_file() for path in weights)


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
