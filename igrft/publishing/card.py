"""Renders cards: a template of ``dataset_cards`` (or the user's), facts, and the YAML that the Hub validates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igrft import resources
from igrft.errors import UsageError, did_you_mean
from igrft.publishing.facts import size_category
from igrft.reports.text import duration, percent, plural

if TYPE_CHECKING:
    from huggingface_hub import CardData, RepoCard

_KIND = "dataset_cards"
_SUFFIX = ".md.j2"


def find_card(name_or_path: str) -> Path:
    """A template by name, a template of the user's (``.j2``), or a finished card (``.md``).

    Raises:
        UsageError: neither exists; the message names the near miss.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    base = resources.folder(_KIND)
    named = base / f"{name_or_path}{_SUFFIX}"
    if named.is_file() and "/" not in name_or_path and not name_or_path.startswith("_"):
        return named
    known = sorted(p.name.removesuffix(_SUFFIX) for p in base.glob(f"[!_]*{_SUFFIX}"))
    raise UsageError(f"--card: no file {name_or_path!r} and no card of that name{did_you_mean(name_or_path, known)}")


def render(path: Path, data: CardData, facts: dict[str, Any]) -> str:
    """The card as text.

    Args:
        path: as :func:`find_card` found it; a file that is no template (not ``.j2``) is taken as it stands.

    Raises:
        UsageError: a template that Jinja refuses, or front matter that is no YAML.
    """
    if path.suffix != ".j2":
        return _checked(path.read_text(encoding="utf-8"), path)
    import jinja2

    folders = [path.parent, resources.folder(_KIND)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"md": escape, "percent": percent, "duration": duration, "plural": plural}
    try:
        text = environment.get_template(path.name).render(card_data=data.to_yaml().strip(), **facts)
    except jinja2.TemplateError as error:
        where = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        text = " ".join(str(error).split())
        raise UsageError(f"{path}{where}: {text}; dataset_cards/README.md says what a card may use") from None
    return _checked(_tidy(text), path)


def card_class(repo_type: str) -> type[RepoCard]:
    """huggingface_hub's card of a ``dataset`` or a ``model``."""
    from huggingface_hub import DatasetCard, ModelCard

    return DatasetCard if repo_type == "dataset" else ModelCard


def dataset_card_data(facts: dict[str, Any], *, title: str, license: str | None, tags: list[str]) -> CardData:
    """The front matter of a dataset: LeRobot's own entries, and ours."""
    from huggingface_hub import DatasetCardData

    return DatasetCardData(
        license=license,
        pretty_name=title,
        task_categories=["robotics"],
        size_categories=size_category(int(facts["frames"])),
        tags=["LeRobot", "igrft", *tags],
        configs=[{"config_name": "default", "data_files": "data/*/*.parquet"}],
    )


def escape(text: object) -> str:
    """Text as Markdown shows it, on one line, in tables and in italics too."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", line)


def _tidy(text: str) -> str:
    """At most one empty line in a row outside code, and none inside tables."""
    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"[ \t]+$", "", parts[i], flags=re.MULTILINE)
        parts[i] = re.sub(r"\n{3,}", "\n\n", parts[i])
    return "".join(parts).strip() + "\n"


def _checked(text: str, path: Path) -> str:
    """Raise where the front matter is missing or no YAML mapping."""
    import yaml

    found = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", text, flags=re.DOTALL)
    if found is None:
        raise UsageError(f"{path} has no front matter; a card begins with a line '---', YAML, and another '---'")
    try:
        value = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: its front matter is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: its front matter must be a mapping of keys, got {type(value).__name__}")
    return text


def licence_text(license: str) -> str:
    """A line on a licence."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UsageError(
            f"--license must be one of the Hub's identifiers (apache-2.0, mit, cc-by-4.0, other …), got {license!r}"
        )
    if license == "other":
        return "See the licence file in this repository."
    return f"[{license}](https://huggingface.co/docs/hub/repositories-licenses)"
