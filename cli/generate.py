"""`rgunit generate`: images from noise, into the workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="Fill the workspace with images that a generator draws.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces generate r4 -n 1000\n"
        "  rgunit -w faces generate r6 -n 200 --domain '+Blond_Hair'\n"
        "  rgunit -w faces train guided --set guided.pool=both",
    )(generate)


def generate(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run of `train generator` or `train miner`.")],
    count: Annotated[int, typer.Option("-n", "--images", metavar="N", min=1, help="How many.")],
    domain: Annotated[
        str | None,
        typer.Option(
            metavar="EDIT",
            help="Labels that they are to have (+Blond_Hair -Male), of a conditional generator. Default: as in its "
            "training.",
        ),
    ] = None,
) -> None:
    """Draw images from noise and register them with origin `generated`, in the split train.

    Their labels are those of --domain and of the --target that the run learned from; others are unknown. They are
    embedded by the newest retrieval run; without one `vectors` is 0, and the next `rgunit index build` embeds them.
    What is drawn depends on --seed and on how many images the run has made before.
    """
    from cli.progress import Bars

    settings: Settings = context.obj
    with settings.open() as workspace:
        if domain is not None:
            workspace.schema.edit(domain)
        with Bars("generate") as bars:
            from translation.generator import generate_images

            made = generate_images(
                workspace, run, count, domain=domain, seed=settings.seed, device=settings.device, progress=bars
            )
        folder = workspace.path / "images" / "generated" / workspace.run(run).id
    payload = {"generated": len(made.ids), "vectors": made.vectors}
    settings.show(payload, lambda console: _draw(console, payload, str(folder)))


def _draw(console: Console, told: dict[str, int], folder: str) -> None:
    from cli.drawing import count, plain, shortest

    embedded = f"{told['vectors']} embedded" if told["vectors"] else "to be embedded by `rgunit index build`"
    plain(console, f"{count(told['generated'], 'image')} drawn, {embedded}")
    plain(console, f"  {shortest(folder)}", style="dim")
