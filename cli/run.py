"""`rgunit run` and `rgunit demo`: all stages in order, evaluation and the report."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.choices import AttributesOption, ConfigOption, MethodOption, MinutesOption, PresetOption, SetOption
from cli.settings import DEFAULT_WORKSPACE, Settings, Stopped
from index_store.names import listed_names

if TYPE_CHECKING:
    from rich.console import Console

    from translation.pipeline import PipelineResult
    from translation.planning import RunPlan

DEMO_WORKSPACE = DEFAULT_WORKSPACE / "demo"


def register(app: typer.Typer) -> None:
    """Give the commands to the app."""
    app.command(
        short_help="The whole job on built-in drawn faces.",
        epilog="\b\nExamples:\n  rgunit demo\n  rgunit -w /tmp/faces demo --images 3000 --minutes 15",
    )(demo)
    app.command(
        short_help="The whole job on your images.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces run --preset celeba-64 --minutes 40\n"
        "  rgunit -w faces run --attributes-used Black_Hair,Blond_Hair,Brown_Hair,Male,Young\n"
        "  rgunit -w faces run --minutes 40 --dry-run\n"
        "  rgunit -w faces run --config my.toml --set translation.batch=16",
    )(run)


def run(
    context: typer.Context,
    preset: PresetOption = None,
    method: MethodOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    attributes_used: AttributesOption = None,
    minutes: MinutesOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Time a few steps, show what the minutes would be used for, and stop.")
    ] = False,
) -> None:
    """Do the whole job: train the three stages, fill the index, evaluate, write report.html.

    Finished stages are skipped and a half-finished one is resumed: the same command again continues.
    """
    from cli.choices import command_line, configuration
    from cli.progress import Bars

    settings: Settings = context.obj
    with settings.open() as workspace:
        used = listed_names(attributes_used)
        workspace.schema.indices(used)
        chosen = configuration(workspace, preset, config, overrides or [], method=method)
        if dry_run:
            from translation.planning import plan_run

            plan = plan_run(
                workspace, chosen, attributes_used=used, minutes=minutes, seed=settings.seed, device=settings.device
            )
            settings.show(asdict(plan), lambda console: _draw_plan(console, plan))
            return
        with Bars() as bars:
            from translation.pipeline import run_all
            from translation.runs import default_run, direction_of

            result = run_all(
                workspace,
                chosen,
                attributes_used=used,
                minutes=minutes,
                seed=settings.seed,
                device=settings.device,
                progress=bars,
                commands=[command_line()],
            )
            one_way = not result.stopped and direction_of(default_run(workspace)) is not None
    _end(settings, settings.folder, result, command_line(), one_way=one_way)


def demo(
    context: typer.Context,
    images: Annotated[
        int | None, typer.Option(metavar="N", min=60, help="Labelled faces to draw. Default: the preset's, 1500.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(metavar="PX", min=32, help="Their side, a multiple of 32. Default: 32.")
    ] = None,
    minutes: MinutesOption = None,
) -> None:
    """Do the whole job on built-in drawn faces, whose true translations and neighbours are known.

    Nothing is downloaded. The workspace is workspace/demo unless -w names another (RGUNIT_WORKSPACE, which is for your
    own images, is ignored).
    """
    from cli.choices import command_line
    from cli.progress import Bars

    settings: Settings = context.obj
    folder = settings.folder if settings.chosen_here else DEMO_WORKSPACE
    with Bars() as bars:
        from translation.pipeline import run_demo

        result = run_demo(
            folder,
            images=images,
            size=size,
            minutes=minutes,
            seed=settings.seed,
            device=settings.device,
            progress=bars,
        )
    _end(settings, folder, result, command_line())


def _end(settings: Settings, folder: Path, result: PipelineResult, command: str, *, one_way: bool = False) -> None:
    """Show the tables and the report's path; a stopped run says how to go on."""
    payload: dict[str, Any] = {
        "stages": result.stages,
        "retrieval": result.retrieval,
        "translation": result.translation,
        "report": None if result.report is None else str(Path(result.report).absolute()),
    }
    if result.stopped:
        raise Stopped(f"the same command: {command}", payload)
    settings.show(payload, lambda console: _draw(console, folder, payload, one_way))


def _draw_plan(console: Console, plan: RunPlan) -> None:
    from cli.drawing import plain, span, table

    shown = table("stage", "time", "steps", right=("time", "steps"))
    done = [stage for stage in plan.stages if "skipped" not in stage]
    for stage in done:
        minutes, steps = stage["minutes"], stage["steps"]
        shown.add_row(
            stage["name"], "–" if minutes is None else span(60 * minutes), "" if steps is None else f"about {steps}"
        )
    console.print(shown)
    if skipped := [one for one in plan.stages if "skipped" in one]:
        plain(console, f"skipped: {', '.join(one['name'] for one in skipped)} ({skipped[0]['skipped']})", style="dim")
    plain(
        console,
        f"a step of stage 1 takes {plan.seconds_a_step:.2f} s; about {plan.memory_mib:,.0f} MiB of memory, at most "
        f"{plan.disk_mib:,.0f} MiB of disk",
        style="dim",
    )
    plain(console, plan.warning() or f"minutes needed: at least {max(1, math.ceil(plan.least_minutes))}")


def _draw(console: Console, folder: Path, told: dict[str, Any], one_way: bool) -> None:
    from cli.drawing import plain, span
    from translation.evaluation.report.terminal import terminal_table

    console.print()
    console.print(terminal_table(told["retrieval"], told["translation"]))
    console.print()
    times = ", ".join(f"{one['name']} {span(one['seconds'])}" for one in told["stages"] if "skipped" not in one)
    if skipped := [one for one in told["stages"] if "skipped" in one]:
        plain(console, f"skipped: {', '.join(one['name'] for one in skipped)} ({skipped[0]['skipped']})", style="dim")
    plain(console, f"{times}; together {span(sum(stage['seconds'] for stage in told['stages']))}", style="dim")
    plain(console, f"report: {told['report']}", style="bold")
    edit = "" if one_way else " --to '+…'"
    if told["retrieval"] is None:
        plain(console, f"next: rgunit -w {folder} translate IMAGE{edit}", style="dim")
        return
    plain(console, f"next: rgunit -w {folder} query IMAGE{edit}, or translate IMAGE{edit}", style="dim")
