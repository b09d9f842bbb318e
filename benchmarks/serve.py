"""How fast a served workspace is asked: `benchmarks/serve.py WORKSPACE [--rows 100000] [--against CHECKOUT]`.

On a copy of a trained workspace, filled up to so many indexed images with made-up rows: `POST /api/query` of
`rgunit serve` by one client and by 16, each question another image and edit. Latency, questions a second, and the
server's processor time per question, which other work on the machine disturbs least. `--against`: another checkout of
rgunit, asked in turns with this one, with the ratios (its numbers over ours). Prints one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


@contextmanager
def served(checkout: Path, workspace: Path) -> Iterator[tuple[int, int]]:
    """A server of a checkout: its port and its process."""
    command = [sys.executable, "-m", "cli", "-w", str(workspace), "--json", "--device", "cpu", "serve", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    server = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(json.loads(server.stdout.readline())["url"].rpartition(":")[2])
        while not ask(http.client.HTTPConnection("127.0.0.1", port), "GET", "/healthz")["ready"]:
            time.sleep(0.2)
        yield port, server.pid
    finally:
        server.terminate()
        server.wait()


def ask(connection: http.client.HTTPConnection, method: str, path: str, told: Any = None) -> Any:
    """What the server answers, as JSON."""
    body = None if told is None else json.dumps(told)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {data[:200]!r}")
    return json.loads(data)


def processor(process: int) -> float:
    """Seconds of the processor that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, process: int, clients: int, questions: list[dict[str, Any]]) -> dict[str, float]:
    """The questions, shared among so many clients that each keep one connection."""
    spent: list[float] = []

    def client(own: list[dict[str, Any]]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for one in own:
            begun = time.perf_counter()
            ask(connection, "POST", "/api/query", one)
            spent.append(1e3 * (time.perf_counter() - begun))
        connection.close()

    before, begun = processor(process), time.perf_counter()
    threads = [threading.Thread(target=client, args=(questions[start::clients],)) for start in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    return {
        "median_ms": round(statistics.median(spent), 2),
        "p95_ms": round(sorted(spent)[int(0.95 * len(spent))], 2),
        "questions_per_second": round(len(spent) / seconds, 1),
        "processor_ms": round(1e3 * (processor(process) - before) / len(spent), 2),
    }


def questions_of(workspace: Path, count: int) -> list[dict[str, Any]]:
    """Each of another image, with one of the edits of the newest retrieval run."""
    from index_store.workspace import Workspace
    from retrieval.runs import find_run

    with Workspace.open(workspace) as opened:
        ids = opened.images("split=test origin=real").ids.tolist()
        names = find_run(opened, None).config["attributes_used"]
    edits = [f"{sign}{name}" for name in names for sign in "+-"]
    return [{"image_id": ids[n % len(ids)], "to": edits[n % len(edits)], "k": 10} for n in range(count)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=320, help="of each kind, of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of rgunit")
    given = parser.parse_args()
    if given.workspace is None:
        print("no WORKSPACE given: name a trained one, such as workspace/demo")
        return
    from benchmarks.query import fill_up
    from translation.indexing import fill_index, open_retriever

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "workspace"
        shutil.copytree(given.workspace, copy)
        from index_store.workspace import Workspace

        with Workspace.open(copy) as workspace:
            fill_index(workspace, generated=0, device="cpu")  # its graphs, where they are not there yet
            fill_up(open_retriever(workspace, None, "cpu"), given.rows)
        questions = questions_of(copy, given.questions)
        checkouts = {"ours": ROOT, **({"theirs": given.against.absolute()} if given.against else {})}
        told: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in checkouts}
        for _ in range(given.rounds):
            for name, checkout in checkouts.items():
                with served(checkout, copy) as (port, process):
                    load(port, process, 4, questions[:40])
                    for clients in (1, 16):
                        found = load(port, process, clients, questions)
                        told[name].setdefault(f"clients_{clients}", []).append(found)
    best = {
        name: {
            kind: {key: (max if "second" in key else min)(one[key] for one in rounds) for key in rounds[0]}
            for kind, rounds in kinds.items()
        }
        for name, kinds in told.items()
    }
    if "theirs" in best:
        best["theirs_over_ours"] = {
            kind: {key: round(value / best["ours"][kind][key], 2) for key, value in numbers.items()}
            for kind, numbers in best["theirs"].items()
        }
    print(json.dumps({"rows": given.rows, "rounds": given.rounds, "best": best}, indent=1))


if __name__ == "__main__":
    main()
