"""Seconds, images per second, GFLOP/s and peak memory of one training step of every method, preset by preset.

    python benchmarks/train_step.py [--presets demo,celeba-64] [--steps 8] [--precision bf16-mixed] [--set KEY=VALUE]
    python benchmarks/train_step.py --device cuda --presets paper-celeba-128 --batch 32 --set training.compile=true

A step is one update of every network of the preset's method, on random pixels: `stage 1`, its cheap first kind
`warm-up`, and stage 3 without neighbours (`unguided`), with `convolution`, `attention` and `patches`, whose sources and
neighbours come encoded, as the loop's background thread gives them; those that the method has. All take turns, so that
a busy machine slows all; medians of `--steps` turns after 3 that are not counted, `ratio` the median over the turns of
the time over the unguided step's. With `--together` all presets take turns, and `ratio` is over the first row's step:

    python benchmarks/train_step.py --together --methods "stage 1" --presets celeba-64,cut,fastcut --batch 8

FLOPs by torch's counter. The limit is what a 256-channel 3×3 convolution
of 64×64 pixels does a second in the same precision, a turn between the others: its best is printed, and the share of
it that a step reaches is the median over the turns. Peak memory is that of a process of its own, which makes 2 steps;
on a GPU it is what torch allocated there. Networks are compiled where the settings say so (training.compile), before
anything is timed. `--json FILE` keeps the figures for docs/make_performance.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from index_store.attributes import AttributeSchema
from index_store.lifetimes import end_with_parent
from retrieval.loading import resolve_device
from translation.config import Config, load_config, presets_of
from translation.guidance import PIXELS, build_guidance
from translation.methods import Guidable, Method, find_method, methods_of
from translation.sampling import Batch, Guides
from translation.training.compiling import compile_networks
from translation.training.precision import faster_precision
from translation.training.task import Engine

Step = tuple[str, str]  # preset and kind
ATTRIBUTES = 5
GUIDANCE = {"unguided": "none", "convolution": "convolution", "attention": "attention", "patches": "patches"}
METHODS = ("stage 1", "warm-up", *GUIDANCE)
LIMIT = ("limit", "")
PAPER_IMAGES = 540_000  # what the paper trains each stage with: as many steps of one image
HEAD = (
    f"{'preset':18} {'method':12} {'precision':11} batch  s/step  images/s  GFLOP  GFLOP/s  limit  share  ratio"
    "  peak MiB"
)


def make(
    config: Config, precision: str, device: torch.device, guidance: str | None = None
) -> tuple[Method, Batch, Engine]:
    """The update rule of stage 1 (or of stage 3, with a guidance) and its optimisers, and one random batch."""
    torch.manual_seed(0)
    form = torch.channels_last if config.training.channels_last else torch.contiguous_format
    schema = AttributeSchema(tuple(f"attribute {i}" for i in range(ATTRIBUTES)))
    stage, size = config.guided if guidance else config.translation, config.data.size
    method: Method = find_method(config.method).build(config, schema, "guided" if guidance else "translation")
    if guidance and isinstance(method, Guidable):
        fusion = build_guidance(config.guided.model_copy(update={"guidance": guidance}), method.content_channels)
        if fusion is not None:
            method.networks["fusion"] = fusion
        for name in method.encoders:
            method.networks[name].requires_grad_(False)
    for network in method.networks.values():
        network.to(device, memory_format=form)
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(
            [p for k in player.networks for p in method.networks[k].parameters()],
            player.learning_rate,
            player.betas,
            fused=True,
        )
        for name, player in method.players.items()
    }

    def pixels() -> Tensor:
        return torch.rand(stage.batch, 3, size, size).mul(2).sub(1).to(device, memory_format=torch.channels_last)

    count, length = method.noise
    labels, target = torch.randint(0, 2, (2, stage.batch, ATTRIBUTES)).to(device)
    batch = Batch(pixels(), labels, target, torch.randn(count, stage.batch, length).to(device))
    if method.draws != "labels":
        batch = replace(batch, references=pixels(), domains=(1, 0))
    if method.draws == "modalities":
        batch = replace(batch, parts=torch.zeros(stage.batch, size, size, dtype=torch.uint8, device=device))
    half = precision == "bf16-mixed"

    def autocast() -> contextlib.AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()

    if guidance and isinstance(method, Guidable):
        batch = replace(batch, encoded=method.encode(batch.images))
        queries = method.queries(batch)
        if fusion is not None:
            content = queries[0].content
            channels = content.shape[1] + (PIXELS if fusion.pixels else 0)
            shape = len(queries), len(content), config.guided.neighbours, channels, *content.shape[2:]
            batch = replace(batch, guides=Guides(maps=tuple(torch.randn(shape, device=device))))
    return method, batch, Engine(optimizers, autocast)


def kinds_of(config: Config, asked: Sequence[str]) -> list[str]:
    """Of the steps asked for those that the configuration's method has."""
    about = find_method(config.method).about
    there = ["stage 1", *(["warm-up"] if getattr(config.translation, "warmup", 0) else [])]
    there += ["unguided", *about.guidance] if about.guidance else []
    return [kind for kind in asked if kind in there]


