"""One finished run as one HTML file: numbers, curves and pictures, the failures beside the successes.

The file needs nothing else: styles, charts and pictures are inside, there is no script. Every word that comes from
outside (labels, paths, settings) is escaped by the template.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from index_store.whole import write_text
from translation.evaluation.report.charts import Dot, dot_chart
from translation.evaluation.report.curves import Chart, charts_of
from translation.evaluation.report.data import ReportData, RetrievalRow, TranslationRow
from translation.evaluation.report.facts import data_facts, duration, machine_facts, memory, settings
from translation.evaluation.report.plane import plane, points_of
from translation.evaluation.report.story import tell
from translation.evaluation.report.verdicts import (
    ARMS,
    CHANCE,
    CONTROLS,
    FRECHET,
    MEASURES,
    Verdict,
    arms_of,
    baseline_name,
    headlines,
    interval_of,
    signed,
    state_of,
    value_of,
    verdicts,
)
from translation.evaluation.report.words import ON_CHARTS, TOLD, WHO
from translation.evaluation.scores import HIGHER_IS_BETTER
from translation.methods import DEFAULT

if TYPE_CHECKING:
    from index_store.workspace import Workspace

Row = TypeVar("Row", RetrievalRow, TranslationRow)

SHOWN_ROWS = 3  # of them at once; the others are folded away
MOST_ROWS = 9  # of pictures a section
LARGEST = 144  # pixels a side that a picture in the page may have
HEAVIEST = 24_000  # bytes of one picture; a photograph takes a fifth of that
LOSSLESS = 48  # pixels a side up to which pictures are kept exactly
NARROW = 340  # of the plane on a telephone, in its units
CASES = {"best": "best", "random": "at random", "worst": "worst"}


def write_report(workspace: Workspace, path: Path, data: ReportData) -> Path:
    """Writes the report of `data` to `path`, whole or not at all, and returns it.

    What the workspace holds is read now. At most MOST_ROWS rows of pictures a section are shown and pictures are
    reduced to LARGEST pixels, so that a file stays below 8 MB.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, percent=percent, duration=duration, picture=picture, grey=grey, signed=signed, words=words
    )
    found = verdicts(data.translation, data.retrieval)
    facts = data_facts(workspace, data.attributes_used)
    method = data.config.get("method", DEFAULT)
    page = environment.get_template("template.html.j2").render(
        data=data,
        workspace=str(workspace.path),
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
        story=tell(data, found, images=facts["images"], workspace=str(workspace.path), collapsed=_mask(data)),
        example=next((row for row in data.translation_rows if row.case == "random" and row.outputs), None),
        findings=summary(data),
        facts=facts,
        machine=machine_facts(data.device),
        memory=memory(data.peak_memory),
        seconds=sum(float(stage.get("seconds") or 0) for stage in data.stages),
        settings=settings(data.config),
        retrieval=_retrieval(data.retrieval, found),
        translation=_translation(data.translation, found),
        dots=_dots(data.translation),
        curves={stage: charts_of(rows, method) for stage, rows in data.metrics.items()},
        retrieval_rows=_each_case_first(data.retrieval_rows[:MOST_ROWS]),
        translation_rows=_each_case_first(data.translation_rows[:MOST_ROWS]),
        shown_rows=SHOWN_ROWS,
        cases=CASES,
        arms=ARMS,
    )
    write_text(path, page)
    return path


def summary(data: ReportData) -> list[Verdict]:
    """All findings, a collapsed mask among them."""
    found = list(headlines(data.translation, data.retrieval))
    return found + [Verdict("mask", "mask", "not learned", told) for told in [_mask(data)] if told]


def _mask(data: ReportData) -> str:
    """A sentence where a generator's mask ended open or shut everywhere."""
    for stage, rows in data.metrics.items():
        last = next((row["mask_mean"] for row in reversed(rows) if "mask_mean" in row), None)
        if last is not None and not 0.02 <= last <= 0.98:
            told = "copies its input everywhere" if last < 0.02 else "keeps nothing of its input"
            return f"The painter of {stage} {told}: the mean of its mask ended at {last:.3f}."
    return ""


def _each_case_first(rows: Sequence[Row]) -> list[Row]:
    """The same rows, the first of each case before the others."""
    first = {row.case: place for place, row in reversed(list(enumerate(rows)))}
    return [rows[place] for place in sorted(range(len(rows)), key=lambda place: place not in first.values())]


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table: fixed digits, a true minus sign, an en dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits if abs(value) < 100 else 1}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share as whole percents, kept on one line."""
    return "–" if value is None else f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def words(name: str) -> str:
    """An attribute's name for reading: underscores are spaces."""
    return name.replace("_", " ")


