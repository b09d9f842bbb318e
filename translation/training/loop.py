"""The training loop of every stage, on Lightning Fabric: prepare, step, average, log, sample, save.

A stage is a `Task`: networks, optimisers, what a step draws and what it does with it. All randomness of step t comes
from (seed, t), so resuming needs the step number and the tensors, nothing else, and is bit-exact on a CPU.
"""

from __future__ import annotations

import atexit
import copy
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
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
from index_store.runs import CHECKPOINT
from retrieval.loading import resolve_device
from translation.progress import Progress
from translation.sections import TrainingConfig
from translation.training.checkpoints import (
    BEST,
    keep_best,
    keep_older,
    load_networks,
    load_optimizers,
    read_state,
    save_checkpoint,
)
from translation.training.metrics import RunLog
from translation.training.precision import faster_precision
from translation.training.processes import (
    any_process,
    average_gradients,
    end_with_starter,
    launched,
    leave_group,
    process_rank,
    same_weights,
)
from translation.training.sums import Sums, divergence

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


@runtime_checkable
class Scaled(Protocol):
    """A task that trains in fp16: the scale of its loss is part of the checkpoint."""

    scaler: torch.amp.GradScaler | None


@dataclass(frozen=True)
class Trained:
    """How a training ended: `steps` and `seconds` of all sessions, `metrics` as they were logged last."""

    steps: int
    seconds: float
    metrics: dict[str, float]
    stopped: bool  # by Ctrl-C, with a checkpoint to resume from


