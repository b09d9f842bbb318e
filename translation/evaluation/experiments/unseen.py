"""Translations that were never trained: joined networks against cascading through the anchor and training the pair.

For each seed one run whose pairs all have the anchor, and one that trains every pair, each pair equally often. Judged
are translations between domains other than the anchor: `stage1` (joined), `cascade`, `trained`, and the control `copy`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from index_store.errors import RgunitError
from index_store.names import quoted
from index_store.whole import write_json
from index_store.workspace import Workspace
from translation.config import Config, parse_config
from translation.evaluation.arms import Arm, Arms, open_arms
from translation.evaluation.experiments.ledger import Ledger
from translation.evaluation.judging import evaluate_translation_runs
from translation.fitting import used_schema
from translation.methods import find_method
from translation.pairing import trained_pairs
from translation.progress import Progress
from translation.stages import train_translation

ARMS = ("stage1", "cascade", "trained", "copy")
TOLD = ("accuracy_changed", "accuracy_kept", "truth", "relevance", "fd_attr")


def run_unseen(
    workspace: Workspace,
    config: Config,
    out: Path,
    *,
    seeds: Sequence[int] = (0,),
    attributes_used: Sequence[str] = (),
    relevance: str = "",
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and judge what is not done yet: {arms: {arm: {measure: mean over seeds}}, seeds: [what each gave]}.

    `config.translation.steps` are those of the run with the anchor; the other one gets as many more as it has more
    pairs. A file a seed in `out` beside the ledger of the trainings; a second call goes on. RgunitError where no pair
    is unseen, or `out` was made with other settings.
    """
    progress = progress or Progress()
    if find_method(config.method).draws != "group":
        raise RgunitError(
            f"{config.method} trains every pair of its domains, so none is unseen: give --preset mix-match"
        )
    schema = used_schema(workspace, config, attributes_used)
    count = len(schema.names)
    if count < 3:
        raise RgunitError(
            f"of {' and '.join(map(quoted, schema.names))} the one pair is trained: unseen pairs take three domains"
        )
    seen, whole = len(trained_pairs(count, 0)), len(trained_pairs(count, 0, everything=True))
    steps = config.translation.steps
    ways = {
        "anchor": _with(config, pairs="anchor", steps=steps),
        "all": _with(config, pairs="all", steps=round(steps * whole / seen)),
    }
    settings = {"config": config.model_dump(mode="json"), "domains": list(schema.names), "relevance": relevance}
    ledger, found = Ledger.open(out, settings), []
    for seed in seeds:
        path = out / f"unseen-{seed}.json"
        if path.exists():
            kept: dict[str, Any] = json.loads(path.read_text())
            if kept["settings"] != settings:
                raise RgunitError(f"{path} was made with other settings: give another --out")
            found.append(kept)
            continue
        given: dict[str, Any] = {"attributes_used": attributes_used, "seed": seed, "device": device}
        runs = {
            way: ledger.trained(f"{seed}/{way}", workspace, train_translation, own, progress, **given)
            for way, own in ways.items()
        }
        joined = open_arms(workspace, runs["anchor"], device)
        trained = open_arms(workspace, runs["all"], device).arms["stage1"]
        arms: dict[str, Arm] = {name: joined.arms[name] for name in ("stage1", "cascade")}
        evaluation = evaluate_translation_runs(
            workspace,
            arms=Arms(joined.translation_run, {**arms, "trained": trained}, None),
            changes={"relevance": relevance} if relevance else None,
            seed=seed,
            device=device,
            unseen=True,
            progress=progress,
        )
        trainings = {way: ledger.done[f"{seed}/{way}"] for way in ways}
        entry = {"settings": settings, "seed": seed, "trainings": trainings, **evaluation.summary}
        write_json(path, entry)
        found.append(entry)
    return {"arms": {arm: _means([one[arm] for one in found]) for arm in ARMS}, "seeds": found}


def _with(config: Config, **stage: Any) -> Config:
    settings = config.model_dump(mode="json")
    return parse_config({**settings, "translation": {**settings["translation"], **stage}})


def _means(arms: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of each measure the mean, None where one seed lacks it."""
    values = {name: [arm[name] for arm in arms if arm.get(name) is not None] for name in TOLD}
    return {name: fmean(given) if len(given) == len(arms) else None for name, given in values.items()}
