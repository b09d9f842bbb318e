"""Fill, index and search a store that is made in blocks, and say what each million vectors costs.

    python benchmarks/large.py [--vectors 10000000] [--block 500000] [--folder DIR] [--faiss-pq]
                               [--peers "hnswlib,LanceDB IVF-PQ"] [--json FILE]

Data: `--vectors` x 100 float32 in 2,000 clusters, 24 equally likely domains as labels, made block by block, so that
they are never in memory together (the peers, which cannot be filled in blocks, hold them all). Filling and searching
are processes of their own; what is said of memory is their private memory (RssAnon), the largest while filling, the
last after 800 searches. Truth is brute force over the blocks; 200 single queries, k = 10, without a filter and with
one that keeps 1 in 24. Ten million vectors take about 13 GB of disk in `--folder` (default: the temporary folder).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from peers import PEERS, K, Peer, Rows

from index_store import IndexStore

DIM, DOMAINS, QUERIES = 100, 24, 200
NAMES = [f"d{domain}" for domain in range(DOMAINS)]


def block_of(number: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 [rows, 100] and domains int64 [rows] of a block, the same in every process."""
    centres = np.random.default_rng(0).normal(size=(2000, DIM)).astype("f4")
    rng = np.random.default_rng([1, number])
    vectors = centres[rng.integers(0, 2000, rows)] + 0.7 * rng.standard_normal((rows, DIM), "f4")
    return vectors, rng.integers(0, DOMAINS, rows)


