"""`rgunit serve`: a page to explore a workspace in a browser, and an HTTP API to build on.

The one idea: the page is a client of the API like any other, so what it can do a program can do. Nothing heavy is
imported before the command runs.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.settings import Settings
from index_store.errors import RgunitError, UsageError

if TYPE_CHECKING:
    import socket

    import uvicorn
    from rich.console import Console
    from starlette.types import ASGIApp

SHORTEST = 16  # characters of a token
PORT = 7860


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="A page and an HTTP API on a workspace.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces serve\n"
        "  rgunit -w faces serve --port 8000\n"
        "  RGUNIT_TOKEN=$(openssl rand -hex 16) rgunit -w faces serve --host 0.0.0.0",
    )(serve)


def serve(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(metavar="NAME", help="Address to listen on. Any but this machine's own asks for --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0: a free one.")] = PORT,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar="RGUNIT_TOKEN",
            help="What requests must show (`Authorization: Bearer TEXT`); the page asks for it. At least 16 "
            "characters. In the environment other users do not see it.",
        ),
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--i-know-it-is-open", help="Listen on other addresses without a token.")
    ] = False,
) -> None:
    """Show the workspace in a browser: search, translate, look at the collection and its runs. Ctrl-C ends it.

    What is uploaded or made stays in memory, for ten minutes. Changes that other commands make are seen at once.
    """
    settings: Settings = context.obj
    if token is not None and len(token) < SHORTEST:
        raise UsageError(f"--token has {len(token)} characters: give at least {SHORTEST} (`openssl rand -hex 16`)")
    if not is_loopback(host) and token is None and not open_to_all:
        raise UsageError(
            f"--host {host}: other machines can reach it: add --token TEXT, or --i-know-it-is-open for no token at all"
        )
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise RgunitError(
            f"`serve` needs {error.name or 'fastapi'}, which is not installed: pip install 'rgunit[serve]'"
        ) from error
    with settings.open() as workspace, listen(host, port) as socket_:
        from cli.serve.app import make_app

        url = f"http://{f'[{host}]' if ':' in host else host}:{socket_.getsockname()[1]}"
        payload: dict[str, Any] = {"url": url, "token": token is not None}

        def ready() -> None:
            settings.show(payload, lambda console: _draw(console, payload))

        app = make_app(workspace, device=settings.device, host=host, token=token, ready=ready)
        with suppress(KeyboardInterrupt):  # that is how it ends
            server_of(app).run(sockets=[socket_])


def server_of(app: ASGIApp) -> uvicorn.Server:
    """What runs the app."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3, ws="none"
    )
    return uvicorn.Server(config)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; RgunitError says why it cannot."""
    import socket

    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.create_server(address[:2], family=family, backlog=256)
        # Accepted sockets inherit it; asyncio sets it only where the protocol is named, and each answer took 40 ms.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise RgunitError(f"cannot listen on {host}:{port} ({why}): take another --port, or --port 0") from error


def _draw(console: Console, told: dict[str, Any]) -> None:
    from cli.drawing import plain

    plain(console, f"{told['url']} (Ctrl-C ends it)", style="bold")
