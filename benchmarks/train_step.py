"""Seconds, images per second, GFLOP/s and peak memory of one training step, preset by preset, on random pixels.

    python benchmarks/train_step.py [--presets demo,celeba-64] [--steps 8] [--precision bf16-mixed]

A step is one update of the discriminator and one of generator and encoders (`GmmUnit.step`); `warm-up` is the cheap
first kind. Medians of `--steps` steps after 3 that are not counted; FLOPs by torch's counter.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from translation.config import Config, load_config, presets
from translation.gmm_unit import Batch, GmmUnit, build_networks

ATTRIBUTES = 5


def make(config: Config, precision: str) -> tuple[GmmUnit, Batch, dict[str, torch.optim.Optimizer]]:
    """The update rule of stage 1 with its optimisers, and one batch of random images and labels."""
    torch.manual_seed(0)
    networks = {k: n.to(memory_format=torch.channels_last) for k, n in build_networks(config, ATTRIBUTES).items()}
    stage, size = config.translation, config.data.size
    trained = [p for k in ("content_encoder", "style_encoder", "generator") for p in networks[k].parameters()]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "generator": torch.optim.Adam(trained, stage.learning_rate, stage.betas, fused=True),
        "discriminator": torch.optim.Adam(
            networks["discriminator"].parameters(), stage.learning_rate, stage.betas, fused=True
        ),
    }
    images = torch.rand(stage.batch, 3, size, size).mul(2).sub(1).to(memory_format=torch.channels_last)
    labels, target = torch.randint(0, 2, (2, stage.batch, ATTRIBUTES))
    batch = Batch(images, labels, target, *torch.randn(3, stage.batch, 8 * ATTRIBUTES))
    half = precision == "bf16-mixed"

    def autocast() -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()

    return GmmUnit(networks, stage, autocast), batch, optimizers


def main() -> None:
    """Print one line a preset and kind of step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default=",".join(presets()))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), help="default: each preset's own")
    arguments = parser.parse_args()
    print(f"{'preset':18} {'step':8} {'precision':11} batch  s/step  images/s  GFLOP  GFLOP/s  peak MiB")
    for name in arguments.presets.split(","):
        config = load_config(name)
        precision = arguments.precision or config.training.precision
        method, batch, optimizers = make(config, precision)
        for kind, update in (("full", method.step), ("warm-up", method.warm_up)):
            with FlopCounterMode(display=False) as counter:
                update(batch, optimizers, 0.1)
            for _ in range(2):
                update(batch, optimizers, 0.1)
            seconds = []
            for _ in range(arguments.steps):
                started = time.perf_counter()
                update(batch, optimizers, 0.1)
                seconds.append(time.perf_counter() - started)
            median, flops = statistics.median(seconds), counter.get_total_flops() / 1e9
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            images = len(batch.images)
            row = f"{name:18} {kind:8} {precision:11} {images:5} {median:7.3f} {images / median:9.1f}"
            print(f"{row} {flops:6.1f} {flops / median:8.1f} {peak:9.0f}", flush=True)


if __name__ == "__main__":
    main()
