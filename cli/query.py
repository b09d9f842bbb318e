"""`rgunit query`: the images that share one image's content in another style."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings
from index_store.errors import RgunitError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

ToOption = Annotated[
    str | None,
    typer.Option(
        metavar="EDIT",
        help="Attributes to set and clear: '+Blond_Hair -Male' or 'Blond_Hair=1,Male=0'. What is not named stays as it "
        "is. Setting one of a group clears the others.",
    ),
]
StyleOption = Annotated[
    Path | None,
    typer.Option(
        metavar="IMAGE", exists=True, dir_okay=False, help="Take the style of this image; --to then changes its bits."
    ),
]


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="Find images: this content, another style.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces query me.jpg --to '+Blond_Hair'\n"
        "  rgunit -w faces query me.jpg --style-of you.jpg -k 20 --grid found.png\n"
        "  rgunit -w faces query me.jpg --to '-Male' --where 'split=test +Smiling'",
    )(query)


def query(
    context: typer.Context,
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE", exists=True, dir_okay=False, help="The image whose content is sought, from anywhere."
        ),
    ],
    to: ToOption = None,
    style_of: StyleOption = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="How many neighbours.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            help="Only images that pass: '+A -B ?C split=test origin=generated'. Generated images are found only where "
            "the filter names their origin.",
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="ID", help="Retrieval run to use. Default: the newest.")] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="OUT.png", dir_okay=False, help="Also draw the query and what it found.")
    ] = None,
) -> None:
    """Find the nearest neighbours of a composed query: the content of IMAGE in another style.

    IMAGE itself is never among them. Distances are squared Euclidean ones in the embedding.
    """
    from cli.choices import check_composed, edited_names

    settings: Settings = context.obj
    with settings.open() as workspace:
        check_composed(workspace, [image], to, style_of, where)
        edited = edited_names(workspace, to)
        from translation.inference import query_image

        found = query_image(
            workspace,
            image,
            to=to,
            style_of=style_of,
            k=k,
            where=where,
            run=run,
            device=settings.device,
            grid=grid,
        )
    if not found["neighbours"]:
        raise RgunitError(f"no image passes the filter {where!r}: widen it" if where else "there is nothing to find")
    if len(found["neighbours"]) < k:
        typer.echo(f"only {len(found['neighbours'])} images can be found, fewer than -k {k}", err=True)
    settings.show(found, lambda console: _draw(console, found, edited, grid))


def _draw(console: Console, found: dict[str, Any], edited: list[str], grid: Path | None) -> None:
    """A row a neighbour: which edited labels are as sought, how many of all, and where the image is."""
    from cli.drawing import plain, shortest, table

    target: dict[str, int] = {name: bit for name, bit in found["target"].items() if bit is not None}
    plain(console, "sought: " + " ".join(f"{'+' if bit else '-'}{name}" for name, bit in target.items()), style="bold")
    shown = table("", "distance", *edited, "labels", "origin", "image", right=["", "distance", "labels"])
    for one in found["neighbours"]:
        known = [one["attributes"][name] == bit for name, bit in target.items() if one["attributes"][name] is not None]
        shown.add_row(
            str(one["rank"]),
            f"{one['distance']:.3f}",
            *(_mark(one["attributes"].get(name), target.get(name)) for name in edited),
            f"{sum(known)}/{len(known)}" if known else "?",
            one["origin"],
            shortest(one["path"]),
        )
    console.print(shown)
    plain(console, f"{found['milliseconds']:.0f} ms, {found['plan']}", style="dim")
    if grid is not None:
        plain(console, f"drawn: {grid.absolute()}")


def _mark(bit: int | None, wanted: int | None) -> Text:
    """✓ where a label is as sought, ✗ where it is not, ? where it is unknown."""
    from rich.text import Text

    if bit is None or wanted is None:
        return Text("?", style="dim")
    return Text("✓", style="green") if bit == wanted else Text("✗", style="red")
