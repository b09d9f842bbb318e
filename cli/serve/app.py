"""The API: each route checks what it was asked, hands the work to threads, and tells what the commands tell."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from cli.serve import answers, bodies
from cli.serve.frame import Counted, add_errors, bare_api
from cli.serve.gate import COOKIE, Gate, Refused
from cli.serve.looks import Looks
from cli.serve.workers import Counts, Shelf, Workers
from index_store.errors import ImageRefused, RgunitError
from index_store.runs import RunRecord
from index_store.workspace import Workspace
from retrieval.asking import Asking
from retrieval.pictures import Picture
from retrieval.runs import find_run
from retrieval.words import search_text

THREADS, WAITING = 8, 56
"""Questions that are worked on, and that may wait; pictures have a queue of their own."""
PAGE = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SEEN_AGAIN = {"Cache-Control": "private, no-cache"}
"""A browser may keep it, and asks each time whether it is still so."""
ImageNumber = Annotated[int, InPath(ge=0, lt=2**63)]
Where = Annotated[str, Query(max_length=2000, description="A filter: `+A -B ?C split=test origin=real`.")]


def make_app(
    workspace: Workspace,
    *,
    device: str = "auto",
    host: str = "127.0.0.1",
    token: str | None = None,
    ready: Callable[[], None] = lambda: None,
    waiting: int = WAITING,
    warm: bool = True,
) -> ASGIApp:
    """The whole app on a workspace, with who may ask it. `ready` is called when it answers."""
    served = Served(workspace, device, waiting, warm, ready)
    gate = Gate(served.api, host, token)
    served.gate = gate
    return Counted(gate, served.counts)


class Served:
    """The routes, with what they share."""

    gate: Gate

    def __init__(self, workspace: Workspace, device: str, waiting: int, warm: bool, ready: Callable[[], None]) -> None:
        self.workspace, self.device = workspace, device
        self.counts, self.made = Counts(), Shelf()
        self.work, self.pictures = Workers("work", THREADS, waiting), Workers("pictures", 4, 1024)
        self.asking = Asking(workspace, self.counts.shared)
        self._serving: Any = None
        self._first, self._dropping = threading.Lock(), threading.Lock()
        self.loaded = not warm
        self._files = {file.name: file.read_bytes() for file in PAGE.iterdir() if file.suffix in KINDS}
        self._folder = tempfile.TemporaryDirectory(prefix="rgunit-serve-")
        self.looks = Looks(workspace, Path(self._folder.name), device, self._drop_forgotten)
        self._seen: tuple[tuple[int, ...], int] = workspace.catalog.version(), workspace.forgotten()

        @asynccontextmanager
        async def running(_: FastAPI) -> AsyncIterator[None]:
            if warm:
                threading.Thread(target=self._warm, daemon=True).start()
            ready()
            yield
            self.work.close()
            self.pictures.close()
            if self._serving is not None:
                self._serving.close()
            self._folder.cleanup()

        self.api = bare_api(running)
        add_errors(self.api, workspace)
        self._routes()

    @property
    def serving(self) -> Any:
        """The runs, loaded when they are first asked for: torch takes longer than the page."""
        with self._first:
            if self._serving is None:
                from translation.serving import Serving

                self._serving = Serving(self.workspace, self.device, self.counts.shared)
            return self._serving

    def _warm(self) -> None:
        """Load what will be asked for, so that the first answer is quick."""
        self.loaded = self.asking.warm()  # a search needs nothing else
        try:
            self.serving.warm()
        except (RgunitError, ModuleNotFoundError):
            pass  # nothing was trained yet, or torch is not installed: whoever asks is told
        finally:
            self.loaded = True

    # Questions

    def query(self, asked: bodies.QueryAsked) -> dict[str, Any]:
        if asked.wordy:
            self.workspace.check_filter(asked.where)
            return answers.query_answer(None, search_text(self.workspace, asked.text or "", **asked.how))
        record = self._asked_run(asked.run, "retrieval")
        picture = answers.picture_of(self.workspace, asked)
        other = None if asked.style_of is None else answers.picture_of(self.workspace, asked.style_of)
        self.workspace.check_filter(asked.where)
        searcher = self.asking.searcher(record) if self.device in ("auto", "cpu") else None
        found = (searcher or self.serving.retriever(record)).search(
            picture,
            edit=asked.to,
            style_of=other,
            text=asked.text,
            content_weight=asked.content_weight,
            **asked.how,
        )
        return answers.query_answer(record, found)

    def translate(self, asked: bodies.TranslateAsked) -> dict[str, Any]:
        from translation.serving import Goal

        started = time.perf_counter()
        run = self._asked_run(asked.run, "translation").id
        picture = answers.picture_of(self.workspace, asked)
        goal = Goal(asked.to, None if asked.style_of is None else answers.picture_of(self.workspace, asked.style_of))
        record, made = self.serving.translate(
            picture,
            goal,
            samples=asked.samples,
            guidance=asked.guidance,
            neighbours=asked.neighbours,
            source=asked.source,
            run=run,
            seed=asked.seed,
        )
        return self._translated(picture, record, made, started)

    def interpolate(self, asked: bodies.InterpolateAsked) -> dict[str, Any]:
        from translation.serving import Goal

        started = time.perf_counter()
        run = self._asked_run(asked.run, "translation").id
        picture = answers.picture_of(self.workspace, asked)
        if asked.to is not None:
            first, last = (Goal(to) for to in asked.to)
        else:
            assert asked.style_of is not None
            first, last = (Goal(None, answers.picture_of(self.workspace, one)) for one in asked.style_of)
        record, made = self.serving.interpolate(
            picture,
            (first, last),
            asked.steps,
            guidance=asked.guidance,
            source=asked.source,
            run=run,
            seed=asked.seed,
        )
        return self._translated(picture, record, made, started)

    def _translated(self, picture: Picture, record: Any, made: list[Any], started: float) -> dict[str, Any]:
        import numpy as np

        from translation.indexing import neighbour_table

        urls = [(self._keep(one.pixels), None if one.mask is None else self._keep(one.mask)) for one in made]
        known = neighbour_table(self.workspace, np.concatenate([one.ids.ravel() for one in made]))
        return {
            "outputs": answers.outputs(picture, made, urls, known),
            "run": record.id,
            "method": answers.method_told(record),
            "milliseconds": 1e3 * (time.perf_counter() - started),
        }

    def _keep(self, pixels: Any) -> str:
        return f"/api/results/{self.made.put(answers.png(pixels))}.png"

    def _asked_run(self, run: str | None, kind: str) -> RunRecord:
        """The run that is meant. Refused with 404 where there is none."""
        from translation.runs import default_run

        if run is not None:
            record = answers.known_run(self.workspace, run)
            return find_run(self.workspace, run) if kind == "retrieval" else record
        try:
            return find_run(self.workspace, None) if kind == "retrieval" else default_run(self.workspace)
        except RgunitError as error:
            raise Refused(404, answers.message_of(self.workspace, error)) from None

    # What is there

    def collection(self) -> dict[str, Any]:
        from cli.info import collection

        told = collection(self.workspace)
        report = self.workspace.path / "report.html"
        return {
            **told,
            "workspace": self.workspace.path.name,
            "runs": self.runs(),
            "report": "/api/report.html" if report.is_file() else None,
        }

    def runs(self) -> list[dict[str, Any]]:
        defaults = answers.default_ids(self.workspace)
        return [answers.run_told(self.workspace, run, defaults) for run in self.workspace.runs()]

    def images(self, where: str, offset: int, limit: int) -> dict[str, Any]:
        self.workspace.check_filter(where)
        table = self.workspace.images(where)
        some = table.select(range(min(offset, len(table)), min(offset + limit, len(table))))
        return {"images": answers.image_rows(some), "total": len(table), "offset": offset, "limit": limit}

    def image(self, number: int, size: int | None, known: str | None) -> Response:
        """A picture of the collection; only its tag where the browser has it."""
        picture = answers.known_picture(self.workspace, number)
        assert isinstance(picture.source, Path)
        try:
            there = picture.source.stat()
        except OSError:
            raise Refused(404, f"the file of image {number} is gone") from None
        headers = {**SEEN_AGAIN, "ETag": f'"{number}-{size or 0}-{there.st_mtime_ns:x}-{there.st_size:x}"'}
        if known == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        try:
            table = self.workspace.images()
            row = int(table.places(_array(number))[0])
            pixels = table.read(row) if size is None else table.read(row, size)
        except ImageRefused:
            raise Refused(404, f"the file of image {number} cannot be read") from None
        data, kind = answers.encoded(pixels)
        return Response(data, media_type=kind, headers=headers)

    def result(self, name: str) -> Response:
        """A picture that was made a while ago."""
        self._drop_forgotten()
        data = self.made.get(name)
        if data is None:
            raise Refused(404, "there is no such picture (any more): results are kept for ten minutes")
        return Response(data, media_type="image/png")

    def _drop_forgotten(self) -> None:
        """Where images were forgotten since the last look, let go of all that may show them."""
        with self._dropping:  # who comes meanwhile waits until it is gone
            version = self.workspace.catalog.version()
            if version != self._seen[0]:
                seen = version, self.workspace.forgotten()
                if seen[1] != self._seen[1]:
                    self.made.clear()
                    self.looks.clear()
                self._seen = seen

    def _routes(self) -> None:
        api = self.api

        @api.post(
            "/api/query", response_model=bodies.QueryTold, tags=["ask"], summary="Images: this content, another style"
        )
        async def query(asked: bodies.QueryAsked) -> Response:
            return JSONResponse(await self.work.run(self.query, asked))

        @api.post(
            "/api/translate", response_model=bodies.TranslateTold, tags=["ask"], summary="The picture in another style"
        )
        async def translate(asked: bodies.TranslateAsked) -> Response:
            return JSONResponse(await self.work.run(self.translate, asked))

        @api.post(
            "/api/interpolate", response_model=bodies.TranslateTold, tags=["ask"], summary="The way between two styles"
        )
        async def interpolate(asked: bodies.InterpolateAsked) -> Response:
            return JSONResponse(await self.work.run(self.interpolate, asked))

        @api.get("/api/results/{name}.png", response_class=Response, tags=["ask"], summary="A picture that was made")
        async def result(name: Annotated[str, InPath(max_length=100)]) -> Response:
            return await self.pictures.run(self.result, name)

        @api.get("/api/collection", response_model=bodies.CollectionTold, tags=["collection"], summary="What there is")
        async def collection() -> Response:
            return JSONResponse(await self.pictures.run(self.collection))

        @api.get(
            "/api/images", response_model=bodies.ImagesTold, tags=["collection"], summary="Images that pass a filter"
        )
        async def images(
            where: Where = "",
            offset: Annotated[int, Query(ge=0, lt=2**63)] = 0,
            limit: Annotated[int, Query(ge=1, le=500)] = 60,
        ) -> Response:
            return JSONResponse(await self.pictures.run(self.images, where, offset, limit))

        @api.get("/api/images/{number}", response_class=Response, tags=["collection"], summary="A picture")
        async def image(
            request: Request,
            number: ImageNumber,
            size: Annotated[int | None, Query(ge=16, le=1024, description="Its centre square so large.")] = None,
        ) -> Response:
            return await self.pictures.run(self.image, number, size, request.headers.get("if-none-match"))

        @api.get("/api/runs", response_model=bodies.RunsTold, tags=["runs"], summary="All runs")
        async def runs() -> Response:
            return JSONResponse({"runs": await self.pictures.run(self.runs)})

        @api.get("/healthz", response_model=bodies.Health, tags=["server"], summary="Whether it answers")
        async def health() -> Response:
            return JSONResponse({"status": "ok", "ready": self.loaded})

        @api.get("/metrics", response_class=Response, tags=["server"], summary="Numbers for Prometheus")
        async def metrics() -> Response:
            gauges = {
                "rgunit_requests_inside": ("Questions that are worked on or wait.", self.work.inside),
                "rgunit_results_bytes": ("Bytes of pictures that were made and are kept.", self.made.bytes),
                "rgunit_images": ("Images of the collection.", len(await self.pictures.run(self.workspace.images))),
            }
            return Response(self.counts.text(gauges), media_type="text/plain; version=0.0.4; charset=utf-8")

        @api.post("/api/login", response_class=Response, tags=["server"], summary="The token for a cookie")
        async def login(asked: bodies.LoginAsked) -> Response:
            if not self.gate.is_token(asked.token):
                raise Refused(401, "that is not the token that the server was started with")
            answer = JSONResponse({})
            answer.set_cookie(COOKIE, self.gate.session, httponly=True, samesite="strict", path="/")
            return answer

        @api.get("/", include_in_schema=False)
        async def page() -> Response:
            return self._file("index.html")

        @api.get("/login", include_in_schema=False)
        async def login_page() -> Response:
            return self._file("login.html")

        @api.get("/docs", include_in_schema=False)
        async def docs() -> Response:
            return RedirectResponse("/#api")

        @api.get("/static/{name}", include_in_schema=False)
        async def static(name: str) -> Response:
            return self._file(name)

        self.looks.routes(api, self.work)

    def _file(self, name: str) -> Response:
        """A file of the page, by a name that is looked up among those that were read at the start."""
        data = self._files.get(name)
        if data is None:
            raise Refused(404, "there is no such page")
        return Response(data, media_type=KINDS[Path(name).suffix], headers=SEEN_AGAIN)


def _array(number: int) -> Any:
    import numpy as np

    return np.array([number])
