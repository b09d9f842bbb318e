"""What a search looks at: the committed rows of a store as NumPy arrays, kept up to date with the catalog.

The one idea: a `State` is immutable and belongs to one place in the log, so a search that holds one sees only
committed data, whole batches, whatever writers do meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from index_store import features
from index_store.attributes import AttributeSchema, Filter
from index_store.catalog import Catalog
from index_store.errors import RgunitError


@dataclass(frozen=True)
class EncoderInfo:
    """One encoder of the store."""

    number: int
    name: str
    fingerprint: str
    dim: int


@dataclass(frozen=True)
class Table:
    """The vectors of one encoder: float32 [m, d], their image ids and their rows in the state's arrays."""

    ids: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]


@dataclass(frozen=True)
class State:
    """The rows of a store at one place in the log, ordered by id."""

    sequence: int
    schema: AttributeSchema
    ids: npt.NDArray[np.int64]
    known: npt.NDArray[np.uint8]
    value: npt.NDArray[np.uint8]
    split: npt.NDArray[np.int32]
    origin: npt.NDArray[np.int32]
    names: tuple[str, ...]
    encoders: tuple[EncoderInfo, ...]
    shards: tuple[tuple[int, str, int], ...]  # (encoder, file, rows) of those that hold vectors
    folder: Path

    def mask(self, filter: Filter) -> npt.NDArray[np.bool_]:
        """Return bool [n]: the rows that pass a filter."""
        keep = filter.match_bits(self.known, self.value)
        for column, wanted in ((self.split, filter.split), (self.origin, filter.origin)):
            if wanted is not None:
                codes = [code for code, name in enumerate(self.names) if name in wanted]
                keep &= np.isin(column, codes)
        return keep

    @cached_property
    def tables(self) -> dict[int, Table]:
        """Tables loaded so far, by encoder number."""
        return {}

    def table(self, encoder: EncoderInfo) -> Table:
        """Return the live vectors of an encoder, ordered by id."""
        if encoder.number not in self.tables:
            self.tables[encoder.number] = self._load(encoder)
        return self.tables[encoder.number]

    def _load(self, encoder: EncoderInfo) -> Table:
        """Read the shards of an encoder."""
        parts = []
        for number, file, _ in self.shards:
            if number == encoder.number:
                path = self.folder / file
                parts.append((features.read(path, vectors=False).arrays["ids"], features.map_vectors(path)))
        if not parts:
            empty = np.zeros(0, np.int64)
            return Table(empty, empty, np.zeros((0, encoder.dim), np.float32))
        ids = np.concatenate([part[0] for part in parts])
        rows = np.searchsorted(self.ids, ids)
        alive = self.ids[np.minimum(rows, len(self.ids) - 1)] == ids if len(self.ids) else np.zeros(len(ids), np.bool_)
        if len(parts) == 1 and alive.all() and (len(ids) < 2 or (np.diff(ids) > 0).all()):
            return Table(ids, rows, parts[0][1])
        vectors = np.concatenate([part[1] for part in parts])
        order = np.flatnonzero(alive)[np.argsort(ids[alive], kind="stable")]
        return Table(ids[order], rows[order], vectors[order])


def load_state(catalog: Catalog) -> State:
    """Read the committed state."""
    with catalog.reading() as connection:
        schema = catalog.schema(connection)
        rows = connection.exec_driver_sql("SELECT id, known, value, split, origin FROM images ORDER BY id").all()
        encoders = connection.exec_driver_sql("SELECT id, name, fingerprint, dim FROM encoders ORDER BY id").all()
        shards = connection.exec_driver_sql(
            "SELECT encoder, file, rows FROM shards WHERE encoder IS NOT NULL ORDER BY seq"
        ).all()
        sequence = catalog.sequence(connection)
    ids, known, value, split, origin = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    codes: dict[str, int] = {}
    columns = [
        np.array([codes.setdefault(name, len(codes)) for name in column], np.int32) for column in (split, origin)
    ]
    return State(
        sequence,
        schema,
        np.array(ids, np.int64),
        np.frombuffer(b"".join(known), np.uint8).reshape(len(ids), schema.width),
        np.frombuffer(b"".join(value), np.uint8).reshape(len(ids), schema.width),
        columns[0],
        columns[1],
        tuple(codes),
        tuple(EncoderInfo(*row) for row in encoders),
        tuple((int(row[0]), str(row[1]), int(row[2])) for row in shards),
        catalog.shards,
    )


def current_sequence(catalog: Catalog) -> int:
    """Return the place of the last commit in the log."""
    with catalog.reading() as connection:
        return catalog.sequence(connection)


def resolve_encoder(state: State, wanted: str | None, default: str | None) -> EncoderInfo:
    """Find an encoder by `name` or `name@fingerprint…`; RgunitError names the choices, and refuses to mix two."""
    choices = state.encoders
    if wanted is None:
        if default is not None:
            wanted = default
        elif len(choices) == 1:
            return choices[0]
        elif not choices:
            raise RgunitError("the store has no vectors yet: add some, or run `rgunit index build`")
        else:
            raise RgunitError(f"the store has vectors of several encoders: name one of {_list(choices)}")
    name, at, prefix = wanted.partition("@")
    found = [info for info in choices if info.name == name and info.fingerprint.startswith(prefix)]
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
