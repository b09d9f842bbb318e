"""The list of a folder of translations, `translations.csv`: what each was made of, aimed at and guided by.

The one idea: a row is appended as soon as its picture is written, so that a second start knows what is done; at the end
the file is written anew without the rows of pictures that were made again.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from index_store import places
from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.names import quoted
from index_store.whole import write_text

FILE = "translations.csv"
COLUMNS = ["source", "target", "picture", "mask", "neighbours"]
LARGEST = 2**30

Row = dict[str, Any]
"""source, target {name: 1, 0 or None}, path, mask (None: none), neighbours [{image_id, path, origin, distance}]."""


class Records:
    """The list of a folder; of a picture the last row counts. RgunitError for another file of that name."""

    def __init__(self, out: Path, schema: AttributeSchema) -> None:
        self.file, self.schema = out / FILE, schema
        self._rows: dict[str, list[str]] = {}
        if self.file.exists() or self.file.is_symlink():
            self._read()

    def find(self, picture: Path) -> Row | None:
        """The row of a picture, None where there is none that can be read."""
        if (row := self._rows.get(str(picture.absolute()))) is None:
            return None
        source, target, path, mask, neighbours = row
        try:
            bits = self.schema.edit(target).bits if target else {}
            near = json.loads(neighbours or "[]")
        except (ValueError, UsageError):
            return None
        known = {name: bits.get(place) for place, name in enumerate(self.schema.names)}
        return {"source": source, "target": known, "path": path, "neighbours": near, "mask": mask or None}

    def add(self, row: Row) -> None:
        """Append a row, at once."""
        signs = [f"{'+' if bit else '-'}{quoted(name)}" for name, bit in row["target"].items() if bit is not None]
        near = json.dumps(row["neighbours"], ensure_ascii=False) if row["neighbours"] else ""
        cells = [row["source"], " ".join(signs), row["path"], row["mask"] or "", near]
        with self.file.open("a", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file).writerows([cells] if self._rows or file.tell() else [COLUMNS, cells])
        self._rows.pop(row["path"], None)
        self._rows[row["path"]] = cells

    def close(self) -> None:
        """Write the list anew, whole or not at all, without rows that do not count."""
        if not self._rows:
            return
        text = io.StringIO()
        csv.writer(text).writerows([COLUMNS, *self._rows.values()])
        write_text(self.file, text.getvalue(), newline="", errors="backslashreplace")

    def _read(self) -> None:
        """Read the rows that are whole; what a killed process left of one is dropped."""
        try:
            text = places.read_bytes(self.file, LARGEST).decode()
            rows = list(csv.reader(io.StringIO(text, newline="")))
        except (OSError, UnicodeDecodeError, csv.Error):
            rows = []
        if not rows or rows[0] != COLUMNS:
            raise RgunitError(f"{self.file} is no list of translations: name another --out, or move it away")
        whole = rows[1:] if text.endswith("\n") else rows[1:-1]
        self._rows = {row[2]: row for row in whole if len(row) == len(COLUMNS)}
        if len(whole) < len(rows) - 1:
            self.close()
