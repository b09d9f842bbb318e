"""What the commands share: the configuration that a run starts from, and checks that need no model.

The one idea: what can be refused is refused before anything slow is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from index_store.errors import UsageError
from index_store.names import listed_names

if TYPE_CHECKING:
    from index_store.workspace import Workspace
    from translation.config import Config

DRAWN_SIZE = 48  # pixels a side up to which the demo's preset is chosen

OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", file_okay=False, help="Folder of the results. Without it the cost is told, nothing is done."
    ),
]
HereOption = Annotated[bool, typer.Option("--here", help="Take the workspace's images (-w) instead of drawing faces.")]
SeedsOption = Annotated[str | None, typer.Option(metavar="N,N", help="Such as 0,1,2. Default: that of --seed.")]
DrawnOption = Annotated[int, typer.Option(metavar="N", min=60, help="Faces to draw without --here.")]
PresetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="demo, celeba-64, celeba-128, paper-celeba-128, cut, fastcut, single-image, init, munit, sdit, mix-match, "
        "zero-pair, zero-pair-colours, wgan-gp or wgan-gp-64. Default: the settings of the newest run (with "
        "--resume: of the run that is resumed); for a first run demo where images are at most 48 pixels, else "
        "celeba-64 (generators: wgan-gp, wgan-gp-64). --config and --set override single settings.",
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Train this method on the preset's data, sizes and steps (`rgunit methods` lists them). Default: the "
        "preset's own.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", exists=True, dir_okay=False, help="TOML file with settings that override the preset's."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="One setting, which overrides all others. May be repeated."
    ),
]
AttributesOption = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,…",
        help="Attributes that make up the style, in this order; the others serve evaluation only. A name with a comma "
        "stands in double quotes. Default: the preset's where the workspace has them, else all.",
    ),
]
JudgeOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.onnx",
        exists=True,
        dir_okay=False,
        help="Network that was not used in training, image to features: adds fd_judge and identity.",
    ),
]
JudgeCropOption = Annotated[
    str | None,
    typer.Option(metavar="L,T,W,H@SIDE", help="Box that the judge sees, in pixels of an image of that side."),
]
BothWaysOption = Annotated[
    bool,
    typer.Option(
        "--both-ways",
        help="Also judge with the halves of the test people exchanged: takes twice as long, and the mean has smaller "
        "intervals.",
    ),
]
MinutesOption = Annotated[
    float | None,
    typer.Option(metavar="M", min=0.01, help="Fit the work to this time, instead of the preset's number of steps."),
]


def configuration(
    workspace: Workspace,
    preset: str | None,
    file: Path | None,
    overrides: Sequence[str],
    goes_on: tuple[str, str | None] | None = None,
    method: str | None = None,
    stage: str = "translation",
) -> Config:
    """The settings asked for: a preset, or without one the newest run's settings, with a file and overrides over them.

    `goes_on`: the stage and kind of neighbours of a run that is resumed, whose settings they are then. Runs of images
    from noise and those of translation do not go by each other's. A first run gets the preset that fits the images.
    """
    from translation.config import load_config
    from translation.methods import ALONE

    alone = stage in ALONE
    runs = [run for run in workspace.runs() if not run.empty and (run.stage in ALONE) == alone]
    if goes_on is not None:
        runs = [run for run in runs if (run.stage, run.config.get("neighbours")) == goes_on] or runs
    base: dict[str, Any] = {}
    if preset is None and runs:
        preset, base = runs[-1].preset, runs[-1].config["config"]
    if preset is None:
        preset = _fitting(workspace, stage)
        typer.echo(f"preset {preset}, chosen by the size of the images (--preset chooses another)", err=True)
    return load_config(preset, method=method, base=base, file=file, overrides=overrides)


def _fitting(workspace: Workspace, stage: str) -> str:
    """The preset for a first run of a stage, by the size of the first image that is there."""
    from index_store.errors import ImageRefused
    from translation.config import presets_of
    from translation.methods import ALONE, methods_of

    small, large = presets_of(methods_of(stage)[0])[:2] if stage in ALONE else ("demo", "celeba-64")
    table = workspace.images()
    for row in range(len(table)):
        with suppress(ImageRefused):
            return small if min(table.read(row).shape[:2]) <= DRAWN_SIZE else large
    return large


def numbers_of(option: str, text: str) -> tuple[int, ...]:
    """The numbers in `0,1,2`, the value of an option."""
    parts = listed_names(text)
    if not parts or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option} takes numbers such as 0,1,2, not {text!r}")
    return tuple(map(int, parts))


def seeds_of(text: str | None, default: int) -> tuple[int, ...]:
    """The seeds of `--seeds`, or the one of `--seed`."""
    return (default,) if text is None else numbers_of("--seeds", text)


def check_composed(workspace: Workspace, to: str | None, style_of: Path | None) -> None:
    """Refuse a translation that cannot be meant, whatever its pictures are, before a model is loaded."""
    directed = any("target" in run.config for run in workspace.runs("translation"))  # such a run needs no words
    if to is None and style_of is None and not directed:
        raise UsageError("say what to change: --to '+Blond_Hair -Male', or --style-of IMAGE, or both")
    check_query(workspace, (), to, style_of)


def check_query(
    workspace: Workspace,
    images: Sequence[Path],
    to: str | None,
    style_of: Path | None,
    where: str | None = None,
    origin: str | None = None,
) -> None:
    """Refuse an edit, a filter or a picture that cannot be meant, before a model is loaded."""
    if to is not None:
        workspace.schema.edit(to)
    workspace.check_filter(f"{where or ''} {f'origin={origin}' if origin else ''}".strip())
    for path in (*images, *([style_of] if style_of else [])):
        workspace.read(path)


def check_words(text: str | None, **others: object) -> None:
    """Refuse a question without a picture that is not words alone."""
    if text is None:
        raise UsageError("name a picture to ask with, or say what is to be seen: --text 'a laughing woman with a hat'")
    option = next((name for name, value in others.items() if value is not None), None)
    if option is not None:
        raise UsageError(f"--{option.replace('_', '-')} is of a picture, and none is named: leave it out or name one")


def check_file(option: str, path: Path | None) -> None:
    """Refuse a file that cannot be written, before any work: its folder must be there and writable."""
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {path}: nothing can be written in {folder}")


def check_folder(option: str, path: Path | None) -> None:
    """Refuse a folder that is to be made or filled where nothing can be written, before any work."""
    if path is None:
        return
    there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {path}: nothing can be written in {there}")


def edited_names(workspace: Workspace, to: str | None) -> list[str]:
    """The attributes that an edit sets or clears, in the workspace's order."""
    if to is None:
        return []
    edit = workspace.schema.edit(to)
    return [workspace.schema.names[column] for column in sorted({*edit.bits, *edit.cleared})]


def check_judge(judge: Path | None, crop: str | None) -> None:
    """Refuse a judge's box without the judge."""
    if crop is not None and judge is None:
        raise UsageError("--judge-crop needs --judge FILE.onnx")


def command_line() -> str:
    """The command as it was typed."""
    import shlex

    return shlex.join(["rgunit", *sys.argv[1:]])
