"""`rgunit evaluate scarce`: a domain of few images, with mined ones in the store and without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.choices import AttributesOption, DrawnOption, HereOption, OutOption, SeedsOption, seeds_of
from cli.settings import Settings
from index_store.names import listed_names

if TYPE_CHECKING:
    from rich.console import Console

MEASURES = {
    "changed": "has it",
    "kept": "other labels",
    "truth": "to truth",
    "truth_edit": "inside the edit",
    "fd_attr": "FD-attr",
}
OF = {"retrieval": "10 neighbours among", "translation": "translation"}


def register(group: typer.Typer) -> None:
    """Give the command to the group `evaluate`."""
    group.command(
        short_help="A domain of few images, with mined ones in the store and without.",
        epilog="\b\nExamples:\n"
        "  rgunit evaluate scarce --seeds 0,1,2 --out scarce\n"
        "  rgunit -w celeba evaluate scarce --here --preset celeba-64 --generator-preset wgan-gp-64 \\\n"
        "    --wanted Eyeglasses --translation-minutes 25 --minutes 6 --out scarce-glasses",
    )(scarce)


def scarce(
    context: typer.Context,
    out: OutOption = None,
    here: HereOption = False,
    wanted: Annotated[str, typer.Option(metavar="NAME", help="Attribute whose images are few.")] = "Blond_Hair",
    images: Annotated[int, typer.Option(metavar="N", min=2, help="Training images with it that stay.")] = 40,
    mined: Annotated[int, typer.Option(metavar="N", help="Images that are put into the store (at least 11).")] = 400,
    seeds: SeedsOption = None,
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="Preset of translation, retrieval and guidance.")
    ] = "demo",
    generator_preset: Annotated[
        str, typer.Option(metavar="NAME", help="Preset of generator and miner, of the same size.")
    ] = "wgan-gp",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting over --preset's. May be repeated."),
    ] = None,
    attributes_used: AttributesOption = None,
    translation_minutes: Annotated[float, typer.Option(metavar="M", min=0.01, help="Minutes of stage 1.")] = 4.0,
    retrieval_minutes: Annotated[float, typer.Option(metavar="M", min=0.01, help="Minutes of stage 2.")] = 0.5,
    source_minutes: Annotated[
        float, typer.Option(metavar="M", min=0.01, help="Minutes of the generator of all other images.")
    ] = 10.0,
    miner_minutes: Annotated[float, typer.Option(metavar="M", min=0.01, help="Minutes of the miner.")] = 4.0,
    release: Annotated[
        int, typer.Option(metavar="N", min=0, help="Step of the miner from which its generator learns too; 0: never.")
    ] = 200,
    minutes: Annotated[
        float, typer.Option(metavar="M", min=0.01, help="Minutes of the first stage 3; the others take its steps.")
    ] = 1.5,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Steps of stage 1 instead.")] = None,
    generator_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Steps of generator and miner instead.")
    ] = None,
    guided_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Steps of every stage 3 instead.")
    ] = None,
    drawn_images: DrawnOption = 3000,
) -> None:
    """Do mined images help where a domain has few: to be found, and to guide?

    Of the training images with --wanted few stay. A generator of all others is mined for them (MineGAN), what it draws
    goes into the store. Retrieval and stage 3 then use real images, mined ones, or both. The judge is taught by half of
    the training people, who are in nothing else. What --out holds is not done again: the same command goes on.
    """
    from cli.progress import Bars
    from translation.evaluation.experiments.scarce import ScarcePlan, run_scarce

    settings: Settings = context.obj
    plan = ScarcePlan(
        out=out,
        workspace=settings.folder if here else None,
        wanted=wanted,
        images=images,
        mined=mined,
        seeds=seeds_of(seeds, settings.seed),
        preset=preset,
        generator_preset=generator_preset,
        settings=tuple(overrides or ()),
        attributes_used=listed_names(attributes_used),
        translation_minutes=translation_minutes,
        retrieval_minutes=retrieval_minutes,
        source_minutes=source_minutes,
        miner_minutes=miner_minutes,
        release=release,
        minutes=minutes,
        steps=steps,
        generator_steps=generator_steps,
        guided_steps=guided_steps,
        drawn_images=drawn_images,
        device=settings.device,
    )
    if out is None:
        cost = plan.cost()
        settings.show(cost, lambda console: _draw_cost(console, cost))
        return
    with Bars() as bars:
        found = run_scarce(plan, bars)
    settings.show(found, lambda console: _draw(console, plan.wanted, found))


def _draw_cost(console: Console, cost: dict[str, Any]) -> None:
    from cli.drawing import plain

    plain(console, f"{cost['trainings']} trainings, {cost['minutes']:.0f} minutes at most, without the evaluations.")
    plain(console, "Give --out DIR to do it.")


def _draw(console: Console, wanted: str, found: dict[str, Any]) -> None:
    from cli.drawing import count, difference, plain, table

    for one in found["seeds"]:
        drawn = f"{count(one['mined'], 'mined image')}, the judge reads {wanted} in {one['mined_read']:.2f} of them"
        plain(console, f"seed {one['seed']}: {drawn}")
    for kind, title in OF.items():
        rows = found["table"][kind]
        columns = {key: name for key, name in MEASURES.items() if any(key in row for row in rows.values())}
        shown = table(title, *columns.values(), right=tuple(columns.values()))
        for name, row in rows.items():
            shown.add_row(name, *(_told(row.get(key)) for key in columns))
        console.print(shown)
        for name, row in rows.items():
            gaps = [f"{MEASURES[key]} {difference(gap)}" for key, gap in row.get("against", {}).items()]
            if gaps and name not in ("stage 1", "copy"):
                plain(console, f"  {name} against real: {'; '.join(gaps)}")
    plain(console, f"results: {found['out']}", style="bold")


def _told(value: dict[str, float] | None) -> str:
    if value is None:
        return ""
    spread = f" ({value['low']:.3f} … {value['high']:.3f})" if value["low"] < value["high"] else ""
    return f"{value['mean']:.3f}{spread}"
