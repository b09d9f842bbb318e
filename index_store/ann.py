"""An approximate index of one large shard: the rows of a shard sorted into cells around centroids.

The one idea: it is a second, memory-mapped copy of the vectors with the rows of a cell side by side. A query scans
its nearest cells. How many of them find the nearest 10, 20, … 1,000 rows was measured when the index was built; with a
filter that keeps 1 in 10, the nearest 200 are looked for, and where those do not reach as far as what was found, it is
looked deeper, at last by an exact scan.
It is derived: it can be deleted and built again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from index_store import features
from index_store.index import CellIndex, Ids, Vectors, exact_search, scan_rows
from index_store.state import Segment

if TYPE_CHECKING:
    from index_store.device import Device

FOLDER = "cache"
SUFFIX = ".cells.h5"
SAMPLE = 256  # rows asked for when recall and costs are measured
WANTED_RECALL = 0.998
DEPTHS = (10, 20, 40, 100, 200, 500, 1000)  # how many neighbours deep recall is measured
PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROWS_A_CELL = 40  # wanted; k-means takes the longer the more cells there are
MOST_CELLS = 4096


@dataclass(frozen=True)
class Costs:
    """Measured on this machine when the index was built, in microseconds."""

    scan: float  # a row of a contiguous scan
    pick: float  # a row picked from the memory-mapped shard
    batch: float  # a row of a contiguous scan in a large batch of queries, for each query
    probe: float  # choosing the cells of a query
    cell: float  # a row of a cell
    depth: float  # a row more that is looked for


@dataclass(frozen=True)
class Cells:
    """The index of a shard. `probes` says how many cells find WANTED_RECALL of the nearest DEPTHS rows, 0 where none
    of PROBES did."""

    index: CellIndex
    probes: tuple[int, ...]
    costs: Costs

    def probes_for(self, depth: float) -> int:
        """Return how many cells must be looked at to find the nearest `depth` rows, 0 if that is not known."""
        for known, probes in zip(DEPTHS, self.probes, strict=True):
            if known >= depth:
                return probes
        return 0

    def cost(self, depth: int) -> float | None:
        """Return the microseconds that a query for the nearest `depth` rows takes, None if it would find too few."""
        if not (probes := self.probes_for(depth)):
            return None
        rows = probes * self.index.rows / self.index.cells
        return self.costs.probe + self.costs.cell * rows + self.costs.depth * depth

    def search(
        self, queries: Vectors, k: int, depth: int, kept: Ids | None
    ) -> tuple[Vectors, Ids, npt.NDArray[np.float32]]:
        """Return distances [q, k] (inf) and rows [q, k] (-1) of those of the nearest `depth` rows that are among the
        sorted rows `kept`, and how far these rows reach: float32 [q], the distance of the last one."""
        distances, rows = self.index.search(queries, depth, self.probes_for(depth))
        last = np.maximum((rows >= 0).sum(axis=1) - 1, 0)
        reach = np.where(rows[:, 0] >= 0, distances[np.arange(len(rows)), last], -np.inf).astype(np.float32)
        if kept is not None:
            place = np.minimum(np.searchsorted(kept, rows), max(len(kept) - 1, 0))
            order = np.argsort((kept[place] != rows) | (rows < 0), axis=1, kind="stable")[:, :k]
            dropped = np.take_along_axis(kept[place] != rows, order, axis=1)
            distances, rows = np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)
            distances[dropped], rows[dropped] = np.inf, -1
        if distances.shape[1] < k:
            missing = ((0, 0), (0, k - distances.shape[1]))
            distances, rows = (
                np.pad(distances, missing, constant_values=np.inf),
                np.pad(rows, missing, constant_values=-1),
            )
        return distances[:, :k], rows[:, :k], reach


def depth_for(k: int, share: float) -> int:
    """Return how many of the nearest rows hold k that a filter keeps, if it keeps this share of them; with a margin
    for chance."""
    return k if share >= 1 else math.ceil((k + 3 * math.sqrt(k)) / share)


def cells_path(folder: Path, shard: str) -> Path:
    """Return where the index of a shard lies."""
    return folder / FOLDER / (shard.removesuffix(features.SUFFIX) + SUFFIX)


def build_cells(segment: Segment, device: Device | None = None, like: Vectors | None = None) -> Cells:
    """Sort the rows of a segment into cells; measure recall and costs on a sample of its rows.

    `like`: the centroids of another segment of the same encoder, a good start.
    """
    vectors = segment.vectors
    count = len(vectors)
    wanted = min(2 ** max(4, round(np.log2(count / ROWS_A_CELL))), MOST_CELLS)
    index = CellIndex.build(vectors, wanted, device, like)
    sample = np.sort(np.random.default_rng(0).choice(count, min(SAMPLE, count), replace=False))
    queries = np.ascontiguousarray(vectors[sample])
    begun = time.perf_counter()
    _, truth = exact_search(queries, vectors, min(max(DEPTHS) + 1, count))
    batch = (time.perf_counter() - begun) * 1e6 / (count * len(sample))
    rank = _probe_ranks(index, queries, truth)
    probes = []
    for depth in DEPTHS:
        nearest = rank[:, 1 : depth + 1]  # a row's nearest is itself
        enough = [p for p in PROBES if p < index.cells and (nearest < p).mean() >= WANTED_RECALL]
        probes.append(enough[0] if enough and depth < count else 0)
    return Cells(index, tuple(probes), _measure(index, segment, queries, batch))


def save_cells(folder: Path, shard: str, cells: Cells) -> None:
    """Write the index of a shard, sealed."""
    path = cells_path(folder, shard)
    path.parent.mkdir(exist_ok=True)
    header = {"shard": shard, "probes": list(cells.probes), "costs": vars(cells.costs)}
    features.seal_file(path, features.Record("cells", header, {"index": cells.index.pack()}))


def load_cells(folder: Path, shard: str, shape: tuple[int, ...]) -> Cells | None:
    """Read the index of a shard of vectors [n, d]; None if there is none, it is damaged, of other vectors or of another
    version (the exact scan needs none). What is checked is what is read, whatever another process puts in the file's
    place meanwhile."""
    try:
        header, data = features.map_checked(cells_path(folder, shard), "index")
        index = CellIndex.read(data)
        probes, costs = tuple(int(one) for one in header["probes"]), header["costs"]
        cells = Cells(index, probes, Costs(**{name: float(cost) for name, cost in costs.items()}))
    except (features.ShardDamaged, ValueError, TypeError, KeyError, AttributeError):
        return None
    fits = (index.rows, index.dim) == shape and len(probes) == len(DEPTHS) and min(probes) >= 0
    return cells if fits and max(probes) <= index.cells else None


def _probe_ranks(index: CellIndex, queries: Vectors, truth: Ids) -> Ids:
    """Return int64 [q, t]: in which of a query's cells, nearest first, each true neighbour lies."""
    _, nearest = index.nearest(queries, min(max(PROBES), index.cells))
    place = np.full((len(queries), index.cells), index.cells)
    np.put_along_axis(place, nearest, np.arange(nearest.shape[1])[None], axis=1)
    return np.take_along_axis(place, index.owner[truth], axis=1)


