"""What is added in one call: checked vectors, packed labels, and comparing them with what is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index_store.errors import UsageError


@dataclass(frozen=True)
class Batch:
    """The data of some rows, to be compared."""

    vectors: npt.NDArray[np.float32]
    known: npt.NDArray[np.uint8]
    value: npt.NDArray[np.uint8]
    split: str | Sequence[str]
    origin: str | Sequence[str]

    def key(self, row: int) -> tuple[bytes, bytes, bytes, str, str]:
        """Return all data of a row."""
        split = self.split if isinstance(self.split, str) else self.split[row]
        origin = self.origin if isinstance(self.origin, str) else self.origin[row]
        return self.vectors[row].tobytes(), self.known[row].tobytes(), self.value[row].tobytes(), split, origin

    def same(self, row: int, other: int) -> bool:
        """Whether two rows of the batch hold the same data."""
        return self.key(row) == self.key(other)

    def equals(self, row: int, stored: Batch, other: int) -> bool:
        """Whether a row holds the same data as a stored one."""
        return self.key(row) == stored.key(other)


def as_vectors(vectors: npt.ArrayLike, dim: int, *, one: bool = False) -> npt.NDArray[np.float32]:
    """Return contiguous float32 [n, dim], of [dim] too with `one`; UsageError for another shape or numbers that are
    not finite."""
    matrix = np.ascontiguousarray(vectors, np.float32)
    if one and matrix.ndim == 1:
        matrix = matrix[None]
    if matrix.size == 0 and matrix.ndim <= 2:
        return np.zeros((0, dim), np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != dim:
        raise UsageError(f"vectors have shape {list(matrix.shape)}: needed is [n, {dim}]")
    flat = matrix.ravel()
    if not math.isfinite(np.dot(flat, flat)) and not np.isfinite(matrix).all():
        raise UsageError("vectors must be finite: there is a NaN or an infinity among them")
    return matrix


def text_column(value: str | Sequence[str], count: int, what: str) -> str | list[str]:
    """Return one text for all rows, or one a row."""
    if isinstance(value, str):
        return value
    column = [str(entry) for entry in value]
    if len(column) != count:
        raise UsageError(f"{count} vectors but {len(column)} entries of {what}")
    return column
