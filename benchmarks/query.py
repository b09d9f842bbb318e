"""How fast a question is answered: `benchmarks/query.py WORKSPACE [IMAGE] [--rows 100000] [--images N]`.

On a copy of a trained workspace: `rgunit query` from a cold start beside `import torch`; `Retriever.search` once warm,
with so many indexed images (made-up rows are added); and embedding a collection beside the encoder's own pace on
pictures that are decoded already. Without a WORKSPACE it says so and ends. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
REPEATS = 60


def cold(workspace: Path, image: Path, edit: str, times: int = 3) -> dict[str, float]:
    """Seconds of wall clock and of processor of `rgunit query`, and of `import torch` alone: the best of some."""
    ask = [sys.executable, "-m", "cli", "-w", str(workspace), "query", str(image), "--to", edit, "--json"]
    told: dict[str, float] = {}
    for name, command in (("query", ask), ("import_torch", [sys.executable, "-c", "import torch"])):
        wall, processor = [], []
        for _ in range(times):
            before, begun = os.times(), time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
            wall.append(time.perf_counter() - begun)
            after = os.times()
            processor.append(
                after.children_user + after.children_system - before.children_user - before.children_system
            )
        told |= {f"{name}_seconds": round(min(wall), 2), f"{name}_processor_seconds": round(min(processor), 2)}
    return told


def fill_up(retriever, rows: int) -> None:
    """Add rows without files until there are `rows`, with vectors near those of real images."""
    from index_store.features import Record
    from index_store.replay import schema_header

    workspace = retriever.workspace
    have, rng = workspace.images(), np.random.default_rng(0)
    more = rows - len(have)
    if more <= 0:
        return
    ids = workspace.catalog.next_id() + np.arange(more, dtype=np.int64)
    like = rng.integers(len(have), size=more)
    known, value = workspace.schema.pack(have.labels[like])
    names = [f"images/none/{row:07d}.png" for row in ids]
    arrays = {"ids": ids, "known": known, "value": value, "parent": np.full(more, -1, np.int64)}
    arrays |= {"width": np.full(more, 64, np.int64), "height": np.full(more, 64, np.int64)}
    texts = {"key": names, "path": names, "sha256": [f"{row:064x}" for row in ids], "origin": "real"}
    texts |= {"split": "train", "run": [None] * more}
    workspace.catalog.write(Record("images", schema_header(workspace.schema), arrays, texts))
    for name in retriever.encoder_names:
        mark = f"{name}@{retriever.fingerprint}"
        vectors = workspace.store().vectors(have.ids[like], encoder=mark)
        vectors = vectors + 0.1 * vectors.std() * rng.standard_normal(vectors.shape).astype(np.float32)
        workspace.put_vectors(ids, vectors, encoder=name, fingerprint=retriever.fingerprint)


def warm(retriever, image: Path, edit: str) -> dict[str, dict[str, float]]:
    """Milliseconds of `search` with a path, end to end: median and 95th percentile."""
    told = {}
    ways = {"embedding": {}, "filtered": {"where": "split=train"}, "weighted": {"content_weight": 0.5}}
    for name, options in ways.items():
        spent, busy = [], time.process_time()
        for _ in range(REPEATS):
            begun = time.perf_counter()
            retriever.search(image, edit=edit, k=10, **options)
            spent.append(1e3 * (time.perf_counter() - begun))
        told[name] = {
            "median_ms": round(float(np.median(spent[5:])), 2),
            "p95_ms": round(float(np.percentile(spent[5:], 95)), 2),
            "processor_ms": round(1e3 * (time.process_time() - busy) / REPEATS, 2),
        }
    return told


def embedding(retriever, images: int) -> dict[str, float]:
    """Images a second of building an index, and of the encoders and the embedding alone."""
    from retrieval.indexing import build_index

    workspace, size = retriever.workspace, retriever.encoders.size
    some = workspace.images("origin=real").ids[: min(512, images)]
    pixels = workspace.load(some, size)
    retriever.named_vectors(pixels[:64])
    begun = time.perf_counter()
    for start in range(0, len(pixels), 64):
        retriever.named_vectors(pixels[start : start + 64])
    own = len(pixels) / (time.perf_counter() - begun)
    keep = workspace.images("origin=real").ids[:images]
    drop = np.setdiff1d(workspace.images().ids, keep)
    workspace.store().remove(drop)
    retriever.fingerprint = "0" * 64  # as if it had been trained again: every image lacks its vectors
    begun = time.perf_counter()
    made = build_index(workspace, retriever)
    seconds = time.perf_counter() - begun
    return {
        "images": made,
        "encoder_images_per_second": round(own, 1),
        "build_images_per_second": round(made / seconds, 1),
        "share_of_the_encoder": round(made / seconds / own, 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path, nargs="?")
    parser.add_argument("image", type=Path, nargs="?", help="default: the first test image")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=4096, help="embedded for the throughput")
    given = parser.parse_args()
    if given.workspace is None:
        print("no WORKSPACE given: name a trained one, such as workspace/demo")
        return
    import torch

    from retrieval import Retriever

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "workspace"
        shutil.copytree(given.workspace, copy)
        with Retriever.open(copy, device="cpu") as retriever:
            image = given.image or Path(retriever.workspace.images("split=test").paths[0])
            edit = f"+{retriever.encoders.schema.names[0]}"
            told = {"threads": torch.get_num_threads(), "cold": cold(copy, image, edit)}
            fill_up(retriever, given.rows)
            told["cold_large"] = cold(copy, image, edit, times=2)
            retriever.search(image, edit=edit, k=10)
            told["rows"] = len(retriever.workspace.images())
            told["warm"] = warm(retriever, image, edit)
            told["embedding"] = embedding(retriever, given.images)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
