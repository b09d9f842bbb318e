"""Ways in which a collection tells its labels: a CSV, imagefolder metadata, CelebA's own files, two domains' folders
(trainA, trainB), a folder a domain.

The one idea: each way ends in one `LabelTable` whose names are relative to the folder that was given. Files that belong
to no picture never hide a layout.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from index_store.files import CELEBA, METADATA, entries_of, image_files, may_be_picture
from index_store.names import SPLIT_NUMBERS, SPLIT_WORDS, quoted, same, split_meant
from index_store.tables import NOT_TOLD, Known, LabelTable, classify, read_labels, read_text

_SIDE = re.compile(rf"({'|'.join(sorted(SPLIT_WORDS, key=len, reverse=True))})[ _-]?(.+)", re.IGNORECASE)


def find_labels(
    path: Path,
    attributes: Path | None,
    known: Known,
    domains: bool,
    leave: Sequence[Path] = (),
    named: Sequence[str] = (),
) -> LabelTable | None:
    """Read the labels that a folder comes with, None if there are none. Domains are not looked for in `leave`.

    `attributes` names the file; else metadata.csv|jsonl in the folder or in its splits' folders, CelebA's files in
    it, and with `domains` `trainA/ trainB/ …` or one folder a domain (each an exclusive group). `named`: the folders of
    these names are the domains, wherever they lie; what lies in none of them has no label.
    """
    table = named_domains(path, named, leave) if named else _find(path, attributes, known, domains, leave)
    if table is not None and table.split is None and (splits := splits_of_folders(table.names)) is not None:
        return replace(table, split=splits)
    return table


def splits_of_folders(names: Sequence[str]) -> list[str | None] | None:
    """The splits of images by the folders that they lie in; None if not all lie below at least two splits' folders."""
    found = [split_meant(parts[0]) if len(parts := _parts(name)) > 1 else None for name in names]
    return list(found) if None not in found and len(set(found)) > 1 else None


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.strip()).parts


def _find(path: Path, attributes: Path | None, known: Known, domains: bool, leave: Sequence[Path]) -> LabelTable | None:
    """The labels as their layout has them."""
    if attributes is not None:
        if attributes.suffix.lower() == ".txt" or attributes.stem == CELEBA[0]:
            return _celeba(path, attributes, known, leave)
        return read_labels(attributes, known)
    if not path.is_dir():
        return None
    for name in METADATA:
        if (path / name).is_file():
            return read_labels(path / name, known)
    if (table := _split_metadata(path, known)) is not None:
        return table
    for folder in (path, path / "Anno"):
        for suffix in (".txt", ".csv"):
            if (folder / (CELEBA[0] + suffix)).is_file():
                return _celeba(path, folder / (CELEBA[0] + suffix), known, leave)
    if not domains:
        return None
    entries = [entry for entry in entries_of(path, leave) if entry.is_dir() or may_be_picture(entry)]
    return sides if (sides := _sides(path, entries)) is not None else _domains(path, entries)


def _split_metadata(path: Path, known: Known) -> LabelTable | None:
    """Read `train/metadata.csv`, `test/metadata.csv` and the like, whose names are relative to their own folder."""
    names: list[str] = []
    splits: list[str | None] = []
    tables = []
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and split_meant(entry.name)):
        for name in METADATA:
            if (folder / name).is_file():
                table = read_labels(folder / name, known)
                tables.append(table)
                names += [f"{folder.name}/{one}" for one in table.names]
                splits += [split_meant(folder.name)] * len(table.names)
                break
    if not tables:
        return None
    attributes = list(dict.fromkeys(name for table in tables for name in table.attributes))
    texts = list(dict.fromkeys(name for table in tables for name in table.fields))
    return LabelTable(
        names,
        {name: [v for t in tables for v in t.attributes.get(name, [NOT_TOLD] * len(t.names))] for name in attributes},
        {name: [v for t in tables for v in t.fields.get(name, [None] * len(t.names))] for name in texts},
        splits,
        notes=tuple(note for table in tables for note in table.notes),
    )


