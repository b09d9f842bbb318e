"""What of a batch is in the store already, by the keys: the same data gives the same ids, other data is refused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from index_store.batch import Batch, encodable
from index_store.errors import DuplicateKey, UsageError
from index_store.keys import ids_of
from index_store.live import Live
from index_store.state import EncoderInfo, State


def match_keys(
    live: Live,
    state: State,
    info: EncoderInfo,
    batch: Batch,
    keys: list[str],
    result: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Fill in the ids of keys that are there with the same data; return the rows that are new."""
    if len(keys) != len(batch.vectors):
        raise UsageError(f"{len(batch.vectors)} vectors but {len(keys)} keys")
    seen: dict[str, int] = {}
    fresh = []
    for row, key in enumerate(keys):
        if not isinstance(key, str) or not key:
            raise UsageError(f"key {key!r} is not a text with at least one character")
        if (first := seen.setdefault(key, row)) == row:
            fresh.append(row)
        elif not batch.equals(row, batch, first):
            raise DuplicateKey(f"key {key!r} appears twice in the batch with different data: give each row its own")
    encodable(list(seen), "keys")
    there = ids_of(live.catalog, list(seen))
    if there:
        held = [seen[key] for key in there]
        stored = _stored(live, state, info, np.array(list(there.values()), np.int64))
        for place, row in enumerate(held):
            if stored is None or not batch.equals(row, stored, place):
                raise DuplicateKey(
                    f"key {keys[row]!r} is taken by other data: use another, or remove id {there[keys[row]]} first"
                )
            result[row] = there[keys[row]]
    return np.array([row for row in fresh if result[row] < 0], np.int64)


def _stored(live: Live, state: State, info: EncoderInfo, ids: npt.NDArray[np.int64]) -> Batch | None:
    """Return what the store holds of some ids, None if one has no vector of this encoder."""
    table = live.table(state, info)
    places = table.places(ids)
    if (places < 0).any():
        return None
    rows, names = table.rows[places], state.names
    splits, origins = ([names[code] for code in column[rows]] for column in (state.split, state.origin))
    return Batch(table.gather(places), state.known[rows], state.value[rows], splits, origins)
