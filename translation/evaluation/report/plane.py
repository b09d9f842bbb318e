"""The attributes–content plane: what a retrieval found of the labels asked for, and of the query's own.

Late fusion's curve is what two distances and one weight reach: a network is worth its training above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from translation.evaluation.report.charts import number, rule, svg, text, ticks
from translation.evaluation.report.verdicts import BASELINES

_WIDTH, _HEIGHT = 560, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 40
_LETTER, _LINE = 5.3, 12.0  # width and height of a letter, in the chart's units
_STYLE = """
svg { background: #fcfcfa; font: 10.5px system-ui, -apple-system, "Segoe UI", Arial, sans-serif; }
text { fill: #66655f; } .name { fill: #1c1c1a; } .name.control { fill: #66655f; }
.grid { stroke: #dedcd5; stroke-width: .7; } .axis { stroke: #66655f; stroke-width: .7; }
.line { fill: none; stroke-width: 1.7; stroke-linejoin: round; } .s1 { stroke: #b9501a; } .bead { fill: #b9501a; }
.whisker { stroke-width: 1; } .whisker.s0 { stroke: #24609e; } .whisker.control { stroke: #66655f; }
.dot.s0 { fill: #24609e; } .dot.control { fill: #fcfcfa; stroke: #66655f; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  svg { background: #16171a; } text, .name.control { fill: #a09f98; } .name { fill: #e6e5e0; }
  .grid { stroke: #35363b; } .axis, .whisker.control { stroke: #a09f98; }
  .s1 { stroke: #eb9b66; } .bead { fill: #eb9b66; }
  .whisker.s0 { stroke: #7fb4ea; } .dot.s0 { fill: #7fb4ea; } .dot.control { fill: #16171a; stroke: #a09f98; }
}
"""

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """A retrieval on the plane: P@k in [0, 1] of both, their spread over seeds, and whether it is a control."""

    name: str
    attributes: float
    content: float
    spread: tuple[float, float] | None = None
    control: bool = False


def points_of(retrieval: Mapping[str, Any]) -> list[Point]:
    """The points of one evaluation's JSON: this run, random images, the baselines that are no late fusion."""
    rows = {"this run": retrieval, "random images": retrieval["random"]}
    names = {**BASELINES, "same_labels": "right labels"}
    rows |= {names.get(n, n): v for n, v in (retrieval.get("baselines") or {}).items() if n != "late_fusion"}
    return [
        Point(name, scores["attributes"], scores["content"], control=name != "this run")
        for name, scores in rows.items()
        if scores["attributes"] is not None and scores["content"] is not None
    ]


def plane(points: Sequence[Point], curve: Sequence[Mapping[str, Any]], *, label: str) -> Markup:
    """An SVG of points and of late fusion's `curve` ({weight, attributes, content}, in order of weight).

    Colours are classes, as in `charts`. Empty Markup without a point.
    """
    beads = [(row["weight"], row["attributes"], row["content"]) for row in curve if row["content"] is not None]
    if not points:
        return Markup("")
    x_low, x_high = _range([p.attributes for p in points] + [x for _, x, _ in beads])
    y_low, y_high = _range([p.content for p in points] + [y for _, _, y in beads])
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def at(attributes: float, content: float) -> tuple[float, float]:
        x = _LEFT + (right - _LEFT) * (attributes - x_low) / (x_high - x_low)
        return x, bottom - (bottom - _TOP) * (content - y_low) / (y_high - y_low)

    parts = []
    for value in ticks(x_low, x_high, 6):
        x = at(value, y_low)[0]
        parts += [rule("grid", x, x, _TOP, bottom), text(x, bottom + 15, "middle", number(value))]
    for value in ticks(y_low, y_high, 6):
        y = at(x_low, value)[1]
        parts += [rule("grid", _LEFT, right, y, y), text(_LEFT - 6, y + 3.5, "end", number(value))]
    parts += [rule("axis", _LEFT, right, bottom, bottom), rule("axis", _LEFT, _LEFT, _TOP, bottom)]
    parts += [text(right, _HEIGHT - 6, "end", "labels asked for →"), text(_LEFT + 5, _TOP + 9, "start", "↑ content")]
    spots = [at(x, y) for _, x, y in beads]
    parts += [_polyline(spots), *(f'<circle class="bead" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in spots)]
    dots = [at(point.attributes, point.content) for point in points]
    for point, (x, y) in zip(points, dots, strict=True):
        kind = "control" if point.control else "s0"
        if point.spread is not None:
            (a, low), (b, high) = (
                at(point.attributes + s * point.spread[0], point.content + s * point.spread[1]) for s in (-1, 1)
            )
            parts += [rule(f"whisker {kind}", a, b, y, y), rule(f"whisker {kind}", x, x, low, high)]
        parts.append(f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    names = [(p.name, "name control" if p.control else "name", *spot) for p, spot in zip(points, dots, strict=True)]
    if beads:
        first, last = beads[0], beads[-1]
        names.append((f"late fusion, {first[0]:.1f} of content", "tick", *spots[0]))
        names.append((f"{last[0]:.1f} of content", "tick", *spots[-1]))
    parts += _names(names, [*dots, *_along(spots)], (_LEFT, _TOP, _WIDTH - 6.0, bottom))
    return svg(_WIDTH, _HEIGHT, label, [part for part in parts if part])


def draw_plane(points: Sequence[Point], curve: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write `plane` as an SVG file of its own, for light and dark, whole or not at all; return its path."""
    drawn = str(plane(points, curve, label="P@k of the labels asked for and of the query's other labels"))
    head, body = drawn.split(">", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(f'{head} xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>{body}\n', encoding="utf-8")
    part.replace(path)
    return path


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    gap = 0.09 * ((high - low) or 0.1)
    return low - gap, high + gap


def _polyline(spots: Sequence[tuple[float, float]]) -> str:
    if not spots:
        return ""
    return f'<polyline class="line s1" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in spots)}"/>'


def _along(spots: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Places close together on the curve, which a name had better not cover."""
    for (a, b), (c, d) in pairwise(spots):
        steps = max(int(np.hypot(c - a, d - b) / 8), 1)
        yield from ((a + (c - a) * i / steps, b + (d - b) * i / steps) for i in range(steps + 1))


def _names(
    names: Sequence[tuple[str, str, float, float]], taken: Sequence[tuple[float, float]], frame: Box
) -> list[str]:
    """A text for each (name, class, x, y), placed where it covers the fewest dots, curve and other names."""
    dots: NDArray[np.float64] = np.array(taken, dtype=np.float64).reshape(-1, 2)
    placed: list[Box] = []
    parts = []
    for name, kind, x, y in names:
        width = _LETTER * len(name)
        rivals = dots[: len(names)][(np.abs(dots[: len(names)] - (x, y)) > 5).any(axis=1)]
        best: tuple[float, Box, str, float] | None = None
        for order, (side, down) in enumerate(_PLACES):
            anchor = "start" if side > 0 else "end" if side < 0 else "middle"
            left = x + side if side > 0 else x + side - width if side < 0 else x - width / 2
            box = (left, y + down - _LINE / 2, left + width, y + down + _LINE / 2)
            inside, near = _inside(dots, box, 3.0), _inside(rivals, box, 9.0)
            outside = sum(max(frame[i] - box[i], box[i + 2] - frame[i + 2], 0.0) for i in (0, 1))
            cost = (
                0.2 * order + 9 * inside + 3 * near + 5 * outside + 0.4 * sum(_overlap(box, other) for other in placed)
            )
            if best is None or cost < best[0]:
                best = (cost, box, anchor, side)
        assert best is not None
        _, box, anchor, side = best
        placed.append(box)
        at_x = box[0] if side > 0 else box[2] if side < 0 else (box[0] + box[2]) / 2
        parts.append(text(at_x, (box[1] + box[3]) / 2 + 3.8, anchor, name, kind))
    return parts


_PLACES = [
    *((8.0, 0.0), (-8.0, 0.0), (0.0, -12.0), (0.0, 12.0), (7.0, -9.0), (7.0, 9.0), (-7.0, -9.0), (-7.0, 9.0)),
    *((0.0, -22.0), (0.0, 22.0), (7.0, -19.0), (7.0, 19.0), (-7.0, -19.0), (-7.0, 19.0), (0.0, 33.0), (0.0, -33.0)),
]
"""Where a name may stand from its dot, right and down, the best place first."""


def _inside(dots: NDArray[np.float64], box: Box, margin: float) -> int:
    """How many of the dots [n, 2] a box covers, a margin around it counted in."""
    left, top, right, bottom = box
    low, high = (left - margin, top - margin), (right + margin, bottom + margin)
    return int(((dots > low) & (dots < high)).all(axis=1).sum())


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
