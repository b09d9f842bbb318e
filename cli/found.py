"""What `query` and `similar` share: their options, and the asking."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings
from index_store.errors import ImageRefused, RgunitError, UsageError

if TYPE_CHECKING:
    from retrieval.pictures import Results
    from retrieval.searching import Searcher


class LabelsPolicy(StrEnum):
    """How known labels take part in a search (`retrieval.labels.Policy`)."""

    prefer = "prefer"
    require = "require"
    ignore = "ignore"


IMAGES_HELP = (
    "Image whose content to look for, from anywhere; with several, their mean content. A folder: every image below it, "
    "each asked by itself."
)
ImagesArgument = Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER", exists=True, help=IMAGES_HELP)]
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
LabelsOption = Annotated[
    LabelsPolicy,
    typer.Option(
        "--labels",
        help="How known labels count: prefer, what is known to contradict what is asked for comes last; require, only "
        "what is known to have it; ignore, the embedding alone. Equals stand in order of content, so distances need "
        "not rise with the rank. (`translate` does not look at labels: it searches as it was trained.)",
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
    text: str | None = None,
    content_weight: float | None = None,
    k: int = 10,
    where: str | None = None,
    origin: Sequence[str] = (),
    labels: str = "prefer",
    run: str | None = None,
    csv: Path | None = None,
    grid: Path | None = None,
) -> None:
    """Search, write what was asked for, and show the answer. RgunitError where nothing is found."""
    from cli.answers import draw_answer, draw_answers
    from cli.choices import check_file, check_query, check_words, edited_names
    from retrieval.runs import find_run

    folders = [path for path in images if path.is_dir()]
    if folders and len(folders) < len(images):
        raise UsageError("images together are one query, a folder is one for each image: name images or folders")
    if folders and grid is not None:
        raise UsageError("--grid draws one query: name images instead of a folder, or take --csv")
    check_file("--csv", csv)
    check_file("--grid", grid)
    if not images:
        check_words(text, to=to, style_of=style_of, content_weight=content_weight, run=run)
    names = "|".join(origin) or None
    with settings.open() as workspace:
        files = _files(folders) if folders else list(images)
        check_query(workspace, () if folders else files, to, style_of, where, names)
        edited = edited_names(workspace, to)
        how: dict[str, Any] = {"k": k, "where": where, "origin": names, "labels": labels}
        rejected: list[dict[str, str]] = []
        if images:
            find_run(workspace, run)
            from retrieval.reading import open_searcher

            retriever = open_searcher(workspace, run, device=settings.device)
            how |= {"edit": to, "style_of": style_of, "text": text, "content_weight": content_weight}
            answers = _each(retriever, files, how, rejected) if folders else []
            if not folders:
                answers = [(images[0], retriever.search(images, **how))]
        else:
            assert text is not None
            from retrieval.words import search_text

            answers = [(Path(), search_text(workspace, text, **how))]
        fewest = min((len(found) for _, found in answers), default=0)
        if not fewest:
            raise RgunitError(rejected[0]["reason"] if rejected and not answers else _nothing(where, names, labels))
        _write(answers, images, style_of, csv, grid, each=bool(folders))
    for one in rejected:
        typer.echo(f"left out: {one['reason']}", err=True)
    if fewest < k:
        typer.echo(f"only {fewest} images can be found, fewer than -k {k}", err=True)
    kept = [one for one in (csv, grid) if one]
    if folders:
        told = [{"image": str(path.absolute()), **found.json()} for path, found in answers]
        payload = {"queries": told, "rejected": rejected}
        settings.show(payload, lambda console: draw_answers(console, answers, kept))
    else:
        found = answers[0][1]
        settings.show(found.json(), lambda console: draw_answer(console, found, edited, kept))


def _files(folders: Sequence[Path]) -> list[Path]:
    """The files below folders that may be pictures. RgunitError where there are none."""
    from index_store.files import image_files, may_be_picture
    from translation.inputs import nothing

    files = [file for folder in folders for file in image_files(folder) if may_be_picture(file)]
    if not files:
        raise nothing(folders[0])
    return files


def _each(
    retriever: Searcher, files: Sequence[Path], search: dict[str, Any], rejected: list[dict[str, str]]
) -> list[tuple[Path, Results]]:
    """The answer to each file that is a picture; `rejected` gets the others with the reason."""
    from cli.progress import Bars
    from index_store.names import printable
    from retrieval.pictures import Picture

    if (other := search["style_of"]) is not None:
        search = search | {"style_of": Picture.of(retriever.workspace, other)}
    answers = []
    with Bars("asking") as bars:
        for done, file in enumerate(files):
            bars.step(done, len(files))
            try:
                answers.append((file, retriever.search(file, **search)))
            except ImageRefused as error:
                rejected.append({"path": printable(str(file.absolute())), "reason": str(error)})
    return answers


def _nothing(where: str | None, origin: str | None, labels: str) -> str:
    """Why nothing was found."""
    told = " ".join(part for part in (where, f"origin={origin}" if origin else "") if part)
    if labels == LabelsPolicy.require:
        return "no image is known to have the labels that are asked for: --labels prefer also gives those unknown"
    return f"no image passes the filter {told!r}: widen it" if told else "there is nothing to find"


def _write(
    answers: Sequence[tuple[Path, Results]],
    images: Sequence[Path],
    style_of: Path | None,
    csv: Path | None,
    grid: Path | None,
    *,
    each: bool,
) -> None:
    """Write the files that were asked for."""
    from retrieval.pictures import Picture
    from retrieval.sheets import wanted, write_csv, write_grid

    if csv is not None:
        write_csv(csv, [found for _, found in answers], [path for path, _ in answers] if each else None)
    if grid is not None:
        found = answers[0][1]
        other = None if style_of is None else Picture(style_of)
        write_grid(grid, [Picture(path) for path in images], other, found, heading=wanted(found))
