"""What a search looks at: the committed rows of a store as NumPy arrays, kept up to date with the catalog.

The one idea: a `State` is immutable and belongs to one place in the log, so a search that holds one sees only
committed data, whole batches, whatever writers do meanwhile. The next state is made from the last one by reading
only what has changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from index_store import features
from index_store.attributes import AttributeSchema, Filter
from index_store.catalog import Catalog
from index_store.errors import CatalogDamaged, RgunitError

Ids = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8] | npt.NDArray[np.int32]

BIG_SEGMENT = 16_384  # rows from which a shard is searched where it lies; smaller ones are gathered in memory
COLUMNS = "id, known, value, split, origin"


@dataclass(frozen=True)
class EncoderInfo:
    """One encoder of the store; `number` is 0 while it is only asked for."""

    number: int
    name: str
    fingerprint: str
    dim: int


@dataclass(frozen=True)
class Segment:
    """A run of vectors: ids int64 [m], vectors float32 [m, d], contiguous; `mapped` from one large shard, or gathered
    in memory from small ones."""

    files: tuple[str, ...]
    ids: Ids
    vectors: Vectors
    mapped: bool


@dataclass(frozen=True)
class Table:
    """The vectors of one encoder: segments, and for the concatenation of all their rows the place in the state's
    arrays (-1 for an image that was removed)."""

    info: EncoderInfo
    segments: tuple[Segment, ...]
    ids: Ids
    rows: Ids
    alive: int

    @property
    def whole(self) -> bool:
        """Whether no row of it was removed."""
        return self.alive == len(self.ids)

    @cached_property
    def in_order(self) -> bool:
        """Whether its rows are those of the state from the first on, one for one."""
        return self.whole and np.array_equal(self.rows, np.arange(len(self.rows)))

    @cached_property
    def place_of(self) -> Ids:
        """For each row of the state up to the last that has a vector its place here, -1 for one without."""
        place = np.full(int(self.rows.max(initial=-1)) + 1, -1, np.int64)
        live = self.rows >= 0
        place[self.rows[live]] = np.flatnonzero(live)
        return place

    def gather(self, places: Ids) -> Vectors:
        """Return the vectors at places of the concatenation, float32 [n, d], in that order."""
        if len(self.segments) == 1:
            return np.asarray(self.segments[0].vectors[places], np.float32)
        gathered = np.empty((len(places), self.info.dim), np.float32)
        start = 0
        for segment in self.segments:
            inside = (places >= start) & (places < start + len(segment.ids))
            gathered[inside] = segment.vectors[places[inside] - start]
            start += len(segment.ids)
        return gathered

    def places(self, ids: Ids) -> Ids:
        """Return the places of ids, -1 for one without a vector."""
        order = self.order
        found = np.searchsorted(self.ids[order] if order is not None else self.ids, ids)
        found = np.minimum(found, max(len(self.ids) - 1, 0))
        if not len(self.ids):
            return np.full(len(ids), -1, np.int64)
        places = order[found] if order is not None else found
        return np.where((self.ids[places] == ids) & (self.rows[places] >= 0), places, -1)

    @property
    def order(self) -> Ids | None:
        """Return the order that sorts `ids`, None where they are sorted."""
        if len(self.ids) < 2 or (self.ids[1:] > self.ids[:-1]).all():
            return None
        return np.argsort(self.ids, kind="stable")


@dataclass(frozen=True)
class State:
    """The rows of a store at one place in the log, ordered by id; text columns as codes into `names`."""

    sequence: int
    schema: AttributeSchema
    ids: Ids
    known: Bits
    value: Bits
    split: Codes
    origin: Codes
    names: tuple[str, ...]
    encoders: tuple[EncoderInfo, ...]
    shards: tuple[tuple[int, str, int], ...]  # (encoder, file, rows) of those that hold vectors
    default: str | None  # the encoder that the store was made with

    def chosen(self, where: str | None, ids: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
        """Return the ids of the rows that pass a filter, of the given ones, ascending: images, and vectors that were
        imported without one. RgunitError for unknown ids."""
        found = self.ids[self.mask(self.schema.filter(where))]
        if ids is None:
            return found
        wanted = np.unique(np.asarray(ids, np.int64))
        if len(strange := np.setdiff1d(wanted, self.ids)):
            raise RgunitError(f"no image has id {int(strange[0])}")
        return np.intersect1d(found, wanted)

    def splits(self) -> list[str]:
        """Return the splits that rows are in."""
        return sorted(self.names[code] for code in np.unique(self.split))

    def mask(self, wanted: Filter) -> npt.NDArray[np.bool_]:
        """Return bool [n]: the rows that pass a filter."""
        keep = wanted.match_bits(self.known, self.value)
        if wanted.ids is not None:
            keep &= wanted.match_ids(self.ids)
        for column, choice in ((self.split, wanted.split), (self.origin, wanted.origin)):
            if choice is not None:
                keep &= np.array([name in choice for name in self.names] or [False])[column]
        return keep


def find(ids: Ids, wanted: Ids) -> Ids:
    """Return where wanted ids are in sorted ids, -1 where they are not."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    if len(wanted) and wanted[0] == ids[0] and len(ids) >= len(wanted) and np.array_equal(ids[: len(wanted)], wanted):
        return np.arange(len(wanted), dtype=np.int64)
    places = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[places] == wanted, places, -1)


