"""`rgunit evaluate guidance`: trains and compares the arms of the paper's tables over several seeds."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.choices import BothWaysOption, JudgeCropOption, JudgeOption, SeedsOption, check_judge, numbers_of, seeds_of
from cli.settings import Settings
from index_store.errors import UsageError
from index_store.names import listed_names

if TYPE_CHECKING:
    from rich.console import Console

    from translation.evaluation.experiments.plan import Plan

MEASURES = {
    "accuracy_changed": "changed",
    "accuracy_kept": "kept",
    "fd_attr": "FD-attr",
    "fd_judge": "FD-judge",
    "truth": "to truth",
    "truth_edit": "in edit",
    "neighbour_copies": "copies",
}
"""The measures that the terminal shows, those that there are."""


class Until(StrEnum):
    """Where an experiment stops."""

    stages = "stages"
    arms = "arms"
    judged = "judged"


def register(group: typer.Typer) -> None:
    """Give the command to the group `evaluate`."""
    group.command(
        short_help="Does guidance help? The paper's tables over several seeds.",
        epilog="\b\nRows:\n"
        "  1  Table 2: unguided, random neighbours, guided\n"
        "  2  the same arms on drawn faces, whose true translation is known (needs no workspace)\n"
        "  3  Table 3: a quarter and all of the labels\n"
        "  4  kinds of guidance: convolution, attention, patches, style; neighbour dropout\n"
        "  5  Table 4: 1, 3 and 10 neighbours\n\n"
        "\b\nExamples:\n"
        "  rgunit evaluate guidance --rows 1,2 --seeds 0,1,2\n"
        "  rgunit -w faces evaluate guidance --rows 1 --seeds 0,1,2 --steps 600 --out guidance\n"
        "  rgunit evaluate guidance --rows 2 --steps 300 --translation-minutes 4 --out drawn\n"
        "  rgunit -w faces evaluate guidance --rows 4 --steps 600 --jobs 12 --until arms --carry small --out guidance",
    )(guidance)


def guidance(
    context: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Folder of the results. Without it the plan is shown, nothing is done."
        ),
    ] = None,
    rows: Annotated[str, typer.Option(metavar="N,N", help="Rows, in the order in which they are done.")] = "1,2,3,4,5",
    seeds: SeedsOption = None,
    arms: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these arms of the rows. Default: all of them.")
    ] = None,
    until: Annotated[
        Until, typer.Option(help="Stop after stages 1 and 2, or after the arms are trained, or do all of it.")
    ] = Until.judged,
    jobs: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Trainings at once, each in a copy of the workspace; more than 1 needs --steps."
        ),
    ] = 1,
    minutes: Annotated[
        float, typer.Option(metavar="M", min=0.01, help="Minutes of a seed's first arm; the others take as many steps.")
    ] = 15.0,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Steps of every arm instead.")] = None,
    translation_minutes: Annotated[
        float, typer.Option(metavar="M", min=0.01, help="Minutes of stage 1 of a seed.")
    ] = 45.0,
    retrieval_minutes: Annotated[
        float, typer.Option(metavar="M", min=0.01, help="Minutes of stage 2 of a seed.")
    ] = 3.0,
    start: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SEED=RUN[,RUN]",
            help="Start a seed from a stage-1 run of the workspace (and a stage-2 run). May be repeated.",
        ),
    ] = None,
    preset: Annotated[str, typer.Option(metavar="NAME", help="Preset of the workspace's trainings.")] = "celeba-64",
    drawn_preset: Annotated[str, typer.Option(metavar="NAME", help="Preset of row 2.")] = "demo",
    drawn_images: Annotated[int, typer.Option(metavar="N", min=60, help="Faces to draw for row 2.")] = 1500,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting over the presets'. May be repeated."),
    ] = None,
    use: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,…",
            help="Also judge the guided and random arms of rows 1 and 2 with these settings of section `guided` in "
            "place of those of their training, such as neighbour_style=0.75,neighbours=5. May be repeated.",
        ),
    ] = None,
    attributes_used: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Attributes that are the style. Default: all.")
    ] = None,
    both_ways: BothWaysOption = False,
    judge: JudgeOption = None,
    judge_crop: JudgeCropOption = None,
    carry: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="With --until arms: leave a small copy of the workspace there, to be judged on another machine.",
        ),
    ] = None,
) -> None:
    """Train guided, random and unguided translation from one start in equal steps; judge them on the same pairs.

    Stages 1 and 2 of a seed are trained once and serve all rows. Every result is a file in --out: what is there is not
    done again, so the same command goes on where it was stopped. Runs that the workspace had before are left alone.
    """
    from cli.progress import Bars
    from translation.evaluation.experiments.plan import Plan

    settings: Settings = context.obj
    check_judge(judge, judge_crop)
    plan = Plan(
        out=out,
        workspace=settings.folder,
        rows=numbers_of("--rows", rows),
        seeds=seeds_of(seeds, settings.seed),
        arms=None if arms is None else listed_names(arms),
        until=until.value,
        jobs=jobs,
        minutes=minutes,
        steps=steps,
        translation_minutes=translation_minutes,
        retrieval_minutes=retrieval_minutes,
        start=dict(_start(text) for text in start or ()),
        preset=preset,
        drawn_preset=drawn_preset,
        drawn_images=drawn_images,
        settings=tuple(overrides or ()),
        use=tuple(_use(text) for text in use or ()),
        attributes_used=listed_names(attributes_used),
        both_ways=both_ways,
        judge=judge,
        judge_crop=judge_crop,
        carry=carry,
        device=settings.device,
    )
    if out is None:
        plan.configs()
        hours = sum(row["minutes"] for row in plan.cost()) / 60
        cost = {"rows": plan.cost(), "hours": round(hours, 2), "steps": steps}
        settings.show(cost, lambda console: _draw_plan(console, cost))
        return
    with Bars() as bars:
        from translation.evaluation.experiments.guidance import run_guidance

        found = run_guidance(plan, bars)
    settings.show(found, lambda console: _draw(console, plan, found))


def _start(text: str) -> tuple[int, dict[str, str]]:
    seed, equals, runs = text.partition("=")
    names = listed_names(runs)
    if not equals or not seed.strip().isdecimal() or len(names) not in (1, 2):
        raise UsageError(f"--start takes SEED=RUN or SEED=RUN,RUN (stages 1 and 2), not {text!r}")
    return int(seed), dict(zip(("translation", "retrieval"), names, strict=False))


def _use(text: str) -> dict[str, Any]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {key.strip(): tomllib.loads(f"value = {value}")["value"] for key, value in pairs}
    except ValueError:  # no `=`, or no value of TOML
        raise UsageError(f"--use takes KEY=VALUE,KEY=VALUE, not {text!r}") from None


def _draw_plan(console: Console, cost: dict[str, Any]) -> None:
    from cli.drawing import plain, table

    numbers = ("seeds", "starts", "arms", "minutes")
    shown = table("row", *numbers, "", right=("row", *numbers))
    for row in cost["rows"]:
        shown.add_row(str(row["row"]), *(f"{row[name]:.0f}" for name in numbers), row["title"])
    console.print(shown)
    steps = f" and {cost['steps']} steps of each arm" if cost["steps"] else ""
    plain(
        console,
        f"{cost['hours']:.1f} hours at most, without the evaluations{steps}. Starts (stages 1 and 2) and arms are "
        "those of one seed; arms that rows share are trained once.",
        style="dim",
    )
    plain(console, "Give --out DIR to do it.")


def _draw(console: Console, plan: Plan, found: dict[str, Any]) -> None:
    from cli.drawing import count, plain

    for row in plan.rows:
        judged = [one for one in found["rows"] if one["row"] == row]
        for part in dict.fromkeys(part for one in judged for part in one["parts"]):
            having = [one for one in judged if part in one["parts"]]
            title = f"{row}. {having[0]['title']}{', ' + part if part else ''} (seeds {_listed(having)})"
            _draw_part(console, title, [one["parts"][part] for one in having])
        for over in (one for one in found["over_seeds"] if one["row"] == row):
            for part, compared in over["parts"].items():
                _draw_gaps(console, f"over {count(len(over['seeds']), 'seed')}{', ' * bool(part)}{part}", compared)
    if not found["rows"]:
        plain(console, f"{count(len(found['runs']), 'training')} done; nothing is judged yet")
    if plan.carry is not None:
        plain(console, f"to judge elsewhere: {plan.carry.absolute()} and the results' folder", style="bold")
    plain(console, f"results: {found['out']}", style="bold")


def _listed(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(one["seed"]) for one in rows)


def _draw_part(console: Console, title: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Means over the seeds of each arm, and how each compares with the unguided one, seed by seed."""
    from cli.drawing import table

    arms = [name for name, one in found[0].items() if isinstance(one, dict) and "accuracy_changed" in one]
    columns = {
        name: short
        for name, short in MEASURES.items()
        if any(one.get(arm, {}).get(name) is not None for one in found for arm in arms)
    }
    shown = table("arm", *columns.values(), right=columns.values(), title=title)
    for arm in arms:
        shown.add_row(arm, *(_mean([one.get(arm, {}).get(name) for one in found]) for name in columns))
    console.print()
    console.print(shown)
    if len(found) == 1:
        _draw_gaps(console, "of this seed", found[0]["comparisons"])


def _draw_gaps(console: Console, title: str, compared: Mapping[str, Mapping[str, Any]]) -> None:
    """A line for each comparison with the unguided arm, and of the guided one with others: differences, intervals."""
    from cli.drawing import difference, plain

    pairs = [pair for pair in compared if pair.endswith(" vs unguided") or pair.startswith("guided vs ")]
    if pairs:
        console.print()
        plain(console, f"Differences with 95 % intervals, {title}:", style="dim")
    for pair in pairs:
        told = [
            f"{MEASURES[name]} {difference(gap)}" for name, gap in compared[pair].items() if name in MEASURES and gap
        ]
        plain(console, f"  {pair}: {'; '.join(told)}")


def _mean(values: Sequence[float | None]) -> str:
    from cli.drawing import number

    known = [value for value in values if value is not None]
    return number(sum(known) / len(known) if known else None)
