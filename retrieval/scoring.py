"""Scoring of a retrieval, apart from whatever made it: a case, neighbours, numbers.

A `Case` holds what is asked and what is true. Labels enter here only, to draw the targets and to count; a search
sees vectors. Pure NumPy: no workspace, no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.metrics import (
    Floats,
    Labels,
    average_precision_at_k,
    mean,
    number,
    precision_at_k,
    random_precision,
    same_labels_precision,
    smallest,
    squared_distances,
)

Ids = NDArray[np.int64]
BLOCK = 256  # queries whose distances to the whole set are held at once


@dataclass(frozen=True)
class Case:
    """What every retrieval of one set of n images is scored against: q queries, A used and O other attributes.

    Where there are no other attributes (O = 0) content is judged by `relevance`, if that is given.
    An image of the query's `family` (the query itself, what was generated from it) is never its neighbour.
    """

    k: int
    names: tuple[str, ...]  # the used attributes
    used: Labels  # int8 [n, A] in {1, 0, −1 unknown}
    other: Labels  # int8 [n, O]
    rows: Ids  # int64 [q] the queries' rows in the set
    targets: Labels  # int8 [q, A]
    relevance: Ids | None = None  # int64 [n] codes of a text column, −1 = empty
    duplicates: Sequence[Ids] | None = None  # for each query the rows of its near-duplicates
    family: Ids = field(default_factory=lambda: np.empty(0, np.int64))  # int64 [n] codes; empty: everyone its own

    def __post_init__(self) -> None:
        if not len(self.family):
            object.__setattr__(self, "family", np.arange(len(self.used), dtype=np.int64))


def draw_case(
    names: Sequence[str],
    used: Labels,
    other: Labels,
    *,
    k: int = 10,
    seed: int = 0,
    queries: NDArray[np.bool_] | None = None,
    relevance: Ids | None = None,
    family: Ids | None = None,
) -> Case:
    """One query an image whose used labels are all known, its target the label vector of a random one of them.

    `queries` bool [n] leaves images out as queries and as targets; they stay in the set. Raises ValueError if no
    image is left.
    """
    known = (used >= 0).all(axis=1)
    rows = np.flatnonzero(known if queries is None else known & queries)
    if not len(rows):
        raise ValueError("no image has all used labels known")
    targets = used[rows][np.random.default_rng(seed).integers(len(rows), size=len(rows))]
    own = np.empty(0, np.int64) if family is None else family
    return Case(k, tuple(names), used, other, rows, targets, relevance, family=own)


def rank(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], case: Case, block: int = BLOCK
) -> tuple[Ids, NDArray[np.float32]]:
    """Exact k nearest of the set [n, d] for queries [q, d] in the case's order: (rows, squared L2), both [q, k].

    The oracle that no index stands behind. Equal distances come in order of row; −1 and inf where fewer than k
    are allowed.
    """
    rows, distances = np.empty((len(queries), case.k), np.int64), np.empty((len(queries), case.k), np.float32)
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        rows[part], distances[part] = _best(squared_distances(queries[part], vectors), case, part)
    return rows, distances


def rank_table(table: Floats, case: Case, part: slice = slice(None)) -> Ids:
    """Rows [b, k] of the smallest distances of a table [b, n] of the queries `part`, such as a sum of distances.

    inf in the table forbids an image; −1 where fewer than k are allowed.
    """
    return _best(table, case, part)[0]


def score(case: Case, neighbours: Ids) -> dict[str, Any]:
    """All numbers of a retrieval [q, k] (rows of the set, −1 none) as JSON; None where labels leave nothing to count.

    attributes, content, average, per_attribute: the paper's P@k (`metrics.precision_at_k`); content by the query's own
    relevance where there are no other attributes. both: the share of
    neighbours with exactly the target's labels and, where relevance is given, the query's own relevance. most_found:
    the share of the queries that the image answers which is found most often.
    mean_average_precision_at_k: of the same ones, over queries that have one in the set. recall_at_k: of the
    queries with an image of the same relevance in the set, the share that finds one. near_duplicates: the share
    of results that are the query's. by_change: attributes, content and average apart for queries whose target
    keeps an attribute and those whose target flips it.
    """
    attributes, content = precisions(case, neighbours)
    codes, wanted = codes_of(case)
    near = _take(codes, neighbours)
    relevant = (near == wanted[:, None]) & (wanted >= 0)[:, None]
    counted = (near >= 0) & (wanted >= 0)[:, None]
    return {
        **scores(attributes, content),
        "per_attribute": _per_attribute(case, attributes),
        "both": _ratio(relevant.sum(), counted.sum()),
        "mean_average_precision_at_k": number(mean(average_precision_at_k(relevant, _others(case, codes, wanted)))),
        "recall_at_k": _recall(case, neighbours),
        "near_duplicates": _near_duplicates(case, neighbours),
        "most_found": _most_found(neighbours),
        "by_change": _by_change(case, attributes, content),
    }


def _most_found(neighbours: Ids) -> float | None:
    """The share of queries [q, k] that one image answers, of the image with the largest."""
    _, counts = np.unique(neighbours[neighbours >= 0], return_counts=True)
    return float(counts.max() / len(neighbours)) if len(counts) else None


def score_random(case: Case) -> dict[str, Any]:
    """The exact expectation for neighbours drawn at random: attributes, content, average, per_attribute, both."""
    attributes = random_precision(case.used, case.targets, case.rows, case.family)
    content = random_precision(case.other, case.other[case.rows], case.rows, case.family)
    if _by_relevance(case):
        content = _random_relevance(case)
    return {
        **scores(attributes, content),
        "per_attribute": _per_attribute(case, attributes),
        "both": number(mean(_share_of_others(case, *codes_of(case)))),
    }


def _share_of_others(case: Case, codes: Ids, wanted: Ids) -> Floats:
    """The share [q] of images with the wanted code among those of known code, both outside the query's family."""
    known = (codes >= 0).sum() - _others(case, np.minimum(codes, 0), np.zeros_like(wanted), inside=True)
    counted = (wanted >= 0) & (known > 0)
    share: Floats = np.where(counted, _others(case, codes, wanted), np.nan) / np.maximum(known, 1)
    return share


