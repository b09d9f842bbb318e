"""Every evaluation that `rgunit evaluate` knows, by its name, as a program asks for it: options in, its JSON out.

Those of a workspace get it open. Experiments get its folder, or None where they draw their own faces; without `out`
they train nothing and tell what they would cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from index_store.errors import UsageError
from index_store.workspace import Workspace
from translation.config import load_config

Found = dict[str, Any]
Plan = TypeVar("Plan")


def _retrieval(workspace: Workspace, *, run: str | None = None, device: str = "auto", **options: Any) -> Found:
    from retrieval.evaluation import RetrievalProtocol
    from translation.evaluation.judging import evaluate_retrieval_run

    return evaluate_retrieval_run(workspace, RetrievalProtocol(**options), run=run, device=device).summary


def _translation(workspace: Workspace, *, both_ways: bool = False, **options: Any) -> Found:
    from translation.evaluation.arms import open_arms
    from translation.evaluation.judging import evaluate_both_ways, evaluate_translation_runs

    if not both_ways:
        return evaluate_translation_runs(workspace, **options).summary
    if "arms" not in options:
        options["arms"] = open_arms(workspace, options.pop("run", None), options.get("device", "auto"))
    return evaluate_both_ways(workspace, **options).summary


def _generator(workspace: Workspace, **options: Any) -> Found:
    from translation.evaluation.generator import evaluate_generator

    return evaluate_generator(workspace, **options)


def _judges(
    workspace: Workspace, *, arms: Mapping[str, str], classifiers: Sequence[Path | str], **options: Any
) -> Found:
    from translation.evaluation.experiments.judges import read_by

    return {"classifiers": read_by(workspace, arms, [Path(one) for one in classifiers], **options)}


def _unseen(
    workspace: Workspace,
    *,
    out: Path | str | None = None,
    preset: str = "mix-match",
    settings: Sequence[str] = (),
    **options: Any,
) -> Found:
    from translation.evaluation.experiments.unseen import run_unseen

    config = load_config(preset, overrides=settings)
    return run_unseen(workspace, config, Path(out or workspace.path / "unseen"), **options)


def _modalities(
    workspace: Workspace,
    *,
    out: Path | str | None = None,
    preset: str = "zero-pair",
    settings: Sequence[str] = (),
    **options: Any,
) -> Found:
    from translation.evaluation.experiments.modalities import run_modalities

    return run_modalities(workspace, preset, Path(out or workspace.path / preset), overrides=settings, **options)


def _guidance(folder: Path | None, **options: Any) -> Found:
    from translation.evaluation.experiments.guidance import run_guidance
    from translation.evaluation.experiments.plan import Plan

    plan = _planned(Plan, "guidance", workspace=folder, **options)
    return {"rows": plan.cost(), "steps": plan.steps} if plan.out is None else run_guidance(plan)


def _bias(folder: Path | None, **options: Any) -> Found:
    from translation.evaluation.experiments.bias import BiasPlan, run_bias

    collection = "drawn" if folder is None else "workspace"
    plan = _planned(BiasPlan, "bias", workspace=folder, collection=collection, **options)
    return plan.cost() if plan.out is None else run_bias(plan)


def _parts(folder: Path | None, *, out: Path | str, **options: Any) -> Found:
    from translation.evaluation.experiments.parts import Ablation, run_ablation

    several = ("rows", "seeds", "settings", "attributes_used")
    given: dict[str, Any] = {name: tuple(value) if name in several else value for name, value in options.items()}
    return run_ablation(Ablation(out=Path(out), workspace=folder, **given))


def _transfer(folder: Path | None, **options: Any) -> Found:
    from translation.evaluation.experiments.transfer import TransferPlan, run_transfer

    plan = _planned(TransferPlan, "transfer", workspace=folder, **options)
    return plan.cost() if plan.out is None else run_transfer(plan)


def _scarce(folder: Path | None, **options: Any) -> Found:
    from translation.evaluation.experiments.scarce import ScarcePlan, run_scarce

    plan = _planned(ScarcePlan, "scarce", workspace=folder, **options)
    return plan.cost() if plan.out is None else run_scarce(plan)


OF_WORKSPACE: dict[str, Callable[..., Found]] = {
    "retrieval": _retrieval,
    "translation": _translation,
    "generator": _generator,
    "judges": _judges,
    "unseen": _unseen,
    "modalities": _modalities,
}
EXPERIMENTS: dict[str, Callable[..., Found]] = {
    "guidance": _guidance,
    "bias": _bias,
    "parts": _parts,
    "transfer": _transfer,
    "scarce": _scarce,
}


def _planned(plan: Callable[..., Plan], what: str, **options: Any) -> Plan:
    """A plan of an experiment. UsageError names an option that there is not, or whose value cannot be meant."""
    try:
        return plan(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        told = f"has no option {name!r}" if first["type"] == "extra_forbidden" else f"{name}: {first['msg']}"
        raise UsageError(f"`evaluate {what}` {told}") from None
