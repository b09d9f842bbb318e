"""Reading label files: which column names the image, which are attributes, which are text.

The one idea: a column whose values are all {0, 1}, {-1, 1}, true/false, yes/no or the like is an attribute; everything
else is a text field, and where it nearly was an attribute that is told; a column that mixes -1, 0 and 1 could mean two
things and is refused.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from index_store import places
from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from index_store.names import SPLIT_NUMBERS, SPLIT_WORDS, quoted, same, split_meant

LARGEST = 2**30  # bytes of a table
NAME_COLUMNS = ("image", "file_name", "path")
WHITE = "white_level"
"""A text column: the value that is white in an image's deep grey, as `add --white-level` sets it."""
UNKNOWN = ("", "nan", "na", "n/a", "<na>", "none", "null")
TRUTH = {
    "1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "true": 1, "false": 0, "yes": 1, "no": 0,
    "t": 1, "f": 0, "y": 1, "n": 0, **dict.fromkeys(UNKNOWN),
}  # fmt: skip
_LETTERS = {"f", "n"}  # alone in a column they may as well be words (F for female)
_DELIMITERS = ",;\t"
NOT_TOLD = -2
"""In place of a label: the file says nothing of this image's attribute (another file, of another split, has it)."""


@dataclass(frozen=True)
class LabelTable:
    """One row an image: names as written in the file, attributes {name: [1, 0, -1 unknown or `NOT_TOLD`]}, text
    fields, split. `notes`: what a reader should know, such as a column that nearly was an attribute."""

    names: list[str]
    attributes: dict[str, list[int]] = field(default_factory=dict)
    fields: dict[str, list[str | None]] = field(default_factory=dict)
    split: list[str | None] | None = None
    groups: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """What the workspace has already, which decides columns that could be either: attributes, and text fields.

    `update`: the file is to mend that, so a text field may become an attribute. `split_typed`: the split is given
    otherwise, so whatever a column of splits holds is passed over.
    """

    schema: AttributeSchema
    fields: tuple[str, ...] = ()
    update: bool = False
    split_typed: bool = False

    def is_text(self, name: str) -> bool:
        """Whether a column is text whatever it holds."""
        return name == WHITE or (name in self.fields and not self.update)


def read_labels(file: Path, known: Known) -> LabelTable:
    """Read a table: CSV (also with ; or tabs), JSON lines or a JSON array. RgunitError names the file, the column and
    the row."""
    try:
        header, rows = _read_json(file) if file.suffix.lower() in (".json", ".jsonl", ".ndjson") else _read_csv(file)
    except OSError as error:
        raise RgunitError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeError as error:
        raise RgunitError(f"{file}: is not UTF-8 text: save it as UTF-8 ({error})") from error
    except (csv.Error, json.JSONDecodeError) as error:
        raise RgunitError(f"{file}: not a readable table ({error})") from error
    if not rows or not header:
        raise RgunitError(f"{file}: holds no rows")
    header = [same(name) for name in header]
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    name_column = next((name for name in NAME_COLUMNS if name in columns), header[0])
    columns = {name: values for name, values in columns.items() if not _is_number_of_rows(name) or name == name_column}
    told = [name for name in header if name in columns]
    if len(columns) < len(told):
        twice = next(name for name in told if told.count(name) > 1)
        raise RgunitError(f"{file}: column {twice!r} appears twice")
    names = columns.pop(name_column)
    return classify(file, names, columns, known)


def _is_number_of_rows(name: str) -> bool:
    """Whether a column is the unnamed one that pandas writes first."""
    return not name or name.startswith("Unnamed: ")


def classify(file: Path, names: list[str], columns: Mapping[str, list[str]], known: Known) -> LabelTable:
    """Sort text columns into attributes, fields and split."""
    split: list[str | None] | None = None
    attributes: dict[str, list[int]] = {}
    texts: dict[str, list[str | None]] = {}
    notes = []
    for name, column in columns.items():
        if name == "split":
            split = None if known.split_typed else _splits(file, column)
            continue
        truth = None if known.is_text(name) else _truth(file, name, column)
        if truth is not None:
            attributes[name] = truth
        elif name in known.schema.names:
            row = next((i for i, value in enumerate(column) if value.strip().lower() not in TRUTH), None)
            if row is None:  # nothing but unknown, or letters that could be words
                attributes[name] = [_bit(value) for value in column]
                continue
            raise RgunitError(
                f"{file}: column {name!r} is an attribute of the workspace, but row {row + 1} holds {column[row]!r}"
            )
        else:
            texts[name] = [None if value.strip().lower() in ("", "nan") else value for value in column]
            if (note := _why_text(name, column, known)) is not None:
                notes.append(note)
    if WHITE in texts:
        _check_white(file, texts[WHITE])
    return LabelTable(names, attributes, texts, split, notes=tuple(notes))


