"""Does a result depend on who judges? The same translations, read by several attribute classifiers.

    python benchmarks/judges.py faces --arms unguided=r1,random=r2,guided=r3 --classifiers a.safetensors,b.safetensors

FD-attr is a distance in the features of one classifier, and another one, taught by the same labels from another start
or in another order, has other features. The arms (stage-3 runs from one stage 1) translate the pairs of the evaluation
once, both ways; each classifier reads them. Classifiers are files that evaluations left in the `cache` of a workspace
(`rgunit --seed 1 evaluate translation` leaves another one than seed 0).
Told of each: changed bits and FD-attr of every arm, and guided less unguided and random with the 95 % intervals of
`both_ways`. `--json FILE` keeps it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from translation.evaluation.arms import Arm, arms_of_run, retriever_of
from translation.evaluation.classifier import AttributeClassifier
from translation.evaluation.evaluate import ArmTranslator, copy_arm, evaluate_translation
from translation.evaluation.exchange import both_ways
from translation.evaluation.protocol import kept_pairs
from translation.translator import Translator

SHOWN = ("accuracy_changed", "fd_attr")


@dataclass
class Remembered:
    """An arm that translates a batch once."""

    arm: Arm
    made: dict[bytes, NDArray[np.uint8]] = field(default_factory=dict)

    def __call__(
        self, source: NDArray[np.int64], target: NDArray[np.int8], seeds: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        key = source.tobytes() + target.tobytes() + seeds.tobytes()
        if key not in self.made:
            self.made[key] = self.arm(source, target, seeds)
        return self.made[key]


def judged(workspace: Workspace, runs: dict[str, str], files: Sequence[Path], device: str) -> list[dict[str, Any]]:
    """For each classifier {file, accuracy, both ways: summary}."""
    records = {name: workspace.run(run) for name, run in runs.items()}
    starts = {str(record.config["translation_run"]) for record in records.values()}
    if len(starts) != 1:
        raise UsageError(f"--arms come from several stages 1 ({', '.join(sorted(starts))}): give those of one")
    first = Translator.load(workspace, starts.pop(), device)
    assert first.run is not None
    retriever = retriever_of(workspace, first, first.run, device)
    opened = {n: arms_of_run(workspace, first, record, retriever, device) for n, record in records.items()}
    arms = {name: Remembered(found[name]) for name, found in opened.items()}
    config = first.config.evaluation.model_copy(update={"diversity_inputs": 0})
    found = []
    for file in files:
        classifier, ways = AttributeClassifier.load(file, device), []
        for exchanged in (False, True):
            given = {"split": "test", "limit": config.pairs, "seed": 0, "exchanged": exchanged}
            pairs, _ = kept_pairs(first.run.path, workspace, first.schema, **given)
            every: dict[str, ArmTranslator] = {**arms, "copy": copy_arm(workspace, first.size)}
            ways.append(evaluate_translation(workspace, arms=every, pairs=pairs, classifier=classifier, config=config))
        told = both_ways(ways[0], ways[1], config.bootstrap, 0)
        parts = {name: way.summary for name, way in zip(("there", "back"), ways, strict=True)}
        kept = {"both ways": told, **{name: {k: one[k] for k in told} for name, one in parts.items()}}
        found.append({"classifier": file.stem, "accuracy": classifier.accuracy, **kept})
        print(_line(found[-1]), flush=True)
    return found


def _line(one: dict[str, Any]) -> str:
    """One classifier's row."""
    told = one["both ways"]
    arms = [name for name in told if isinstance(told[name], dict) and "accuracy_changed" in told[name]]
    parts = [f"{name} {told[name]['accuracy_changed']:.3f} {told[name]['fd_attr']:.2f}" for name in arms]
    for pair in ("guided vs unguided", "guided vs random"):
        for measure, gap in told["comparisons"].get(pair, {}).items():
            if measure in SHOWN:
                low, high = gap["interval"]
                parts.append(f"{pair} {measure} {gap['difference']:+.3f} ({low:+.3f} … {high:+.3f})")
    return f"{one['classifier'][:24]} ({one['accuracy']:.3f}): " + "; ".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--arms", required=True, metavar="NAME=RUN,…", help="unguided, random and guided, some of them")
    parser.add_argument("--classifiers", required=True, metavar="FILE,…")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(arguments)
    runs = dict(part.split("=", 1) for part in options.arms.split(",") if "=" in part)
    if not runs or not set(runs) <= {"unguided", "random", "guided"}:
        parser.error("--arms takes NAME=RUN, separated by commas, of unguided, random and guided")
    with Workspace.open(options.workspace) as workspace:
        found = judged(workspace, runs, [Path(name) for name in options.classifiers.split(",")], options.device)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (RgunitError, UsageError) as error:
        sys.exit(f"error: {error}")
