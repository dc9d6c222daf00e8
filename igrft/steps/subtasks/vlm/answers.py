"""Reads the model's answers, and refuses those that cannot be right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from igrft.errors import did_you_mean
from igrft.steps.subtasks.vlm.prompts import Question
from igrft.steps.subtasks.vlm.windows import Span

#: Ends of what models say to themselves. The beginning is not looked for: many chat templates write it into the
#: prompt, so that it never stands in the answer.
_THOUGHT_ENDS = ("</think>", "</thinking>", "◁/think▷")
_THOUGHT_STARTS = ("<think>", "<thinking>", "◁think▷")
#: Braces at which JSON is looked for; prose has fewer, and a text of nothing else is not worth more.
_MOST_TRIES = 1000


class Refused(Exception):
    """The answer cannot be used. The message says why, for the model and for people."""


def without_thoughts(text: str) -> str:
    """An answer without what the model said to itself before it."""
    past = max((text.rfind(sign) + len(sign) for sign in _THOUGHT_ENDS if sign in text), default=0)
    return text[past:]


def read_json_answer(text: str, wanted: str) -> dict[str, Any]:
    """The JSON object in an answer; models wrap it in fences, thoughts or a sentence.

    Args:
        wanted: the key that tells it from other objects, and from braces in prose.

    Raises:
        Refused: there is none.
    """
    text = without_thoughts(text)
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    found, problem, furthest = False, "", -1
    start = text.find("{")
    for _ in range(_MOST_TRIES):
        if start < 0:
            break
        try:
            # What follows the object (a fence, a remark) is left alone.
            value, _ = decoder.raw_decode(text, start)
            found = True
            if wanted in value:
                return value
        except (ValueError, RecursionError) as error:
            # Of several, the one that was read furthest is the one that was meant.
            if (at := getattr(error, "pos", start)) > furthest:
                problem, furthest = str(error), at
        start = text.find("{", start + 1)
    if problem:
        raise Refused(f"its JSON cannot be read ({problem})")
    raise Refused(f"no JSON object in it has {wanted!r}" if found else "it holds no JSON object")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def read_description(text: str) -> str:
    """The answer to the first question.

    Raises:
        Refused: there is nothing in it.
    """
    text = " ".join(without_thoughts(text).split())
    # A thought without an end is all there is.
    if not text or text.startswith(_THOUGHT_STARTS):
        raise Refused("it is empty")
    return text


def read_spans(answer: dict[str, Any], question: Question, interval: float) -> list[Span]:
    """The subtasks of a window in seconds: they cover it exactly, in the order of time.

    Boundaries that lie closer to the window's ends, or to each other, than frames were shown are taken as meant to
    coincide.

    Args:
        interval: seconds between the frames shown.

    Raises:
        Refused: a name, a time, the order, the cover or a duration is wrong.
    """
    entries = answer.get("subtasks")
    if not isinstance(entries, list) or not entries:
        raise Refused("'subtasks' must be a list of at least one subtask")
    window = question.window
    near = 1.5 * interval + 0.01
    read = [_entry(e, i, question) for i, e in enumerate(entries, start=1)]
    if read[0][1] > window.start + near or read[0][1] < window.start - near:
        raise Refused(f"the first subtask starts at {read[0][1]:.2f} s, and not at {window.start:.2f} s")
    for i, (name, start, end, _) in enumerate(read, start=1):
        if end <= start:
            raise Refused(f"subtask {i} ({name!r}) ends at {end:.2f} s, which is not after its start at {start:.2f} s")
        if end > window.end + near:
            raise Refused(f"subtask {i} ({name!r}) ends at {end:.2f} s, beyond the end at {window.end:.2f} s")
    for i, (before, after) in enumerate(pairwise(read), start=1):
        if after[1] < before[2] - near:
            raise Refused(f"subtask {i + 1} starts at {after[1]:.2f} s, before subtask {i} ends at {before[2]:.2f} s")
        if after[1] > before[2] + near:
            raise Refused(f"nothing is said of {before[2]:.2f} s to {after[1]:.2f} s, between subtasks {i} and {i + 1}")
    if read[-1][2] < window.end - near:
        raise Refused(f"the last subtask ends at {read[-1][2]:.2f} s, and not at {window.end:.2f} s")
    edges = [window.start, *(s[1] for s in read[1:]), window.end]
    least = min(question.shortest, window.end - window.start)
    for i, (start, end) in enumerate(pairwise(edges), start=1):
        if end - start < least - 1e-6:
            raise Refused(f"subtask {i} lasts {end - start:.2f} s, less than {least:g} s")
    return [(s[0], a, b, s[3]) for s, a, b in zip(read, edges[:-1], edges[1:], strict=True)]


def _entry(entry: Any, number: int, question: Question) -> Span:
    if not isinstance(entry, dict):
        raise Refused(f"subtask {number} is no object with name, start, end and done")
    name, done = entry.get("name"), entry.get("done")
    if not isinstance(name, str) or not name.strip() or len(name) > 200:
        raise Refused(f"subtask {number} needs a name of a few words")
    name = " ".join(name.split())
    if question.names:
        name = _spelled(name, question.names)
    if not isinstance(done, bool):
        raise Refused(f"subtask {number} ({name!r}): 'done' must be true or false")
    times = []
    for key in ("start", "end"):
        value = entry.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e7:
            raise Refused(f"subtask {number} ({name!r}): {key!r} must be a number of seconds")
        times.append(float(value))
    return name, times[0], times[1], done


def _spelled(name: str, names: Sequence[str]) -> str:
    """A name as the task file spells it; case, spaces and a final dot do not matter where they tell none apart."""
    for plain in (_spaced, _loose):
        same = [n for n in names if plain(n) == plain(name)]
        if len(same) == 1:
            return same[0]
    raise Refused(f"{name!r} is none of the subtasks{did_you_mean(name, list(names))}")


def _spaced(name: str) -> str:
    return " ".join(name.split())


def _loose(name: str) -> str:
    return _spaced(_spaced(name).rstrip(".")).casefold()


def read_success(answer: dict[str, Any]) -> bool:
    """The model's word on success.

    Raises:
        Refused: it does not say.
    """
    success = answer.get("success")
    if not isinstance(success, bool):
        raise Refused("'success' must be true or false")
    return success


def read_merges(answer: dict[str, Any], names: set[str]) -> dict[str, str]:
    """Which name goes by which.

    Raises:
        Refused: a name that was not listed, one with two meanings, or a chain.
    """
    entries = answer.get("merge")
    if not isinstance(entries, list):
        raise Refused("'merge' must be a list")
    merged: dict[str, str] = {}
    for entry in entries:
        pair = [entry.get("name"), entry.get("into")] if isinstance(entry, dict) else [None, None]
        for value in pair:
            if value not in names:
                raise Refused(f"{value!r} is none of the listed names")
        name, into = map(str, pair)
        if merged.get(name, into) != into:
            raise Refused(f"{name!r} is merged into two names")
        if name != into:
            merged[name] = into
    chained = next((n for n, into in merged.items() if into in merged), None)
    if chained is not None:
        raise Refused(f"{chained!r} is merged into {merged[chained]!r}, which itself is merged into another name")
    return merged
