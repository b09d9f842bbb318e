"""Who may ask, and how much: host, origin, token, type and size of every request, before anything of it is read.

A page elsewhere can send a browser to a local server: by its address, or by a name that it makes mean 127.0.0.1. So a
request must name this machine, and must not come from another page.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cli.serve import is_loopback

LARGEST_BODY = 48 * 2**20
"""Bytes of a request: two pictures of 16 MiB in base64, and some."""
BODIES = 256 * 2**20
"""Bytes of all requests that are read or answered at a time."""
SLOWEST = 60.0
"""Seconds that a request may take to arrive."""
COOKIE = "rgunit"
OPEN = ("/healthz", "/login", "/api/login")
"""What needs no token, beside /static."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is not answered: its status and why."""

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, headers


def problem(status: int, why: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer of a failure: one line in `error`, without what is no text."""
    line = " ".join(why.encode("utf-8", "backslashreplace").decode().split())
    return JSONResponse({"error": line}, status, headers)


class Gate:
    """The outermost layer of the app. `host` is what it listens on; `session` is the cookie of who logged in."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self._app, self._token = app, token
        self._local = is_loopback(host)
        self._names = {"localhost"} if self._local else {"localhost", host.lower(), *_own_names()}
        self.session = secrets.token_urlsafe(32)
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # no WebSocket is spoken here
            return await send({"type": "websocket.close"})
        headers, held = Headers(scope=scope), 0

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answered.setdefault(name, value)
            await send(message)

        try:
            self._check_place(headers)
            self._check_token(scope["path"], headers)
            if scope["method"] == "POST":
                held = self._reserve(headers)
                body = await self._read(receive, headers, held)
                receive = _again(body, receive)
            await self._app(scope, receive, guarded)
        except Refused as refused:
            if refused.status == 401 and "text/html" in headers.get("accept", ""):
                return await RedirectResponse("/login", 303)(scope, receive, guarded)
            await problem(refused.status, refused.why, refused.headers)(scope, receive, guarded)
        finally:
            self._held -= held

    def _check_place(self, headers: Headers) -> None:
        """Refuse a Host that is not this machine, and what another page has sent."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_own(host):
            raise Refused(400, "this is not the host that was asked for: open the address that `rgunit serve` told")
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise Refused(403, "another page may not ask this server")
        navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not navigates:
            raise Refused(403, "another page may not ask this server")

    def _is_own(self, host: str) -> bool:
        """Whether a Host names this machine: an address cannot be made to mean another, a name can."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            _ = urlsplit(f"//{host}").port
        except ValueError:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return address.is_loopback or not self._local

    def _check_token(self, path: str, headers: Headers) -> None:
        """Refuse who shows neither the token nor the cookie, where there is a token."""
        if self._token is None or path in OPEN or path.startswith("/static/"):
            return
        kind, _, shown = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(shown.strip()):
            return
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        if cookie is not None and _same(cookie.value, self.session):
            return
        raise Refused(
            401,
            "a token is needed: `Authorization: Bearer TOKEN`, or log in on the page",
            {"WWW-Authenticate": "Bearer"},
        )

    def is_token(self, shown: str) -> bool:
        """Whether it is the token."""
        return self._token is not None and _same(shown, self._token)

    def _reserve(self, headers: Headers) -> int:
        """Take room for the body of a POST."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, f"a POST is JSON here, not {kind or 'of no type'}: send Content-Type: application/json")
        try:
            size = int(headers.get("content-length", LARGEST_BODY))
        except ValueError:
            raise Refused(400, "Content-Length is no number") from None
        if size > LARGEST_BODY or size < 0:
            raise Refused(413, f"a request may have at most {LARGEST_BODY // 2**20} MiB: send a smaller picture")
        if self._held + size > BODIES:
            raise Refused(503, "too many pictures are being sent: try again soon", {"Retry-After": "2"})
        self._held += size
        return size

    async def _read(self, receive: Receive, headers: Headers, most: int) -> bytes:
        """The body, of at most `most` bytes."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(SLOWEST):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the request ended early")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise Refused(413, f"a request may have at most {LARGEST_BODY // 2**20} MiB")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Refused(408, f"the request did not arrive within {SLOWEST:.0f} seconds") from None
        return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """What a request's body was, for the app to read; then what comes after it."""
    told = False

    async def once() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _same(shown: str, wanted: str) -> bool:
    return hmac.compare_digest(shown.encode("utf-8", "replace"), wanted.encode())


def _own_names() -> set[str]:
    """What this machine calls itself."""
    name = socket.gethostname().lower()
    return {name, f"{name}.local"}
