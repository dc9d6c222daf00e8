"""Takes the folders of this machine out of what is published: of a path only its last part is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: First parts of absolute paths on machines that people work on. Anything else that begins with a slash
#: (a topic of a robot, say) counts as a path where its first part is a folder here.
_ROOTS = frozenset(
    {"home", "Users", "root", "mnt", "media", "data", "datasets", "tmp", "var", "opt", "srv", "scratch", "work"}
    | {"workspace", "workspaces", "private", "Volumes", "content", "kaggle", "gpfs", "lustre", "nfs", "nas", "fast"}
    | {"shared", "storage", "projects", "runs", "outputs", "checkpoints", "cluster"}
)
_POSIX = re.compile(r"(?<![\w.:/~])/((?:[^\s/:;,'\"]+/)+)")
_HOME = re.compile(r"(?<![\w.:/])~(?:[A-Za-z][\w.-]*)?/((?:[^\s/:;,'\"]+/)*)")
_WINDOWS = re.compile(r"(?<![\w])[A-Za-z]:[\\/](?:[^\s\\/:;,'\"]+[\\/])*")


def without_folders(text: str, *, every: bool = False) -> str:
    """``text`` with every absolute path cut down to its last part. URLs stay as they are.

    Args:
        every: whatever begins with a slash is a path; else topics of a robot (``/hdas/arm``) stay, too.
    """
    whole = text.strip()
    if "\n" not in whole and _is_path(whole, every):
        # Folders may have spaces in their names: a text that is a path as a whole is one path.
        return re.split(r"[\\/]", whole.rstrip("\\/"))[-1]
    text = _HOME.sub("", text)
    text = _WINDOWS.sub("", text)
    return _POSIX.sub(lambda m: "" if every or _is_root(m[1].split("/", 1)[0]) else m[0], text)


def clean(value: Any, *, every: bool = False) -> Any:
    """A JSON value with the folders taken out of its texts, keys included; ``every`` as above."""
    if isinstance(value, str):
        return without_folders(value, every=every)
    if isinstance(value, list):
        return [clean(v, every=every) for v in value]
    if isinstance(value, dict):
        return {clean(k, every=every): clean(v, every=every) for k, v in value.items()}
    return value


def cleaned_file(path: Path, *, every: bool = False) -> bytes | None:
    """What to send instead of a JSON, JSON lines or YAML file that names folders; None where it names none.

    A file that cannot be parsed is cleaned as plain text.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    if "/" not in text and "\\" not in text:
        return None
    read, write = _FORMATS[path.suffix.lower()]
    try:
        value = read(text)
    except Exception:
        out = without_folders(text, every=every)
        return out.encode() if out != text else None
    cleaned = clean(value, every=every)
    return write(cleaned).encode() if cleaned != value else None


def _is_path(text: str, every: bool) -> bool:
    if re.match(r"[A-Za-z]:[\\/]", text) or text.startswith("~"):
        return "/" in text or "\\" in text
    parts = text.split("/")
    return text.startswith("/") and not text.startswith("//") and len(parts) > 2 and (every or _is_root(parts[1]))


def _is_root(name: str) -> bool:
    return name in _ROOTS or Path("/", name).is_dir()


def _read_yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _write_yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _read_lines(text: str) -> Any:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _write_lines(value: Any) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in value)


def _write_json(value: Any) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False) + "\n"


_FORMATS: dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
    ".json": (json.loads, _write_json),
    ".jsonl": (_read_lines, _write_lines),
    ".yaml": (_read_yaml, _write_yaml),
    ".yml": (_read_yaml, _write_yaml),
}
#: Endings of files that :func:`cleaned_file` reads.
READABLE = frozenset(_FORMATS)
