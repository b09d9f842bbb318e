"""A checkpoint is one safetensors file: every tensor by name, everything else as JSON in its header.

Names: `networks.<network>.<parameter>`, `average.<network>.<parameter>`, `optimizers.<name>.<index>.<state>`. Written
to a temporary name, synced and renamed, so there is always a whole one; loading runs no code of the file's.
Random states are not in it: every draw of step t comes from a generator seeded by (seed, t).

A run's folder holds the last one and, as `training.keep` and `training.best` say, some before it (`checkpoint-STEP`)
and the one with the lowest value of a measure (`best`). They are links to one file where they are the same.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.whole import sync_folder

BEST = "best.safetensors"


def save_checkpoint(
    path: Path,
    *,
    networks: Mapping[str, nn.Module],
    average: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
) -> None:
    """Write all of it to `path`, atomically; `state` is anything JSON can hold (step, configuration, seconds).

    What a killed process left half-written beside it goes.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, group in (("networks", networks), ("average", average)):
        for name, network in group.items():
            for key, tensor in network.state_dict().items():
                tensors[f"{prefix}.{name}.{key}"] = tensor
    scalars: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizers.{name}.{index}.{key}"] = value
                elif value is not None:
                    scalars[f"{name}.{index}.{key}"] = value
    save_tensors(path, tensors, {**state, "optimizer_scalars": scalars})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint's file of tensors by their full names and its JSON part, as `save_checkpoint` does."""
    header = {"rgunit": json.dumps(dict(state))}
    # contiguous_format: safetensors stores plain row-major tensors, whatever the memory format in training.
    plain = {k: v.detach().cpu().contiguous(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    for left in (*path.parent.glob(f".{path.name}.*.tmp"), *path.parent.glob(".tmp??????")):  # ours, safetensors' own
        left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(plain, temporary, metadata=header)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise RgunitError(f"cannot write the checkpoint {path}: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def keep_older(path: Path, step: int, keep: int) -> None:
    """Keep the last `keep` checkpoints, that of `step` at `path` included, as `checkpoint-STEP`; no others."""
    kept = _kept(path)
    if keep > 1:
        kept[step] = path.with_name(f"{path.stem}-{step:08d}{path.suffix}")
        _link(path, kept[step])
    wanted = sorted(s for s in kept if s <= step)[-keep:] if keep > 1 else []
    for file in (kept[s] for s in kept.keys() - set(wanted)):
        file.unlink()


def _kept(path: Path) -> dict[int, Path]:
    """The older checkpoints beside that at `path`, by their steps."""
    found = {file.stem.rpartition("-")[2]: file for file in path.parent.glob(f"{path.stem}-*{path.suffix}")}
    return {int(step): file for step, file in found.items() if step.isascii() and step.isdigit()}


def keep_best(path: Path) -> None:
    """Keep the checkpoint at `path` as the best one, instead of the last best."""
    _link(path, path.with_name(BEST))


def restore(folder: Path, name: str) -> None:
    """Make a kept checkpoint the one to go on from: `best` or a step. RgunitError names those that are there."""
    kept = {"best": folder / BEST} if (folder / BEST).exists() else {}
    kept |= {str(step): file for step, file in sorted(_kept(folder / CHECKPOINT).items())}
    if name not in kept:
        there = f"there are {', '.join(kept)}" if kept else "none was kept (--set training.keep=N, training.best=NAME)"
        raise RgunitError(f"{folder} has no checkpoint {name!r} beside the last one: {there}")
    read_state(kept[name])
    _link(kept[name], folder / CHECKPOINT)


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, replacing what has it now; a copy where the disk knows no links."""
    temporary = target.with_name(f".{CHECKPOINT}.{target.stem}.tmp")  # goes with the next checkpoint, if left here
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # two names of one file are not renamed onto each other


def read_state(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    with open_checkpoint(path) as (_, state):
        return state


@contextmanager
def open_checkpoint(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A checkpoint's tensors, which are read when they are asked for, and its JSON part.

    Both are of one moment, even while the run that is being trained puts the next checkpoint in its place. RgunitError
    where there is no checkpoint, or where the file is none.
    """
    try:
        file = _open_tensors(path)
        state = dict(json.loads(file.metadata()["rgunit"]))
    except FileNotFoundError:
        raise RgunitError(f"there is no checkpoint at {path}: train that stage first") from None
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise RgunitError(f"{path} is no checkpoint of rgunit ({error}): delete its run and train again") from None
    with file:
        yield file, state


def _open_tensors(path: Path) -> Any:
    """The file at `path`, opened while it was not replaced.

    safetensors opens a file twice, for its header and for its numbers: of two files, where it was replaced in between.
    """
    while True:
        before = _identity(path)
        try:
            file = safe_open(path, framework="pt")
        except (SafetensorError, RuntimeError):
            if _identity(path) == before:
                raise
            continue
        if _identity(path) == before:
            return file


def _identity(path: Path) -> tuple[int, int, int]:
    """What tells a file from the one that replaces it."""
    told = path.stat()
    return told.st_ino, told.st_size, told.st_mtime_ns


def trained_networks(path: Path) -> set[str]:
    """The networks that a checkpoint keeps as they were trained; none in a copy that is only to be used."""
    with open_checkpoint(path) as (file, _):
        return {key.split(".")[1] for key in file.keys() if key.startswith("networks.")}  # noqa: SIM118


def later(network: nn.Module) -> tuple[str, ...]:
    """The tensors that a network has got only later: an older file lacks them, and they stay as they are made."""
    return getattr(network, "later", ())


def load_networks(path: Path, networks: Mapping[str, nn.Module], *, prefix: str = "average") -> None:
    """Fill networks from the checkpoint's `networks` or `average` (moving average) weights.

    What one has got `later` may be missing. Raises RgunitError where the file's tensors are not the networks': another
    schema, width or size.
    """
    with open_checkpoint(path) as (file, _):
        stored = set(file.keys())
        for name, network in networks.items():
            weights = {}
            for key, tensor in network.state_dict().items():
                full = f"{prefix}.{name}.{key}"
                if full not in stored and key in later(network):
                    weights[key] = tensor
                    continue
                if full not in stored:
                    raise RgunitError(f"{path} has no tensor {full}: it was trained with another configuration")
                weights[key] = file.get_tensor(full)
                if weights[key].shape != tensor.shape:
                    raise RgunitError(
                        f"{path}: {full} has shape {tuple(weights[key].shape)}, not {tuple(tensor.shape)}: "
                        "it was trained with other attributes, width or size"
                    )
            network.load_state_dict(weights)


def load_optimizers(path: Path, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
    """Fill the optimisers' states (moments, step counts) from the checkpoint.

    Moments take their parameter's memory format: fused kernels walk both in memory order.
    """
    with open_checkpoint(path) as (file, kept):
        scalars = kept["optimizer_scalars"]
        names = list(file.keys())
        for name, optimizer in optimizers.items():
            state: dict[int, dict[str, Any]] = {}
            for full in names:
                if full.startswith(f"optimizers.{name}."):
                    index, key = full.removeprefix(f"optimizers.{name}.").split(".", 1)
                    state.setdefault(int(index), {})[key] = file.get_tensor(full)
            for full, value in scalars.items():
                if full.startswith(f"{name}."):
                    index, key = full.removeprefix(f"{name}.").split(".", 1)
                    state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
            for parameter, values in optimizer.state.items():
                for key, value in values.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