def _splits(file: Path, column: list[str]) -> list[str | None]:
    """A split column as train, val and test, in whatever words other tools have for them."""
    found: list[str | None] = []
    for row, value in enumerate(column):
        word = value.strip().lower()
        meant = split_meant(word) or SPLIT_NUMBERS.get(word.removesuffix(".0"))
        if meant is None and word not in UNKNOWN:
            raise RgunitError(
                f"{file}: row {row + 1} has the split {value!r}, which is none that is known: write "
                f"{', '.join(SPLIT_WORDS)}, 0 (train), 1 (val) or 2 (test), or leave it empty; a split of another name "
                "is given by --split NAME"
            )
        found.append(meant)
    return found


def _truth(file: Path, name: str, column: list[str]) -> list[int] | None:
    """Return a column as 1, 0 and -1 (unknown), None if it is text."""
    values = {value.strip().lower() for value in set(column)}
    told = values - set(UNKNOWN)
    if not values <= TRUTH.keys() or not told or (len(told) == 1 and told <= _LETTERS):
        return None
    numbers = {TRUTH[value] for value in told}
    if -1 in numbers and 0 in numbers:
        raise RgunitError(
            f"{file}: column {name!r} mixes -1, 0 and 1: write false as 0 or as -1, and leave unknown empty"
        )
    return [_bit(value) for value in column]


def _bit(value: str) -> int:
    """A cell as 1, 0 or -1 (unknown)."""
    meant = TRUTH[value.strip().lower()]
    return -1 if meant is None else int(meant == 1)


def _why_text(name: str, column: list[str], known: Known) -> str | None:
    """Why a column that nearly was an attribute became text, and how to make it one; None if it is nothing like it."""
    if name == WHITE:
        return None
    told = [(row, value) for row, value in enumerate(column, start=1) if value.strip().lower() not in UNKNOWN]
    strange = [(row, value) for row, value in told if value.strip().lower() not in TRUTH]
    if not told or len(strange) > len(told) / 2 or len({value for _, value in strange}) > 20:
        return None
    mend = "to make it an attribute, " if name not in known.fields else "it is text in the workspace already; "
    if strange:
        row, value = strange[0]
        return (
            f"column {quoted(name)} is kept as text: {len(strange)} of {len(told)} values are neither true nor false, "
            f"the first {value!r} in row {row}; {mend}write 1 or 0, leave unknown empty, and add it again with --update"
        )
    if name in known.fields:
        return f"column {quoted(name)} is kept as text, as it was added before: --update makes it an attribute"
    return (
        f"column {quoted(name)} is kept as text: it holds nothing but {told[0][1]!r}, which may be a word; "
        f"{mend}write 1 or 0 and add it again with --update"
    )


def _check_white(file: Path, column: list[str | None]) -> None:
    """Refuse a white level that is no positive number."""
    for row, value in enumerate(column, start=1):
        try:
            good = value is None or 0 < float(value) < float("inf")
        except ValueError:
            good = False
        if not good:
            raise RgunitError(
                f"{file}: row {row} has the {WHITE} {value!r}: write the number that is white, such as 4095"
            )


def read_text(file: Path) -> str:
    """The text of a regular file (a pipe is not waited for): UTF-8, or what its byte order mark says."""
    data = places.read_bytes(file, LARGEST)
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    return data.decode("utf-16" if wide else "utf-8-sig")


def _read_csv(file: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a CSV, its cells divided by commas, semicolons or tabs, as its header shows."""
    text = read_text(file)
    first = "".join(text.lstrip("\r\n").split("\n", 1)[0].split('"')[::2])  # the header without what is in quotes
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [name.strip() for name in next(reader, [])]
    rows = []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise RgunitError(f"{file}: line {reader.line_num} has {len(row)} columns instead of {len(header)}")
        rows.append(row)
    if not header:
        raise RgunitError(f"{file}: is empty")
    return header, rows


def _read_json(file: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a file with one JSON object a line, or with an array of objects."""
    text = read_text(file)
    entries: list[dict[str, object]] = []
    if text.lstrip().startswith("["):
        told = [(f"entry {number}", entry) for number, entry in enumerate(json.loads(text), start=1)]
    else:
        lines = enumerate(text.splitlines(), start=1)
        told = [(f"line {number}", json.loads(line)) for number, line in lines if line.strip()]
    for place, entry in told:
        if not isinstance(entry, dict):
            raise RgunitError(f"{file}: {place} is not a JSON object")
        entries.append(entry)
    header = list(dict.fromkeys(str(name) for entry in entries for name in entry))
    return header, [[_text(entry.get(name)) for name in header] for entry in entries]


def _text(value: object) -> str:
    """Return a JSON value as a CSV would hold it."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value)
