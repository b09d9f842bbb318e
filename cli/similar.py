"""`rgunit similar`: the images that are like an image, in content and in style."""

from __future__ import annotations

import typer

from cli.found import (
    CsvOption,
    GridOption,
    ImagesArgument,
    KOption,
    LabelsOption,
    LabelsPolicy,
    OriginOption,
    RunOption,
    WeightOption,
    WhereOption,
    ask,
)


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="Find images like an image.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces similar me.jpg -k 20\n"
        "  rgunit -w faces similar me.jpg --content-weight 1 --grid found.png",
    )(similar)


def similar(
    context: typer.Context,
    images: ImagesArgument,
    content_weight: WeightOption = None,
    k: KOption = 10,
    where: WhereOption = None,
    origin: OriginOption = None,
    labels: LabelsOption = LabelsPolicy.prefer,
    run: RunOption = None,
    csv: CsvOption = None,
    grid: GridOption = None,
) -> None:
    """Find the nearest images in content and style to IMAGE, which is never among them; of several, to their mean.

    Distances are squared Euclidean ones in the embedding.
    """
    ask(
        context.obj,
        images,
        content_weight=content_weight,
        k=k,
        where=where,
        origin=origin or (),
        labels=labels.value,
        run=run,
        csv=csv,
        grid=grid,
    )
