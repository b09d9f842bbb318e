"""Vector stores that one would otherwise take, behind one interface; each is imported only when it is asked for.

Each is filled with the same rows: a number, a key (text), one of 24 domains, a vector. `add_seconds` is the time from
the call to a first answer, the making of an empty store not counted; durable where the store has a disk format at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

K = 10
BATCH = 5000  # rows a call, where a store limits them

Answer = Callable[[int], Any]


@dataclass(frozen=True)
class Peer:
    """A filled store: row numbers of the nearest of query i, among all and among those of its domain (None: it cannot
    filter)."""

    add_seconds: float
    keeps: str
    plain: Answer
    filtered: Answer | None


@dataclass(frozen=True)
class Rows:
    """What every store is given."""

    vectors: np.ndarray
    queries: np.ndarray
    domain: np.ndarray
    wanted: np.ndarray

    def batches(self) -> list[slice]:
        """Slices of BATCH rows."""
        return [slice(start, min(start + BATCH, len(self.vectors))) for start in range(0, len(self.vectors), BATCH)]

    def key(self, row: int) -> str:
        """The key of a row."""
        return f"image {row}"


def hnswlib(rows: Rows, folder: Path) -> Peer:
    """A graph in memory, saved to a file; no labels, no keys; the filter is a Python function.

    M is 32; the library's own 16 past a million vectors, where the graph's making would take hours.
    """
    import hnswlib as module

    graph = module.Index("l2", rows.vectors.shape[1])
    begun = time.perf_counter()
    graph.init_index(len(rows.vectors), ef_construction=100, M=32 if len(rows.vectors) <= 1_000_000 else 16)
    graph.add_items(rows.vectors)
    graph.set_ef(64)
    graph.save_index(str(folder / "hnswlib.bin"))

    def plain(i: int) -> Any:
        return graph.knn_query(rows.queries[i : i + 1], K)[0][0]

    def filtered(i: int) -> Any:
        wanted = rows.wanted[i]
        return graph.knn_query(rows.queries[i : i + 1], K, filter=lambda row: rows.domain[row] == wanted)[0][0]

    plain(0)
    return Peer(time.perf_counter() - begun, "one file when told; no labels, no keys", plain, filtered)


def usearch(rows: Rows, folder: Path) -> Peer:
    """A graph in memory, saved to a file; no labels, no keys, no filter."""
    from usearch.index import Index

    graph = Index(ndim=rows.vectors.shape[1], metric="l2sq", connectivity=32, expansion_add=100, expansion_search=64)
    begun = time.perf_counter()
    graph.add(np.arange(len(rows.vectors)), rows.vectors)
    graph.save(str(folder / "usearch.bin"))

    def plain(i: int) -> Any:
        return graph.search(rows.queries[i], K).keys

    plain(0)
    return Peer(time.perf_counter() - begun, "one file when told; no labels, no keys", plain, None)


def lancedb(rows: Rows, folder: Path, *, indexed: bool = False) -> Peer:
    """A table of columns on the disk: scanned, or `indexed` by IVF-PQ: 50 bytes a vector, a cell for each
    4,096 rows, a bitmap over the domains, where a query reads 20 cells and ranks 100 rows again by their vectors."""
    import lancedb as module
    import pyarrow

    dim = rows.vectors.shape[1]
    columns = {"id": pyarrow.int64(), "key": pyarrow.string(), "domain": pyarrow.int32()}
    schema = pyarrow.schema({**columns, "vector": pyarrow.list_(pyarrow.float32(), dim)})
    table = module.connect(folder / "lancedb").create_table("peers", schema=schema)
    begun = time.perf_counter()
    table.add(
        pyarrow.table(
            {
                "id": np.arange(len(rows.vectors)),
                "key": [rows.key(row) for row in range(len(rows.vectors))],
                "domain": rows.domain.astype(np.int32),
                "vector": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.vectors.ravel()), dim),
            },
            schema=schema,
        )
    )

    if indexed:
        table.create_index(
            metric="l2", index_type="IVF_PQ", num_partitions=max(1, len(rows.vectors) // 4096), num_sub_vectors=dim // 2
        )
        table.create_scalar_index("domain", index_type="BITMAP")

    def ids(search: Any) -> Any:
        search = search.nprobes(20).refine_factor(10) if indexed else search
        return search.limit(K).select(["id", "_distance"]).to_arrow()["id"].to_numpy()

    def plain(i: int) -> Any:
        return ids(table.search(rows.queries[i]))

    def filtered(i: int) -> Any:
        return ids(table.search(rows.queries[i]).where(f"domain = {rows.wanted[i]}", prefilter=True))

    plain(0)
    return Peer(time.perf_counter() - begun, "files", plain, filtered)


def chroma(rows: Rows, folder: Path) -> Peer:
    """SQLite and HNSW on the disk, its keys as ids."""
    import chromadb

    client = chromadb.PersistentClient(str(folder / "chroma"))
    collection = client.create_collection("peers", metadata={"hnsw:space": "l2"})
    begun = time.perf_counter()
    for part in rows.batches():
        collection.add(
            ids=[rows.key(row) for row in range(part.start, part.stop)],
            embeddings=rows.vectors[part],
            metadatas=[{"domain": int(one)} for one in rows.domain[part]],
        )

    def query(i: int, **where: Any) -> Any:
        asked = collection.query(query_embeddings=rows.queries[i : i + 1], n_results=K, include=[], **where)
        return [int(one.removeprefix("image ")) for one in asked["ids"][0]]

    query(0)
    taken = time.perf_counter() - begun
    return Peer(taken, "SQLite and files", query, lambda i: query(i, where={"domain": int(rows.wanted[i])}))


def milvus(rows: Rows, folder: Path) -> Peer:
    """Milvus Lite: Milvus's interface on a local file, with its flat index."""
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(str(folder / "milvus.db"))
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("key", DataType.VARCHAR, max_length=64)
    schema.add_field("domain", DataType.INT32)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=rows.vectors.shape[1])
    parameters = client.prepare_index_params()
    parameters.add_index("vector", index_type="FLAT", metric_type="L2")
    client.create_collection("peers", schema=schema, index_params=parameters)
    begun = time.perf_counter()
    for part in rows.batches():
        client.insert(
            "peers",
            [
                {"id": row, "key": rows.key(row), "domain": int(rows.domain[row]), "vector": rows.vectors[row]}
                for row in range(part.start, part.stop)
            ],
        )

    def query(i: int, **where: Any) -> Any:
        return [hit["id"] for hit in client.search("peers", [rows.queries[i].tolist()], limit=K, **where)[0]]

    query(0)
    taken = time.perf_counter() - begun
    return Peer(taken, "a local file", query, lambda i: query(i, filter=f"domain == {rows.wanted[i]}"))


PEERS: dict[str, Callable[[Rows, Path], Peer]] = {
    "hnswlib": hnswlib,
    "usearch": usearch,
    "LanceDB": lancedb,
    "LanceDB IVF-PQ": partial(lancedb, indexed=True),
    "Chroma": chroma,
    "Milvus Lite": milvus,
}