def _measure(index: CellIndex, segment: Segment, queries: Vectors, batch: float) -> Costs:
    """Time the ways to search on this machine."""
    count, probes = len(segment.ids), min(16, index.cells)
    rows = np.sort(np.random.default_rng(0).choice(count, min(count, 8192), replace=False)).astype(np.int64)
    sizes = np.bincount(index.owner, minlength=index.cells)
    scan, pick, probe, cell, depth = [], [], [], [], []
    for query in queries[:16, None]:
        begun = time.perf_counter()
        exact_search(query, segment.vectors, 10)
        scan.append((time.perf_counter() - begun) / count)
        begun = time.perf_counter()
        scan_rows(query[0], segment.vectors, rows, 10)
        pick.append((time.perf_counter() - begun) / len(rows))
        begun = time.perf_counter()
        _, nearest = index.nearest(query, probes)
        probe.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        index.search(query, 10, probes)
        few = time.perf_counter() - begun
        cell.append(max(0.0, few - probe[-1]) / max(1, int(sizes[nearest].sum())))
        begun = time.perf_counter()
        index.search(query, 510, probes)
        depth.append(max(0.0, time.perf_counter() - begun - few) / 500)
    scan_, pick_, probe_, cell_, depth_ = (float(np.median(times)) * 1e6 for times in (scan, pick, probe, cell, depth))
    return Costs(scan_, pick_, batch, probe_, cell_, depth_)
