"""`rgunit duplicates`: images that a collection holds more than once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.found import WhereOption
from cli.settings import Settings
from index_store.errors import RgunitError

if TYPE_CHECKING:
    from rich.console import Console

MOST_BITS = 20  # beyond it pictures of nothing in common come together


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="Find near-duplicates in the collection.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces duplicates --picture duplicates.png\n"
        "  rgunit -w faces duplicates --distance 0 --where split=train",
    )(duplicates)


def duplicates(
    context: typer.Context,
    distance: Annotated[
        int | None,
        typer.Option(
            metavar="BITS",
            min=0,
            max=MOST_BITS,
            help="Bits of 64 in which the pictures' perceptual hashes may differ. Default: 6.",
        ),
    ] = None,
    where: WhereOption = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="OUT.png", dir_okay=False, help="Also draw the groups, one in each row.")
    ] = None,
) -> None:
    """Find images that are the same picture re-encoded, resized, brightened or slightly cropped, in groups.

    Each image of a group is that near to at least one other. A mirrored picture is another picture. Needs no training.
    """
    from cli.choices import check_file
    from cli.progress import Bars
    from index_store.duplicates import DISTANCE
    from retrieval.duplicates import draw_duplicates, find_duplicates

    settings: Settings = context.obj
    bits = DISTANCE if distance is None else distance
    check_file("--picture", picture)
    with settings.open() as workspace:
        workspace.check_filter(where)
        with Bars("duplicates") as bars:
            found = find_duplicates(workspace, distance=bits, where=where, progress=bars.step)
    if not found.images:
        reason = f": {found.unreadable[0]}" if found.unreadable else f" that pass {where!r}" if where else ""
        raise RgunitError(f"there are no images to compare{reason}")
    if picture is not None and found.groups:
        draw_duplicates(picture, found)
    if found.unreadable:
        typer.echo(f"{len(found.unreadable)} images cannot be read, the first: {found.unreadable[0]}", err=True)
    payload: dict[str, Any] = {
        "images": found.images,
        "distance": bits,
        "duplicates": sum(len(group) - 1 for group in found.groups),
        "groups": [[one.json() for one in group] for group in found.groups],
        "unreadable": found.unreadable,
        "picture": str(picture.absolute()) if picture is not None and found.groups else None,
    }
    settings.show(payload, lambda console: _draw(console, payload))


def _draw(console: Console, told: dict[str, Any]) -> None:
    """The groups' images with the bits to the nearest other one."""
    from cli.drawing import LISTED, count, plain, shortest, table

    groups = told["groups"]
    if not groups:
        plain(console, f"no near-duplicates among {count(told['images'], 'image')} (up to {told['distance']} bits)")
        return
    shown = table("group", "id", "bits", "origin", "image", right=["group", "id", "bits"])
    for number, group in enumerate(groups[:LISTED], start=1):
        for one in group[:LISTED]:
            shown.add_row(str(number), str(one["image_id"]), str(one["bits"]), one["origin"], shortest(one["path"]))
        if len(group) > LISTED:
            shown.add_row(str(number), "", "", "", f"… and {len(group) - LISTED} more")
    console.print(shown)
    if len(groups) > LISTED:
        plain(console, f"… and {len(groups) - LISTED} more groups (--json lists all)", style="dim")
    plain(
        console,
        f"{count(told['duplicates'], 'near-duplicate')} in {count(len(groups), 'group')} "
        f"among {count(told['images'], 'image')}",
    )
    if told["picture"]:
        plain(console, f"drawn: {told['picture']}")