def _celeba(path: Path, file: Path, known: Known, leave: Sequence[Path]) -> LabelTable:
    """Read CelebA's own files, or the CSV that a re-upload made of them; partition and identity beside it.

    The images lie in whichever folder holds most of the names, also as PNG under a name that says jpg.
    """
    header, rows = _celeba_rows(file)
    for number, row in enumerate(rows, start=3):
        if len(row) != len(header) + 1:
            raise RgunitError(f"{file}: line {number} has {len(row)} columns instead of {len(header) + 1}")
    names = [row[0] for row in rows]
    columns = {same(name): [row[place] for row in rows] for place, name in enumerate(header, start=1)}
    beside: dict[str, list[str]] = {}
    for column, kind in (("split", CELEBA[1]), ("identity", CELEBA[2])):
        folders = (file.parent, path, path / "Eval", path / "Anno")
        places = [folder / f"{kind}{suffix}" for folder in folders for suffix in (".txt", ".csv")]
        if (place := next((place for place in places if place.is_file()), None)) is not None:
            lines = [line.replace(",", " ").split() for line in _lines(place)]
            told = {line[0]: line[1] for line in lines if len(line) == 2}
            beside[column] = [told.get(name, "") for name in names]
    if "split" in beside:
        columns["split"] = [word if word in SPLIT_NUMBERS else "" for word in beside["split"]]
    table = classify(file, _placed(path if path.is_dir() else path.parent, names, leave), columns, known)
    if "identity" not in beside:
        return table
    return replace(table, fields={**table.fields, "identity": [name or None for name in beside["identity"]]})


def _celeba_rows(file: Path) -> tuple[list[str], list[list[str]]]:
    """The names of CelebA's attributes, and its rows: an image's name, then -1 and 1."""
    if file.suffix.lower() == ".csv":
        lines = list(csv.reader(_lines(file)))
        if len(lines) < 2:
            raise RgunitError(f"{file}: holds no rows")
        return lines[0][1:], lines[1:]
    lines = [line.split() for line in _lines(file)]
    if len(lines) < 3 or len(lines[0]) != 1 or len(lines[2]) != len(lines[1]) + 1:
        raise RgunitError(
            f"{file}: not laid out as CelebA's {CELEBA[0]}.txt: a count, a line of names, a line an image"
        )
    return lines[1], lines[2:]


def _placed(root: Path, names: Sequence[str], leave: Sequence[Path]) -> list[str]:
    """Names as paths below the root: in the folder that holds most of them, under the suffix that is there."""
    wanted = {PurePosixPath(name).stem for name in names}
    files = [file.relative_to(root) for file in image_files(root, leave=leave) if file.stem in wanted]
    if not files:
        return list(names)
    homes = Counter(file.parent for file in files)
    home = min(homes, key=lambda folder: (-homes[folder], len(folder.parts), folder))
    there = {file.name for file in files if file.parent == home}
    stems = {PurePosixPath(name).stem: name for name in sorted(there)}
    told = (name if name in there else stems.get(PurePosixPath(name).stem, name) for name in names)
    return [(home / name).as_posix() for name in told]


def _lines(file: Path) -> list[str]:
    """Return the lines of a text file that hold something."""
    try:
        return [line for line in read_text(file).splitlines() if line.strip()]
    except OSError as error:
        raise RgunitError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RgunitError(f"{file}: cannot be read ({error})") from error


