"""Time the store against FAISS and, where they are installed, the vector databases that one would otherwise take.

    python benchmarks/store.py [--vectors 100000] [--faiss Flat,HNSW32,IVF] [--peers all|NAME,NAME] [--table]
                               [--json FILE]

Data: `--vectors` x 100 float32 in 2,000 clusters, 24 equally likely domains as an exclusive group, and attributes
that keep 50, 10, 2, 0.5 and 0.1 %; 200 single queries, k = 10, squared L2. What is compared is asked in turns, query
by query, in one process; printed are medians in milliseconds, ratios and recall@10 against brute force. `--table`
adds recall of every selectivity beside FAISS HNSW and IVF, `--peers` the vector databases of benchmarks/peers that are
installed in the same environment. `docs/make_performance.py` makes the tables of docs/performance.md of the JSON files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from peers import PEERS, Answer, K, Peer, Rows

from index_store import IndexStore

DIM, DOMAINS, QUERIES = 100, 24, 200
SLOW = 0.1  # seconds a query
SHARES = {"p50": 0.5, "p10": 0.1, "p2": 0.02, "p0_5": 0.005, "p0_1": 0.001, "none": 0.0}
NAMES = [f"d{domain}" for domain in range(DOMAINS)] + list(SHARES)


def make_data(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return vectors [n, 100], queries [200, 100], domains [n], wanted domains [200], labels int8 [n, A]."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2000, DIM)).astype("f4")

    def draw(number: int) -> np.ndarray:
        return (centres[rng.integers(0, 2000, number)] + 0.7 * rng.normal(size=(number, DIM))).astype("f4")

    vectors, queries = draw(count), draw(QUERIES)
    domain, wanted = rng.integers(0, DOMAINS, count), rng.integers(0, DOMAINS, QUERIES)
    labels = np.zeros((count, len(NAMES)), np.int8)
    labels[np.arange(count), domain] = 1
    for column, share in enumerate(SHARES.values(), start=DOMAINS):
        labels[:, column] = rng.random(count) < share
    return vectors, queries, domain, wanted, labels


def in_turns(answers: dict[str, Answer], truth: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Ask every query of every contender in turn; return p50 and p99 milliseconds and recall@10.

    One that takes longer than SLOW is asked every tenth query only.
    """
    seconds: dict[str, list[float]] = {name: [] for name in answers}
    hits, wanted = dict.fromkeys(answers, 0), dict.fromkeys(answers, 0)
    slow = set()
    for name, answer in answers.items():
        for query in range(QUERIES):  # once to warm what is kept for each filter
            begun = time.perf_counter()
            answer(query)
            if query and time.perf_counter() - begun > SLOW:
                slow.add(name)
                break
    for query in range(QUERIES):
        for name, answer in answers.items():
            if name in slow and query % 10:
                continue
            begun = time.perf_counter()
            found = answer(query)
            seconds[name].append(time.perf_counter() - begun)
            hits[name] += len({int(one) for one in found} & {int(one) for one in truth[query]} - {-1})
            wanted[name] += len(truth[query])
    return {
        name: {
            "p50_ms": float(np.percentile(times, 50) * 1e3),
            "p99_ms": float(np.percentile(times, 99) * 1e3),
            "recall": hits[name] / max(1, wanted[name]),
        }
        for name, times in seconds.items()
    }


def exact_truth(vectors: np.ndarray, queries: np.ndarray, masks: list[np.ndarray | None]) -> list[np.ndarray]:
    """Return the true nearest rows of each query among those of its mask."""
    truth = []
    gathered: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for query, mask in zip(queries, masks, strict=True):
        if id(mask) not in gathered:
            rows = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
            gathered = {id(mask): (rows, vectors if mask is None else vectors[rows])}
        rows, part = gathered[id(mask)]
        truth.append(rows[faiss.knn(query[None], part, min(K, len(rows)))[1][0]] if len(rows) else rows)
    return truth


