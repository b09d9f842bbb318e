"""`rgunit evaluate translation --ab`: the page that shows pairs blind, and what its choices say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

AbOption = Annotated[
    Path | None,
    typer.Option(
        "--ab",
        metavar="DIR",
        file_okay=False,
        help="Instead write a page there that shows pairs of two arms blind, for people to choose (AMT in papers).",
    ),
]
ArmsOption = Annotated[
    str | None,
    typer.Option(
        "--arms",
        metavar="A,B",
        help="The two arms of --ab: stage1, unguided, random, guided, swapped, copy, neighbour. Default: "
        "guided,unguided, else stage1,copy.",
    ),
]
CountOption = Annotated[
    int | None, typer.Option("--ab-pairs", metavar="N", min=1, help="Pairs of --ab at most, one a person. Default: 60.")
]
ChoicesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--choices",
        metavar="FILE",
        dir_okay=False,
        help="Choices saved from the page of --ab, a file a person (again for more): gives the share preferred.",
    ),
]


def write(settings: Settings, folder: Path, run: str | None, split: str, arms: str | None, count: int | None) -> None:
    """Write the page of two arms."""
    from cli.progress import Bars
    from index_store.names import listed_names

    with settings.open() as workspace, Bars() as bars:
        bars.stage("evaluate")
        from translation.evaluation.arms import open_arms
        from translation.evaluation.preference import write_preference

        page, names, pairs = write_preference(
            workspace,
            open_arms(workspace, run, settings.device),
            folder,
            asked=listed_names(arms),
            split=split,
            count=count or 60,
            seed=settings.seed,
            progress=bars,
        )
    told = {"page": str(page.absolute()), "arms": list(names), "pairs": pairs}
    settings.show(told, lambda console: _draw_page(console, told))


def read(settings: Settings, folder: Path, files: Sequence[Path]) -> None:
    """Say what people chose."""
    from translation.evaluation.preference import read_preference

    told = asdict(read_preference(folder, files))
    settings.show(told, lambda console: _draw_choices(console, told))


def _draw_page(console: Console, told: dict[str, Any]) -> None:
    from cli.drawing import plain

    plain(console, f"page: {told['page']} ({told['pairs']} pairs of {' and '.join(told['arms'])})", style="bold")
    plain(console, "open it in a browser, choose by ← → ↓, save the choices, then give them with --choices FILE")
    plain(console, "key.json beside it says which side is whose: do not look, and send the page alone")


def _draw_choices(console: Console, told: dict[str, Any]) -> None:
    from cli.drawing import plain

    first, second = told["arms"]
    low, high = told["interval"]
    plain(
        console,
        f"{first}: preferred to {second} in {told['share']:.1%} of pairs ({low:.1%} to {high:.1%})",
        style="bold",
    )
    sure = told["verdict"] != "no difference"
    plain(console, f"{first} is {told['verdict']} than {second}" if sure else "no difference that these choices show")
    people = f"{told['judges']} {'person' if told['judges'] == 1 else 'people'}"
    plain(
        console, f"{told['judged']} of {told['pairs']} pairs judged by {people}; “no difference” {told['equal']} times"
    )