def read_state(catalog: Catalog, connection: sa.Connection, before: State | None) -> State:
    """Read the committed state; only what changed since `before`, if that is given."""
    schema = catalog.schema(connection)
    shards = connection.exec_driver_sql(
        "SELECT encoder, file, rows FROM shards WHERE encoder IS NOT NULL ORDER BY seq"
    ).all()
    infos = encoders_of(connection)
    files = tuple((int(row[0]), catalog.shard(row[1]).name, int(row[2])) for row in shards)
    sequence, default = catalog.sequence(connection), catalog.setting(connection, "encoder")
    if before is None:
        try:
            fresh = _rows_from_log(catalog, connection, schema.width)
        except features.ShardDamaged:  # or merged by a compaction just now: the catalog has the same rows
            fresh = None
        fresh = fresh or _rows(connection, "", (), schema.width, ())
        return State(sequence, schema, *fresh[:-1], fresh[-1], infos, files, default)
    since = (before.sequence,)
    ids, known, value, split, origin, names = _rows(connection, "WHERE changed > ?", since, schema.width, before.names)
    gone = connection.exec_driver_sql("SELECT id FROM removed WHERE changed > ?", since).scalars().all()
    pad = ((0, 0), (0, schema.width - before.schema.width))
    columns: list[npt.NDArray[Any]] = [
        before.ids,
        np.pad(before.known, pad) if pad[1][1] else before.known,
        np.pad(before.value, pad) if pad[1][1] else before.value,
        _short(before.split, names),
        _short(before.origin, names),
    ]
    update: list[npt.NDArray[Any]] = [ids, known, value, split, origin]
    if gone:
        keep = ~np.isin(before.ids, np.array(gone, np.int64))
        columns = [column[keep] for column in columns]
    places = find(columns[0], ids)
    old = places >= 0
    if old.any():
        columns = [columns[0]] + [column.copy() for column in columns[1:]]
        for column, part in zip(columns[1:], update[1:], strict=True):
            column[places[old]] = part[old]
    if not old.all():
        columns = [np.concatenate([column, part[~old]]) for column, part in zip(columns, update, strict=True)]
    merged = (columns[0], columns[1], columns[2], columns[3], columns[4])
    return State(sequence, schema, *merged, names, infos, files, default)


def bare_state(catalog: Catalog, connection: sa.Connection) -> State:
    """Read the committed state without its rows and files."""
    schema = catalog.schema(connection)
    rows, infos = _rows(connection, "WHERE id < 0", (), schema.width, ()), encoders_of(connection)
    sequence, default = catalog.sequence(connection), catalog.setting(connection, "encoder")
    return State(sequence, schema, *rows, infos, (), default)


def encoders_of(connection: sa.Connection) -> tuple[EncoderInfo, ...]:
    """Read the encoders, in the order in which they came."""
    query = "SELECT id, name, fingerprint, dim FROM encoders ORDER BY id"
    return tuple(EncoderInfo(*row) for row in connection.exec_driver_sql(query).all())


Columns = tuple[Ids, Bits, Bits, Codes, Codes, tuple[str, ...]]


def _short(codes: Codes, names: Sequence[str]) -> Codes:
    """Codes into `names` in as few bytes as these allow."""
    return codes.astype(np.uint8, copy=False) if len(names) <= 256 else codes.astype(np.int32, copy=False)


