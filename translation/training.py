"""The training loop of every stage, on Lightning Fabric: prepare, step, average, log, sample, save.

A stage is a `Task`: networks, optimisers, what a step draws and what it does with it. All randomness of step t comes
from (seed, t), so resuming needs the step number and the tensors, nothing else, and is bit-exact on a CPU.
"""

from __future__ import annotations

import copy
import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from index_store.errors import RgunitError
from index_store.images import write_image
from translation.checkpoint import CHECKPOINT, load_networks, load_optimizers, read_state, save_checkpoint
from translation.config import TrainingConfig
from translation.progress import Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOOKAHEAD = 2  # batches prepared in the background while a step runs


class Task(Protocol):
    """What one stage gives the loop."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Everything that a checkpoint keeps."""

    @property
    def averaged(self) -> tuple[str, ...]:
        """Names of the networks whose moving average is kept for inference."""

    @property
    def average_decay(self) -> float: ...

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]: ...

    @property
    def images_per_step(self) -> int:
        """For images per second."""

    def learning_rates(self, step: int) -> Mapping[str, float]:
        """The learning rate of each optimiser at a step, a pure function of it."""

    def prepare(self, step: int) -> Any:
        """Everything that step needs from outside: drawn from (seed, step), in a background thread."""

    def step(self, step: int, batch: Any) -> dict[str, Tensor]:
        """One update of every network; named scalars, detached and not yet read back."""

    def sample_grid(self, networks: Mapping[str, nn.Module]) -> NDArray[np.uint8] | None:
        """A picture [H, W, 3] of what the (averaged) networks do now, or None."""

    def health(self, metrics: Mapping[str, float]) -> str | None:
        """A warning about logged metrics, or None."""


@runtime_checkable
class Watched(Protocol):
    """A task with measurements that are made where metrics are logged, not in every step."""

    def watch(self, batch: Any) -> dict[str, Tensor]:
        """Named scalars on the step's batch, right after the step: its gradients are still there."""


@dataclass(frozen=True)
class Trained:
    steps: int
    seconds: float
    metrics: dict[str, float]
    stopped: bool  # by Ctrl-C, with a checkpoint to resume from


def make_fabric(training: TrainingConfig, device: str) -> Fabric:
    """Fabric for a device name (`cpu`, `cuda`, `auto`): one process, in the configured precision."""
    from lightning_fabric import Fabric

    if device == "cuda" and not torch.cuda.is_available():
        raise RgunitError("no CUDA device is available here: use --device cpu or auto")
    accelerator = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=1, precision=training.precision)
    fabric.launch()
    return fabric


def seed_of(seed: int, *parts: int) -> int:
    """A 63-bit seed that depends on all its parts and on nothing else."""
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass
class _Clock:
    """Seconds of training over all sessions of a run, and the limit that ends it."""

    before: float
    minutes: float | None
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def left(self, done: int, total: int, first: int) -> float | None:
        """Seconds until the end by the pace of this session, None while it is unknown."""
        here = done - first
        by_steps = (total - done) * (self.seconds - self.before) / here if here > 0 else None
        if self.minutes is None:
            return by_steps
        by_time = max(0.0, 60 * self.minutes - self.seconds)
        return by_time if by_steps is None else min(by_time, by_steps)

    def is_over(self) -> bool:
        return self.minutes is not None and self.seconds >= 60 * self.minutes


