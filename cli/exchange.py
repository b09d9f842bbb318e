"""`rgunit index export` and `index import`: vectors for other programs, and vectors that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console


def register(group: typer.Typer) -> None:
    """Give the commands to the group `index`."""
    group.command(
        "export",
        short_help="Write vectors for other programs.",
        epilog="\b\nExamples:\n  rgunit -w faces index export vectors --format npy --encoder r2\n"
        "  rgunit -w faces index export faces.parquet --format parquet --encoder r2 --where '+Male split=train'",
    )(export)
    group.command(
        "import",
        short_help="Bring in vectors that were made elsewhere.",
        epilog="\b\nExamples:\n  rgunit -w clip index import clip.npy --keys names.txt --labels labels.csv\n"
        "  rgunit -w faces index import clip.npy --keys paths.txt --images --encoder clip",
    )(bring_in)


def export(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to make; for npy a folder. It must not exist.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="parquet|npy|faiss",
            help="npy: a folder with vectors.npy, ids.npy, labels.npy, rows.csv and about.json. parquet: one file with "
            "the same as columns (pip install 'rgunit[parquet]'). faiss: an IndexIDMap2 of IndexFlatL2, ids and "
            "vectors alone.",
        ),
    ],
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose vectors; `index info` lists them. Default: the only one.")
    ] = None,
    where: Annotated[str | None, typer.Option(metavar="FILTER", help="Rows that pass: '+A -B ?C split=test'.")] = None,
) -> None:
    """Write the vectors of an encoder with ids, keys, labels, split and origin, in the order of the ids.

    Rows go out in blocks: memory does not grow with the workspace.
    """
    from cli.progress import Bars
    from index_store.exporting import export_vectors

    settings: Settings = context.obj
    with settings.open() as workspace, Bars("export") as bars:
        done = export_vectors(workspace.store(), out, form=form, encoder=encoder, where=where, progress=bars.step)
    told = {"path": str(done.path), "format": form, "rows": done.rows, "encoder": done.encoder, "files": done.files}

    def draw(console: Console) -> None:
        from cli.drawing import count, plain

        files = "" if done.files == [done.path.name] else f" ({', '.join(done.files)})"
        plain(console, f"{count(done.rows, 'vector')} of encoder {done.encoder['name']} in {done.path}{files}")

    settings.show(told, draw)


def bring_in(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="vectors.npy [n, d], a .faiss index of plain vectors, a .parquet file with a column `vector`, or a "
            "folder that export wrote.",
        ),
    ],
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="What made them. Default: what the source says, else `imported`.")
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A key for each vector: a line each, or a .npy. Default: ENCODER/ROW."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Labels: a .npy int8 [n, A] of 1, 0, -1, or a CSV whose first column is the key."
        ),
    ] = None,
    attributes: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Names of the columns of labels in a .npy file.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of rows whose source tells none.")] = "",
    origin: Annotated[
        str, typer.Option(metavar="NAME", help="Origin of rows whose source tells none: real, unlabelled or generated.")
    ] = "real",
    images: Annotated[
        bool, typer.Option("--images", help="The keys are paths of pictures of the workspace, which get the vectors.")
    ] = False,
) -> None:
    """Bring in vectors from where they lie, a durable block at a time; run again, it goes on or changes nothing.

    A key that is there gets the vector if it has none of this encoder, and keeps its labels. The workspace is made if
    there is none. Vectors are searched from Python: IndexStore.open(DIR).search(queries, encoder=NAME).
    """
    from cli.progress import Bars
    from index_store.importing import import_vectors
    from index_store.names import listed_names
    from index_store.sources import open_source

    settings: Settings = context.obj
    open_source(source)  # refused before a workspace is made
    names = listed_names(attributes)
    with settings.made() as workspace, Bars("import") as bars:
        done = import_vectors(
            workspace.store(),
            source,
            encoder=encoder,
            keys=keys,
            labels=labels,
            attributes=names,
            split=split,
            origin=origin,
            images=images,
            progress=bars.step,
        )
    told: dict[str, Any] = {**vars(done)}

    def draw(console: Console) -> None:
        from cli.drawing import count, plain

        plain(
            console,
            f"{count(done.rows, 'vector')} of encoder {done.encoder['name']}: {count(done.added, 'row')} added, "
            f"{done.attached} given to rows that were there, {done.known} known already",
        )
        if done.unlabelled:
            plain(console, f"{count(done.unlabelled, 'row')} without a row in {labels}: labels unknown")

    settings.show(told, draw)
