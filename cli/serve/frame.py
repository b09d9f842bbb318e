"""The frame of the app: its document, what becomes of failures, and the count of its answers."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cli import missing
from cli.serve import answers, bodies
from cli.serve.gate import Refused, problem
from cli.serve.workers import Counts
from index_store.errors import ImageRefused, RgunitError
from index_store.workspace import Workspace

DOCUMENTED = (400, 401, 403, 404, 413, 415, 501, 503)


class Counted:
    """Counts every answer by its route."""

    def __init__(self, app: ASGIApp, counts: Counts) -> None:
        self._app, self._counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._counts.answered(route, status, time.perf_counter() - started)


def bare_api(running: Any) -> FastAPI:
    """An app without routes, whose documents stay here: the usual page of FastAPI loads scripts from elsewhere."""
    documented: Any = {status: {"model": bodies.Problem} for status in DOCUMENTED}
    api = FastAPI(
        title="rgunit",
        description="Search a collection by content and style, and translate images guided by what is found.",
        version=_version(),
        docs_url=None,
        redoc_url=None,
        lifespan=running,
        responses=documented,
    )

    def document() -> dict[str, Any]:
        if api.openapi_schema is None:
            made = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
            for path in made["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)  # what is wrong is 400 here
            for name in ("HTTPValidationError", "ValidationError"):
                made["components"]["schemas"].pop(name, None)
            api.openapi_schema = made
        return api.openapi_schema

    api.openapi = document  # type: ignore[method-assign]
    return api


def add_errors(api: FastAPI, workspace: Workspace) -> None:
    """What becomes of failures: one line, and a status that says whose fault it is."""

    @api.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return problem(error.status, error.why, error.headers)

    @api.exception_handler(ImageRefused)
    async def image_refused(_: Request, error: ImageRefused) -> Response:
        return problem(404, "a picture of the collection cannot be read any more: `rgunit index verify` names it")

    @api.exception_handler(RgunitError)
    async def told(_: Request, error: RgunitError) -> Response:
        return problem(400, answers.message_of(workspace, error))

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        text = first["msg"].removeprefix("Value error, ")
        return problem(400, f"{place}: {text}" if place and first["type"] != "json_invalid" else text)

    @api.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail), error.headers)

    @api.exception_handler(ModuleNotFoundError)
    async def missed(_: Request, error: ModuleNotFoundError) -> Response:
        if (line := missing.told(error)) is None:
            raise error
        return problem(501, line)

    @api.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return problem(500, f"unexpected: {type(error).__name__} (the server's terminal has the traceback)")


def _version() -> str:
    from importlib.metadata import version

    return version("rgunit")
