"""What is a URL, which ones are taken, and how they are named without what is secret in them."""

from __future__ import annotations

import re
from pathlib import Path

from igrft.errors import UsageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[A-Za-z][A-Za-z0-9+.-]*::")
#: What Path makes of a URL.
_COLLAPSED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")
_LOCAL = ("file", "local")
#: In messages of other libraries: user:password@, and queries, in which signed URLs carry their signature.
_USER = re.compile(r"(?<=://)[^/\s@'\"]*@")
_QUERY = re.compile(r"(?P<url>[A-Za-z][A-Za-z0-9+.-]*://[^\s?'\"]+)\?[^\s'\"]*")


def is_url(text: str | Path) -> bool:
    """Whether the user means a URL, and neither a path nor a Hub id (``metaworld:TASK`` is none either)."""
    return not isinstance(text, Path) and _URL.match(text) is not None


def refuse_collapsed(path: str | Path, what: str) -> None:
    """Raise where a URL was put into a Path, which leaves one slash of two.

    Raises:
        UsageError: it was.
    """
    if isinstance(path, Path) and _COLLAPSED.match(str(path)) and not path.exists():
        raise UsageError(f"{what} {str(path)!r} looks like a URL in a pathlib.Path; give it as text")


def checked_url(text: str, what: str) -> str:
    """``text`` with its protocol in small letters and without a slash at the end.

    Raises:
        UsageError: it holds a password, a query (signed URLs hold their signature there), ``..`` or ``::``. The message
            does not repeat what may be secret.
    """
    if "::" in text:
        raise UsageError(f"{what}: chained URLs (with '::') are not taken; give the URL of the store itself")
    protocol, _, rest = text.partition("://")
    place, _, inside = rest.partition("/")
    shown = f"{protocol}://{place.rpartition('@')[2]}"
    if "?" in rest or "#" in rest:
        raise UsageError(
            f"{what} {shown}/… has a query ('?' or '#'), which may hold a signature; give the URL without it, "
            "credentials come from the environment"
        )
    if ":" in place.rpartition("@")[0]:
        raise UsageError(
            f"{what} {shown}/… holds a password; give the URL without it, credentials come from the environment"
        )
    parts = inside.rstrip("/").split("/")
    if any(part in ("..", ".") for part in parts) or ("" in parts and parts != [""]):
        raise UsageError(f"{what} {text!r} has an empty part, '.' or '..' in its path; give the plain URL")
    if not rest.strip("/"):
        raise UsageError(f"{what} {text!r} names no folder; give {protocol}://BUCKET/FOLDER")
    return f"{protocol.lower()}://{rest.rstrip('/')}"


def local_path(url: str) -> Path | None:
    """The path that a ``file://`` URL names; None for every other."""
    protocol, _, rest = url.partition("://")
    return Path(rest).expanduser() if protocol in _LOCAL else None


def local_folder(path: str | Path, what: str) -> Path:
    """A folder that is written on this machine as it grows, which no store can be.

    Raises:
        UsageError: it is a URL.
    """
    if (is_url(path) and local_path(str(path)) is None) or _COLLAPSED.match(str(path)):
        raise UsageError(f"{what} is written on this machine, and a URL is no folder; give a folder, and copy it after")
    return (local_path(str(path)) if is_url(path) else None) or Path(path).expanduser()


def url_name(url: str) -> str:
    """The last part: what the dataset is called."""
    return url.rpartition("/")[2] or url.partition("://")[2]


def without_secrets(text: str) -> str:
    """A message of another library without users, passwords and queries in the URLs that it names."""
    return _QUERY.sub(r"\g<url>", _USER.sub("", text))
