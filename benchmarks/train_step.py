"""Seconds, images per second, GFLOP/s and peak memory of one training step, preset by preset, on random pixels.

    python benchmarks/train_step.py [--presets demo,celeba-64] [--steps 8] [--precision bf16-mixed]
    python benchmarks/train_step.py --guided [--presets celeba-64] [--batch 8] [--neighbours 3]

A step is one update of the discriminator and one of generator and encoders (`GmmUnit.step`); `warm-up` is the cheap
first kind. Medians of `--steps` steps after 3 that are not counted; FLOPs by torch's counter. `--guided` times stage 3
instead, on one batch: without neighbours, with convolution and with attention, in turns, and the median over the turns
of the time over the unguided one's; source and neighbours come encoded, as the loop's background thread gives them.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from translation.config import Config, load_config, presets
from translation.gmm_unit import Batch, GmmUnit, build_networks
from translation.guidance import build_guidance
from translation.networks import ContentEncoder

ATTRIBUTES = 5
KINDS = ("none", "convolution", "attention")
HEAD = f"{'preset':18} {'step':12} {'precision':11} batch  s/step  images/s  GFLOP  GFLOP/s  peak MiB"


def make(
    config: Config, precision: str, guidance: str | None = None
) -> tuple[GmmUnit, Batch, dict[str, torch.optim.Optimizer]]:
    """The update rule of stage 1 (or of stage 3, with a guidance) and its optimisers, and one random batch."""
    torch.manual_seed(0)
    networks = {k: n.to(memory_format=torch.channels_last) for k, n in build_networks(config, ATTRIBUTES).items()}
    stage, size = config.guided if guidance else config.translation, config.data.size
    kind = config.guided.model_copy(update={"guidance": guidance or "none"})
    fusion = build_guidance(kind, _channels(networks))
    trained = {"generator": ["content_encoder", "style_encoder", "generator"], "discriminator": ["discriminator"]}
    if guidance:
        trained["generator"] = ["generator"]
        for name in ("content_encoder", "style_encoder"):
            networks[name].requires_grad_(False)
        if fusion is not None:
            networks["fusion"], trained["fusion"] = fusion.to(memory_format=torch.channels_last), ["fusion"]
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(
            [p for k in parts for p in networks[k].parameters()], stage.learning_rate, stage.betas, fused=True
        )
        for name, parts in trained.items()
    }
    images = torch.rand(stage.batch, 3, size, size).mul(2).sub(1).to(memory_format=torch.channels_last)
    labels, target = torch.randint(0, 2, (2, stage.batch, ATTRIBUTES))
    batch = Batch(images, labels, target, *torch.randn(3, stage.batch, 8 * ATTRIBUTES))
    half = precision == "bf16-mixed"

    def autocast() -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()

    method = GmmUnit(networks, stage, autocast, fusion=networks.get("fusion"), train_encoders=not guidance)  # type: ignore[arg-type]
    if guidance:
        content, mean, log_variance = method.encode(images)
        batch = replace(batch, encoded=(content, mean, log_variance))
        if fusion is not None:
            neighbours = torch.randn(2, len(images), config.guided.neighbours, *content.shape[1:])
            batch = replace(batch, neighbours=neighbours[0], source_neighbours=neighbours[1])
    return method, batch, optimizers


def _channels(networks: Mapping[str, nn.Module]) -> int:
    encoder = networks["content_encoder"]
    assert isinstance(encoder, ContentEncoder)
    return encoder.channels


def measure(updates: Mapping[str, Callable[[], object]], steps: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each turn and FLOPs of each kind of step; the kinds take turns, so that a busy machine slows all."""
    flops = {}
    for name, update in updates.items():
        with FlopCounterMode(display=False) as counter:
            update()
        flops[name] = counter.get_total_flops()
        for _ in range(2):
            update()
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(steps):
        for name, update in updates.items():
            started = time.perf_counter()
            update()
            seconds[name].append(time.perf_counter() - started)
    return seconds, flops


def main() -> None:
    """Print one line a preset and kind of step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default=",".join(presets()))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), help="default: each preset's own")
    parser.add_argument("--guided", action="store_true", help="steps of stage 3, with and without neighbours")
    parser.add_argument("--batch", type=int, help="default: each preset's own")
    parser.add_argument("--neighbours", type=int, default=3)
    arguments = parser.parse_args()
    print(HEAD + ("  ratio" if arguments.guided else ""))
    for name in arguments.presets.split(","):
        sizes = [f"{stage}.batch={arguments.batch}" for stage in ("translation", "guided") if arguments.batch]
        config = load_config(name, overrides=[*sizes, f"guided.neighbours={arguments.neighbours}"])
        precision = arguments.precision or config.training.precision
        updates: dict[str, Callable[[], object]] = {}
        for kind in KINDS if arguments.guided else (None,):
            method, batch, optimizers = make(config, precision, kind)
            if kind is None:
                updates["full"] = partial(method.step, batch, optimizers, 0.1)
                updates["warm-up"] = partial(method.warm_up, batch, optimizers, 0.1)
            else:
                updates[{"none": "unguided"}.get(kind, kind)] = partial(method.step, batch, optimizers, 0.1)
        (seconds, flops), images = measure(updates, arguments.steps), len(batch.images)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for kind, taken in seconds.items():
            median, work = statistics.median(taken), flops[kind] / 1e9
            row = f"{name:18} {kind:12} {precision:11} {images:5} {median:7.3f} {images / median:9.1f}"
            row = f"{row} {work:6.1f} {work / median:8.1f} {peak:9.0f}"
            if arguments.guided:
                ratios = [ours / plain for ours, plain in zip(taken, seconds["unguided"], strict=True)]
                row = f"{row} {statistics.median(ratios):6.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
