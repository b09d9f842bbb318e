"""Nearest neighbours by FAISS; the only module that imports it, and the place where its traps are handled.

The one idea: FAISS picks candidates, and the distances that are returned are computed again as float32 differences
(FAISS's matrix product form loses digits by cancellation and changes with the batch size).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from index_store.forking import natively

if TYPE_CHECKING:
    from index_store.device import Device

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

SPARE = 8  # candidates beyond k, so that rounding in FAISS cannot push a true neighbour out
DEVICE_ERROR = 2  # times the rounding of the CPU: a GPU adds up in another order
PRODUCT_FORM = 20  # queries from which FAISS uses the matrix product form
RERANK_CHUNK = 2**22  # numbers gathered at a time
ROUNDS, SEED = 8, 0  # of k-means
EVEN = 3.0  # k-means that began with another file's centroids is begun anew where it is more uneven than this
SMALL = 2**21  # numbers that NumPy looks at before FAISS is imported for them


def faiss() -> Any:
    """Import FAISS when it is first needed; `forking` keeps it from its threads in a forked child."""
    import faiss as module

    return module


@natively
def exact_search(queries: Vectors, vectors: Vectors, k: int, device: Device | None = None) -> tuple[Vectors, Ids]:
    """Return squared L2 distances [q, k] ascending and rows [q, k]; inf and -1 where there are fewer than k rows.

    With a `device` it picks the candidates, from which the same is made.
    """
    count, kept = len(vectors), min(k, len(vectors))
    distances = np.full((len(queries), k), np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    if not kept or not len(queries):
        return distances, rows
    if device is None and "faiss" not in sys.modules and count * queries.size <= SMALL:  # the import alone takes longer
        every = np.broadcast_to(np.arange(count), (len(queries), count))
        best, order = rerank(queries, vectors, every)
        distances[:, :kept], rows[:, :kept] = best[:, :kept], order[:, :kept]
        return distances, rows
    many = device is not None or len(queries) >= PRODUCT_FORM
    knn = faiss().knn if device is None else device.knn
    gaps, candidates = knn(queries, vectors, min(count, kept + SPARE if many else kept))
    if not many:  # computed as differences already; a tie is told by the row, as below
        order = np.lexsort((candidates, gaps), axis=1)
        candidates = np.take_along_axis(candidates, order, axis=1)
        distances[:, :kept], rows[:, :kept] = np.take_along_axis(gaps, order, axis=1), candidates
        return distances, rows
    best, order = rerank(queries, vectors, candidates.astype(np.int64))
    distances[:, :kept], rows[:, :kept] = best[:, :kept], order[:, :kept]
    if candidates.shape[1] < count:
        error = _rounding(queries, distances[:, kept - 1]) * (1 if device is None else DEVICE_ERROR)
        unsure = np.flatnonzero(gaps[:, -1] - distances[:, kept - 1] <= error)
        for start in range(0, len(unsure), PRODUCT_FORM - 1):
            part = unsure[start : start + PRODUCT_FORM - 1]
            distances[part], rows[part] = exact_search(np.ascontiguousarray(queries[part]), vectors, k)
    return distances, rows


def _rounding(queries: Vectors, distances: Vectors) -> Vectors:
    """Return how far FAISS's matrix product form may be off for rows within `distances` [q] of the queries [q, d].

    |x − q|² = |x|² + |q|² − 2x·q in float32 errs by about 6e-8 · sqrt(d) · (|x|² + |q|²), and |x| ≤ |q| + |x − q|.
    """
    norms = np.sqrt(np.einsum("qd,qd->q", queries, queries))
    largest = (norms + np.sqrt(distances)) ** 2 + norms**2
    return np.asarray(largest * (2e-7 * np.sqrt(queries.shape[1]) + 4e-7), np.float32)


@natively
def scan_rows(query: Vectors, vectors: Vectors, rows: Ids, k: int) -> tuple[Vectors, Ids]:
    """Search some rows of vectors [n, d] where they lie: distances [k] and rows [k] (inf and -1) of a query [d]."""
    distances, found = np.full(k, np.inf, np.float32), np.full(k, -1, np.int64)
    kept = min(k, len(rows))
    if kept:
        module = faiss()
        point = module.swig_ptr
        query, rows = np.ascontiguousarray(query), np.ascontiguousarray(rows)
        gaps, best = np.empty(kept, np.float32), np.empty(kept, np.int64)
        module.knn_L2sqr_by_idx(
            point(query),
            point(vectors),
            point(rows),
            vectors.shape[1],
            1,
            len(vectors),
            len(rows),
            kept,
            point(gaps),
            point(best),
        )
        order = np.lexsort((best, gaps))
        distances[:kept], found[:kept] = gaps[order], best[order]
    return distances, found


def _k_means(vectors: Vectors, cells: int, nearest: Any, like: Vectors | None = None) -> Any:
    """FAISS's k-means of vectors [n, d], by an index of its own to assign with; from `like` on a quarter as long."""
    module = faiss()
    means = module.Clustering(vectors.shape[1], cells)
    means.niter, means.seed, means.min_points_per_centroid = ROUNDS, SEED, 1
    if like is not None:
        module.copy_array_to_vector(np.ascontiguousarray(like).ravel(), means.centroids)  # it begins with them
        means.niter = ROUNDS // 4
    means.train(vectors, nearest)
    return means


