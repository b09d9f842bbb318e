"""What an ONNX file holds, by its bytes: whether it is whole. onnxruntime would open what it names beside it.

An ONNX file is a protobuf message (onnx.proto); only the fields that lead to a tensor are followed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from index_store import places
from index_store.errors import RgunitError

LARGEST = 2**31
"""Bytes of a file: protobuf's own limit."""
MOST_FIELDS = 2_000_000
_TENSOR = "tensor"
_EXTERNAL, _PLACE = 13, 14  # TensorProto.external_data, .data_location
_INNER: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
"""Kind of message → {number of a field: kind of the message in it}."""


def check_whole(path: Path) -> None:
    """RgunitError, in one line, for a file that is too large, that is no ONNX, or whose weights lie beside it."""
    try:
        with places.opened(path, LARGEST) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            waiting, seen = [("model", 0, len(data))], 0
            while waiting:
                kind, start, end = waiting.pop()
                for number, value, inner in _fields(data, start, end):
                    seen += 1
                    if seen > MOST_FIELDS:
                        raise RgunitError(f"{path} is larger than any graph that is read: {MOST_FIELDS} parts")
                    if kind == _TENSOR and (number == _EXTERNAL or (number == _PLACE and value)):
                        raise RgunitError(
                            f"{path} keeps its weights in another file: export it as one file (external data is not "
                            "followed)"
                        )
                    if inner is not None and number in _INNER[kind]:
                        waiting.append((_INNER[kind][number], *inner))
    except (OSError, ValueError) as error:  # also an empty file
        reason = error.strerror if isinstance(error, OSError) else error
        raise RgunitError(f"{path} is no ONNX network: {reason}") from None


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
    """The fields of a message: number, value (0 for bytes), and where the bytes lie."""
    while start < end:
        key, start = _varint(data, start, end)
        value, inner = 0, None
        match key & 7:
            case 0:
                value, start = _varint(data, start, end)
            case 1:
                start += 8
            case 2:
                length, start = _varint(data, start, end)
                inner = (start, start + length)
                start += length
            case 5:
                start += 4
            case _:
                raise ValueError("its bytes are no protobuf")
        if start > end:
            raise ValueError("it is cut short")
        yield key >> 3, value, inner


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """The number at a place, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            raise ValueError("it is cut short")
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise ValueError("its bytes are no protobuf")
