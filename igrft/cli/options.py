"""What the verbs share: arguments, and how numbers and JSON are printed."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from igrft.errors import UsageError

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, a URL, or an id on the Hugging Face Hub.")]
DatasetArg = Annotated[str, typer.Argument(metavar="DATASET", help="A folder, a URL (s3://…), or an id on the Hub.")]
TargetArg = Annotated[str, typer.Argument(metavar="TARGET", help="The folder or the URL to make.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a TARGET that holds something else.")]


def plain_overrides(arguments: list[str]) -> list[str]:
    """``--steps=5`` and ``--steps 5`` as ``steps=5``. (Those with a dot were taken out before.)"""
    out: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            raise UsageError(f"unexpected argument {word!r}; settings of the recipe are given as --KEY=VALUE")
        if not equals:
            following = next(words, None)
            if following is None:
                raise UsageError(f"{word} has no value; write {word}=VALUE (igrft --help lists the options)")
            value = following
        out.append(f"{name[2:]}={value}")
    return out


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def dump(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
