"""Registering images: hashing, checking and labelling a folder in durable batches.

The one idea: an image is its bytes (sha-256). The same bytes again are a duplicate that can only teach labels
that were unknown; so an interrupted `add` is continued by running it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from index_store.adding import Adder, File, Rejection, Tally, Terms, known_fields, stored_path
from index_store.attributes import parse_group
from index_store.catalog import Catalog
from index_store.decoding import read_file
from index_store.errors import ImageRefused, RgunitError, UsageError
from index_store.features import Record
from index_store.files import image_files
from index_store.images import check_image
from index_store.layouts import Reading, find_labels, splits_of_folders
from index_store.matching import Files
from index_store.names import is_text, printable, quoted, same, typed_split
from index_store.replay import schema_header
from index_store.tables import WHITE, Known, LabelTable

__all__ = ["AddReport", "Progress", "Rejection", "add_images", "stored_path"]

BATCH = 2000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AddReport:
    """What `add_images` did; `total` is the number of images in the workspace afterwards.

    `notes`: what a reader should know. `dark`: deep pictures that stay below an eighth of white. `moved`,
    `replaced` and `gone`: images that were found at another place, whose file is another picture now, whose file is
    lost. `updated` images changed, in the columns of `changes` {name: images}. `reading`: how the labels were read.
    """

    added: int
    duplicates: int
    rejected: list[Rejection]
    total: int
    rows_without_file: list[str]
    files_without_row: list[str]
    converted: int
    notes: list[str] = field(default_factory=list)
    dark: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    updated: int = 0
    changes: dict[str, int] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)


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
    update: bool = False,
    white_level: float | None = None,
    domains: Sequence[str] = (),
) -> AddReport:
    """Register the images of a folder (or one file); see `Workspace.add_images`."""
    path = Path(path).absolute()
    if origin not in ("real", "unlabelled"):
        raise UsageError(f"origin {origin!r} cannot be added: choose real or unlabelled")
    if white_level is not None and not 0 < white_level < float("inf"):
        raise UsageError(f"--white-level {white_level:g}: write the number that is white, such as 4095")
    split = None if split is None else typed_split(split)
    split_by = None if split_by is None else same(split_by)
    if not path.exists():
        raise RgunitError(f"{path} does not exist")
    if not is_text(str(path)):
        raise RgunitError(f"{printable(str(path))} is not UTF-8: rename it, then add it")
    catalog.begin()
    with catalog.guard:
        before = catalog.schema()
    leave = [catalog.folder, *([Path(attributes).absolute()] if attributes else [])]
    known = Known(before, tuple(known_fields(catalog)), update, split is not None)
    named = tuple(dict.fromkeys(same(name) for name in domains))
    if named and (attributes is not None or origin != "real"):
        raise UsageError(
            "--domains reads labels from folders: it goes with neither --attributes nor --origin unlabelled"
        )
    table = find_labels(path, attributes, known, origin == "real", leave, named)
    if table is None and origin == "real":
        raise RgunitError(f"{path} has no labels: pass --attributes FILE, or --origin unlabelled")
    if table is not None and not table.attributes and origin == "real":
        told = f" ({table.notes[0]})" if table.notes else ""
        raise RgunitError(
            f"{attributes or path} has no attribute column: an attribute's values are 0/1, -1/1, true/false or "
            f"yes/no{told}"
        )
    if split_by is not None and (table is None or split_by not in table.fields):
        there = ", ".join(table.fields) if table else ""
        raise UsageError(f"--split-by {split_by}: there is no such text column (there are: {there or 'none'})")
    if table is not None and (strange := [name for name in table.attributes if not is_text(name)]):
        raise RgunitError(f"{path}: {printable(strange[0])} is not UTF-8: rename it, then add it")
    schema = before.extend(list(table.attributes) if table else (), [parse_group(g) for g in groups])
    schema = schema if table is None else schema.extend((), table.groups)
    every = [path] if path.is_file() else image_files(path, leave=leave)
    if not every:
        raise RgunitError(f"{path} holds no files: nothing to add")
    tally = Tally()
    files = [file for file in every if is_text(str(file))]
    tally.rejected += [
        Rejection(printable(str(file)), "its name is not UTF-8: rename it") for file in every if not is_text(str(file))
    ]
    root = path if path.is_dir() else path.parent
    wanted, missing, rowless = _match(root, files, table, tally)
    whites = _whites(wanted, table, white_level)
    sides = splits_of_folders([file.relative_to(root).as_posix() for file in files]) if table is None else None
    folders = dict(zip(files, sides, strict=True)) if sides else {}
    with catalog.held():
        adder = Adder(catalog, Terms(schema, table, origin, split, split_by, update, folders), tally)
        sizes: dict[tuple[int, int], int] = {}
        for batch in _checked(wanted, whites, _known_whites(catalog), progress):
            adder.take(batch)
            for file in batch:
                if file.checked:
                    shape = (file.checked.width, file.checked.height)
                    sizes[shape] = sizes.get(shape, 0) + (not file.checked.converted)
        adder.finish(path if path.is_dir() else None)
        if adder.schema != catalog.schema():
            catalog.write(Record("schema", schema_header(schema)))
    with catalog.reading() as connection:
        total = int(connection.exec_driver_sql("SELECT count(*) FROM images").scalar() or 0)
    return AddReport(
        tally.added,
        tally.duplicates,
        tally.rejected,
        total,
        [name for name in missing if is_text(name)],
        rowless,
        tally.converted + sum(sizes.values()) - max(sizes.values(), default=0),
        [*(table.notes if table else []), *_dark_notes(tally.dark, tally.dark_colours)],
        tally.dark,
        tally.moved,
        tally.replaced,
        tally.gone,
        tally.updated,
        {(quoted(name)): count for name, count in tally.changes.most_common()},
        Reading.of(table, named=bool(named)),
    )


def _dark_notes(dark: list[str], colours: list[str]) -> list[str]:
    """What to say of deep pictures that were likely made for another white: of grey it can be said, of colour not."""
    coloured, notes = set(colours), []
    for paths, remedy in (
        ([path for path in dark if path not in coloured], "say it: `rgunit add PATH --white-level 4095` (for 12 bits)"),
        (colours, "save it with 8 bits a colour"),
    ):
        if paths:
            which = paths[0] if len(paths) == 1 else f"{len(paths)} pictures of more than 8 bits, the first {paths[0]},"
            verb = "stays" if len(paths) == 1 else "stay"
            notes.append(f"{which} {verb} below an eighth of white: if another value is white there, {remedy}")
    return notes


def _whites(wanted: list[tuple[Path, int]], table: LabelTable | None, level: float | None) -> list[float | None]:
    """What was said to be white in each file, by the option or by its row."""
    column = table.fields.get(WHITE) if table is not None else None
    if level is not None or column is None:
        return [level] * len(wanted)
    return [float(column[row] or 0) or None if row >= 0 else None for _, row in wanted]


def _known_whites(catalog: Catalog) -> dict[str, float]:
    """What is white in the images that the workspace knows it of, by their sha-256."""
    query = f"SELECT sha256, fields FROM images WHERE fields LIKE '%\"{WHITE}\"%' AND sha256 IS NOT NULL"
    with catalog.reading() as connection:
        return {str(sha): float(json.loads(text)[WHITE]) for sha, text in connection.exec_driver_sql(query)}


def _match(
    root: Path, files: list[Path], table: LabelTable | None, tally: Tally
) -> tuple[list[tuple[Path, int]], list[str], list[str]]:
    """Pair files with rows; return the pairs, the rows without a file and the files without a row."""
    if table is None:
        return [(file, -1) for file in files], [], []
    there = Files(root, files)
    wanted: dict[Path, int] = {}
    missing = []
    for row, name in enumerate(table.names):
        file, why = there.find(name)
        if file is None:
            if why:
                tally.rejected.append(Rejection(name, f"row {row + 1} {why}"))
            else:
                missing.append(name)
        elif file in wanted:
            tally.rejected.append(Rejection(name, f"row {row + 1} is there a second time: the first row counts"))
        else:
            wanted[file] = row
    rowless = [relative for relative, file in there.there.items() if file not in wanted]
    return list(wanted.items()), missing, rowless


def _check(path: Path, row: int, white: float | None, known: Mapping[str, float]) -> File:
    """Read, hash and decode one file."""
    try:
        data = read_file(path)
        sha = hashlib.sha256(data).hexdigest()
        white = white or known.get(sha)
        checked = check_image(path, data, white)
    except ImageRefused as error:
        return File(path, row, reason=str(error).removeprefix(f"{path}: "))
    return File(path, row, sha, checked, white=f"{white:g}" if white is not None and checked.deep else None)


def _checked(
    wanted: list[tuple[Path, int]],
    whites: list[float | None],
    known: Mapping[str, float],
    progress: Progress | None,
) -> Iterator[list[File]]:
    """Check files in parallel threads, a batch at a time, the next batch while the last is written; tell each file."""
    entries = [(path, row, white, known) for (path, row), white in zip(wanted, whites, strict=True)]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        batches = [entries[start : start + BATCH] for start in range(0, len(entries), BATCH)]
        ahead = [pool.submit(_check, *entry) for entry in batches[0]] if batches else []
        try:
            for place in range(len(batches)):
                futures = ahead
                ahead = [pool.submit(_check, *one) for one in batches[place + 1]] if place + 1 < len(batches) else []
                checked = []
                for future in futures:
                    checked.append(future.result())
                    if progress:
                        progress(place * BATCH + len(checked), len(wanted))
                yield checked
        except BaseException:  # Ctrl-C does not wait for what is in line
            pool.shutdown(wait=False, cancel_futures=True)
            raise
