"""Runs judged: the arms of a stage-1 run on one list of pairs, in one direction or both; a retrieval run by P@k."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store.errors import RgunitError
from index_store.learned import barred_from, count_left_out
from index_store.workspace import Workspace
from retrieval.evaluation import RetrievalEvaluation, RetrievalProtocol, evaluate_queries
from retrieval.onnx import OnnxNetwork
from translation.evaluation.arms import Arms, open_arms
from translation.evaluation.classifier import train_classifier
from translation.evaluation.config import EvaluationConfig
from translation.evaluation.evaluate import (
    ArmTranslator,
    Evaluation,
    copy_arm,
    evaluate_translation,
    neighbour_arm,
)
from translation.evaluation.exchange import both_ways
from translation.evaluation.inception import Inception, PerceptualDistance
from translation.evaluation.joining import judged_domains
from translation.evaluation.protocol import Pairs, kept_pairs
from translation.evaluation.relevance import train_content_reader
from translation.evaluation.report.lengths import ENOUGH
from translation.evaluation.truth import truth_of
from translation.guides import LOOKED_UP
from translation.indexing import open_retriever
from translation.progress import Progress
from translation.runs import direction_of

CONTRACT_ARMS = ("unguided", "random", "guided", "copy", "neighbour")
MEASURES = (
    *("accuracy_changed", "accuracy_kept", "fd_attr", "fd_judge", "diversity", "identity", "truth"),
    *("truth_edit", "neighbour_copies", "reverse", "relevance", "fid", "kid", "inception_score", "lpips"),
)

Ids = NDArray[np.int64]


def judged_pairs(
    workspace: Workspace,
    found: Arms,
    split: str,
    limit: int,
    seed: int,
    note: Callable[[str], None],
    exchanged: bool = False,
    unseen: bool = False,
) -> tuple[Pairs, Ids]:
    """The kept list of pairs on which arms are judged, and the images that a run of theirs learned from."""
    looking = found.retriever is not None or any(arm.neighbours is not None for arm in found.arms.values())
    if split == LOOKED_UP and looking:
        raise RgunitError(
            f"split {split} is where guidance looks things up, and would find what is judged there: judge another split"
        )
    runs = [found.translation_run, *(arm.translator.run for arm in found.arms.values())]
    runs.append(found.retriever.run if found.retriever else None)
    learned = barred_from(workspace, split, runs, note)
    pairs, stale = kept_pairs(
        found.translation_run.path,
        workspace,
        found.arms["stage1"].translator.schema,
        split=split,
        limit=limit,
        seed=seed,
        exchanged=exchanged,
        direction=direction_of(found.translation_run),
        learned=learned,
        domains=judged_domains(found.arms["stage1"].translator, unseen),
    )
    if stale:
        note("images of the kept list of pairs are gone: a new list, not comparable with what was measured")
    return pairs, learned


def compared_arms(workspace: Workspace, found: Arms, split: str) -> dict[str, ArmTranslator]:
    """Everything that can be compared by name: the trained arms and the controls `copy` and `neighbour`."""
    compared: dict[str, ArmTranslator] = {name: arm for name, arm in found.arms.items() if name != "probe"}
    size = found.arms["stage1"].translator.size
    compared["copy"] = copy_arm(workspace, size)
    if found.retriever is not None:
        compared["neighbour"] = neighbour_arm(workspace, size, found.top_hit, split=split, pool=found.pool)
    return compared


def evaluate_translation_runs(
    workspace: Workspace,
    *,
    split: str = "test",
    run: str | None = None,
    out: Path | None = None,
    judge: Path | None = None,
    judge_crop: str | None = None,
    seed: int = 0,
    device: str = "auto",
    arms: Arms | None = None,
    config: EvaluationConfig | None = None,
    changes: Mapping[str, Any] | None = None,
    exchanged: bool = False,
    labelled: Workspace | None = None,
    unseen: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Every arm there is and the controls, by the protocol of `translation.evaluation`.

    `config` is by default the one that the translator was trained with, `changes` are laid over it. The list of pairs
    is kept with the stage-1 run, so that arms evaluated later get the same. `exchanged`: the halves of the test people
    change their roles (`make_pairs`). `labelled`: the workspace whose labels teach the classifier that judges, by
    default this one: another one where labels are withheld here. `unseen`: only translations between domains of which
    no pair was trained; RgunitError where there are none.
    """
    progress = progress or Progress()
    referee = OnnxNetwork(judge, judge_crop) if judge is not None else None
    workspace.leave_out_missing("origin=real|unlabelled", progress.note)
    found = arms or open_arms(workspace, run, device)
    first = found.arms["stage1"].translator
    config = (config or first.config.evaluation).model_copy(update=dict(changes or {}))
    inception = Inception(config.inception_weights, str(first.device)) if config.inception_weights else None
    lpips = PerceptualDistance(config.lpips_weights, str(first.device)) if config.lpips_weights else None
    direction = direction_of(found.translation_run)
    pairs, learned = judged_pairs(workspace, found, split, config.pairs, seed, progress.note, exchanged, unseen)
    progress.stage("classifier")
    classifier = train_classifier(
        labelled or workspace, first.size, config, device=str(first.device), seed=seed, progress=progress.step
    )
    if classifier.steps < ENOUGH * classifier.planned:
        progress.note(
            f"the classifier that judges had time for {classifier.steps} of {classifier.planned} steps, so its figures "
            "are rough: give it more with --classifier-minutes"
        )
    reader = None
    if config.relevance:
        reader = train_content_reader(
            labelled or workspace,
            config.relevance,
            pairs.source,
            first.size,
            config,
            target="" if direction is None else direction[1],
            split=split,
            device=str(first.device),
            seed=seed,
            progress=progress.step,
        )
    compared = compared_arms(workspace, found, split)
    progress.stage("evaluate")
    evaluation = evaluate_translation(
        workspace,
        arms=compared,
        pairs=pairs,
        classifier=classifier,
        config=config,
        judge=referee,
        inception=inception,
        lpips=lpips,
        truth=truth_of(workspace, first.schema.names, first.size),
        relevance=reader,
        one_way=direction is not None,
        out=out,
        seed=seed,
        progress=_Total(progress, list(compared)),
    )
    for name in CONTRACT_ARMS:
        evaluation.summary.setdefault(name, {**dict.fromkeys(MEASURES), "n": 0})
    evaluation.summary["protocol"]["left_out"] = count_left_out(workspace, split, learned)
    evaluation.summary["steps"] = {
        name: arm.translator.run.steps for name, arm in found.arms.items() if arm.translator.run and name != "probe"
    }
    evaluation.summary["runs"] = {
        name: arm.translator.run.id for name, arm in found.arms.items() if arm.translator.run and name != "probe"
    }
    return evaluation


