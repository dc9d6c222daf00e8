"""``igrft push``: a dataset or a model to the Hub, with its card."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igrft.dataset.labels import open_dataset
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.publishing.card import dataset_card_data, find_card, licence_text, render
from igrft.publishing.facts import dataset_facts, picture_path, source_licence
from igrft.publishing.files import CARD, Selection, Sent, dataset_files, run_files
from igrft.publishing.hub import MAIN, Repository
from igrft.publishing.model_facts import RunCheckpoint, find_checkpoint, model_card_data, model_facts
from igrft.publishing.pictures import episode_pictures
from igrft.remote.mirror import fetch
from igrft.reports.inspect import inspect
from igrft.reports.run.read import refuse_neither
from igrft.reports.text import plural
from igrft.reports.validate import validate
from igrft.rollouts.facts import ROLLOUT

Say = Callable[[str], None]
_LISTED = 40


@dataclass(frozen=True)
class PushPlan:
    """What would be sent.

    Attributes:
        repo_id, repo_type, revision: where to.
        tag: LeRobot's version tag that is set; None for a model, and for any branch but main.
        files: in order of their names, the card and its pictures among them.
        left_out: what lies in the folder and stays there.
        cleaned: files that named folders of this machine, which were taken out of what is sent.
        notes: what the user should know.
    """

    repo_id: str
    repo_type: str
    revision: str
    tag: str | None
    files: list[Sent]
    left_out: list[str]
    cleaned: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(f.size for f in self.files)

    def to_json(self) -> dict[str, Any]:
        return {
            "repo_id": self.repo_id,
            "repo_type": self.repo_type,
            "revision": self.revision,
            "tag": self.tag,
            "bytes": self.size,
            "files": [{"name": f.name, "bytes": f.size} for f in self.files],
            "left_out": self.left_out,
            "cleaned": self.cleaned,
            "notes": self.notes,
        }

    def to_text(self) -> str:
        shown = self.files[:_LISTED]
        lines = [f"{file_size(f.size):>10}  {f.name}" for f in shown]
        if len(shown) < len(self.files):
            lines.append(f"{'…':>10}  and {plural(len(self.files) - len(shown), 'more file')} (--json lists them)")
        tag = f", tag {self.tag}" if self.tag else ""
        head = (
            f"{plural(len(self.files), 'file')}, {file_size(self.size)}, would go to the {self.repo_type} "
            f"{self.repo_id} (branch {self.revision}{tag}):"
        )
        if self.left_out:
            lines.append(f"left out: {', '.join(self.left_out)}")
        if self.cleaned:
            lines.append(f"without the folders of this machine: {', '.join(self.cleaned)}")
        return "\n".join([head, *lines])


@dataclass(frozen=True)
class PushResult:
    """What was done.

    Attributes:
        plan: what was sent.
        url: of the repository; None for a dry run.
        commit: id of the commit; None for a dry run.
        card: where a dry run wrote the card.
        removed: files of an earlier push that were removed.
    """

    plan: PushPlan
    url: str | None = None
    commit: str | None = None
    card: Path | None = None
    removed: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.plan.to_json(),
            "url": self.url,
            "commit": self.commit,
            "card": None if self.card is None else str(self.card),
            "removed": self.removed,
        }


def push(
    dataset_or_run: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    card: str | None = None,
    revision: str = MAIN,
    license: str | None = None,
    title: str | None = None,
    tags: tuple[str, ...] = (),
    workers: int | None = None,
    decode: bool = False,
    dry_run: bool = False,
    output: Path | None = None,
    progress: bool = False,
    say: Say = lambda line: None,
) -> PushResult:
    """Send a dataset, or a run's newest checkpoint, to the Hugging Face Hub with a card.

    The folder itself is not touched. Run again, it sends what is missing.

    Args:
        dataset_or_run: a dataset's folder (or its Hub id), a run's folder, or one checkpoint of a run.
        repo_id: ``owner/name``; made where it is missing.
        private: make it private; refused where it is there and public.
        card: a card that comes with igrft, a template (``.j2``) or a finished card (``.md``).
        revision: the branch to commit to, made where it is missing. LeRobot's version tag moves with main alone.
        license: the Hub's identifier of a licence; default: what the README in the dataset states.
        title: of the card; default: the repository's name.
        tags: for the card, beside LeRobot's and igrft's.
        workers: files sent at a time; default 4.
        decode: validate every frame of every video first; default: a few of each file.
        dry_run: write the card, list what would be sent, and ask the Hub nothing.
        output: folder for the card of a dry run; default: beside the dataset or in the run.

    Raises:
        UsageError: no such dataset or run, or an argument that cannot be.
        IgrftError: ``validate`` finds errors, or the Hub does not take it.
    """
    _check_repo_id(repo_id)
    _check_branch(revision)
    if license is not None:
        licence_text(license)
    if output is not None and not dry_run:
        raise UsageError("--output is for --dry-run; a push writes nothing on this machine")
    folder = Path(dataset_or_run).expanduser()
    run = find_checkpoint(folder) if folder.is_dir() else None
    if run is None:
        refuse_neither(folder)
    template = None if card is None else find_card(card)
    words = {"repo_id": repo_id, "revision": revision, "title": title or repo_id.split("/")[1]}
    dataset = open_dataset(dataset_or_run) if run is None else None
    if dataset is not None:
        fetch(dataset.root, lambda name: True)
    repository: Repository | None = None
    if not dry_run:
        kind = "dataset" if run is None else "model"
        repository = Repository(repo_id, kind, revision, workers=workers or 4, say=say)
        repository.login()
    if run is not None:
        plan, text = _model_plan(run, template, words, license, tags)
        beside = run.run / "card"
    elif dataset is not None:
        _refuse_invalid(dataset, decode, progress, say)
        plan, text = _dataset_plan(dataset, template, words, license, tags)
        beside = (
            dataset.root.with_name(f"{dataset.root.name}.card") if folder.is_dir() else Path(f"{words['title']}.card")
        )
    if repository is None:
        where = _write_card(plan, output or beside)
        return PushResult(plan, card=where)
    for warning in repository.check_card(text):
        say(f"the Hub remarks on the card: {warning}")
    for note in plan.notes:
        say(f"note: {note}")
    repository.make(private=private)
    say(f"sending {plural(len(plan.files), 'file')}, {file_size(plan.size)}, to {repo_id}")
    done = repository.fill(plan.files)
    if plan.tag is not None:
        repository.tag(plan.tag, done.commit)
    return PushResult(plan, done.url, done.commit, removed=done.removed)


def file_size(count: int) -> str:
    """``56.7 kB``, ``2.0 MB``; thousands, as the Hub shows them."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def _check_repo_id(repo_id: str) -> None:
    name = r"[A-Za-z0-9](?:[\w.-]*[\w])?"
    if re.fullmatch(rf"{name}/{name}", repo_id) is None or "--" in repo_id or ".." in repo_id or len(repo_id) > 96:
        raise UsageError(f"REPO_ID must be OWNER/NAME, of letters, digits, '-', '_' and '.', got {repo_id!r}")


