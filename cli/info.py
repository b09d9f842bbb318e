"""`rgunit info`: what is in the workspace."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import typer

from cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from index_store.workspace import ImageTable, RunRecord, Workspace

BITS = {"true": 1, "false": 0, "unknown": -1}


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(short_help="Show what is in the workspace.", epilog="\b\nExample:\n  rgunit -w faces info")(info)


def info(context: typer.Context) -> None:
    """Show what the workspace holds: images by origin and split, attributes, groups, runs; and the presets."""
    settings: Settings = context.obj
    with settings.open() as workspace:
        table = workspace.images()
        payload = collection(workspace)
        settings.show(payload, lambda console: _draw(console, payload, table))


def collection(workspace: Workspace) -> dict[str, Any]:
    """What a workspace holds, as `info --json` tells it."""
    from translation.config import presets

    table = workspace.images()
    return {
        "workspace": str(workspace.path),
        "images": len(table),
        "by_origin": dict(Counter(map(str, table.origin))),
        "by_split": dict(Counter(map(str, table.split))),
        "attributes": list(table.schema.names),
        "labels": {
            name: {told: int((table.labels[:, column] == bit).sum()) for told, bit in BITS.items()}
            for column, name in enumerate(table.schema.names)
        },
        "groups": [list(group) for group in table.schema.groups],
        "group_violations": table.schema.violations(table.labels),
        "fields": list(table.fields),
        "runs": [run_row(run) for run in workspace.runs()],
        "presets": presets(),
    }


def run_row(run: RunRecord) -> dict[str, Any]:
    """A run as `info --json` tells it."""
    return {
        "id": run.id,
        "stage": run.stage,
        "preset": run.preset,
        "steps": run.steps,
        "status": run.status,
        "seconds": round(run.seconds, 1),
        "created": run.created,
        "path": str(run.path),
    }


def _draw(console: Console, told: dict[str, Any], images: ImageTable) -> None:
    from cli.drawing import plain, span, table

    plain(console, told["workspace"], style="bold")
    counts = Counter(zip(map(str, images.origin), map(str, images.split), strict=True))
    splits = sorted(told["by_split"])
    shown = table("images", *splits, "all", right=[*splits, "all"])
    for origin, every in sorted(told["by_origin"].items()):
        shown.add_row(origin, *(str(counts[origin, split]) for split in splits), str(every))
    shown.add_row("all", *(str(told["by_split"][split]) for split in splits), str(told["images"]), style="bold")
    console.print(shown)
    if told["attributes"]:
        real = images.labels[images.origin != "generated"]
        shown = table("attribute", "true", "unknown", "group", right=["true", "unknown"])
        for column, name in enumerate(told["attributes"]):
            bits = real[:, column]
            known = int((bits >= 0).sum())
            true = f"{100 * int((bits == 1).sum()) / known:.0f} %" if known else "–"
            group = next((" | ".join(group) for group in told["groups"] if name in group), "")
            shown.add_row(name, true, str(len(bits) - known) if known < len(bits) else "", group)
        console.print()
        console.print(shown)
        if told["group_violations"]:
            plain(console, f"{told['group_violations']} images have more than one of a group true")
    if images.fields:
        shown = table("text column", "values", "images", "most frequent", right=["values", "images"])
        for name, texts in images.fields.items():
            values = Counter(text for text in texts if text is not None)
            often = ", ".join(value for value, _ in values.most_common(4)) + (", …" if len(values) > 4 else "")
            shown.add_row(name, str(len(values)), str(values.total()), often)
        console.print()
        console.print(shown)
    console.print()
    if told["runs"]:
        shown = table("run", "stage", "preset", "steps", "time", "status", right=["steps", "time"])
        for run in told["runs"]:
            row = (run["id"], run["stage"], run["preset"], str(run["steps"]), span(run["seconds"]), run["status"])
            shown.add_row(*row)
        console.print(shown)
    else:
        plain(console, "no runs yet: `rgunit run` trains the three stages")
    plain(console, f"presets: {', '.join(told['presets'])}", style="dim")
