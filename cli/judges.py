"""`rgunit evaluate judges`: the same translations read by several attribute classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings
from index_store.errors import UsageError
from index_store.names import listed_names

if TYPE_CHECKING:
    from rich.console import Console

ARMS = ("unguided", "random", "guided")
SHOWN = {"accuracy_changed": "changed", "fd_attr": "FD-attr"}


def register(group: typer.Typer) -> None:
    """Give the command to the group `evaluate`."""
    group.command(
        short_help="Does a result depend on the classifier that judges?",
        epilog="\b\nExamples:\n"
        "  rgunit --seed 1 -w faces evaluate translation\n"
        "  rgunit -w faces evaluate judges faces/cache/classifier-*.safetensors --arms unguided=r5,guided=r3",
    )(judges)


def judges(
    context: typer.Context,
    classifiers: Annotated[
        list[Path],
        typer.Argument(
            metavar="CLASSIFIER",
            exists=True,
            dir_okay=False,
            help="Files that `evaluate translation` left in the workspace's folder `cache`.",
        ),
    ],
    arms: Annotated[
        str,
        typer.Option(metavar="ARM=RUN,…", help="Stage-3 runs from one stage-1 run: unguided, random, guided."),
    ],
) -> None:
    """Read the same translations by several attribute classifiers, in both directions.

    FD-attr is a distance in the features of one classifier. Another --seed of `evaluate translation` trains another
    classifier from the same labels; a difference between arms that all of them see does not depend on who judges.
    """
    from cli.progress import Bars

    settings: Settings = context.obj
    runs = _arms(arms)
    with settings.open() as workspace:
        with Bars() as bars:
            from translation.evaluation.experiments.judges import read_by

            found = read_by(workspace, runs, classifiers, device=settings.device, progress=bars)
        settings.show({"classifiers": found}, lambda console: _draw(console, runs, found))


def _arms(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in listed_names(text)]
    if not pairs or not all(arm in ARMS and run for arm, _, run in pairs):
        raise UsageError(f"--arms takes ARM=RUN, separated by commas, of {', '.join(ARMS)}: not {text!r}")
    return {arm: run for arm, _, run in pairs}


def _draw(console: Console, runs: dict[str, str], found: list[dict[str, Any]]) -> None:
    from cli.drawing import difference, plain, table

    columns = [f"{arm} {short}" for arm in (*runs, "copy") for short in SHOWN.values()]
    shown = table("classifier", "accuracy", *columns, right=("accuracy", *columns))
    for one in found:
        cells = [one["both ways"][arm][name] for arm in (*runs, "copy") for name in SHOWN]
        shown.add_row(one["classifier"][:24], *(f"{value:.3f}" for value in (one["accuracy"], *cells)))
    console.print(shown)
    for one in found:
        for pair in ("guided vs unguided", "guided vs random"):
            told = [
                f"{SHOWN[name]} {difference(gap)}"
                for name, gap in one["both ways"]["comparisons"].get(pair, {}).items()
                if name in SHOWN
            ]
            if told:
                plain(console, f"{one['classifier'][:24]}, {pair}: {'; '.join(told)}")
