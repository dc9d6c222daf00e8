"""Checkpoints of a run: whole or not there, and enough in the newest to go on as if never stopped.

``checkpoints/STEP/pretrained_model`` is a LeRobot checkpoint (averaged weights, adapters merged),
``critic/`` stands beside it, ``training_state/`` holds what resuming takes: weights as they were trained,
averages, optimizers, random states. Only the two newest keep their ``training_state``.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from igrft.dataset.locks import sync
from igrft.dataset.parquet import write_json
from igrft.errors import IgrftError
from igrft.models.load import CHECKPOINTS, CONFIG, CRITIC, LAST, PRETRAINED, WEIGHTS
from igrft.models.processors import save_processors
from igrft.training.ema import Ema
from igrft.training.lora import merged_state, trainable, whole
from igrft.training.module import TrainingModule

TRAINING = "training_state"
STATE = "state.json"
_MODULE = "module.safetensors"
_EMA = "ema.safetensors"


@dataclass
class RunState:
    """What a run consists of at a step, apart from its data.

    Attributes:
        module: unwrapped.
        optimizers: by name: actor, critic.
        schedule: of the actor's learning rate; the critic's follows it.
        critic_settings: written to ``critic/config.json``.
        extra: JSON to be found again on resuming.
    """

    module: TrainingModule
    optimizers: dict[str, torch.optim.Optimizer]
    schedule: torch.optim.lr_scheduler.LRScheduler
    ema: Ema | None
    preprocess: Any
    postprocess: Any
    critic_settings: dict[str, Any]
    extra: dict[str, Any]


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / CHECKPOINTS / f"{step:06d}"


def newest(run: Path) -> Path | None:
    """The checkpoint that ``last`` points to, or None."""
    last = run / CHECKPOINTS / LAST
    return last.resolve() if last.exists() else None


def save(run: Path, step: int, state: RunState, *, keep: int | None, main: bool = True) -> Path:
    """Write the checkpoint of ``step`` and point ``last`` to it; every process must call it.

    Raises:
        IgrftError: the disk is full or refuses; earlier checkpoints are as they were.
    """
    # Where they are spread, every process has a part in putting each together, and one keeps it.
    gathered = _gather(state, main)
    optimizers = {name: _gather_optimizer(o, main) for name, o in state.optimizers.items()}
    target = folder_of(run, step)
    if not main:
        return target
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        _write(temporary, step, state, gathered, optimizers)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        _point(run / CHECKPOINTS / LAST, target.name)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        last = newest(run)
        intact = f"; the checkpoint {last} is intact" if last else ""
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
            words in str(error) for words in ("No space", "File too large", "quota")
        )
        why = "the disk is full" if full else " ".join(str(error).split())
        raise IgrftError(
            f"step {step}: the checkpoint could not be written to {target.parent} ({why}){intact}; make room "
            "and run the same command again"
        ) from None
    _prune(run, target, keep)
    return target


def _gather(state: RunState, main: bool) -> dict[str, dict[str, Tensor]]:
    """Tensors to write, by where they go."""
    module = {n: _taken(p, main) for n, p in trainable(state.module).items()}
    for name, frozen in state.module.frozen().items():
        module.update({f"{name}.{n}": _taken(t, main) for n, t in frozen.state_dict().items()})
    average = {} if state.ema is None else {n: _taken(t, main) for n, t in state.ema.average.items()}
    saved = average or module
    policy = {n.removeprefix("policy."): t for n, t in saved.items() if n.startswith("policy.")}
    # Frozen weights are spread, too, and stand in no average.
    own = state.module.policy.state_dict()
    policy.update({n: _taken(t, main) for n, t in own.items() if n not in policy and hasattr(t, "full_tensor")})
    critic: dict[str, Tensor] = {}
    if state.module.critic is not None:
        critic = {n: _taken(t, main) for n, t in state.module.critic.state_dict().items()}
        critic.update({n.removeprefix("critic."): t for n, t in saved.items() if n.startswith("critic.")})
    return {"module": module, "ema": average, "policy": policy, "critic": critic}


def _taken(tensor: Tensor, main: bool) -> Tensor:
    """A tensor as it is; where it is spread over processes, whole on the main one's CPU and nothing elsewhere."""
    if not hasattr(tensor, "full_tensor"):
        return tensor.detach()
    together = whole(tensor.detach())
    return together.cpu() if main else together.new_empty(0)


def _gather_optimizer(optimizer: torch.optim.Optimizer, main: bool) -> dict[str, Any]:
    """An optimizer's state with every tensor whole."""
    held = optimizer.state_dict()
    state = {
        i: {k: _taken(v, main) if isinstance(v, Tensor) else v for k, v in s.items()} for i, s in held["state"].items()
    }
    return {"state": state, "param_groups": held["param_groups"]}


