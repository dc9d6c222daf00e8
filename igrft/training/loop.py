"""The loop that every stage and every policy shares."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from igrft.dataset.parquet import write_table
from igrft.errors import IgrftError
from igrft.training import checkpoint
from igrft.training.ema import Ema
from igrft.training.inputs import Inputs
from igrft.training.lora import trainable, whole
from igrft.training.module import StepBatch, TrainingModule
from igrft.training.recorder import COLUMNS, HELDOUT, HELDOUT_COLUMNS, Metrics, SampleRecorder, table_of
from igrft.training.sharding import clip as clip_spread
from igrft.training.sharding import is_sharded
from igrft.training.watch import CriticWatch
from igrft.training.world import accumulation

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from igrft.training.data import RawBatch
    from igrft.training.setup import Built


class Stopped(IgrftError):
    """A signal ended the run; what it had done is saved."""


@dataclass
class Parts:
    """One accumulation part of a step, ready to run, and where its samples come from."""

    batch: StepBatch
    dataset: Tensor
    index: Tensor
    labels: dict[str, Tensor]


@dataclass
class Loop:
    """A run: what is trained, and everything that its state consists of.

    Attributes:
        built: policy, critic, data and settings.
        accelerator: accelerate's; ``module`` is already wrapped by it.
        run: its folder.
    """

    built: Built
    accelerator: Accelerator
    run: Path
    module: Any
    optimizers: dict[str, Optimizer]
    schedule: LRScheduler
    ema: Ema | None
    resumed_at: int = 0
    show: bool = False
    critic_updates: int = 0
    _signal: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.recipe = self.built.recipe
        self.inner: TrainingModule = self.accelerator.unwrap_model(self.module)
        self.sharded = is_sharded(self.inner)
        self.accumulation = accumulation(self.recipe, self.accelerator.num_processes)
        self.inputs = Inputs(self.built, self.accelerator.device)
        self.main = self.accelerator.is_main_process
        self.watch = CriticWatch(self.recipe, self.inner, self.inputs, self.ema, accelerator=self.accelerator)
        self.window = Window()
        self._follow_rate()

    # The state that a checkpoint holds.

    def state(self, step: int | None = None) -> checkpoint.RunState:
        """What a run consists of, after ``step``; None where it is about to be restored."""
        streams = self.built.data.streams if step is not None and self.main else None
        return checkpoint.RunState(
            module=self.inner,
            optimizers=self.optimizers,
            schedule=self.schedule,
            ema=self.ema,
            preprocess=self.built.preprocess,
            postprocess=self.built.postprocess,
            critic_settings=self.built.critic_settings if self.built.critic is not None else {},
            extra={
                "critic_updates": self.critic_updates,
                "watch": self.watch.state(),
                "window": self.window.state(),
                "origin": self.built.origin,
                "streams": {} if streams is None else streams.state_dict(step or 0),
            },
        )

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        found = checkpoint.restore(folder, self.state())
        self._refuse_other_origin(found["origin"])
        self.resumed_at = int(found["step"])
        self.critic_updates = int(found["critic_updates"])
        self.watch.restore(found["watch"])
        self.window.restore(found["window"], self.accelerator.device)
        if self.built.data.streams is not None:
            self.built.data.streams.load_state_dict(found["streams"])

    def _refuse_other_origin(self, earlier: dict[str, Any]) -> None:
        told = {"data": "labels or frames of its datasets", "init_from": "checkpoint that it started from"}
        for what, name in told.items():
            if earlier.get(what) != self.built.origin.get(what):
                raise IgrftError(
                    f"{self.run} cannot go on: the {name} changed since it was stopped; restore them, or train on with "
                    f"--init_from={self.run} --output_dir=ANOTHER"
                )

    # Running.

    def go(self, config: dict[str, Any]) -> int:
        """Train to the end; returns the last step.

        Raises:
            Stopped: SIGTERM or SIGINT came; the run is saved. IgrftError: the loss is not finite, the disk is full.
        """
        recipe = self.recipe
        metrics = Metrics(self.run, recipe.wandb, config, self.resumed_at) if self.main else None
        recorder = SampleRecorder(self.run, self.resumed_at) if self.main else None
        self.module.train()
        with self._signals(), self._bar() as bar:
            stream = self._stream()
            waited = time.perf_counter()
            parts = next(stream, None)
            self.window.data += time.perf_counter() - waited
            for step in range(self.resumed_at + 1, recipe.steps + 1):
                assert parts is not None
                figures, rows = self._step(step, parts)
                # The next batch is made while an accelerator still computes: looking at the loss waits for it.
                waited = time.perf_counter()
                following = self._next(stream)
                self.window.data += time.perf_counter() - waited
                self._refuse_nan(step, figures, parts)
                parts = following
                self.window.add(figures)
                if recorder is not None:
                    recorder.add(rows)
                bar.update(1)
                due = self.watch.due(step)
                if due or step % recipe.log_every == 0 or step == recipe.steps:
                    line = self._line(step) | (self._held_out(step) if due else {})
                    if metrics is not None:
                        metrics.write(line)
                    bar.set_postfix_str(f"loss {line['loss']:.4f}", refresh=False)
                    self.window = Window()
                stop = self._asked_to_stop()
                if step % recipe.save_every == 0 or step == recipe.steps or stop:
                    if recorder is not None:
                        recorder.flush(step)
                    checkpoint.save(self.run, step, self.state(step), keep=recipe.keep_checkpoints, main=self.main)
                    self.accelerator.wait_for_everyone()
                if stop and step < recipe.steps:
                    raise Stopped(f"stopped at step {step} of {recipe.steps} and saved; run the same command to go on")
        if metrics is not None:
            metrics.close()
        return recipe.steps

    def _step(self, step: int, parts: list[Parts]) -> tuple[dict[str, Tensor], Tensor]:
        """One update; figures averaged over the parts, and a row for every sample of all processes."""
        figures: dict[str, Tensor] = {}
        rows = []
        for i, part in enumerate(parts):
            # Where parameters are spread, gradients are in every part: kept whole they would fill the memory.
            apart = self.sharded or i == len(parts) - 1
            with contextlib.nullcontext() if apart else self.accelerator.no_sync(self.module):
                with self.accelerator.autocast():
                    out = self.module(part.batch)
                self.accelerator.backward(out["loss"] / len(parts))
            for name, value in out.items():
                if not name.startswith("sample/"):
                    figures[name] = figures.get(name, 0.0) + value.detach().float() / len(parts)
            rows.append(SampleRecorder.row(step, out, part.labels, part.dataset))
        figures["grad_norm"] = self._update("actor", self.inner.policy)
        if self.inner.critic is not None:
            if self._critic_turn(step):
                figures["critic_grad_norm"] = self._update("critic", self.inner.critic)
                self.critic_updates += 1
                self.inner.refresh(self.critic_updates)
            else:
                self.optimizers["critic"].zero_grad(set_to_none=True)
        self._next_rate()
        if self.ema is not None:
            self.ema.update()
        samples = torch.cat(rows)
        if self.accelerator.num_processes > 1:
            samples = self.accelerator.gather(samples)
        if self.inner.weighted:
            figures.update(weight_figures(samples, self.recipe.objective.weight_limit))
        return figures, samples

    def _update(self, name: str, module: torch.nn.Module) -> Tensor:
        optimizer = self.optimizers[name]
        parameters = list(trainable(module).values())
        clip = clip_spread if self.sharded else self.accelerator.clip_grad_norm_
        norm = clip(parameters, self.recipe.optimizer.clip or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return whole(torch.as_tensor(norm).detach()).float()

    def _next_rate(self) -> None:
        """The schedule is the actor's; the critic's rate rises and falls by the same factor."""
        self.schedule.step()
        self._follow_rate()

    def _follow_rate(self) -> None:
        if "critic" in self.optimizers:
            factor = self.schedule.get_last_lr()[0] / self.recipe.optimizer.learning_rate
            for group in self.optimizers["critic"].param_groups:
                group["lr"] = self.recipe.critic.learning_rate * factor

    def _critic_turn(self, step: int) -> bool:
        settings = self.recipe.critic
        return self.watch.stopped is None and step > settings.start and step % settings.update_every == 0

    # Data.

    def _stream(self) -> Iterator[list[Parts]]:
        """The parts of each step that this process takes."""
        recipe, accelerator = self.recipe, self.accelerator
        world, rank, accumulation = accelerator.num_processes, accelerator.process_index, self.accumulation
        batches = self.built.data.loader(
            self.resumed_at,
            recipe.steps,
            rank=rank,
            world=world,
            accumulation=accumulation,
            device=accelerator.device,
        )
        size = recipe.batch_size // (world * accumulation)
        for step in range(self.resumed_at, recipe.steps):
            parts = []
            for i in range(accumulation):
                raw: RawBatch = next(batches)
                at = (i * world + rank) * size
                batch = self.inputs.step_batch(raw, step, slice(at, at + size))
                parts.append(Parts(batch, raw.dataset.to(accelerator.device), raw.index, batch.labels))
            yield parts

    def _next(self, stream: Iterator[list[Parts]]) -> list[Parts] | None:
        """The next step's parts; None at the end, or where the signal that ends the run took a worker along."""
        try:
            return next(stream, None)
        except RuntimeError:
            if self._signal is None:
                raise
            return None

    # Watching.

    def _refuse_nan(self, step: int, figures: dict[str, Tensor], parts: list[Parts]) -> None:
        if math.isfinite(figures["loss"].item()) and math.isfinite(figures["grad_norm"].item()):
            return
        what = "loss" if not math.isfinite(figures["loss"].item()) else "gradient"
        where = []
        for number, held in enumerate(self.built.data.entries):
            index = torch.cat([p.index[p.dataset.cpu() == number] for p in parts]).tolist()
            if index:
                where.append(f"dataset {held.root}: indices {', '.join(map(str, index))}")
        last = checkpoint.newest(self.run)
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        raise IgrftError(
            f"step {step}: the {what} is {figures['loss' if what == 'loss' else 'grad_norm'].item()}; its batch was "
            f"{'; '.join(where)}; {kept}; look at these frames, or lower optimizer.learning_rate"
        )

    def _held_out(self, step: int) -> dict[str, Any]:
        """The critic's fit on held-out episodes, for the step's line."""
        size = self.recipe.batch_size // (self.accelerator.num_processes * self.accumulation)
        with self.accelerator.autocast():
            line, rows = self.watch.look(step, size, self.critic_updates > 0)
        if self.main:
            write_table(self.run / HELDOUT / f"{step:09d}.parquet", table_of(rows, HELDOUT_COLUMNS))
        return line

    def _line(self, step: int) -> dict[str, Any]:
        """A line of metrics, averaged over the steps since the last one and over the processes."""
        window = self.window
        names = sorted(window.sums)
        means = torch.stack([window.sums[n] / window.counts[n] for n in names])
        means = self.accelerator.reduce(means, "mean") if self.accelerator.num_processes > 1 else means
        seconds = (time.perf_counter() - window.started) / max(window.timed, 1)
        line: dict[str, Any] = {"step": step, **dict(zip(names, means.tolist(), strict=True))}
        line["learning_rate"] = self.schedule.get_last_lr()[0]
        if "critic" in self.optimizers:
            line["critic_learning_rate"] = self.optimizers["critic"].param_groups[0]["lr"]
        line["seconds"] = seconds
        line["seconds_data"] = window.data / max(window.timed, 1)
        line["samples_per_second"] = self.recipe.batch_size / seconds
        line["memory_gb"] = memory_gb(self.accelerator.device)
        return line

    # Around the loop.

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and the first Ctrl-C end the run after the step that is under way."""

        def note(number: int, _: FrameType | None) -> None:
            if self._signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._signal = number

        earlier = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            # Only the main thread may set handlers; elsewhere the caller keeps its own.
            with contextlib.suppress(ValueError):
                earlier[number] = signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to stop; all of them agree."""
        asked = self._signal is not None
        if self.accelerator.num_processes == 1:
            return asked
        flag = torch.tensor([float(asked)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)

    def _bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=self.recipe.steps,
            initial=self.resumed_at,
            desc=f"{self.recipe.stage} {self.recipe.objective.type}",
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
            disable=not (self.show and self.main),
        )


