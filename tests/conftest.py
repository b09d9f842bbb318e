"""What tests of several packages share: a small trained workspace of drawn faces, and a network of nobody's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

from index_store.lifetimes import PARENT, end_with_parent
from index_store.workspace import Workspace
from tests.places import ROOT

# What the fork server imports once, for all processes that tests fork from it.
STORE = ("alembic.command", "index_store.store", "index_store.workspace")
TORCH = (
    "lightning_fabric.strategies.ddp",
    "tests.translation.steps",
    "translation.stages",
    "translation.training.loop",
)


def pytest_configure() -> None:
    """Every process that a test starts ends with this one, which ends with the one that started it.

    All compute on one thread each: networks as small as those of tests are slower on two.
    """
    end_with_parent()
    os.environ[PARENT] = str(os.getpid())
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """What tests import is known now: the server that forks their processes loads it.

    It starts here, unless the store's tests have yet to say on which engine (its processes have the environment that it
    began with).
    """
    multiprocessing.set_forkserver_preload([*STORE, *(TORCH if "torch" in sys.modules else ())])
    if not os.environ.keys() & {"RGUNIT_TEST_CATALOG", "RGUNIT_TEST_VECTORS"}:
        start_fork_server()


def start_fork_server() -> None:
    """Begun by a test that has changed the folder, it would find another package's `tests`."""
    with contextlib.chdir(ROOT):
        forkserver.ensure_running()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 labelled faces of 32 px (every fifth for testing) and 12 unlabelled ones as files."""
    from translation.drawings import make_dataset

    folder = tmp_path_factory.mktemp("drawn")
    make_dataset(folder, images=80, size=32, seed=3)
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL database, made for the tests."""
    from tests.postgres import cluster

    with cluster() as url:
        yield url


@pytest.fixture(scope="session")
def milvus() -> Iterator[str]:
    """The URL of a Milvus Lite server, run for the tests."""
    from tests.milvus import served

    with served() as url:
        yield url


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """A workspace after stages 1 and 2 with its index filled, a few steps each; to be copied."""
    from tests.translation.small import USED, filled, tiny
    from translation.indexing import fill_index
    from translation.stages import train_retrieval, train_translation

    path = tmp_path_factory.mktemp("template") / "workspace"
    filled(path, drawn)
    with Workspace.open(path) as workspace:
        train_translation(workspace, tiny(), attributes_used=USED, device="cpu")
        train_retrieval(workspace, tiny(), device="cpu")
        fill_index(workspace, tiny(), device="cpu")
    return path


@pytest.fixture
def staged(tmp_path: Path, template: Path) -> Iterator[Workspace]:
    """A copy of the template that a test may change: runs r1 (translation) and r2 (retrieval), all embedded."""
    shutil.copytree(template, tmp_path / "staged")
    with Workspace.open(tmp_path / "staged") as workspace:
        yield workspace


@pytest.fixture(scope="session")
def write_network() -> Callable[..., Path]:
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


def _mean_colour_network(path: Path, shape: list[int | str], operation: str = "GlobalAveragePool") -> Path:
    """An ONNX file that averages each channel: its feature vector is the mean colour. Or one of another operation."""
    node = _field(1, "x") + _field(2, "y") + _field(4, operation)
    graph = _field(1, node) + _field(2, "g") + _field(11, _tensor("x", shape))
    graph += _field(12, _tensor("y", ["a", "b", "c", "d"]))
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))
    return path
