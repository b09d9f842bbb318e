"""Several processes that train one network, started by `torchrun`: each draws its own part of every batch.

The first opens the run and writes; gradients are averaged before each optimiser's step, so all hold the same weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from index_store.lifetimes import end_with_parent

T = TypeVar("T")


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def launched() -> tuple[int, int]:
    """Processes on this machine and machines, as `torchrun` tells; 1 and 1 without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1, 1
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return here, int(os.environ["WORLD_SIZE"]) // here


def end_with_starter() -> None:
    """End this training soon after the program that started it: the one in RGUNIT_PARENT, and `torchrun`."""
    end_with_parent()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(os.getppid())


def leave_group() -> None:
    """End this process's part of the group, if there is one, before Python ends: its threads must not outlive that."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, in every process; the others wait for it."""
    if world_size() == 1:
        return make()
    held = [make() if process_rank() == 0 else None]
    dist.broadcast_object_list(held)
    return held[0]  # type: ignore[return-value]


def first_then_others(make: Callable[[], T]) -> T:
    """Make something in every process, in the first one before the others: they find what it left on the disk."""
    if process_rank() == 0:
        made = make()
        any_process(False)
        return made
    any_process(False)
    return make()


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process. Asked on the host: no accelerator is waited for."""
    if world_size() == 1:
        return flag
    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


@torch.no_grad()
def shared_mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes, on its device; a GPU is not waited for."""
    if world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()


def gathered(value: T) -> list[T]:
    """What each process has for `value`, by rank: numbers and names, not tensors, since they are pickled."""
    if world_size() == 1:
        return [value]
    held: list[Any] = [None] * world_size()
    dist.all_gather_object(held, value)
    return held


def mean_of_processes(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each number over the processes that have it."""
    return {name: sum(found) / len(found) for name, found in _by_name(values).items()}


def least_of_processes(values: Mapping[str, float]) -> dict[str, float]:
    """The least of each number in any process that has it."""
    return {name: min(found) for name, found in _by_name(values).items()}


def _by_name(values: Mapping[str, float]) -> dict[str, list[float]]:
    """Each name that any process has, with the numbers of those that do."""
    found: dict[str, list[float]] = {}
    for theirs in gathered(dict(values)):
        for name, value in theirs.items():
            found.setdefault(name, []).append(value)
    return found


@torch.no_grad()
def same_weights(networks: Iterable[nn.Module]) -> None:
    """Give every process the first one's weights."""
    if world_size() == 1:
        return
    for network in networks:
        for tensor in network.state_dict().values():
            plain = tensor.detach().contiguous()
            dist.broadcast(plain, 0)
            tensor.copy_(plain)


def average_gradients(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """From now on each step of the optimisers uses the mean gradient of all processes; one all-reduce a step.

    A parameter that has a gradient in some processes only counts as 0 in the others.
    """
    if world_size() == 1:
        return

    def average(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        ours = [p for group in optimizer.param_groups for p in group["params"]]
        there = torch.tensor([int(p.grad is not None) for p in ours])
        dist.all_reduce(there, dist.ReduceOp.MAX)  # on the host: which have a gradient anywhere
        for parameter, wanted in zip(ours, there.tolist(), strict=True):
            if wanted and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in ours if p.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split_with_sizes(flat / world_size(), [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    for optimizer in optimizers:
        optimizer.register_step_pre_hook(average)
