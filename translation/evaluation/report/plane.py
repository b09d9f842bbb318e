"""The attributes–content plane: what a retrieval found of the labels asked for, and of the query's own.

Late fusion's curve is what two distances and one weight reach: a network is worth its training above it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from index_store.whole import write_text
from translation.evaluation.report.charts import LETTER, number, rule, svg, text, ticks
from translation.evaluation.report.verdicts import BASELINES

_WIDTH = 560  # of a chart beside text; `width` makes one for a narrow screen
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 40
_LINE = 12.0  # height of a line of text, in the chart's units
_STYLE = """
svg { background: #fcfcfa; font: 10.5px system-ui, -apple-system, "Segoe UI", Arial, sans-serif; }
text { fill: #66655f; } .name { fill: #1c1c1a; } .name.control { fill: #66655f; }
.grid { stroke: #dedcd5; stroke-width: .7; } .axis { stroke: #66655f; stroke-width: .7; }
.line { fill: none; stroke-width: 1.7; stroke-linejoin: round; } .s1 { stroke: #b9501a; } .bead { fill: #b9501a; }
.leader { stroke: #66655f; stroke-width: .6; }
.whisker { stroke-width: 1; } .whisker.s0 { stroke: #24609e; } .whisker.control { stroke: #66655f; }
.dot.s0 { fill: #24609e; } .dot.control { fill: #fcfcfa; stroke: #66655f; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  svg { background: #16171a; } text, .name.control { fill: #a09f98; } .name { fill: #e6e5e0; }
  .grid { stroke: #35363b; } .axis, .leader, .whisker.control { stroke: #a09f98; }
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


def plane(points: Sequence[Point], curve: Sequence[Mapping[str, Any]], *, label: str, width: int = _WIDTH) -> Markup:
    """An SVG of points and of late fusion's `curve` ({weight, attributes, content}, in order of weight).

    Colours are classes, as in `charts`. No name lies on a point or on the curve: where there is no room beside its
    point it stands further off, and a thin line leads to it. Empty Markup without a point.
    """
    beads = [(row["weight"], row["attributes"], row["content"]) for row in curve if row["content"] is not None]
    if not points:
        return Markup("")
    x_low, x_high = _range([p.attributes for p in points] + [x for _, x, _ in beads])
    y_low, y_high = _range([p.content for p in points] + [y for _, _, y in beads])
    height = round(0.3 * width) + 210
    right, bottom = width - _RIGHT, height - _BOTTOM

    def at(attributes: float, content: float) -> tuple[float, float]:
        x = _LEFT + (right - _LEFT) * (attributes - x_low) / (x_high - x_low)
        return x, bottom - (bottom - _TOP) * (content - y_low) / (y_high - y_low)

    parts = []
    for value in ticks(x_low, x_high, width // 90):
        x = at(value, y_low)[0]
        parts += [rule("grid", x, x, _TOP, bottom), text(x, bottom + 15, "middle", number(value))]
    for value in ticks(y_low, y_high, 6):
        y = at(x_low, value)[1]
        parts += [rule("grid", _LEFT, right, y, y), text(_LEFT - 6, y + 3.5, "end", number(value))]
    parts += [rule("axis", _LEFT, right, bottom, bottom), rule("axis", _LEFT, _LEFT, _TOP, bottom)]
    parts += [text(right, height - 6, "end", "labels asked for →"), text(_LEFT + 5, _TOP + 9, "start", "↑ content")]
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
    parts += _names(names, [*dots, *_along(spots)], (_LEFT + 3.0, _TOP + 14.0, width - 6.0, bottom - 3.0))
    return svg(width, height, label, [part for part in parts if part])


def draw_plane(points: Sequence[Point], curve: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write `plane` as an SVG file of its own, for light and dark, whole or not at all; return its path."""
    drawn = str(plane(points, curve, label="P@k of the labels asked for and of the query's other labels"))
    head, body = drawn.split(">", 1)
    write_text(path, f'{head} xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>{body}\n')
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
    """A text for each (name, class, x, y), as near to its place as it can stand without covering anything.

    `taken` are the dots, those of `names` first, and the curve. A name that stands off gets a line to its place.
    """
    dots: NDArray[np.float64] = np.array(taken, dtype=np.float64).reshape(-1, 2)
    placed: list[Box] = []
    parts = []
    for name, kind, x, y in names:
        box, anchor = min(_boxes(name, x, y), key=lambda spot: _cost(spot[0], x, y, dots, placed, frame))
        placed.append(box)
        at_x = {"start": box[0], "end": box[2], "middle": (box[0] + box[2]) / 2}[anchor]
        near_x, near_y = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
        gap = math.hypot(near_x - x, near_y - y)
        if gap > _FAR:  # from the dot's edge to the name
            start = (x + (near_x - x) * 5 / gap, y + (near_y - y) * 5 / gap)
            parts.append(rule("leader", start[0], near_x, start[1], near_y))
        parts.append(text(at_x, (box[1] + box[3]) / 2 + 3.8, anchor, name, kind))
    return parts


_FAR = 10.0  # from which distance on a name needs a line to its dot


def _boxes(name: str, x: float, y: float) -> Iterator[tuple[Box, str]]:
    """Where a name may stand around its place (x, y), near ones first: its box and the anchor of its text."""
    width = LETTER * len(name)
    for away in (8.0, 14.0, 22.0, 32.0, 44.0, 58.0, 74.0, 92.0, 112.0, 134.0, 160.0, 190.0, 220.0):
        for turn in (0, 8, 4, 12, 2, 14, 6, 10, 1, 15, 7, 9, 3, 13, 5, 11):  # beside it first
            right, down = math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)
            anchor = "start" if right > 0.3 else "end" if right < -0.3 else "middle"
            left = x + away * right - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            middle = y + (away + _LINE / 2 if anchor == "middle" else away) * down
            yield (left, middle - _LINE / 2, left + width, middle + _LINE / 2), anchor


def _cost(
    box: Box, x: float, y: float, dots: NDArray[np.float64], placed: Sequence[Box], frame: Box
) -> tuple[float, float]:
    """What a name in `box` would cover, and how far it stands from its place and how near to others' dots."""
    outside = sum(max(frame[i] - box[i], box[i + 2] - frame[i + 2], 0.0) for i in (0, 1))
    covered = 20 * _inside(dots, box, 4.5) + outside + sum(_overlap(box, other) for other in placed)
    away = math.hypot(min(max(x, box[0]), box[2]) - x, min(max(y, box[1]), box[3]) - y)
    return covered, max(away, 8.0) + 2.0 * _inside(dots, box, 9.0)


def _inside(dots: NDArray[np.float64], box: Box, margin: float) -> int:
    """How many of the dots [n, 2] a box covers, a margin around it counted in."""
    left, top, right, bottom = box
    low, high = (left - margin, top - margin), (right + margin, bottom + margin)
    return int(((dots > low) & (dots < high)).all(axis=1).sum())


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
