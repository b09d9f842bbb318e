"""Does a result depend on who judges? The same translations, read by several attribute classifiers.

FD-attr is a distance in the features of one classifier, and another one, taught by the same labels from another start
or in another order, has other features. The arms (stage-3 runs from one stage 1) translate the pairs of the evaluation
once, both ways; each classifier reads them. Classifiers are files that evaluations left in the `cache` of a workspace
(`rgunit --seed 1 evaluate translation` leaves another one than seed 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store.errors import UsageError
from index_store.learned import barred_from
from index_store.workspace import Workspace
from translation.evaluation.arms import Arm, arms_of_run, retriever_of
from translation.evaluation.classifier import AttributeClassifier
from translation.evaluation.evaluate import ArmTranslator, copy_arm, evaluate_translation
from translation.evaluation.exchange import both_ways
from translation.evaluation.protocol import kept_pairs
from translation.progress import Progress
from translation.translator import Translator


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


def read_by(
    workspace: Workspace,
    runs: Mapping[str, str],
    files: Sequence[Path],
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """For each classifier {classifier, accuracy, there, back, "both ways"}, the last three summaries of an evaluation.

    `runs` {arm: stage-3 run}, of `unguided`, `random` and `guided`. UsageError where they come from several stage-1
    runs or an arm is no such run; RgunitError where a file is no classifier.
    """
    progress = progress or Progress()
    records = {name: workspace.run(run) for name, run in runs.items()}
    if strange := [record.id for record in records.values() if "neighbours" not in record.config]:
        raise UsageError(f"run {strange[0]} is no stage-3 run: name runs of stage guided")
    starts = {str(record.config["translation_run"]) for record in records.values()}
    if len(starts) != 1:
        raise UsageError(f"the arms come from several stage-1 runs ({', '.join(sorted(starts))}): give those of one")
    classifiers = [AttributeClassifier.load(file, device) for file in files]
    first = Translator.load(workspace, starts.pop(), device)
    assert first.run is not None
    retriever = retriever_of(workspace, first, first.run, device)
    opened = {n: arms_of_run(workspace, first, record, retriever, device) for n, record in records.items()}
    if other := [name for name, found in opened.items() if name not in found]:
        raise UsageError(
            f"run {runs[other[0]]} is not the arm {other[0]}: it has {', '.join(opened[other[0]]) or 'none'}"
        )
    arms = {name: Remembered(found[name]) for name, found in opened.items()}
    config = first.config.evaluation.model_copy(update={"diversity_inputs": 0})
    learned = barred_from(workspace, "test", [first.run, *records.values()], progress.note)
    found = []
    progress.stage("evaluate")
    for done, (file, classifier) in enumerate(zip(files, classifiers, strict=True)):
        progress.step(done, len(files))
        ways = []
        for exchanged in (False, True):
            pairs, _ = kept_pairs(
                first.run.path,
                workspace,
                first.schema,
                split="test",
                limit=config.pairs,
                seed=0,
                exchanged=exchanged,
                learned=learned,
            )
            every: dict[str, ArmTranslator] = {**arms, "copy": copy_arm(workspace, first.size)}
            ways.append(evaluate_translation(workspace, arms=every, pairs=pairs, classifier=classifier, config=config))
        told = both_ways(ways[0], ways[1], config.bootstrap, 0)
        parts = {name: way.summary for name, way in zip(("there", "back"), ways, strict=True)}
        kept = {"both ways": told, **{name: {k: one[k] for k in told} for name, one in parts.items()}}
        found.append({"classifier": file.stem, "accuracy": classifier.accuracy, **kept})
    return found
