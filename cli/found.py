"""What `query` and `similar` share: their options, and how an answer is shown: a table, a CSV, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.settings import Settings
from index_store.errors import RgunitError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from retrieval.pictures import Results
    from retrieval.retriever import Retriever

SHOWN = 6  # wanted labels up to which each has a column of its own

ImagesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE…",
        exists=True,
        dir_okay=False,
        help="Image whose content to look for, from anywhere; with several, their mean content.",
    ),
]
KOption = Annotated[int, typer.Option("-k", metavar="N", min=1, help="How many neighbours.")]
WhereOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILTER",
        help="Only images that pass: '+A -B ?C split=test origin=generated id=17|18'. Generated images are found only "
        "where the filter or --origin names them.",
    ),
]
OriginOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Only real, unlabelled or generated images. May be repeated."),
]
WeightOption = Annotated[
    float | None,
    typer.Option(
        metavar="W",
        min=0,
        max=1,
        help="Weight of content against style: 0 style alone, 1 content alone. Both distances are divided by their "
        "mean over the collection. Default: the learned embedding of both.",
    ),
]
RunOption = Annotated[str | None, typer.Option(metavar="ID", help="Retrieval run to use. Default: the newest.")]
CsvOption = Annotated[
    Path | None,
    typer.Option("--csv", metavar="OUT.csv", dir_okay=False, help="Also write paths, distances and labels as a CSV."),
]
GridOption = Annotated[
    Path | None, typer.Option(metavar="OUT.png", dir_okay=False, help="Also draw the query and its neighbours.")
]


def ask(
    settings: Settings,
    images: Sequence[Path],
    *,
    to: str | None = None,
    style_of: Path | None = None,
    content_weight: float | None = None,
    k: int = 10,
    where: str | None = None,
    origin: Sequence[str] = (),
    run: str | None = None,
    csv: Path | None = None,
    grid: Path | None = None,
) -> None:
    """Search, write what was asked for, and show the answer. RgunitError where nothing is found."""
    from cli.choices import check_query, edited_names

    with settings.open() as workspace:
        names = "|".join(origin) or None
        check_query(workspace, images, to, style_of, where, names)
        edited = edited_names(workspace, to)
        from retrieval.retriever import Retriever

        retriever = Retriever.open(workspace, run, device=settings.device)
        found = retriever.search(
            images,
            edit=to,
            style_of=style_of,
            content_weight=content_weight,
            k=k,
            where=where,
            origin=names,
        )
        if not len(found):
            told = " ".join(part for part in (where, f"origin={names}" if names else "") if part)
            raise RgunitError(f"no image passes the filter {told!r}: widen it" if told else "there is nothing to find")
        _write(retriever, images, style_of, found, csv, grid)
    if len(found) < k:
        typer.echo(f"only {len(found)} images can be found, fewer than -k {k}", err=True)
    wanted = [name for name, bit in found.target.items() if bit is not None]
    columns = edited or (wanted if len(wanted) <= SHOWN else [])
    settings.show(found.json(), lambda console: _draw(console, found, columns, [one for one in (csv, grid) if one]))


def _write(
    retriever: Retriever,
    images: Sequence[Path],
    style_of: Path | None,
    found: Results,
    csv: Path | None,
    grid: Path | None,
) -> None:
    """Write the files that were asked for."""
    from retrieval.pictures import Picture
    from retrieval.sheets import write_csv, write_grid

    if csv is not None:
        write_csv(csv, found)
    if grid is not None:
        asked = [Picture(path) for path in images]
        other = None if style_of is None else Picture(style_of)
        write_grid(grid, asked, other, found, heading=_wanted(found))


def _wanted(found: Results) -> str:
    told = " ".join(f"{'+' if bit else '-'}{name}" for name, bit in found.target.items() if bit is not None)
    return f"wanted: {told}" if told else "wanted: the same content"


def _draw(console: Console, found: Results, columns: Sequence[str], files: Sequence[Path]) -> None:
    """A row a neighbour: which labels are as wanted, how many of all, which are not, and where the image is."""
    from cli.drawing import plain, shortest, table
    from retrieval.sheets import agreement

    plain(console, _wanted(found), style="bold")
    shown = table(
        "",
        "id",
        "distance",
        *columns,
        "labels",
        "not as wanted",
        "origin",
        "image",
        right=["", "id", "distance", "labels"],
    )
    for one in found:
        agree, known = agreement(one.attributes, found.target)
        wrong = [
            f"{'-' if bit else '+'}{name}"
            for name, bit in found.target.items()
            if bit is not None and one.attributes[name] == 1 - bit
        ]
        shown.add_row(
            str(one.rank),
            str(one.image_id),
            f"{one.distance:.3f}",
            *(_mark(one.attributes.get(name), found.target.get(name)) for name in columns),
            f"{agree}/{known}" if known else "?",
            " ".join(wrong),
            one.origin,
            shortest(str(one.path)),
        )
    console.print(shown)
    plain(console, f"{found.milliseconds:.0f} ms, {found.plan}", style="dim")
    for file in files:
        plain(console, f"written: {file.absolute()}")


def _mark(bit: int | None, wanted: int | None) -> Text:
    """✓ where a label is as wanted, ✗ where it is not, ? where it is unknown."""
    from rich.text import Text

    if bit is None or wanted is None:
        return Text("?", style="dim")
    return Text("✓", style="green") if bit == wanted else Text("✗", style="red")
