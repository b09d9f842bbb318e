"""The paper's evaluation of retrieval: a composed query a test image, against random and simpler retrievals.

Queries and retrieval set are images of one split, embedded here and compared exactly: no index stands between the
network and its score. Labels draw the targets and count the hits; the search itself never sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from index_store.duplicates import near_pairs, perceptual_hash
from index_store.errors import RgunitError, UsageError
from index_store.imagetable import ImageTable
from index_store.learned import NOBODY, count_left_out, learned_from, left_out
from index_store.workspace import Workspace
from retrieval.baselines import Vectors, filter_by_labels, prefer_labels, simple_retrievals
from retrieval.content_models import ContentModel, kept_model
from retrieval.metrics import Floats, Labels, average_precision, mean, number, recall_at_k, squared_distances
from retrieval.retriever import Retriever
from retrieval.scoring import (
    BLOCK,
    Case,
    Ids,
    codes_of,
    content_by,
    draw_case,
    forbidden,
    precisions,
    rank,
    score,
    score_random,
)
from retrieval.tensors import to_tensor

KNOWN = (1.0, 0.25, 0.0)
"""Shares of the set's images whose labels a search may see, in `labels_known`."""
SHORT = ("attributes", "content", "average", "both", "interval")
DRAWS = 1000
BATCH = 64


@dataclass(frozen=True)
class RetrievalProtocol:
    """What is asked of which images: the split, P@k, and the seed of the targets.

    `relevance` names a text field (identity): `scoring.score` tells what it adds. The set holds the split's real
    images whose used labels are all known; `unlabelled` adds those whose are not, `generated` what was generated
    from images of the split. `hidden` is the share of the set's images whose labels the label filter may not see.
    Where the model uses no attributes there are none to know: unlabelled images are in the set, and ask too.
    """

    split: str = "test"
    k: int = 10
    seed: int = 0
    relevance: str | None = None
    unlabelled: bool = False
    generated: bool = False
    hidden: float = 0.0


@dataclass(frozen=True)
class SetVectors:
    """float32 vectors of a set [n, ·] and of the queries that it is asked [q, ·]."""

    queries: Vectors  # embeddings
    images: Vectors
    content: Vectors  # `Retriever.content_vectors`, or a user's model's
    style: Vectors  # μ
    wanted: Vectors  # [q, S] the targets' component means


@dataclass(frozen=True)
class RetrievalEvaluation:
    """`summary` is the contract's JSON; the rest is what each of its q queries met, in `query_ids`' order."""

    summary: dict[str, Any]
    query_ids: Ids  # [q]
    targets: Labels  # [q, A] over the used attributes
    neighbour_ids: Ids  # [q, k], −1 where fewer are allowed
    distances: NDArray[np.float32]  # [q, k] squared L2
    attributes: Floats  # [q] P@k of the target's labels
    content: Floats  # [q] P@k of the query's other labels, or without any of its relevance; nan if there is neither
    average: Floats  # [q] of the two, or of the one that is there


