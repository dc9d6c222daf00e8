"""One repository on the Hub: made, filled and tagged through huggingface_hub.

Files go from where they lie, several at a time, through ``preupload_lfs_files`` (Xet where it is installed, else
LFS) and are then committed, tables and card last. Nothing is written on this machine. What has arrived is not sent
again by a later run: the Hub knows it by its digest.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import igrft
from igrft.errors import IgrftError
from igrft.publishing.files import ASSETS, Sent
from igrft.publishing.retries import hub_errors, one_line, patiently

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

MAIN = "main"
#: Sent between two looks at what has arrived: files, bytes.
_BATCH_FILES, _BATCH_BYTES = 64, 4 << 30
#: Files in one commit. Datasets of LeRobot v3.0 have far fewer, so that theirs is one.
_COMMIT_FILES = 500
#: What is removed from a repository where it is not part of what is pushed; all else there stays.
_OURS = {"dataset": ("meta/", "data/", "videos/", f"{ASSETS}/"), "model": ("critic/",)}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Committed:
    """What came of it.

    Attributes:
        url: of the repository's page.
        commit: its id.
        removed: files of an earlier push that are not part of this one.
    """

    url: str
    commit: str
    removed: list[str]


class Repository:
    """A repository of one type on the Hub.

    Args:
        repo_id: ``owner/name``.
        repo_type: ``dataset`` or ``model``.
        revision: the branch that is committed to.
        workers: files sent at a time.
        say: takes a line on what is going on.
    """

    def __init__(self, repo_id: str, repo_type: str, revision: str, *, workers: int, say: Say) -> None:
        from huggingface_hub import HfApi

        # The token is found by the client, in HF_TOKEN or where `hf auth login` put it; it is never held here.
        self._api = HfApi(library_name="igrft", library_version=igrft.__version__)
        self._where: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}
        self._repo_id, self._type, self._revision = repo_id, repo_type, revision
        self._workers, self._say = workers, say

    def login(self) -> str:
        """The account that the token is of.

        Raises:
            IgrftError: no token, or one that is not valid.
        """
        with hub_errors(self._repo_id, "logging in"):
            return str(patiently(self._api.whoami, self._say)["name"])

    def check_card(self, text: str) -> list[str]:
        """Have the Hub validate a card's front matter; returns its warnings.

        Raises:
            IgrftError: the Hub refuses it.
        """
        from huggingface_hub.utils import get_session, hf_raise_for_status

        def ask() -> Any:
            body = {"repoType": self._type, "content": text}
            answer = get_session().post(f"{self._api.endpoint}/api/validate-yaml", json=body)
            if answer.status_code != 400:
                hf_raise_for_status(answer)
            return answer.json()

        with hub_errors(self._repo_id, "checking the card"):
            found = patiently(ask, self._say)
        errors = [one_line(e.get("message")) for e in found.get("errors") or []]
        if errors:
            raise IgrftError(f"the Hub refuses the card: {'; '.join(errors)}; mend its front matter (--card)")
        return [one_line(w.get("message")) for w in found.get("warnings") or []]

    def make(self, *, private: bool) -> None:
        """Create the repository and the branch where they are missing.

        Raises:
            IgrftError: the token may not; or the repository is there, is public, and ``private`` is asked for.
        """
        with hub_errors(self._repo_id, "creating it"):
            patiently(
                lambda: self._api.create_repo(**self._where, private=True if private else None, exist_ok=True),
                self._say,
            )
            if private and not patiently(lambda: self._api.repo_info(**self._where), self._say).private:
                raise IgrftError(
                    f"{self._repo_id} is there and public, so --private would not hold; make it private in its "
                    "settings, or take another name"
                )
            if self._revision != MAIN:
                patiently(
                    lambda: self._api.create_branch(**self._where, branch=self._revision, exist_ok=True), self._say
                )

    def fill(self, files: Sequence[Sent]) -> Committed:
        """Send ``files`` and commit them; files of ours that are there and not among them are removed.

        Raises:
            IgrftError: it broke off; a later call sends only what is missing.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        where = {**self._where, "revision": self._revision}
        # Tables and the card last: where there is more than one commit, they must not speak of what is not there.
        ordered = sorted(files, key=lambda f: (f.name.startswith("meta/"), f.name == "README.md", f.name))
        additions = [CommitOperationAdd(path_in_repo=f.name, path_or_fileobj=_content(f)) for f in ordered]
        with _client_messages(self._say):
            done = 0
            for batch, size in _batches(additions, ordered):
                with hub_errors(self._repo_id, "sending files"):
                    self._api.preupload_lfs_files(additions=batch, num_threads=self._workers, **where)
                done += size
            stale = self._stale({f.name for f in files})
            if stale:
                self._say(
                    f"{len(stale)} files of an earlier push are not part of this one and are removed (the repository's "
                    f"history keeps them): {', '.join(stale[:3])}{' …' if len(stale) > 3 else ''}"
                )
            commit, url = "", ""
            for start in range(0, max(len(additions), 1), _COMMIT_FILES):
                part: list[CommitOperationAdd | CommitOperationDelete] = [*additions[start : start + _COMMIT_FILES]]
                if start + _COMMIT_FILES >= len(additions):
                    part += [CommitOperationDelete(path_in_repo=name) for name in stale]
                info = self._commit(part, where)
                commit, url = str(info.oid), str(info.repo_url)
        return Committed(url, commit, stale)

    def tag(self, version: str, commit: str) -> None:
        """Put the tag ``version`` on ``commit``, wherever it was before: LeRobot looks for it."""
        with hub_errors(self._repo_id, f"setting the tag {version}"):
            refs = patiently(lambda: self._api.list_repo_refs(**self._where), self._say)
            there = next((t for t in refs.tags if t.name == version), None)
            if there is not None and there.target_commit == commit:
                return
            if there is not None:
                patiently(lambda: self._api.delete_tag(**self._where, tag=version), self._say)
            patiently(
                lambda: self._api.create_tag(**self._where, tag=version, revision=commit, exist_ok=True), self._say
            )

    def _commit(self, operations: list[Any], where: dict[str, Any]) -> Any:
        def commit() -> Any:
            with warnings.catch_warnings():
                # The card was checked before; what the Hub remarks on was said then.
                warnings.simplefilter("ignore")
                return self._api.create_commit(
                    operations=operations,
                    commit_message=f"Push with igrft {igrft.__version__}",
                    num_threads=self._workers,
                    **where,
                )

        with hub_errors(self._repo_id, "committing"):
            return patiently(commit, self._say, also=(409, 412))

    def _stale(self, names: set[str]) -> list[str]:
        where = {**self._where, "revision": self._revision}
        with hub_errors(self._repo_id, "listing it"):
            there = patiently(lambda: self._api.list_repo_files(**where), self._say)
        return sorted(n for n in there if n.startswith(_OURS[self._type]) and n not in names)


def _content(file: Sent) -> str | bytes:
    return file.content if isinstance(file.content, bytes) else str(file.content)


def _batches(additions: Sequence[Any], files: Sequence[Sent]) -> Iterator[tuple[list[Any], int]]:
    """Stretches of files to send together, with their bytes."""
    batch: list[Any] = []
    size = 0
    for addition, file in zip(additions, files, strict=True):
        if batch and (len(batch) >= _BATCH_FILES or size + file.size > _BATCH_BYTES):
            yield batch, size
            batch, size = [], 0
        batch.append(addition)
        size += file.size
    if batch:
        yield batch, size


class _Says(logging.Handler):
    """Passes on what the client says of waiting and trying again, without the addresses' signatures."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "Rate limited" in text or "thrown while requesting" in text:
            self._say(one_line(text))


@contextmanager
def _client_messages(say: Say) -> Iterator[None]:
    logger = logging.getLogger("huggingface_hub")
    handlers, spread = logger.handlers[:], logger.propagate
    logger.handlers, logger.propagate = [_Says(say)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, spread