def evaluate_both_ways(workspace: Workspace, *, arms: Arms, **given: Any) -> Evaluation:
    """`evaluate_translation_runs`, and with `both_ways` in its summary the mean with one whose halves are exchanged.

    `given` as there; images that are kept (`out`) are of the first.
    """
    there = evaluate_translation_runs(workspace, arms=arms, **given)
    back = evaluate_translation_runs(workspace, arms=arms, exchanged=True, **{**given, "out": None})
    own = given.get("config") or arms.arms["stage1"].translator.config.evaluation
    bootstrap = (given.get("changes") or {}).get("bootstrap", own.bootstrap)
    there.summary["both_ways"] = both_ways(there, back, bootstrap, given.get("seed", 0))
    return there


def evaluate_retrieval_run(
    workspace: Workspace,
    protocol: RetrievalProtocol | None = None,
    *,
    run: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> RetrievalEvaluation:
    """P@10 of a retrieval run (by default the newest) and of simpler retrievals, as the paper measures it.

    Its summary also has `steps`: how long the translator and the retrieval run trained.
    """
    progress, protocol = progress or Progress(), protocol or RetrievalProtocol()
    retriever = open_retriever(workspace, run, device)
    workspace.leave_out_missing("origin=real|unlabelled", progress.note)
    barred_from(workspace, protocol.split, [retriever.run], progress.note)
    evaluation = evaluate_queries(workspace, retriever, protocol, progress=progress.step)
    source = workspace.run(str(retriever.run.config["translation_run"]))
    evaluation.summary["steps"] = {"stage1": source.steps, "retrieval": retriever.run.steps}
    return evaluation


class _Total:
    """Turns (arm, done, all of it) into steps over all arms."""

    def __init__(self, progress: Progress, arms: list[str]) -> None:
        self.progress, self.arms = progress, arms

    def __call__(self, arm: str, done: int, total: int) -> None:
        self.progress.step(self.arms.index(arm) * total + done, len(self.arms) * total)
