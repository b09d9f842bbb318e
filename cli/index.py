"""`rgunit index`: the vectors of a workspace."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import exchange
from cli.settings import Settings
from cli.spelling import App
from index_store.errors import RgunitError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from index_store.workspace import Workspace

group = App(
    rich_markup_mode=None,
    help="Build, check and repair the vectors that are searched.",
    epilog="\b\nExamples:\n  rgunit -w faces index build\n  rgunit -w faces index verify --images\n"
    "  rgunit -w faces index remove --where origin=generated",
)


def register(app: typer.Typer) -> None:
    """Give the command group to the app."""
    exchange.register(group)
    app.add_typer(group, name="index")


@group.command(
    short_help="Embed what has no vector yet.",
    epilog="\b\nExamples:\n  rgunit -w faces index build --generated 2000\n"
    "  rgunit -w faces index build --content-model mobilefacenet.onnx --content-crop 25.84,24.69,76.48,89.23@128\n"
    "  rgunit -w faces index build --text-model clip-vit-base-patch32\n"
    "  rgunit -w faces --catalog postgresql+psycopg://me@db/faces index build --part 2/4",
)
def build(
    context: typer.Context,
    generated: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Also index N translations, made by the run's translator. Default: the preset's number.",
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="Retrieval run that embeds. Default: the newest.")
    ] = None,
    content_model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.onnx",
            help="Network that gives the content for --content-weight (face identity, CLIP, …). It is copied into the "
            "workspace and used from now on. `none`: the run's own content again.",
        ),
    ] = None,
    content_crop: Annotated[
        str | None,
        typer.Option(metavar="L,T,W,H@SIDE", help="Box that the network sees, in pixels of an image of that side."),
    ] = None,
    text_model: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Text-image model for `query --text`: CLIP or SigLIP as exported to ONNX for Hugging Face "
            "(onnx/vision_model.onnx, onnx/text_model.onnx, preprocessor_config.json, tokenizer.json, "
            "tokenizer_config.json). It is copied into the workspace and used from now on. `none`: no words.",
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Embed part I of N only: N processes, on one machine or many, do all of it. On PostgreSQL (--catalog) "
            "at once; on SQLite one process writes at a time. Makes no translations.",
        ),
    ] = None,
) -> None:
    """Embed every real, unlabelled and generated image that has no vector yet. If interrupted, run it again.

    An image gets an embedding (counted as `vectors`), and a content and a style vector for --content-weight. Without a
    retrieval run a text model alone embeds.
    """
    from cli.progress import Bars
    from retrieval.runs import find_run, words_alone
    from retrieval.text_models import SETTING

    settings: Settings = context.obj
    if content_crop is not None and content_model is None:
        raise UsageError("--content-crop needs --content-model FILE.onnx")
    if content_model is not None and str(content_model) != "none" and not content_model.is_file():
        raise UsageError(f"--content-model: there is no file {content_model}")
    if text_model is not None and str(text_model) != "none" and not text_model.is_dir():
        raise UsageError(f"--text-model: there is no folder {text_model}")
    with settings.open() as workspace:
        spoken = text_model is not None or workspace.meta(SETTING)
        if not (spoken and words_alone(workspace, run)) or generated or content_model is not None:
            find_run(workspace, run)
        with Bars("index") as bars:
            from translation.indexing import fill_index

            result = fill_index(
                workspace,
                run=run,
                generated=generated,
                content_model=content_model,
                content_crop=content_crop,
                text_model=text_model,
                part=part,
                seed=settings.seed,
                device=settings.device,
                progress=bars,
            )
        seconds = round(result.seconds, 2)
        made: dict[str, Any] = {"added": result.added, "generated": result.generated, "words": result.words}
        _show(settings, workspace, check=True, **made, seconds=seconds)


@group.command(short_help="Count vectors and encoders.", epilog="\b\nExample:\n  rgunit -w faces index info")
def info(context: typer.Context) -> None:
    """Show how many vectors there are, and of which encoders. Nothing is checked (`ok` is null): use `verify`."""
    settings: Settings = context.obj
    with settings.open() as workspace:
        _show(settings, workspace, check=False)


@group.command(short_help="Check every file.", epilog="\b\nExample:\n  rgunit -w faces index verify")
def verify(
    context: typer.Context,
    images: Annotated[
        bool, typer.Option("--images", help="Also read your own images and compare them; else only look for them.")
    ] = False,
) -> None:
    """Check every file against its digest and the catalog against the files. Exit status 1 if something is wrong.

    Images that were generated are compared with what was made; your own must be where they were.
    """
    settings: Settings = context.obj
    with settings.open() as workspace:
        _show(settings, workspace, check=True, pictures="all" if images else "made")


@group.command(short_help="Repair files and catalog.", epilog="\b\nExample:\n  rgunit -w faces index rebuild")
def rebuild(context: typer.Context) -> None:
    """Repair damaged files from their own parity data and the catalog from the files, remake indexes; then check."""
    settings: Settings = context.obj
    with settings.open() as workspace:
        workspace.store().use(settings.device)
        mended = workspace.store().rebuild()
        _show(settings, workspace, check=True, pictures="made", mended=mended)


@group.command(short_help="Merge many small files into one.", epilog="\b\nExample:\n  rgunit -w faces index compact")
def compact(context: typer.Context) -> None:
    """Merge the sealed files into one with the rows and one for each encoder, without what was removed; ids stay.

    After many small additions the workspace opens and searches faster. A damaged one is refused: `index rebuild` first.
    """
    settings: Settings = context.obj
    with settings.open() as workspace:
        workspace.store().use(settings.device)
        told = workspace.store().compact()
        _show(settings, workspace, check=True, told=told)


@group.command(
    short_help="Take images out.",
    epilog="\b\nExamples:\n  rgunit -w faces index remove --where origin=generated\n"
    "  rgunit -w faces index remove --id 17\n"
    "  rgunit -w faces index remove --id 17 --forget --dry-run",
)
def remove(
    context: typer.Context,
    where: Annotated[
        str | None, typer.Option(metavar="FILTER", help="Images that pass: '+A -B ?C split=test origin=generated'.")
    ] = None,
    ids: Annotated[list[int] | None, typer.Option("--id", metavar="N", help="One image. May be repeated.")] = None,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="Leave nothing of them in the workspace: also what was generated from them, their copies, caches, and "
            "pages, samples and lists that show or name them. Alone: end what was stopped.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --forget: show what would go, and stop.")] = False,
) -> None:
    """Take images with their labels and vectors out of the workspace, also imported vectors that have no image. Their
    files stay; an id is never used again.

    --forget also takes what shows or names them; your files outside the workspace stay even so. Weights that learned
    from them, and what you exported, cannot be taken back: the runs are named.
    """
    settings: Settings = context.obj
    if dry_run and not forget:
        raise UsageError("--dry-run goes with --forget: add it, or leave --dry-run out")
    if not (where or "").strip() and not ids and not forget:
        raise UsageError("say what to remove: --where FILTER, or --id N (both: those ids that pass the filter)")
    with settings.open() as workspace:
        if forget:
            found = workspace.forget(where if (where or "").strip() else None, ids=ids or None, dry_run=dry_run)
            told = {**asdict(found), "dry_run": dry_run}
            _show(settings, workspace, check=not dry_run, **told)
            return
        workspace.check_filter(where)
        removed = workspace.store().remove(workspace.store().state().chosen(where, ids or None))
        _show(settings, workspace, check=True, removed=removed)


def _show(settings: Settings, workspace: Workspace, *, check: bool, pictures: str | None = None, **extra: Any) -> None:
    """Show the state of the vectors; raises where the check finds problems (`pictures`: made or all, looked at too)."""
    report = workspace.store().verify() if check else None
    problems = list(report.problems) if report else []
    remedy = report.remedy if report else ""
    if pictures:
        from cli.progress import Bars

        with suppress(RgunitError), Bars("looking at images") as bars:  # of a damaged catalog, which is already named
            problems += workspace.check_images(every=pictures == "all", progress=bars.step)
    counts: dict[str, Any] = {"vectors": 0, "shards": 0, "images": 0, "encoders": []}
    with suppress(RgunitError) if problems else nullcontext():  # a damaged catalog may not be readable
        counts = _counts(workspace)
    payload = {
        "vectors": counts.pop("vectors"),
        "shards": counts.pop("shards"),
        "ok": not problems if report else None,
        "problems": problems,
        **counts,
        **extra,
    }
    if problems:
        many = f"{len(problems)} problems, the first: " if len(problems) > 1 else ""
        message = f"{many}{problems[0]}{remedy and f': {remedy}'}"
        raise settings.fail(message, payload, lambda console: _draw(console, payload))
    settings.show(payload, lambda console: _draw(console, payload))


def _counts(workspace: Workspace) -> dict[str, Any]:
    """How many embeddings of rows that are there, all vectors by encoder, and how many sealed files hold them."""
    store = workspace.store()
    state, images = store.state(), len(workspace.images())
    encoders = [
        {
            "name": one.name,
            "fingerprint": one.fingerprint,
            "dim": one.dim,
            "vectors": len(store.vector_ids(one.name, one.fingerprint)),
        }
        for one in state.encoders
    ]
    return {
        "vectors": sum(one["vectors"] for one in encoders if "." not in str(one["name"])),
        "shards": len(state.shards),
        "images": images,
        "encoders": encoders,
    }


def _draw(console: Console, told: dict[str, Any]) -> None:
    from cli.drawing import count, listed, plain, span, table

    if "added" in told:
        plain(
            console,
            f"{count(told['added'], 'vector')} added, {count(told['generated'], 'image')} generated"
            + (f", {count(told['words'], 'image')} embedded for words" if told["words"] else "")
            + f" in {span(told['seconds'])}",
        )
    for line in [*told.get("mended", []), *told.get("told", [])]:
        plain(console, line)
    if "dry_run" in told:
        _draw_forgotten(console, told)
    elif "removed" in told:
        plain(console, f"{count(told['removed'], 'image')} removed")
    plain(
        console,
        f"{count(told['vectors'], 'vector')} of {count(told['images'], 'image')} in {count(told['shards'], 'shard')}",
    )
    if told["encoders"]:
        shown = table("encoder", "fingerprint", "dim", "vectors", right=["dim", "vectors"])
        for one in told["encoders"]:
            shown.add_row(one["name"], one["fingerprint"][:12], str(one["dim"]), str(one["vectors"]))
        console.print(shown)
    if told["ok"] is not None:
        plain(console, "ok: every file is as it was written" if told["ok"] else "problems:")
        listed(console, told["problems"])


def _draw_forgotten(console: Console, told: dict[str, Any]) -> None:
    """What was forgotten, or would be; then what cannot be."""
    from cli.drawing import count, plain

    done = "would be forgotten" if told["dry_run"] else "forgotten"
    more = f" ({told['generated']} of them generated from the others)" if told["generated"] else ""
    plain(console, f"{count(told['removed'], 'image')} {done}{more}", style="bold")
    for what, key in (
        ("would be deleted" if told["dry_run"] else "deleted", "deleted"),
        ("would be written anew without them" if told["dry_run"] else "written anew without them", "rewritten"),
        ("your files, which stay (`rgunit add` would bring them back)", "outside"),
        ("weights that learned from them, or may have (`rgunit runs delete` deletes a run)", "learned"),
        ("files that still name one: delete them or what they are of", "left"),
        ("pictures or pages that may show one: look, and delete", "unsure"),
    ):
        if names := told[key]:
            some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            plain(console, f"{what}: {some}")
    if told["keeps"]:
        plain(console, told["keeps"])
    if told["removed"]:
        plain(console, "not taken back: exports, and copies or backups outside the workspace")