def update_of(config: Config, precision: str, device: torch.device, method: str) -> Callable[[], object]:
    """One step of a method, to be called again and again."""
    made, batch, engine = make(config, precision, device, GUIDANCE.get(method))
    if config.training.compile:
        compile_networks(made.networks)
    return lambda: engine.run(made.step(batch, 0 if method == "warm-up" else 10**9))


def make_limit(precision: str, device: torch.device) -> Callable[[], object]:
    """The convolution that tells what the machine can do; of 32 images on a GPU, to fill it."""
    kind = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    x = torch.randn(1 if device.type == "cpu" else 32, 256, 64, 64)
    x = x.to(device, dtype=kind, memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3).to(device, dtype=kind, memory_format=torch.channels_last)

    @torch.no_grad()
    def convolve() -> None:
        for _ in range(4):  # about 20 GFLOP an image
            F.conv2d(x, weight, padding=1)

    return convolve


class _Untracked:
    """Stands in for a flop counter's tracker of modules, whose hooks do not stand a gradient penalty."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Nothing to hook."""

    def __exit__(self, *_: object) -> None:
        """Nothing to take off."""


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_flops(update: Callable[[], object]) -> int:
    """FLOPs of one call."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]
    with counter:
        update()
    return counter.get_total_flops()


def measure(updates: Mapping[Step, Callable[[], object]], steps: int, device: torch.device) -> dict[Step, list[float]]:
    """Seconds of each turn of each kind of step."""
    seconds: dict[Step, list[float]] = {name: [] for name in updates}
    for _ in range(steps):
        for name, update in updates.items():
            finish(device)
            started = time.perf_counter()
            update()
            finish(device)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def peak_mib(preset: str, settings: Sequence[str], precision: str, method: str) -> float:
    """The most memory that this process ever held, after 2 steps on the CPU."""
    update = update_of(load_config(preset, overrides=settings), precision, torch.device("cpu"), method)
    for _ in range(2):
        update()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def warm(make_update: Callable[[], Callable[[], object]], device: torch.device) -> tuple[Callable[[], object], float]:
    """An update after its first 3 calls, and the most MiB of a GPU that torch allocated for it (0 on a CPU)."""
    cuda = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    update = make_update()
    for _ in range(3):
        update()
    finish(device)
    return update, (torch.cuda.max_memory_allocated(device) - before) / 2**20 if cuda else 0.0


def rows(
    presets: Sequence[str],
    settings: Sequence[str],
    precision: str | None,
    device: torch.device,
    steps: int,
    methods: Sequence[str],
) -> list[dict[str, Any]]:
    """The figures of presets whose steps take turns, a preset and kind of step a row."""
    made: dict[Step, tuple[Config, str]] = {}
    for preset in presets:
        config = load_config(preset, overrides=settings)
        chosen = precision or config.training.precision
        chosen = faster_precision(device.type) if chosen == "auto" else chosen
        made |= {(preset, kind): (config, chosen) for kind in kinds_of(config, methods)}
    flops: dict[Step, int] = {}
    for (preset, kind), (config, chosen) in made.items():
        # Counted uncompiled: what a compiler makes of a step is not seen by the counter.
        plain = config.model_copy(update={"training": config.training.model_copy(update={"compile": False})})
        flops[preset, kind] = count_flops(update_of(plain, chosen, device, kind))
    limit = make_limit(next(iter(made.values()))[1], device)
    flops[LIMIT] = count_flops(limit)
    warmed = {
        (preset, kind): warm(partial(update_of, config, chosen, device, kind), device)
        for (preset, kind), (config, chosen) in made.items()
    }
    seconds = measure({**{key: update for key, (update, _) in warmed.items()}, LIMIT: limit}, steps, device)
    ability = [flops[LIMIT] / 1e9 / taken for taken in seconds.pop(LIMIT)]
    found = []
    # A spawned process inherits its parent's peak on Linux; one of the small server's does not.
    for (preset, kind), taken in seconds.items():
        config, chosen = made[preset, kind]
        stage = config.guided if kind in GUIDANCE else config.translation
        work = flops[preset, kind] / 1e9
        base = next(iter(seconds.values())) if len(presets) > 1 else seconds.get((preset, "unguided"), taken)
        if device.type == "cpu":
            forkserver = multiprocessing.get_context("forkserver")
            with ProcessPoolExecutor(1, forkserver, end_with_parent, (os.getpid(),)) as alone:
                peak = alone.submit(peak_mib, preset, settings, chosen, kind).result()
        else:
            peak = warmed[preset, kind][1]
        found.append(
            {
                "preset": preset,
                "method": kind,
                "precision": chosen,
                "batch": stage.batch,
                "seconds": statistics.median(taken),
                "images_per_second": stage.batch / statistics.median(taken),
                "minutes_of_the_paper": PAPER_IMAGES / 60 * statistics.median(taken) / stage.batch,
                "gflop": work,
                "gflop_per_second": work / statistics.median(taken),
                "limit": max(ability),
                "share": statistics.median(work / spent / able for spent, able in zip(taken, ability, strict=True)),
                "ratio": statistics.median(ours / theirs for ours, theirs in zip(taken, base, strict=True)),
                "peak_mib": peak,
            }
        )
    return found


def line(row: Mapping[str, Any]) -> str:
    """A row of the printed table."""
    return (
        f"{row['preset']:18} {row['method']:12} {row['precision']:11} {row['batch']:5} {row['seconds']:7.3f} "
        f"{row['images_per_second']:9.1f} {row['gflop']:6.1f} {row['gflop_per_second']:8.1f} {row['limit']:6.0f} "
        f"{row['share']:6.2f} {row['ratio']:6.2f} {row['peak_mib']:9.0f}"
    )


def main() -> None:
    """Print one line a preset and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    translating = [preset for method in methods_of("translation") for preset in presets_of(method)]
    parser.add_argument("--presets", default=",".join(sorted(translating)))
    parser.add_argument("--methods", default=",".join(METHODS), help=f"some of {','.join(METHODS)}")
    parser.add_argument("--together", action="store_true", help="the presets' steps take turns")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), help="default: each preset's own")
    parser.add_argument("--batch", type=int, help="default: each preset's own")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting over the preset's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures, beside those of other settings")
    arguments = parser.parse_args()
    sizes = [f"{stage}.batch={arguments.batch}" for stage in ("translation", "guided") if arguments.batch]
    settings = [*sizes, *arguments.set]
    methods = arguments.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"--methods takes some of {','.join(METHODS)}, not {','.join(sorted(unknown))}")
    device = resolve_device(arguments.device)
    torch.backends.cudnn.benchmark = True  # as `make_fabric` has it
    print(HEAD)
    found = []
    chosen = arguments.presets.split(",")
    for group in [chosen] if arguments.together else [[preset] for preset in chosen]:
        for row in rows(group, settings, arguments.precision, device, arguments.steps, methods):
            found.append({**row, "settings": arguments.set})
            print(line(row), flush=True)
    if arguments.json is not None:
        there = json.loads(arguments.json.read_text())["rows"] if arguments.json.exists() else []
        machine = {"cores": len(os.sched_getaffinity(0)), "torch": torch.__version__, "load": os.getloadavg()[0]}
        machine |= {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": there + found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
