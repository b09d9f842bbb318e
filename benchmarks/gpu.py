"""Exact search and `rebuild` on a GPU beside the CPU: for a machine with a GPU that FAISS's GPU build can use.

    python benchmarks/gpu.py [--vectors 1000000] [--device cuda] [--minutes 10]

It checks every answer against the CPU's, then prints seconds and ratios: 512 queries at once, exact, without a filter
and with one that keeps 1 in 24; the cells of a shard built there and here; vectors that do not fit the budget. Whatever
would begin after `--minutes` is left out and named.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from large import DIM, DOMAINS, NAMES, block_of

from index_store import IndexStore
from index_store.ann import build_cells

BATCH, TURNS = 512, 3


def seconds_of(call: Any) -> tuple[Any, float]:
    """What a call gives, and the seconds of the fastest of a few."""
    taken, found = [], None
    for _ in range(TURNS):
        begun = time.perf_counter()
        found = call()
        taken.append(time.perf_counter() - begun)
    return found, min(taken)


def main(words: list[str] | None = None) -> None:
    """Check and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args(words)
    until = time.monotonic() + 60 * args.minutes
    vectors, domain = block_of(0, args.vectors)
    queries, _ = block_of(2**20, BATCH)
    labels = (domain[:, None] == np.arange(DOMAINS)).astype(np.int8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        with IndexStore.create(path, dim=DIM, attributes=NAMES) as store:
            store.add(vectors, labels=labels)
        with IndexStore.open(path) as here, IndexStore.open(path, device=args.device) as there:
            for name, where in (("all rows", None), ("1 in 24", "+d3")):
                expected, slow = seconds_of(lambda where=where: here.search(queries, where=where, exact=True))
                found, fast = seconds_of(lambda where=where: there.search(queries, where=where, exact=True))
                assert np.array_equal(found.ids, expected.ids), f"{name}: the answers differ"
                print(f"{name}: {slow:.3f} s here, {fast:.3f} s there (x {slow / fast:.1f}); {found.plan}", flush=True)
            there.use(args.device, 64)
            found, fast = seconds_of(lambda: there.search(queries, exact=True))
            assert np.array_equal(found.ids, here.search(queries, exact=True).ids), "64 MiB: the answers differ"
            print(f"with a budget of 64 MiB: {fast:.3f} s; {found.plan}", flush=True)
            there.use(args.device)
            (segment,) = here.snapshot()[1].segments
            for name, device in (("there", there.device), ("here", None)):
                if time.monotonic() > until:
                    print(f"cells {name}: left out, {args.minutes:g} minutes are over")
                    continue
                begun = time.perf_counter()
                cells = build_cells(segment, device=device)
                took = time.perf_counter() - begun
                print(
                    f"cells built {name}: {took:.1f} s, {cells.index.cells} cells, {cells.probes[0]} of them looked at"
                )


if __name__ == "__main__":
    main()
