"""What may go wrong with a store, in one line that says what to do and nothing secret."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from igrft.errors import IgrftError
from igrft.remote.urls import without_secrets

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Classes of the HTTP clients and of botocore, by name: none of them need be installed.
_CREDENTIALS = {
    "NoCredentialsError": "no credentials were found",
    "PartialCredentialsError": "the credentials are incomplete",
    "CredentialRetrievalError": "the credentials could not be had",
    "TokenRetrievalError": "the credentials have run out",
    "DefaultCredentialsError": "no credentials were found",
}


class StoreError(IgrftError):
    """A store does not answer, or not with what was there before: no episode's fault, so it ends the run."""


class ChangedError(StoreError):
    """An object is not what it was when it was listed."""


@contextmanager
def told(url: str, doing: str) -> Iterator[None]:
    """Errors of a store's client as one line.

    Args:
        url: whom it concerns.
        doing: what was tried: ``"read"``, ``"list"``, ``"write"``.

    Raises:
        StoreError: instead of whatever the client raised. A full disk stays an OSError.
    """
    try:
        yield
    except (IgrftError, KeyboardInterrupt):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        raise StoreError(f"{url} could not be {doing}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    name = type(error).__name__
    if name in _CREDENTIALS:
        return f"{_CREDENTIALS[name]}; set them in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, …)"
    if isinstance(error, FileNotFoundError):
        return "it is not there; check the URL"
    if isinstance(error, PermissionError):
        return f"access is refused ({one_line(error)}); check the credentials in the environment and their rights"
    if isinstance(error, NotImplementedError):
        return "this kind of store cannot do that"
    return f"{one_line(error)}; check the network and the store, and run the same command again"


def one_line(error: BaseException) -> str:
    """What an error says, in one line and without secrets."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = str(error.strerror)
    return without_secrets(" ".join(text.split()))[:300] or type(error).__name__
