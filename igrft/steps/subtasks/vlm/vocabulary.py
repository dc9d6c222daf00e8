"""One vocabulary out of the names that a model gave to each episode by itself."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Set

from igrft.errors import EpisodeError
from igrft.steps.subtasks.vlm import prompts
from igrft.steps.subtasks.vlm.answers import read_json_answer, read_merges
from igrft.steps.subtasks.vlm.session import Session

_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]+")
#: Names in one question; a longer list would not be answered with care. The rest keeps its spelling.
_MOST_NAMES = 150


def plain(name: str) -> str:
    """A name without what does not tell subtasks apart: case, articles, punctuation, spaces."""
    words = _PUNCTUATION.sub(" ", name.lower()).split()
    return " ".join(w for w in words if w not in _ARTICLES) or name


def by_spelling(uses: Mapping[str, int], given: Set[str] = frozenset()) -> dict[str, str]:
    """Every name, and the one it goes by: of those that are spelled differently alone, the most used.

    Args:
        uses: how often each name was given, in order of first appearance.
        given: names that people gave; they stay as they are, and others of the same words go by them.
    """
    groups: dict[str, list[str]] = {}
    for name in uses:
        groups.setdefault(plain(name), []).append(name)
    found: dict[str, str] = {}
    for names in groups.values():
        best = max(names, key=lambda n: (n in given, uses[n]))
        tidy = best if best in given else " ".join(best.split()).rstrip(".").lower() or best
        found |= {n: n if n in given else tidy for n in names}
    return {name: found[name] for name in uses}


def merge_vocabulary(
    uses: Mapping[str, int], given: Set[str], session: Session | None
) -> tuple[dict[str, str], str | None]:
    """Every name, and the one it goes by in the dataset.

    Args:
        uses: how often each name was given.
        given: names that people gave.
        session: asks the model which of the names that spelling leaves mean the same; None leaves them.

    Returns:
        The mapping, and why the model's part in it was done without, or None.
    """
    spelled = by_spelling(uses, given)
    counts: Counter[str] = Counter()
    for name, number in uses.items():
        counts[spelled[name]] += number
    if session is None or len(counts) < 2:
        return spelled, None
    listed = counts.most_common(_MOST_NAMES)
    names = [name for name, _ in listed]
    messages = [{"role": "user", "content": prompts.merge_names(listed)}]
    try:
        merged = session.answer(
            messages, prompts.merge_schema(names), lambda text: read_merges(read_json_answer(text, "merge"), set(names))
        )
    except EpisodeError as error:
        return spelled, f"subtask names were merged by their spelling alone: {error}"
    return {n: n if n in given else merged.get(spelled[n], spelled[n]) for n in uses}, None
