"""Fills the templates of the pages."""

from __future__ import annotations

import datetime
from pathlib import Path

from igrft.remote.urls import local_folder
from igrft.reports import palette
from igrft.reports.text import duration, percent

#: Ends of a file's name by which the user means a page, not a folder for it.
_PAGES = (".html", ".htm")


def render(template: str, **values: object) -> str:
    """The page: ``template`` with ``values``, the palette, and the time as ``made``. All text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "percent": percent}
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return environment.get_template(template).render(made=made, palette=palette, **values)


def page_path(output: Path) -> Path:
    """``output`` if it names a page, else ``index.html`` in it."""
    output = local_folder(output, "--output")
    return output if output.suffix.lower() in _PAGES else output / "index.html"
