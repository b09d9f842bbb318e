"""`rgunit translate`: images in another style."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.query import StyleOption, ToOption
from cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="Translate images into another style.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces translate me.jpg you.jpg --to '+Blond_Hair' --out blond\n"
        "  rgunit -w pacs translate photos --out sketches\n"
        "  rgunit -w pacs translate cat.png --source cartoon --to '+sketch'\n"
        "  rgunit -w faces translate me.jpg --to '-Young' --samples 5 --guidance 0.5",
    )(translate)


def translate(
    context: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE|FOLDER", exists=True, help="Images from anywhere, or folders of them."),
    ],
    to: ToOption = None,
    style_of: StyleOption = None,
    samples: Annotated[
        int, typer.Option(metavar="N", min=1, help="Translations of each image, with different draws of the style.")
    ] = 1,
    guidance: Annotated[
        float | None,
        typer.Option(
            metavar="0…1",
            min=0.0,
            max=1.0,
            help="Strength of the guidance: 0 none, 1 as in training. Default: 1 with a guided run, else 0.",
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            metavar="N",
            min=1,
            help="Number of neighbours. Default: as in training; other numbers need guidance by attention or patches.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="DOMAIN",
            help="The domain that the images are of, for a run with an encoder a domain (mix_match). Default: as the "
            "workspace knows them.",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Guided or translation run. Default: the newest guided run, else the newest translation."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            min=16,
            help="Scale the shorter side to so many pixels first (of a run without a style). Default: as it is.",
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Larger pictures pass in tiles (of a run without a style). Default: what half of the free memory "
            "takes.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Folder for the images. Default: WORKSPACE/translations."),
    ] = None,
) -> None:
    """Translate images. Each is written with its mask, and the answer names the neighbours that guided it.

    The style is drawn at random (by --seed), and IMAGE is cropped to its centre square and resized to the run's size.
    A run that learned one direction (cut) needs no --to and gives each image in its own size. Of a folder every image
    below it is translated; what is none is told and left out.
    """
    from cli.choices import check_composed
    from cli.progress import Bars
    from index_store.names import printable
    from translation.inputs import find_inputs

    settings: Settings = context.obj
    folder = out or settings.folder / "translations"
    rejected: list[dict[str, str]] = []
    with settings.open() as workspace:
        check_composed(workspace, to, style_of)
        inputs = find_inputs(images, folder)  # before anything slow is imported
        with Bars("translate") as bars:
            from translation.inference import translate_images

            outputs = translate_images(
                workspace,
                inputs,
                to=to,
                style_of=style_of,
                samples=samples,
                guidance=guidance,
                k=k,
                run=run,
                size=size,
                max_pixels=max_pixels,
                source=source,
                out=folder,
                seed=settings.seed,
                device=settings.device,
                reject=lambda path, reason: rejected.append(
                    {"path": printable(str(path.absolute())), "reason": reason}
                ),
                progress=bars,
            )
    told = " ".join(part for part in (to, f"in the style of {style_of}" if style_of else None) if part) or "its target"
    settings.show({"outputs": outputs, "rejected": rejected}, lambda console: _draw(console, outputs, rejected, told))


def _draw(console: Console, outputs: list[dict[str, Any]], rejected: list[dict[str, str]], told: str) -> None:
    from cli.drawing import plain, shortest

    for left in rejected:
        plain(console, f"left out: {left['reason']}", style="yellow")
    for one in outputs:
        plain(console, shortest(one["path"]), style="bold")
        plain(console, f"  {shortest(one['source'])} to {told}", style="dim")
        if one["neighbours"]:
            guides = ", ".join(shortest(near["path"]) for near in one["neighbours"])
            plain(console, f"  guided by {guides}", style="dim")
