"""`rgunit runs`: list, compare, rename and delete runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings
from cli.spelling import App
from index_store.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

group = App(
    rich_markup_mode=None,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND] [ARGS]...",
    help="List, compare, rename and delete runs. Without a word behind it: list them.",
    epilog="\b\nExamples:\n  rgunit -w faces runs\n  rgunit -w faces runs compare r1 r5\n"
    "  rgunit -w faces runs rename r5 wide\n  rgunit -w faces runs delete r3 r4",
)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Its id or its name.")]
RunsArgument = Annotated[list[str], typer.Argument(metavar="RUN", help="Their ids or names.")]


def register(app: typer.Typer) -> None:
    """Give the command group to the app."""
    app.add_typer(group, name="runs")


@group.callback()
def runs(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        show(context)


@group.command("list", short_help="List the runs.", epilog="\b\nExample:\n  rgunit -w faces runs list --json")
def show(context: typer.Context) -> None:
    """List the runs, oldest first: what each came from, its steps, time, size on the disk and status."""
    from index_store.runcare import named_by

    settings: Settings = context.obj
    with settings.open() as workspace:
        every = workspace.runs()
        told = [
            {
                "id": run.id,
                "name": run.name,
                "stage": run.stage,
                "preset": run.preset,
                "method": run.config.get("config", {}).get("method"),
                "from": named_by(run, every),
                "steps": run.steps,
                "seconds": round(run.seconds, 1),
                "status": run.status,
                "created": run.created,
                "bytes": run.size(),
                "path": str(run.path),
            }
            for run in every
        ]
    settings.show({"runs": told}, lambda console: _draw_list(console, told))


@group.command(short_help="Compare runs.", epilog="\b\nExample:\n  rgunit -w faces runs compare r1 r5")
def compare(context: typer.Context, chosen: RunsArgument) -> None:
    """Show the settings in which runs differ, and the last numbers of each."""
    from index_store.runcare import compared

    settings: Settings = context.obj
    with settings.open() as workspace:
        every = [workspace.run(name) for name in chosen]
    if len({run.id for run in every}) < 2:
        raise UsageError("name two runs or more to compare: `rgunit runs` lists them")
    told = compared(every)
    settings.show(told, lambda console: _draw_compared(console, told))


@group.command(short_help="Give a run a name.", epilog="\b\nExample:\n  rgunit -w faces runs rename r5 wide")
def rename(
    context: typer.Context,
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A plain word; '' takes the name away.")],
) -> None:
    """Give a run a name, by which every command knows it then. Its id stays."""
    from cli.drawing import plain

    settings: Settings = context.obj
    with settings.open() as workspace:
        record = workspace.rename_run(run, name)
    words = f"run {record.id} is called {record.name}" if record.name else f"run {record.id} has no name"
    settings.show({"run": record.id, "name": record.name}, lambda console: plain(console, words))


@group.command(
    short_help="Delete runs.",
    epilog="\b\nExamples:\n  rgunit -w faces runs delete r3\n  rgunit -w faces runs delete r1 r2 r3 r4 r5 --images",
)
def delete(
    context: typer.Context,
    chosen: RunsArgument,
    images: Annotated[
        bool, typer.Option("--images", help="Also delete the images of the workspace that they made.")
    ] = False,
) -> None:
    """Delete runs with their files. One that another run came from, or that is being trained, is refused.

    Its id is never used again; its vectors stay in the sealed files, where nothing looks for them.
    """
    from cli.drawing import count, plain, size

    settings: Settings = context.obj
    with settings.open() as workspace:
        sizes = {run.id: run.size() for run in map(workspace.run, chosen)}
        before = len(workspace.images())
        gone = workspace.delete_runs(chosen, images=images)
        pictures = before - len(workspace.images())
    told = {"deleted": [run.id for run in gone], "images": pictures, "bytes": sum(sizes.values())}
    words = f"deleted {', '.join(told['deleted'])}: {size(told['bytes'])}"  # type: ignore[arg-type]
    words += f" and {count(pictures, 'image')}" if pictures else ""
    settings.show(told, lambda console: plain(console, words))


def _draw_list(console: Console, told: list[dict[str, Any]]) -> None:
    from cli.drawing import plain, size, span, table

    if not told:
        plain(console, "no runs yet: `rgunit run` trains the three stages")
        return
    named = any(run["name"] for run in told)
    shown = table(
        "run", *(["name"] if named else []), "stage", "from", "preset", "steps", "time", "size", "status",
        right=["steps", "time", "size"],
    )  # fmt: skip
    for run in told:
        shown.add_row(
            run["id"],
            *([run["name"]] if named else []),
            run["stage"],
            " ".join(run["from"]),
            run["preset"],
            str(run["steps"]),
            span(run["seconds"]),
            size(run["bytes"]),
            run["status"],
        )
    console.print(shown)


def _draw_compared(console: Console, told: dict[str, Any]) -> None:
    from cli.drawing import plain, table

    names = told["runs"]
    for what, heading in (("settings", "setting"), ("metrics", "last number")):
        if not told[what]:
            plain(console, f"no {what} that differ" if what == "settings" else "no numbers yet")
            continue
        shown = table(heading, *names, right=names if what == "metrics" else ())
        for name, values in told[what].items():
            shown.add_row(name, *(_value(values[run]) for run in names))
        console.print(shown)
        console.print()


def _value(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
