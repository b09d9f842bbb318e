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
    run: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Guided or translation run. Default: the newest guided run, else the newest translation."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Folder for the images. Default: WORKSPACE/translations."),
    ] = None,
) -> None:
    """Translate images. Each is written with its mask, and the answer names the neighbours that guided it.

    The style is drawn at random (by --seed); a run that learned one direction (cut) needs no --to. IMAGE is cropped to
    its centre square and resized to the run's size.
    """
    from cli.choices import check_composed
    from cli.progress import Bars

    settings: Settings = context.obj
    folder = out or settings.folder / "translations"
    with settings.open() as workspace:
        check_composed(workspace, [image for image in images if not image.is_dir()], to, style_of)
        with Bars("translate"):
            from translation.inference import find_pictures, translate_images

            rejected = find_pictures(images, folder)[1]
            outputs = translate_images(
                workspace,
                images,
                to=to,
                style_of=style_of,
                samples=samples,
                guidance=guidance,
                k=k,
                run=run,
                out=folder,
                seed=settings.seed,
                device=settings.device,
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
