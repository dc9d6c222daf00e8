"""Which files of a dataset or of a run are sent, under which names, and what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.publishing.machine_paths import READABLE, cleaned_file
from igrft.publishing.model_facts import check_weights

CARD = "README.md"
#: Where the card's pictures lie in the repository.
ASSETS = "assets"
#: What a LeRobot dataset consists of. ``meta/igrft`` holds counts and masks that later runs and reports go on from.
_DATASET = ("meta", "data", "videos")
#: Texts by others that must go along.
_NOTICES = ("LICENSE", "LICENCE", "NOTICE", "COPYING")
#: Of a run, beside its checkpoint.
_RUN = ("recipe.yaml", "metrics.jsonl")


@dataclass(frozen=True)
class Sent:
    """One file to send.

    Attributes:
        name: its path in the repository.
        content: the file on this machine, or bytes that were made for the Hub.
        cleaned: whether these are a file's bytes without the folders of this machine.
    """

    name: str
    content: Path | bytes
    cleaned: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Selection:
    """What goes and what stays.

    Attributes:
        files: by name, without the card.
        left_out: names of files and folders at the top that are not sent.
    """

    files: list[Sent]
    left_out: list[str]

    @property
    def cleaned(self) -> list[str]:
        """Names of the files that named folders of this machine."""
        return [f.name for f in self.files if f.cleaned]


def dataset_files(dataset: DatasetReader) -> Selection:
    """``meta``, ``data``, ``videos`` and licences; hidden files and everything else stay (LeRobot's ``images``,
    which it leaves behind, too)."""
    root = dataset.root
    files = [f for folder in _DATASET for f in _under(root / folder, folder)]
    notices = [p for p in sorted(root.iterdir()) if p.is_file() and p.stem.upper() in _NOTICES]
    files += [Sent(p.name, p) for p in notices]
    taken = {*_DATASET, CARD, *(p.name for p in notices)}
    return Selection(files, _others(root, taken))


def run_files(run: Path, checkpoint: Path) -> Selection:
    """``pretrained_model`` at the top, as LeRobot expects a policy, ``critic`` beside it, recipe and metrics.

    The training state (optimizers, random states) is never sent: it is three times the weights and of use to this
    run alone.

    Raises:
        IgrftError: the checkpoint is not whole.
    """
    pretrained = checkpoint / "pretrained_model"
    for needed in ("config.json", "model.safetensors"):
        if not (pretrained / needed).is_file():
            raise IgrftError(f"{pretrained} has no {needed}; wait for the run's next checkpoint, or name another one")
    for folder in (pretrained, checkpoint / "critic"):
        for weights in sorted(folder.glob("*.safetensors")):
            check_weights(weights)
    files = [*_under(pretrained, "", every=True), *_under(checkpoint / "critic", "critic", every=True)]
    files += [_sent(name, run / name, every=True) for name in _RUN if (run / name).is_file()]
    return Selection([f for f in files if f.name != CARD], _others(run, {"checkpoints", *_RUN}))


def _under(folder: Path, name: str, *, every: bool = False) -> Iterator[Sent]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            yield _sent(f"{name}/{inside.as_posix()}".lstrip("/"), path, every=every)


def _sent(name: str, path: Path, *, every: bool = False) -> Sent:
    if path.suffix.lower() in READABLE and (changed := cleaned_file(path, every=every)) is not None:
        return Sent(name, changed, cleaned=True)
    return Sent(name, path)


def _others(root: Path, taken: Iterable[str]) -> list[str]:
    return [
        p.name + ("/" if p.is_dir() else "")
        for p in sorted(root.iterdir())
        if p.name not in taken and not p.name.startswith(".")
    ]
