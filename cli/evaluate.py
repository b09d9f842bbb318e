"""`rgunit evaluate`: how good retrieval and translation are, in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

group = typer.Typer(rich_markup_mode=None, help="Measure retrieval and translation.")

SplitOption = Annotated[str, typer.Option(metavar="NAME", help="Split that is judged.")]


def register(app: typer.Typer) -> None:
    """Give the command group to the app."""
    app.add_typer(group, name="evaluate")


@group.command(short_help="P@10 against random retrieval.", epilog="\b\nExample:\n  rgunit -w faces evaluate retrieval")
def retrieval(
    context: typer.Context,
    split: SplitOption = "test",
    run: Annotated[str | None, typer.Option(metavar="ID", help="Retrieval run. Default: the newest.")] = None,
) -> None:
    """P@10 as the paper: one query an image of the split, among the images of that split, against random ones.

    attributes: the share of neighbours with the labels asked for; content: with the query's own other labels.
    """
    from cli.progress import Bars

    settings: Settings = context.obj
    with settings.open() as workspace:
        with Bars("evaluation"):
            from translation.arms import evaluate_retrieval_run

            found = evaluate_retrieval_run(
                workspace, split=split, run=run, seed=settings.seed, device=settings.device
            ).summary
        settings.show(found, lambda console: _draw_retrieval(console, found))


@group.command(
    short_help="The arms side by side.",
    epilog="\b\nExamples:\n"
    "  rgunit -w faces evaluate translation --out compared\n"
    "  rgunit -w faces evaluate translation --judge mobilefacenet.onnx --judge-crop 25.84,24.69,76.48,89.23@128",
)
def translation(
    context: typer.Context,
    split: SplitOption = "test",
    run: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A run whose arms are compared. Default: those of the newest guided run."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Keep every image there, with a manifest.jsonl."),
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.onnx",
            exists=True,
            dir_okay=False,
            help="A network that no training here ever saw, image to features: adds fd_judge and identity.",
        ),
    ] = None,
    judge_crop: Annotated[
        str | None,
        typer.Option(metavar="L,T,W,H@SIDE", help="Box that the judge sees, in pixels of an image of that side."),
    ] = None,
) -> None:
    """Compare the arms on the same pairs: unguided, random neighbours, guided, and two controls, copy and neighbour.

    Test people are split in halves A and B; images of A are translated to label vectors of B with at least one bit
    changed, and Fréchet distances are to B, so that copying does not win.
    """
    from cli.progress import Bars
    from index_store.errors import UsageError

    settings: Settings = context.obj
    if judge_crop is not None and judge is None:
        raise UsageError("--judge-crop needs --judge FILE.onnx")
    with settings.open() as workspace:
        with Bars() as bars:
            bars.stage("evaluate")
            from translation.arms import evaluate_translation_runs

            found = evaluate_translation_runs(
                workspace,
                split=split,
                run=run,
                out=out,
                judge=judge,
                judge_crop=judge_crop,
                seed=settings.seed,
                device=settings.device,
                progress=bars,
            ).summary
        settings.show(found, lambda console: _draw_translation(console, found, out))


def _draw_retrieval(console: Console, found: dict[str, Any]) -> None:
    from cli.drawing import plain, table
    from translation.report.verdicts import terminal_table

    console.print(terminal_table(found, None))
    shown = table("attribute", "here", "random", right=["here", "random"])
    for name, value in found["per_attribute"].items():
        shown.add_row(name, _number(value), _number(found["random"]["per_attribute"].get(name)))
    console.print()
    console.print(shown)
    plain(console, f"{found['queries']} queries", style="dim")


def _draw_translation(console: Console, found: dict[str, Any], out: Path | None) -> None:
    from cli.drawing import plain
    from translation.report.verdicts import terminal_table, verdicts

    console.print(terminal_table(None, found))
    console.print()
    for verdict in verdicts(found, None):
        if " against " in verdict.subject:
            plain(console, verdict.text)
    if out is not None:
        plain(console, f"images: {out.absolute()}", style="bold")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