def train(
    task: Task,
    *,
    folder: Path,
    training: TrainingConfig,
    steps: int,
    minutes: float | None = None,
    seed: int = 0,
    resume: bool = False,
    description: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train until `steps` updates or `minutes` (counted over all sessions of the run), whichever comes first.

    Writes into `folder`: `checkpoint.safetensors`, `metrics.jsonl`, `samples/STEP.png`, TensorBoard events.
    `description` is kept in the checkpoint. Ctrl-C ends it after the current step with a checkpoint. A loss that is
    not finite raises RgunitError with its name; the last good checkpoint stays.
    """
    progress = progress or Progress()
    path = folder / CHECKPOINT
    average = {name: copy.deepcopy(task.networks[name]).requires_grad_(False).eval() for name in task.averaged}
    first, before = 0, 0.0
    if resume and path.exists():
        state = read_state(path)
        load_networks(path, task.networks, prefix="networks")
        load_networks(path, average, prefix="average")
        load_optimizers(path, task.optimizers)
        first, before = int(state["step"]), float(state["seconds"])
    clock = _Clock(before, minutes)
    log = _Log(folder, first, training.tensorboard)
    metrics: dict[str, float] = log.last

    def save(step: int) -> None:
        _refuse_nan(_sizes(task.networks), step)  # the last update may have broken weights that no loss has seen
        save_checkpoint(
            path,
            networks=task.networks,
            average=average,
            optimizers=task.optimizers,
            state={**(description or {}), "step": step, "seconds": clock.seconds, "seed": seed},
        )

    step = first
    sums: dict[str, Tensor] = {}
    logged_at, logged_time = first, time.monotonic()
    with _interruptible() as interrupted, ThreadPoolExecutor(1, "prepare", _alone) as pool:
        ahead = {s: pool.submit(task.prepare, s) for s in range(first, min(first + LOOKAHEAD, steps))}
        try:
            while step < steps and not interrupted.is_set() and not clock.is_over():
                batch = ahead.pop(step).result()
                if step + LOOKAHEAD < steps:
                    ahead[step + LOOKAHEAD] = pool.submit(task.prepare, step + LOOKAHEAD)
                rates = task.learning_rates(step)
                for name, optimizer in task.optimizers.items():
                    for group in optimizer.param_groups:
                        group["lr"] = rates[name]
                torch.manual_seed(seed_of(seed, step))  # dropout, and any other global draw
                terms = task.step(step, batch)
                _update_average(average, task.networks, min(task.average_decay, (1 + step) / (10 + step)))
                step += 1
                if terms.keys() != sums.keys():
                    sums = {name: torch.zeros_like(value) for name, value in terms.items()}
                    logged_at, logged_time = step - 1, logged_time if logged_at == step - 1 else time.monotonic()
                for name, value in terms.items():
                    sums[name] += value
                progress.step(step, steps, clock.left(step, steps, first))
                if step % training.log_every == 0 or step == steps:
                    metrics = _read(sums, step - logged_at)  # the one wait for the device
                    metrics |= _read(task.watch(batch), 1) if isinstance(task, Watched) else {}
                    _refuse_nan(metrics, step)
                    seconds = time.monotonic() - logged_time
                    metrics["images_per_second"] = task.images_per_step * (step - logged_at) / seconds
                    metrics.update({f"lr/{name}": rate for name, rate in rates.items()})
                    log.write(step, clock.seconds, metrics)
                    if warning := task.health(metrics):
                        progress.note(f"step {step}: {warning}")
                    sums, logged_at, logged_time = {}, step, time.monotonic()
                if step % training.sample_every == 0:
                    log.picture(step, task.sample_grid(average))
                if step % training.checkpoint_every == 0 and step < steps:
                    _refuse_nan(_read(sums, max(1, step - logged_at)), step)
                    save(step)
        finally:
            for future in ahead.values():
                future.cancel()
        if sums:
            _refuse_nan(_read(sums, max(1, step - logged_at)), step)
        save(step)
        log.picture(step, task.sample_grid(average))
        log.close()
        return Trained(step, clock.seconds, metrics, stopped=interrupted.is_set())


def _alone() -> None:
    """Torch in the preparing thread stays on one core: a second team of OpenMP threads, spinning while it waits, halves
    the speed of the step beside it (measured on 2 cores: 0.54 s against 0.31 s)."""
    torch.set_num_threads(1)


def _read(sums: Mapping[str, Tensor], steps: int) -> dict[str, float]:
    if not sums:
        return {}
    values = torch.stack([value.detach().float().reshape(()) for value in sums.values()]).cpu().tolist()
    return {name: value / steps for name, value in zip(sums, values, strict=True)}


@torch.no_grad()
def _sizes(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """The largest weight of each network; not finite where any weight is not."""
    return {
        f"the weights of {name}": float(torch.stack([p.abs().max().float() for p in network.parameters()]).max())
        for name, network in networks.items()
    }


def _refuse_nan(metrics: Mapping[str, float], step: int) -> None:
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise RgunitError(
            f"training diverged before step {step}: {', '.join(bad)} is not finite; the last good checkpoint is kept: "
            "lower the learning rate (--set translation.learning_rate=…) and --resume"
        )


@torch.no_grad()
def _update_average(average: Mapping[str, nn.Module], networks: Mapping[str, nn.Module], decay: float) -> None:
    for name, network in average.items():
        ours: list[Tensor] = list(network.parameters())
        theirs: list[Tensor] = list(networks[name].parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets; the second interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    for number in old:
        signal.signal(number, handle)
    try:
        yield event
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Log:
    """`metrics.jsonl`, sample pictures and TensorBoard of a run; rows beyond the step resumed from are dropped."""

    def __init__(self, folder: Path, first: int, tensorboard: bool) -> None:
        self.folder, self.path = folder, folder / "metrics.jsonl"
        rows = []
        if first and self.path.exists():
            rows = [row for row in read_metrics(folder) if row["step"] <= first]
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.last: dict[str, float] = (
            {k: v for k, v in rows[-1].items() if k not in ("step", "seconds")} if rows else {}
        )
        self.writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def write(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "seconds": round(seconds, 2), **metrics}) + "\n")
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(name, value, step)

    def picture(self, step: int, pixels: NDArray[np.uint8] | None) -> None:
        if pixels is not None:
            (self.folder / "samples").mkdir(exist_ok=True)
            write_image(self.folder / "samples" / f"{step:06d}.png", pixels)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's `metrics.jsonl`, oldest first; a half-written last line is left out."""
    rows: list[dict[str, float]] = []
    path = folder / "metrics.jsonl"
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows
