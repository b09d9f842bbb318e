"""What is added in one call: checked vectors, packed labels, and comparing them with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index_store.errors import UsageError

LONGEST = 1e36  # squared length of a vector up to which squared distances are float32 numbers


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

    def equals(self, row: int, batch: Batch, other: int) -> bool:
        """Whether a row holds the same data as one of a batch, which may be this one."""
        return self.key(row) == batch.key(other)


def as_vectors(vectors: npt.ArrayLike, dim: int, *, one: bool = False) -> npt.NDArray[np.float32]:
    """Return contiguous float32 [n, dim], of [dim] too with `one`; UsageError for another shape or numbers that are
    not finite."""
    try:
        matrix = np.ascontiguousarray(vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"vectors must be numbers, the same number in each row: {error}") from error
    if one and matrix.ndim == 1:
        matrix = matrix[None]
    if matrix.size == 0 and matrix.ndim <= 2:
        return np.zeros((0, dim), np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != dim:
        raise UsageError(f"vectors have shape {list(matrix.shape)}, not [n, {dim}]")
    if not np.einsum("nd,nd->", matrix, matrix) <= LONGEST:  # all rows together: one quick look
        if not np.isfinite(matrix).all():
            raise UsageError("vectors must be finite: there is a NaN or an infinity among them")
        if not np.einsum("nd,nd->n", matrix, matrix).max() <= LONGEST:
            raise UsageError(f"vectors must be shorter than {LONGEST**0.5:g}: distances leave the range of float32")
    return matrix


def as_ids(ids: npt.ArrayLike, what: str = "ids") -> npt.NDArray[np.int64]:
    """Return int64 [n]; UsageError for anything but whole numbers."""
    array = np.asarray(ids).ravel()
    if array.size and array.dtype.kind not in "iu":
        raise UsageError(f"{what} must be whole numbers, not {array[0]!r}")
    return array.astype(np.int64)


def encodable(texts: Sequence[str], what: str) -> None:
    """Raise UsageError for a text that is not valid Unicode (half of a surrogate pair)."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what}: not valid Unicode text ({error.reason})") from error


def text_column(value: str | Sequence[str], count: int, what: str) -> str | list[str]:
    """Return one text for all rows, or one for each row."""
    if isinstance(value, str):
        encodable([value], what)
        return value
    try:
        column = [str(entry) for entry in value]
    except TypeError as error:
        raise UsageError(f"{what} must be one text, or one for each row, not {value!r}") from error
    encodable(column, what)
    if len(column) != count:
        raise UsageError(f"{count} vectors but {len(column)} entries of {what}")
    return column