def _imbalance(means: Any) -> float:
    """How uneven the cells are: 1 where all have as many rows, the number of cells where one has all."""
    stats = means.iteration_stats
    return float(stats.at(stats.size() - 1).imbalance_factor)


class CellIndex:
    """FAISS's IndexIVFFlat: the rows of vectors [n, d] sorted into cells around centroids; never added to once built.

    Read from a memory-mapped file it stays there: FAISS looks at the lists where they lie.
    """

    def __init__(self, index: Any, data: npt.NDArray[np.uint8] | None = None) -> None:
        self.index = index
        self.data = data  # FAISS's pointers lead into it
        self.rows, self.cells, self.dim = int(index.ntotal), int(index.nlist), int(index.d)
        self._quantizer = faiss().downcast_index(index.quantizer)
        self._parameters: dict[int, Any] = {}

    @classmethod
    @natively
    def build(
        cls, vectors: Vectors, cells: int, device: Device | None = None, like: Vectors | None = None
    ) -> CellIndex:
        """Sort vectors [n, d] into cells around k-means centroids of a sample of at most 64 rows a cell.

        With a `device` centroids and the rows' cells are found there. From `like`, centroids [cells, d] of vectors
        of the same kind, k-means takes a quarter of the rounds.
        """
        module = faiss()
        dim = vectors.shape[1]
        sample = np.sort(np.random.default_rng(SEED).permutation(len(vectors))[: 64 * cells])
        learned = np.ascontiguousarray(vectors[sample])
        nearest = module.IndexFlatL2(dim) if device is None else device.flat(dim)
        means = None
        if like is not None and like.shape == (cells, dim):
            means = _k_means(learned, cells, nearest, like)
            if _imbalance(means) > EVEN:  # vectors that lie elsewhere: most cells would stay empty
                means = None
        means = means or _k_means(learned, cells, nearest)
        centroids = module.vector_to_array(means.centroids).reshape(cells, dim)
        nearest.reset()
        nearest.add(centroids)
        quantizer = module.IndexFlatL2(dim)
        quantizer.add(centroids)
        index = module.IndexIVFFlat(quantizer, dim, cells)
        for start in range(0, len(vectors), 65_536):
            block = np.ascontiguousarray(vectors[start : start + 65_536])
            cell = np.ascontiguousarray(nearest.search(block, 1)[1])
            index.add_core(len(block), module.swig_ptr(block), None, module.swig_ptr(cell))
        return cls(index)

    @classmethod
    @natively
    def read(cls, data: npt.NDArray[np.uint8]) -> CellIndex:
        """Open the bytes of an index where they lie. ValueError where it is none of `build`'s: FAISS would trust it."""
        module = faiss()
        _check_parts(data)
        try:
            index = module.read_index(module.ZeroCopyIOReader(module.swig_ptr(data), data.size))
        except RuntimeError as error:
            raise ValueError(f"no index: {error}") from error
        if not isinstance(index, module.IndexIVFFlat) or index.metric_type != module.METRIC_L2:
            raise ValueError("an index of another kind")
        flat, lists = module.downcast_index(index.quantizer), index.invlists
        if not isinstance(flat, module.IndexFlat) or (flat.d, flat.ntotal) != (index.d, index.nlist):
            raise ValueError("centroids of another kind")
        if index.code_size != 4 * index.d or (lists.nlist, lists.code_size) != (index.nlist, index.code_size):
            raise ValueError("cells of another size")
        found = cls(index, data)
        sizes = [lists.list_size(cell) for cell in range(found.cells)]
        rows = [module.rev_swig_ptr(lists.get_ids(cell), size) for cell, size in enumerate(sizes) if size]
        if sum(sizes) != found.rows or any(((part < 0) | (part >= found.rows)).any() for part in rows):
            raise ValueError("rows that are not there")
        return found

    @natively
    def pack(self) -> npt.NDArray[np.uint8]:
        """Return the index as bytes."""
        return np.asarray(faiss().serialize_index(self.index), np.uint8)

    @property
    @natively
    def centroids(self) -> Vectors:
        """float32 [cells, d]."""
        return np.asarray(self._quantizer.reconstruct_n(0, self.cells), np.float32)

    @cached_property
    def owner(self) -> Ids:
        """The cell of each row, int64 [n]."""
        lists, owner = self.index.invlists, np.empty(self.rows, np.int64)
        for cell in range(self.cells):
            if size := lists.list_size(cell):  # of an empty one there are no ids to read
                owner[faiss().rev_swig_ptr(lists.get_ids(cell), size)] = cell
        return owner

    @natively
    def nearest(self, queries: Vectors, probes: int) -> tuple[Vectors, Ids]:
        """Return distances and numbers [q, probes] of the cells nearest to queries, by float32 differences."""
        point, count = faiss().swig_ptr, len(queries)
        gaps, found = np.empty((count, probes), np.float32), np.empty((count, probes), np.int64)
        for start in range(0, count, PRODUCT_FORM - 1):
            stop = min(start + PRODUCT_FORM - 1, count)
            self._quantizer.search_c(
                stop - start, point(queries[start:stop]), probes, point(gaps[start:stop]), point(found[start:stop])
            )
        return gaps, found

    @natively
    def search(self, queries: Vectors, k: int, probes: int) -> tuple[Vectors, Ids]:
        """Return distances [q, k] ascending and rows [q, k] (-1 where there are fewer) of what lies in the nearest
        cells."""
        module, count = faiss(), len(queries)
        point = module.swig_ptr
        if (parameters := self._parameters.get(probes)) is None:  # FAISS looks into one cell unless told
            parameters = self._parameters[probes] = module.SearchParametersIVF(nprobe=probes)
        distances, rows = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
        if count < PRODUCT_FORM:
            self.index.search_c(count, point(queries), k, point(distances), point(rows), parameters)
            return distances, rows
        gaps, cells = self.nearest(queries, probes)  # by differences, which FAISS itself does not take for so many
        self.index.search_preassigned_c(
            count, point(queries), k, point(cells), point(gaps), point(distances), point(rows), False, parameters
        )
        return distances, rows


