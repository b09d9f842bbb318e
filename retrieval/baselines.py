"""What simpler retrievals reach with the same vectors, under the same scoring: the rows that a network has to beat.

Content alone, style alone, both distances added with any weight, and labels as a filter. Pure NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.metrics import Labels, squared_distances
from retrieval.scoring import BLOCK, Case, Ids, rank_table, score, score_same_labels

Vectors = NDArray[np.float32]
WEIGHTS = tuple(tenths / 10 for tenths in range(1, 10))
"""Of content in late fusion."""
ORACLES = ("late_fusion", "same_labels")
"""Of the baselines those that know what no search does: the best weight for these very queries, all labels."""
CURVE = ("attributes", "content", "average", "both")


def simple_retrievals(
    case: Case, content: Vectors, style: Vectors, wanted: Vectors
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Scores of content_only, style_only, late_fusion and same_labels, and late fusion's curve over WEIGHTS.

    content [n, c] and style [n, S] of the set, wanted [q, S] the styles asked for; a query's content is its own
    image's. late_fusion is the best weight by the average (by `both` where there is no average), with `weight`: it is
    chosen on the very queries that it is scored on, in favour of the baseline. same_labels is the expectation of
    `score_same_labels`. Without a style (S = 0) there are content_only and same_labels, and no curve.
    """
    if not style.shape[1]:
        (only,) = late_fusion(case, [(content[case.rows], content)], [(1.0,)])
        return {"content_only": score(case, only), "same_labels": score_same_labels(case)}, []
    parts = [(content[case.rows], content), (wanted, style)]
    found = late_fusion(case, parts, [(1.0, 0.0), (0.0, 1.0), *((w, 1 - w) for w in WEIGHTS)])
    content_only, style_only, *fused = (score(case, rows) for rows in found)
    curve = [{"weight": w, **{name: told[name] for name in CURVE}} for w, told in zip(WEIGHTS, fused, strict=True)]
    measure = "both" if curve[0]["average"] is None else "average"
    best = max(range(len(fused)), key=lambda place: fused[place][measure] or 0.0)
    scores = {
        "content_only": content_only,
        "style_only": style_only,
        "late_fusion": {"weight": WEIGHTS[best], **fused[best]},
        "same_labels": score_same_labels(case),
    }
    return scores, curve


def late_fusion(
    case: Case, parts: Sequence[tuple[Vectors, Vectors]], weights: Sequence[Sequence[float]], block: int = BLOCK
) -> list[Ids]:
    """Neighbours [q, k] for each weighting of several distances, each divided by its mean between two images.

    `parts` are (queries [q, d], set [n, d]) of each distance, `weights` a number for each of them.
    """
    scales = [mean_squared_distance(vectors) or 1.0 for _, vectors in parts]
    found: list[list[Ids]] = [[] for _ in weights]
    for start in range(0, len(case.rows), block):
        part = slice(start, start + block)
        tables = [squared_distances(q[part], v) / scale for (q, v), scale in zip(parts, scales, strict=True)]
        for rows, weighting in zip(found, weights, strict=True):
            terms = [weight * table for weight, table in zip(weighting, tables, strict=True) if weight]
            rows.append(rank_table(np.sum(terms, axis=0), case, part))
    return [np.concatenate(rows) for rows in found]


def filter_by_labels(case: Case, queries: Vectors, vectors: Vectors, known: Labels | None = None) -> Ids:
    """Neighbours [q, k] by distance, images that contradict the target after all others.

    `known` int8 [n, A] are the labels that the filter sees, by default all; an unknown one contradicts nothing, so
    that there the distance decides alone.
    """
    known = case.used if known is None else known
    found = []
    for start in range(0, len(case.rows), BLOCK):
        part = slice(start, start + BLOCK)
        table, (against, _) = squared_distances(queries[part], vectors), _agreement(case, known, part)
        found.append(rank_table(np.where(against > 0, table + table.max() + 1, table), case, part))
    return np.concatenate(found)


def prefer_labels(case: Case, queries: Vectors, vectors: Vectors, content: Vectors, known: Labels | None = None) -> Ids:
    """Neighbours [q, k] as `labels.LabelSearch` orders them: by contradictions, then by distance; what fits by content.

    content float32 [n, c] of the set. Those that fit have the target's labels, all known; they keep their places among
    the others. Where no label is known the order is that of the distances.
    """
    known = case.used if known is None else known
    found = []
    for start in range(0, len(case.rows), BLOCK):
        part = slice(start, start + BLOCK)
        table, (against, fits) = squared_distances(queries[part], vectors), _agreement(case, known, part)
        rows = rank_table(table + against * (table.max() + 1), case, part)
        near = squared_distances(content[case.rows[part]], content)
        best = rank_table(np.where(fits, near, np.inf), case, part)
        query, place = np.nonzero((rows >= 0) & np.take_along_axis(fits, rows, axis=1))
        rows[query, place] = best[query, np.arange(len(query)) - np.searchsorted(query, query)]
        found.append(rows)
    return np.concatenate(found)


def _agreement(case: Case, known: Labels, part: slice) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each query of `part` how many labels of an image contradict its target, int64 [b, n], and which images are
    known to have it all, bool [b, n]."""
    targets = case.targets[part]
    against = np.zeros((len(targets), len(known)), np.int64)
    fits = np.full(against.shape, bool(targets.shape[1]))
    for place in range(targets.shape[1]):
        asked, label = targets[:, [place]], known[None, :, place]
        against += (asked >= 0) & (label >= 0) & (asked != label)
        fits &= (asked >= 0) & (asked == label)
    return against, fits


def mean_squared_distance(vectors: Vectors) -> float:
    """Mean squared L2 distance between two vectors of a set [n, d], as `scales.measure_scale` keeps it."""
    return 2 * float(vectors.astype(np.float64).var(axis=0).sum())
