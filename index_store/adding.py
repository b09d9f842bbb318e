"""Turning checked files into records of the catalog, one durable batch after the other.

The one idea: a row of the catalog is a content. Where a file lies is something that a row learns, so a file that was
moved, renamed or exchanged with another keeps its id, labels and vectors; one that was changed is another image.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store import places
from index_store.attributes import AttributeSchema
from index_store.catalog import Catalog
from index_store.decoding import read_file
from index_store.errors import ImageRefused
from index_store.features import Record
from index_store.images import Checked
from index_store.learned import pass_on
from index_store.replay import schema_header
from index_store.tables import NOT_TOLD, WHITE, LabelTable

TEST_SHARE = 0.2


@dataclass(frozen=True)
class Rejection:
    """A file or a row that was not taken, and why."""

    path: str
    reason: str


@dataclass
class Tally:
    """Counts while adding."""

    added: int = 0
    duplicates: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    converted: int = 0
    dark: list[str] = field(default_factory=list)
    dark_colours: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    updated: int = 0
    changes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class File:
    """A file that was read: its hash and what the decode told, or the reason of its refusal."""

    path: Path
    row: int
    sha256: str = ""
    checked: Checked | None = None
    reason: str = ""
    white: str | None = None


@dataclass(frozen=True)
class Terms:
    """How images are added: the schema and labels as they will be, and what was asked for."""

    schema: AttributeSchema
    table: LabelTable | None
    origin: str
    split: str | None = None
    split_by: str | None = None
    update: bool = False
    folders: dict[Path, str | None] = field(default_factory=dict)
    """The splits of files without labels, by the folders that they lie in."""


@dataclass
class _Row:
    """An image as it is to be in the catalog; `told` are the columns that its labels say anything of."""

    id: int
    labels: npt.NDArray[np.int8]
    split: str
    origin: str
    path: str
    fields: dict[str, str]
    told: npt.NDArray[np.bool_] | None = None
    split_told: bool = False
    changed: bool = False


def hash_share(text: str) -> float:
    """Return a number in [0, 1) that a text always gets: sha-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def stored_path(folder: Path, path: Path) -> str:
    """Return a path as the catalog keeps it: relative to the workspace when it lies in it, links followed."""
    within = path.is_relative_to(folder) and ".." not in path.parts and not places.leads_out(folder, path)
    return path.relative_to(folder).as_posix() if within else str(path)


def known_fields(catalog: Catalog) -> list[str]:
    """Return the names of the text fields that the workspace has."""
    with catalog.reading() as connection:
        return [str(name) for name in json.loads(catalog.setting(connection, "fields") or "[]")]


