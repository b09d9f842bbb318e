"""`rgunit split`: draw or change the splits of images that are there already."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.settings import Settings
from index_store.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from index_store.splits import SplitReport


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="Draw or change splits.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces split\n"
        "  rgunit -w faces split --test 0.2 --by identity\n"
        "  rgunit -w faces split --test 0.1 --val 0.1 --seed 3\n"
        "  rgunit -w faces split --to test --where 'id=17|18'",
    )(split)


def split(
    context: typer.Context,
    test: Annotated[
        float | None, typer.Option(metavar="SHARE", min=0, max=1, help="Draw this share into split test: 0.2.")
    ] = None,
    val: Annotated[
        float | None, typer.Option(metavar="SHARE", min=0, max=1, help="Draw this share into split val.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Text column, such as identity: images of one value stay together."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="NAME", help="Put the images of --where into this split instead of drawing.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="FILTER", help="Only images that pass: '+A -B ?C split=train id=17|18'.")
    ] = None,
) -> None:
    """Draw labelled images into test and val, the others into train; or put some into a split. Else show the splits.

    A hash decides, by --seed: the same draw again changes nothing. With seed 0, 0.2 is the draw that `add` makes.
    Translations go with the image that they were made of. Runs remember what they learned from: those images are never
    judged, so train again after a new draw.
    """
    from index_store import splits

    settings: Settings = context.obj
    if to is not None and (test is not None or val is not None or by is not None):
        raise UsageError("--to puts images into a split, --test, --val and --by draw: give the one or the others")
    if to is None and test is None and val is None and (by is not None or where is not None):
        raise UsageError("say how much to draw (--test 0.2), or which split to put them into (--to test)")
    with settings.open() as workspace:
        if to is not None:
            report = splits.set_split(workspace, to, where or "")
        elif test is not None or val is not None:
            report = splits.draw_splits(workspace, test=test, val=val, by=by, where=where, seed=settings.seed)
        else:
            report = splits.told(workspace)
    asked = to is not None or test is not None or val is not None
    settings.show(asdict(report), lambda console: _draw(console, report, asked))


def _draw(console: Console, report: SplitReport, asked: bool) -> None:
    from cli.drawing import count, plain, table

    if asked:
        plain(console, f"{count(report.changed, 'image')} changed")
    shown = table("split", "labelled images", right=["labelled images"])
    for name, number in report.by_split.items():
        shown.add_row(name, str(number))
    console.print(shown)
    if report.learned:
        plain(
            console,
            f"{count(report.learned, 'image')} of split test were learned from by a run of this workspace, and are not "
            "judged: train again",
            style="yellow",
        )
    if not report.by_split.get("test"):
        plain(console, "there is no test image: `rgunit split --test 0.2` draws some", style="yellow")
