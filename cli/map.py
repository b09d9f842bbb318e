"""`rgunit map`: the collection as a picture, like images together."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.found import RunOption, WhereOption
from cli.settings import Settings
from index_store.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


class MapMethod(StrEnum):
    """How vectors become places."""

    tsne = "tsne"
    pca = "pca"


class MapBy(StrEnum):
    """What brings two images together."""

    both = "both"
    content = "content"
    style = "style"


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        name="map",
        short_help="Draw the collection as a map.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces map --out map.html\n"
        "  rgunit -w faces map --out map.png --color Blond_Hair --by style --where split=test",
    )(draw_map)


def draw_map(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option(metavar="OUT.html|OUT.png", dir_okay=False, help="An interactive page in one file, or a picture."),
    ],
    color: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Attribute, origin or split to colour by. A page lets you choose; a PNG without it shows the images.",
        ),
    ] = None,
    by: Annotated[MapBy, typer.Option(help="What makes images similar.")] = MapBy.both,
    method: Annotated[
        MapMethod, typer.Option(help="tsne keeps neighbours together; pca is faster and keeps large distances.")
    ] = MapMethod.tsne,
    images: Annotated[
        int, typer.Option(metavar="N", min=10, max=20000, help="Images on the map at most, drawn by --seed.")
    ] = 4000,
    where: WhereOption = None,
    run: RunOption = None,
) -> None:
    """Draw the indexed images as a map, similar ones close together."""
    from cli.choices import check_file
    from cli.progress import Bars
    from index_store.attributes import ORIGINS
    from retrieval.runs import find_run

    settings: Settings = context.obj
    kind = out.suffix.lower()
    if kind not in (".html", ".png"):
        raise UsageError(f"--out {out}: end its name in .html for a page or .png for a picture")
    check_file("--out", out)
    with settings.open() as workspace:
        workspace.check_filter(where)
        find_run(workspace, run)
        if color is not None and color not in ("origin", "split"):
            workspace.schema.index(color)
        with Bars("map") as bars:
            from retrieval.map import make_map, thumbnails
            from retrieval.mapdraw import draw_html, draw_png
            from retrieval.retriever import Retriever

            retriever = Retriever.open(workspace, run, device="cpu")
            found = make_map(
                workspace, retriever, by=by.value, method=method.value, images=images, where=where, seed=settings.seed
            )
            side = 48 if kind == ".html" else 28
            pictured = kind == ".html" or color is None
            thumbs = thumbnails(found.table, side, bars.step) if pictured else None
        count = len(found.table)
        shown = f"{count} images" if count == found.of else f"{count} of {found.of} images"
        title = f"{shown} by {'content and style' if by is MapBy.both else by.value}"
        if kind == ".png":
            draw_png(out, found, color=color, thumbs=thumbs, title=title)
        else:
            assert thumbs is not None
            draw_html(out, found, thumbs, color=color, title=title)
    origins = {name: int((found.table.origin == name).sum()) for name in ORIGINS}
    payload: dict[str, Any] = {
        "out": str(out.absolute()),
        "images": count,
        "of": found.of,
        "by": by.value,
        "method": method.value,
        "by_origin": {name: many for name, many in origins.items() if many},
    }
    settings.show(payload, lambda console: _draw(console, payload))


def _draw(console: Console, told: dict[str, Any]) -> None:
    from cli.drawing import plain

    plain(console, f"drawn: {told['out']} ({told['images']} of {told['of']} images, {told['by']}, {told['method']})")
