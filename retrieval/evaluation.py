"""The paper's evaluation of retrieval: a composed query a test image, against random and simpler retrievals.

Queries and retrieval set are the labelled real images of one split, embedded here and compared exactly: no
index stands between the network and its score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from retrieval.metrics import Floats, Labels, average_precision, mean, number, recall_at_k, squared_distances
from retrieval.protocol import as_images
from retrieval.retriever import Retriever
from retrieval.scoring import (
    BLOCK,
    Case,
    draw_case,
    precisions,
    rank,
    rank_table,
    score,
    score_random,
    score_same_labels,
)

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class RetrievalEvaluation:
    """`summary` is the contract's JSON; the rest is what each of its q queries met, in `query_ids`' order."""

    summary: dict[str, Any]
    query_ids: NDArray[np.int64]  # [q]
    targets: Labels  # [q, A] over the used attributes
    neighbour_ids: NDArray[np.int64]  # [q, k]
    distances: NDArray[np.float32]  # [q, k] squared L2
    attributes: Floats  # [q] P@k of the target's labels
    content: Floats  # [q] P@k of the query's other labels; nan if there are none
    average: Floats  # [q] of the two, or of the one that is there


@dataclass(frozen=True)
class _Embedded:
    """float32 vectors of the set [n, ·] and of its queries [q, ·]."""

    queries: Vectors
    images: Vectors
    pooled: Vectors  # content pooled to 2×2, flattened, normalised
    style: Vectors  # μ of the images
    wanted: Vectors  # the targets' component means


def evaluate_retrieval(
    workspace: Workspace, retriever: Retriever, *, split: str = "test", k: int = 10, seed: int = 0
) -> dict[str, Any]:
    """P@k of every image of a split, with a target drawn from the split's label vectors, as JSON.

    Keys: k, queries, attributes, content, average, per_attribute, random {the same four},
    mean_average_precision, recall (of the images with exactly the target's labels), baselines
    {content_only, style_only, late_fusion, same_labels}, by_change {attribute: {kept, flipped}}. None where
    labels leave nothing to count.
    """
    return evaluate_queries(workspace, retriever, split=split, k=k, seed=seed).summary


def evaluate_queries(
    workspace: Workspace,
    retriever: Retriever,
    *,
    split: str = "test",
    k: int = 10,
    seed: int = 0,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> RetrievalEvaluation:
    """`evaluate_retrieval` with what each query met, for a report. `progress(done, total)` counts images embedded.

    Raises RgunitError where the split has fewer than k + 1 images whose used labels are all known.
    """
    encoders = retriever.encoders
    columns = workspace.schema.indices(encoders.schema.names)
    table = workspace.images(f"split={split} origin=real")
    full = (table.labels[:, columns] >= 0).all(axis=1)
    ids, labels = table.ids[full], table.labels[full]
    if len(ids) <= k:
        raise RgunitError(
            f"split {split} has {len(ids)} real images with all of {', '.join(encoders.schema.names)} known: "
            f"P@{k} needs at least {k + 1}"
        )
    used = labels[:, columns]
    case = draw_case(encoders.schema.names, used, np.delete(labels, columns, axis=1), k=k, seed=seed)
    embedded = _embed(workspace, retriever, ids, case.targets, batch, progress)
    rows, distances = rank(embedded.queries, embedded.images, case)
    attributes, content = (mean(values, axis=1) for values in precisions(case, rows))
    summary = {"k": k, "queries": len(ids), **score(case, rows), "random": score_random(case)}
    summary.update(_ranking(case, embedded))
    summary["baselines"] = _baselines(case, embedded)
    return RetrievalEvaluation(
        summary=summary,
        query_ids=ids,
        targets=case.targets,
        neighbour_ids=ids[rows],
        distances=distances,
        attributes=attributes,
        content=content,
        average=mean(np.stack([attributes, content]), axis=0),
    )


@torch.no_grad()
def _embed(
    workspace: Workspace,
    retriever: Retriever,
    ids: NDArray[np.int64],
    targets: Labels,
    batch: int,
    progress: Callable[[int, int], None] | None,
) -> _Embedded:
    """One pass over the images: what they are, and what is asked with each one's content."""
    encoders = retriever.encoders
    made: list[tuple[Vectors, ...]] = []
    for start in range(0, len(ids), batch):
        part = slice(start, start + batch)
        images = as_images(workspace.load(ids[part], encoders.size), encoders.device)
        content, style = encoders.content(images), encoders.style(images).float()
        wanted = encoders.style_mean(torch.from_numpy(targets[part])).to(encoders.device)
        pooled = F.normalize(F.adaptive_avg_pool2d(content.float(), 2).flatten(1))
        tensors = (
            retriever.embed(content, wanted),
            retriever.embed(content, style),
            pooled,
            style,
            wanted,
        )
        made.append(tuple(tensor.float().cpu().numpy() for tensor in tensors))
        if progress is not None:
            progress(min(start + batch, len(ids)), len(ids))
    return _Embedded(*(np.concatenate(column) for column in zip(*made, strict=True)))


def _ranking(case: Case, embedded: _Embedded) -> dict[str, float | None]:
    """mAP and recall at k over the whole set; relevant are images with exactly the target's labels."""
    precision, recall = [], []
    for start in range(0, len(case.rows), BLOCK):
        part = slice(start, start + BLOCK)
        table = _own_last(squared_distances(embedded.queries[part], embedded.images), case, part)
        order = np.argsort(table, axis=1, kind="stable")[:, :-1]  # the query itself is last
        relevant = (case.used[order] == case.targets[part][:, None]).all(axis=2)
        precision.append(average_precision(relevant))
        recall.append(recall_at_k(relevant, case.k))
    return {
        "mean_average_precision": number(mean(np.concatenate(precision))),
        "recall": number(mean(np.concatenate(recall))),
    }


def _baselines(case: Case, embedded: _Embedded) -> dict[str, dict[str, float | None]]:
    """What simpler retrievals reach with the same encoders.

    content_only: E_c pooled to 2×2; style_only: μ against the target's mean; late_fusion: the sum of both
    distances, each divided by its mean; same_labels: random images with exactly the target's labels (an
    oracle of style).
    """
    found: dict[str, list[NDArray[np.int64]]] = {"content_only": [], "style_only": [], "late_fusion": []}
    for start in range(0, len(case.rows), BLOCK):
        part = slice(start, start + BLOCK)
        content = _own_last(squared_distances(embedded.pooled[case.rows[part]], embedded.pooled), case, part)
        style = _own_last(squared_distances(embedded.wanted[part], embedded.style), case, part)
        tables = {
            "content_only": content,
            "style_only": style,
            "late_fusion": content / _mean_finite(content) + style / _mean_finite(style),
        }
        for name, table in tables.items():
            found[name].append(rank_table(table, case, part))
    scores: dict[str, dict[str, Any]] = {name: score(case, np.concatenate(rows)) for name, rows in found.items()}
    scores["same_labels"] = score_same_labels(case)
    return scores


def _own_last(table: Floats, case: Case, part: slice) -> Floats:
    """The table with inf at each query itself and its family."""
    return np.where(case.family[case.rows[part]][:, None] == case.family[None], np.inf, table)


def _mean_finite(table: Floats) -> Floats:
    """Mean of each row's finite distances [q, 1]; 1 where all are 0."""
    means: Floats = np.where(np.isfinite(table), table, 0).sum(axis=1, keepdims=True) / (table.shape[1] - 1)
    return np.where(means > 0, means, 1.0)