def _sides(path: Path, entries: Sequence[Path]) -> LabelTable | None:
    """Return labels for the two domains of `trainA/ trainB/ testA/ testB/ valA/ valB/`; None if it is not so.

    Also spelled train_A, or with names of domains (trainPhoto, trainSketch). Without test folders the images of the
    train folders have no split yet. Folders inside one become the text field `folder`. RgunitError names a folder that
    is missing or empty, and any other beside them.
    """
    folders = {entry.name: entry for entry in entries if entry.is_dir()}
    parsed = {name: side for name in folders if (side := _side(name)) is not None}
    sides = sorted({side for _, side in parsed.values()})
    if sides and set(sides) <= {"a", "b"}:
        parsed, sides = {name: (split, side.upper()) for name, (split, side) in parsed.items()}, ["A", "B"]
    if not {"A", "B"} & set(sides):
        trained = [side for side in sides if ("train", side) in parsed.values()]
        if len(sides) != 2 or trained != sides or len(parsed) < len(folders):
            return None  # folders that only begin like this
    else:
        parsed = {name: told for name, told in parsed.items() if told[1] in "AB"}
        sides = ["A", "B"]
    there = set(parsed.values())
    needed = {(split, side) for split in {"train", *(split for split, _ in there)} for side in sides}
    missing = sorted(_as_written(split, side, parsed) for split, side in needed - there)
    strange = sorted(folders.keys() - parsed.keys())
    if missing or strange:
        near = [f"{name} ({other}?)" for name in missing for other in strange if name.lower() == other.lower()]
        wrong = f"no {', '.join(near or missing)}" if missing else f"{', '.join(strange)} beside them"
        raise RgunitError(
            f"{path} holds {', '.join(parsed)}, and {wrong}: two domains are the folders trainA and trainB, with testA "
            "and testB, valA and valB if there are such (or pass --attributes FILE)"
        )
    order = sorted(parsed, key=lambda name: (parsed[name], name))  # test first: a copy in train is none
    rows = [(name, file) for name in order for file in image_files(folders[name]) if may_be_picture(file)]
    if empty := [name for name in order if name not in {name for name, _ in rows}]:
        raise RgunitError(f"{path}: there is no image in {', '.join(empty)}: add some or remove the folder")
    tested = any(split == "test" for split, _ in there)
    splits = [split if tested or split != "train" else None for split in (parsed[name][0] for name, _ in rows)]
    inner = [file.relative_to(path).parts for _, file in rows]
    within = ["/".join(parts[1:-1]) or None for parts in inner]
    return LabelTable(
        ["/".join(parts) for parts in inner],
        {side: [int(parsed[name][1] == side) for name, _ in rows] for side in sides},
        {"folder": within} if any(within) else {},
        splits,
        (tuple(sides),),
    )


def _side(name: str) -> tuple[str, str] | None:
    """The split and the domain of a folder called trainA, train_A or trainPhoto; None for trains."""
    found = _SIDE.fullmatch(name)
    if found is None:
        return None
    word, rest = found[1], same(found[2])
    divided = len(word) + len(found[2]) < len(name)
    if not divided and rest[0].islower() and rest not in ("a", "b"):
        return None
    return SPLIT_WORDS[word.lower()], rest


def _as_written(split: str, side: str, parsed: dict[str, tuple[str, str]]) -> str:
    """What a missing folder would be called, as the others are written."""
    for name, (_, other) in parsed.items():
        if name.endswith(other):
            word = next((n.removesuffix(s) for n, (p, s) in parsed.items() if p == split and n.endswith(s)), None)
            divider = "" if name[: -len(other)][-1:].isalnum() else name[: -len(other)][-1:]
            return f"{word or split + divider}{side}"
    return f"{split}{side}"


def _domains(path: Path, entries: Sequence[Path]) -> LabelTable | None:
    """Return labels for one folder a domain, `art/1.jpg`, or below splits, `train/art/1.jpg`; None if it is not so.

    Folders inside a domain become the text field `folder`. RgunitError where a domain's folder is empty.
    """
    folders = [entry for entry in entries if entry.is_dir()]
    if len(folders) < len(entries) or not folders:
        return None
    split = all(split_meant(folder.name) for folder in folders)
    names: list[str] = []
    domains: list[str] = []
    splits: list[str | None] = []
    within: list[str | None] = []
    for folder in folders:
        for file in filter(may_be_picture, image_files(folder)):
            inner = file.relative_to(path).parts
            if len(inner) > 1 + split:
                names.append("/".join(inner))
                domains.append(same(inner[int(split)]))
                splits.append(split_meant(folder.name))
                within.append("/".join(inner[1 + split : -1]) or None)
    found = tuple(sorted(set(domains)))
    homes = [folder for outer in folders for folder in (entries_of(outer) if split else (outer,)) if folder.is_dir()]
    empty = sorted({same(folder.name) for folder in homes} - set(found))
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


