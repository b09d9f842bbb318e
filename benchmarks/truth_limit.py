"""How near to the truth this generator comes when the truth itself trains it: the limit of any training without it.

    python benchmarks/truth_limit.py WORKSPACE --preset demo --steps 5000 [--set networks.skips=true] [--seed 0]

WORKSPACE holds drawn faces. E_c, G and the style's MLP learn, by the mean absolute difference to the drawn truth of
each training image under another's labels; nothing adversarial. Prints the mean absolute difference in [0, 1] to the
truth of the test pairs that `evaluate translation` judges: over the whole picture, and inside the region where the
drawn truth and the drawn source differ; beside them what a copy of the input has.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from index_store.images import Pixels
from index_store.workspace import Workspace
from retrieval.tensors import to_pixels, to_tensor
from translation import objectives
from translation.config import load_config
from translation.evaluation.distances import pixel_distance
from translation.evaluation.protocol import make_pairs
from translation.evaluation.truth import Goal, truth_of
from translation.methods.gmm_unit import GmmUnit
from translation.objectives import style as styles
from translation.sampling import LabelSampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    config = load_config(arguments.preset, overrides=arguments.overrides)
    size, seed = config.data.size, arguments.seed
    torch.manual_seed(seed)
    with Workspace.open(arguments.workspace) as workspace:
        names = tuple(config.data.attributes_used or workspace.schema.names)
        schema = workspace.schema.subset(names)
        method = GmmUnit.build(config, schema, "translation")
        sampler = LabelSampler(
            workspace,
            names,
            batch=config.translation.batch,
            seed=seed,
            mirror=False,
            groups=[schema.indices(group) for group in schema.groups],
            noise=method.noise,
        )
        truth = truth_of(workspace, names, size)
        if truth is None:
            raise SystemExit(f"{arguments.workspace} holds no drawn faces")
        trained = [method.networks[name] for name in ("content_encoder", "generator")]
        parameters = [parameter for network in trained for parameter in network.parameters()]
        optimizer = torch.optim.Adam(parameters, arguments.learning_rate, (0.5, 0.999))

        def painted(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            made = method.decode(method.content(images), styles.style_mean(target), images)
            return made.image

        started = time.monotonic()
        for step in range(arguments.steps):
            for group in optimizer.param_groups:
                group["lr"] = arguments.learning_rate * min(1.0, 2 * (1 - step / arguments.steps))
            draw = sampler.draw(step)
            goal = truth(draw.ids, draw.target)
            assert goal is not None
            images = to_tensor(workspace.load(draw.ids, size))
            made = painted(images, torch.from_numpy(draw.target))
            optimizer.zero_grad()
            objectives.absolute_difference(made, to_tensor(goal)).backward()
            optimizer.step()
        seconds = time.monotonic() - started
        pairs = make_pairs(workspace, schema, limit=config.evaluation.pairs, seed=seed)
        wanted = Goal.of(truth, pairs.source, pairs.target)
        sources = workspace.load(pairs.source, size)
        with torch.no_grad():
            made_test = np.concatenate(
                [
                    to_pixels(painted(to_tensor(sources[i : i + 50]), torch.from_numpy(pairs.target[i : i + 50])))
                    for i in range(0, len(sources), 50)
                ]
            )
    assert wanted is not None
    told = {"steps": arguments.steps, "seconds": round(seconds), "seed": seed}
    print(json.dumps(told | measured(made_test, sources, wanted)))


def measured(made: Pixels, sources: Pixels, wanted: Goal) -> dict[str, float]:
    """Distances to the truth, of what was made and of the sources as they are."""
    return {
        "truth": float(pixel_distance(made, wanted.images).mean()),
        "truth_edit": float(np.nanmean(pixel_distance(made, wanted.images, wanted.edited))),
        "copy": float(pixel_distance(sources, wanted.images).mean()),
        "copy_edit": float(np.nanmean(pixel_distance(sources, wanted.images, wanted.edited))),
    }


if __name__ == "__main__":
    main()
