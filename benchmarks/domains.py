"""What mix-and-match networks cost with the number of domains: parameters, and seconds until every pair had a step.

    OMP_NUM_THREADS=1 python benchmarks/domains.py [--preset mix-match] [--domains 2,3,4,8,11] [--steps 8]
        [--set KEY=VALUE] [--device cuda]

`parameters`: millions that training holds; `apart`: what a model of its own for each pair would hold, two encoders,
decoders and discriminators a pair; `pairs`: n − 1 with the anchor, `all`: n(n − 1)/2; `s/step`: the median of the steps
after 2 that are not counted, on a CPU of processor time, so that a busy machine changes little; `s/round`: pairs · it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from index_store.attributes import AttributeSchema
from retrieval.loading import resolve_device
from translation.config import load_config
from translation.methods import Joins, Method, find_method
from translation.pairing import trained_pairs
from translation.sampling import Batch
from translation.training.task import Engine


def parameters_of(method: Method) -> int:
    """How many weights a training holds."""
    return sum(p.numel() for network in method.networks.values() for p in network.parameters())


def rows(
    preset: str, counts: Sequence[int], steps: int, settings: Sequence[str], device: torch.device
) -> list[dict[str, Any]]:
    """For each number of domains: {domains, parameters, apart, pairs, all_pairs, step, round, all_round}."""
    config = load_config(preset, overrides=settings)
    found: list[dict[str, Any]] = []
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    two = 0
    for count in sorted({2, *counts}):
        names = tuple(f"domain {i}" for i in range(count))
        torch.manual_seed(0)
        method: Method = find_method(config.method).build(config, AttributeSchema(names, (names,)), "translation")
        assert isinstance(method, Joins)
        for network in method.networks.values():
            network.to(device, memory_format=torch.channels_last)
        held = parameters_of(method)
        two = two or held
        if count not in counts:
            continue
        optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(
                [p for k in player.networks for p in method.networks[k].parameters()], player.learning_rate, fused=True
            )
            for name, player in method.players.items()
        }
        engine, pairs = Engine(optimizers), method.pairs
        shape = config.translation.batch, 3, config.data.size, config.data.size
        seconds = []
        for turn in range(steps + 2):
            images, references = (torch.rand(shape, device=device) * 2 - 1 for _ in range(2))
            none = torch.zeros(len(images), count, dtype=torch.int8, device=device)
            batch = Batch(images, none, none, images.new_zeros(0, len(images), 0), references, pairs[turn % len(pairs)])
            started = clock()
            engine.run(method.step(batch, turn))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(clock() - started)
        step, every = statistics.median(seconds[2:]), len(trained_pairs(count, 0, everything=True))
        found.append(
            {
                "domains": count,
                "parameters": held,
                "apart": two * every,
                "pairs": len(pairs),
                "all_pairs": every,
                "step": step,
                "round": step * len(pairs),
                "all_round": step * every,
            }
        )
    return found


def main() -> None:
    """Print one line a number of domains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mix-match")
    parser.add_argument("--domains", default="2,3,4,8,11", metavar="N,…")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    counts = [int(part) for part in given.domains.split(",")]
    if min(counts) < 2:
        parser.error("--domains takes numbers from 2 up")
    print("domains  parameters  apart   pairs  all   s/step  s/round  s/round of all")
    for row in rows(given.preset, counts, given.steps, given.set, resolve_device(given.device)):
        print(
            f"{row['domains']:7}  {row['parameters'] / 1e6:9.2f}M {row['apart'] / 1e6:6.2f}M {row['pairs']:5} "
            f"{row['all_pairs']:4}  {row['step']:7.3f} {row['round']:8.2f} {row['all_round']:15.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
