"""What a checkpoint says of itself before anything is loaded: its inputs, its critic's settings, its digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError, did_you_mean
from igrft.models.actors import POLICY_TYPES, looks_at_pictures

#: Bytes that are hashed in one go.
_CHUNK = 64 << 20
#: Cameras that LeRobot's policies make up themselves where a robot has fewer.
_EMPTY = ".empty_camera_"
_RENAMES = "rename_observations_processor"


@dataclass(frozen=True)
class Inputs:
    """Columns of a dataset that a policy reads, by their names there.

    Attributes:
        cameras: pictures.
        vectors: everything else, by name its width.
    """

    cameras: tuple[str, ...]
    vectors: Mapping[str, int]

    def refuse_unfit(self, dataset: DatasetReader) -> None:
        """Raises IgrftError: the dataset lacks one of them, or has it with another width."""
        for camera in self.cameras:
            if camera not in dataset.cameras:
                raise IgrftError(
                    f"step 'values': {dataset.root} has no camera {camera!r}, which the checkpoint's policy wants"
                    f"{did_you_mean(camera, dataset.cameras) if dataset.cameras else '; it has none'}"
                )
            if not dataset.camera_has_files(camera):
                raise IgrftError(
                    f"step 'values': camera {camera!r}, which the checkpoint's policy wants, has no file in any "
                    f"episode of {dataset.root}; restore them from the source"
                )
        for name, width in self.vectors.items():
            if name not in dataset.features:
                raise IgrftError(
                    f"step 'values': {dataset.root} has no column {name!r}, which the checkpoint's policy wants; take "
                    "a checkpoint that was trained on this robot"
                )
            shape = list(dataset.features[name].get("shape") or [])
            if shape != [width]:
                raise IgrftError(
                    f"step 'values': {name!r} has shape {shape} in {dataset.root}, and the checkpoint's policy wants "
                    f"[{width}]; take a checkpoint that was trained on this robot"
                )


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint with a critic, not yet loaded.

    Attributes:
        folder: the checkpoint itself, also where a run was named.
        inputs: what its policy reads.
        chunk_size: actions that its policy predicts at a time.
        settings: what the critic was trained with (``critic/config.json``).
        digest: of every file of policy, processors and critic: another one has other values.
    """

    folder: Path
    inputs: Inputs
    chunk_size: int
    settings: Mapping[str, Any]
    digest: str


def read_facts(path: str) -> CheckpointFacts:
    """Look at a run's folder (its newest checkpoint), one of its checkpoints, or a ``pretrained_model`` folder.

    Reads every byte of it once, to know it again.

    Raises:
        UsageError: no checkpoint is there, or it has no critic.
        IgrftError: a file of it cannot be read.
    """
    from igrft.models.load import CONFIG, PRETRAINED, CheckpointFolder

    if not Path(path).exists():
        raise UsageError(
            f"step 'values': there is no checkpoint at {path}; give the folder of a run, or of one of its checkpoints"
        )
    found = CheckpointFolder.find(path)
    if found.critic is None:
        raise UsageError(
            f"step 'values': the checkpoint {path} has no critic beside its policy; take one of a run with "
            "critic.enabled: true"
        )
    # Not by a link such as `last`, which the run may point elsewhere before the weights are read.
    pretrained = found.pretrained.resolve()
    return CheckpointFacts(
        folder=pretrained.parent if pretrained.name == PRETRAINED else pretrained,
        inputs=read_inputs(found.pretrained),
        chunk_size=int(_json(found.pretrained / CONFIG).get("chunk_size", 1)),
        settings=_json(found.critic / CONFIG),
        digest=digest_of_folders([found.pretrained, found.critic]),
    )


def read_inputs(pretrained: Path) -> Inputs:
    """What the policy in ``pretrained`` reads, by the dataset's names.

    Raises:
        UsageError: it is of a type that igrft does not know.
        IgrftError: its configuration cannot be read.
    """
    config = _json(pretrained / "config.json")
    kind = str(config.get("type"))
    if kind not in POLICY_TYPES:
        raise UsageError(
            f"step 'values': {pretrained} holds a policy of type {kind!r}{did_you_mean(kind, POLICY_TYPES)}"
        )
    names = {new: old for old, new in _renames(pretrained).items()}
    features: Mapping[str, Any] = config.get("input_features") or {}
    wanted = {k: f for k, f in features.items() if _EMPTY not in k}
    return Inputs(
        cameras=tuple(names.get(k, k) for k in wanted if wanted[k]["type"] == "VISUAL" and looks_at_pictures(kind)),
        vectors={names.get(k, k): int(f["shape"][0]) for k, f in wanted.items() if f["type"] in ("STATE", "ENV")},
    )


def _renames(pretrained: Path) -> dict[str, str]:
    """How the preprocessor renames observations: a dataset's name by the policy's."""
    path = pretrained / "policy_preprocessor.json"
    steps = _json(path).get("steps", []) if path.is_file() else []
    for step in steps:
        if step.get("registry_name") == _RENAMES:
            return dict(step.get("config", {}).get("rename_map") or {})
    return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IgrftError(f"{path} cannot be read ({' '.join(str(error).split())}); take another checkpoint") from None
    if not isinstance(value, dict):
        raise IgrftError(f"{path} holds no settings; take another checkpoint")
    return value


def digest_of_folders(folders: list[Path]) -> str:
    """Hex digest over every file in ``folders``, by its name there; several cores hash at a time.

    Weights are hashed whole: a run may train a few tensors of a large file alone.
    """
    parts: list[tuple[str, Path, int, int]] = []
    for number, folder in enumerate(folders):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            size = path.stat().st_size
            name = f"{number}/{path.relative_to(folder).as_posix()}"
            parts += [(name, path, at, min(_CHUNK, size - at)) for at in range(0, max(size, 1), _CHUNK)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda part: _hash(*part[1:]), parts)
        total = hashlib.sha256()
        for (name, _, at, _size), digest in zip(parts, digests, strict=True):
            total.update(f"{name}\0{at}\0".encode() + digest)
    return total.hexdigest()[:24]


def _hash(path: Path, start: int, size: int) -> bytes:
    # With the instructions that processors have for it, twice as fast as the dataset fingerprint's.
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(start)
        while size > 0 and (block := stream.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
    return digest.digest()