def _fill_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Load an optimizer's state, spread as its parameters are."""
    from lerobot.optim.optimizers import load_optimizer_state_dict

    held = load_optimizer_state_dict(folder)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        int(i): {k: _spread(v, parameters[int(i)]) if v.shape == parameters[int(i)].shape else v for k, v in s.items()}
        for i, s in held["state"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": held["param_groups"]})


def _write(
    folder: Path,
    step: int,
    state: RunState,
    gathered: Mapping[str, dict[str, Tensor]],
    optimizers: Mapping[str, dict[str, Any]],
) -> None:
    from lerobot.optim.optimizers import save_optimizer_state
    from lerobot.optim.schedulers import save_scheduler_state
    from lerobot.utils.random_utils import save_rng_state

    pretrained = folder / PRETRAINED
    pretrained.mkdir(parents=True)
    policy = state.module.policy
    policy.save_pretrained(pretrained, state_dict=merged_state(policy, gathered["policy"], state.module.saved_dtypes))
    save_processors(state.preprocess, state.postprocess, pretrained)
    if gathered["critic"]:
        (folder / CRITIC).mkdir()
        save_file(_plain(gathered["critic"]), folder / CRITIC / WEIGHTS)
        write_json(folder / CRITIC / CONFIG, state.critic_settings)
    training = folder / TRAINING
    training.mkdir()
    save_file(_plain(gathered["module"]), training / _MODULE)
    if gathered["ema"]:
        save_file(_plain(gathered["ema"]), training / _EMA)
    for name, optimizer in state.optimizers.items():
        (training / name).mkdir()
        save_optimizer_state(optimizer, training / name, optim_state_dict=optimizers[name])
    save_scheduler_state(state.schedule, training)
    save_rng_state(training)
    write_json(training / STATE, {"step": step, "ema_updates": state.ema.updates if state.ema else 0, **state.extra})
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)


def restore(folder: Path, state: RunState) -> dict[str, Any]:
    """Put a checkpoint's training state into a run that was built the same way; returns its JSON.

    Raises:
        IgrftError: the checkpoint is of another run, or damaged.
    """
    from lerobot.optim.schedulers import load_scheduler_state
    from lerobot.utils.random_utils import load_rng_state

    training = folder / TRAINING
    try:
        found: dict[str, Any] = json.loads((training / STATE).read_text(encoding="utf-8"))
        own: dict[str, Tensor] = dict(trainable(state.module))
        for name, frozen in state.module.frozen().items():
            own.update({f"{name}.{n}": t for n, t in frozen.state_dict().items()})
        # One tensor at a time: every process on a machine reads them.
        with safe_open(training / _MODULE, "pt") as held:
            missing = sorted(set(own) ^ set(held.keys()))
            if missing:
                raise IgrftError(f"{training} is of another run: {missing[0]!r} stands in only one of the two")
            for name, tensor in own.items():
                _copy(tensor, held.get_tensor(name))
        if state.ema is not None:
            with safe_open(training / _EMA, "pt") as held:
                state.ema.load(lambda n, like: _spread(held.get_tensor(n), like), int(found["ema_updates"]))
        for name, optimizer in state.optimizers.items():
            _fill_optimizer(optimizer, training / name)
        load_scheduler_state(state.schedule, training)
        load_rng_state(training)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise IgrftError(
            f"{training} cannot be read ({' '.join(str(error).split())}); remove {folder} and point "
            f"{folder.parent / LAST} to an earlier checkpoint"
        ) from None
    return found


@torch.no_grad()
def _copy(target: Tensor, value: Tensor) -> None:
    target.copy_(_spread(value, target))


def _spread(value: Tensor, like: Tensor) -> Tensor:
    """``value`` spread over processes as ``like`` is; itself where that is whole."""
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as safetensors wants them."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        t = tensor.detach().to("cpu").contiguous()
        out[name] = t.clone() if t.data_ptr() in seen else t
        seen.add(t.data_ptr())
    return out


def _point(link: Path, name: str) -> None:
    """Make ``link`` a relative link to ``name``, at once."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, link)


def _prune(run: Path, newest_one: Path, keep: int | None) -> None:
    """Remove what older checkpoints need no more, oldest first."""
    found = sorted(p for p in (run / CHECKPOINTS).iterdir() if p.is_dir() and p.name.isdigit() and p != newest_one)
    # Two can be gone on from: should the newest be damaged, the one before it is there.
    for path in found[:-1]:
        shutil.rmtree(path / TRAINING, ignore_errors=True)
    if keep is not None:
        for path in found[: max(0, len(found) - (keep - 1))]:
            shutil.rmtree(path, ignore_errors=True)
