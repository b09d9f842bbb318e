"""Drawing a map: a PNG, or one interactive HTML file with everything inside and no network.

Points are coloured by an attribute (true, false, unknown) or by origin or split; the HTML also lets one choose.
"""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from index_store.images import write_image
from index_store.imagetable import ImageTable
from index_store.whole import write_text
from retrieval.map import Map

Pixels = NDArray[np.uint8]

TRUE, FALSE, UNKNOWN = "#d95f02", "#3c78b4", "#b8b8b8"
PALETTE = (FALSE, TRUE, "#1b9e77", "#7b5ea7", "#c7a008", "#a6761d", "#5a5a5a", "#e7298a")
SIDE = 1400  # pixels of a PNG's map
TEMPLATE = Path(__file__).with_name("map.html")


def colouring(table: ImageTable, name: str) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """The legend [(text, colour)] and each image's entry in it [n], by an attribute, `origin` or `split`.

    UsageError for another name, with the nearest.
    """
    if name in ("origin", "split"):
        column = table.origin if name == "origin" else table.split
        values = sorted({str(one) for one in column})
        entries = [(value or "none", PALETTE[place % len(PALETTE)]) for place, value in enumerate(values)]
        return entries, np.array([values.index(str(one)) for one in column], np.int64)
    labels = table.labels[:, table.schema.index(name)].astype(np.int64)
    return [(name, TRUE), (f"not {name}", FALSE), ("unknown", UNKNOWN)], np.where(labels < 0, 2, 1 - labels)


def draw_png(path: Path, found: Map, *, color: str | None, thumbs: Pixels | None, title: str) -> None:
    """Write a map as a picture: coloured points, or where no colour is asked for the images themselves (`thumbs`)."""
    margin, head = 40, 70
    sheet = Image.new("RGB", (SIDE + 2 * margin, SIDE + margin + head), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((margin, 16), title, "#202020", ImageFont.load_default(20))
    spots = [(margin + x * SIDE, head + (1 - y) * SIDE) for x, y in found.places.tolist()]
    if thumbs is not None:
        side = thumbs.shape[1]
        for (x, y), picture in zip(spots, thumbs, strict=True):
            sheet.paste(Image.fromarray(picture), (int(x - side / 2), int(y - side / 2)))
    if color is not None:
        legend, entry = colouring(found.table, color)
        radius = 5 if len(spots) < 2000 else 4
        points = Image.new("RGB", (2 * sheet.width, 2 * sheet.height), "white")  # twice as large: smooth edges
        dots = ImageDraw.Draw(points)
        for place in np.argsort(-entry, kind="stable"):  # what is true lies above
            x, y = spots[place][0] * 2, spots[place][1] * 2
            dots.ellipse((x - radius, y - radius, x + radius, y + radius), fill=legend[entry[place]][1])
        sheet.paste(points.resize(sheet.size, Image.Resampling.LANCZOS).crop((0, 45, *sheet.size)), (0, 45))
        x = margin
        for place, (text, colour) in enumerate(legend):
            if many := int((entry == place).sum()):
                pen.ellipse((x, 48, x + 12, 60), fill=colour)
                pen.text((x + 18, 46), f"{text} ({many})", "#202020", ImageFont.load_default(15))
                x += 40 + int(pen.textlength(f"{text} ({many})", ImageFont.load_default(15)))
    write_image(path, np.asarray(sheet))


def draw_html(path: Path, found: Map, thumbs: Pixels, *, color: str | None, title: str) -> None:
    """Write a map as one HTML file: zoom, drag, hover for the image and its labels, choose the colour.

    It opens on `color`, else on the first attribute in use.
    """
    table = found.table
    names = [*table.schema.names, "origin", "split"]
    choices = {name: colouring(table, name) for name in names}
    data: dict[str, Any] = {
        "side": int(thumbs.shape[1]),
        "columns": _columns(len(thumbs)),
        "places": [[round(float(x), 4), round(float(y), 4)] for x, y in found.places],
        "ids": table.ids.tolist(),
        "names": [Path(one).name for one in table.paths],
        "colour": color or next(iter((*found.used, *names))),
        "choices": {
            name: {"legend": legend, "entry": "".join(chr(48 + int(place)) for place in entry)}
            for name, (legend, entry) in choices.items()
        },
        "attributes": list(table.schema.names),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    text = text.replace("{{title}}", html.escape(title))
    text = text.replace("{{atlas}}", base64.b64encode(_atlas(thumbs)).decode())
    text = text.replace("{{data}}", json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
    write_text(path, text)


def _columns(count: int) -> int:
    """Thumbnails in a row of the atlas, which is about square."""
    return max(1, int(np.ceil(np.sqrt(count))))


def _atlas(thumbs: Pixels) -> bytes:
    """All thumbnails as one JPEG, row after row."""
    columns, side = _columns(len(thumbs)), thumbs.shape[1]
    rows = -(-len(thumbs) // columns)
    sheet = np.full((rows * columns, side, side, 3), 255, np.uint8)
    sheet[: len(thumbs)] = thumbs
    whole = sheet.reshape(rows, columns, side, side, 3).transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)
    buffer = io.BytesIO()
    Image.fromarray(whole).save(buffer, "JPEG", quality=72)
    return buffer.getvalue()
