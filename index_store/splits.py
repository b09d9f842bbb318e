"""Splits of images that are there already: drawn anew by hash, or set for those that pass a filter.

The one idea: a hash of the image (or of a text, such as who is in it) decides, as in `add`: the same draw again changes
nothing, and images that come later fall where they would have fallen. Translations go with the image they show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from index_store.adding import hash_share
from index_store.errors import RgunitError, UsageError
from index_store.features import Record
from index_store.learned import learned_from
from index_store.names import same, typed_split
from index_store.replay import schema_header

if TYPE_CHECKING:
    from index_store.imagetable import ImageTable
    from index_store.workspace import Workspace

PART = 50_000  # rows of a record


@dataclass(frozen=True)
class SplitReport:
    """`changed` images, of all origins; how many real images each split has now; how many of split test are among those
    that some run learned from, so that no evaluation judges them."""

    changed: int
    by_split: dict[str, int]
    learned: int


def draw_splits(
    workspace: Workspace,
    *,
    test: float | None = None,
    val: float | None = None,
    by: str | None = None,
    where: str | None = None,
    seed: int = 0,
) -> SplitReport:
    """Draw a share of the labelled images into split test and, if asked, val; the others become train.

    `by` is a text column: images with one value of it stay together. `seed` draws differently; 0 is the draw of `add`.
    UsageError for shares that leave no training image and for a column that there is not.
    """
    test, val = 0.0 if test is None else test, 0.0 if val is None else val
    if not (0 <= test < 1 and 0 <= val < 1 and 0 < test + val < 1):
        raise UsageError(f"shares of test {test:g} and val {val:g}: together they are more than 0 and less than 1")
    workspace.catalog.begin()
    table = workspace.images(f"origin=real {where or ''}".strip())
    if not len(table):
        raise RgunitError("there is no labelled image to draw from" + (f" that passes {where!r}" if where else ""))
    drawn = []
    for key in _keys(workspace, table, by):
        share = hash_share(key if seed == 0 else f"{seed}:{key}")
        drawn.append("test" if share < test else "val" if share < test + val else "train")
    return _set(workspace, table, drawn)


def set_split(workspace: Workspace, name: str, where: str) -> SplitReport:
    """Put the images that pass a filter, real or unlabelled, into one split."""
    split = typed_split(name)
    if not where.strip():
        raise UsageError("say which images: --where FILTER")
    workspace.catalog.begin()
    table = workspace.images(f"origin=real|unlabelled {where}")
    if not len(table):
        raise RgunitError(f"no image passes the filter {where!r}: widen it")
    return _set(workspace, table, [split] * len(table))


def told(workspace: Workspace) -> SplitReport:
    """The splits as they are."""
    real = workspace.images("origin=real")
    learned = learned_from(workspace, workspace.runs())
    tested = real.ids[np.array([split == "test" for split in real.split], np.bool_)]
    by_split = dict(sorted(Counter(map(str, real.split)).items()))
    return SplitReport(0, by_split, int(np.isin(tested, learned).sum()))


def untested(workspace: Workspace) -> str | None:
    """What to say of a workspace whose labelled images are all for training; None where there is no need."""
    splits = set(map(str, workspace.images("origin=real").split))
    if not splits or "test" in splits:
        return None
    return (
        f"no image is in split test (there are: {', '.join(sorted(splits))}), so nothing can be evaluated: "
        "`rgunit split --test 0.2` draws some"
    )


def _keys(workspace: Workspace, table: ImageTable, by: str | None) -> list[str]:
    """What is hashed of each image: its content, or its value of a text column where it has one."""
    with workspace.catalog.reading() as connection:
        query = "SELECT id, coalesce(sha256, key) FROM images"
        content = {int(number): str(sha) for number, sha in connection.exec_driver_sql(query)}
    keys = [content[int(number)] for number in table.ids]
    if by is None:
        return keys
    if same(by) not in table.fields:
        raise UsageError(f"--by {by}: there is no such text column (there are: {', '.join(table.fields) or 'none'})")
    return [text if text is not None else key for text, key in zip(table.fields[same(by)], keys, strict=True)]


def _set(workspace: Workspace, table: ImageTable, splits: Sequence[str]) -> SplitReport:
    """Give images their splits, and what was made of them; only what differs is written."""
    wanted = dict(zip(table.ids.tolist(), splits, strict=True))
    made = workspace.images("origin=generated")
    wanted |= {
        int(row): wanted[int(parent)]
        for row, parent in zip(made.ids, made.parent, strict=True)
        if int(parent) in wanted
    }
    every = workspace.images()
    now = dict(zip(every.ids.tolist(), map(str, every.split), strict=True))
    changes = {number: split for number, split in wanted.items() if now[number] != split}
    numbers = sorted(changes)
    for start in range(0, len(numbers), PART):
        _write(workspace, {number: changes[number] for number in numbers[start : start + PART]})
    report = told(workspace)
    return SplitReport(len(changes), report.by_split, report.learned)


def _write(workspace: Workspace, changes: dict[int, str]) -> None:
    """One durable record: rows as they are, but for their split."""
    catalog = workspace.catalog
    with catalog.writing():
        schema = catalog.schema()
        with catalog.reading() as connection:
            query = "SELECT id, known, value, origin, path, fields FROM images WHERE id BETWEEN ? AND ? ORDER BY id"
            found = connection.exec_driver_sql(query, (min(changes), max(changes))).all()
        rows = [row for row in found if int(row[0]) in changes]
        masks: list[npt.NDArray[np.uint8]] = [
            np.frombuffer(b"".join(row[column] for row in rows), np.uint8).reshape(len(rows), schema.width)
            for column in (1, 2)
        ]
        arrays: dict[str, npt.NDArray[Any]] = {"ids": np.array([row[0] for row in rows], np.int64)}
        arrays |= {"known": masks[0], "value": masks[1]}
        texts = {"split": [changes[int(row[0])] for row in rows]}
        texts |= {name: [row[column] for row in rows] for name, column in (("origin", 3), ("path", 4), ("fields", 5))}
        catalog.write(Record("labels", schema_header(schema), arrays, texts))