def named_domains(path: Path, names: Sequence[str], leave: Sequence[Path] = ()) -> LabelTable:
    """Return labels for the files below folders of these names, PATH itself among them: an exclusive group in their
    order. Other folders on the way, but splits, become the text field `folder`.

    RgunitError where there is no such folder, and for a file in two domains.
    """
    rows: list[str] = []
    domains: list[str] = []
    splits: list[str | None] = []
    within: list[str | None] = []
    for file in filter(may_be_picture, image_files(path, leave=leave)):
        inner = file.relative_to(path).parts
        folders = [same(part) for part in (path.name, *inner[:-1])]
        found = sorted({folder for folder in folders if folder in names})
        if len(found) > 1:
            raise RgunitError(f"{file} lies in the domains {' and '.join(found)}: an image is of one (--domains)")
        if found:
            split = split_meant(inner[0]) if len(inner) > 1 and folders[1] not in names else None
            rest = [folder for folder in folders[1:][split is not None :] if folder not in names]
            rows.append("/".join(inner))
            domains.append(found[0])
            splits.append(split)
            within.append("/".join(rest) or None)
    if not rows:
        raise RgunitError(f"{path}: no image lies in a folder {' or '.join(names)}: --domains takes names of folders")
    attributes = {name: [int(domain == name) for domain in domains] for name in names}
    fields = {"folder": within} if any(within) else {}
    return LabelTable(rows, attributes, fields, splits if any(splits) else None, (tuple(names),))


def check_readings(paths: Sequence[Path], leave: Sequence[Path] = ()) -> None:
    """RgunitError where folders that are given together hold the same folders: either may be the domains."""
    inner: dict[str, tuple[str, ...]] = {}
    for path in paths:
        if path.is_dir() and (table := _find(path, None, Known(AttributeSchema(())), True, leave)) and table.groups:
            inner[same(path.name)] = table.groups[0]
    shared = {name for domains in inner.values() for name in domains if sum(name in d for d in inner.values()) > 1}
    outer = [name for name, domains in inner.items() if shared & set(domains)]
    if len(shared) > 1:
        told, where = _some(sorted(shared)), " and in ".join(outer)
        raise RgunitError(
            f"{len(shared)} domains: {told}; each of them lies in {where}: did you mean their parent? Say which "
            f"folders are the domains: --domains {','.join(map(quoted, outer))}, or --domains "
            f"{','.join(map(quoted, sorted(shared)))}"
        )


@dataclass(frozen=True)
class Reading:
    """How labels were read: domains {name: images} where folders are that, else attributes; texts; the folders inside
    domains; whether --domains named them."""

    domains: dict[str, int] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    named: bool = False

    @classmethod
    def of(cls, table: LabelTable | None, *, named: bool = False) -> Reading:
        """The reading of a table of labels; None: there are none."""
        if table is None:
            return cls()
        texts = tuple(table.fields)
        if not (table.groups and set(table.groups[0]) == set(table.attributes)):
            return cls(attributes=tuple(table.attributes), texts=texts)
        domains = {name: sum(bit == 1 for bit in bits) for name, bits in table.attributes.items()}
        folders = sorted({text for text in table.fields.get("folder", []) if text})
        return cls(domains, texts=texts, folders=tuple(folders), named=named)


def understood(readings: Iterable[Reading]) -> list[str]:
    """What folders that were added together were taken for, a line each kind."""
    lines, domains, folders, named = [], Counter[str](), dict[str, None](), False
    for one in readings:
        domains.update(one.domains)
        folders |= dict.fromkeys(one.folders)
        named |= one.named
        if one.attributes:
            texts = f"; text columns: {_some(one.texts)}" if one.texts else ""
            count = f"{len(one.attributes)} attribute{'s' if len(one.attributes) > 1 else ''}"
            lines.append(f"{count}: {_some(one.attributes)}{texts}")
        elif not one.domains:
            lines.append("images without labels")
    if domains:
        told = f"{len(domains)} domains: " + ", ".join(f"{name} ({count})" for name, count in domains.items())
        if folders:
            told += f"; the folders inside them ({_some(list(folders))}) are the text column folder"
            if not named and len(folders) > 1 and not any("/" in text for text in folders):
                told += f" (domains, with --domains {','.join(map(quoted, list(folders)[:2]))},…)"
        lines.insert(0, told)
    return list(dict.fromkeys(lines))


def _some(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
