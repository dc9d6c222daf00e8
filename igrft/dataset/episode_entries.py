"""JSON files with an entry for every episode: ``meta/igrft.json``, subtask files.

Parsed whole, the entries of 100,000 episodes take a third of a gigabyte of small objects, to look at one after the
other. Here the text is kept, and an entry is made when it is asked for.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Mapping
from functools import lru_cache
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from igrft.errors import IgrftError

#: Characters below which a file is parsed whole: some 2,000 short episodes.
_SMALL = 1 << 20
#: Entries kept when parsed: those of a few batches of short episodes, which several checks look at in turn.
_KEPT = 4096
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class EpisodeEntries(Mapping[str, Any]):
    """The members of a JSON object, each parsed when it is asked for.

    Args:
        text: the file.
        places: by key, the number of its member; members begin at ``starts`` and end at ``ends``.
    """

    def __init__(self, text: str, places: dict[str, int], starts: array[int], ends: array[int]) -> None:
        self._text, self._places, self._starts, self._ends = text, places, starts, ends
        self._parsed = lru_cache(_KEPT)(self._parse)

    def __getitem__(self, key: str) -> Any:
        return self._parsed(self._places[key])

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def begins(self, key: str) -> str:
        """The first character of a member: ``{`` of an object."""
        return self._text[self._starts[self._places[key]]]

    def __reduce__(self) -> tuple[Any, ...]:
        return EpisodeEntries, (self._text, self._places, self._starts, self._ends)

    def _parse(self, number: int) -> Any:
        return json.loads(self._text[self._starts[number] : self._ends[number]])


def read_episode_entries(path: Path) -> Any:
    """Parse a JSON file; in a large one the object ``episodes`` is an :class:`EpisodeEntries`.

    Raises:
        IgrftError: it is missing, or is not valid JSON, anywhere.
    """
    try:
        return parse_episode_entries(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IgrftError(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise IgrftError(f"{path} is not valid JSON ({error}); restore it from the source") from None


def parse_episode_entries(text: str, small: int = _SMALL) -> Any:
    """As :func:`read_episode_entries`, of a text. Raises json.JSONDecodeError.

    Args:
        small: characters below which it is parsed whole.
    """
    at = _skip(text, 0)
    if len(text) < small or not text.startswith("{", at):
        return json.loads(text)
    out: dict[str, Any] = {}
    for key, begin in (members := _Members(text, at)):
        if key == "episodes" and text.startswith("{", begin):
            out[key], members.end = _entries(text, begin)
        else:
            out[key], members.end = _DECODER.raw_decode(text, begin)
    if (rest := _skip(text, members.end)) != len(text):
        raise json.JSONDecodeError("Extra data", text, rest)
    return out


def not_objects(entries: Mapping[str, Any]) -> Iterator[str]:
    """Keys of the entries that are no objects; none is parsed for it."""
    if isinstance(entries, EpisodeEntries):
        return (key for key in entries if entries.begins(key) != "{")
    return (key for key, value in entries.items() if not isinstance(value, Mapping))


def _entries(text: str, at: int) -> tuple[EpisodeEntries, int]:
    places: dict[str, int] = {}
    starts, ends = array("q"), array("q")
    for key, begin in (members := _Members(text, at)):
        # Parsed and let go: what is wrong with the file is said when it is opened.
        members.end = _DECODER.raw_decode(text, begin)[1]
        places[key] = len(starts)
        starts.append(begin)
        ends.append(members.end)
    return EpisodeEntries(text, places, starts, ends), members.end


class _Members:
    """Walks an object: gives each key and where its value begins; is told in ``end`` where that ends.

    When all are walked, ``end`` is behind the object.
    """

    def __init__(self, text: str, at: int) -> None:
        self.text, self.end = text, at + 1

    def __iter__(self) -> Iterator[tuple[str, int]]:
        text = self.text
        at = _skip(text, self.end)
        if text.startswith("}", at):
            self.end = at + 1
            return
        while True:
            if not text.startswith('"', at):
                raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
            key, at = scanstring(text, at + 1)
            at = _skip(text, at)
            if not text.startswith(":", at):
                raise json.JSONDecodeError("Expecting ':' delimiter", text, at)
            yield key, _skip(text, at + 1)
            at = _skip(text, self.end)
            if text.startswith("}", at):
                self.end = at + 1
                return
            if not text.startswith(",", at):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
