"""What is looked at rather than asked: a run's curves and samples, near-duplicates, map, report, a blind choice."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, Response

from cli.duplicates import MOST_BITS
from cli.serve import answers, bodies
from cli.serve.gate import Refused
from cli.serve.workers import Workers
from index_store import places
from index_store.duplicates import DISTANCE
from index_store.errors import RgunitError
from index_store.workspace import Workspace

LARGEST_PAGE = 256 * 2**20
"""Bytes of a report."""
LARGEST_SAMPLE = 64 * 2**20
KEPT = 4
"""Maps and comparisons that are kept."""
DRAWN = {
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
}
"""Of a document that is one file with all that it needs: it may show itself and ask this server for nothing."""

RunName = Annotated[str, InPath(max_length=20)]


class Looks:
    """Routes for what takes long and changes rarely: one piece of such work at a time.

    `look` is called before what was kept is shown: it calls `clear` where that may show images that were forgotten.
    """

    def __init__(self, workspace: Workspace, folder: Path, device: str, look: Callable[[], None]) -> None:
        self.workspace, self.folder, self.device, self._look = workspace, folder, device, look
        self._busy = threading.Lock()
        self._maps: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._blind: OrderedDict[str, Path] = OrderedDict()

    def clear(self) -> None:
        """Keep no map and no comparison: they show images that were forgotten."""
        with self._busy:
            self._maps.clear()
            while self._blind:
                shutil.rmtree(self._blind.popitem()[1], ignore_errors=True)
            (self.folder / "map.html").unlink(missing_ok=True)

    def run(self, name: str) -> dict[str, Any]:
        """A run in full."""
        from translation.evaluation.report.curves import charts_of
        from translation.training.metrics import read_metrics

        record = answers.known_run(self.workspace, name)
        told = answers.run_told(self.workspace, record, answers.default_ids(self.workspace))
        try:
            charts = charts_of(read_metrics(record.path), answers.method_told(record) or "gmm_unit")
        except ModuleNotFoundError:  # which curves a method has its class says, and that needs torch
            charts = []
        samples = sorted(int(file.stem) for file in record.path.glob("samples/*.png") if file.stem.isdecimal())
        return {
            **told,
            "config": answers.without_places(record.config),
            "curves": [{"title": c.title, "unit": c.unit, "svg": str(c.svg), "key": str(c.key)} for c in charts],
            "samples": [{"step": step, "url": f"/api/runs/{name}/samples/{step}.png"} for step in samples],
        }

    def sample(self, name: str, step: int) -> bytes:
        """A picture that a run drew at a step."""
        return self._file(
            answers.known_run(self.workspace, name).path / "samples" / f"{step:06d}.png",
            LARGEST_SAMPLE,
            "picture of that step",
        )

    def report(self) -> bytes:
        """The report of the workspace."""
        return self._file(self.workspace.path / "report.html", LARGEST_PAGE, "report yet: `rgunit run` writes one")

    def duplicates(self, distance: int, where: str) -> dict[str, Any]:
        """Groups of near-duplicates."""
        from retrieval.duplicates import find_duplicates

        self.workspace.check_filter(where)
        with self._busy:
            found = find_duplicates(self.workspace, distance=distance, where=where or None)
        groups = [[one.json() for one in group] for group in found.groups]
        for group in groups:
            for one in group:
                del one["path"]
                one["url"] = answers.image_url(one["image_id"])
        return {
            "images": found.images,
            "distance": distance,
            "duplicates": sum(len(group) - 1 for group in groups),
            "groups": groups,
        }

    def map(self, by: Literal["both", "content", "style"], where: str, images: int) -> bytes:
        """The map as one document."""
        from retrieval.map import make_map, thumbnails
        from retrieval.mapdraw import draw_html
        from retrieval.retriever import Retriever

        self.workspace.check_filter(where)
        with self._busy:
            retriever = Retriever.open(self.workspace, device="cpu")
            key = (*self.workspace.catalog.version(), retriever.fingerprint, by, where, images)
            if key not in self._maps:
                found = make_map(self.workspace, retriever, by=by, images=images, where=where or None)
                file = self.folder / "map.html"
                title = f"{len(found.table)} of {found.of} images by {'content and style' if by == 'both' else by}"
                draw_html(file, found, thumbnails(found.table, 48), color=None, title=title)
                self._maps[key] = file.read_bytes()
                while len(self._maps) > KEPT:
                    self._maps.popitem(last=False)
            return self._maps[key]

    def blind(self, asked: bodies.BlindAsked) -> dict[str, Any]:
        """A comparison, in a folder of its own for as long as the server runs; the newest ones are kept."""
        from translation.evaluation.arms import open_arms
        from translation.evaluation.preference import write_preference

        if asked.run is not None:
            answers.known_run(self.workspace, asked.run)
        name = secrets.token_urlsafe(12)
        with self._busy, Workspace.open(self.workspace.path) as own:  # it leaves out what is missing
            arms = open_arms(own, asked.run, self.device)
            folder = self.folder / name
            _, _, pairs = write_preference(
                own, arms, folder, asked=asked.arms or (), count=asked.pairs, seed=asked.seed
            )
            self._blind[name] = folder
            while len(self._blind) > KEPT:
                shutil.rmtree(self._blind.popitem(last=False)[1], ignore_errors=True)
        return {"url": f"/api/blind/{name}", "pairs": pairs}

    def blind_page(self, name: str) -> bytes:
        """The page of a comparison."""
        from translation.evaluation.preference import PAGE

        return (self._blind_folder(name) / PAGE).read_bytes()

    def choices(self, name: str, asked: bodies.ChoicesAsked) -> dict[str, Any]:
        """What was chosen."""
        from translation.evaluation.preference import read_preference

        folder = self._blind_folder(name)
        with tempfile.TemporaryDirectory(dir=folder) as given:
            files = [Path(given) / f"choices-{number}.json" for number in range(1, len(asked.choices) + 1)]
            for file, told in zip(files, asked.choices, strict=True):
                file.write_text(json.dumps(told))
            try:
                return asdict(read_preference(folder, files))
            except RgunitError as error:
                raise Refused(400, str(error).replace(f"{given}/", "").replace(str(folder), "the page")) from None

    def _blind_folder(self, name: str) -> Path:
        self._look()
        folder = self._blind.get(name)
        if folder is None:
            raise Refused(404, "there is no such comparison (any more)")
        return folder

    def _file(self, file: Path, most: int, what: str) -> bytes:
        """A file of the workspace. Refused where there is none, or it leads out of the workspace."""
        try:
            if places.leads_out(self.workspace.path, file):
                raise Refused(404, f"there is no {what}")
            return places.read_bytes(file, most)
        except OSError:
            raise Refused(404, f"there is no {what}") from None

    def routes(self, api: FastAPI, work: Workers) -> None:
        """Give them to the app; `work` is the queue that they wait in."""

        @api.get("/api/runs/{run}", response_model=bodies.RunDetails, tags=["runs"], summary="A run, its curves")
        async def run(run: RunName) -> Response:
            return JSONResponse(await work.run(self.run, run))

        @api.get(
            "/api/runs/{run}/samples/{step}.png",
            response_class=Response,
            tags=["look"],
            summary="What a run drew at a step",
        )
        async def sample(run: RunName, step: Annotated[int, InPath(ge=0, le=10**9)]) -> Response:
            return Response(await work.run(self.sample, run, step), media_type="image/png")

        @api.get("/api/report.html", response_class=Response, tags=["look"], summary="The report of `rgunit run`")
        async def report() -> Response:
            return Response(await work.run(self.report), media_type="text/html", headers=DRAWN)

        @api.get("/api/duplicates", response_model=bodies.DuplicatesTold, tags=["look"], summary="Near-duplicates")
        async def duplicates(
            distance: Annotated[int, Query(ge=0, le=MOST_BITS, description="Bits of 64 that may differ.")] = DISTANCE,
            where: bodies.Text = "",
        ) -> Response:
            return JSONResponse(await work.run(self.duplicates, distance, where))

        @api.get("/api/map.html", response_class=Response, tags=["look"], summary="The collection as a map")
        async def map_(
            by: Literal["both", "content", "style"] = "both",
            where: bodies.Text = "",
            images: Annotated[int, Query(ge=10, le=4000)] = 1500,
        ) -> Response:
            return Response(await work.run(self.map, by, where, images), media_type="text/html", headers=DRAWN)

        @api.post("/api/blind", response_model=bodies.BlindTold, tags=["look"], summary="Compare two arms blind")
        async def blind(asked: bodies.BlindAsked) -> Response:
            return JSONResponse(await work.run(self.blind, asked))

        @api.get("/api/blind/{name}", response_class=Response, tags=["look"], summary="Its page")
        async def blind_page(name: Annotated[str, InPath(max_length=100)]) -> Response:
            return Response(await work.run(self.blind_page, name), media_type="text/html", headers=DRAWN)

        @api.post(
            "/api/blind/{name}/choices", response_model=bodies.ChoicesTold, tags=["look"], summary="What was chosen"
        )
        async def choices(name: Annotated[str, InPath(max_length=100)], asked: bodies.ChoicesAsked) -> Response:
            return JSONResponse(await work.run(self.choices, name, asked))
