"""What must hold of every page that igrft writes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

#: Elements that HTML closes by itself.
_VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Collects what a browser would fetch, element ids and text; notes tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        self.note(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(attrs)

    def note(self, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "data", "poster", "srcset") and value:
                self.fetched.append(value)
            if key == "id" and value:
                self.ids.append(value)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def check(path: Path) -> tuple[str, Checker]:
    """The page's text, after what must hold of every page."""
    text = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.wrong == []
    assert checker.open == []
    assert [f[:60] for f in checker.fetched if not f.startswith(("data:image/jpeg;base64,", "#"))] == []
    words = re.sub(r"base64,[^\"]+", "", text)
    assert not re.search(r"url\((?!#)|@import|https?://|NaN", words)
    assert len(set(checker.ids)) == len(checker.ids)
    return text, checker
