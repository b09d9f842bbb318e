"""Which curves of a training run are worth a picture, and what they are called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from translation.evaluation.report.charts import Line, legend, line_chart


@dataclass(frozen=True)
class Chart:
    """A picture with its title, the unit of its axis and its key."""

    title: str
    unit: str
    svg: Markup
    key: Markup


@dataclass(frozen=True)
class Curves:
    """One chart: `keys` are names of metrics and what their lines are called; `y_range` fixes the axis."""

    title: str
    unit: str
    keys: Mapping[str, str]
    y_range: tuple[float, float] | None = None


ABSOLUTE, SHARE = "mean absolute difference", (0.0, 1.0)
KINDS = {"easy": "easy", "medium": "medium", "hard": "hard", "own_domain": "own domain"}
CURVES = (
    Curves("Reconstruction", ABSOLUTE, {"generator/reconstruction": "reconstruction", "generator/cycle": "cycle"}),
    Curves(
        "Attributes in D", "cross-entropy", {"discriminator/domain": "real images", "generator/domain": "translations"}
    ),
    Curves(
        "Adversarial",
        "least squares",
        {"discriminator/adversarial": "discriminator", "generator/adversarial": "generator"},
    ),
    Curves("Style and content recovered", ABSOLUTE, {"generator/style": "style", "generator/content": "content"}),
    Curves("Style encoder", "KL, summed", {"generator/kl": "KL"}),
    Curves(
        "Labels read from style",
        "accuracy",
        {"style_accuracy": "held-out images", "style_accuracy_train": "training images"},
        SHARE,
    ),
    Curves("Mask", "mean: 0 copies, 1 paints", {"mask_mean": "mask"}, SHARE),
    Curves(
        "Use of neighbours",
        "relative norm",
        {"neighbour_share": "their part of the content", "neighbour_swap": "change with others' neighbours"},
    ),
    Curves("Further terms", "unweighted", {"generator/perceptual": "perceptual", "generator/isometry": "isometry"}),
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


def charts_of(rows: Sequence[Mapping[str, float]]) -> list[Chart]:
    """The charts of one run from the rows of its metrics.jsonl; what was not logged twice has none."""
    charts = []
    for curves in CURVES:
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
