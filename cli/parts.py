"""`rgunit evaluate parts`: what each part of a method brings, by the papers' own ablations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.choices import JudgeCropOption, JudgeOption, SeedsOption, check_judge, seeds_of
from cli.settings import Settings
from index_store.names import listed_names

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = {
    "steps": ("steps", "{:.0f}"),
    "images": ("images made", "{:.0f}"),
    "seconds": ("seconds", "{:.0f}"),
    "accuracy_changed": ("changed", "{:.3f}"),
    "accuracy_kept": ("kept", "{:.3f}"),
    "fd_attr": ("FD-attr", "{:.1f}"),
    "truth": ("to truth", "{:.3f}"),
    "reverse": ("reverse", "{:.3f}"),
    "diversity": ("diversity", "{:.3f}"),
    "identity": ("identity", "{:.3f}"),
}


def register(group: typer.Typer) -> None:
    """Give the command to the group `evaluate`."""
    group.command(
        short_help="What does each part of a method bring? The papers' ablations.",
        epilog="\b\nTables:\n"
        "  init     INIT's Table 3: importance weights (also from the store), 2 and 3 hops, both\n"
        "  weights  the same in short, by any preset: neither, both with 2 hops, weights from the store\n"
        "  sdit     SDIT's Table 6.1: no conditional norms, no attention, no latent term; guided by retrieval\n\n"
        "\b\nExamples:\n"
        "  rgunit evaluate parts init --seeds 0,1,2 --minutes 4 --out init\n"
        "  rgunit -w celeba evaluate parts weights --preset celeba-64 --seeds 0,1,2 --minutes 25 --out weights\n"
        "  rgunit evaluate parts sdit --seeds 0,1,2 --minutes 4 --out sdit",
    )(parts)


def parts(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="init, weights or sdit.")],
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Folder of the results.")],
    rows: Annotated[
        str | None, typer.Option(metavar="'A; B'", help="Only these rows, separated by semicolons. Default: all.")
    ] = None,
    seeds: SeedsOption = None,
    minutes: Annotated[
        float,
        typer.Option(
            metavar="M", min=0.01, help="Minutes of the slowest row; the others make as many generator images."
        ),
    ] = 4.0,
    preset: Annotated[str, typer.Option(metavar="NAME", help="Default: the table's own.")] = "",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting over the preset's. May be repeated."),
    ] = None,
    attributes_used: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Attributes that are the style. Default: the preset's.")
    ] = None,
    embedding: Annotated[
        str,
        typer.Option(metavar="RUN", help="What weights compare by: an indexed retrieval run. Default: one is trained."),
    ] = "",
    embedding_minutes: Annotated[
        float,
        typer.Option(metavar="M", min=0.01, help="Minutes of the translation that it is trained on; itself a third."),
    ] = 3.0,
    drawn_images: Annotated[
        int, typer.Option(metavar="N", min=60, help="Faces to draw where no workspace is chosen by -w.")
    ] = 1500,
    judge: JudgeOption = None,
    judge_crop: JudgeCropOption = None,
) -> None:
    """Train the rows of a table with the same number of generator images each and judge them on the same pairs.

    On drawn faces, or on the workspace that -w names. What is done stands in --out and is not done again: the same
    command goes on where it was stopped.
    """
    from cli.progress import Bars
    from translation.evaluation.experiments.parts import Ablation, run_ablation

    settings: Settings = context.obj
    check_judge(judge, judge_crop)
    plan = Ablation(
        table=table,
        out=out,
        workspace=settings.workspace,
        rows=tuple(name.strip() for name in (rows or "").split(";") if name.strip()),
        seeds=seeds_of(seeds, settings.seed),
        minutes=minutes,
        preset=preset,
        settings=tuple(overrides or ()),
        attributes_used=listed_names(attributes_used),
        embedding=embedding,
        embedding_minutes=embedding_minutes,
        drawn_images=drawn_images,
        judge=judge,
        judge_crop=judge_crop,
        device=settings.device,
    )
    with Bars() as bars:
        found = run_ablation(plan, bars)
    settings.show(found, lambda console: _draw(console, found))


def _draw(console: Console, found: dict[str, Any]) -> None:
    from cli.drawing import count, difference, plain, table

    shown = {m: told for m, told in SHOWN.items() if any(row.get(m) for row in found["rows"].values())}
    columns = [name for name, _ in shown.values()]
    drawn = table("row", *columns, right=columns, title=f"{found['table']}, {count(len(found['seeds']), 'seed')}")
    for name, row in found["rows"].items():
        drawn.add_row(name, *(_cell(row.get(m), form) for m, (_, form) in shown.items()))
    console.print(drawn)
    first = next(iter(found["rows"]))
    for name, row in found["rows"].items():
        told = [f"{SHOWN[m][0]} {difference(gap)}" for m, gap in row.get("against", {}).items() if m in SHOWN]
        if told:
            plain(console, f"{name} less {first}: {'; '.join(told)}")
    plain(console, f"results: {found['out']}", style="bold")


def _cell(value: dict[str, float] | None, form: str) -> str:
    if value is None:
        return "–"
    spread = f" ± {form.format(value['deviation'])}" if value["deviation"] else ""
    return form.format(value["mean"]) + spread
