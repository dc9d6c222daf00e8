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

from igrft.errors import IgrftError
from igrft.training import checkpoint, heldout
from igrft.training.ema import Ema
from igrft.training.inputs import Inputs
from igrft.training.labels import reward_weights
from igrft.training.lora import trainable, whole
from igrft.training.module import StepBatch, TrainingModule
from igrft.training.recorder import HELDOUT, HELDOUT_COLUMNS, Metrics, SampleRecorder, table_of

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
    critic_stopped: int | None = None
    best_fit: float = -math.inf
    best_step: int = 0
    _signal: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.recipe = self.built.recipe
        self.inner: TrainingModule = self.accelerator.unwrap_model(self.module)
        self.inputs = Inputs(self.built, self.accelerator.device)
        self.main = self.accelerator.is_main_process
        self._follow_rate()

    # The state that a checkpoint holds.

    def state(self) -> checkpoint.RunState:
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
                "critic_stopped": self.critic_stopped,
                "best_fit": None if math.isinf(self.best_fit) else self.best_fit,
                "best_step": self.best_step,
            },
        )

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        found = checkpoint.restore(folder, self.state())
        self.resumed_at = int(found["step"])
        self.critic_updates = int(found["critic_updates"])
        self.critic_stopped = found["critic_stopped"]
        self.best_fit = -math.inf if found["best_fit"] is None else float(found["best_fit"])
        self.best_step = int(found["best_step"])

    # Running.

    def go(self, config: dict[str, Any]) -> int:
        """Train to the end; returns the last step.

        Raises:
            Stopped: SIGTERM or SIGINT came; the run is saved. IgrftError: the loss is not finite, the disk is full.
        """
        recipe = self.recipe
        metrics = Metrics(self.run, recipe.wandb, config, self.resumed_at) if self.main else None
        recorder = SampleRecorder(self.run, self.resumed_at) if self.main else None
        window = Window()
        self.module.train()
        with self._signals(), self._bar() as bar:
            stream = self._stream()
            waited = time.perf_counter()
            parts = next(stream, None)
            window.data += time.perf_counter() - waited
            for step in range(self.resumed_at + 1, recipe.steps + 1):
                assert parts is not None
                figures, rows = self._step(step, parts)
                # The next batch is made while an accelerator still computes: looking at the loss waits for it.
                waited = time.perf_counter()
                following = next(stream, None)
                window.data += time.perf_counter() - waited
                self._refuse_nan(step, figures, parts)
                parts = following
                window.add(figures)
                if recorder is not None:
                    recorder.add(rows)
                bar.update(1)
                if step % recipe.log_every == 0 or step == recipe.steps:
                    line = self._line(step, window)
                    if metrics is not None:
                        metrics.write(line)
                    bar.set_postfix_str(f"loss {line['loss']:.4f}", refresh=False)
                    window = Window()
                self._watch_critic(step, metrics)
                stop = self._asked_to_stop()
                if step % recipe.save_every == 0 or step == recipe.steps or stop:
                    if recorder is not None:
                        recorder.flush(step)
                    checkpoint.save(self.run, step, self.state(), keep=recipe.keep_checkpoints, main=self.main)
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
            last = i == len(parts) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.module):
                with self.accelerator.autocast():
                    out = self.module(part.batch)
                self.accelerator.backward(out["loss"] / len(parts))
            for name, value in out.items():
                if not name.startswith("sample/"):
                    figures[name] = figures.get(name, 0.0) + value.detach().float() / len(parts)
            rows.append(SampleRecorder.row(step, out, part.labels, part.dataset))
            weights = out.get("sample/weight")
            if weights is not None:
                self._count_weights(figures, out["sample/advantage"], weights, len(parts))
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
        gathered = torch.cat(rows)
        return figures, self.accelerator.gather(gathered) if self.accelerator.num_processes > 1 else gathered

    def _update(self, name: str, module: torch.nn.Module) -> Tensor:
        optimizer = self.optimizers[name]
        parameters = list(trainable(module).values())
        norm = self.accelerator.clip_grad_norm_(parameters, self.recipe.optimizer.clip or math.inf)
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
        return self.critic_stopped is None and step > settings.start and step % settings.update_every == 0

    def _count_weights(self, figures: dict[str, Tensor], advantage: Tensor, weights: Tensor, parts: int) -> None:
        """Figures of the weights in a part of a step."""
        limit = self.recipe.objective.weight_limit
        found = {
            "advantage_mean": advantage.mean(),
            "advantage_std": advantage.std(unbiased=False),
            "weight_mean": weights.mean(),
            "clipped_share": (weights >= limit).float().mean(),
            "ess": weights.sum() ** 2 / (weights**2).sum().clamp_min(1e-12) / len(weights),
            "positive_share": (advantage > 0).float().mean(),
        }
        for name, value in found.items():
            figures[name] = figures.get(name, 0.0) + value / parts

    # Data.

    def _stream(self) -> Iterator[list[Parts]]:
        """The parts of each step that this process takes."""
        recipe, accelerator = self.recipe, self.accelerator
        world, rank, accumulation = accelerator.num_processes, accelerator.process_index, recipe.gradient_accumulation
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

    def _watch_critic(self, step: int, metrics: Metrics | None) -> None:
        """Fit the critic to held-out episodes now and then; stop it at its best where that is asked for."""
        settings, critic = self.recipe.critic, self.inner.critic
        due = settings.evaluate_every > 0 and (step % settings.evaluate_every == 0 or step == self.recipe.steps)
        if critic is None or not due or not self.built.data.has_heldout:
            return
        size = self.recipe.batch_size // (self.accelerator.num_processes * self.recipe.gradient_accumulation)
        with self.accelerator.autocast():
            rows = heldout.look(self.inner, self.inputs, step, size, settings.evaluate_frames)
        one_value = reward_weights(self.recipe) if self.recipe.objective.type == "iql" else None
        found = heldout.fit(rows, one_value)
        if metrics is not None:
            from igrft.dataset.parquet import write_table

            metrics.write({"step": step, "heldout": found})
            write_table(self.run / HELDOUT / f"{step:09d}.parquet", table_of(rows, HELDOUT_COLUMNS))
        best = self.inner.best
        if best is None or self.critic_stopped is not None or not self.critic_updates:
            return
        score = heldout.score(found)
        if score > self.best_fit:
            self.best_fit, self.best_step = score, step
            best.load_state_dict(critic.state_dict())
        elif step - self.best_step >= (settings.patience or 0) * settings.evaluate_every:
            self.critic_stopped = step
            critic.load_state_dict(best.state_dict())
            if self.ema is not None:
                for name, parameter in critic.named_parameters():
                    average = self.ema.average.get(f"critic.{name}")
                    if average is not None:
                        average.copy_(parameter.detach())
            if metrics is not None:
                metrics.write({"step": step, "critic_stopped": {"best_step": self.best_step, "fit": self.best_fit}})

    def _line(self, step: int, window: Window) -> dict[str, Any]:
        """A line of metrics, averaged over the steps since the last one and over the processes."""
        names = sorted(window.sums)
        means = torch.stack([window.sums[n] / window.counts[n] for n in names])
        means = self.accelerator.reduce(means, "mean") if self.accelerator.num_processes > 1 else means
        seconds = (time.perf_counter() - window.started) / window.steps
        line: dict[str, Any] = {"step": step, **dict(zip(names, means.tolist(), strict=True))}
        line["learning_rate"] = self.schedule.get_last_lr()[0]
        if "critic" in self.optimizers:
            line["critic_learning_rate"] = self.optimizers["critic"].param_groups[0]["lr"]
        line["seconds"] = seconds
        line["seconds_data"] = window.data / window.steps
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
    data: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, figures: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1


def memory_gb(device: torch.device) -> float:
    """Most memory taken so far: of the accelerator, or of this process on a CPU; in GB (1e9 bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
