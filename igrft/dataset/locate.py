"""Turns what the user names, a folder or a Hub id, into a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from igrft.errors import IgrftError, UsageError

# The Hub's own rule, plus an optional revision (branch, tag or commit).
_HUB_ID = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def locate(source: str | Path, *, what: str) -> Path:
    """The folder (or file) that ``source`` names; a dataset on the Hub is downloaded into the Hub's cache.

    Args:
        source: a path, or ``user/name`` or ``user/name@revision`` on the Hub. A path that exists wins.
        what: how the command line calls this argument, for the message (``"SOURCE"``).

    Raises:
        UsageError: neither an existing path nor the shape of a Hub id.
        IgrftError: the Hub cannot be reached (``HF_HUB_OFFLINE`` is respected), or has no such dataset.
    """
    text = str(source)
    path = Path(text).expanduser()
    if path.exists():
        return path
    found = _HUB_ID.fullmatch(text)
    if isinstance(source, Path) or found is None:
        raise UsageError(f"{what} {text!r} does not exist; give an existing folder, or a Hub id like user/name")
    return _download(found["repo"], found["revision"], text, what)


def _download(repo: str, revision: str | None, text: str, what: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    intro = f"{what} {text!r} is no folder here, and as a dataset of the Hugging Face Hub"
    try:
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision))
    except GatedRepoError:
        raise IgrftError(f"{intro} it is gated; ask for access on its page and run: hf auth login") from None
    except RepositoryNotFoundError:
        raise IgrftError(f"{intro} it is not found; check the name, or run: hf auth login, if it is private") from None
    except RevisionNotFoundError:
        raise IgrftError(f"{intro} it has no revision {revision!r}; see its branches and tags on its page") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise IgrftError(
            f"{intro} it is not in the local cache and the Hub cannot be reached (is HF_HUB_OFFLINE set?); "
            "give a folder, or download it on a machine with a network"
        ) from None
    except Exception as error:  # the Hub's client raises whatever its HTTP library does
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise IgrftError(f"{intro} it could not be downloaded ({line}); check the network and try again") from error
