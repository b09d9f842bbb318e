"""An approximate index of one large shard: the rows of a shard sorted into cells around centroids.

The one idea: it is a second, memory-mapped copy of the vectors with the rows of a cell side by side. A query scans
its nearest cells, less what a filter drops; what that finds was measured when the index was built, and a search
that finds too little falls back to the exact scan. It is derived: it can be deleted and built again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store import features
from index_store.index import Ids, Vectors, assign, exact_search, scan_rows, squared_distances, train_centroids
from index_store.state import Segment

FOLDER = "cache"
SUFFIX = ".cells.h5"
SAMPLE = 128  # rows asked for when recall and costs are measured
WANTED_RECALL = 0.998
DEPTHS = (10, 30, 100, 300, 1000)  # how many neighbours deep recall is measured: a filter that keeps 1 in 10 needs 100
PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Costs:
    """Measured on this machine when the index was built, in microseconds."""

    scan: float  # a row of a contiguous scan
    pick: float  # a row picked from the memory-mapped shard
    batch: float  # a row of a contiguous scan in a large batch of queries, for each query
    probe: float  # choosing the cells of a query
    cell: float  # a row of a cell


@dataclass(frozen=True)
class Cells:
    """centroids float32 [c, d]; vectors float32 [m, d] sorted by cell, their rows in the shard int64 [m]; where each
    cell starts int64 [c + 1].

    `probes` says how many cells find WANTED_RECALL of the nearest DEPTHS rows, 0 where none of PROBES did.
    """

    centroids: Vectors
    vectors: Vectors
    order: Ids
    starts: Ids
    probes: tuple[int, ...]
    costs: Costs

    def probes_for(self, depth: float) -> int:
        """Return how many cells must be looked at to find the nearest `depth` rows, 0 if that is not known."""
        for known, probes in zip(DEPTHS, self.probes, strict=True):
            if known >= depth:
                return probes
        return 0

    def candidates(self, query: Vectors, probes: int) -> Ids:
        """Return the places in `vectors` of the cells nearest to a query [d]."""
        score = squared_distances(query, self.centroids)
        nearest = np.argpartition(score, probes)[:probes] if probes < len(score) else np.arange(len(score))
        starts = self.starts[nearest]
        sizes = self.starts[nearest + 1] - starts
        ends = np.cumsum(sizes)
        return np.asarray(np.arange(ends[-1]) + np.repeat(starts - ends + sizes, sizes), np.int64)

    def search(
        self, query: Vectors, k: int, probes: int, keep: npt.NDArray[np.bool_] | None, share: float
    ) -> tuple[Vectors, Ids] | None:
        """Return distances [k] and rows [k] (inf and -1) of the rows that `keep` allows; None if too few were seen.

        `share` is the part of the rows that `keep` allows: seeing far fewer than that in the cells means that the
        filter and the query lie apart, where the measured recall does not hold.
        """
        places = self.candidates(query, probes)
        seen = len(places)
        if keep is not None:
            places = places[keep[self.order[places]]]
            if len(places) < max(4 * k, 0.5 * share * seen):
                return None
        elif seen < k:
            return None
        distances, found = scan_rows(query, self.vectors, places, k)
        return distances, self.order[found]


def cells_path(folder: Path, shard: str) -> Path:
    """Return where the index of a shard lies."""
    return folder / FOLDER / (shard.removesuffix(features.SUFFIX) + SUFFIX)


def build_cells(segment: Segment, seed: int = 0) -> Cells:
    """Sort the rows of a segment into about 4 · sqrt(rows) cells; measure recall and costs on a sample of its rows."""
    vectors = segment.vectors
    count = len(vectors)
    cells = 2 ** max(4, round(np.log2(4 * np.sqrt(count))))
    centroids = train_centroids(vectors, cells, seed)
    owner = assign(vectors, centroids)
    order = np.argsort(owner, kind="stable").astype(np.int64)
    starts = np.searchsorted(owner[order], np.arange(cells + 1)).astype(np.int64)
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(count, min(SAMPLE, count), replace=False))
    queries = np.ascontiguousarray(vectors[sample])
    begun = time.perf_counter()
    _, truth = exact_search(queries, vectors, min(max(DEPTHS) + 1, count))
    batch = (time.perf_counter() - begun) * 1e6 / (count * len(sample))
    cells_of = Cells(centroids, np.asarray(vectors[order]), order, starts, (0,) * len(DEPTHS), Costs(0, 0, 0, 0, 0))
    rank = _probe_ranks(cells_of, owner, queries, truth)
    probes = []
    for depth in DEPTHS:
        nearest = rank[:, 1 : depth + 1]  # a row's nearest is itself
        enough = [p for p in PROBES if p < cells and (nearest < p).mean() >= WANTED_RECALL]
        probes.append(enough[0] if enough and depth < count else 0)
    return replace(cells_of, probes=tuple(probes), costs=_measure(cells_of, segment, queries, batch))


def save_cells(folder: Path, shard: str, cells: Cells) -> None:
    """Write the index of a shard, sealed."""
    path = cells_path(folder, shard)
    path.parent.mkdir(exist_ok=True)
    header = {"shard": shard, "probes": list(cells.probes), "costs": vars(cells.costs)}
    arrays: dict[str, npt.NDArray[Any]] = {
        "centroids": cells.centroids,
        "vectors": cells.vectors,
        "order": cells.order,
        "starts": cells.starts,
    }
    features.seal_file(path, features.Record("cells", header, arrays))


def load_cells(folder: Path, shard: str) -> Cells | None:
    """Read the index of a shard; None if there is none or it is damaged (the exact scan needs none)."""
    path = cells_path(folder, shard)
    if not path.exists():
        return None
    try:
        record, vectors = features.read(path, check=True, vectors=False), features.map_vectors(path)
    except features.ShardDamaged:
        return None
    centroids = record.arrays["centroids"]
    probes, costs = tuple(record.header["probes"]), Costs(**record.header["costs"])
    return Cells(centroids, vectors, record.arrays["order"], record.arrays["starts"], probes, costs)


def _probe_ranks(cells: Cells, owner: Ids, queries: Vectors, truth: Ids) -> Ids:
    """Return int64 [q, t]: in which of a query's cells, nearest first, each true neighbour lies."""
    score = np.stack([squared_distances(query, cells.centroids) for query in queries])
    place = np.empty(score.shape, np.int64)
    np.put_along_axis(place, np.argsort(score, axis=1), np.arange(score.shape[1])[None], axis=1)
    return np.take_along_axis(place, owner[truth], axis=1)


def _measure(cells: Cells, segment: Segment, queries: Vectors, batch: float) -> Costs:
    """Time the ways to search on this machine."""
    count = len(segment.ids)
    rows = np.sort(np.random.default_rng(0).choice(count, min(count, 8192), replace=False)).astype(np.int64)
    scan, pick, probe, cell = [], [], [], []
    for query in queries[:16]:
        begun = time.perf_counter()
        exact_search(query[None], segment.vectors, 10)
        scan.append((time.perf_counter() - begun) / count)
        begun = time.perf_counter()
        scan_rows(query, segment.vectors, rows, 10)
        pick.append((time.perf_counter() - begun) / len(rows))
        begun = time.perf_counter()
        places = cells.candidates(query, 16)
        probe.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        scan_rows(query, cells.vectors, places, 10)
        cell.append((time.perf_counter() - begun) / max(1, len(places)))
    medians = [float(np.median(times)) * 1e6 for times in (scan, pick, probe, cell)]
    return Costs(medians[0], medians[1], batch, medians[2], medians[3])