def score_same_labels(case: Case) -> dict[str, float | None]:
    """`score_random` among the images with exactly the target's labels: an oracle of style that knows no content."""
    own = case.other[case.rows]
    content = same_labels_precision(case.other, own, case.rows, case.used, case.targets, case.family)
    if _by_relevance(case):
        content = _random_relevance(case, same_labels=True)
    return scores(
        same_labels_precision(case.used, case.targets, case.rows, case.used, case.targets, case.family), content
    )


def precisions(case: Case, neighbours: Ids) -> tuple[Floats, Floats]:
    """(attributes [q, A] against the targets, content [q, O] against the queries' own labels) of rows [q, k].

    Without other attributes content is [q, 1], against the query's own relevance, if that is given.
    """
    content: NDArray[Any] = case.other
    if _by_relevance(case):
        assert case.relevance is not None
        content = case.relevance[:, None]
    return (
        precision_at_k(_take(case.used, neighbours), case.targets),
        precision_at_k(_take(content, neighbours), content[case.rows]),
    )


def content_by(case: Case) -> str | None:
    """What content is judged by: other attributes, the relevance, or (None) nothing."""
    return "attributes" if case.other.shape[1] else "relevance" if case.relevance is not None else None


def _by_relevance(case: Case) -> bool:
    return content_by(case) == "relevance"


def _random_relevance(case: Case, *, same_labels: bool = False) -> Floats:
    """P@k [q, 1] of relevance by images drawn at random; with `same_labels` among those with the target's labels."""
    assert case.relevance is not None
    codes, wanted = case.relevance, case.relevance[case.rows]
    if not same_labels:
        return _share_of_others(case, codes, wanted)[:, None]
    shares = np.full(len(wanted), np.nan)
    vectors, group = np.unique(case.targets, axis=0, return_inverse=True)
    for place, vector in enumerate(vectors):
        asked = np.flatnonzero(group.reshape(-1) == place)
        inside = (case.used == vector).all(axis=1)
        some = replace(case, rows=case.rows[asked], targets=case.targets[asked], duplicates=None)
        shares[asked] = _share_of_others(some, np.where(inside, codes, -1), wanted[asked])
    return shares[:, None]


def scores(attributes: Floats, content: Floats) -> dict[str, float | None]:
    """attributes, content and their average; each attribute weighs the same, as in the paper's tables."""
    a = mean(mean(attributes, axis=0)) if attributes.size else np.nan
    c = mean(mean(content, axis=0)) if content.size else np.nan
    return {"attributes": number(a), "content": number(c), "average": number((a + c) / 2)}


