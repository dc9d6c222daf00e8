"""Hub calls that huggingface_hub does not repeat by itself: again after what passes, and one-line errors."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from igrft.errors import IgrftError

#: Answers after which the same call may succeed. 409 and 412 on a commit: somebody else committed in between.
_PASSING = (408, 429, 500, 502, 503, 504)
_TRIES, _FIRST_WAIT, _LONGEST_WAIT = 5, 1.0, 60.0


def patiently[T](call: Callable[[], T], say: Callable[[str], None], *, also: tuple[int, ...] = ()) -> T:
    """``call()``, again after 408, 429, 5xx, a lost connection and the statuses in ``also``.

    ``Retry-After`` is kept to.

    Raises:
        Whatever the last try raised.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    wait = _FIRST_WAIT
    for left in reversed(range(_TRIES)):
        try:
            return call()
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status not in (*_PASSING, *also) or not left:
                raise
            pause, why = _retry_after(error.response.headers.get("Retry-After"), wait), f"it answered {status}"
        except httpx.TransportError as error:
            if not left:
                raise
            pause, why = wait, type(error).__name__
        say(f"the Hub cannot take this now ({why}); again in {pause:.0f} s")
        time.sleep(pause)
        wait = min(wait * 2, _LONGEST_WAIT)
    raise AssertionError("unreachable")


def _retry_after(value: str | None, otherwise: float) -> float:
    try:
        return min(max(float(value or ""), 0.0), 600.0)
    except ValueError:
        return otherwise


@contextmanager
def hub_errors(repo_id: str, doing: str) -> Iterator[None]:
    """Errors of the client as one line that says what to do. A token is never part of them.

    Args:
        doing: what was being done, as ``"creating it"``.
    """
    import httpx
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except LocalTokenNotFoundError:
        raise IgrftError("not logged in to the Hub; run: hf auth login, or set HF_TOKEN") from None
    except OfflineModeIsEnabled:
        raise IgrftError("HF_HUB_OFFLINE is set, so the Hub is not asked; unset it to push") from None
    except HFValidationError as error:
        raise IgrftError(f"{repo_id}: {one_line(error)}") from None
    except HfHubHTTPError as error:
        raise IgrftError(f"{repo_id}: {doing} failed: {_explained(error)}") from None
    except httpx.HTTPError as error:
        raise IgrftError(
            f"{repo_id}: {doing} failed: the Hub cannot be reached ({type(error).__name__}); run the same command "
            "again, what has arrived is not sent again"
        ) from None
    except ValueError as error:
        # The Hub refuses a file, or what answers is no Hub.
        raise IgrftError(f"{repo_id}: {doing} failed: {one_line(error)}") from None
    except RuntimeError as error:
        # The client's threads wrap what went wrong with a file.
        cause = error.__cause__
        if cause is None:
            raise
        with hub_errors(repo_id, one_line(error).rstrip(".").replace("Error while uploading", "sending")):
            raise cause from None


def _explained(error: Exception) -> str:
    status = error.response.status_code  # type: ignore[attr-defined]
    advice = {
        401: "the token is not valid; run: hf auth login, or set HF_TOKEN to another one",
        402: "the account must pay for that (private storage is limited); see its settings on the Hub",
        403: "the token may not write there; take another repository, or a token with the right to write",
        404: "there is no such repository, or the token may not see it; check the name",
        413: "a file is larger than the Hub takes",
        429: "too many requests; run the same command again later, what has arrived is not sent again",
    }
    if status in advice:
        return f"{advice[status]} (the Hub answered {status})"
    if status >= 500:
        return (
            f"the Hub has a fault (it answered {status}); run the same command again later, what has arrived is not "
            "sent again"
        )
    return f"the Hub answered {status}: {one_line(getattr(error, 'server_message', None) or error)}"


def one_line(error: object) -> str:
    """The first lines of a message as one, without the queries of signed addresses."""
    text = re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", " ".join(str(error).split()))
    return re.sub(r"hf_\w+", "hf_…", text)[:300]