def blocks_of(count: int, block: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All blocks."""
    for number, start in enumerate(range(0, count, block)):
        yield block_of(number, min(block, count - start))


def private_mib() -> float:
    """Private memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


class Peak:
    """The largest private memory of this process while it is watched."""

    def __init__(self) -> None:
        self.mib = private_mib()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.mib = max(self.mib, private_mib())

    def stop(self) -> float:
        """The largest so far."""
        self._done.set()
        self._thread.join()
        return self.mib


def fill(path: Path, count: int, block: int, pipe: Any) -> None:
    """In a process: fill the store and build its cells."""
    peak, adding = Peak(), 0.0
    with IndexStore.create(path, dim=DIM, attributes=NAMES, groups=[NAMES]) as store:
        for vectors, domain in blocks_of(count, block):
            labels = np.zeros((len(vectors), DOMAINS), np.int8)
            labels[np.arange(len(vectors)), domain] = 1
            begun = time.perf_counter()
            store.add(vectors, labels=labels, split="train")
            adding += time.perf_counter() - begun
        begun = time.perf_counter()
        told = store.rebuild()
        rebuilding = time.perf_counter() - begun
    pipe.send({"add_seconds": adding, "rebuild_seconds": rebuilding, "peak_mib": peak.stop(), "rebuild": told})


def ask(path: Path, queries: np.ndarray, wanted: np.ndarray, pipe: Any) -> None:
    """In a process: open the store and ask every query twice, the second time for the clock."""
    before = private_mib()
    begun = time.perf_counter()
    with IndexStore.open(path) as store:
        store.search(queries[0], k=K)
        told: dict[str, Any] = {"open_seconds": time.perf_counter() - begun}
        for name, where in (("plain", None), ("filtered", "+d{}")):
            found, seconds = [], []
            for turn in range(2):
                for query, domain in zip(queries, wanted, strict=True):
                    begun = time.perf_counter()
                    answer = store.search(query, k=K, where=where and where.format(domain))
                    if turn:
                        seconds.append(time.perf_counter() - begun)
                        found.append(answer.ids[0] - 1)  # ids begin at 1
            told[name] = {"ids": found, "seconds": seconds, "plan": answer.plan}
        told["private_mib"], told["imports_mib"] = private_mib(), before
    pipe.send(told)


def in_process(work: Any, *words: Any) -> Any:
    """What a function sends that runs in a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(*words, there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        sys.exit(f"{work.__name__} ended without an answer")
    finally:
        process.join()


def truth_of(count: int, block: int, queries: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest K rows int64 [q, K] of every query, and those of its domain, by brute force over the blocks."""
    best = [(np.full((QUERIES, K), np.inf, "f4"), np.full((QUERIES, K), -1)) for _ in range(2)]
    start = 0
    for vectors, domain in blocks_of(count, block):
        for place in range(2):
            for which in [None] if place == 0 else range(DOMAINS):
                asked = np.arange(len(queries)) if which is None else np.flatnonzero(wanted == which)
                rows = np.arange(len(vectors)) if which is None else np.flatnonzero(domain == which)
                gaps, found = faiss.knn(queries[asked], vectors if which is None else vectors[rows], K)
                both = np.hstack([best[place][0][asked], gaps])
                ids = np.hstack([best[place][1][asked], rows[found] + start])
                order = np.argsort(both, axis=1)[:, :K]
                best[place][0][asked] = np.take_along_axis(both, order, axis=1)
                best[place][1][asked] = np.take_along_axis(ids, order, axis=1)
        start += len(vectors)
    return best[0][1], best[1][1]


def scored(ids: Any, seconds: list[float], truth: np.ndarray) -> dict[str, float]:
    """Recall@10 and milliseconds."""
    hits = sum(len(set(np.asarray(one).tolist()) & set(row.tolist())) for one, row in zip(ids, truth, strict=True))
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return {"recall": hits / truth.size, "p50_ms": float(p50), "p99_ms": float(p99)}


def timed(answer: Any) -> tuple[list[Any], list[float]]:
    """All answers of a peer, asked twice, and the seconds of the second time."""
    found, seconds = [], []
    for turn in range(2):
        for query in range(QUERIES):
            begun = time.perf_counter()
            one = answer(query)
            if turn:
                seconds.append(time.perf_counter() - begun)
                found.append([int(row) for row in one])
    return found, seconds


def faiss_pq(count: int, block: int, queries: np.ndarray, wanted: np.ndarray, cells: int) -> Peer:
    """FAISS's IVF-PQ with 50 bytes a vector, filled in blocks, without exact re-ranking, at 64 cells a query; a filter
    is a bitmap of the domain's rows."""
    begun = time.perf_counter()
    index = faiss.index_factory(DIM, f"IVF{cells},PQ50")
    domains = []
    for number, (vectors, domain) in enumerate(blocks_of(count, block)):
        if not number:
            index.train(vectors[: 64 * cells])
        index.add(vectors)
        domains.append(domain)
    took = time.perf_counter() - begun
    every = np.concatenate(domains)
    bitmaps = [np.packbits(every == domain, bitorder="little") for domain in range(DOMAINS)]

    def answer(i: int, **more: Any) -> Any:
        return index.search(queries[i : i + 1], K, params=faiss.SearchParametersIVF(nprobe=64, **more))[1][0]  # type: ignore[call-arg]

    def filtered(i: int) -> Any:
        return answer(i, sel=faiss.IDSelectorBitmap(bitmaps[wanted[i]]))  # type: ignore[call-arg]

    return Peer(took, "nothing", answer, filtered)


def main(words: list[str] | None = None) -> None:
    """Measure what was asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=10_000_000)
    parser.add_argument("--block", type=int, default=500_000, help="rows of a sealed file")
    parser.add_argument("--folder", type=Path, help="where the store is made; the store is deleted")
    parser.add_argument("--faiss-pq", action="store_true", help="also FAISS's IVF-PQ")
    parser.add_argument("--peers", default="", help=f"comma separated: {', '.join(PEERS)}")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args(words)
    peers = [name for name in args.peers.split(",") if name]
    if unknown := [name for name in peers if name not in PEERS]:
        parser.error(f"there is no peer {unknown[0]!r}: there are {', '.join(PEERS)}")
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
    count, block = args.vectors, min(args.block, args.vectors)
    queries, wanted = block_of(2**20, QUERIES)
    figures: dict[str, Any] = {"vectors": count, "block": block, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "store"
        figures["fill"] = built = in_process(fill, path, count, block)
        for name in ("shards", "cache", "catalog.db"):
            files = [path / name] if (path / name).is_file() else list((path / name).glob("*"))
            figures[f"{name}_bytes"] = sum(file.stat().st_size for file in files)
        per = 1e6 / count
        print(f"{count} vectors in blocks of {block}, load {figures['load']:.1f} of {figures['cores']} cores")
        print(
            f"a million: filled in {built['add_seconds'] * per:.1f} s, cells in {built['rebuild_seconds'] * per:.1f} s"
        )
        sizes = {name: figures[f"{name}_bytes"] / count for name in ("shards", "cache", "catalog.db")}
        print("disk: " + ", ".join(f"{name} {size:.0f}" for name, size in sizes.items()) + " bytes a vector")
        print(f"largest private memory while filling: {built['peak_mib']:.0f} MiB", flush=True)
        told = in_process(ask, path, queries, wanted)
        plain, filtered = truth_of(count, block, queries, wanted)
        figures["private_bytes"] = (told["private_mib"] - told["imports_mib"]) * 2**20 / count
        print(f"opened and answered in {told['open_seconds']:.2f} s")
        print(
            f"private memory after the searches: {told['private_mib']:.0f} MiB, {told['imports_mib']:.0f} MiB of them "
            f"before the store was opened: {figures['private_bytes']:.0f} bytes a vector"
        )
        for name, truth in (("plain", plain), ("filtered", filtered)):
            figures[name] = {**scored(told[name]["ids"], told[name]["seconds"], truth), "plan": told[name]["plan"]}
            _show(f"index_store, {name}", figures[name])
            print(f"    {told[name]['plan']}", flush=True)
        keep(args.json, figures)
        if args.faiss_pq:
            cells = 2 ** max(4, min(12, round(np.log2(4 * count**0.5))))
            beside(f"FAISS IVF{cells},PQ50", faiss_pq(count, block, queries, wanted, cells), plain, filtered, figures)
            keep(args.json, figures)
        for name in peers:
            parts = list(blocks_of(count, block))
            rows = Rows(
                np.concatenate([one[0] for one in parts]), queries, np.concatenate([one[1] for one in parts]), wanted
            )
            del parts
            try:
                beside(name, PEERS[name](rows, Path(folder)), plain, filtered, figures)
            except ImportError as error:
                print(f"  {name} left out: {error}")
            keep(args.json, figures)


def beside(name: str, peer: Peer, plain: np.ndarray, filtered: np.ndarray, figures: dict[str, Any]) -> None:
    """Ask a peer all queries, without and with the filter; its figures go beside the others."""
    print(f"  {name}: filled and built in {peer.add_seconds:.0f} s")
    figures[f"{name} add_seconds"] = peer.add_seconds
    for kind, answer, truth in (("plain", peer.plain, plain), ("filtered", peer.filtered, filtered)):
        if answer is not None:
            figures[f"{name} {kind}"] = scored(*timed(answer), truth)
            _show(f"{name}, {kind}", figures[f"{name} {kind}"])


def keep(path: Path | None, figures: dict[str, Any]) -> None:
    """Write what has been measured so far."""
    if path:
        path.write_text(json.dumps(figures, indent=1))


def _show(title: str, row: dict[str, Any]) -> None:
    """Print one row."""
    print(f"  {title:28s} recall@10 {row['recall']:.4f}  p50 {row['p50_ms']:8.2f} ms  p99 {row['p99_ms']:8.2f} ms")


if __name__ == "__main__":
    main()