def _rows_from_log(catalog: Catalog, connection: sa.Connection, width: int) -> Columns | None:
    """Read image rows from the shards, which is faster than from the catalog; None where they are many and small."""
    listed = connection.exec_driver_sql(
        "SELECT kind, file, rows FROM shards WHERE kind IN ('images', 'labels', 'remove') ORDER BY seq"
    ).all()
    if len(listed) > 8 + sum(rows for _, _, rows in listed) // 5000:
        return None
    codes: dict[str, int] = {}
    parts: list[list[npt.NDArray[Any]]] = []
    updates: list[list[npt.NDArray[Any]]] = []
    gone = [np.zeros(0, np.int64)]
    for kind, file, _ in listed:
        record = features.read(catalog.shard(file), only=("ids", "known", "value", "split", "origin"))
        if kind == "remove":
            gone.append(record.arrays["ids"])
            continue
        columns = [record.arrays["ids"]]
        for name in ("known", "value"):
            masks = record.arrays[name]
            columns.append(np.pad(masks, ((0, 0), (0, width - masks.shape[1]))))
        for name in ("split", "origin"):
            text = record.texts[name]
            if isinstance(text, str):
                columns.append(np.full(record.rows, codes.setdefault(text, len(codes)), np.int32))
            else:
                found = [codes.setdefault(str(entry), len(codes)) for entry in text]
                columns.append(np.array(found, np.int32))
        (parts if kind == "images" else updates).append(columns)
    if not parts:
        return None
    merged = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    if (merged[0][1:] < merged[0][:-1]).any():
        order = np.argsort(merged[0], kind="stable")
        merged = [column[order] for column in merged]
    for columns in updates:
        places = find(merged[0], columns[0])
        for column, update in zip(merged[1:], columns[1:], strict=True):
            column[places[places >= 0]] = update[places >= 0]
    removed = np.concatenate(gone)
    if len(removed):
        keep = ~np.isin(merged[0], removed)
        merged = [column[keep] for column in merged]
    names = tuple(codes)
    return merged[0], merged[1], merged[2], _short(merged[3], names), _short(merged[4], names), names


def _rows(connection: sa.Connection, where: str, values: tuple[int, ...], width: int, before: Sequence[str]) -> Columns:
    """Read image rows as columns."""
    cursor = connection.exec_driver_sql(f"SELECT {COLUMNS} FROM images {where} ORDER BY id", values).cursor
    rows = cursor.fetchall() if cursor is not None else []  # the driver's own: a third of the time for 100k rows
    ids, known, value, split, origin = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    codes = {name: code for code, name in enumerate(before)}
    for name in sorted(set(split) | set(origin)):
        codes.setdefault(name, len(codes))
    count = len(rows)
    try:
        masks = [np.frombuffer(b"".join(part), np.uint8).reshape(count, width) for part in (known, value)]
    except (ValueError, TypeError) as error:
        raise CatalogDamaged(
            Path(str(connection.engine.url.database)), "labels of another width than the schema's"
        ) from error
    names = tuple(codes)
    texts = [_short(np.fromiter(map(codes.__getitem__, column), np.int32, count), names) for column in (split, origin)]
    return np.array(ids, np.int64), masks[0], masks[1], texts[0], texts[1], names


def resolve_encoder(state: State, wanted: str | None) -> EncoderInfo:
    """Find an encoder by `name` or `name@fingerprint…` (`name@`: the one that has none); RgunitError names the choices,
    and refuses to mix two."""
    choices = state.encoders
    if wanted is None:
        if state.default is not None:
            wanted = state.default
        elif len(choices) == 1:
            return choices[0]
        elif not choices:
            raise RgunitError("the store has no vectors yet: add some, or run `rgunit index build`")
        else:
            raise RgunitError(f"the store has vectors of several encoders: name one of {_list(choices)}")
    name, at, prefix = wanted.partition("@")
    alike = [info for info in choices if info.name == name]
    found = [one for one in alike if (one.fingerprint.startswith(prefix) if prefix or not at else not one.fingerprint)]
    if not found and at:
        found = [info for info in choices if info.name == wanted]
    if not found:
        raise RgunitError(f"no vectors of encoder {wanted!r}: there are {_list(choices) or 'none'}")
    if len(found) > 1:
        raise RgunitError(
            f"encoder {wanted!r} has vectors of several fingerprints, which never mix: name one of {_list(found)}"
        )
    return found[0]


def _list(encoders: Sequence[EncoderInfo]) -> str:
    """Name encoders for a message."""
    return ", ".join(f"{info.name}@{info.fingerprint[:12]}" if info.fingerprint else info.name for info in encoders)