def _check_parts(data: npt.NDArray[np.uint8]) -> None:
    """ValueError unless an index's bytes are flat cells around flat centroids: other parts would open other files."""
    told = bytes(data[:98])
    centroids = 98 + 4 * int.from_bytes(told[90:98], "little")
    rest = bytes(data[centroids : centroids + 13]) if centroids < len(data) else b""
    if told[:4] != b"IwFl" or told[53:57] != b"IxF2" or rest != bytes(9) + b"ilar":
        raise ValueError("an index of other parts")


def rerank(queries: Vectors, vectors: Vectors, candidates: Ids) -> tuple[Vectors, Ids]:
    """Sort candidate rows [q, c] by their true squared distance (ties by row); -1 goes last with inf."""
    distances = np.empty(candidates.shape, np.float32)
    step = max(1, RERANK_CHUNK // max(1, candidates.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), step):
        part = candidates[start : start + step]
        gap = vectors[np.maximum(part, 0)] - queries[start : start + step, None, :]
        distances[start : start + step] = np.einsum("qcd,qcd->qc", gap, gap)
    distances[candidates < 0] = np.inf
    order = np.lexsort((candidates, distances), axis=1)
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(candidates, order, axis=1)


def pick(ids: Ids, places: Ids) -> Ids:
    """Return the ids at places, -1 where a place is -1."""
    return np.where(places >= 0, ids[places], -1) if len(ids) else np.full(places.shape, -1, np.int64)


def merge(parts: Sequence[tuple[Vectors, Ids]], count: int, k: int) -> tuple[Vectors, Ids]:
    """Merge sorted results of several searches into the best k: distances [q, k], rows [q, k]."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return np.full((count, k), np.inf, np.float32), np.full((count, k), -1, np.int64)
    distances = np.hstack([part[0] for part in parts])
    rows = np.hstack([part[1] for part in parts])
    order = np.lexsort((rows, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)
