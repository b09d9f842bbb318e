"""Milvus Lite as a server on loopback, from an environment of its own (`make milvus`): its package would overwrite the
files of FAISS's GPU build."""

from __future__ import annotations

import ctypes
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from index_store.store import Report

ENVIRONMENT = Path(__file__).parents[1] / ".milvus"


def program() -> Path:
    """Milvus Lite's command. Skips, with the reason, where there is none, or no client."""
    pytest.importorskip("pymilvus", reason="needs the extra rgunit[milvus]")
    place = ENVIRONMENT / "bin" / "milvus-lite"
    if not place.exists():
        pytest.skip("needs Milvus Lite in its own environment: make milvus")
    return place


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server of a folder's data until it ends, or the tests do."""
    with (folder / "log").open("ab") as log:
        words = ["server", "--data-dir", folder / "data", "--host", "127.0.0.1", "--port", str(port)]
        command = [program(), *words, "--max-workers", "4"]
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_end_with_parent)
    try:
        _wait(port, process, folder / "log")
        yield process
    finally:
        process.kill()
        process.wait(30)


@contextmanager
def served() -> Iterator[str]:
    """Run a server, yield the URL of vectors there, with exact search, end it."""
    program()
    folder = Path(tempfile.mkdtemp(prefix="rgunit-milvus-"))
    port = free_port()
    try:
        with server(folder, port):
            yield f"milvus+http://127.0.0.1:{port}?index=FLAT"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def behind(report: Report) -> bool:
    """Whether all that is wrong with a store is that its collections on Milvus wait for the next change."""
    return len(report.problems) == 1 and "is at change" in report.problems[0]


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """In the server: end at once where the tests are killed (Linux's PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server listens."""
    until = time.monotonic() + 60
    while True:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.05)
