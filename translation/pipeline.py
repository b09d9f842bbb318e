"""The whole job in one call: translation, retrieval, index, the three arms of guidance, evaluation, report.

Every stage is skipped where a run with the same settings is done and resumed where it is half done, so calling it
again after a stop goes on, and calling it again at the end changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from index_store.errors import RgunitError, UsageError
from index_store.whole import write_json
from index_store.workspace import RunRecord, Workspace
from retrieval.evaluation import RetrievalProtocol
from translation.budget import Budget, measured_pace
from translation.config import Config, load_config
from translation.drawings import GROUPS, make_dataset
from translation.evaluation.arms import open_arms
from translation.evaluation.config import EvaluationConfig
from translation.evaluation.experiments.work import interruptible
from translation.evaluation.judging import evaluate_retrieval_run, evaluate_translation_runs
from translation.evaluation.report.examples import collect
from translation.evaluation.report.facts import peak_memory
from translation.evaluation.report.report import write_report
from translation.evaluation.truth import truth_of
from translation.indexing import fill_index
from translation.planning import NEIGHBOURS, check_run, plan_run, skipped
from translation.progress import Progress
from translation.runs import TRANSLATION, trained
from translation.stages import Arm, train_guided, train_retrieval, train_translation
from translation.training.processes import launched
from translation.training.sessions import StageResult
from translation.translator import Translator

EVALUATE = "evaluate"
ARMS: tuple[Arm, ...] = ("retrieved", "random", "none")  # the slowest first: its steps are the others' too
DEMO_MINUTES = 5.7


@dataclass
class PipelineResult:
    """The JSON of `rgunit run`; `stopped` by Ctrl-C, then with the stages done so far."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    retrieval: dict[str, Any] | None = None
    translation: dict[str, Any] | None = None
    report: Path | None = None
    stopped: bool = False


def run_all(
    workspace: Workspace,
    config: Config,
    *,
    attributes_used: Sequence[str] = (),
    minutes: float | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    commands: Sequence[str] = (),
) -> PipelineResult:
    """All stages in order; `minutes` are those of all of it, index and evaluation included (`budget.py`).

    Of a method that takes no neighbours stage 1 alone, which gets the others' time; they are listed as `skipped`.
    """
    if launched() != (1, 1):
        raise UsageError("torchrun is for `rgunit train`, one stage after the other: the rest works in one process")
    progress = progress or Progress()
    result = PipelineResult()
    budget, shares = Budget(workspace, config, minutes, seed), config.shares
    alone = skipped(config)
    common: dict[str, Any] = {"seed": seed, "device": device, "resume": "auto", "progress": progress}

    check_run(workspace, config, attributes_used)
    if minutes is not None and not trained(workspace, TRANSLATION):
        planned = plan_run(
            workspace, config, attributes_used=attributes_used, minutes=minutes, seed=seed, device=device
        )
        if warning := planned.warning():
            progress.note(warning)
    progress.stage("translation")
    share = shares.translation + (shares.retrieval + shares.guided if alone else 0.0)
    translation = train_translation(
        workspace, config, attributes_used=attributes_used, minutes=budget.share(share), **common
    )
    if _finished(result, "translation", [translation]):
        return result
    common["translation_run"] = translation.run.id
    judged: dict[str, Any] = {"seed": seed, "device": device, "progress": progress, "commands": commands}
    translator = Translator.load(workspace, translation.run.id, device)
    pace = measured_pace(workspace, translator)
    if alone:
        result.stages += [{"name": name, "seconds": 0.0, "steps": 0, "skipped": alone} for name in NEIGHBOURS]
        _evaluate(workspace, config, budget.evaluation(pace, 1), result, [translation.run], **judged)
        return result
    progress.stage("retrieval")
    pool = config.retrieval.model_copy(update={"pool": budget.pool(translator, pace)})
    retrieval = train_retrieval(
        workspace,
        config.model_copy(update={"retrieval": pool}),
        minutes=budget.share(shares.retrieval),
        **common,
    )
    if _finished(result, "retrieval", [retrieval]):
        return result

    progress.stage("index")
    index = fill_index(
        workspace,
        config,
        run=retrieval.run.id,
        generated=budget.generated(pace),
        seed=seed,
        device=device,
        progress=progress,
    )
    result.stages.append({"name": "index", "seconds": index.seconds, "steps": index.vectors})

    arms: list[StageResult] = []
    together = budget.guided()
    for arm in ARMS:
        progress.stage(f"guided:{arm}")
        arms.append(
            train_guided(
                workspace,
                config,
                neighbours=arm,
                retrieval_run=retrieval.run.id if arm == "retrieved" else None,
                steps=arms[0].steps if arms else None,
                minutes=None if arms or together is None else together / len(ARMS),
                **common,
            )
        )
        if arms[-1].stopped:
            break
    if _finished(result, "guided", arms):
        return result

    runs = [translation.run, retrieval.run, *(arm.run for arm in arms)]
    evaluation = budget.evaluation(pace, len(ARMS) + 2)  # stage 1 and the guided arm with random neighbours too
    _evaluate(workspace, config, evaluation, result, runs, **judged)
    return result


