"""Ways in which a collection tells its labels: a CSV, imagefolder metadata, CelebA's own files, two domains' folders
(trainA, trainB), a folder a domain.

The one idea: each way ends in one `LabelTable` whose names are relative to the folder that was given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from index_store.tables import LabelTable, classify, read_labels

METADATA = ("metadata.csv", "metadata.jsonl")
CELEBA = ("list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt")
PARTITION = {"0": "train", "1": "val", "2": "test"}
SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
SIDES = {f"{split}{side}": (split, side) for split in ("test", "train", "val") for side in "AB"}
"""CycleGAN's and CUT's own layout: two domains, a folder for each and each split."""


def find_labels(
    path: Path,
    attributes: Path | None,
    schema: AttributeSchema,
    fields: Sequence[str],
    domains: bool,
    leave: Sequence[Path] = (),
) -> LabelTable | None:
    """Read the labels that a folder comes with, None if there are none. Domains are not looked for in `leave`.

    `attributes` names the file; else metadata.csv|jsonl in the folder or in its splits' folders, CelebA's files in
    it, and with `domains` `trainA/ trainB/ …` or one folder a domain (each an exclusive group).
    """
    if attributes is not None:
        if attributes.suffix.lower() == ".txt":
            return _celeba(path, attributes, schema, fields)
        return read_labels(attributes, schema, fields)
    if not path.is_dir():
        return None
    for name in METADATA:
        if (path / name).is_file():
            return read_labels(path / name, schema, fields)
    if (table := _split_metadata(path, schema, fields)) is not None:
        return table
    for folder in (path, path / "Anno"):
        if (folder / CELEBA[0]).is_file():
            return _celeba(path, folder / CELEBA[0], schema, fields)
    if not domains:
        return None
    entries = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".") and entry not in leave]
    return sides if (sides := _sides(path, entries)) is not None else _domains(path, entries)


def is_label_file(file: Path) -> bool:
    """Whether a file is one that tells labels, by its name."""
    return file.name in METADATA or file.name in CELEBA


def image_files(folder: Path, *, leave: Iterable[Path] = ()) -> list[Path]:
    """List the files below a folder in order, without hidden ones, label files and those at or below `leave`.

    Links to folders are followed, but for one that leads back to a folder that it lies in.
    """
    left = set(leave)
    found = []
    around = {folder: frozenset((os.path.realpath(folder),))}  # the real places of a folder and of those it lies in
    for place, inside, names in os.walk(folder, followlinks=True):
        here = Path(place)
        places = around.pop(here)
        kept = []
        for name in sorted(inside):
            path = here / name
            if name.startswith(".") or path in left:
                continue
            real = os.path.realpath(path)
            if real not in places:
                kept.append(name)
                around[path] = places | {real}
        inside[:] = kept
        for name in sorted(names):
            file = here / name
            if not name.startswith(".") and file not in left and not is_label_file(file):
                found.append(file)
    return found


def _split_metadata(path: Path, schema: AttributeSchema, fields: Sequence[str]) -> LabelTable | None:
    """Read `train/metadata.csv`, `test/metadata.csv` and the like, whose names are relative to their own folder."""
    names: list[str] = []
    splits: list[str | None] = []
    tables = []
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and entry.name in SPLITS):
        for name in METADATA:
            if (folder / name).is_file():
                table = read_labels(folder / name, schema, fields)
                tables.append(table)
                names += [f"{folder.name}/{one}" for one in table.names]
                splits += [SPLITS[folder.name]] * len(table.names)
                break
    if not tables:
        return None
    attributes = list(dict.fromkeys(name for table in tables for name in table.attributes))
    texts = list(dict.fromkeys(name for table in tables for name in table.fields))
    return LabelTable(
        names,
        {name: [v for t in tables for v in t.attributes.get(name, [-1] * len(t.names))] for name in attributes},
        {name: [v for t in tables for v in t.fields.get(name, [None] * len(t.names))] for name in texts},
        splits,
    )


def _celeba(path: Path, file: Path, schema: AttributeSchema, fields: Sequence[str]) -> LabelTable:
    """Read CelebA's own files: a count, the names, then one line an image; partition and identity beside it."""
    lines = [line.split() for line in _lines(file)]
    if len(lines) < 3 or len(lines[0]) != 1 or len(lines[2]) != len(lines[1]) + 1:
        raise RgunitError(f"{file}: not laid out as CelebA's {CELEBA[0]}: a count, a line of names, a line an image")
    header, rows = lines[1], lines[2:]
    for number, row in enumerate(rows, start=3):
        if len(row) != len(header) + 1:
            raise RgunitError(f"{file}: line {number} has {len(row)} columns instead of {len(header) + 1}")
    names = [row[0] for row in rows]
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header, start=1)}
    for column, beside, meaning in (("split", CELEBA[1], PARTITION), ("identity", CELEBA[2], None)):
        for folder in (file.parent, path, path / "Eval", path / "Anno"):
            if (folder / beside).is_file():
                told = {line[0]: line[1] for line in map(str.split, _lines(folder / beside)) if len(line) == 2}
                columns[column] = [meaning.get(told.get(n, ""), "") if meaning else told.get(n, "") for n in names]
                break
    inside = ("", "img_align_celeba", "Img/img_align_celeba", "img_celeba", "Img/img_celeba", "images")
    root = path if path.is_dir() else path.parent
    prefix = next((part for part in inside if any((root / part / name).is_file() for name in names[:100])), "")
    names = [f"{prefix}/{name}" if prefix else name for name in names]
    return classify(file, names, columns, schema, [*fields, "identity"])