@dataclass
class Window:
    """Sums since the last line of metrics; they stay on their device until then."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    timed: int = 0
    data: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def state(self) -> dict[str, Any]:
        """JSON for a checkpoint: a run that goes on logs what one left alone would."""
        return {"sums": {n: v.item() for n, v in self.sums.items()}, "counts": self.counts, "steps": self.steps}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """What :meth:`state` gave. Time that passed meanwhile is nobody's: the rates are of the steps to come."""
        self.sums = {n: torch.tensor(v, device=device) for n, v in state["sums"].items()}
        self.counts = {n: int(v) for n, v in state["counts"].items()}
        self.steps = int(state["steps"])
        self.timed = 0

    def add(self, figures: dict[str, Tensor]) -> None:
        self.steps += 1
        self.timed += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1


def weight_figures(samples: Tensor, limit: float) -> dict[str, Tensor]:
    """Figures of a step's advantages and weights, over all of its samples: parts and processes alike.

    Args:
        samples: [batch, COLUMNS] of the recorder.
    """
    advantage, weight = (samples[:, COLUMNS.index(name)] for name in ("advantage", "weight"))
    return {
        "advantage_mean": advantage.mean().float(),
        "advantage_std": advantage.std(unbiased=False).float(),
        "weight_mean": weight.mean().float(),
        "clipped_share": (weight >= limit).float().mean(),
        "ess": (weight.sum() ** 2 / (weight**2).sum().clamp_min(1e-12) / len(weight)).float(),
        "positive_share": (advantage > 0).float().mean(),
    }


def memory_gb(device: torch.device) -> float:
    """Most memory taken so far: of the accelerator, or of this process on a CPU; in GB (1e9 bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
