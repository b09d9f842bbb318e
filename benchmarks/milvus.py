"""A store with its vectors on Milvus beside the same store in its sealed files, in one run.

    make milvus
    .milvus/bin/milvus-lite server --data-dir /tmp/milvus --host 127.0.0.1 --port 19530 &
    python benchmarks/milvus.py --url milvus+http://127.0.0.1:19530 [--vectors 100000] [--index FLAT,HNSW]

Data and turns are those of benchmarks/store.py: 100 float32 in 2,000 clusters, 24 domains as an exclusive group, single
queries, k = 10, every contender asked in turn. Printed are rows a second into both (durable and searchable), 1,000 rows
more, seconds of `rebuild`, and medians in milliseconds with recall@10 against brute force, of all rows and of 1 domain
in 24. Milvus Lite, a server in Python for tests, shows that it works and what the way there costs; it is no measure of
Milvus. Collections are dropped in the end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from store import DIM, DOMAINS, NAMES, exact_truth, in_turns, make_data

from index_store import IndexStore, marker
from index_store.milvusserver import Server

BLOCK, MORE = 25_000, 1000


def filled(path: Path, url: str, vectors: np.ndarray, labels: np.ndarray) -> IndexStore:
    """Make and fill a store, and say what it took."""
    store = IndexStore.create(path, dim=DIM, attributes=NAMES, groups=[NAMES[:DOMAINS]], vectors=url)
    begun = time.perf_counter()
    for start in range(0, len(vectors), BLOCK):
        store.add(vectors[start : start + BLOCK], labels=labels[start : start + BLOCK], split="train")
    took = time.perf_counter() - begun
    begun = time.perf_counter()
    more = store.add(vectors[:MORE] + 9, labels=labels[:MORE], split="train")
    again = time.perf_counter() - begun
    store.remove(more)
    begun = time.perf_counter()
    told = store.rebuild()
    built = time.perf_counter() - begun
    rates = f"{len(vectors) / took:,.0f} rows a second, {MORE} more {again:.2f} s, rebuild {built:.1f} s"
    print(f"{path.name}: {rates}; {told[0]}", flush=True)
    return store


def main(words: list[str] | None = None) -> None:
    """Fill, ask, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="of a server, without a name: each store gets its own")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--index", default="FLAT,HNSW")
    args = parser.parse_args(words)
    vectors, queries, domain, wanted, labels = make_data(args.vectors)
    with tempfile.TemporaryDirectory() as folder:
        try:
            stores = {"files": filled(Path(folder) / "files", "files", vectors, labels)}
            for index in args.index.split(","):
                stores[index] = filled(Path(folder) / index, f"{args.url}?index={index}", vectors, labels)
            masks: list[np.ndarray | None] = [domain == one for one in wanted]
            for what, truth in (
                ("all rows", exact_truth(vectors, queries, [None] * len(queries))),
                ("1 in 24", exact_truth(vectors, queries, masks)),
            ):

                def asks(store: IndexStore, what: str = what) -> object:
                    where = [None if what == "all rows" else f"+d{one}" for one in wanted]
                    return lambda query: store.search(queries[query], k=10, where=where[query]).ids[0] - 1

                answers = {name: asks(store) for name, store in stores.items()}
                for name, figures in in_turns(answers, truth).items():
                    shown = f"p50 {figures['p50_ms']:.2f} ms, p99 {figures['p99_ms']:.2f} ms"
                    print(f"{what}, {name}: {shown}, recall {figures['recall']:.3f}", flush=True)
        finally:
            names = [marker.read(path, marker.VECTORS)[0] for path in Path(folder).iterdir()]
            server = Server(args.url)
            for one in server.call("list_collections"):
                if one.startswith(tuple(name for name in names if name)):
                    server.call("drop_collection", one)


if __name__ == "__main__":
    main()
