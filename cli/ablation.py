"""`rgunit evaluate retrieval --ablation`: the paper's Table 1 and what was tried beyond it, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from retrieval.evaluation import RetrievalProtocol

SHOWN = ("attributes", "content", "average", "both")


@dataclass(frozen=True)
class AblationOptions:
    """Which rows, with how many seeds and steps, in how many processes."""

    rows: str | None
    seeds: int
    steps: int
    jobs: int | None


def run(settings: Settings, protocol: RetrievalProtocol, options: AblationOptions, plane: Path | None) -> None:
    """Train and judge the rows that are missing, and show the table."""
    from cli.progress import Bars
    from retrieval.ablation import ROWS, Plan, run_ablation
    from retrieval.config import RetrievalConfig
    from retrieval.loading import resolve_device
    from translation.runs import TRANSLATION, newest

    rows = [row.strip() for row in options.rows.split(",")] if options.rows else list(ROWS)
    with settings.open() as workspace:
        source = newest(workspace, TRANSLATION)
        path = workspace.path
    plan = Plan(
        path, source.id, RetrievalConfig(pool=2.0), options.steps, protocol, str(resolve_device(settings.device))
    )
    with Bars() as bars:

        def tell(what: str, done: int, total: int) -> None:
            bars.stage(what)
            bars.step(done, total)

        seeds = range(settings.seed, settings.seed + options.seeds)
        found = run_ablation(plan, rows=rows, seeds=seeds, jobs=options.jobs, progress=tell)
    if plane is not None:
        from translation.evaluation.report.plane import Point, draw_plane

        points = [
            Point(
                row["row"],
                row["mean"]["attributes"],
                row["mean"]["content"],
                None if row["spread"]["content"] is None else (row["spread"]["attributes"], row["spread"]["content"]),
            )
            for row in found["rows"]
            if row["mean"]["content"] is not None
        ]
        if points and found["late_fusion_curve"][0]["content"] is not None:
            draw_plane(points, found["late_fusion_curve"], plane)
    settings.show(found, lambda console: _draw(console, found, plan.folder))


def _draw(console: Console, found: dict[str, Any], folder: Path) -> None:
    from cli.drawing import plain, table

    columns = [name for name in SHOWN if any(row["mean"][name] is not None for row in found["rows"])]
    shown = table("row", *columns, "seeds", "", right=[*columns, "seeds"])
    for name, scores in found["baselines"].items():
        shown.add_row(name, *(_number(scores.get(column), None) for column in columns), "", "")
    for row in found["rows"]:
        numbers = (_number(row["mean"][column], row["spread"][column]) for column in columns)
        shown.add_row(row["row"], *numbers, str(len(row["seeds"])), row["says"])
    console.print(shown)
    plain(
        console,
        f"{found['queries']} queries; mean ± standard deviation over seeds; {found['steps']} steps",
        style="dim",
    )
    plain(console, f"one file for each row: {folder}", style="dim")


def _number(value: float | None, spread: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"