def forbidden(case: Case, part: slice) -> NDArray[np.bool_]:
    """Which images bool [b, n] may never be neighbours of the queries `part`: each one's own family."""
    own: NDArray[np.bool_] = case.family[case.rows[part]][:, None] == case.family[None]
    return own


def _best(table: Floats, case: Case, part: slice) -> tuple[Ids, Floats]:
    allowed = np.where(forbidden(case, part), np.inf, table)
    found, distances = smallest(allowed, min(case.k, allowed.shape[1]))
    found = np.where(np.isfinite(distances), found, -1)
    short = ((0, 0), (0, case.k - found.shape[1]))
    return np.pad(found, short, constant_values=-1), np.pad(distances, short, constant_values=np.inf)


def _take(values: NDArray[Any], rows: Ids) -> NDArray[Any]:
    """values[rows], and −1 where there is no row."""
    taken = values[rows]
    taken[rows < 0] = -1
    return taken


def codes_of(case: Case) -> tuple[Ids, Ids]:
    """A number [n] for each label vector (with its relevance) and the one [q] that each query wants; −1 unknown.

    Without used attributes and without relevance nothing is wanted: all −1.
    """
    if not case.used.shape[1] and case.relevance is None:
        return np.full(len(case.used), -1, np.int64), np.full(len(case.rows), -1, np.int64)
    _, inverse = np.unique(np.concatenate([case.used, case.targets]), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    codes, wanted = inverse[: len(case.used)], inverse[len(case.used) :]
    codes = np.where((case.used >= 0).all(axis=1), codes, -1)
    wanted = np.where((case.targets >= 0).all(axis=1), wanted, -1)
    if case.relevance is not None:
        many, own = int(case.relevance.max(initial=0)) + 1, case.relevance[case.rows]
        codes = np.where((codes >= 0) & (case.relevance >= 0), codes * many + case.relevance, -1)
        wanted = np.where((wanted >= 0) & (own >= 0), wanted * many + own, -1)
    return codes, wanted


def _others(case: Case, codes: Ids, wanted: Ids, inside: bool = False) -> Ids:
    """How many images [q] have the wanted code (≥ 0) outside the query's family, or `inside` it."""
    many = int(codes.max(initial=0)) + 2
    families = np.unique(case.family, return_inverse=True)[1].reshape(-1)
    known = codes >= 0
    pairs = np.sort(families[known] * many + codes[known])
    asked = families[case.rows] * many + np.minimum(wanted, many - 1)
    mine = np.searchsorted(pairs, asked, "right") - np.searchsorted(pairs, asked, "left")
    mine = np.where(wanted >= 0, mine, 0)
    if inside:
        return np.asarray(mine, np.int64)
    counts = np.bincount(codes[known], minlength=many)
    every = np.where(wanted >= 0, counts[np.clip(wanted, 0, many - 1)], 0)
    return np.asarray(every - mine, np.int64)


def _recall(case: Case, neighbours: Ids) -> float | None:
    if case.relevance is None:
        return None
    own = case.relevance[case.rows]
    asked = _others(case, case.relevance, own) > 0
    hit = (_take(case.relevance, neighbours) == own[:, None]).any(axis=1)
    return _ratio(hit[asked].sum(), asked.sum())


def _near_duplicates(case: Case, neighbours: Ids) -> float | None:
    if case.duplicates is None:
        return None
    n, lengths = len(case.used), [len(rows) for rows in case.duplicates]
    pairs = np.repeat(np.arange(len(lengths)), lengths) * n + np.concatenate([np.empty(0, np.int64), *case.duplicates])
    there = neighbours >= 0
    met = np.isin(np.arange(len(neighbours))[:, None] * n + neighbours, pairs) & there
    return _ratio(met.sum(), there.sum())


def _per_attribute(case: Case, attributes: Floats) -> dict[str, float | None]:
    return {name: number(value) for name, value in zip(case.names, mean(attributes, axis=0), strict=True)}


def _by_change(case: Case, attributes: Floats, content: Floats) -> dict[str, dict[str, dict[str, Any]]]:
    own = case.used[case.rows]
    apart: dict[str, dict[str, dict[str, Any]]] = {}
    for place, name in enumerate(case.names):
        flipped = own[:, place] != case.targets[:, place]
        apart[name] = {
            which: {"queries": int(rows.sum()), **scores(attributes[rows], content[rows])}
            for which, rows in (("kept", ~flipped), ("flipped", flipped))
        }
    return apart


def _ratio(count: Any, of: Any) -> float | None:
    return float(count / of) if of else None
