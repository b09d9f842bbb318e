"""What tests of several packages share: a network of nobody's, written as an ONNX file by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def write_network() -> Callable[[Path, list[int | str]], Path]:
    """Writes an ONNX file that averages each channel: its feature vector is the mean colour."""
    return _mean_colour_network


@pytest.fixture
def mean_colour_network(tmp_path: Path) -> Path:
    return _mean_colour_network(tmp_path / "mean.onnx", ["n", 3, 16, 16])


def _field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: a varint or a length-delimited value."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def _tensor(name: str, shape: list[int | str]) -> bytes:
    """A ValueInfoProto of floats; a text is a free dimension."""
    dims = b"".join(_field(1, _field(1, side) if isinstance(side, int) else _field(2, side)) for side in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))


def _mean_colour_network(path: Path, shape: list[int | str]) -> Path:
    """An ONNX file that averages each channel: its feature vector is the mean colour."""
    node = _field(1, "x") + _field(2, "y") + _field(4, "GlobalAveragePool")
    graph = _field(1, node) + _field(2, "g") + _field(11, _tensor("x", shape))
    graph += _field(12, _tensor("y", [shape[0], 3, 1, 1]))
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))
    return path
