"""What shows or names a picture among the files of a workspace: deleted, or written anew without it.

The one idea: a list of rows is written anew without the rows that name it; what shows pictures as pixels says in its
notes whose they are, and where it does not say so it goes. What nobody here wrote is told, not touched.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from index_store import places
from index_store.ann import SUFFIX as CELLS
from index_store.images import made_of, shows
from index_store.whole import WRITING, sync_folder, write_bytes

TRANSLATIONS, MANIFEST = "translations.csv", "manifest.jsonl"
"""Lists whose rows name files that were made: of a picture (`source`), and in the other also guided by any."""
GENERATOR = b'<meta name="generator" content="rgunit">'
_TABLES, _TEXTS = (".csv", ".tsv", ".jsonl"), (".json", ".txt", ".md", ".toml", ".html", ".xml", ".log")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".pdf")
_HALF = (WRITING, ".part")  # what somebody is writing, or was when he was killed
_PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".npz")  # nobody looks into them here
_NUMBERED = ("image_id", "source", "reference", "image")  # keys under which lists have ids
_MADE_BY_ARMS = {"source", "target", "arm", "path"}  # keys of a MANIFEST; others have lists of this name, too
_LEFT_ALONE = ("shards", "cache")  # merged anew, and dropped
_REPORT = re.compile(r"(runs/[^/]+/)?report\.html")
_SAMPLE = re.compile(r"runs/[^/]+/samples/[^/]+")
LARGEST = 2**30  # bytes of a list that is read


@dataclass(frozen=True)
class Wanted:
    """What must leave no trace: ids, places as lists name them, the workspace's own files, and the notes of pictures
    that were made of them. `registered`: files of the workspace that are images of it and stay."""

    ids: frozenset[int]
    paths: frozenset[str]
    own: frozenset[str]
    marks: frozenset[str]
    registered: frozenset[str]


@dataclass
class Told:
    """What became of the files, by their places in the workspace; see `forgetting.Forgotten`."""

    deleted: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)


def sweep(root: Path, wanted: Wanted, *, dry_run: bool = False) -> Told:
    """Look at every file of a workspace but its shards and caches, and take away what shows or names what is wanted."""
    told, unsure = Told(), set[str]()
    doomed, lists = set(wanted.own), dict[Path, str]()
    kept = {f"{root}/{name}" for name in wanted.registered}
    looks = _any_of(wanted.paths)
    files = list(_files(root))
    for file in files:
        name = file.relative_to(root).as_posix()
        if str(file) in doomed or name in wanted.registered:
            continue
        kind = file.suffix.lower()
        if file.is_dir():
            unsure.add(name)
        elif _REPORT.fullmatch(name) or (kind == ".html" and GENERATOR in _bytes(file)):
            doomed.add(str(file))
        elif kind in _TABLES:
            rows = _list_without(file, wanted)
            if rows is not None:
                behind_links = {path for path in rows.made if _behind_link(file.parent, Path(path))}
                unsure.update(Path(path).parent.relative_to(root).as_posix() for path in behind_links)
                doomed.update(rows.made - kept - behind_links)
                lists[file] = rows.text
        elif kind in _PICTURES:
            verdict = _shown(file, wanted, sample=_SAMPLE.fullmatch(name) is not None)
            if verdict:
                doomed.add(str(file))
            elif verdict is None:
                unsure.add(name if file.parent == root else file.parent.relative_to(root).as_posix())
        elif kind in (*_HALF, *_PACKED) or (kind == ".html" and b"data:image" in _bytes(file)):
            unsure.add(name)
    gone = [Path(path) for path in sorted(doomed) if os.path.lexists(path)]
    told.deleted = [
        path.relative_to(root).as_posix() for path in (*gone, *(one for one, text in lists.items() if not text))
    ]
    told.rewritten = [path.relative_to(root).as_posix() for path, text in lists.items() if text]
    if not dry_run:
        for path in gone:
            path.unlink()
        for folder in {path.parent for path in gone}:
            sync_folder(folder)
        for path, text in lists.items():  # last: they say which files were made, also to whoever ends this
            _replace(path, text)
    rest = [file for file in files if str(file) not in doomed and not (dry_run and file in lists)]
    told.left = [file.relative_to(root).as_posix() for file in rest if os.path.lexists(file) and _names(file, looks)]
    told.unsure = sorted(unsure)
    return told


def drop_caches(root: Path, *, dry_run: bool = False) -> list[str]:
    """Delete everything in `cache/` but the cells, which are those of the shards that there are; names what went."""
    gone = [entry for entry in sorted((root / "cache").glob("*")) if not entry.name.endswith(CELLS)]
    for entry in () if dry_run else gone:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return [f"cache/{entry.name}" for entry in gone]


def _files(root: Path) -> Iterator[Path]:
    """The regular files of a workspace, links not followed, and the links to folders outside; but for shards, caches
    and the catalog."""
    for place, inside, names in os.walk(root):
        if Path(place) == root:
            inside[:] = [name for name in inside if name not in _LEFT_ALONE]
        inside.sort()
        linked = [name for name in inside if places.leads_out(root, Path(place) / name)]
        for name in sorted([*names, *linked]):
            file = Path(place) / name
            own = Path(place) == root and (name.startswith("catalog.") or name in ("lock", "forgetting.json"))
            if not own and (file.is_symlink() or file.is_file()):
                yield file


def _any_of(paths: Iterable[str]) -> re.Pattern[str]:
    """Finds any of the places in a text, also as JSON writes them."""
    forms = {form for path in paths for form in (path, json.dumps(path)[1:-1])}
    forms |= {form.replace("\\", "") for form in forms}
    return re.compile(f"(?:{'|'.join(map(re.escape, sorted(forms)))})(?!\\w)" if forms else "(?!)")


# Lists


@dataclass(frozen=True)
class _Rows:
    """A list without the rows that name what is wanted, and the files that those rows say were made."""

    text: str
    made: frozenset[str]


def _list_without(file: Path, wanted: Wanted) -> _Rows | None:
    """See `_Rows`; None for a list that names nothing of it, or is none."""
    try:
        text = places.read_bytes(file, LARGEST).decode()
    except (OSError, UnicodeDecodeError):
        return None
    return _lines_without(file, text, wanted) if file.suffix == ".jsonl" else _table_without(file, text, wanted)


def _lines_without(file: Path, text: str, wanted: Wanted) -> _Rows | None:
    lines, kept, dropped, kept_images = text.splitlines(keepends=True), [], False, False
    made: set[str] = set()
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            hit = _mentions(row, file.parent, wanted)
            dropped |= hit
            if file.name == MANIFEST and row.keys() >= _MADE_BY_ARMS:
                kept_images = True
                made |= _made(file, [row["path"]])
            if hit:
                continue
        kept.append(line)
    if not dropped and not made:
        return None
    if kept_images:  # they were guided by whatever was near
        return _Rows("", frozenset(made))
    halves = [half for half in "AB" if not any(f'"half": "{half}"' in line for line in kept)]
    if '"half": ' in text and halves:  # a list of pairs without one half is none
        kept = []
    return _Rows("".join(kept), frozenset(made))


def _table_without(file: Path, text: str, wanted: Wanted) -> _Rows | None:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error:
        return None
    if len(rows) < 2:
        return None
    header, kept, made = rows[0], [rows[0]], set[str]()
    for row in rows[1:]:
        if _mentions(dict(zip(header, row, strict=False)), file.parent, wanted):
            made |= _made(file, row[2:4]) if file.name == TRANSLATIONS else set()
        else:
            kept.append(row)
    if len(kept) == len(rows):
        return None
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\r\n" if "\r\n" in text else "\n").writerows(kept)
    return _Rows(out.getvalue(), frozenset(made))


def _mentions(value: Any, folder: Path, wanted: Wanted, key: str = "") -> bool:
    """Whether a row names something that is wanted: by its place, or its id under a key that is for ids."""
    if isinstance(value, dict):
        return any(_mentions(one, folder, wanted, str(name)) for name, one in value.items())
    if isinstance(value, list):
        return any(_mentions(one, folder, wanted, key) for one in value)
    if isinstance(value, str):
        if value in wanted.paths or (key == "image_id" and value.isdecimal() and int(value) in wanted.ids):
            return True
        if value.startswith(("[{", "{")):
            try:
                return _mentions(json.loads(value), folder, wanted, key)
            except ValueError:
                return False
        return "." in value and "\0" not in value and os.path.normpath(folder / value) in wanted.paths
    return isinstance(value, int) and not isinstance(value, bool) and key in _NUMBERED and value in wanted.ids


def _made(file: Path, cells: Sequence[Any]) -> set[str]:
    """Those pictures, named in a row, that lie beside the list or below it."""
    found = {Path(os.path.normpath(file.parent / str(cell))) for cell in cells if cell and "\0" not in str(cell)}
    return {str(one) for one in found if one.is_relative_to(file.parent) and one.suffix.lower() in _PICTURES}


def _behind_link(folder: Path, path: Path) -> bool:
    """Whether a link lies between a folder and a file below it: what it leads to is somewhere else."""
    inner = path.parent.relative_to(folder)
    return path.parent.resolve() != folder.resolve() / inner


def _replace(file: Path, text: str) -> None:
    """Write a list anew, whole or not at all; one without any row goes."""
    if not text:
        file.unlink()
        sync_folder(file.parent)
        return
    write_bytes(file, text.encode(), durable=True)


# Pictures and texts


def _shown(file: Path, wanted: Wanted, *, sample: bool) -> bool | None:
    """Whether a picture shows something that is wanted or was made of it; None where nobody can tell."""
    if (told := shows(file)) is not None:
        return not wanted.ids.isdisjoint(told)
    if (mark := made_of(file)) is not None and len(mark) == 32:
        return mark in wanted.marks
    return True if sample else None


def _names(file: Path, looks: re.Pattern[str]) -> bool:
    """Whether a text, or the head of a file of weights, names a place that is wanted."""
    kind = file.suffix.lower()
    if kind == ".safetensors":
        try:
            with places.opened(file) as content:
                size = int.from_bytes(content.read(8), "little")
                data = content.read(min(size, LARGEST))
        except OSError:
            return False
    elif kind in (*_TEXTS, *_TABLES):
        data = _bytes(file)
    else:
        return False
    text = data.decode("utf-8", "replace")
    return bool(looks.search(text) or ("\\" in text and looks.search(text.replace("\\", ""))))


def _bytes(file: Path) -> bytes:
    """The bytes of a file, none of one that cannot be read."""
    try:
        return places.read_bytes(file, LARGEST)
    except OSError:
        return b""