def run_demo(
    path: Path,
    *,
    images: int | None = None,
    size: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    device: str = "auto",
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> PipelineResult:
    """Draw the built-in faces into `path`, register them and run every stage with the preset `demo`."""
    progress = progress or Progress()
    config = load_config("demo", overrides=overrides, size=size)
    count = images or config.demo.images
    if count < 60:
        raise RgunitError(f"the demo needs at least 60 images to learn and to test on, not {count}")
    with Workspace.ensure(path) as workspace:
        drawn = json.dumps([count, config.data.size, seed, config.demo.unlabelled])
        before = workspace.meta("demo")
        if before is not None and before != drawn:
            raise RgunitError(
                f"{path} holds a demo with other --images, --size or --seed: delete the folder, or give --workspace"
            )
        if before is None and len(workspace.images()):
            raise RgunitError(f"{path} is a workspace with images of its own: give the demo another --workspace")
        if before is None:
            progress.stage("draw")
            labelled, table, unlabelled = make_dataset(
                path / "images" / "drawn",
                images=count,
                size=config.data.size,
                seed=seed,
                unlabelled_share=config.demo.unlabelled,
                progress=progress.step,
            )
            workspace.add_images(labelled, attributes=table, groups=["|".join(group) for group in GROUPS])
            if config.demo.unlabelled:
                workspace.add_images(unlabelled, origin="unlabelled")
            workspace.set_meta("demo", drawn)
        return run_all(
            workspace,
            config,
            minutes=DEMO_MINUTES if minutes is None else minutes,
            seed=seed,
            device=device,
            progress=progress,
            commands=["make demo"],
        )


def _finished(result: PipelineResult, name: str, parts: Sequence[StageResult]) -> bool:
    """Note a stage; whether the user stopped it."""
    result.stages.append(
        {"name": name, "seconds": sum(part.seconds for part in parts), "steps": min(part.steps for part in parts)}
    )
    result.stopped = any(part.stopped for part in parts)
    return result.stopped


def _evaluate(
    workspace: Workspace,
    config: Config,
    evaluation: EvaluationConfig,
    result: PipelineResult,
    runs: Sequence[RunRecord],
    *,
    seed: int,
    device: str,
    progress: Progress,
    commands: Sequence[str],
) -> None:
    """Evaluate and write the report, unless the same runs were evaluated with the same settings before.

    `runs`: of stage 1 and, where there are any, of stage 2 and of the arms.
    """
    report = workspace.path / "report.html"
    about = {
        "config": config.model_dump(mode="json"),
        "evaluation": evaluation.model_dump(mode="json"),
        "runs": {run.id: run.steps for run in runs},
        "seed": seed,
        "images": len(workspace.images()),
        "judged": hashlib.sha256(workspace.images("split=test origin=real").ids.tobytes()).hexdigest()[:16],
    }
    done = [
        r
        for r in workspace.runs(EVALUATE)
        if r.status == "done" and _same({"judged": about["judged"], **r.config}, about)
    ]
    if done and (kept := done[-1].path / report.name).exists():
        shutil.copyfile(kept, report)  # a later evaluation may have written another one
        result.stages.append({"name": EVALUATE, "seconds": done[-1].seconds, "steps": 0})
        result.retrieval, result.translation = done[-1].summary["retrieval"], done[-1].summary["translation"]
        result.report = report
        return
    record = workspace.add_run(EVALUATE, config.preset, about)
    try:
        with interruptible():
            _judge(workspace, result, record, report, runs, evaluation, seed, device, progress, commands)
    except KeyboardInterrupt:
        workspace.update_run(record.id, status="stopped")
        result.stopped = True
    except BaseException:
        workspace.update_run(record.id, status="failed")
        raise


def _judge(
    workspace: Workspace,
    result: PipelineResult,
    record: RunRecord,
    report: Path,
    runs: Sequence[RunRecord],
    evaluation: EvaluationConfig,
    seed: int,
    device: str,
    progress: Progress,
    commands: Sequence[str],
) -> None:
    """Evaluate, write the report, and note it in the evaluation's record."""
    started = time.monotonic()
    progress.stage("evaluate")
    retrieval = None
    if len(runs) > 1:
        protocol = RetrievalProtocol(seed=seed)
        retrieval = evaluate_retrieval_run(workspace, protocol, run=runs[1].id, device=device, progress=progress)
    arms = open_arms(workspace, runs[2 if len(runs) > 1 else 0].id, device)
    translation = evaluate_translation_runs(
        workspace, seed=seed, device=device, arms=arms, progress=progress, config=evaluation
    )
    first = arms.arms["stage1"].translator
    seconds = time.monotonic() - started
    result.stages.append({"name": EVALUATE, "seconds": seconds, "steps": translation.summary["protocol"]["pairs"]})
    result.retrieval = None if retrieval is None else retrieval.summary
    result.translation = translation.summary
    progress.stage("report")
    data = collect(
        workspace,
        title="What the collection taught",
        stages=result.stages,
        runs=[run.id for run in runs],
        seed=seed,
        device=str(first.device),
        commands=commands,
        retrieval=retrieval,
        translation=translation,
        arms={name: arm for name, arm in arms.arms.items() if name != "probe"},
        truth=truth_of(workspace, first.schema.names, first.size),
        size=first.size,
    )
    result.report = write_report(workspace, report, data)
    shutil.copyfile(report, record.path / report.name)
    translation.save(record.path)
    if retrieval is not None:
        write_json(record.path / "retrieval.json", retrieval.summary)
    workspace.update_run(
        record.id,
        status="done",
        seconds=seconds,
        steps=translation.summary["protocol"]["pairs"],
        summary={
            "retrieval": result.retrieval,
            "translation": translation.summary,
            "peak_memory": peak_memory(),
        },
    )


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)
