"""`rgunit evaluate modalities`: zero-pair translation, and what makes it work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.choices import ConfigOption, SetOption
from cli.settings import Settings
from index_store.names import listed_names

if TYPE_CHECKING:
    from rich.console import Console


def register(group: typer.Typer) -> None:
    """Give the command to the group `evaluate`."""
    group.command(
        short_help="Zero-pair translation between modalities, and its ablation.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces evaluate modalities --preset zero-pair --seeds 0,1,2\n"
        "  rgunit -w faces evaluate modalities --preset zero-pair-colours --rows mix-match,pseudo-pairs",
    )(modalities)


def modalities(
    context: typer.Context,
    preset: Annotated[str, typer.Option(metavar="NAME", help="zero-pair or zero-pair-colours.")] = "zero-pair",
    config: ConfigOption = None,
    overrides: SetOption = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="ROW,…",
            help="Some of: translations alone, autoencoders, latent consistency, mix-match, pseudo-pairs (each with "
            "what the one before has), no side information, skip connections (beside mix-match). Default: all.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N,N", help="One training of each row a seed.")] = "0",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Folder of the results. Default: WORKSPACE/PRESET."),
    ] = None,
) -> None:
    """Train the rows of the ablation and judge all translations on the test images. Restartable: a file a row and seed.

    Beside each file lies a picture: images, their modalities, and what the seen, the unseen and the joint translations
    made. Of segmentation mIoU and pixels right, of depth the share within 25 % and errors of distance, of RGB what the
    attribute classifier reads.
    """
    from cli.choices import numbers_of
    from cli.progress import Bars

    settings: Settings = context.obj
    numbers, wanted = numbers_of("--seeds", seeds), listed_names(rows)
    with settings.open() as workspace:
        with Bars() as bars:
            from translation.evaluation.experiments.modalities import ROWS, run_modalities

            found = run_modalities(
                workspace,
                preset,
                out or settings.folder / preset,
                rows=wanted or tuple(ROWS),
                seeds=numbers,
                file=config,
                overrides=overrides or (),
                device=settings.device,
                progress=bars,
            )
        settings.show(found, lambda console: _draw(console, found))


def _draw(console: Console, found: dict[str, Any]) -> None:
    from cli.drawing import plain, table

    for row, ways in found["rows"].items():
        names = list(dict.fromkeys(name for measures in ways.values() for name in measures))
        shown = table(row, *names, right=tuple(names))
        for way, measures in ways.items():
            shown.add_row(way, *(f"{measures[name]:.3f}" if name in measures else "" for name in names))
        console.print(shown)
    plain(console, f"means of {len(found['seeds'])} seeds, over the test images")
