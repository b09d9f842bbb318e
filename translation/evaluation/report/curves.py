"""The curves of a training run as charts: those that its method names, then retrieval's and those of every run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from translation.evaluation.report.charts import Line, legend, line_chart
from translation.methods import DEFAULT, SHARE, Curves, find_method


@dataclass(frozen=True)
class Chart:
    """A picture with its title, the unit of its axis and its key."""

    title: str
    unit: str
    svg: Markup
    key: Markup


KINDS = {"easy": "easy", "medium": "medium", "hard": "hard", "own_domain": "own domain"}
GENERAL = (
    Curves(
        "Use of neighbours",
        "relative norm",
        {"neighbour_share": "their part of the content", "neighbour_swap": "change with others' neighbours"},
    ),
    Curves("Triplet loss", "", {"loss": "all", **{f"loss_{kind}": name for kind, name in KINDS.items()}}),
    Curves("Active triplets", "share with a loss", {"active": "active"}, SHARE),
    Curves(
        "Distance from the anchor",
        "Euclidean",
        {"distance_positive": "positive", **{f"distance_{kind}": name for kind, name in KINDS.items()}},
    ),
    Curves(
        "Learning rate",
        "",
        {
            "lr/generator": "generator",
            "lr/discriminator": "discriminator",
            "lr/fusion": "fusion",
            "lr/embedding": "embedding",
        },
    ),
    Curves("Speed", "images a second", {"images_per_second": "images"}),
)


def charts_of(rows: Sequence[Mapping[str, float]], method: str = DEFAULT) -> list[Chart]:
    """The charts of one run from the rows of its metrics.jsonl; what was not logged twice has none.

    `method`: whose terms the rows have, beside the general ones. UsageError for an unknown one.
    """
    charts = []
    for curves in (*getattr(find_method(method), "curves", ()), *GENERAL):
        lines = []
        for key, name in curves.keys.items():
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if sum(math.isfinite(y) for _, y in points) > 1:
                lines.append(Line(name, [x for x, _ in points], [y for _, y in points]))
        names = [line.name for line in lines]
        if svg := line_chart(lines, label=f"{curves.title}: {', '.join(names)}", y_range=curves.y_range):
            key = legend(names) if len(names) > 1 else Markup("")
            charts.append(Chart(curves.title, curves.unit, svg, key))
    return charts
