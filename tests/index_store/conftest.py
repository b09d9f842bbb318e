"""What the store's tests run on: SQLite, or with RGUNIT_TEST_CATALOG=postgresql a cluster made for them; the sealed
files, or with RGUNIT_TEST_VECTORS=milvus a Milvus Lite server made for them."""

from __future__ import annotations

import os

import pytest

from index_store import databases, engines
from tests.conftest import start_fork_server

ON_POSTGRESQL = os.environ.get("RGUNIT_TEST_CATALOG") == "postgresql"
ON_MILVUS = os.environ.get("RGUNIT_TEST_VECTORS") == "milvus"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if ON_POSTGRESQL and item.get_closest_marker("sqlite"):
            item.add_marker(pytest.mark.skip(reason="of a catalog in SQLite alone"))
        if ON_MILVUS and item.get_closest_marker("files"):
            item.add_marker(pytest.mark.skip(reason="of vectors in the sealed files alone"))


@pytest.fixture(scope="session", autouse=True)
def _on_engines(request: pytest.FixtureRequest) -> None:
    """Every store that a test makes has its catalog and its vectors there, also in the processes that the test
    starts."""
    if ON_POSTGRESQL:
        os.environ[databases.URL] = request.getfixturevalue("postgres")
    if ON_MILVUS:
        os.environ[engines.URL] = request.getfixturevalue("milvus")
    if ON_POSTGRESQL or ON_MILVUS:
        start_fork_server()
