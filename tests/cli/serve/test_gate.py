"""Who may ask: this machine's own page and programs, with the token where there is one; and how the command starts."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from cli.serve import listen
from index_store.workspace import Workspace
from tests.cli.serve.conftest import Client, serving

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 400),
        ({"Host": "evil.example:80"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": "192.168.1.7"}, 400),
        ({"Host": "localhost:x"}, 400),
        ({"Host": "[::1]:7860"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Host": "localhost:7860", "Origin": "http://localhost:7861"}, 403),
        ({"Host": "localhost:7860", "Origin": "http://localhost:7860"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_a_page_elsewhere_cannot_ask(client: Client, headers: dict[str, str], status: int) -> None:
    assert client.get("/healthz", **headers).status == status


def test_a_post_is_json(client: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert client.get("/api/query", "POST", b'{"image_id": 3}', Content_Type=kind).status == 415
    assert client.get("/api/query", "POST", b"{", Content_Type="application/json").status == 400
    assert client.get("/api/query", "POST", b"[" * 100_000, Content_Type="application/json").status == 400
    assert client.get("/api/query", "POST", b"[]", Content_Type="application/json; charset=utf-8").status == 400


def test_every_answer_says_what_a_browser_may_do_with_it(client: Client) -> None:
    for path in ("/", "/healthz", "/api/nothing", "/static/main.js"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "access-control-allow-origin" not in headers and "server" not in headers


def test_a_token_is_asked_of_everything_but_the_login(guided_template: Path) -> None:
    with Workspace.open(guided_template) as workspace, serving(workspace, token=TOKEN) as client:
        for path in ("/api/collection", "/api/images/3", "/metrics", "/openapi.json", "/api/nothing"):
            refused = client.get(path)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert client.post("/api/query", {"image_id": 3}).status == 401
        assert (
            client.get("/healthz").status == client.get("/login").status == client.get("/static/page.css").status == 200
        )
        to_login = client.get("/", Accept="text/html")
        assert (to_login.status, to_login.headers["location"]) == (303, "/login")
        assert client.get("/api/runs", Authorization=f"Bearer {TOKEN}").status == 200
        assert client.get("/api/runs", Authorization=f"Bearer {TOKEN}x").status == 401
        assert client.get("/api/runs", Authorization=f"Basic {TOKEN}").status == 401
        assert client.post("/api/login", {"token": "guess"}).status == 401
        cookie = client.post("/api/login", {"token": TOKEN}).headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
        assert client.get("/api/runs", Cookie=cookie.partition(";")[0]).status == 200
        assert client.get("/api/runs", Cookie="rgunit=guess").status == 401


def test_other_machines_are_let_in_only_on_purpose(rgunit, labelled: Path) -> None:
    refused = rgunit("-w", labelled, "serve", "--host", "0.0.0.0")
    assert (refused.status, "add --token TEXT" in refused.error) == (2, True)
    short = rgunit("-w", labelled, "serve", "--token", "short")
    assert (short.status, "at least 16" in short.error) == (2, True)


def test_what_cannot_start_says_why(rgunit, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no workspace" in rgunit("-w", tmp_path / "none", "serve").error
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = rgunit("-w", labelled, "serve", "--port", port)
        assert told.status == 1 and f"cannot listen on 127.0.0.1:{port}" in told.error and "--port" in told.error
    assert (
        "cannot listen on no.such.host.invalid"
        in rgunit("-w", labelled, "serve", "--host", "no.such.host.invalid", "--i-know-it-is-open").error
    )
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install 'rgunit[serve]'" in rgunit("-w", labelled, "serve").error


def test_answers_leave_at_once() -> None:
    """Else each waits 40 ms for an acknowledgement of its head."""
    with listen("127.0.0.1", 0) as server, socket.create_connection(server.getsockname()):
        accepted, _ = server.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
