"""`rgunit export` and `rgunit import-model`: models to share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.settings import Settings
from index_store.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


class Form(StrEnum):
    """What an export is for."""

    hub = "hub"
    torch = "torch"
    onnx = "onnx"


def register(app: typer.Typer) -> None:
    """Give the commands to the app."""
    app.command(
        "export",
        short_help="Write a trained run as a model to share.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces export r3 --out faces-model\n"
        "  rgunit -w faces export r3 --with-index --licence 'CC BY 4.0' --out faces-model.zip\n"
        "  rgunit -w faces export r3 --format onnx --out graphs",
    )(export)
    app.command(
        "import-model",
        short_help="Take a shared model into a workspace.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces import-model faces-model.zip\n"
        "  rgunit -w faces import-model faces-model.zip --sha256 6f1c…",
    )(import_model)


def export(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run of stage translation, guided or retrieval (`rgunit info`).")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR|FILE.zip", help="New folder; with the ending .zip one file.")],
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="hub: a Hugging Face folder (safetensors, config.json, model card); torch: the same without "
            "config.json; onnx: graphs for any batch, checked against PyTorch to 1e-4.",
        ),
    ] = Form.hub,
    with_index: Annotated[
        bool,
        typer.Option(
            "--with-index",
            help="Also what guides and is searched: training and unlabelled pictures at the run's size, their labels "
            "and vectors. Without it a guided model translates unguided.",
        ),
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What others may do with the pictures of --with-index, which needs it."),
    ] = None,
) -> None:
    """Write a run, with those that it stands on, for others to use. Nothing of this machine's paths is in it.

    It can be used and searched with, not trained further. Nothing is sent anywhere.
    """
    from cli.choices import check_folder
    from cli.progress import Bars

    settings: Settings = context.obj
    check_folder("--out", out.absolute().parent)
    with settings.open() as workspace:
        workspace.run(run)  # told before anything slow is imported
        with Bars("export") as bars:
            from translation.sharing.exporting import export_run

            made = export_run(
                workspace,
                run,
                form.value,
                out,
                with_index=with_index,
                licence=licence,
                progress=bars,
            )
    collection = made.manifest.collection
    payload = {
        "files": made.files,
        "parity": {"max_abs": made.parity},
        "format": form.value,
        "images": collection.images if collection else 0,
    }

    def draw(console: Console) -> None:
        from cli.drawing import plain, shortest

        plain(console, shortest(str(made.out)), style="bold")
        for file in made.files:
            plain(console, f"  {file['sha256'][:16]}…  {Path(file['path']).name}", style="dim")
        if made.parity is not None:
            plain(console, f"graphs differ from PyTorch by at most {made.parity:.1g}")
        if collection:
            plain(console, f"{collection.images} pictures guide it, under: {collection.licence}")
        elif made.manifest.main.stage == "guided":
            plain(console, "unguided: no collection (--with-index shares what guides it)")

    settings.show(payload, draw)


def import_model(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="DIR|FILE.zip", exists=True, help="What `rgunit export` wrote (hub or torch).")
    ],
    sha256: Annotated[
        str | None,
        typer.Option(
            metavar="HEX", help="SHA-256 that the zip must have, or the rgunit.json of a folder: as who shares it says."
        ),
    ] = None,
) -> None:
    """Read a shared model into the workspace, which is made where there is none.

    Every file is checked against the hashes in its rgunit.json, and the weights against the settings, before anything
    is written. No code of it is run.
    """
    from cli.progress import Bars

    if sha256 is not None and (len(sha256) != 64 or not all(letter in "0123456789abcdefABCDEF" for letter in sha256)):
        raise UsageError(f"--sha256 {sha256!r}: a SHA-256 has 64 digits of 0-9 and a-f")
    settings: Settings = context.obj
    with Bars("import") as bars:
        from translation.sharing.importing import import_model as take

        made = take(settings.folder, source, sha256=sha256, progress=bars)
    payload = {
        "run": made.run,
        "stage": made.stage,
        "runs": made.runs,
        "images": made.images,
        "licence": made.licence,
    }

    def draw(console: Console) -> None:
        from cli.drawing import plain

        plain(console, f"run {made.run} ({made.stage}) is in {settings.folder}", style="bold")
        if made.images:
            plain(console, f"{made.images} pictures guide it, under: {made.licence}")
        elif made.stage == "guided":
            plain(console, "unguided: no collection")

    settings.show(payload, draw)
