"""What the workspace says, as the HTTP API tells it: the commands' objects with `url` instead of `path`."""

from __future__ import annotations

import base64
import binascii
import io
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cli.serve.bodies import UPLOAD_BYTES, UPLOAD_PIXELS, PictureOf
from cli.serve.gate import Refused
from index_store.errors import ImageRefused, ImageTooLarge, RgunitError
from index_store.images import Pixels, decode
from index_store.runs import CHECKPOINT
from index_store.workspace import ImageTable, RunRecord, Workspace
from retrieval.pictures import Picture, Results

if TYPE_CHECKING:
    from translation.work import Made

SMALL = 256 * 256
"""Pixels up to which a picture is sent as PNG; larger ones are JPEG."""


def picture_of(workspace: Workspace, asked: PictureOf) -> Picture:
    """The picture of a request; an upload that the workspace has is that image. Refused where it is none."""
    if asked.image_id is not None:
        return known_picture(workspace, asked.image_id)
    assert asked.image is not None
    try:
        data = base64.b64decode(asked.image, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "image is no base64") from None
    if len(data) > UPLOAD_BYTES:
        raise Refused(413, f"a picture may have at most {UPLOAD_BYTES // 2**20} MiB: send a smaller one")
    if (number := workspace.image_of(data)) is not None:
        return known_picture(workspace, number)
    try:
        return Picture(decode(data, most=UPLOAD_PIXELS))
    except ImageTooLarge as error:
        raise Refused(413, f"{error}: send a smaller one") from None
    except ImageRefused as error:
        raise Refused(415, str(error)) from None


def known_picture(workspace: Workspace, number: int) -> Picture:
    """An image of the collection. Refused where there is none with this id."""
    try:
        return Picture.known(workspace, number)
    except RgunitError as error:
        raise Refused(404, str(error)) from None


def known_run(workspace: Workspace, name: str) -> RunRecord:
    """A run by its id. Refused where there is none."""
    for record in workspace.runs():
        if record.id == name:
            return record
    raise Refused(404, f"there is no run {name!r}: GET /api/runs lists them")


def image_url(number: int) -> str:
    """Where the picture of an image is."""
    return f"/api/images/{number}"


def encoded(pixels: Pixels) -> tuple[bytes, str]:
    """A picture as a file for a browser, and its type."""
    kind = "PNG" if pixels.shape[0] * pixels.shape[1] <= SMALL else "JPEG"
    return (png(pixels), "image/png") if kind == "PNG" else (_saved(pixels, "JPEG", quality=90), "image/jpeg")


def png(pixels: Pixels) -> bytes:
    """A picture as PNG."""
    return _saved(pixels, "PNG", compress_level=3)


def _saved(pixels: Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def query_answer(run: RunRecord | None, found: Results) -> dict[str, Any]:
    """As `rgunit query --json`; words alone ask no run."""
    told = found.json()
    for row in told["neighbours"]:
        del row["path"]
        row["url"] = image_url(row["image_id"])
    named = (None, None) if run is None else (run.id, method_told(run))
    return {**told, "run": named[0], "method": named[1]}


def outputs(picture: Picture, made: list[Made], urls: list[tuple[str, str | None]], known: dict[int, Any]) -> list[Any]:
    """As `outputs` of `rgunit translate --json`; `urls` of each picture and its mask, `known` of `neighbour_table`."""
    number = picture.image_id
    source = {"image_id": number, "url": None if number is None else image_url(number)}
    return [
        {
            "source": source,
            "target": one.target,
            "url": url,
            "mask": mask,
            "neighbours": [
                {"image_id": int(i), "url": image_url(int(i)), "origin": known[int(i)]["origin"]} for i in one.ids[0]
            ],
        }
        for one, (url, mask) in zip(made, urls, strict=True)
    ]


def image_rows(table: ImageTable) -> list[dict[str, Any]]:
    """The images of a table."""
    return [
        {
            "image_id": int(number),
            "url": image_url(int(number)),
            "attributes": table.schema.describe(table.labels[row]),
            "split": str(table.split[row]),
            "origin": str(table.origin[row]),
            "parent": int(table.parent[row]) if table.parent[row] >= 0 else None,
            "fields": {name: column[row] for name, column in table.fields.items()},
        }
        for row, number in enumerate(table.ids)
    ]


def method_told(run: RunRecord) -> str:
    """The method of a run, as its settings name it."""
    from translation.runs import method_of

    return method_of(run) if "config" in run.config else ""


def run_told(workspace: Workspace, run: RunRecord, defaults: set[str]) -> dict[str, Any]:
    """A run as `info --json` tells it, with what can be asked of it."""
    from cli.info import run_row
    from translation.methods import JOINING
    from translation.runs import direction_of

    told = run_row(run)
    del told["path"]
    names = [name for name in run.config.get("attributes_used", ()) if name in workspace.schema.names]
    source, target = direction_of(run) or (None, None)
    neighbours, method = run.config.get("neighbours"), method_told(run)
    return {
        **told,
        "method": method,
        "attributes": names,
        "groups": [list(group) for group in workspace.schema.subset(tuple(names)).groups],
        "neighbours": None if neighbours is None else str(neighbours),
        "source": source,
        "target": target,
        "domains": names if method in JOINING else [],
        "usable": (run.path / CHECKPOINT).exists(),
        "default": run.id in defaults,
        "url": f"/api/runs/{run.id}",
    }


def without_places(value: Any) -> Any:
    """Settings of a run without where files of this machine lie: their names alone."""
    if isinstance(value, dict):
        return {name: without_places(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_places(one) for one in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def default_ids(workspace: Workspace) -> set[str]:
    """The runs that are asked where none is named."""
    from retrieval.runs import find_run
    from translation.runs import default_run

    found = set()
    with suppress(RgunitError):
        found.add(find_run(workspace, None).id)
    with suppress(RgunitError):
        found.add(default_run(workspace).id)
    return found


def message_of(workspace: Workspace, error: RgunitError) -> str:
    """An error's line without the workspace's place, and with options named as in a body; commands stay as they are."""
    text = str(error).replace(str(workspace.path), workspace.path.name)
    parts = text.split("`")
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), parts[place])
    return "`".join(parts)
