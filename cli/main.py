"""The entry point: global options, the list of commands, and what becomes of errors.

The one idea: an expected failure is one line and a status (1 failed, 2 wrong usage); a traceback is for `--debug`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, TextIO

import typer

from cli import (
    add,
    duplicates,
    evaluate,
    generate,
    index,
    info,
    map,
    methods,
    missing,
    query,
    run,
    runs,
    serve,
    share,
    similar,
    split,
    train,
    translate,
)
from cli.settings import DEFAULT_WORKSPACE, Failed, Settings, Stopped, globals_first, named
from cli.spelling import App
from index_store.errors import RgunitError, UsageError
from index_store.lifetimes import end_with_parent

INTERRUPTED = 130
CATALOG = "RGUNIT_CATALOG"  # `index_store.databases.URL`, without what that imports
VECTORS = "RGUNIT_VECTORS"  # `index_store.engines.URL`

app = App(
    name="rgunit",
    rich_markup_mode=None,  # plain help: rich alone would take longer than everything else together
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExamples:\n"
    "  rgunit demo\n"
    "  rgunit -w faces add photos --attributes labels.csv --groups 'Black_Hair|Blond_Hair|Brown_Hair'\n"
    "  rgunit -w faces run --preset celeba-64 --minutes 40\n"
    "  rgunit -w faces query me.jpg --to '+Blond_Hair'\n\n"
    "Global options may also stand after the command. Exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped by\n"
    "Ctrl-C.",
)
for module in (
    *(add, split, info, methods, run, train, runs, index),
    *(query, similar, duplicates, map, translate, generate, evaluate, serve, share),
):
    module.register(app)


def _device(name: str) -> str:
    """Refuse what is no device's name."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", name):
        raise typer.BadParameter(f"{name!r} is none of auto, cpu, cuda, cuda:N and mps")
    return name


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"rgunit {version('rgunit')}")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "-w",
            "--workspace",
            envvar="RGUNIT_WORKSPACE",
            metavar="DIR",
            help="Folder that holds images, labels, vectors and runs. Default: ./workspace.",
        ),
    ] = None,
    catalog: Annotated[
        str | None,
        typer.Option(
            envvar=CATALOG,
            metavar="URL",
            help="PostgreSQL database that holds the catalog, for many writers at once: "
            "postgresql+psycopg://USER@HOST/DATABASE. Default: a SQLite file in the workspace.",
        ),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            envvar=VECTORS,
            metavar="URL",
            help="Milvus server that vectors are searched on: milvus+http://HOST:19530/NAME. Default: the files of "
            "the workspace.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of every random draw.")] = 0,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:N|mps", callback=_device, help="Where to compute; auto: a GPU if there is one."
        ),
    ] = "auto",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object on stdout and nothing else there; progress goes to stderr."),
    ] = False,
    debug: Annotated[  # main() reads it from the words: a command may fail before this runs
        bool, typer.Option("--debug", help="Show a traceback when something fails.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Index a picture collection by content and style, search it, and translate images guided by what is found."""

    def typed(option: str) -> bool:  # not from the environment
        source = context.get_parameter_source(option)
        return source is not None and source.name == "COMMANDLINE"

    if typed("catalog") and ((folder := workspace or DEFAULT_WORKSPACE) / "catalog.db").exists():
        from index_store.databases import second

        raise second(folder)
    if catalog is not None:
        os.environ[CATALOG] = catalog  # whatever opens a workspace, here or in a process of its own, finds it there
    if vectors is not None:
        os.environ[VECTORS] = vectors
    out = context.obj if context.obj is not None else sys.stdout
    context.obj = Settings(workspace, typed("workspace"), seed, device, as_json, out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    out, told = sys.stdout, {name: os.environ.get(name) for name in (CATALOG, VECTORS)}
    as_json, debug = "--json" in words, "--debug" in words
    with redirect_stdout(sys.stderr) if as_json else nullcontext(), warnings.catch_warnings():
        if not debug:
            _quiet()
        try:
            end_with_parent()
            status = app(globals_first(words), prog_name="rgunit", standalone_mode=False, obj=out)
            return _stopped(out, as_json, words) if status == INTERRUPTED else int(status or 0)
        except (KeyboardInterrupt, typer.Abort):
            return _stopped(out, as_json, words)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads any more: leave without a word
            return 1
        except Exception as error:
            if debug and not isinstance(error, Stopped):
                import traceback

                traceback.print_exc()
            if isinstance(error, Stopped):
                return _stopped(out, as_json, words, error)
            message, status = _explain(error)
            message = named(message, globals_first(words))
            _tell(out, as_json, message, error.payload if isinstance(error, Failed) else {})
            return status
        finally:
            for name, value in told.items():
                os.environ.pop(name, None)
                os.environ.update({name: value} if value is not None else {})


def _explain(error: Exception) -> tuple[str, int]:
    """The one line and the exit status of a failure."""
    if isinstance(error, RgunitError):
        return str(error), 2 if isinstance(error, UsageError) else 1
    if isinstance(error, MemoryError):
        return "there is not enough memory for this: take smaller settings, fewer images or a larger machine", 1
    if hasattr(error, "format_message"):  # Typer's own: an option that does not exist, a value out of range
        path = getattr(getattr(error, "ctx", None), "command_path", "rgunit")
        text = error.format_message().replace("Value error, ", "").rstrip(".")
        return f"{text} (see `{path} --help`)", int(getattr(error, "exit_code", 2))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror, 1
    if (missed := missing.told(error)) is not None:
        return missed, 1
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{what} (unexpected: run again with --debug for the traceback)", 1


def _tell(out: TextIO, as_json: bool, message: str, payload: dict[str, object]) -> None:
    """Print a failure: one line on stderr, and the JSON object where one is wanted."""
    line = " ".join(message.split())
    typer.secho("error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
    typer.echo(line, err=True)
    if as_json:
        print(json.dumps({**payload, "error": line}, ensure_ascii=False), file=out, flush=True)


def _stopped(out: TextIO, as_json: bool, words: Sequence[str], how: Stopped | None = None) -> int:
    """Say how to go on after Ctrl-C: as the command does itself, else by the same command."""
    how = how or Stopped(f"the same command: {shlex.join(['rgunit', *words])}")
    typer.echo(str(how), err=True)
    if as_json:
        print(json.dumps({**how.payload, "error": str(how)}, ensure_ascii=False), file=out, flush=True)
    return INTERRUPTED


def _quiet() -> None:
    """Keep the warnings of libraries off the terminal: they address programmers."""
    import logging

    warnings.simplefilter("ignore")
    for name in ("lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
