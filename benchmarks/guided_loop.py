"""What guidance costs in the whole loop: stage 3 with neighbours from the store beside stage 3 without, in one run.

    python benchmarks/guided_loop.py faces [--preset celeba-64] [--translation-run ID] [--steps 300] [--set KEY=VALUE]

Everything that a training does is in it: images from the disk, search, encoding of sources and neighbours in the
background, the step, the log. Kinds of neighbours take turns, `none` first and last, each in a copy of the workspace
that is gone afterwards. Told of each: seconds a step in the first 100 steps (the cache of encoded neighbours is
filling) and after them, by the run's own `images_per_second`, and their ratio to the mean of both trainings without
neighbours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from translation.config import Config, load_config
from translation.evaluation.experiments.workspaces import copy_workspace
from translation.progress import Lines
from translation.runs import RETRIEVAL, TRANSLATION, newest
from translation.stages import train_guided
from translation.training.metrics import read_metrics

TURNS = ("none", "retrieved", "random", "none")
FIRST = 100  # steps that are told apart


def measure(source: Path, config: Config, run: str | None, steps: int, device: str) -> list[dict[str, Any]]:
    """A row for each of TURNS: neighbours, seconds a step in the first FIRST steps and after them."""
    with Workspace.open(source) as workspace:
        first = newest(workspace, TRANSLATION, run).id
        second = [r.id for r in workspace.runs(RETRIEVAL) if r.config["translation_run"] == first and not r.empty]
    if not second:
        raise RgunitError(f"no retrieval was trained on run {first}: `rgunit train retrieval` and `rgunit index build`")
    rows = []
    for kind in TURNS:
        with tempfile.TemporaryDirectory() as folder:
            copy_workspace(source, Path(folder) / "workspace", [first, second[-1]])
            with Workspace.open(Path(folder) / "workspace") as copy:
                of = {"retrieval_run": second[-1]} if kind == "retrieved" else {}
                done = train_guided(
                    copy,
                    config,
                    neighbours=kind,
                    translation_run=first,
                    steps=steps,
                    device=device,
                    progress=Lines(),
                    **of,
                )
                rows.append({"neighbours": kind, **seconds_a_step(read_metrics(done.run.path), config.guided.batch)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def seconds_a_step(rows: Sequence[dict[str, float]], batch: int) -> dict[str, float]:
    """Medians over the logged rows of a run, those up to step FIRST and those after it."""
    parts = {"first": [r for r in rows if r["step"] <= FIRST], "then": [r for r in rows if r["step"] > FIRST]}
    return {
        name: statistics.median(batch / row["images_per_second"] for row in part)
        for name, part in parts.items()
        if part
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, help="images, stage 1, stage 2 and its index")
    parser.add_argument("--preset", default="celeba-64")
    parser.add_argument("--translation-run", metavar="ID", help="stage 1; default: the newest")
    parser.add_argument("--steps", type=int, default=300, help="of each training; more than 100")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(arguments)
    if options.steps <= FIRST:
        parser.error(f"--steps takes more than {FIRST}")
    told = ["training.tensorboard=false", "training.log_every=20", "training.checkpoint_every=1000000"]
    config = load_config(options.preset, overrides=[*told, "training.sample_every=1000000", *options.settings])
    rows = measure(options.workspace, config, options.translation_run, options.steps, options.device)
    print(f"batch {config.guided.batch}, k = {config.guided.neighbours}, {config.guided.guidance}, medians of a run")
    print(f"{'neighbours':12} {'s/step, first ' + str(FIRST):>20} {'then':>8} {'ratio, first':>14} {'then':>8}")
    alone = {
        part: statistics.mean(row[part] for row in rows if row["neighbours"] == "none") for part in ("first", "then")
    }
    for row in rows:
        ratios = {part: row[part] / alone[part] for part in alone}
        pace = f"{row['first']:20.3f} {row['then']:8.3f} {ratios['first']:14.2f} {ratios['then']:8.2f}"
        print(f"{row['neighbours']:12} {pace}")


if __name__ == "__main__":
    try:
        main()
    except (RgunitError, UsageError) as error:
        sys.exit(f"error: {error}")
