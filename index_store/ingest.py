"""Registering images: hashing, checking and labelling a folder in durable batches.

The one idea: an image is its bytes (sha-256). The same bytes again are a duplicate that can only teach labels
that were unknown; so an interrupted `add` is continued by running it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store import places
from index_store.attributes import AttributeSchema, parse_group
from index_store.catalog import Catalog
from index_store.errors import ImageRefused, RgunitError, UsageError
from index_store.features import Record
from index_store.formats import LARGEST_BYTES
from index_store.images import Checked, check_image
from index_store.layouts import find_labels, image_files
from index_store.replay import schema_header
from index_store.tables import LabelTable

BATCH = 2000
TEST_SHARE = 0.2

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Rejection:
    """A file or a row that was not taken, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class AddReport:
    """What `add_images` did; `total` is the number of images in the workspace afterwards."""

    added: int
    duplicates: int
    rejected: list[Rejection]
    total: int
    rows_without_file: list[str]
    files_without_row: list[str]
    converted: int


@dataclass
class _Tally:
    """Counts while adding."""

    added: int = 0
    duplicates: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    converted: int = 0


@dataclass(frozen=True)
class _File:
    """A file that was read: its hash and what the decode told, or the reason of its refusal."""

    path: Path
    row: int
    sha256: str = ""
    checked: Checked | None = None
    reason: str = ""


@dataclass
class _Row:
    """An image as it is to be in the catalog."""

    id: int
    labels: npt.NDArray[np.int8]
    split: str
    origin: str
    path: str
    fields: dict[str, str]
    changed: bool = False


def add_images(
    catalog: Catalog,
    path: Path,
    *,
    attributes: Path | None,
    origin: str,
    split: str | None,
    split_by: str | None,
    groups: Sequence[str],
    progress: Progress | None,
) -> AddReport:
    """Register the images of a folder (or one file); see `Workspace.add_images`."""
    path = Path(path).absolute()
    if origin not in ("real", "unlabelled"):
        raise UsageError(f"origin {origin!r} cannot be added: choose real or unlabelled")
    if not path.exists():
        raise RgunitError(f"{path} does not exist")
    with catalog.guard:
        before = catalog.schema()
    leave = [catalog.folder, *([Path(attributes).absolute()] if attributes else [])]
    table = find_labels(path, attributes, before, _known_fields(catalog), origin == "real", leave)
    if table is None and origin == "real":
        raise RgunitError(f"{path} has no labels: pass --attributes FILE, or --origin unlabelled")
    if table is not None and not table.attributes and origin == "real":
        raise RgunitError(
            f"{attributes or path} has no attribute column: an attribute's values are 0/1, -1/1 or true/false"
        )
    if split_by is not None and (table is None or split_by not in table.fields):
        there = ", ".join(table.fields) if table else ""
        raise UsageError(f"--split-by {split_by}: there is no such text column (there are: {there or 'none'})")
    schema = before.extend(list(table.attributes) if table else (), [parse_group(g) for g in groups])
    schema = schema if table is None else schema.extend((), table.groups)
    files = [path] if path.is_file() else image_files(path, leave=leave)
    if not files:
        raise RgunitError(f"{path} holds no files: nothing to add")
    tally = _Tally()
    root = path if path.is_dir() else path.parent
    wanted, missing, rowless = _match(root, files, table, tally)
    catalog.begin()
    adder = _Adder(catalog, schema, table, origin, split, split_by, tally)
    done = 0
    sizes: dict[tuple[int, int], int] = {}
    for batch in _checked(wanted):
        adder.take(batch)
        done += len(batch)
        for file in batch:
            if file.checked:
                shape = (file.checked.width, file.checked.height)
                sizes[shape] = sizes.get(shape, 0) + (not file.checked.converted)
        if progress:
            progress(done, len(wanted))
    if adder.schema != catalog.schema():
        catalog.write(Record("schema", schema_header(schema)))
    with catalog.reading() as connection:
        total = int(connection.exec_driver_sql("SELECT count(*) FROM images").scalar() or 0)
    converted = tally.converted + sum(sizes.values()) - max(sizes.values(), default=0)
    return AddReport(tally.added, tally.duplicates, tally.rejected, total, missing, rowless, converted)


