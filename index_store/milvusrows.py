"""Rows of a store as entities of a Milvus collection, and filters as its expressions.

The one idea: four attributes are one INT8 column, a digit to base 3 each (0 unknown, 1 false, 2 true), so that whatever
a filter asks of them is `labels0 in […]`: exact about the unknown, no name or text of a user in the expression, 10
columns for 40 attributes, and none anew for an attribute that is appended where there is room.

The vectors of a run are the fields of one collection: `embedding`, and `content` and `style` where encoders of its name
with these endings and its fingerprint have vectors; `there` says which of them a row has. `domain` is the partition
key: which member of the first exclusive group is true, if one is. Milvus looks only where the key that a filter asks
for hashes to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from index_store.attributes import AttributeSchema, Filter
from index_store.errors import RgunitError
from index_store.index import Ids
from index_store.milvusserver import Field
from index_store.state import EncoderInfo, State

FIELDS = ("embedding", "content", "style")
PACK = 4  # attributes of a column
SPARE = 8  # attributes that may be appended without making the collection anew
MOST = 56 * PACK  # a collection has at most 64 fields, 8 of them are not labels
PARTITIONS = 64  # at most, by the key
LONGEST_TEXT = 512
UNKNOWN, FALSE, TRUE = range(3)

Fields = Mapping[str, EncoderInfo]
Group = tuple[str, str]
"""What the encoders of a collection share: a name and a fingerprint."""


def grouped(encoders: Sequence[EncoderInfo]) -> dict[Group, dict[str, EncoderInfo]]:
    """Return the encoders of each collection by their fields."""
    found: dict[Group, dict[str, EncoderInfo]] = {}
    for info in encoders:
        base, _, ending = info.name.rpartition(".")
        joins = base and ending in FIELDS[1:]
        found.setdefault((base if joins else info.name, info.fingerprint), {})[ending if joins else FIELDS[0]] = info
    return found


def text(value: str) -> str:
    """A text as it is stored: of letters that need no quoting, different for every text."""
    safe = quote(value, safe="")
    return safe if len(safe) <= LONGEST_TEXT else "sha256:" + hashlib.sha256(value.encode()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """How labels are columns: how many columns, and the members of the group that is the partition key."""

    columns: int
    domains: tuple[str, ...] = ()

    @classmethod
    def of(cls, schema: AttributeSchema) -> Layout:
        """The layout for a schema. RgunitError where it has more attributes than Milvus has fields."""
        if len(schema) > MOST:
            raise RgunitError(
                f"{len(schema)} attributes: a collection on Milvus holds at most {MOST} (64 fields, {PACK} attributes "
                "in each): search in the sealed files, --vectors files"
            )
        columns = min(MOST, len(schema) + SPARE + PACK - 1) // PACK
        return cls(columns, schema.groups[0] if schema.groups else ())

    def fits(self, schema: AttributeSchema) -> bool:
        """Whether the attributes have a place in it."""
        return len(schema) <= self.columns * PACK

    @property
    def partitions(self) -> int:
        """In how many partitions rows are hashed by their domain, 0 without a key."""
        return min(PARTITIONS, len(self.domains) + 2) if self.domains else 0

    def fields(self, vectors: Fields) -> list[Field]:
        """The fields of a collection."""
        key = [("domain", "INT64", {"is_partition_key": True})] if self.domains else []
        labels: list[Field] = [(f"labels{column}", "INT8", {}) for column in range(self.columns)]
        texts: list[Field] = [(name, "VARCHAR", {"max_length": LONGEST_TEXT}) for name in ("split", "origin")]
        held: list[Field] = [(name, "FLOAT_VECTOR", {"dim": vectors[name].dim}) for name in FIELDS if name in vectors]
        return [("id", "INT64", {"is_primary": True}), *key, ("there", "INT8", {}), *texts, *labels, *held]

    def scalars(self, state: State, rows: Ids, has: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, list[Any]]:
        """Return the columns of rows of a state that are no vectors; `has` says which rows have one in each field."""
        labels = state.schema.unpack(state.known[rows], state.value[rows])
        digits = np.zeros((len(rows), self.columns * PACK), np.int64)
        digits[:, : labels.shape[1]] = labels + 1
        codes = digits.reshape(len(rows), self.columns, PACK) @ (3 ** np.arange(PACK))
        names = [text(name) for name in state.names]
        there = sum((np.where(some, bit(field), 0) for field, some in has.items()), np.zeros(len(rows), np.int64))
        columns: dict[str, list[Any]] = {"id": state.ids[rows].tolist(), "there": there.tolist()}
        if self.domains:
            columns["domain"] = self._domain(labels[:, state.schema.indices(self.domains)] == 1).tolist()
        columns["split"] = [names[code] for code in state.split[rows]]
        columns["origin"] = [names[code] for code in state.origin[rows]]
        return columns | {f"labels{column}": codes[:, column].tolist() for column in range(self.columns)}

    def _domain(self, true: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Return the domain [n] of rows by which members are true [n, m]: 1 and up, 0 none, m + 1 several."""
        count = true.sum(axis=1)
        return np.where(count > 1, true.shape[1] + 1, np.where(count == 1, 1 + true.argmax(axis=1), 0))

    def expression(self, schema: AttributeSchema, wanted: Filter, field: str, fields: Fields) -> str:
        """Return the expression for rows that pass a filter and have a vector of the field."""
        allowed = {column: {told + 1} for column, told in wanted.bits.items()}
        for column, told in wanted.maybe.items():
            allowed[column] = allowed.get(column, {UNKNOWN, FALSE, TRUE}) & {UNKNOWN, told + 1}
        terms = []
        members = [schema.names.index(name) for name in self.domains]
        if true := [place for place, column in enumerate(members, 1) if allowed.get(column) == {TRUE}]:
            terms.append(_among("domain", [*(true if len(true) == 1 else ()), len(members) + 1]))
        for pack in sorted({column // PACK for column in allowed}):
            asked = [(place, allowed.get(pack * PACK + place)) for place in range(PACK)]
            codes = [c for c in range(3**PACK) if all(not some or c // 3**place % 3 in some for place, some in asked)]
            terms.append(_among(f"labels{pack}", codes))
        for name, values in (("split", wanted.split), ("origin", wanted.origin)):
            if values is not None:
                terms.append(_among(name, [f'"{text(value)}"' for value in sorted(values)]))
        if wanted.ids is not None:
            terms.append(_among("id", sorted(one for one in wanted.ids if one <= np.iinfo(np.int64).max)))
        if len(fields) > 1:
            terms.append(_among("there", [held for held in range(8) if held & bit(field)]))
        return " and ".join(terms)


def bit(field: str) -> int:
    """The bit of a field in `there`."""
    return 1 << FIELDS.index(field)


def _among(name: str, values: Sequence[object]) -> str:
    """A term: a field has one of these values."""
    return f"{name} in [{', '.join(map(str, values))}]" if values else "id in [-1]"


def entities(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return columns as one dictionary a row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
