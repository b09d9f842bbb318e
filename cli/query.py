"""`rgunit query`: the images that share one image's content in another style."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.found import (
    IMAGES_HELP,
    CsvOption,
    GridOption,
    KOption,
    LabelsOption,
    LabelsPolicy,
    OriginOption,
    RunOption,
    WeightOption,
    WhereOption,
    ask,
)
from index_store.errors import UsageError

QueriesArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="IMAGE|FOLDER", exists=True, help=f"{IMAGES_HELP} None: --text alone.")
]
TextOption = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS",
        help="What is to be seen, in words: alone, or beside a picture, where both decide alike. Needs a text model "
        "(`rgunit index build --text-model FOLDER`).",
    ),
]
ToOption = Annotated[
    str | None,
    typer.Option(
        metavar="EDIT",
        help="Attributes to set and clear: '+Blond_Hair -Male' or 'Blond_Hair=1,Male=0'. Other attributes stay as they "
        "are. Setting one of a group clears the others.",
    ),
]
StyleOption = Annotated[
    Path | None,
    typer.Option(
        metavar="IMAGE", exists=True, dir_okay=False, help="Take the style of this image; --to then edits it."
    ),
]


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="Find images: this content, another style.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces query me.jpg --to '+Blond_Hair'\n"
        "  rgunit -w faces query me.jpg --style-of you.jpg -k 20 --grid found.png --csv found.csv\n"
        "  rgunit -w faces query me.jpg me_too.jpg --to '-Male' --content-weight 0.7\n"
        "  rgunit -w faces query --text 'a laughing woman with a hat'\n"
        "  rgunit -w faces query me.jpg --to '+Hat' --text 'a straw hat'\n"
        "  rgunit -w faces query me.jpg --to '-Male' --where 'split=test +Smiling' --origin unlabelled",
    )(query)


def query(
    context: typer.Context,
    images: QueriesArgument = None,
    to: ToOption = None,
    style_of: StyleOption = None,
    text: TextOption = None,
    content_weight: WeightOption = None,
    k: KOption = 10,
    where: WhereOption = None,
    origin: OriginOption = None,
    labels: LabelsOption = LabelsPolicy.prefer,
    run: RunOption = None,
    csv: CsvOption = None,
    grid: GridOption = None,
) -> None:
    """Find the nearest neighbours of a composed query: the content of IMAGE in another style; or of words, or of both.

    IMAGE itself is never among them, nor what was made from it. Distances are squared Euclidean ones in the embedding;
    of words alone 2 − 2 · cosine; of both the mean of the two, each divided by its spread over the collection.
    """
    if images and to is None and style_of is None and text is None:
        raise UsageError(
            "say what to change: --to '+Blond_Hair -Male', or --style-of IMAGE, or both, or what is to be seen: --text "
            "WORDS (`rgunit similar` finds images like an image)"
        )
    ask(
        context.obj,
        images or (),
        to=to,
        style_of=style_of,
        text=text,
        content_weight=content_weight,
        k=k,
        where=where,
        origin=origin or (),
        labels=labels.value,
        run=run,
        csv=csv,
        grid=grid,
    )
