"""Triplets per second of stage 2: their images made anew for each step, against chosen from a pool of encodings.

    python benchmarks/train_retrieval.py [--preset celeba-64] [--images 96] [--steps 6] [--precision bf16-mixed]

Drawn faces and an untrained translator of the preset (time does not depend on what it has learned), the paper's network
and triplets, both ways in turns in one run; the pool's own cost is told beside them, in images per second and as the
number of steps after which it has paid for itself.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from index_store.workspace import Workspace
from retrieval.config import RetrievalConfig
from retrieval.train import RetrievalTask
from translation.config import load_config
from translation.drawings import make_dataset
from translation.methods import find_method
from translation.translator import Translator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="celeba-64")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--precision", default="bf16-mixed", choices=["bf16-mixed", "32-true"])
    options = parser.parse_args()
    config = load_config(options.preset)
    half = options.precision == "bf16-mixed"
    with tempfile.TemporaryDirectory() as folder:
        size = config.data.size
        faces, labels, _ = make_dataset(Path(folder), images=options.images, size=size, seed=0, unlabelled_share=0)
        with Workspace.create(Path(folder) / "workspace") as workspace:
            workspace.add_images(faces, attributes=labels)
            schema = workspace.schema.subset(workspace.schema.names[:5])
            made = find_method(config.method).build(config, schema, "translation", inference=True)
            translator = Translator(made, config=config, schema=schema, device=torch.device("cpu"))

            def task(pool: float) -> RetrievalTask:
                return RetrievalTask(
                    workspace,
                    translator,
                    RetrievalConfig(pool=pool),
                    autocast=lambda: torch.autocast("cpu", torch.bfloat16) if half else nullcontext(),
                )

            anew = task(0)
            begun = time.perf_counter()
            chosen = task(2.0)
            making = time.perf_counter() - begun
            seconds: dict[str, list[float]] = {"made anew": [], "from the pool": []}
            for step in range(options.steps + 1):
                for name, one in zip(seconds, (anew, chosen), strict=True):
                    begun = time.perf_counter()
                    one.step(step, one.prepare(step))
                    seconds[name].append(time.perf_counter() - begun)
    batch = RetrievalConfig().batch
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:14} {median:7.3f} s a step of {batch} triplets, {batch / median:7.1f} triplets/s")
    saved = medians["made anew"] - medians["from the pool"]
    print(f"ratio          {medians['made anew'] / medians['from the pool']:7.2f}")
    print(
        f"the pool       {making:7.1f} s for {len(chosen.ids)} images ({len(chosen.ids) / making:.1f} images/s); "
        f"one of 8,000 has paid for itself after {8000 * making / len(chosen.ids) / saved:.0f} steps"
    )


if __name__ == "__main__":
    main()