class Adder:
    """Writes batches of checked files; `finish` then says what became of images that were known before."""

    def __init__(self, catalog: Catalog, terms: Terms, tally: Tally) -> None:
        self.catalog, self.terms, self.tally = catalog, terms, tally
        self.schema, table = terms.schema, terms.table
        self.columns = np.array(self.schema.indices(list(table.attributes)), np.int64) if table else np.zeros(0, int)
        self.given = np.array(list(table.attributes.values()), np.int8).T if table and table.attributes else None
        with catalog.reading() as connection:
            rows = connection.exec_driver_sql(
                "SELECT sha256, id, path, split, origin FROM images WHERE sha256 IS NOT NULL AND path IS NOT NULL"
            ).all()
        self.known: dict[str, int] = {str(sha): int(row) for sha, row, *_ in rows}
        users = [(str(sha), str(path), str(split)) for sha, _, path, split, origin in rows if origin != "generated"]
        self.places = {sha: path for sha, path, _ in users}  # where each content was known to lie
        self.sides = {path: split for _, path, split in users}
        self.seen: dict[str, str] = {}  # what now lies at each path that was read; "": no picture
        self.found: dict[str, str] = {}  # contents that were found at another place than they are known at
        self.read: set[str] = set()
        known, mended = set(known_fields(catalog)), set(table.attributes) if table and terms.update else set()
        self.fields = sorted((known | set(table.fields if table else ())) - mended)
        self.mended = mended & known

    def take(self, batch: list[File]) -> None:
        """Write one batch: new images, then what old ones learn."""
        new: dict[str, tuple[_Row, File]] = {}
        old = self._load({file.sha256 for file in batch})
        next_id = self.catalog.next_id()
        for file in batch:
            path = stored_path(self.catalog.folder, file.path)
            self.seen[path] = file.sha256 if file.checked else ""
            if file.checked is None:
                self.tally.rejected.append(Rejection(str(file.path), file.reason))
                continue
            self.tally.converted += file.checked.converted
            if file.checked.dark:
                self.tally.dark.append(str(file.path))
            if file.checked.dark_colour:
                self.tally.dark_colours.append(str(file.path))
            row = self._row(file, path)
            there = new[file.sha256][0] if file.sha256 in new else old.get(file.sha256)
            if there is None:
                self.read.add(file.sha256)
            if there is not None:
                self.tally.duplicates += 1
                self._learn(there, row, file)
            else:
                row.id = next_id + len(new)
                new[file.sha256] = (row, file)
        if new:
            self._insert(list(new.items()))
            self.tally.added += len(new)
        self._update([row for row in old.values() if row.changed])

    def finish(self, below: Path | None) -> None:
        """Follow what was moved and drop what was changed; `below`: the folder that was read, whose lost images are
        told."""
        self._look_closer()
        stale = {sha for sha, path in self.places.items() if self.seen.get(path, sha) not in ("", sha)}
        moved = {sha: place for sha, place in self.found.items() if sha in stale or self._is_lost(sha)}
        rows = self._load(set(moved))
        for sha, row in rows.items():
            self.tally.moved.append(f"{self._absolute(row.path)} -> {self._absolute(moved[sha])}")
            row.path = moved[sha]
        self._update(list(rows.values()))
        gone = sorted(stale - moved.keys(), key=self.known.__getitem__)
        self.tally.replaced += [self._absolute(self.places[sha]) for sha in gone]
        now = {self.known[sha]: self.known.get(self.seen[self.places[sha]], -1) for sha in gone}
        if gone:  # what these images showed is nowhere any more: the file of that name is another image now
            self.catalog.write(Record("remove", {}, {"ids": np.array([self.known[sha] for sha in gone], np.int64)}))
            pass_on(self.catalog, now)
        if below is not None:
            rest = (Path(self._absolute(path)) for sha, path in self.places.items() if sha not in moved)
            self.tally.gone += [str(path) for path in rest if path.is_relative_to(below) and not path.exists()]

    def _look_closer(self) -> None:
        """Read what lies now where contents are known that were found elsewhere: a copy of them, or another picture?"""
        waiting = list(self.found)
        while waiting:
            path = self.places[waiting.pop()]
            file = Path(self._absolute(path))
            if path in self.seen or not file.exists():
                continue
            try:
                self.seen[path] = sha = hashlib.sha256(read_file(file)).hexdigest()
            except ImageRefused:
                self.seen[path] = ""
                continue
            if sha in self.places and self.places[sha] != path and sha not in self.found:
                self.found[sha] = path
                waiting.append(sha)

    def _is_lost(self, sha: str) -> bool:
        """Whether a content lies no more where it is known to lie."""
        path = self.places[sha]
        return self.seen[path] != sha if path in self.seen else not Path(self._absolute(path)).exists()

    def _absolute(self, path: str) -> str:
        return places.picture_or_none(self.catalog.folder, "gone", path)

    def _row(self, file: File, path: str) -> _Row:
        """Return the image that a file and its row of labels make."""
        terms, table = self.terms, self.terms.table
        labels = np.full(len(self.schema), -1, np.int8)
        told = np.zeros(len(self.schema), np.bool_)
        fields: dict[str, str] = {}
        split = terms.split or terms.folders.get(file.path)
        if table is not None and file.row >= 0:
            if self.given is not None:
                labels[self.columns] = np.maximum(self.given[file.row], -1)
                told[self.columns] = self.given[file.row] != NOT_TOLD
            for name, column in table.fields.items():
                if (text := column[file.row]) is not None:
                    fields[name] = text
            if split is None and table.split is not None:
                split = table.split[file.row]
        if file.white is not None:
            fields[WHITE] = file.white
        else:
            fields.pop(WHITE, None)
        split_told = split is not None
        if split is None and table is not None and file.row >= 0:
            if path in self.sides and file.sha256 not in self.known:  # changed: it stays on its side
                split = self.sides[path]
            else:
                key = fields.get(terms.split_by, file.sha256) if terms.split_by else file.sha256
                split = "test" if hash_share(key) < TEST_SHARE else "train"
        return _Row(0, labels, split or "train", terms.origin, path, fields, told, split_told)

    def _learn(self, there: _Row, row: _Row, file: File) -> None:
        """Fill what was unknown; what contradicts is taken if the image is to be updated, else told and left."""
        assert row.told is not None
        update = (
            self.terms.update and file.sha256 not in self.read
        )  # of several copies the first is the one that counts
        self.read.add(file.sha256)
        named = there.origin == "unlabelled" and row.origin == "real"
        clash = row.told & (there.labels >= 0) & (there.labels != row.labels) & (update | (row.labels >= 0))
        fill = (there.labels < 0) & (row.labels >= 0)
        names = [self.schema.names[column] for column in np.flatnonzero(clash)]
        other = {name for name, text in row.fields.items() if there.fields.get(name, text) != text}
        differ = [
            *names,
            *(["split"] if row.split_told and not named and there.split != row.split else []),
            *sorted(other),
        ]
        taken = list(differ) if update else []
        if update:
            taken += [self.schema.names[column] for column in np.flatnonzero(fill)]
            there.labels[clash] = row.labels[clash]
            there.fields |= {name: row.fields[name] for name in other}
            there.split = row.split if "split" in differ else there.split
            for name in self.mended & there.fields.keys():  # a text that is an attribute now
                del there.fields[name]
                taken += [name] if name not in taken else []
        elif differ:
            reason = f"the same image has another value of {', '.join(differ)} already: the first one stays"
            self.tally.rejected.append(Rejection(str(file.path), f"{reason} (--update takes the new one)"))
        fresh = {name: text for name, text in row.fields.items() if name not in there.fields}
        there.labels[fill] = row.labels[fill]
        there.fields |= fresh
        there.changed |= bool(taken or fresh or fill.any())
        self.tally.changes.update(taken)
        self.tally.updated += bool(taken)
        if named:
            there.origin, there.split, there.changed = "real", row.split, True
        if file.sha256 in self.places and there.path != row.path:
            self.found.setdefault(file.sha256, row.path)

    def _load(self, hashes: set[str]) -> dict[str, _Row]:
        """Return the images of the workspace that have these hashes."""
        ids = {self.known[sha]: sha for sha in hashes if sha in self.known}
        rows: dict[str, _Row] = {}
        if not ids:
            return rows
        numbers = list(ids)
        found: list[Any] = []
        with self.catalog.reading() as connection:
            schema = self.catalog.schema(connection)
            for start in range(0, len(numbers), 10_000):
                part = numbers[start : start + 10_000]
                query = "SELECT id, known, value, split, origin, path, fields FROM images WHERE id IN ({})"
                found += connection.exec_driver_sql(query.format(", ".join("?" * len(part))), tuple(part)).all()
        for number, known, value, split, origin, path, fields in found:
            masks = [np.frombuffer(mask, np.uint8)[None] for mask in (known, value)]
            labels = np.full(len(self.schema), -1, np.int8)
            labels[: len(schema)] = schema.unpack(*masks)[0]
            rows[ids[number]] = _Row(number, labels, split, origin, path, json.loads(fields or "{}"))
        return rows

    def _columns(self, rows: Sequence[_Row]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Return the columns that both kinds of record have."""
        known, value = self.schema.pack(np.array([row.labels for row in rows], np.int8).reshape(len(rows), -1))
        arrays: dict[str, npt.NDArray[Any]] = {
            "ids": np.array([row.id for row in rows], np.int64),
            "known": known,
            "value": value,
        }
        texts: dict[str, Any] = {
            "split": [row.split for row in rows],
            "origin": [row.origin for row in rows],
            "path": [row.path for row in rows],
            "fields": [json.dumps(row.fields) if row.fields else None for row in rows],
        }
        return arrays, texts

    def _header(self, rows: Sequence[_Row]) -> dict[str, Any]:
        """Return the header: the schema and the names of the text fields so far."""
        if any(WHITE in row.fields for row in rows) and WHITE not in self.fields:
            self.fields = sorted([*self.fields, WHITE])
        return schema_header(self.schema) | {"settings": {"fields": json.dumps(self.fields)}}

    def _insert(self, items: list[tuple[str, tuple[_Row, File]]]) -> None:
        """Write new images."""
        rows = [row for _, (row, _) in items]
        arrays, texts = self._columns(rows)
        checked = [file.checked for _, (_, file) in items if file.checked]
        arrays["width"] = np.array([one.width for one in checked], np.int64)
        arrays["height"] = np.array([one.height for one in checked], np.int64)
        texts["key"] = texts["sha256"] = [sha for sha, _ in items]
        self.catalog.write(Record("images", self._header(rows), arrays, texts))
        self.known.update((sha, row.id) for sha, (row, _) in items)

    def _update(self, rows: Sequence[_Row]) -> None:
        """Write what images have learned."""
        if rows:
            arrays, texts = self._columns(rows)
            self.catalog.write(Record("labels", self._header(rows), arrays, texts))
