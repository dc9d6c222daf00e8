"""Answers on disk, by the content of their request, so that none is paid for twice.

A file holds what the server answered and what it cost. Neither the key nor the pictures nor the prompt stand in it:
the name of the file is a digest of those.

An answer that was refused stays, and a run that comes to the same question again takes it, and comes to the same end
without paying. Where that end is an episode set aside, the two answers that led there are marked; `ask_again` passes
over marked answers alone, so that only such questions are asked anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from igrft.errors import IgrftError


@dataclass(frozen=True)
class Answer:
    """What the model said: its text, why it stopped (``stop``, ``length``), and what it cost in tokens."""

    text: str
    finish: str
    input_tokens: int = 0
    output_tokens: int = 0


def cache_folder(setting: str | None = None) -> Path:
    """Where igrft keeps what it paid for: the setting, ``$IGRFT_CACHE``, or the user's cache folder."""
    if setting:
        return Path(setting).expanduser()
    if own := os.environ.get("IGRFT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "igrft"


def unwritable(folder: Path, error: OSError) -> IgrftError:
    """What ends a run that can keep nothing of what it pays for."""
    return IgrftError(
        f"the cache {folder} cannot be written ({error.strerror}); give another with --steps.subtasks.cache=FOLDER, or "
        "IGRFT_CACHE"
    )


def request_digest(request: Mapping[str, Any]) -> str:
    """Digest of a request: of all it says, pictures included, and of nothing else."""
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class AnswerCache:
    """Answers by digest. Threads and processes may share a folder: a file appears only when it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.json"

    def get(self, digest: str, *, ask_again: bool = False) -> Answer | None:
        """The answer, or None. ``ask_again`` passes over those that an episode was set aside for."""
        try:
            value = json.loads(self._path(digest).read_text(encoding="utf-8"))
            if ask_again and value.get("refused"):
                return None
            return Answer(**{k: value[k] for k in ("text", "finish", "input_tokens", "output_tokens")})
        except (OSError, ValueError, KeyError, TypeError):
            # What cannot be read is asked again.
            return None

    def put(self, digest: str, answer: Answer, *, model: str, refused: str | None = None) -> None:
        """Keep an answer.

        Raises:
            IgrftError: the folder cannot be written.
        """
        path = self._path(digest)
        value = {"model": model, **asdict(answer), "refused": refused}
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A name of its own for each writer: two threads may get the same answer at once.
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=path.parent, prefix=".", suffix=".tmp", delete=False
            ) as stream:
                temporary = stream.name
                json.dump(value, stream, ensure_ascii=False)
            os.replace(temporary, path)
        except OSError as error:
            if temporary:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
            raise unwritable(self.folder, error) from None