def hash_share(text: str) -> float:
    """Return a number in [0, 1) that a text always gets: sha-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def stored_path(folder: Path, path: Path) -> str:
    """Return a path as the catalog keeps it: relative to the workspace when it lies in it, links followed."""
    within = path.is_relative_to(folder) and ".." not in path.parts and not places.leads_out(folder, path)
    return path.relative_to(folder).as_posix() if within else str(path)


def _known_fields(catalog: Catalog) -> list[str]:
    """Return the names of the text fields that the workspace has."""
    with catalog.reading() as connection:
        return [str(name) for name in json.loads(catalog.setting(connection, "fields") or "[]")]


def _match(
    root: Path, files: list[Path], table: LabelTable | None, tally: _Tally
) -> tuple[list[tuple[Path, int]], list[str], list[str]]:
    """Pair files with rows; return the pairs, the rows without a file and the files without a row."""
    if table is None:
        return [(file, -1) for file in files], [], []
    there = {file.relative_to(root).as_posix(): file for file in files}
    wanted: dict[Path, int] = {}
    missing = []
    for row, name in enumerate(table.names):
        text = name.strip()
        pure = PurePosixPath(text)
        if not text or pure.is_absolute() or PureWindowsPath(text).is_absolute() or ".." in pure.parts:
            inside = pure.is_absolute() and Path(text).is_relative_to(root)
            relative = Path(text).relative_to(root).as_posix() if inside else ""
            if relative not in there:
                tally.rejected.append(Rejection(name, f"row {row + 1} names no file inside {root}"))
                continue
        else:
            relative = pure.as_posix()
        if relative not in there:
            missing.append(name)
        elif there[relative] in wanted:
            tally.rejected.append(Rejection(name, f"row {row + 1} is there a second time: the first row counts"))
        else:
            wanted[there[relative]] = row
    rowless = [relative for relative, file in there.items() if file not in wanted]
    return list(wanted.items()), missing, rowless


def _check(entry: tuple[Path, int]) -> _File:
    """Read, hash and decode one file."""
    path, row = entry
    try:
        data = places.read_bytes(path, LARGEST_BYTES)
        return _File(path, row, hashlib.sha256(data).hexdigest(), check_image(path, data))
    except OSError as error:
        return _File(path, row, reason=f"cannot be read ({error.strerror})")
    except ImageRefused as error:
        return _File(path, row, reason=str(error).removeprefix(f"{path}: "))


def _checked(wanted: list[tuple[Path, int]]) -> Iterator[list[_File]]:
    """Check files in parallel threads, a batch at a time, the next batch while the last is written."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        batches = [wanted[start : start + BATCH] for start in range(0, len(wanted), BATCH)]
        ahead = [pool.submit(_check, entry) for entry in batches[0]] if batches else []
        for place in range(len(batches)):
            futures = ahead
            ahead = [pool.submit(_check, entry) for entry in batches[place + 1]] if place + 1 < len(batches) else []
            yield [future.result() for future in futures]


