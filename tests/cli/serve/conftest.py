"""A workspace with a guided run, served on a free port; asked by the standard library's client, or by Chromium."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from index_store.workspace import Workspace


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert list(self.json) == ["error"]
        return str(self.json["error"])


@dataclass(frozen=True)
class Client:
    """Asks a server."""

    port: int
    workspace: Workspace

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, path: str, told: Any, **headers: str) -> Reply:
        return self.get(path, "POST", json.dumps(told).encode(), **{"Content-Type": "application/json", **headers})


@contextmanager
def serving(workspace: Workspace, **options: Any) -> Iterator[Client]:
    """A server in a thread for as long as this lasts."""
    pytest.importorskip("uvicorn", reason="`pip install rgunit[serve]` brings uvicorn")
    pytest.importorskip("fastapi", reason="`pip install rgunit[serve]` brings FastAPI")
    from cli.serve import listen, server_of
    from cli.serve.app import make_app

    app = make_app(workspace, device="cpu", **{"warm": False, **options})
    with listen("127.0.0.1", 0) as socket:
        server = server_of(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield Client(socket.getsockname()[1], workspace)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def guided_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with a stage 3 of a few steps: r1 (translation), r2 (retrieval), r3 (guided)."""
    from tests.translation.small import tiny
    from translation.stages import train_guided

    path = tmp_path_factory.mktemp("guided") / "workspace"
    shutil.copytree(template, path)
    with Workspace.open(path) as workspace:
        train_guided(workspace, tiny(), device="cpu")
    return path


@pytest.fixture(scope="session")
def client(guided_template: Path) -> Iterator[Client]:
    """A server whose workspace tests only read."""
    with Workspace.open(guided_template) as workspace, serving(workspace) as asked:
        yield asked


@pytest.fixture
def own_client(guided_template: Path, tmp_path: Path) -> Iterator[Client]:
    """A server whose workspace a test may change."""
    shutil.copytree(guided_template, tmp_path / "own")
    with Workspace.open(tmp_path / "own") as workspace, serving(workspace) as asked:
        yield asked


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test for an error of its script, and for anything asked of another host."""
    with opened_page(browser) as one:
        yield one


@contextmanager
def opened_page(browser: Any, **options: Any) -> Iterator[Any]:
    """A page of a context of its own; `told` has what went wrong."""
    context = browser.new_context(**options)
    context.set_default_timeout(15_000)
    told: list[str] = []
    context.on("weberror", lambda error: told.append(f"script: {error.error}"))
    context.on("request", lambda one: told.append(one.url) if "//127.0.0.1:" not in one.url else None)
    context.on(
        "console", lambda one: told.append(one.text) if "Content Security" in one.text else None
    )  # what the page's own policy forbids
    try:
        yield context.new_page()
        assert not told
    finally:
        context.close()