def make_fabric(training: TrainingConfig, device: str) -> Fabric:
    """Fabric for a device name (`cpu`, `cuda`, `cuda:N`, `mps`, `auto`) in the configured precision; launched, in every
    process. RgunitError for a device that is not there."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the precision is in the run's settings
    chosen = resolve_device(device)
    cuda = chosen.type == "cuda"
    here, machines = launched()
    if training.precision == "16-mixed":
        if not cuda:
            raise RgunitError("training.precision=16-mixed needs a GPU: on a CPU take bf16-mixed or 32-true")
        if here * machines > 1:
            raise RgunitError("training.precision=16-mixed trains in one process: with torchrun take bf16-mixed")
    accelerator = chosen.type
    torch.backends.cudnn.benchmark = cuda  # a step's shapes stay the same
    precision = faster_precision(device) if training.precision == "auto" else training.precision
    if here * machines == 1:
        fabric = Fabric(accelerator=accelerator, devices=[chosen.index or 0] if cuda else 1, precision=precision)
    else:
        together = DDPStrategy(process_group_backend="cpu:gloo,cuda:nccl" if cuda else "gloo")
        fabric = Fabric(
            accelerator=accelerator, devices=here, num_nodes=machines, strategy=together, precision=precision
        )
    fabric.launch()
    if here * machines > 1:
        atexit.register(leave_group)
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

    def steps_at_end(self, done: int, total: int, first: int) -> int:
        """How many steps there will be when it ends: `total`, or as many as fit the time by this session's pace."""
        here = done - first
        if self.minutes is None or here <= 0:
            return total
        by_time = max(0.0, 60 * self.minutes - self.seconds) * here / max(1e-9, self.seconds - self.before)
        return min(total, done + math.ceil(by_time))

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
    warmup: int = 0,
    resume: bool = False,
    description: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train until `steps` updates or `minutes` (counted over all sessions of the run), whichever comes first.

    Writes into `folder`: `checkpoint.safetensors` (and older ones and the best, as `training` says), `metrics.jsonl`,
    `samples/STEP.png`, TensorBoard events. `description` is kept in the checkpoint. Ctrl-C ends it after the current
    step with a checkpoint. A loss that is not finite raises RgunitError with its name (the first, before it spread to
    others); the last good checkpoint stays. So does a measure of `training.best` that is not logged after `warmup`
    steps. Of several processes the first writes.
    """
    end_with_starter()
    rank = process_rank()
    writes = rank == 0
    progress = progress if progress and writes else Progress()
    path = folder / CHECKPOINT
    scaler = task.scaler if isinstance(task, Scaled) else None
    average = {name: copy.deepcopy(task.networks[name]).requires_grad_(False).eval() for name in task.averaged}
    first, before, sums = 0, 0.0, Sums()
    if resume and path.exists():
        state = read_state(path)
        load_networks(path, task.networks, prefix="networks")
        load_networks(path, average, prefix="average")
        load_optimizers(path, task.optimizers)
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])
        first, before = int(state["step"]), float(state["seconds"])
        sums = Sums.restored(state.get("unlogged", {}))
    same_weights(task.networks.values())
    average_gradients(task.optimizers.values())
    clock = _Clock(before, minutes)
    log = RunLog(folder, first, training.tensorboard, writes)
    metrics: dict[str, float] = log.last
    lowest = _best_value(folder / BEST, training.best) if resume else math.inf

    def diverged(names: Sequence[str], step: int) -> RgunitError:
        kept = int(read_state(path)["step"]) if path.exists() else 0
        return divergence(names, step, kept, str((description or {}).get("stage", "translation")))

    def means(sums: Sums) -> dict[str, float]:
        """The mean of every term since it was last asked for. RgunitError where one is not finite."""
        found = sums.means()
        if not all(map(math.isfinite, found.values())):  # in every process: it is their mean
            raise diverged(*sums.spoilt())
        return found

    def save(step: int) -> None:
        nonlocal lowest
        if broken := [name for name, size in _sizes(task.networks).items() if not math.isfinite(size)]:
            raise diverged(broken, step)  # the last update may have broken weights that no loss has seen
        unlogged = sums.state()  # of all processes
        if not writes:
            return
        measured = {training.best: metrics[training.best]} if training.best in metrics else {}
        about = {"step": step, "seconds": clock.seconds, "seed": seed, "measured": measured, "unlogged": unlogged}
        save_checkpoint(
            path,
            networks=task.networks,
            average=average,
            optimizers=task.optimizers,
            state={**(description or {}), **about, **({"scaler": scaler.state_dict()} if scaler is not None else {})},
        )
        keep_older(path, step, training.keep)
        if measured and measured[training.best] < lowest:
            lowest = measured[training.best]
            keep_best(path)

    step = first
    logged_at, logged_time = first, time.monotonic()
    with _interruptible() as interrupted, ThreadPoolExecutor(1, "prepare", _alone) as pool:
        ahead = {s: pool.submit(task.prepare, s) for s in range(first, min(first + LOOKAHEAD, steps))}
        try:
            while step < steps and not any_process(interrupted.is_set() or clock.is_over()):
                batch = ahead.pop(step).result()
                if step + LOOKAHEAD < steps:
                    ahead[step + LOOKAHEAD] = pool.submit(task.prepare, step + LOOKAHEAD)
                rates = task.learning_rates(step)
                for name, optimizer in task.optimizers.items():
                    for group in optimizer.param_groups:
                        group["lr"] = rates[name]
                torch.manual_seed(seed_of(seed, step, *([rank] if rank else [])))  # dropout, and any other global draw
                terms = task.step(step, batch)
                _update_average(average, task.networks, min(task.average_decay, (1 + step) / (10 + step)))
                step += 1
                sums.add(step, terms)
                progress.step(step, clock.steps_at_end(step, steps, first), clock.left(step, steps, first))
                if step % training.log_every == 0 or step == steps:
                    metrics = means(sums)  # the one wait for the device
                    if isinstance(task, Watched):
                        metrics |= means(Sums.of(step, task.watch(batch)))
                    if training.best and training.best not in metrics and step > warmup:
                        raise RgunitError(
                            f"training.best={training.best} is not measured here; what is: {', '.join(metrics)}"
                        )
                    seconds = time.monotonic() - logged_time
                    metrics["images_per_second"] = task.images_per_step * (step - logged_at) / seconds
                    metrics.update({f"lr/{name}": rate for name, rate in rates.items()})
                    log.write(step, clock.seconds, metrics)
                    if warning := task.health(metrics):
                        progress.note(f"step {step}: {warning}")
                    sums, logged_at, logged_time = Sums(), step, time.monotonic()
                if step % training.sample_every == 0 and writes:
                    log.picture(step, task.sample_grid(average), getattr(task, "shown", None))
                if step % training.checkpoint_every == 0 and step < steps:
                    means(sums)
                    save(step)
        finally:
            for future in ahead.values():
                future.cancel()
        means(sums)
        save(step)
        if writes:
            log.picture(step, task.sample_grid(average), getattr(task, "shown", None))
        log.close()
        return Trained(step, clock.seconds, metrics, stopped=any_process(interrupted.is_set()))


def _alone() -> None:
    """Torch in the preparing thread stays on one core: a second team of OpenMP threads, spinning while it waits, halves
    the speed of the step beside it (measured on 2 cores: 0.54 s against 0.31 s)."""
    torch.set_num_threads(1)


def _best_value(path: Path, measure: str) -> float:
    """The value of a measure that the best checkpoint so far was kept for; infinity where there is none."""
    measured = read_state(path).get("measured", {}) if measure and path.exists() else {}
    return float(measured.get(measure, math.inf))


@torch.no_grad()
def _sizes(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """The largest weight of each network; not finite where any weight is not."""
    return {
        f"the weights of {name}": float(
            torch.stack([p.abs().max().float() for p in network.parameters() if p.numel()]).max()
        )
        for name, network in networks.items()
        if any(p.numel() for p in network.parameters())
    }


@torch.no_grad()
def _update_average(average: Mapping[str, nn.Module], networks: Mapping[str, nn.Module], decay: float) -> None:
    for name, network in average.items():
        ours: list[Tensor] = list(network.parameters())
        theirs: list[Tensor] = list(networks[name].parameters())
        if ours:
            torch._foreach_lerp_(ours, theirs, 1 - decay)
        for kept, now in zip(network.buffers(), networks[name].buffers(), strict=True):
            kept.copy_(now)  # running statistics are averages already, counts are none


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
