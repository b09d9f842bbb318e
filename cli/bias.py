"""`rgunit evaluate bias`: what stays where the training set is biased, with UDIT's constraint and with retrieval."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.choices import JudgeCropOption, JudgeOption, SeedsOption, check_judge, seeds_of
from cli.settings import Settings
from index_store.errors import UsageError
from index_store.names import listed_names

if TYPE_CHECKING:
    from rich.console import Console

    from translation.evaluation.experiments.bias import BiasPlan

MEASURES = {
    "misclassified": "misread",
    "misclassified_all": "misread, all",
    "drop": "confidence −",
    "changed": "changed",
    "changed_least": "the rarer way",
    "identity": "identity",
    "truth": "to truth",
    "diversity": "diversity",
}


class Collection(StrEnum):
    """Where the images are from."""

    drawn = "drawn"
    workspace = "workspace"


def register(group: typer.Typer) -> None:
    """Give the command to the group `evaluate`."""
    group.command(
        short_help="What stays where the training set is biased? UDIT's table.",
        epilog="\b\nExamples:\n"
        "  rgunit evaluate bias --seeds 0,1,2 --out biased\n"
        "  rgunit evaluate bias --method gmm_unit --preset demo --steps 300 --guided-steps 100 --out quick\n"
        "  rgunit -w faces evaluate bias --collection workspace --wanted Blond_Hair --protect Male --negative \\\n"
        "    --preset celeba-64 --judge identity.onnx --out biased-faces",
    )(bias)


def bias(
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Folder of the results. Without it the plan is shown, nothing is done."
        ),
    ] = None,
    collection: Annotated[
        Collection, typer.Option(help="drawn: faces drawn for it. workspace: labelled images of -w.")
    ] = Collection.drawn,
    wanted: Annotated[str, typer.Option(metavar="NAME", help="Attribute that tells the domains apart.")] = "Glasses",
    protect: Annotated[str, typer.Option(metavar="NAME", help="Attribute that should stay.")] = "Beard",
    share: Annotated[
        float,
        typer.Option(metavar="S", min=0.5, max=1.0, help="Share of a domain's images with its usual protected value."),
    ] = 0.95,
    negative: Annotated[
        bool,
        typer.Option(
            "--negative", help="The other way round: images with the wanted attribute mostly lack the protected one."
        ),
    ] = False,
    seeds: SeedsOption = None,
    arms: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Some of: without, semantic, guided, agree, semantic and agree. Default: all."
        ),
    ] = None,
    preset: Annotated[str, typer.Option(metavar="NAME", help="Preset of all trainings.")] = "munit",
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another method on the preset's sizes: gmm_unit, cut, munit.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting over the preset's. May be repeated."),
    ] = None,
    weight: Annotated[
        float, typer.Option(metavar="W", min=0.0, help="semantic.weight of the arms whose features are held.")
    ] = 1.0,
    translation_minutes: Annotated[
        float, typer.Option(metavar="M", min=0.01, help="Minutes of the first stage 1; the others take its steps.")
    ] = 3.0,
    retrieval_minutes: Annotated[float, typer.Option(metavar="M", min=0.01, help="Minutes of each stage 2.")] = 0.5,
    minutes: Annotated[
        float, typer.Option(metavar="M", min=0.01, help="Minutes of the first stage 3; the others take its steps.")
    ] = 1.0,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Steps of every stage 1 instead.")] = None,
    guided_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Steps of every stage 3 instead.")
    ] = None,
    per_domain: Annotated[int, typer.Option(metavar="N", min=20, help="Drawn training images of each domain.")] = 600,
    tested: Annotated[
        int, typer.Option(metavar="N", min=2, help="Drawn images of each combination to translate.")
    ] = 60,
    taught: Annotated[
        int, typer.Option(metavar="N", min=2, help="Drawn images of each combination that teach the judge.")
    ] = 400,
    judge: JudgeOption = None,
    judge_crop: JudgeCropOption = None,
) -> None:
    """Train on a set in which a protected attribute goes with the domain; see whether translations keep it.

    Arms in equal steps: without anything, with an extractor's features held (semantic), guided by neighbours, by
    neighbours that agree with the source, and both. The judge is another network, taught by balanced images that no
    training sees. What --out holds is not done again: the same command goes on where it was stopped.
    """
    from cli.progress import Bars
    from translation.evaluation.experiments.bias import ARMS, BiasPlan

    settings: Settings = context.obj
    check_judge(judge, judge_crop)
    if not 0.5 < share < 1:
        raise UsageError(f"--share must lie between 0.5 and 1, not {share:g}")
    if not weight:
        raise UsageError("--weight must be above 0: --arms chooses what is compared")
    plan = BiasPlan(
        out=out,
        collection=collection.value,
        workspace=settings.folder if collection is Collection.workspace else None,
        wanted=wanted,
        protected=protect,
        share=share,
        negative=negative,
        seeds=seeds_of(seeds, settings.seed),
        arms=tuple(ARMS) if arms is None else listed_names(arms),
        preset=preset,
        method=method,
        settings=tuple(overrides or ()),
        weight=weight,
        translation_minutes=translation_minutes,
        retrieval_minutes=retrieval_minutes,
        minutes=minutes,
        steps=steps,
        guided_steps=guided_steps,
        per_domain=per_domain,
        tested=tested,
        taught=taught,
        judge=judge,
        judge_crop=judge_crop,
        device=settings.device,
    )
    if out is None:
        cost = plan.cost()
        settings.show(cost, lambda console: _draw_plan(console, cost))
        return
    with Bars() as bars:
        from translation.evaluation.experiments.bias import run_bias

        found = run_bias(plan, bars)
    settings.show(found, lambda console: _draw(console, plan, found))


def _draw_plan(console: Console, cost: dict[str, Any]) -> None:
    from cli.drawing import plain

    long = f"{cost['minutes']:.0f} minutes at most" if cost["minutes"] is not None else "so many steps"
    plain(console, f"{cost['trainings']} trainings, {long}, without the evaluations.")
    plain(console, "Give --out DIR to do it.")


def _draw(console: Console, plan: BiasPlan, found: dict[str, Any]) -> None:
    from cli.drawing import count, difference, number, plain, table

    read = [f"reads {name}" for name in found["judge"][0]["accuracy"]]
    title = "The judge, on real test images"
    shown = table(plan.wanted, plan.protected, "images", *read, right=("images", *read), title=title)
    for row in found["judge"]:
        bits = (str(row[name]) for name in (plan.wanted, plan.protected, "n"))
        shown.add_row(*bits, *(number(value) for value in row["accuracy"].values()))
    console.print(shown)
    arms = found["table"]["arms"]
    columns = {k: name for k, name in MEASURES.items() if any(one.get(k) is not None for one in arms.values())}
    seeds, sources = count(found["table"]["seeds"], "seed"), count(found["table"]["sources"], "source")
    title = f"{plan.protected} kept? {seeds}, {sources}"
    shown = table("arm", *columns.values(), right=tuple(columns.values()), title=title)
    for name in reversed(arms):
        shown.add_row(name, *(number(arms[name].get(key)) for key in columns))
    console.print(shown)
    plain(
        console,
        "misread, confidence −, identity and truth are of sources whose value is rare in the domain they go to",
        style="dim",
    )
    for pair, gaps in found["table"]["differences"].items():
        told = [
            f"{MEASURES[key]} {difference(gap)}" for key, gap in gaps.items() if key in ("misclassified", "changed")
        ]
        plain(console, f"  {pair}: {'; '.join(told)}: {gaps['verdict']}")
    plain(console, f"results: {found['out']}", style="bold")
