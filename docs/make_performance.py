"""Put the figures that `benchmarks/store.py --json` wrote into the tables of docs/performance.md.

    python docs/make_performance.py --plain 1k.json 10k.json 100k.json 1m.json --peers peers.json
    python docs/make_performance.py --training step.json   # what benchmarks/train_step.py --json wrote

The file with 100,000 vectors and the one with a million give the tables of goals; every file with `--table` a table of
recall; `--peers` the table of other stores. Text between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("performance.md")
SIZES = {1_000: "1k", 10_000: "10k", 100_000: "100k", 1_000_000: "1M"}

Figures = dict[str, Any]


def table(*rows: list[str]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def goal(measured: float, limit: float, *, least: bool = False) -> str:
    """Whether a goal was reached."""
    return "yes" if (measured >= limit if least else measured <= limit) else "**no**"


def both(most: tuple[float, float], least: tuple[float, float]) -> str:
    """Whether a figure is at most its limit and the recall at least its own."""
    return "yes" if most[0] <= most[1] and least[0] >= least[1] else "**no**"


def milliseconds(row: Figures) -> str:
    """A median with its recall."""
    return f"{row['p50_ms']:.3f} ms, recall {row['recall']:.4f}"


def at_100k(run: Figures) -> str:
    """The goals for 100,000 vectors."""
    plain, filtered, batch = run["unfiltered"], run["filtered"], run["batch"]
    own, flat = plain["index_store"], plain["FAISS Flat"]["p50_ms"]
    name, ivf = next((name, row["p50_ms"]) for name, row in plain.items() if name.startswith("FAISS IVF"))
    kept, bitmap = filtered["index_store"], filtered["FAISS Flat"]["p50_ms"]
    throughput = batch["faiss.knn"] / batch["index_store"]
    by_ivf, by_flat = 1.3 * ivf + 0.1, 0.12 * flat + 0.1
    return table(
        ["what", "measured", "to reach", "reached"],
        [
            "one filtered query (1 in 24)",
            f"{milliseconds(kept)}; FAISS flat + bitmap {bitmap:.3f} ms: × {kept['p50_ms'] / bitmap:.2f}",
            "≤ 0.5 × FAISS flat + bitmap, recall ≥ 0.999",
            both((kept["p50_ms"], 0.5 * bitmap), least=(kept["recall"], 0.999)),
        ],
        [
            "one unfiltered query, after `rebuild`",
            f"{milliseconds(own)}; {name} with the same number of cells {ivf:.3f} ms",
            f"≤ 1.3 × the FAISS index + 0.1 ms = {by_ivf:.3f} ms, recall ≥ 0.99",
            both((own["p50_ms"], by_ivf), least=(own["recall"], 0.99)),
        ],
        [
            "the same",
            f"FAISS flat {flat:.3f} ms",
            f"≤ 0.12 × flat + 0.1 ms = {by_flat:.3f} ms",
            goal(own["p50_ms"], by_flat),
        ],
        [
            "512 queries at once, `exact=True`",
            f"{batch['index_store']:.3f} s; `faiss.knn` {batch['faiss.knn']:.3f} s: × {throughput:.2f} its throughput",
            "≥ 0.9 ×",
            goal(throughput, 0.9, least=True),
        ],
        [
            "durable add of 100k with labels and keys, one call, and a first answer",
            f"{run['add_seconds']:.2f} s",
            "≤ 1.5 s",
            goal(run["add_seconds"], 1.5),
        ],
        [
            "open and first answer, after imports",
            f"{run['open_seconds']:.3f} s",
            "≤ 0.3 s",
            goal(run["open_seconds"], 0.3),
        ],
        ["`rebuild`", f"{run['rebuild_seconds']:.1f} s", "–", "–"],
        [
            "private memory (RssAnon) of a process that searches",
            f"{run['anon_mib']:.0f} MiB; the vectors are {run['vectors_mib']:.0f} MiB",
            "–",
            "–",
        ],
    )


def at_1m(run: Figures, small: Figures) -> str:
    """The goals for a million vectors."""
    own, kept = run["unfiltered"]["index_store"], run["filtered"]["index_store"]
    limit, room = 3 * small["unfiltered"]["index_store"]["p50_ms"], 1.3 * run["vectors_mib"]
    return table(
        ["what", "measured", "to reach", "reached"],
        [
            "one filtered query (1 in 24)",
            milliseconds(kept),
            "≤ 2 ms, recall ≥ 0.99",
            both((kept["p50_ms"], 2), least=(kept["recall"], 0.99)),
        ],
        [
            "one unfiltered query",
            milliseconds(own),
            f"≤ 3 × that of 100k = {limit:.3f} ms",
            both((own["p50_ms"], limit), least=(own["recall"], 0.99)),
        ],
        [
            "private memory (RssAnon)",
            f"{run['anon_mib']:.0f} MiB",
            f"≤ 1.3 × the vectors = {room:.0f} MiB",
            goal(run["anon_mib"], room),
        ],
        ["durable add in one call", f"{run['add_seconds']:.1f} s", "–", "–"],
        ["open and first answer", f"{run['open_seconds']:.2f} s", "–", "–"],
        ["`rebuild`", f"{run['rebuild_seconds']:.0f} s", "–", "–"],
    )


def recall(runs: list[Figures]) -> str:
    """Recall at every selectivity, a table for each size."""
    parts = []
    for run in runs:
        if "table" not in run:
            continue
        names = list(run["table"][0]["results"])
        rows = [["kept", *names, "plan"]]
        for line in run["table"]:
            cells = []
            for row in line["results"].values():
                told = "–" if line["kept"] == "0 %" else f"{row['recall']:.3f}"
                cells.append(f"{told}, {row['p50_ms']:.2f}")
            rows.append([line["kept"], *cells, line["plan"]])
        parts.append(f"#### {SIZES.get(run['vectors'], str(run['vectors']))}\n\n{table(*rows)}")
    return "\n\n".join(parts)


def others(run: Figures) -> str:
    """The stores that one would otherwise take, in one table."""
    rows = [["store", "one query", "one filtered query (1 in 24)", "100k added and answering", "kept on the disk"]]
    for name, plain in run["unfiltered"].items():
        filtered, peer = run["filtered"].get(name), run["peers"].get(name)
        added, keeps = ("–", "nothing")
        if name == "index_store":
            added, keeps = f"{run['add_seconds']:.2f} s", "sealed files and SQLite, with labels and keys"
        elif peer:
            added, keeps = f"{peer['add_seconds']:.2f} s", peer["keeps"]
        cells = [f"{row['p50_ms']:.3f} ms, {row['recall']:.3f}" if row else "–" for row in (plain, filtered)]
        rows.append([name, *cells, added, keeps])
    return table(*rows)


def training(found: Figures) -> str:
    """Steps of every method, and whether the goals at 128 pixels were reached."""
    rows = [["preset", "method", "precision", "batch", "s/step", "images/s", "GFLOP", "GFLOP/s", "of the limit"]]
    rows[0] += ["× unguided", "peak MiB"]
    for row in found["rows"]:
        told = f" ({', '.join(row['settings'])})" if row["settings"] else ""
        rows.append(
            [
                *(row["preset"] + ("¹" if told else ""), row["method"], row["precision"].split("-")[0]),
                *(str(row["batch"]), f"{row['seconds']:.3f}", f"{row['images_per_second']:.1f}"),
                *(f"{row['gflop']:.0f}", f"{row['gflop_per_second']:.0f}", f"{row['share']:.2f} of {row['limit']:.0f}"),
                *(f"{row['ratio']:.2f}", f"{row['peak_mib']:.0f}"),
            ]
        )
    machine = found["machine"]
    used = sorted({" ".join(f"--set {setting}" for setting in row["settings"]) for row in found["rows"]} - {""})
    notes = "".join(f"\n\n¹ With `{settings}`." for settings in used)
    gpu = f"One {machine['gpu']}, " if "gpu" in machine else ""
    return f"{gpu}{machine['cores']} cores, torch {machine['torch'].split('+')[0]}.\n\n{table(*rows)}{notes}"


def conditions(runs: list[Figures]) -> str:
    """The commands and what they ran on."""
    lines = [f"    {run['command']}" for run in runs]
    load = max(run["load"] for run in runs)
    told = f"FAISS {runs[0]['faiss']}, {runs[0]['cores']} cores, load at most {load:.1f} when a run began. Made by:"
    return told + "\n\n" + "\n".join(lines)


def replace(page: str, name: str, text: str) -> str:
    """Put text between a pair of marks."""
    marks = re.compile(rf"(<!-- begin {name} -->\n).*?(\n<!-- end {name} -->)", re.DOTALL)
    if not marks.search(page):
        raise SystemExit(f"{PAGE} has no marks for {name!r}")
    return marks.sub(lambda found: f"{found[1]}{text}{found[2]}", page)


def main() -> None:
    """Read the figures and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", type=Path, nargs="+", default=[], help="runs without other stores")
    parser.add_argument("--training", type=Path, help="steps of training")
    parser.add_argument("--gpu", type=Path, help="steps of training on a GPU")
    parser.add_argument("--peers", type=Path, help="a run with them")
    args = parser.parse_args()
    for name, file in (("training", args.training), ("gpu", args.gpu)):
        if file:
            PAGE.write_text(replace(PAGE.read_text(), name, training(json.loads(file.read_text()))))
    if args.plain:
        store(args)


def store(args: argparse.Namespace) -> None:
    """The tables of the store."""
    runs = sorted((json.loads(file.read_text()) for file in args.plain), key=lambda run: int(run["vectors"]))
    by_size = {run["vectors"]: run for run in runs}
    beside = [json.loads(args.peers.read_text())] if args.peers else []
    page = replace(PAGE.read_text(), "conditions", conditions([*runs, *beside]))
    if small := by_size.get(100_000):
        page = replace(page, "100k", at_100k(small))
        chosen = "\n".join(f"    {line}" for line in small["rebuild"])
        page = replace(page, "choice", f"`rebuild` says what it chose:\n\n{chosen}")
        if large := by_size.get(1_000_000):
            page = replace(page, "1M", at_1m(large, small))
    page = replace(page, "recall", recall(runs))
    if beside:
        page = replace(page, "others", others(beside[0]))
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
