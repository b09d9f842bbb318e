"""`rgunit add`: register the images of folders, with their labels."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from index_store.ingest import AddReport
    from index_store.workspace import Workspace


class Origin(StrEnum):
    """Where images come from."""

    real = "real"
    unlabelled = "unlabelled"


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="Register images and their labels.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces add photos --attributes labels.csv --split-by identity --groups 'Black_Hair|Blond_Hair'\n"
        "  rgunit -w faces add more_photos --origin unlabelled\n"
        "  rgunit -w horses add horse2zebra\n"
        "  rgunit -w pacs add PACS --domains photo,sketch",
    )(add)


def add(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", exists=True, help="Folders of images, or single images.")
    ],
    attributes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="CSV (also with ; or tabs) or JSON of labels: the image's name in a column image, file_name or path "
            "(else the first), relative to PATH; columns of 0/1, -1/1, true/false or yes/no are attributes, an empty "
            "cell is unknown, split is train, val or test (or what other tools call them), every other column is kept "
            "as text. Default: the labels in PATH itself.",
        ),
    ] = None,
    origin: Annotated[
        Origin,
        typer.Option(help="unlabelled: images without labels. They can be found, and they can guide translations."),
    ] = Origin.real,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Put all these images into one split, whatever the CSV says. Any plain name: train, held.",
        ),
    ] = None,
    split_by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Text column, such as identity: all images with the same value go to the same split. Without a split "
            "column, 20 % become test.",
        ),
    ] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option(metavar="'A|B|C'", help="Attributes of which at most one is true. May be given several times."),
    ] = None,
    domains: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="The folders of these names are the domains, wherever below PATH (or PATH itself); what lies in none "
            "of them is left out.",
        ),
    ] = None,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Take labels, split and texts of images that are known already anew: an empty cell makes a label "
            "unknown. Without it what was known first stays, and what contradicts is told.",
        ),
    ] = False,
    white_level: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="The value that is white in grey of more than 8 bits, such as 4095 for 12 bits; kept with the images. "
            "Default: what the file's type says (65535 in 16 bits, 1 in fractions), or a column white_level.",
        ),
    ] = None,
) -> None:
    """Register images where they are. Nothing is copied, and adding the same images again changes nothing.

    The content of a file decides: what was moved or renamed is found again, what was changed becomes another image.

    Labels come from --attributes, else from PATH itself: metadata.csv or .jsonl (Hugging Face imagefolder, also below
    train, test), CelebA's own list_attr_celeba.txt, two domains A and B in trainA, trainB, testA, testB (as CycleGAN
    and CUT read them; also train_A, trainPhoto), or one folder a domain. Domains become an exclusive group; folders
    inside one become the text column `folder`.

    A file that is no image, is broken, or has more than 64 megapixels or fewer than 16 pixels a side is refused with
    the reason; the others are added.
    """
    from cli.progress import Bars
    from index_store.layouts import check_readings
    from index_store.names import listed_names
    from index_store.splits import untested

    settings: Settings = context.obj
    named = listed_names(domains)
    if not named and attributes is None and origin is Origin.real and len(paths) > 1:
        check_readings([path.absolute() for path in paths], [settings.folder.absolute()])
    reports: list[AddReport] = []
    with settings.made() as workspace:
        with Bars("reading images") as bars:
            for path in paths:
                reports.append(
                    workspace.add_images(
                        path,
                        attributes=attributes,
                        origin=origin.value,
                        split=split,
                        split_by=split_by,
                        groups=groups or [],
                        progress=bars.step,
                        update=update,
                        white_level=white_level,
                        domains=named,
                    )
                )
        payload = _payload(reports, shared_labels=attributes is not None)
        if (note := untested(workspace)) is not None:
            payload["notes"].append(note)
        draw = _Drawing(workspace, payload, named=bool(named)).draw
        if payload["added"] + payload["duplicates"] == 0:
            raise settings.fail(_why_nothing(payload), payload, draw)
        settings.show(payload, draw)


def _payload(reports: list[AddReport], *, shared_labels: bool) -> dict[str, Any]:
    """The reports of all paths as one; a row of a shared CSV lacks its file only where no path has it."""
    from index_store.layouts import understood

    missing = [report.rows_without_file for report in reports]
    if shared_labels:
        rest = set(missing[0]).intersection(*missing[1:])
        without_file = [name for name in missing[0] if name in rest]
    else:
        without_file = [name for names in missing for name in names]
    return {
        "added": sum(report.added for report in reports),
        "duplicates": sum(report.duplicates for report in reports),
        "rejected": [{"path": one.path, "reason": one.reason} for report in reports for one in report.rejected],
        "total": reports[-1].total,
        "rows_without_file": without_file,
        "files_without_row": [name for report in reports for name in report.files_without_row],
        "converted": sum(report.converted for report in reports),
        "updated": sum(report.updated for report in reports),
        "changes": dict(sum((Counter(report.changes) for report in reports), Counter())),
        **{
            name: list(dict.fromkeys(one for report in reports for one in getattr(report, name)))
            for name in ("moved", "replaced", "gone", "dark")
        },
        "understood": understood(report.reading for report in reports),
        "notes": list(dict.fromkeys(note for report in reports for note in report.notes)),
    }


def _why_nothing(payload: dict[str, Any]) -> str:
    if payload["rejected"]:
        first = payload["rejected"][0]
        return f"nothing was added: {len(payload['rejected'])} refused, the first {first['path']}: {first['reason']}"
    rows, files = len(payload["rows_without_file"]), len(payload["files_without_row"])
    return f"nothing was added: none of the {rows} rows names one of the {files} files: names are relative to PATH"


class _Drawing:
    """What a person sees of a report."""

    def __init__(self, workspace: Workspace, payload: dict[str, Any], *, named: bool) -> None:
        self.workspace, self.payload, self.named = workspace, payload, named

    def draw(self, console: Console) -> None:
        from cli.drawing import count, listed, plain

        told = self.payload
        plain(
            console,
            f"{count(told['added'], 'image')} added, {told['duplicates']} already there, "
            f"{len(told['rejected'])} refused: {count(told['total'], 'image')} in {self.workspace.path}",
        )
        for words in told["understood"]:
            plain(console, f"read as {words}")
        listed(console, [f"{one['path']}: {one['reason']}" for one in told["rejected"]])
        for note in told["notes"]:
            plain(console, note, style="yellow")
        if told["updated"]:
            changes = ", ".join(f"{name} of {number}" for name, number in told["changes"].items())
            plain(console, f"{count(told['updated'], 'image')} changed: {changes}")
        for key, what in (
            ("moved", "found at another place"),
            ("replaced", "changed under its name: it is another image now, the old one is removed"),
            (
                "gone",
                "gone: `rgunit add NEWPLACE` finds it where it is now, `rgunit index remove --id N` forgets it (its "
                "number: `rgunit index verify`)",
            ),
        ):
            if told[key]:
                plain(console, f"{count(len(told[key]), 'image')} {what}:")
                listed(console, told[key])
        if told["converted"]:
            plain(
                console, f"{count(told['converted'], 'image')} of another size, grey or with alpha: converted when read"
            )
        if told["rows_without_file"]:
            plain(console, f"{count(len(told['rows_without_file']), 'row')} without a file:")
            listed(console, told["rows_without_file"])
        if told["files_without_row"]:
            why = "in no domain" if self.named else "without a row"
            plain(console, f"{count(len(told['files_without_row']), 'file')} {why}, not added:")
            listed(console, told["files_without_row"])
        schema = self.workspace.schema
        broken = schema.violations(self.workspace.images().labels)
        if broken:
            plain(console, f"{count(broken, 'image')} with more than one of a group true: kept as given")
