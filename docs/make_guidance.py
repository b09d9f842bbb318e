"""The tables of `rgunit evaluate guidance` as Markdown: arms down, measures across, mean and range over the seeds.

    python docs/make_guidance.py proof > guidance.md

Below each table the differences from the unguided arm, seed by seed, with the 95 % intervals of the evaluation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SHOWN = ("accuracy_changed", "accuracy_kept", "fd_attr", "fd_judge", "truth", "neighbour_copies", "diversity")


def tables(folder: Path) -> str:
    """Markdown tables of all rows in `folder`: mean over the seeds (their range where there are several)."""
    lines: list[str] = []
    for row in sorted({int(file.name.split("-")[1]) for file in folder.glob("row-*-seed-*.json")}):
        files = folder.glob(f"row-{row}-seed-*.json")
        seeds = sorted((json.loads(file.read_text()) for file in files), key=lambda one: int(one["seed"]))
        title = seeds[0]["title"]
        for part in dict.fromkeys(part for one in seeds for part in one["parts"]):
            having = [one for one in seeds if part in one["parts"]]
            found = [one["parts"][part] for one in having]
            arms = [k for k, v in found[0].items() if isinstance(v, dict) and "accuracy_changed" in v]
            columns = [m for m in SHOWN if any(one.get(arm, {}).get(m) is not None for one in found for arm in arms)]
            heading = f"## {row}. {title}{', ' + part if part else ''}"
            told = f"seeds {', '.join(str(one['seed']) for one in having)}; {having[0]['steps']} steps an arm"
            lines += [heading, "", told, "", "| arm | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
            for arm in arms:
                cells = [_cell([one.get(arm, {}).get(measure) for one in found]) for measure in columns]
                lines.append(f"| {arm} | " + " | ".join(cells) + " |")
            lines += ["", *_gaps(found), *_over_seeds(folder, row, part), ""]
            both = _over_seeds(folder, row, f"{part}, both ways" if part else "both ways")
            lines += ["With the halves exchanged as well:", "", *both, ""] if both else []
    return "\n".join(lines)


def _gaps(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each arm against unguided and measure: the differences seed by seed with their intervals."""
    lines = []
    for pair in (key for key in found[0]["comparisons"] if key.endswith(" vs unguided")):
        for measure in ("fd_attr", "accuracy_changed", "truth"):
            gaps = [one["comparisons"].get(pair, {}).get(measure) for one in found]
            told = [_gap(gap) for gap in gaps if gap]
            lines += [f"- {pair}, {measure}: {'; '.join(told)}"] if told else []
    return lines


def _over_seeds(folder: Path, row: int, part: str) -> list[str]:
    """The same for the mean over the seeds."""
    path = folder / f"row-{row}-over-seeds.json"
    if not path.exists():
        return []
    lines = []
    for pair, gaps in json.loads(path.read_text())["parts"].get(part, {}).items():
        told = [f"{measure} {_gap(gap)}" for measure, gap in gaps.items()]
        lines.append(f"- over the seeds, {pair}: {'; '.join(told)}")
    return lines


def _gap(gap: Mapping[str, Any]) -> str:
    return f"{gap['difference']:+.3f} ({gap['interval'][0]:+.3f} … {gap['interval'][1]:+.3f})"


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    spread = f" ({min(known):.3f} … {max(known):.3f})" if len(known) > 1 else ""
    return f"{sum(known) / len(known):.3f}{spread}" if known else "–"


if __name__ == "__main__":
    if len(sys.argv) != 2 or not list(Path(sys.argv[1]).glob("row-*-seed-*.json")):
        sys.exit("usage: python docs/make_guidance.py FOLDER (the --out of rgunit evaluate guidance)")
    print(tables(Path(sys.argv[1])))