def _lines(file: Path) -> list[str]:
    """Return the lines of a text file that hold something."""
    try:
        return [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RgunitError(f"{file}: cannot be read ({error})") from error


def _sides(path: Path, entries: Sequence[Path]) -> LabelTable | None:
    """Return labels for the two domains of `trainA/ trainB/ testA/ testB/ valA/ valB/`; None if it is not so.

    Without `testA/` and `testB/` the images of the train folders have no split yet. Folders inside one become the text
    field `folder`. RgunitError names a folder that is missing or empty, and any other beside them.
    """
    folders = {entry.name: entry for entry in entries if entry.is_dir()}
    there = {name: folder for name, folder in folders.items() if name in SIDES}
    if not there:
        return None
    needed = {f"{split}{side}" for split in {"train", *(SIDES[name][0] for name in there)} for side in "AB"}
    missing, strange = sorted(needed - there.keys()), sorted(folders.keys() - there.keys())
    if missing or strange:
        near = [f"{name} ({other}?)" for name in missing for other in strange if name.lower() == other.lower()]
        wrong = f"no {', '.join(near or missing)}" if missing else f"{', '.join(strange)} beside them"
        raise RgunitError(
            f"{path} holds {', '.join(there)}, and {wrong}: two domains are the folders trainA and trainB, with testA "
            "and testB, valA and valB if there are such, named exactly so (or pass --attributes FILE)"
        )
    rows = [(name, file) for name in there for file in image_files(there[name])]  # test first: a copy in train is none
    if empty := [name for name in there if name not in {name for name, _ in rows}]:
        raise RgunitError(f"{path}: there is no image in {', '.join(empty)}: add some or remove the folder")
    tested = "testA" in there
    splits = [split if tested or split != "train" else None for split in (SIDES[name][0] for name, _ in rows)]
    inner = [file.relative_to(path).parts for _, file in rows]
    within = ["/".join(parts[1:-1]) or None for parts in inner]
    return LabelTable(
        ["/".join(parts) for parts in inner],
        {side: [int(SIDES[name][1] == side) for name, _ in rows] for side in "AB"},
        {"folder": within} if any(within) else {},
        splits,
        (("A", "B"),),
    )


def _domains(path: Path, entries: Sequence[Path]) -> LabelTable | None:
    """Return labels for one folder a domain, `art/1.jpg`, or below splits, `train/art/1.jpg`; None if it is not so.

    Folders inside a domain become the text field `folder`. RgunitError where a domain's folder is empty.
    """
    folders = [entry for entry in entries if entry.is_dir()]
    if len(folders) < len(entries) or not folders:
        return None
    split = all(folder.name in SPLITS for folder in folders)
    names: list[str] = []
    domains: list[str] = []
    splits: list[str | None] = []
    within: list[str | None] = []
    for folder in folders:
        for file in image_files(folder):
            inner = file.relative_to(path).parts
            if len(inner) > 1 + split:
                names.append("/".join(inner))
                domains.append(inner[int(split)])
                splits.append(SPLITS.get(folder.name))
                within.append("/".join(inner[1 + split : -1]) or None)
    found = tuple(sorted(set(domains)))
    homes = [folder for outer in folders for folder in (outer.iterdir() if split else (outer,)) if folder.is_dir()]
    empty = sorted({folder.name for folder in homes if not folder.name.startswith(".")} - set(found))
    if empty and found:
        raise RgunitError(
            f"{path}: a folder is a domain, and there is no image in {', '.join(empty)}: add some or remove the folder "
            "(or pass --attributes FILE, or --origin unlabelled)"
        )
    if len(found) < 2:
        return None
    attributes = {name: [int(domain == name) for domain in domains] for name in found}
    fields = {"folder": within} if any(within) else {}
    return LabelTable(names, attributes, fields, splits if split else None, (found,))
