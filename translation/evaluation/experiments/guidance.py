"""Does guidance help? The paper's tables, row by row, every arm of a seed from one stage-1 checkpoint, in equal steps.

    1  Table 2: unguided, random neighbours, guided (and the guided one with random neighbours at inference: swapped)
    2  the same arms on drawn faces, whose true translation is known
    3  Table 3: a quarter and all of the labels, all images to retrieve from
    4  kinds of guidance: convolution, attention, patches, style; neighbour dropout
    5  Table 4: k = 1, 3 and 10

Stage 1 and 2 of a seed are trained once and serve all rows. The first guided arm of a seed ends by `minutes`; others
take its steps. Each row of a seed ends in one JSON file, written part by part, with a picture of some pairs beside it.
All arms are judged on the same pairs (seed 0), so that a difference has an interval over the seeds as well. Row 3 makes
a workspace in which 3 in 4 training images come without labels; its pairs are those of the workspace where people are
named (text column `identity`), and one classifier, taught by all labels, judges both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from index_store.errors import UsageError
from index_store.lifetimes import end_with_parent
from index_store.whole import write_json
from index_store.workspace import RunRecord, Workspace
from retrieval.onnx import OnnxNetwork
from translation.config import Config
from translation.evaluation.arms import Arm, Arms, arms_of_run, used_with
from translation.evaluation.experiments.beside import train_beside
from translation.evaluation.experiments.ledger import Ledger, results_folder
from translation.evaluation.experiments.plan import NEIGHBOURS, TITLES, Plan, places, told_as
from translation.evaluation.experiments.rows import RowResult
from translation.evaluation.experiments.seeds import EXCHANGED, Judged, over_seeds, with_way
from translation.evaluation.experiments.slim import slim_workspace
from translation.evaluation.experiments.trainings import Trainer, needs
from translation.evaluation.experiments.workspaces import drawn_workspace, quarter_workspace, refuse_uncopied
from translation.evaluation.judging import evaluate_translation_runs
from translation.evaluation.report.sheet import draw_pairs
from translation.evaluation.scores import Draws, comparisons
from translation.indexing import open_retriever
from translation.neighbours import Neighbours
from translation.progress import Progress
from translation.translator import Translator


def run_guidance(plan: Plan, progress: Progress | None = None) -> dict[str, Any]:
    """Train and judge what `plan` asks for and `plan.out` does not hold yet; what it holds then.

    Returns {out, runs: {place/seed/part: {run, steps, seconds}}, rows: [...], over_seeds: [...]}: trainings, and the
    contents of the files `row-ROW-seed-SEED.json` and `row-ROW-over-seeds.json` of the rows and seeds asked for.
    RgunitError where `out` was made with other settings or a training failed. KeyboardInterrupt where one was stopped:
    the same plan goes on. Runs that the workspace had before are left alone. UsageError without `out` or workspace.
    """
    end_with_parent()  # with trainings beside each other the loop, which does so too, runs elsewhere
    progress = progress or Progress()
    out, home = _folders(plan)
    configs = plan.configs()
    for use in plan.use:  # refused before anything is trained
        for config in configs.values():
            used_with(config, use)
    if plan.judge is not None:
        OnnxNetwork(plan.judge, plan.judge_crop)
    rows = [(row, seed) for row in plan.rows for seed in plan.seeds if not is_judged(row, seed, plan)]
    with ExitStack() as stack:
        workspace = stack.enter_context(Workspace.open(home)) if home and any(row != 2 for row, _ in rows) else None
        if workspace is not None and (plan.carry is not None or plan.jobs > 1):
            refuse_uncopied(workspace.path)
        ledger = Ledger.open(out, _settings(plan, configs))
        trainers: dict[str, Trainer] = {}
        if workspace is not None:
            trainers["workspace"] = Trainer("workspace", workspace, configs["workspace"], plan, ledger, progress)
        if any(row == 2 for row, _ in rows):
            drawn = drawn_workspace(out / "drawn", plan.drawn_images, configs["drawn"].data.size)
            stack.enter_context(drawn)
            trainers["drawn"] = Trainer("drawn", drawn, configs["drawn"], plan, ledger, progress)
        for name in (f"quarter-{seed}" for row, seed in rows if row == 3):
            quarter = stack.enter_context(quarter_workspace(out / name, trainers["workspace"].workspace))
            trainers[name] = Trainer(name, quarter, configs["workspace"], plan, ledger, progress)
        if plan.jobs > 1:
            train_beside(out / "beside", needs(rows, trainers), plan, progress)
            rows = rows if plan.until == "judged" else []
        for row, seed in rows:
            measure(row, seed, trainers, plan, progress)
    if plan.carry is not None and home is not None:
        progress.stage("small copy")
        slim_workspace(home, plan.carry)
    if plan.until == "judged":
        _judge_seeds(plan, out)
    return _found(plan, out, ledger)


def _folders(plan: Plan) -> tuple[Path, Path | None]:
    """The folder of the results, and the workspace where a row needs one."""
    out = results_folder(plan.out)
    if set(plan.rows) == {2}:
        return out, None
    if plan.workspace is None:
        raise UsageError("rows 1, 3, 4 and 5 need a workspace with labelled images (row 2 draws its own)")
    return out, plan.workspace


def _settings(plan: Plan, configs: Mapping[str, Config]) -> dict[str, Any]:
    """What all rows of a folder have in common."""
    settings: dict[str, Any] = {place: config.model_dump(mode="json") for place, config in configs.items()}
    settings |= {"steps": plan.steps, "minutes": plan.minutes, "attributes_used": list(plan.attributes_used)}
    return settings | ({"use": list(plan.use)} if plan.use else {})


def _judge_seeds(plan: Plan, out: Path) -> None:
    """Intervals over the seeds that are judged, of each row."""
    for row in plan.rows:
        kept = {seed: RowResult.open(out, row, seed).scores for seed in plan.seeds}
        kept = {seed: scores for seed, scores in kept.items() if scores}
        if len(kept) > 1 or plan.both_ways:
            about = {"row": row, "title": TITLES[row], "seeds": list(kept), "parts": over_seeds(list(kept.values()))}
            write_json(_over_seeds(out, row), about)


def _over_seeds(out: Path, row: int) -> Path:
    return out / f"row-{row}-over-seeds.json"


def _found(plan: Plan, out: Path, ledger: Ledger) -> dict[str, Any]:
    rows = [RowResult.file(out, row, seed) for row in plan.rows for seed in plan.seeds]
    over = [_over_seeds(out, row) for row in plan.rows]
    return {
        "out": str(out.absolute()),
        "runs": ledger.done,
        "rows": [json.loads(path.read_text()) for path in rows if path.exists()],
        "over_seeds": [json.loads(path.read_text()) for path in over if path.exists()],
    }


def measure(row: int, seed: int, trainers: Mapping[str, Trainer], plan: Plan, progress: Progress) -> None:
    """Train what a row of one seed needs and judge it, a part at a time."""
    assert plan.out is not None
    result, other = RowResult.open(plan.out, row, seed), RowResult.open(plan.out, 1, seed)
    for part, judged_part, exchanged in judgements(row, seed, plan):
        trainer, arms = trainers[places(row, seed)[part]], plan.arms_of(row)
        same = judged_part.removeprefix(part).removeprefix(", ")  # what row 1 calls it
        if result.has(judged_part, arms):
            continue
        if row == 3 and trainer.place == "workspace" and other.has(same, arms):
            result.take(judged_part, other, same)
        else:
            trainer.stages(seed)
            if plan.until == "stages":
                continue
            runs = {name: trainer.arm(seed, *arm) for name, arm in trainer.wanted(row).items()}
            if plan.until == "arms":
                continue
            begun, labelled = time.monotonic(), trainers["drawn" if row == 2 else "workspace"].workspace
            sheet = result.path.with_name(f"{result.path.stem}{' ' * bool(judged_part)}{judged_part}.png")
            judged = judge(trainer, seed, runs, labelled, exchanged, sheet)
            result.add(judged_part, *judged, time.monotonic() - begun)
        result.about["steps"] = trainer.steps(seed) or plan.steps
        result.save()
        progress.note(f"{told_as(row, seed, judged_part)} is judged: {result.path}")


def judge(
    trainer: Trainer, seed: int, runs: Mapping[str, RunRecord], labelled: Workspace, exchanged: bool, sheet: Path
) -> tuple[dict[str, Any], Judged]:
    """The evaluation of stage-3 runs by name, each guided one also with random neighbours in use (swapped).

    What judges is taught by the labels of `labelled`: one classifier for all. `sheet`: a PNG of some pairs.
    """
    workspace, plan = trainer.workspace, trainer.plan
    first, second = trainer.stages(seed)
    translator = Translator.load(workspace, first, plan.device)
    retriever = open_retriever(workspace, second, plan.device)
    guides = Neighbours(workspace, translator, retriever, k=1)
    arms = {"stage1": Arm(workspace, translator, None), "probe": Arm(workspace, translator, guides)}
    for name, record in runs.items():
        for way, arm in arms_of_run(workspace, translator, record, retriever, plan.device).items():
            arms[way if name in NEIGHBOURS else name if way == "guided" else f"{name}, swapped"] = arm
    others: dict[str, Arm] = {}
    for use in plan.use:
        told = ", ".join(f"{key} = {value}" for key, value in use.items())
        for name in runs.keys() & {"guided", "random"}:
            ways = arms_of_run(workspace, translator, runs[name], retriever, plan.device, use)
            others |= {f"{way}, {told}": arm for way, arm in sorted(ways.items())}
    arms |= others
    compared = Arms(workspace.run(first), arms, retriever)
    found = evaluate_translation_runs(
        workspace,
        arms=compared,
        device=plan.device,
        config=trainer.config.evaluation,
        judge=plan.judge,
        judge_crop=plan.judge_crop,
        exchanged=exchanged,
        labelled=labelled,
        progress=trainer.progress,
    )
    draw_pairs(workspace, found, compared, sheet, shown=[*reversed(list(runs)), "swapped"])
    summary = {key: value for key, value in found.summary.items() if not isinstance(value, dict) or value.get("n") != 0}
    if referee := summary["protocol"]["judge"]:  # results are passed on: no path of this machine
        summary["protocol"]["judge"] = {**referee, "path": Path(referee["path"]).name}
    draws = Draws.draw(found.pairs, trainer.config.evaluation.bootstrap, 0)
    which = [(name, other) for name in runs if name not in NEIGHBOURS for other in ("unguided", f"{name}, swapped")]
    which += [(name, "unguided") for name in others]
    for name in (name for name in others if name.startswith("guided")):
        which += [(name, name.replace("guided", other, 1)) for other in ("random", "swapped")]
    summary["comparisons"] |= comparisons(found.scores, found.pairs, draws, which)
    return summary, (found.scores, found.pairs)


def judgements(row: int, seed: int, plan: Plan) -> list[tuple[str, str, bool]]:
    """[(part of a row, its name in the results, halves exchanged)]"""
    ways = (False, True) if plan.both_ways else (False,)
    return [(part, with_way(part, EXCHANGED) if way else part, way) for part in places(row, seed) for way in ways]


def is_judged(row: int, seed: int, plan: Plan) -> bool:
    """Whether all of a row is there with every arm that is wanted."""
    assert plan.out is not None
    result, arms = RowResult.open(plan.out, row, seed), plan.arms_of(row)
    return all(result.has(name, arms) for _, name, _ in judgements(row, seed, plan))
