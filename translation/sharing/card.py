"""The model card: what a shared model is, what it learned from, how good it is, what it cannot do, how to use it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from index_store.workspace import RunRecord, Workspace
from translation.methods import About, find_method
from translation.runs import GUIDED, RETRIEVAL, method_of
from translation.sharing.package import CARD, Manifest

SHOWN = ("accuracy_changed", "accuracy_kept", "fd_attr", "diversity", "n")


def write_card(folder: Path, manifest: Manifest, run: RunRecord, workspace: Workspace) -> None:
    """Write README.md."""
    about: About = find_method(method_of(run)).about
    config, used = run.config["config"], list(run.config.get("attributes_used", ()))
    collection = manifest.collection
    lines = [
        "---",
        "library_name: rgunit",
        f"pipeline_tag: {'image-feature-extraction' if run.stage == RETRIEVAL else 'image-to-image'}",
        f"tags: [rgunit, {method_of(run)}]",
        "---",
        "",
        f"# {about.title}, stage {run.stage}",
        "",
        f"{about.paper}, {about.year}. Made by {manifest.made_by}.",
        "",
        "## Use",
        "",
        *_use(manifest, run),
        "",
        "## What it is",
        "",
        f"- pictures of {config['data']['size']}×{config['data']['size']} pixels, RGB in [−1, 1]",
        f"- attributes that make up the style: {', '.join(used) or 'none'}",
        f"- preset {run.preset}, {run.steps} steps, seed {run.config.get('seed', '?')}",
    ]
    if run.stage == GUIDED:
        told = f"{collection.images} pictures come with it" if collection else "unguided: no collection comes with it"
        lines.append(f"- guided by {config['guided']['neighbours']} neighbours; {told}")
    lines += ["", "## Data", "", *_data(workspace)]
    if collection:
        lines.append(f"- the pictures in `collection/` are shared under: {' '.join(collection.licence.split())}")
    lines += ["", "## Measured", "", *_measured(workspace, run)]
    lines += [
        "",
        "## Limits",
        "",
        "- It knows the pictures that it learned from: others (another pose, size or light) it translates worse.",
        "- An attribute is what the labels of its collection say it is, with their mistakes and biases.",
        "- It paints what people did not look like. Do not use it to deceive, or to judge who somebody is.",
    ]
    if manifest.parity is not None:
        lines += ["", f"ONNX graphs differ from PyTorch by at most {manifest.parity:.1g} (checked when written)."]
    if manifest.command:
        lines += ["", "Exported by", "", f"    {manifest.command}"]
    (folder / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _use(manifest: Manifest, run: RunRecord) -> list[str]:
    if manifest.form == "onnx":
        names = [name for name in manifest.files if name.endswith(".onnx")]
        return [f"Graphs for onnxruntime, any batch: {', '.join(f'`{name}`' for name in names)}."]
    lines = ["    rgunit -w faces import-model THIS_FOLDER"]
    if run.stage == RETRIEVAL:
        return [*lines, "    rgunit -w faces similar me.jpg"]
    used = run.config.get("attributes_used") or []
    edit = "" if "target" in run.config or not used else f" --to '+{used[0]}'"
    return [*lines, f"    rgunit -w faces translate me.jpg{edit} --out made"]


def _data(workspace: Workspace) -> list[str]:
    table = workspace.images("origin=real|unlabelled")
    counts: dict[str, int] = {}
    for origin, split in zip(table.origin, table.split, strict=True):
        counts[f"{origin}, {split}"] = counts.get(f"{origin}, {split}", 0) + 1
    return [f"- {name}: {count} images" for name, count in sorted(counts.items())] or ["- none of it is here any more"]


def _measured(workspace: Workspace, run: RunRecord) -> list[str]:
    """What the newest evaluation that judged this run says, else what its training measured last."""
    for judged in reversed(workspace.runs("evaluate")):
        if run.id in judged.config.get("runs", {}) and run.stage != RETRIEVAL:
            arms = judged.summary.get("translation") or {}
            rows = [(name, row) for name, row in arms.items() if isinstance(row, dict) and "accuracy_changed" in row]
            if rows:
                lines = [f"| arm | {' | '.join(SHOWN)} |", f"|---|{'---|' * len(SHOWN)}"]
                return lines + [
                    f"| {name} | {' | '.join(_told(row.get(key)) for key in SHOWN)} |" for name, row in rows
                ]
    numbers = {k: v for k, v in run.summary.items() if isinstance(v, int | float) and math.isfinite(v)}
    return [f"- {name}: {_told(value)}" for name, value in sorted(numbers.items())] or ["Nothing yet."]


def _told(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