def evaluate_queries(
    workspace: Workspace,
    retriever: Retriever,
    protocol: RetrievalProtocol | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> RetrievalEvaluation:
    """P@k of every image of a split, with a target drawn from the split's label vectors, and what each query met.

    Keys of the summary: k, queries, images, those of `scoring.score`, random {those of `scoring.score_random`},
    mean_average_precision and recall over the whole set (of the images with exactly the target's labels),
    labels_prefer (what a query answers by default: with the labels; and the 95 % interval of its average), labels_known
    (labels_prefer and the two filters where all labels, a quarter and none of the set are known), baselines
    {those of `simple_retrievals`; label_filter, label_filter_content: the labels as a filter, ranked by the
    embedding and by content}, late_fusion_curve, content_vectors (the name of those the baselines take: the run's,
    or those of the user's own model), content_by (what `content` counts: attributes, relevance or None), style
    (whether a query can ask for labels at all). None where labels leave nothing to count.

    `progress(done, total)` counts images embedded. Raises RgunitError where the set has fewer than k + 1 images whose
    used labels are all known, UsageError for a field that no image has, and where nothing tells which images are right:
    no attribute and no relevance.
    """
    protocol = protocol or RetrievalProtocol()
    learned = learned_from(workspace, [retriever.run])
    table, case = choose(workspace, retriever.encoders.schema.names, protocol, learned)
    model = kept_model(workspace, device=str(retriever.device))
    vectors, hashes = embed_set(workspace, retriever, table.ids, case, progress, model=model)
    case = replace(case, duplicates=duplicates_of(case, hashes))
    known = visible(case, protocol.hidden, protocol.seed)
    summary, rows, distances = evaluate_vectors(case, vectors, known)
    summary["content_vectors"] = f"{retriever.encoder_name}.content" if model is None else model.encoder_name
    summary["left_out"] = count_left_out(workspace, protocol.split, learned)
    summary["content_by"], summary["style"] = content_by(case), retriever.style_dim > 0
    attributes, content = (mean(values, axis=1) for values in precisions(case, rows))
    return RetrievalEvaluation(
        summary=summary,
        query_ids=table.ids[case.rows],
        targets=case.targets,
        neighbour_ids=np.where(rows >= 0, table.ids[rows], -1),
        distances=distances,
        attributes=attributes,
        content=content,
        average=mean(np.stack([attributes, content]), axis=0),
    )


def choose(
    workspace: Workspace, names: tuple[str, ...], protocol: RetrievalProtocol, learned: Ids = NOBODY
) -> tuple[ImageTable, Case]:
    """The set's images and what they are asked, by a protocol; `names` are the used attributes.

    Images that the judged run `learned` from are not in the set, but for split train.
    """
    columns = workspace.schema.indices(names)
    unlabelled = protocol.unlabelled or not names
    origins = ["real", *["unlabelled"] * unlabelled, *["generated"] * protocol.generated]
    table = workspace.images(f"split={protocol.split} origin={'|'.join(origins)}")
    barred = left_out(table.ids, learned, protocol.split)
    table = table.select(~barred)
    relevance = None if protocol.relevance is None else _codes(table, protocol.relevance)
    full = (table.labels[:, columns] >= 0).all(axis=1)
    asking = full & np.isin(table.origin.astype(str), ["real", *["unlabelled"] * (not names)])
    kept = np.arange(len(table)) if unlabelled else np.flatnonzero(full)
    if not asking.any() or len(kept) <= protocol.k:
        told = f"real images with all of {', '.join(names)} known" if names else "images"
        why = f" ({barred.sum()} are left out: the run learned from them)" if barred.any() else ""
        raise RgunitError(
            f"split {protocol.split} has {asking.sum()} {told}{why}: P@{protocol.k} needs at least {protocol.k + 1}"
        )
    if not len(workspace.schema) and relevance is None:
        there = ", ".join(sorted(table.fields)) or "none: add the images again with --attributes FILE"
        raise UsageError(
            "there are no attributes that tell which images are right: name a text column by --relevance "
            f"(the images have {there})"
        )
    table = table.select(kept)
    case = draw_case(
        names,
        table.labels[:, columns],
        np.delete(table.labels, columns, axis=1),
        k=protocol.k,
        seed=protocol.seed,
        queries=asking[kept],
        relevance=None if relevance is None else relevance[kept],
        family=_roots(workspace, table.ids),
    )
    return table, case


@torch.no_grad()
def embed_set(
    workspace: Workspace,
    retriever: Retriever,
    ids: Ids,
    case: Case,
    progress: Callable[[int, int], None] | None = None,
    *,
    model: ContentModel | None = None,
) -> tuple[SetVectors, NDArray[np.uint64]]:
    """One pass over the images `ids` [n]: their vectors, what the case asks with their content, and their hashes.

    Of the case it uses which rows ask (`rows`) and for what (`targets`), no label of the set. `model` makes the
    content vectors in the run's place.
    """
    encoders = retriever.encoders
    targets = torch.full((len(ids), case.targets.shape[1]), -1, dtype=torch.int8)
    targets[torch.from_numpy(case.rows)] = torch.from_numpy(case.targets)
    made: list[tuple[Vectors, ...]] = []
    hashes = []
    for start in range(0, len(ids), BATCH):
        part = slice(start, start + BATCH)
        pixels = workspace.load(ids[part], encoders.size)
        hashes.append(perceptual_hash(pixels))
        images = to_tensor(pixels, encoders.device)
        content, style = encoders.content(images), encoders.style(images).float()[:, : retriever.style_dim]
        wanted = encoders.style_mean(targets[part]).to(encoders.device)[:, : retriever.style_dim]
        contents = (
            retriever.content_vectors(content).cpu().numpy()
            if model is None
            else model(workspace.load(ids[part], model.side))
        )
        tensors = (retriever.embed(content, wanted), retriever.embed(content, style), style, wanted)
        made.append((*(tensor.float().cpu().numpy() for tensor in tensors), contents))
        if progress is not None:
            progress(min(start + BATCH, len(ids)), len(ids))
    queries, own, styles, asked, content_all = (np.concatenate(column) for column in zip(*made, strict=True))
    return SetVectors(queries[case.rows], own, content_all, styles, asked[case.rows]), np.concatenate(hashes)


def evaluate_vectors(
    case: Case, vectors: SetVectors, known: Labels | None = None
) -> tuple[dict[str, Any], Ids, NDArray[np.float32]]:
    """The summary of a set's vectors, and each query's neighbours (rows) and distances [q, k].

    `known` int8 [n, A] are the labels that the label filter may see, by default all of them.
    """
    rows, distances = rank(vectors.queries, vectors.images, case)
    baselines, curve = simple_retrievals(case, vectors.content, vectors.style, vectors.wanted)
    known = case.used if known is None else known
    labels_prefer, filters = by_labels = _by_labels(case, vectors, known)
    baselines |= filters
    seen = {share: visible(case, 1 - share) for share in KNOWN}
    shares = {  # where nothing is hidden the first is what was just scored
        share: by_labels if np.array_equal(labels, known) else _by_labels(case, vectors, labels)
        for share, labels in seen.items()
    }
    summary = {
        "k": case.k,
        "queries": len(case.rows),
        "images": len(case.used),
        **score(case, rows),
        "random": score_random(case),
        **_whole_ranking(case, vectors),
        "labels_prefer": labels_prefer,
        "labels_known": [
            {"known": share, "labels_prefer": _short(preferred)} | {name: _short(row) for name, row in others.items()}
            for share, (preferred, others) in shares.items()
        ],
        "baselines": baselines,
        "late_fusion_curve": curve,
    }
    return summary, rows, distances


def _by_labels(case: Case, vectors: SetVectors, known: Labels) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What searches score that see the labels `known` of the set: labels_prefer, and the baselines."""
    preferred = prefer_labels(case, vectors.queries, vectors.images, vectors.content, known)
    filtered = filter_by_labels(case, vectors.queries, vectors.images, known)
    by_content = filter_by_labels(case, vectors.content[case.rows], vectors.content, known)
    return {**score(case, preferred), "interval": _interval(case, preferred)}, {
        "label_filter": score(case, filtered),
        "label_filter_content": score(case, by_content),
    }


def _interval(case: Case, rows: Ids) -> list[float] | None:
    """The 95 % interval of the average: percentiles of 1,000 draws of the queries."""
    attributes, content = (mean(values, axis=1) for values in precisions(case, rows))
    averages = (attributes + content) / 2
    averages = averages[~np.isnan(averages)]
    if not len(averages):
        return None
    draws = np.random.default_rng(0).integers(len(averages), size=(DRAWS, len(averages)))
    return [float(end) for end in np.percentile(averages[draws].mean(axis=1), [2.5, 97.5])]


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in SHORT if name in row}


def _codes(table: ImageTable, column: str) -> Ids:
    """A text field as codes int64 [n], −1 where it is empty."""
    if column not in table.fields:
        there = ", ".join(sorted(table.fields)) or "none"
        raise UsageError(f"no text column is called {column!r}; the images have: {there}")
    texts = np.array([text or "" for text in table.fields[column]])
    codes = np.unique(texts, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return np.where(texts == "", -1, codes)


def _roots(workspace: Workspace, ids: Ids) -> Ids:
    """The image [n] that each one goes back to: itself, or what it was generated from in the first place."""
    generated = workspace.images("origin=generated")
    roots = ids.copy()
    while len(generated):
        place = np.searchsorted(generated.ids, roots).clip(max=len(generated) - 1)
        made = (generated.ids[place] == roots) & (generated.parent[place] >= 0)
        if not made.any():
            break
        roots = np.where(made, generated.parent[place], roots)
    return roots


def duplicates_of(case: Case, hashes: NDArray[np.uint64]) -> list[Ids]:
    """For each query the rows of its near-duplicates in the set."""
    pairs = near_pairs(hashes)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    bounds = np.searchsorted(both[:, 0], np.stack([case.rows, case.rows + 1]))
    return [both[start:end, 1] for start, end in bounds.T]


def visible(case: Case, hidden: float, seed: int = 0) -> Labels:
    """The used labels int8 [n, A] with those of a share of the images unknown."""
    order = np.random.default_rng([seed, 1]).permutation(len(case.used))
    known = case.used.copy()
    known[order[: round(hidden * len(order))]] = -1
    return known


def _whole_ranking(case: Case, vectors: SetVectors) -> dict[str, float | None]:
    """mAP and recall at k over the whole set; relevant are images with exactly the target's labels.

    Without used attributes they are those of the query's own relevance.
    """
    codes, wanted = codes_of(replace(case, relevance=None) if case.used.shape[1] else case)
    precision, recall = [], []
    for start in range(0, len(case.rows), BLOCK):
        part = slice(start, start + BLOCK)
        out = forbidden(case, part)
        table = np.where(out, np.inf, squared_distances(vectors.queries[part], vectors.images))
        order = np.argsort(table, axis=1, kind="stable")
        relevant = (codes[order] == wanted[part][:, None]) & (wanted[part] >= 0)[:, None]
        relevant &= ~np.take_along_axis(out, order, axis=1)
        precision.append(average_precision(relevant))
        recall.append(recall_at_k(relevant, case.k))
    return {
        "mean_average_precision": number(mean(np.concatenate(precision))),
        "recall": number(mean(np.concatenate(recall))),
    }
