"""Reading label files: which column names the image, which are attributes, which are text.

The one idea: a column whose values are all {0, 1}, {-1, 1} or true/false is an attribute; everything else is a
text field; a column that mixes -1, 0 and 1 could mean two things and is refused.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError

NAME_COLUMNS = ("image", "file_name", "path")
TRUTH = {
    "1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "true": 1, "false": 0, "": None,
}  # fmt: skip


@dataclass(frozen=True)
class LabelTable:
    """One row an image: names as written in the file, attributes {name: [1, 0 or -1 unknown]}, text fields, split."""

    names: list[str]
    attributes: dict[str, list[int]] = field(default_factory=dict)
    fields: dict[str, list[str | None]] = field(default_factory=dict)
    split: list[str | None] | None = None
    groups: tuple[tuple[str, ...], ...] = ()


def read_labels(file: Path, schema: AttributeSchema, fields: Sequence[str] = ()) -> LabelTable:
    """Read a CSV or JSON-lines file. `schema` and `fields` are what the workspace knows already, which decides
    columns that could be either. RgunitError names the file, the column and the line."""
    try:
        header, rows = _read_jsonl(file) if file.suffix.lower() == ".jsonl" else _read_csv(file)
    except OSError as error:
        raise RgunitError(f"{file}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise RgunitError(f"{file}: not a readable table ({error})") from error
    if not rows:
        raise RgunitError(f"{file}: holds no rows")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    if len(columns) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise RgunitError(f"{file}: column {twice!r} appears twice")
    name_column = next((name for name in NAME_COLUMNS if name in columns), header[0])
    names = columns.pop(name_column)
    return classify(file, names, columns, schema, fields)


def classify(
    file: Path, names: list[str], columns: dict[str, list[str]], schema: AttributeSchema, fields: Sequence[str] = ()
) -> LabelTable:
    """Sort text columns into attributes, fields and split."""
    split: list[str | None] | None = None
    attributes: dict[str, list[int]] = {}
    texts: dict[str, list[str | None]] = {}
    for name, column in columns.items():
        if name == "split":
            split = [value.strip() or None for value in column]
            continue
        truth = None if name in fields else _truth(file, name, column)
        if truth is not None:
            attributes[name] = truth
        elif name in schema.names:
            line = next(i for i, value in enumerate(column) if value.strip().lower() not in TRUTH)
            raise RgunitError(
                f"{file}: column {name!r} is an attribute of the workspace, but row {line + 1} holds {column[line]!r}"
            )
        else:
            texts[name] = [value or None for value in column]
    return LabelTable(names, attributes, texts, split)


def _truth(file: Path, name: str, column: list[str]) -> list[int] | None:
    """Return a column as 1, 0 and -1 (unknown), None if it is text."""
    values = {value.strip().lower() for value in set(column)}
    if not values <= TRUTH.keys() or values == {""}:
        return None
    numbers = {TRUTH[value] for value in values} - {None}
    if numbers == {-1, 0, 1} or numbers == {-1, 0}:
        raise RgunitError(
            f"{file}: column {name!r} mixes -1, 0 and 1: write false as 0 or as -1, and leave unknown empty"
        )
    meaning = {value: -1 if TRUTH[value] is None else int(TRUTH[value] == 1) for value in values}
    return [meaning[value.strip().lower()] for value in column]


def _read_csv(file: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a CSV."""
    with file.open(newline="", encoding="utf-8-sig") as text:
        reader = csv.reader(text)
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


def _read_jsonl(file: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a file with one JSON object a line."""
    entries = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise RgunitError(f"{file}: line {number} is not a JSON object")
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
