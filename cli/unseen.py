"""`rgunit evaluate unseen`: translations between domains of which no pair was trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.choices import AttributesOption, ConfigOption, SetOption
from cli.settings import Settings
from index_store.names import listed_names

if TYPE_CHECKING:
    from rich.console import Console

NAMES = {
    "stage1": "joined, never trained",
    "cascade": "cascade through the anchor",
    "trained": "the pair trained",
    "copy": "copy",
}


def register(group: typer.Typer) -> None:
    """Give the command to the group `evaluate`."""
    group.command(
        short_help="Joined networks against a cascade and trained pairs.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces evaluate unseen --preset mix-match --seeds 0,1,2 --out unseen\n"
        "  rgunit -w pacs evaluate unseen --preset mix-match --set translation.anchor=photo --relevance folder",
    )(unseen)


def unseen(
    context: typer.Context,
    preset: Annotated[str, typer.Option(metavar="NAME", help="Preset of a method that joins networks.")] = "mix-match",
    config: ConfigOption = None,
    overrides: SetOption = None,
    attributes_used: AttributesOption = None,
    seeds: Annotated[str, typer.Option(metavar="N,N", help="One training of each kind a seed.")] = "0",
    relevance: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="A text column of at most 50 values that a translation must keep."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Folder of the results. Default: WORKSPACE/unseen."),
    ] = None,
) -> None:
    """Train pairs with the anchor, and all pairs; judge translations between the other domains. Restartable.

    translation.steps are those of the run with the anchor; the other one gets as many more as it has more pairs.
    """
    from cli.choices import numbers_of
    from cli.progress import Bars
    from translation.config import load_config

    settings: Settings = context.obj
    loaded = load_config(preset, file=config, overrides=overrides or ())
    numbers = numbers_of("--seeds", seeds)
    with settings.open() as workspace:
        with Bars() as bars:
            from translation.evaluation.experiments.unseen import run_unseen

            found = run_unseen(
                workspace,
                loaded,
                out or settings.folder / "unseen",
                seeds=numbers,
                attributes_used=listed_names(attributes_used),
                relevance=relevance or "",
                device=settings.device,
                progress=bars,
            )
        settings.show(found, lambda console: _draw(console, found))


def _draw(console: Console, found: dict[str, Any]) -> None:
    from cli.drawing import plain, table

    measures = [name for name in found["arms"]["stage1"] if found["arms"]["stage1"][name] is not None]
    shown = table("translation", *measures, right=tuple(measures))
    for arm, name in NAMES.items():
        values = [found["arms"][arm][measure] for measure in measures]
        shown.add_row(name, *("" if value is None else f"{value:.3f}" for value in values))
    console.print(shown)
    plain(console, f"means of {len(found['seeds'])} seeds, over translations between domains other than the anchor")
