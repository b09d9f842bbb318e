"""What a store's collections on a Milvus server have: the mark, one row on the server that is moved last."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from index_store.milvusrows import Fields, Group, Layout, grouped
from index_store.milvusserver import INDEXES
from index_store.state import EncoderInfo, State

FORMAT = 1
FEWEST_CELLS, MOST_CELLS = 128, 65_536
DEPTH = 128  # how deep an index is searched before `rebuild` has measured it


def cells_for(index: str, rows: int) -> int:
    """How many cells an index of so many rows is built with, 0 where it has none."""
    return min(MOST_CELLS, max(FEWEST_CELLS, int(4 * math.sqrt(rows)))) if index.startswith("IVF") else 0


@dataclass(frozen=True)
class Held:
    """A collection: its name, the encoders of its fields, its rows when it was made, and how deep its index is searched
    with what recall of 10 (None: not measured)."""

    name: str
    fields: Fields
    rows: int = 0
    depth: int = DEPTH
    recall: float | None = None


@dataclass(frozen=True)
class Commit:
    """The last commit without its rows: the place of the oldest sealed file in the log, the digest of the last one,
    and the catalog's version."""

    state: State
    first: int
    digest: str
    version: tuple[int, ...]


@dataclass(frozen=True)
class Mark:
    """Which commit the collections have, by its place in the log and its digest, and how they are made."""

    store: str
    sequence: int
    digest: str
    layout: Layout
    index: str
    held: Mapping[Group, Held] = field(default_factory=dict)

    def has(self, commit: Commit) -> bool:
        """Whether they have this commit, and none after it."""
        return (self.sequence, self.digest) == (commit.state.sequence, commit.digest)

    def pack(self) -> str:
        """Return it as text."""
        collections = [
            {
                "name": held.name,
                "fields": {name: [info.name, info.fingerprint, info.dim] for name, info in held.fields.items()},
                "rows": held.rows,
                "depth": held.depth,
                "recall": held.recall,
            }
            for held in self.held.values()
        ]
        told = {"format": FORMAT, "store": self.store, "sequence": self.sequence, "digest": self.digest}
        layout = {"columns": self.layout.columns, "domains": self.layout.domains}
        return json.dumps(told | layout | {"index": self.index, "collections": collections})

    @classmethod
    def unpack(cls, text: str) -> Mark:
        """Return it from text; ValueError, KeyError, TypeError or AttributeError where it is none of `pack`'s."""
        told = json.loads(text)
        if told["format"] != FORMAT or told["index"] not in INDEXES:
            raise ValueError("another version")
        held = {}
        for one in told["collections"]:
            fields = {name: EncoderInfo(0, *info) for name, info in one["fields"].items()}
            (group,) = grouped(list(fields.values()))
            held[group] = Held(one["name"], fields, int(one["rows"]), int(one["depth"]), one["recall"])
        layout = Layout(int(told["columns"]), tuple(told["domains"]))
        return cls(told["store"], int(told["sequence"]), told["digest"], layout, told["index"], held)