def selectors(masks: list[np.ndarray]) -> list[Any]:
    """Return FAISS bitmap selectors."""
    return [faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little")) for mask in masks]


def faiss_indexes(
    vectors: np.ndarray, wanted: set[str], cells: int, probes: int
) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Return the FAISS indexes to compare with, and how each takes a selector; IVF has as many cells as ours and looks
    at as many of them."""
    made = {}
    for factory, parameters in (
        ("Flat", lambda sel: faiss.SearchParameters(sel=sel)),
        ("HNSW32", lambda sel: faiss.SearchParametersHNSW(efSearch=64, sel=sel)),
        (f"IVF{cells},Flat", lambda sel: faiss.SearchParametersIVF(nprobe=probes, sel=sel)),
    ):
        if not factory.startswith(tuple(wanted)):
            continue
        begun = time.perf_counter()
        index = faiss.index_factory(DIM, factory)
        index.train(vectors[: 64 * cells])
        index.add(vectors)
        print(f"  built FAISS {factory} in {time.perf_counter() - begun:.1f} s", flush=True)
        made[f"FAISS {factory}"] = (index, parameters)
    return made


def show(title: str, results: dict[str, dict[str, float]], against: str | None = None) -> None:
    """Print one comparison."""
    print(title)
    base = results[against]["p50_ms"] if against else 0.0
    for name, row in results.items():
        ratio = f"  x {row['p50_ms'] / base:5.2f}" if base else ""
        print(
            f"  {name:22s} p50 {row['p50_ms']:9.3f} ms  p99 {row['p99_ms']:9.3f} ms  recall {row['recall']:.4f}{ratio}"
        )
    sys.stdout.flush()


def memory(path: Path, queries: np.ndarray) -> float:
    """Return the private memory (RssAnon) in MiB of a fresh process that opens the store and searches it."""
    code = (
        "import sys, numpy as np\nfrom index_store import IndexStore\nstore = IndexStore.open(sys.argv[1])\n"
        "queries = np.load(sys.argv[2])\n"
        "for row, query in enumerate(queries): store.search(query); store.search(query, where=f'+d{row % 24}')\n"
        "print([int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('RssAnon')][0] / 1024)"
    )
    np.save(path / "queries.npy", queries)
    command = [sys.executable, "-c", code, str(path), str(path / "queries.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (path / "queries.npy").unlink()
    return float(done.stdout)


def fill_peers(wanted: str, data: Any, folder: Path) -> dict[str, Peer]:
    """Return the peers that are asked for and installed, filled."""
    vectors, queries, domain, asked, _ = data
    names = list(PEERS) if wanted == "all" else [name for name in wanted.split(",") if name]
    filled = {}
    for name in names:
        if name not in PEERS:
            sys.exit(f"there is no peer {name!r}: there are {', '.join(PEERS)}")
        try:
            filled[name] = PEERS[name](Rows(vectors, queries, domain, asked), folder)
        except ImportError as error:
            print(f"  {name} left out: {error}")
            continue
        print(f"  {name}: {filled[name].add_seconds:.2f} s to add and answer", flush=True)
    return filled


def recall_table(store: IndexStore, ids: np.ndarray, data: Any, indexes: Any) -> list[dict[str, Any]]:
    """Return recall@10 and p50 of every selectivity, ours beside FAISS's indexes with a selector."""
    vectors, queries, domain, _, labels = data
    rows = []
    cells: list[tuple[str, str, np.ndarray | None]] = [("100 %", "", None)]
    cells += [
        (f"{100 * share:g} %", f"+{name}", labels[:, DOMAINS + place] == 1)
        for place, (name, share) in enumerate(SHARES.items())
    ]
    cells.insert(3, ("1 in 24", "+d3", domain == 3))
    for title, where, mask in cells:
        truth = exact_truth(vectors, queries, [mask] * QUERIES)
        chosen = None if mask is None else selectors([mask])[0]
        answers: dict[str, Answer] = {
            "index_store": lambda i, where=where: store.search(queries[i], k=K, where=where).ids[0] - ids[0]
        }
        for name, (index, parameters) in indexes.items():
            answers[name] = lambda i, index=index, parameters=parameters, chosen=chosen: index.search(
                queries[i : i + 1], K, params=parameters(chosen)
            )[1][0]
        results = in_turns(answers, truth)
        plan = store.search(queries[0], k=K, where=where).plan
        show(f"kept {title}: {plan}", results)
        rows.append({"kept": title, "plan": plan, "results": results})
    return rows


def main() -> None:
    """Run the comparisons that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--faiss", default="Flat,HNSW32,IVF", help="FAISS indexes to compare with (Flat always)")
    parser.add_argument("--peers", default="", help=f"all, or comma separated: {', '.join(PEERS)}")
    parser.add_argument("--table", action="store_true", help="recall and time of every selectivity")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args()
    data = make_data(args.vectors)
    vectors, queries, domain, wanted, labels = data
    figures: dict[str, Any] = {
        "vectors": args.vectors,
        "faiss": faiss.__version__,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "command": f"python benchmarks/store.py --vectors {args.vectors} --faiss {args.faiss}"
        + (f" --peers {args.peers}" if args.peers else "")
        + (" --table" if args.table else ""),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        store = IndexStore.create(path, dim=DIM, attributes=NAMES, groups=[NAMES[:DOMAINS]])
        begun = time.perf_counter()
        ids = store.add(vectors, labels=labels, keys=[f"image {row}" for row in range(args.vectors)], split="train")
        store.search(queries[0], k=K)
        figures["add_seconds"] = time.perf_counter() - begun
        print(f"durable add of {args.vectors} with labels and keys, and a first answer: {figures['add_seconds']:.2f} s")
        begun = time.perf_counter()
        figures["rebuild"] = store.rebuild()
        figures["rebuild_seconds"] = time.perf_counter() - begun
        print(f"rebuild: {figures['rebuild_seconds']:.1f} s", *figures["rebuild"], sep="\n  ")
        store.close()
        begun = time.perf_counter()
        store = IndexStore.open(path)
        store.search(queries[0], k=K)
        figures["open_seconds"] = time.perf_counter() - begun
        print(f"open and first answer: {figures['open_seconds']:.3f} s", flush=True)

        own = store.cells(store.snapshot()[1])[0] if args.vectors >= 20_000 else None
        cells = own.index.cells if own else 2 ** max(4, round(np.log2(args.vectors / 40)))
        probes = (own.probes[0] if own else 0) or 16
        figures["cells"], figures["probes"] = cells, probes
        indexes = faiss_indexes(vectors, {"Flat", *args.faiss.split(",")}, cells, probes)
        masks = [domain == one for one in range(DOMAINS)]
        chosen = selectors(masks)
        plain: dict[str, Answer] = {"index_store": lambda i: store.search(queries[i], k=K).ids[0] - ids[0]}
        filtered: dict[str, Answer] = {
            "index_store": lambda i: store.search(queries[i], k=K, where=f"+d{wanted[i]}").ids[0] - ids[0]
        }
        for name, (index, parameters) in indexes.items():
            plain[name] = lambda i, index=index, parameters=parameters: index.search(
                queries[i : i + 1], K, params=parameters(None)
            )[1][0]
            filtered[name] = lambda i, index=index, parameters=parameters: index.search(
                queries[i : i + 1], K, params=parameters(chosen[wanted[i]])
            )[1][0]
        peers = fill_peers(args.peers, data, Path(folder))
        figures["peers"] = {name: {"add_seconds": one.add_seconds, "keeps": one.keeps} for name, one in peers.items()}
        plain |= {name: one.plain for name, one in peers.items()}
        filtered |= {name: one.filtered for name, one in peers.items() if one.filtered}
        truth = exact_truth(vectors, queries, [None] * QUERIES)
        figures["unfiltered"] = in_turns(plain, truth)
        show("one unfiltered query: " + store.search(queries[0], k=K).plan, figures["unfiltered"], "FAISS Flat")
        order = np.argsort(wanted, kind="stable")
        truth = [np.zeros(0)] * QUERIES
        for query, row in zip(
            order, exact_truth(vectors, queries[order], [masks[wanted[i]] for i in order]), strict=True
        ):
            truth[query] = row
        figures["filtered"] = in_turns(filtered, truth)
        figures["vectors_mib"] = vectors.nbytes / 2**20
        plan = store.search(queries[0], k=K, where=f"+d{wanted[0]}").plan
        show("one filtered query, 1 in 24: " + plan, figures["filtered"], "FAISS Flat")

        many = np.ascontiguousarray(np.tile(queries, (3, 1))[:512])
        times: dict[str, list[float]] = {"index_store": [], "faiss.knn": []}
        for _ in range(5):
            begun = time.perf_counter()
            store.search(many, k=K, exact=True)
            times["index_store"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            faiss.knn(many, vectors, K)
            times["faiss.knn"].append(time.perf_counter() - begun)
        batch = {name: float(np.median(taken)) for name, taken in times.items()}
        figures["batch"] = batch
        print(f"512 queries at once, exact: {batch['index_store']:.3f} s, faiss.knn {batch['faiss.knn']:.3f} s")
        print(f"  x {batch['faiss.knn'] / batch['index_store']:.2f} of its throughput")
        if args.table:
            figures["table"] = recall_table(store, ids, data, indexes)
        store.close()
        figures["anon_mib"] = memory(path, queries)
        print(f"private memory of a process that searches: {figures['anon_mib']:.0f} MiB")
        print(f"  the vectors: {vectors.nbytes / 2**20:.0f} MiB")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