def picture(pixels: NDArray[np.uint8]) -> str:
    """A data URI of uint8 [H, W, 3]: exact up to LOSSLESS pixels a side, else WebP of at most LARGEST.

    A picture that would take more than HEAVIEST bytes is compressed harder.
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    if max(image.size) <= LOSSLESS:
        image.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        kind = "webp"
        for quality in (86, 70, 50, 25):
            file.seek(0)
            file.truncate()
            image.save(file, "WEBP", quality=quality, method=4)
            if file.tell() <= HEAVIEST:
                break
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def grey(mask: NDArray[Any]) -> str:
    """A data URI of a mask [H, W], uint8 or float in [0, 1]."""
    return picture(mask_pixels(mask))


def mask_pixels(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """A mask [H, W], uint8 or float in [0, 1], as grey uint8 [H, W, 3]."""
    levels = mask if mask.dtype == np.uint8 else np.rint(255 * np.clip(mask, 0, 1)).astype(np.uint8)
    return np.repeat(levels[:, :, None], 3, axis=2)


def _retrieval(retrieval: Mapping[str, Any] | None, found: Sequence[Verdict]) -> dict[str, Any] | None:
    """The retrieval tables, `rows` of (name, scores, kind) and `attributes` with their verdicts, and the plane."""
    if not retrieval:
        return None
    rows = [
        ("this run", retrieval, "own"),
        *([("this run, with known labels", retrieval["labels_prefer"], "own")] if "labels_prefer" in retrieval else []),
        ("random images", retrieval["random"], "control"),
        *((baseline_name(k, v), v, "control") for k, v in (retrieval.get("baselines") or {}).items()),
    ]
    attributes = []
    for name, value in (retrieval.get("per_attribute") or {}).items():
        change = (retrieval.get("by_change") or {}).get(name) or {}
        attributes.append(
            {
                "name": name,
                "value": value,
                "random": (retrieval["random"].get("per_attribute") or {}).get(name),
                "kept": (change.get("kept") or {}).get("content"),
                "flipped": (change.get("flipped") or {}).get("content"),
                "state": state_of(found, name, "one attribute"),
            }
        )
    label = "What each retrieval finds of the labels asked for and of the query's other labels"
    points, curve = points_of(retrieval), retrieval.get("late_fusion_curve") or []
    drawn = {
        "plane": plane(points, curve, label=label),
        "plane_narrow": plane(points, curve, label=label, width=NARROW),
    }
    return {**retrieval, "rows": rows, "attributes_table": attributes, **drawn}


def _translation(translation: Mapping[str, Any] | None, found: Sequence[Verdict]) -> dict[str, Any] | None:
    """`who` is compared, the table of arms (a measure a row; cells are (value, interval, digits)), and `against`."""
    if not translation:
        return None
    arms = arms_of(translation)
    measures = [m for m in MEASURES if any(value_of(translation, arm, m) is not None for arm in arms)]
    floor = {m: value for m, value in (translation.get("floor") or {}).items() if m in measures and value is not None}
    columns = [
        {
            "name": ARMS[arm],
            "cells": {
                m: (value_of(translation, arm, m), interval_of(translation, arm, m), 2 if m in FRECHET else 3)
                for m in measures
            },
        }
        for arm in arms
    ]
    against: dict[str, dict[str, Verdict]] = {}
    for v in found:
        if v.gap:
            against.setdefault(v.subject, {})[v.measure] = v
    return {
        "who": [(ARMS[arm], WHO[arm]) for arm in arms],
        "measures": [(m, MEASURES[m], TOLD.get(m, "")) for m in measures],
        "arms": columns,
        "floor": floor,
        "against": against,
        "compared": [(m, MEASURES[m]) for m in MEASURES if any(m in row for row in against.values())],
        "classifier": translation.get("classifier"),
        "protocol": translation.get("protocol"),
    }


def _dots(translation: Mapping[str, Any] | None) -> list[Chart]:
    """Arms side by side with their intervals: changed and kept attributes, distances to the truth."""
    if not translation:
        return []
    charts = []
    for measure in ("accuracy_changed", "accuracy_kept", "truth", "truth_edit"):
        dots = [
            Dot(ON_CHARTS.get(arm, arm), value, interval_of(translation, arm, measure), arm in CONTROLS)
            for arm in arms_of(translation)
            if (value := value_of(translation, arm, measure)) is not None
        ]
        if not dots:
            continue
        highest = max(max(dot.interval or (dot.value,)) for dot in dots)
        x_range = (0.0, 1.0) if HIGHER_IS_BETTER[measure] else (0.0, 1.1 * highest)
        marks = {"chance": CHANCE} if measure == "accuracy_changed" else None
        title = MEASURES[measure].capitalize()
        better = "higher is better" if HIGHER_IS_BETTER[measure] else "lower is better"
        charts.append(Chart(title, better, dot_chart(dots, label=title, x_range=x_range, marks=marks), Markup("")))
    return charts
