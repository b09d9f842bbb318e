"""The catalog: migrations, and reading the same rows from the log as from SQLite."""

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from index_store.catalog import HEAD, Catalog
from index_store.errors import RgunitError
from index_store.models import METADATA
from index_store.state import _rows, _rows_from_log
from index_store.store import IndexStore


@pytest.mark.sqlite
def test_the_migrations_make_exactly_the_models(tmp_path):
    catalog = Catalog.create(tmp_path)
    with catalog.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        sql = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'images'").scalar()
        assert "AUTOINCREMENT" in sql
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    assert catalog.revision() == HEAD
    catalog.close()


def test_a_catalog_of_a_newer_version_is_refused_in_one_line(tmp_path):
    IndexStore.create(tmp_path / "s", dim=2, attributes=[]).close()
    catalog = Catalog.open(tmp_path / "s")
    with catalog.writing(), catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    catalog.close()
    with pytest.raises(RgunitError, match="newer rgunit"):
        IndexStore.open(tmp_path / "s")


def test_the_log_and_the_catalog_tell_the_same_rows(tmp_path):
    rng = np.random.default_rng(0)
    with IndexStore.create(tmp_path / "s", dim=2, attributes=["a", "b"]) as store:
        for split, origin in (("train", "real"), (["x", "y"] * 20, "generated"), ("test", ["real"] * 40)):
            labels = rng.integers(-1, 2, (40, 2)).astype(np.int8)
            ids = store.add(rng.normal(size=(40, 2)), labels=labels, split=split, origin=origin)
            store.remove(ids[:7])
        store.compact()
        store.remove(store.add(rng.normal(size=(3, 2)))[:1])
        with store.catalog.reading() as connection:
            told, read = _rows_from_log(store.catalog, connection, 1), _rows(connection, "", (), 1, ())
        assert told is not None
        for left, right in zip(told[:3], read[:3], strict=True):
            assert np.array_equal(left, right)
        for column in (3, 4):
            texts = [[rows[5][code] for code in rows[column]] for rows in (told, read)]
            assert texts[0] == texts[1]


def test_create_and_open_say_what_is_there(tmp_path):
    IndexStore.create(tmp_path / "s", dim=2, attributes=[]).close()
    with pytest.raises(FileExistsError):
        IndexStore.create(tmp_path / "s", dim=2, attributes=[])
    with pytest.raises(RgunitError, match="no store"):
        IndexStore.open(tmp_path / "t")
    with pytest.raises(RgunitError, match=r"files, or on milvus\+http://HOST:19530/NAME"):
        IndexStore.open(tmp_path / "s", vectors="lance://host/x")
