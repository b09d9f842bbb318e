"""`rgunit methods`: what can be trained, and which parts combine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="List the methods that can be trained.",
        epilog="\b\nExamples:\n  rgunit methods\n  rgunit -w faces train translation --preset demo --method cut",
    )(methods)


def methods(context: typer.Context) -> None:
    """List the methods: paper, what a collection needs, the parts that they take, and their presets."""
    from translation.config import presets_of
    from translation.methods import METHODS, find_method

    settings: Settings = context.obj
    rows: list[dict[str, Any]] = []
    for name in METHODS:
        about = find_method(name).about
        rows.append(
            {
                "name": name,
                "title": about.title,
                "paper": about.paper,
                "year": about.year,
                "needs": list(about.needs),
                "guidance": list(about.guidance),
                "sampling": list(about.sampling),
                "objectives": list(about.objectives),
                "presets": presets_of(name),
                "measured": about.measured or None,
            }
        )
    settings.show({"methods": rows}, lambda console: _draw(console, rows))


def _draw(console: Console, rows: list[dict[str, Any]]) -> None:
    from cli.drawing import plain

    for row in rows:
        plain(console, f"{row['name']}: {row['title']}, {row['year']}", style="bold")
        plain(console, f"  {row['paper']}", style="dim")
        for label in ("needs", "guidance", "sampling", "objectives", "presets"):
            if row[label]:
                plain(console, f"  {label}: {', '.join(row[label])}")
        plain(console, f"  measured: {'docs/' + row['measured'] if row['measured'] else 'not yet'}")
