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
        "  rgunit -w faces translate --where 'split=test -Blond_Hair' --to '+Blond_Hair' --sheet all.png\n"
        "  rgunit -w faces translate group.jpg --box 120,40,256,256 --to '+Blond_Hair'\n"
        "  rgunit -w pacs translate cat.png --source cartoon --to '+sketch'\n"
        "  rgunit -w faces translate me.jpg --to '-Young' --samples 5 --guidance 0.5",
    )(translate)


def translate(
    context: typer.Context,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE|FOLDER", exists=True, help="Images from anywhere, or folders of them."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="FILTER", help="Also images of the workspace that pass: '+A -B ?C split=test id=17|18'."),
    ] = None,
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
    box: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="Square to translate, in pixels (of a run of squares). Default: middle."),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Translate all of an image that is no square, scaled down into one.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Folder for the images. Default: WORKSPACE/translations."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", dir_okay=False, help="Also draw sources, samples and neighbours as a picture."),
    ] = None,
) -> None:
    """Translate images. Each is written with its mask, and listed in translations.csv with what guided it.

    The same command again goes on where it was stopped. The style is drawn at random (by --seed). A run of squares
    translates the middle square of IMAGE, or --box, and lays it over the image at its size; what was cut away stays as
    it is. A run that learned one direction (cut) needs no --to and gives each image whole. Of a folder every image
    below it is translated; what is none is told and left out.
    """
    from cli.choices import check_composed, check_folder
    from cli.progress import Bars
    from index_store.errors import UsageError
    from index_store.names import printable
    from translation.framing import Framing, parse_box
    from translation.inputs import find_inputs, workspace_inputs
    from translation.records import FILE
    from translation.runs import default_run
    from translation.sheets import check_sheet, write_sheet

    settings: Settings = context.obj
    folder = out or settings.folder / "translations"
    rejected: list[dict[str, str]] = []
    check_folder("--out", folder)
    told = " ".join(part for part in (to, f"in the style of {style_of}" if style_of else None) if part) or "its target"
    if not images and where is None:
        raise UsageError("say what to translate: IMAGE or FOLDER, or --where FILTER for images of the workspace")
    framing = Framing(None if box is None else parse_box(box), fit)
    if sheet is not None:
        check_sheet(sheet)
    with settings.open() as workspace:
        check_composed(workspace, to, style_of)
        _ = default_run(workspace) if run is None else workspace.run(run)  # told before anything slow is imported
        inputs = find_inputs(images or [], folder)  # before anything slow is imported
        inputs += workspace_inputs(workspace, where) if where is not None else []
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
                framing=framing,
                source=source,
                out=folder,
                seed=settings.seed,
                device=settings.device,
                reject=lambda path, reason: rejected.append(
                    {"path": printable(str(path.absolute())), "reason": reason}
                ),
                progress=bars,
            )
            drawn = write_sheet(sheet, outputs, told) if sheet is not None else 0
    payload: dict[str, Any] = {"outputs": outputs, "rejected": rejected, "list": str((folder / FILE).absolute())}
    if sheet is not None:
        payload |= {"sheet": str(sheet.absolute()), "drawn": drawn}
    settings.show(payload, lambda console: _draw(console, payload, told))


def _draw(console: Console, told: dict[str, Any], target: str) -> None:
    from cli.drawing import count, plain, shortest

    for left in told["rejected"]:
        plain(console, f"left out: {left['reason']}", style="yellow")
    for one in told["outputs"]:
        plain(console, f"{shortest(one['path'])}{' (there already)' if one['kept'] else ''}", style="bold")
        plain(console, f"  {shortest(one['source'])} to {target}", style="dim")
        if one["box"]:
            left, top, width, height = one["box"]
            plain(console, f"  its square {left},{top},{width},{height}; the rest is as it was", style="dim")
        if one["neighbours"]:
            guides = ", ".join(shortest(near["path"]) for near in one["neighbours"])
            plain(console, f"  guided by {guides}", style="dim")
    parts = len({one["source"] for one in told["outputs"] if one["box"] is not None})
    if parts:
        plain(
            console,
            f"of {count(parts, 'picture')} a square was translated: --box X,Y,W,H chooses another, --fit takes all",
            style="yellow",
        )
    plain(console, f"list: {shortest(told['list'])}")
    if "sheet" in told:
        sources = len({one["source"] for one in told["outputs"]})
        some = f" (the first {told['drawn']} of {sources} sources)" if told["drawn"] < sources else ""
        plain(console, f"sheet: {shortest(told['sheet'])}{some}")
