"""`ImageTable`: the images of a workspace as columns."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from index_store import places
from index_store.attributes import AttributeSchema, Filter
from index_store.catalog import Catalog
from index_store.errors import RgunitError, damage_named
from index_store.images import Pixels, read_image
from index_store.tables import WHITE

Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class ImageTable:
    """Images in order of id: ids int64 [n], absolute paths, labels int8 [n, A], split, origin, parent int64 (-1: none),
    run ("" : none), and text fields such as identity, {name: [text or None]}."""

    schema: AttributeSchema
    ids: npt.NDArray[np.int64]
    paths: list[str]
    labels: npt.NDArray[np.int8]
    split: Texts
    origin: Texts
    parent: npt.NDArray[np.int64]
    run: Texts
    fields: dict[str, list[str | None]]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, which: npt.ArrayLike) -> ImageTable:
        """Return the rows of a bool mask [n] or of indices."""
        picked = np.asarray(which)
        rows = np.flatnonzero(picked) if picked.dtype == np.bool_ else picked.astype(np.int64)
        return ImageTable(
            self.schema,
            self.ids[rows],
            [self.paths[row] for row in rows],
            self.labels[rows],
            self.split[rows],
            self.origin[rows],
            self.parent[rows],
            self.run[rows],
            {name: [column[row] for row in rows] for name, column in self.fields.items()},
        )

    def white(self, row: int) -> float | None:
        """The value that was said to be white in an image's deep grey, None if its type says it."""
        told = self.fields[WHITE][row] if WHITE in self.fields else None
        return None if told is None else float(told)

    def read(self, row: int, size: int | None = None) -> Pixels:
        """The picture of a row, as `read_image` gives it. ImageRefused, with the remedy, where it is gone."""
        return read_image(self.paths[row], size=size, white=self.white(row))

    def mask(self, wanted: Filter) -> npt.NDArray[np.bool_]:
        """Return bool [n]: which images pass a filter."""
        keep = wanted.match_labels(self.labels) & wanted.match_ids(self.ids)
        for column, choice in ((self.split, wanted.split), (self.origin, wanted.origin)):
            if choice is not None:
                keep &= np.fromiter(map(choice.__contains__, column), np.bool_, len(column))
        return keep

    def places(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the rows of ids, in the order given; RgunitError names one that is not there."""
        places = np.searchsorted(self.ids, ids)
        there = places < len(self.ids)
        there[there] = self.ids[places[there]] == ids[there]
        if not there.all():
            raise RgunitError(f"no image has id {int(ids[~there][0])}")
        return places


def read_table(connection: sa.Connection, catalog: Catalog) -> ImageTable:
    """Read all images (rows with a path) from the catalog."""
    schema = catalog.schema(connection)
    rows = connection.exec_driver_sql(
        "SELECT id, path, known, value, split, origin, parent, run, fields FROM images "
        "WHERE path IS NOT NULL ORDER BY id"
    ).all()
    with damage_named(catalog.file):
        count = len(rows)
        told = [json.loads(row[8]) if row[8] else {} for row in rows]
        names = json.loads(catalog.setting(connection, "fields") or "[]")
        masks = [np.frombuffer(b"".join(row[place] for row in rows), np.uint8) for place in (2, 3)]
        return ImageTable(
            schema,
            np.array([row[0] for row in rows], np.int64),
            [places.picture_or_none(catalog.folder, row[0], row[1]) for row in rows],
            schema.unpack(*(mask.reshape(count, schema.width) for mask in masks)),
            np.array([row[4] for row in rows], object),
            np.array([row[5] for row in rows], object),
            np.array([-1 if row[6] is None else row[6] for row in rows], np.int64),
            np.array([row[7] or "" for row in rows], object),
            {name: [one.get(name) for one in told] for name in names},
        )
