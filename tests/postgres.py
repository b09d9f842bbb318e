"""A throw-away PostgreSQL cluster on loopback, by the programs of Debian's package `postgresql` or of any other."""

from __future__ import annotations

import ctypes
import os
import pwd
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

USERS = ("postgres", "nobody")  # PostgreSQL does not run as root


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`, None if there is none."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "postgres").exists()), None)


@contextmanager
def cluster() -> Iterator[str]:
    """Start a cluster, yield the URL of its database, end it. Skips, with the reason, where that cannot be."""
    pytest.importorskip("psycopg", reason="needs the extra rgunit[postgres]")
    place = programs()
    if place is None:
        pytest.skip("needs PostgreSQL's server programs (initdb): apt-get install postgresql")
    who: dict[str, object] = {}
    folder = Path(tempfile.mkdtemp(prefix="rgunit-postgres-"))
    if os.geteuid() == 0:
        user = next(pwd.getpwnam(name) for name in USERS)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(folder, user.pw_uid, user.pw_gid)
    data = folder / "data"
    server = None
    try:
        words = ["-D", data, "-U", "rgunit", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run([place / "initdb", *words], capture_output=True, text=True, cwd=folder, **who)
        assert made.returncode == 0, made.stderr
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = ["-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-c", "fsync=off"]
        with (folder / "log").open("wb") as log:
            command = [place / "postgres", *words]
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, preexec_fn=_end_with_parent, **who)
        _wait(port, server, folder / "log")
        yield f"postgresql+psycopg://rgunit@127.0.0.1:{port}/postgres"
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # nothing of it is needed any more
            server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _end_with_parent() -> None:
    """In the server: end at once where the tests are killed (Linux's PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server answers."""
    import psycopg

    until = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="rgunit", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.02)
