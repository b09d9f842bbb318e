"""Print the Markdown tables of an ablation's JSON (`rgunit --json evaluate retrieval --ablation > FILE`).

python docs/make_ablation.py docs/results/ablation-celeba.json [ATTRIBUTE]  # content where it is kept, flipped
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS = ("attributes", "content", "average", "both")
FURTHER = ("label_filter", "label_filter_hidden", "bridge_source", "bridge_expand")


def cell(value: float | None, spread: float | None = None) -> str:
    """A number as `.924 ± .001`."""
    if value is None:
        return "–"
    return f"{value:.3f}".lstrip("0") + (f" ± {spread:.3f}".replace("0.", ".") if spread is not None else "")


def line(name: str, scores: Mapping[str, Any], spread: Mapping[str, Any], *more: str) -> str:
    """A row of the table."""
    return f"| {name} | " + " | ".join([*(cell(scores.get(c), spread.get(c)) for c in COLUMNS), *more]) + " |"


def main() -> None:
    """Print every row, and the curve of late fusion and of the rows that have one."""
    found = json.loads(Path(sys.argv[1]).read_text())
    apart = sys.argv[2] if len(sys.argv) > 2 else None
    heads = [*COLUMNS, *([f"content, {apart} kept", "flipped"] if apart else [])]
    print("| | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))

    def kept_and_flipped(scores: Mapping[str, Any]) -> list[str]:
        if apart is None:
            return []
        parts = scores.get("by_change", {}).get(apart, {})
        return [cell(parts.get(which, {}).get("content")) for which in ("kept", "flipped")]

    for name, scores in found["baselines"].items():
        print(line(name.replace("_", " "), scores, {}, *kept_and_flipped(scores)))
    for row in found["rows"]:
        print(line(f"**{row['row']}**: {row['says']}", row["mean"], row["spread"], *kept_and_flipped(row)))
    print("\n| weight of content | " + " | ".join(f"{p['weight']:.1f}" for p in found["late_fusion_curve"]) + " |")
    print("|---|" + "---|" * len(found["late_fusion_curve"]))
    weights = [point["weight"] for point in found["late_fusion_curve"]]
    curves = {"E_c pooled": found["late_fusion_curve"], **{r["row"]: r["curve"] for r in found["rows"] if r["curve"]}}
    for name, curve in curves.items():
        points = [point for point in curve if point["weight"] in weights]
        print(f"| {name} | " + " | ".join(f"{cell(p['attributes'])} / {cell(p['content'])}" for p in points) + " |")
    print("\n| | embedding | all labels as a filter | a quarter of them | bridges: source | bridges: expanded |")
    print("|---|" + "---|" * 5)
    for row in found["rows"]:
        parts = [row["mean"], *(row[name] for name in FURTHER)]
        print(
            f"| {row['row']} | " + " | ".join(f"{cell(p['attributes'])} / {cell(p['content'])}" for p in parts) + " |"
        )


if __name__ == "__main__":
    main()
