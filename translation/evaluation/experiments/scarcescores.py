"""The numbers of the experiment on a scarce domain: means over seeds, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from translation.evaluation.distances import Resamples, percentile_interval
from translation.evaluation.experiments.rows import spread

CONTROL = "real"
DRAWS = 2000
MEASURES = ("changed", "kept", "truth", "truth_edit")

Scores = dict[str, list[float | None]]
"""Measures of each source."""


def summary_of(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{retrieval, translation: {row: {measure: {mean, low, high}, against: {measure: {difference, interval, seeds}}}}}.

    Means over the seeds, lowest and highest of one. `against`: what was found among, or guided by, real images alone;
    intervals of 95 %, people resampled, the same ones in all rows; `seeds` has each seed's difference.
    """
    found: dict[str, Any] = {}
    draws = Resamples.draw([person for one in seeds for person in one["people"]], DRAWS, 0)
    for kind in ("retrieval", "translation"):
        rows = {name: [one["scores"][kind][name] for one in seeds] for name in seeds[0]["scores"][kind]}
        found[kind] = {name: _figures(scores) for name, scores in rows.items()}
        for name, scores in rows.items():
            if name != CONTROL:
                found[kind][name]["against"] = _gaps(draws, scores, rows[CONTROL])
    for name in seeds[0]["fd_attr"]:
        found["translation"][name]["fd_attr"] = spread([one["fd_attr"][name] for one in seeds])
    return found


def listed(told: Mapping[str, NDArray[Any]]) -> Scores:
    """As JSON has it: null for an image in which nothing is to change."""
    return {name: [value if np.isfinite(value) else None for value in values.tolist()] for name, values in told.items()}


def _figures(seeds: Sequence[Scores]) -> dict[str, Any]:
    return {
        m: spread([float(np.nanmean(np.array(one[m], np.float64))) for one in seeds]) for m in MEASURES if m in seeds[0]
    }


def _gaps(draws: Resamples, seeds: Sequence[Scores], control: Sequence[Scores]) -> dict[str, Any]:
    gaps = {}
    for measure in (m for m in MEASURES if m in seeds[0]):
        first, second = (
            np.concatenate([np.array(one[measure], np.float64) for one in side]) for side in (seeds, control)
        )
        known = np.isfinite(first) & np.isfinite(second)
        difference, resampled = draws.ratio(np.where(known, first - second, 0.0), known)
        each = [
            float(np.nanmean(np.array(one[measure], np.float64) - np.array(other[measure], np.float64)))
            for one, other in zip(seeds, control, strict=True)
        ]
        gaps[measure] = {"difference": difference, "interval": list(percentile_interval(resampled)), "seeds": each}
    return gaps