def _check_branch(name: str) -> None:
    if re.fullmatch(r"v\d+(\.\d+)*", name):
        raise UsageError(f"--revision {name} is one of LeRobot's version tags, which push sets itself; name a branch")
    if re.fullmatch(r"[\w][\w./-]*", name) is None or ".." in name or name.endswith(("/", ".", ".lock")):
        raise UsageError(f"--revision must be the name of a branch, got {name!r}")


def _refuse_invalid(dataset: DatasetReader, decode: bool, progress: bool, say: Say) -> None:
    found = validate(dataset, videos=decode, progress=progress)
    if not found.ok:
        first = found.errors[0]
        raise IgrftError(
            f"{dataset.root} has {plural(len(found.errors), 'error')} and is not sent; the first: [{first.check}] "
            f"{first.message}; see all with: igrft validate {dataset.root}{'' if decode else ' --fast'}"
        )
    if found.warnings:
        say(f"validate: {plural(len(found.warnings), 'warning')} (igrft validate {dataset.root} --fast shows them)")


def _dataset_plan(
    dataset: DatasetReader,
    template: Path | None,
    words: dict[str, str],
    license: str | None,
    tags: tuple[str, ...],
) -> tuple[PushPlan, str]:
    notes: list[str] = []
    found = inspect(dataset)
    is_rollout = (dataset.root / ROLLOUT).is_file() and found.totals["rollouts"] is not None
    template = template or find_card("rollouts" if is_rollout else "labelled")
    pictures = episode_pictures(dataset, found.rows, notes) if template.suffix == ".j2" else []
    facts = dataset_facts(dataset, found, pictures) | words
    license = license or source_licence(dataset.root)
    facts |= {"license": license, "license_text": licence_text(license) if license else ""}
    extra = (*tags, *(("rollouts",) if is_rollout else ()), *_robot_tag(found.totals["robot_type"]))
    data = dataset_card_data(facts, title=words["title"], license=license, tags=list(extra))
    text = render(template, data, facts)
    selection = dataset_files(dataset)
    if (dataset.root / CARD).is_file() and template != dataset.root / CARD:
        notes.append(f"the card is sent instead of {dataset.root / CARD}; --card {dataset.root / CARD} sends that")
    if not license and template.suffix == ".j2":
        notes.append("no licence is stated, so that nobody may use it; state one with --license")
    files = [*selection.files, *(Sent(picture_path(p.summary.episode), p.jpeg) for p in pictures)]
    tag = facts["codebase_version"] if words["revision"] == MAIN else None
    return _plan("dataset", words, files, selection, text, notes, tag), text


def _model_plan(
    run: RunCheckpoint, template: Path | None, words: dict[str, str], license: str | None, tags: tuple[str, ...]
) -> tuple[PushPlan, str]:
    notes: list[str] = []
    selection = run_files(run.run, run.checkpoint)
    facts = model_facts(run, words["repo_id"]) | words
    facts |= {"license": license, "license_text": licence_text(license) if license else ""}
    template = template or find_card("model")
    text = render(template, model_card_data(facts, title=words["title"], license=license, tags=list(tags)), facts)
    if not license and template.suffix == ".j2":
        notes.append("no licence is stated, so that nobody may use it; state one with --license")
    return _plan("model", words, list(selection.files), selection, text, notes, None), text


def _plan(
    kind: str,
    words: dict[str, str],
    files: list[Sent],
    selection: Selection,
    text: str,
    notes: list[str],
    tag: str | None,
) -> PushPlan:
    files = sorted([*files, Sent(CARD, text.encode())], key=lambda f: f.name)
    left = [n for n in selection.left_out if n not in (CARD, f"{CARD}/")]
    return PushPlan(words["repo_id"], kind, words["revision"], tag, files, left, selection.cleaned, notes)


def _robot_tag(robot: Any) -> tuple[str, ...]:
    return (str(robot),) if robot and re.fullmatch(r"[\w.-]+", str(robot)) else ()


def _write_card(plan: PushPlan, folder: Path) -> Path:
    """Write what was made for the Hub, the card and its pictures, to ``folder``; returns the card's path."""
    from igrft.dataset.parquet import whole_file

    for file in plan.files:
        if isinstance(file.content, bytes) and not file.cleaned:
            with whole_file(folder / file.name) as temporary:
                temporary.write_bytes(file.content)
    return folder / CARD
