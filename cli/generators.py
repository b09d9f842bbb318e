"""`rgunit evaluate generator` and `rgunit evaluate transfer`: how good images from noise are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.choices import DrawnOption, HereOption, OutOption, SeedsOption, seeds_of
from cli.settings import Settings
from index_store.errors import UsageError
from index_store.names import listed_names

if TYPE_CHECKING:
    from rich.console import Console

MEASURES = {
    "fd_attr": "FD-attr",
    "kmmd": "KMMD",
    "diversity": "diversity",
    "nearest": "nearest",
    "copies": "copies",
}


def register(group: typer.Typer) -> None:
    """Give the commands to the group `evaluate`."""
    group.command(
        short_help="Images from noise against real ones: distance, diversity, copies.",
        epilog="\b\nExamples:\n  rgunit -w faces evaluate generator\n"
        "  rgunit -w faces evaluate generator --run r6 --target +Male -n 2000",
    )(generator)
    group.command(
        short_help="Few images: from scratch, transferred, mined, fine-tuned.",
        epilog="\b\nRows: scratch, transfer, miner, miner and fine-tuning.\n\n"
        "\b\nExamples:\n"
        "  rgunit evaluate transfer --seeds 0,1,2 --out few\n"
        "  rgunit evaluate transfer --source +Black_Hair --source +Blond_Hair --target '+Black_Hair +Glasses' "
        "--target '+Blond_Hair +Glasses' --mix 0.3,0.7 --out mixed\n"
        "  rgunit -w celeba evaluate transfer --here --preset wgan-gp-64 --source +Male --target -Male --out women",
    )(transfer)


def generator(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="Run of a generator or a miner. Default: the newest.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--images", metavar="N", min=40, help="Images that it draws.")] = 1000,
    target: Annotated[
        str | None,
        typer.Option(metavar="FILTER", help="Real images to compare with. Default: the --target that it learned from."),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of the real images.")] = "test",
) -> None:
    """Measure what a generator draws, without pairs, in the features of the workspace's attribute classifier.

    FD-attr and KMMD (kernel maximum mean discrepancy): distances to real test images. diversity: that of pairs of
    images, as a share of real ones'. nearest: mean distance to the nearest of the images that it learned from. copies:
    the share that is nearer to one of them than 99 in 100 test images.
    """
    from cli.progress import Bars

    settings: Settings = context.obj
    with settings.open() as workspace:
        if target is not None:
            workspace.schema.filter(target)
        with Bars() as bars:
            from translation.evaluation.generator import evaluate_generator

            found = evaluate_generator(
                workspace,
                run=run,
                count=count,
                target=target,
                split=split,
                seed=settings.seed,
                device=settings.device,
                progress=bars,
            )
    settings.show(found, lambda console: _draw(console, found))


def _draw(console: Console, found: dict[str, Any]) -> None:
    from cli.drawing import plain, table

    shown = table(found["run"], *MEASURES.values(), "images", right=[*MEASURES.values(), "images"])
    for name, row in ((found["stage"], found), ("images learned from", found["floor"])):
        shown.add_row(name, *(f"{row[key]:.3f}" for key in MEASURES), str(row.get("learned_from", row["n"])))
    console.print(shown)
    plain(console, f"FD-attr of an untrained one: {found['untrained']['fd_attr']:.3f}", style="dim")
    low, high = found["intervals"]["fd_attr"]
    plain(console, f"FD-attr with its 95 % interval: {found['fd_attr']:.3f} ({low:.3f} … {high:.3f})", style="dim")
    if found["selector"] is not None:
        plain(console, f"drawn from each generator: {', '.join(f'{p:.2f}' for p in found['selector'])}")


def transfer(
    context: typer.Context,
    out: OutOption = None,
    here: HereOption = False,
    rows: Annotated[str | None, typer.Option(metavar="A,B", help="Only these rows. Default: all four.")] = None,
    seeds: SeedsOption = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="FILTER", help="Images of a source; may be repeated. Default: -Blond_Hair."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="FILTER", help="Images of the target; may be repeated. Default: +Blond_Hair."),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(metavar="P,P", help="Share of each --target among the images of the target. Default: all alike."),
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="Images of the target.")] = 100,
    source_minutes: Annotated[float, typer.Option(metavar="M", min=0.01, help="Minutes of each source.")] = 15.0,
    minutes: Annotated[float, typer.Option(metavar="M", min=0.01, help="Minutes of each row.")] = 4.0,
    source_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Steps of each source instead of minutes.")
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Steps of each row instead of minutes.")] = None,
    rate: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0.0,
            help="Share of the learning rate for networks that were trained before: the thesis' value.",
        ),
    ] = 0.1,
    count: Annotated[int, typer.Option("-n", metavar="N", min=40, help="Images that each row is judged by.")] = 1000,
    preset: Annotated[str, typer.Option(metavar="NAME", help="Preset of all trainings.")] = "wgan-gp",
    drawn_images: DrawnOption = 3000,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting over the preset's. May be repeated."),
    ] = None,
) -> None:
    """Train generators of a domain of few images in four ways from the same sources, and judge them alike.

    Every result is a file in --out: what is there is not done again, so the same command goes on where it was stopped.
    """
    from cli.progress import Bars
    from translation.evaluation.experiments.transfer import TransferPlan, run_transfer

    settings: Settings = context.obj
    targets = tuple(target or ("+Blond_Hair",))
    given: dict[str, Any] = {"rows": listed_names(rows)} if rows is not None else {}
    plan = TransferPlan(
        out=out,
        workspace=settings.folder if here else None,
        seeds=seeds_of(seeds, settings.seed),
        sources=tuple(source or ("-Blond_Hair",)),
        targets=targets,
        mix=(1 / len(targets),) * len(targets) if mix is None else _numbers("--mix", mix),
        images=images,
        source_minutes=source_minutes,
        minutes=minutes,
        source_steps=source_steps,
        steps=steps,
        rate=rate,
        count=count,
        preset=preset,
        drawn_images=drawn_images,
        settings=tuple(overrides or ()),
        device=settings.device,
        **given,
    )
    plan.config()
    if out is None:
        cost = plan.cost()
        settings.show(cost, lambda console: _draw_cost(console, cost))
        return
    with Bars() as bars:
        found = run_transfer(plan, bars)
    settings.show(found, lambda console: _draw_rows(console, found))


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in listed_names(text))
    except ValueError:
        raise UsageError(f"{option} takes numbers separated by commas, not {text!r}") from None


def _draw_cost(console: Console, cost: dict[str, Any]) -> None:
    from cli.drawing import plain

    plain(
        console,
        f"{cost['seeds']} seeds of {cost['sources']} sources and {cost['rows']} rows: {cost['minutes'] / 60:.1f} hours "
        "at most, without the evaluations and what is given in steps",
    )
    plain(console, "Give --out DIR to do it.")


def _draw_rows(console: Console, found: dict[str, Any]) -> None:
    from cli.drawing import plain, table
    from translation.evaluation.experiments.transfer import alike

    for one in found["seeds"]:
        for name, judged in one["sources"].items():
            learned = "learned" if judged["learned"] else "did not learn: rows that start from it do not count"
            told = f"{judged['fd_attr']:.1f} of {judged['untrained']['fd_attr']:.1f} untrained"
            plain(console, f"seed {one['seed']}, source {name}: FD-attr {told}, {learned}")
    shown = table("row", *MEASURES.values(), "selector", right=MEASURES.values())
    for name, row in found["over_seeds"].items():
        cells = [f"{row[key]['mean']:.3f} ({row[key]['low']:.3f} … {row[key]['high']:.3f})" for key in MEASURES]
        shares = " : ".join(f"{share['mean']:.2f}" for share in row.get("selector", ()))
        shown.add_row(name if row["counts"] else f"({name})", *cells, shares)
    console.print(shown)
    plain(console, "means over the seeds, lowest and highest in brackets", style="dim")
    if pairs := alike(found["over_seeds"]):
        plain(console, "not told apart by FD-attr (95 %): " + "; ".join(f"{a} and {b}" for a, b in pairs))
    plain(console, f"results: {found['out']}", style="bold")
