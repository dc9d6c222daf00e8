"""Turns what the user names, a folder, a URL or a Hub id, into a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from igrft.errors import IgrftError, UsageError
from igrft.remote.mirror import mirror
from igrft.remote.urls import checked_url, is_url, local_path, refuse_collapsed

#: What is fetched for whoever looks at no picture: not the videos, which are nearly all of a dataset.
_PICTURES = ("videos/*", "images/*")
#: Pictures of a card that `igrft push` made; nobody's input.
_CARD_PICTURES = "assets/episode_??????.jpg"
# The Hub's own rule, plus an optional revision (branch, tag or commit).
_HUB_ID = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def locate(source: str | Path, *, what: str, pictures: bool = True, whole: bool = False, tables: bool = True) -> Path:
    """The folder (or file) that ``source`` names; a dataset on the Hub is downloaded into the Hub's cache.

    What is in the cache already is not fetched again; a commit as the revision needs no request at all. Of a URL the
    folder is a mirror: its tables come at once, and of its videos what is looked at, when it is (:mod:`igrft.remote`).

    Args:
        source: a path, a URL of fsspec's, or ``user/name`` or ``user/name@revision`` on the Hub. A path that exists
            wins over a Hub id.
        what: how the command line calls this argument, for the message (``"SOURCE"``).
        pictures: whether videos are needed; without them a dataset on the Hub comes as tables alone. (Pictures that lie
            in the tables come with them.)
        whole: fetch every file of a URL, for programs that open them by their paths.
        tables: fetch every table of a URL at once; else they are fetched as they are read, as its videos are.

    Raises:
        UsageError: neither an existing path, nor a URL with something at it, nor the shape of a Hub id.
        IgrftError: the Hub or the store cannot be reached (``HF_HUB_OFFLINE`` is respected), or has no such dataset.
    """
    refuse_collapsed(source, what)
    if is_url(source):
        local = local_path(checked_url(str(source), what))
        if local is None:
            return mirror(str(source), what=what, whole=whole, tables=tables)
        source = local
    text = str(source)
    path = Path(text).expanduser()
    if path.exists():
        return path
    found = _HUB_ID.fullmatch(text)
    if isinstance(source, Path) or found is None:
        raise UsageError(
            f"{what} {text!r} does not exist; give an existing folder, or a Hub id like user/name, or a URL like "
            "s3://bucket/name"
        )
    return _download(found["repo"], found["revision"], text, what, pictures)


def _download(repo: str, revision: str | None, text: str, what: str, pictures: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    intro = f"{what} {text!r} is no folder here, and as a dataset of the Hugging Face Hub"
    try:
        left = [_CARD_PICTURES, *(() if pictures else _PICTURES)]
        return Path(snapshot_download(repo, repo_type="dataset", revision=revision, ignore_patterns=left))
    except GatedRepoError:
        raise IgrftError(f"{intro} it is gated; ask for access on its page and run: hf auth login") from None
    except RepositoryNotFoundError:
        raise IgrftError(f"{intro} it is not found; check the name, or run: hf auth login, if it is private") from None
    except RevisionNotFoundError:
        raise IgrftError(f"{intro} it has no revision {revision!r}; see its branches and tags on its page") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code != 404:
            status = cause.response.status_code
            raise IgrftError(
                f"{intro} it could not be fetched (it answered {status}) and is not in the local cache; try again later"
            ) from None
        offline = " (HF_HUB_OFFLINE is set)" if constants.is_offline_mode() else ""
        raise IgrftError(
            f"{intro} it is not in the local cache and the Hub cannot be reached{offline}; "
            "give a folder, or download it on a machine with a network"
        ) from None
    except HfHubHTTPError as error:
        if error.response.status_code != 401:
            raise IgrftError(
                f"{intro} it could not be downloaded (it answered {error.response.status_code}); try again later"
            ) from None
        raise IgrftError(
            f"{intro} it cannot be read: the token is not valid; run: hf auth login, or unset HF_TOKEN"
        ) from None
    except Exception as error:  # the Hub's client raises whatever its HTTP library does
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise IgrftError(f"{intro} it could not be downloaded ({line}); check the network and try again") from error