class _Adder:
    """Turns checked files into records, one durable batch after the other."""

    def __init__(
        self,
        catalog: Catalog,
        schema: AttributeSchema,
        table: LabelTable | None,
        origin: str,
        split: str | None,
        split_by: str | None,
        tally: _Tally,
    ) -> None:
        self.catalog, self.schema, self.table, self.origin = catalog, schema, table, origin
        self.split, self.split_by, self.tally = split, split_by, tally
        self.columns = np.array(schema.indices(list(table.attributes)), np.int64) if table else np.zeros(0, np.int64)
        self.given = np.array(list(table.attributes.values()), np.int8).T if table and table.attributes else None
        with catalog.reading() as connection:
            rows = connection.exec_driver_sql("SELECT sha256, id FROM images WHERE sha256 IS NOT NULL").all()
        self.known: dict[str, int] = {str(sha): int(row) for sha, row in rows}
        self.fields = sorted(set(_known_fields(catalog)) | set(table.fields if table else ()))

    def take(self, batch: list[_File]) -> None:
        """Write one batch: new images, then what old ones learn."""
        new: dict[str, tuple[_Row, _File]] = {}
        old = self._load({file.sha256 for file in batch})
        next_id = self.catalog.next_id()
        for file in batch:
            if file.checked is None:
                self.tally.rejected.append(Rejection(str(file.path), file.reason))
                continue
            self.tally.converted += file.checked.converted
            row = self._row(file)
            there = new[file.sha256][0] if file.sha256 in new else old.get(file.sha256)
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

    def _row(self, file: _File) -> _Row:
        """Return the image that a file and its row of labels make."""
        labels = np.full(len(self.schema), -1, np.int8)
        fields: dict[str, str] = {}
        split = self.split
        if self.table is not None and file.row >= 0:
            if self.given is not None:
                labels[self.columns] = self.given[file.row]
            for name, column in self.table.fields.items():
                if (text := column[file.row]) is not None:
                    fields[name] = text
            if split is None and self.table.split is not None:
                split = self.table.split[file.row]
            if split is None:
                key = fields.get(self.split_by, file.sha256) if self.split_by else file.sha256
                split = "test" if hash_share(key) < TEST_SHARE else "train"
        path = stored_path(self.catalog.folder, file.path)
        return _Row(0, labels, split or "train", self.origin, path, fields)

    def _learn(self, there: _Row, row: _Row, file: _File) -> None:
        """Fill what was unknown; what contradicts is reported and left as it was."""
        clash = (there.labels >= 0) & (row.labels >= 0) & (there.labels != row.labels)
        if clash.any():
            name = self.schema.names[int(np.flatnonzero(clash)[0])]
            reason = f"the same image has another value of {name} already: the first one stays"
            self.tally.rejected.append(Rejection(str(file.path), reason))
        fill = (there.labels < 0) & (row.labels >= 0)
        if fill.any():
            there.labels[fill] = row.labels[fill]
            there.changed = True
        fresh = {name: text for name, text in row.fields.items() if name not in there.fields}
        if fresh:
            there.fields |= fresh
            there.changed = True
        if there.origin == "unlabelled" and row.origin == "real":
            there.origin, there.split, there.changed = "real", row.split, True
        held = Path(places.picture_or_none(self.catalog.folder, there.id, there.path))
        if there.path != row.path and not held.exists():  # the file was moved
            there.path, there.changed = row.path, True

    def _load(self, hashes: set[str]) -> dict[str, _Row]:
        """Return the images of the workspace that have these hashes."""
        ids = {self.known[sha]: sha for sha in hashes if sha in self.known}
        rows: dict[str, _Row] = {}
        if not ids:
            return rows
        marks = ", ".join("?" * len(ids))
        query = f"SELECT id, known, value, split, origin, path, fields FROM images WHERE id IN ({marks})"
        with self.catalog.reading() as connection:
            schema = self.catalog.schema(connection)
            found = connection.exec_driver_sql(query, tuple(ids)).all()
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

    def _header(self) -> dict[str, Any]:
        """Return the header: the schema and the names of the text fields so far."""
        return schema_header(self.schema) | {"settings": {"fields": json.dumps(self.fields)}}

    def _insert(self, items: list[tuple[str, tuple[_Row, _File]]]) -> None:
        """Write new images."""
        arrays, texts = self._columns([row for _, (row, _) in items])
        checked = [file.checked for _, (_, file) in items if file.checked]
        arrays["width"] = np.array([one.width for one in checked], np.int64)
        arrays["height"] = np.array([one.height for one in checked], np.int64)
        texts["key"] = texts["sha256"] = [sha for sha, _ in items]
        self.catalog.write(Record("images", self._header(), arrays, texts))
        self.known.update((sha, row.id) for sha, (row, _) in items)

    def _update(self, rows: Sequence[_Row]) -> None:
        """Write what images have learned."""
        if rows:
            arrays, texts = self._columns(rows)
            self.catalog.write(Record("labels", self._header(), arrays, texts))
