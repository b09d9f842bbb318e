"""A catalog on PostgreSQL: the same store, with many writers. `RGUNIT_TEST_CATALOG=postgresql pytest tests/index_store`
runs the whole suite of the store on it; here is what it has of its own."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from unittest.mock import Mock

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from index_store import marker
from index_store import postgres as engine
from index_store.catalog import Catalog
from index_store.databases import URL
from index_store.errors import Locked, ReadOnly, RgunitError, UsageError
from index_store.store import IndexStore
from index_store.workspace import Workspace
from tests.reading import reading_only

EYE = np.eye(3, dtype=np.float32)
processes = multiprocessing.get_context("forkserver")


@pytest.fixture(autouse=True)
def _no_url_from_outside(monkeypatch, postgres):
    monkeypatch.delenv(URL, raising=False)


@pytest.fixture
def path(tmp_path, postgres):
    with IndexStore.create(tmp_path / "s", dim=3, attributes=["a", "b"], catalog=postgres) as store:
        store.add(EYE, labels=[[1, 0], [0, -1], [-1, 1]], keys=["x", "y", "z?%"], split="train")
    return tmp_path / "s"


def test_a_store_is_made_changed_compacted_and_opened_again(path, postgres):
    assert not (path / "catalog.db").exists() and postgres not in (path / "catalog.json").read_text()
    with IndexStore.open(path, catalog=postgres) as store:
        assert store.add(EYE[2:], labels=[[-1, 1]], keys=["z?%"], split="train").tolist() == [3]
        assert store.search(EYE[1], k=2, where="-a").ids.tolist() == [[2, -1]]
        store.remove([3])
        assert store.verify().ok, store.verify().problems
        store.compact()
        assert store.add(EYE[:1]).tolist() == [4] and store.verify().ok
        with pickle.loads(pickle.dumps(store)) as other:
            assert other.count() == 3
    with IndexStore.open(path, catalog=postgres) as store:
        store.add(np.zeros((500, 3)), keys=[f"k{row}" for row in range(500)], origin=["real"] * 500)
        assert store.count() == 503 and store.verify().ok


def test_tables_are_those_of_the_models_and_hold_large_numbers(path, postgres):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from index_store.models import METADATA

    with IndexStore.open(path, catalog=postgres) as store:
        with store.catalog.reading() as connection:
            assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
            assert connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on"
        with store.catalog.writing(), store.catalog.transaction() as connection:
            connection.exec_driver_sql("UPDATE shards SET size = ?", (2**40,))
            last = engine.last_id(connection)
            engine.reserve(connection, 2**33)
        assert last == 3 and store.catalog.next_id() == 2**33 + 1


def test_which_server_is_asked_is_not_for_the_folder_to_say(path, postgres, tmp_path, monkeypatch):
    with pytest.raises(RgunitError, match="--catalog URL or RGUNIT_CATALOG"):
        IndexStore.open(path)
    monkeypatch.setenv(URL, postgres)
    with IndexStore.open(path) as store:
        assert store.count() == 3
    for text in ("{}", "x", *(json.dumps({"schema": name, "shards": 1}) for name in ("public; DROP", 5))):
        (path / "catalog.json").write_text(text)
        with pytest.raises(RgunitError, match=r"catalog\.json is damaged"):
            IndexStore.open(path)


def test_a_folder_with_sqlite_keeps_it_and_two_catalogs_are_refused(tmp_path, path, postgres, monkeypatch):
    IndexStore.create(tmp_path / "t", dim=2, attributes=[]).close()
    with pytest.raises(RgunitError, match="leave --catalog out"):
        IndexStore.open(tmp_path / "t", catalog=postgres)
    monkeypatch.setenv(URL, postgres)
    with IndexStore.open(tmp_path / "t") as store:
        assert store.catalog.file.name == "catalog.db"
    shutil.copy(tmp_path / "t" / "catalog.db", path)
    with pytest.raises(RgunitError, match="two catalogs"):
        IndexStore.open(path)


OTHERS = ["sqlite:///x", "postgresql://h/d", "postgresql+psycopg://h", "nonsense", "http://h/d"]
OTHERS += ["postgresql+psycopg://h:port/d"]


@pytest.mark.parametrize("url", OTHERS)
def test_another_url_is_refused_and_nothing_is_made(tmp_path, url):
    with pytest.raises(UsageError, match=r"postgresql\+psycopg://USER@HOST/DATABASE"):
        IndexStore.create(tmp_path / "s", dim=2, attributes=[], catalog=url)
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_named_without_its_password(path, tmp_path):
    url = "postgresql+psycopg://me:secret@127.0.0.1:9/faces"
    with pytest.raises(RgunitError, match="cannot be reached") as error:
        IndexStore.open(path, catalog=url)
    assert "secret" not in str(error.value) and "\n" not in str(error.value) and "damaged" not in str(error.value)
    with pytest.raises(RgunitError, match="cannot be reached"):
        IndexStore.create(tmp_path / "t", dim=2, attributes=[], catalog=url)
    assert not (tmp_path / "t").exists()


def test_what_a_url_says_wrongly_is_no_damage_and_a_password_is_never_shown(path, postgres, tmp_path):
    told = {
        "?foo=1": "option 'foo', which PostgreSQL does not know",
        "?connect_timeout=abc": r"cannot be reached \(bad value.*correct --catalog URL",
        "?password=secret&port=9": "cannot be reached",
        "_none": "database .*_none.* does not exist.*correct --catalog URL",
    }
    for ending, expected in told.items():
        with pytest.raises(RgunitError, match=expected) as error:
            IndexStore.open(path, catalog=postgres + ending)
        assert "damaged" not in str(error.value) and "secret" not in str(error.value)
        with pytest.raises(RgunitError, match=expected):
            IndexStore.create(tmp_path / "t", dim=2, attributes=[], catalog=postgres + ending)
        assert not (tmp_path / "t").exists()


def told(url, statement):
    """Have a database do something that is none of the store's."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def without_catalog(folder, keys=("x", "y", "z")):
    """Make a store with a SQLite file, and take that away."""
    with IndexStore.create(folder, dim=3, attributes=[]) as store:
        store.add(EYE, keys=keys)
    for file in folder.glob("catalog.db*"):
        file.unlink()


def test_a_user_without_the_right_to_make_a_schema_is_told_and_nothing_is_made(path, postgres, tmp_path):
    told(postgres, "CREATE ROLE poor LOGIN")
    url, expected = postgres.replace("rgunit@", "poor@"), "may not be used by this user .*: ask its owner"
    with pytest.raises(RgunitError, match=expected):
        IndexStore.create(tmp_path / "t", dim=3, attributes=[], catalog=url)
    assert not (tmp_path / "t").exists()
    without_catalog(tmp_path / "moving")
    for folder in (path, tmp_path / "moving"):
        before = sorted(file.name for file in folder.iterdir())
        with IndexStore.open(folder, catalog=url) as store, pytest.raises(RgunitError, match=expected):
            store.rebuild()
        assert sorted(file.name for file in folder.iterdir()) == before
    with IndexStore.open(tmp_path / "moving", catalog=postgres) as store:
        store.rebuild()
        assert store.count() == 3 and store.verify().ok


def test_a_text_that_postgresql_cannot_hold_is_no_damage(path, postgres, tmp_path):
    with IndexStore.open(path, catalog=postgres) as store:
        with pytest.raises(RgunitError, match=r"cannot hold this: .*NUL"):
            store.add(EYE[:1], keys=["a\0b"])
        assert store.count() == 3 and store.verify().ok
    without_catalog(tmp_path / "moving", ["a\0b", "y", "z"])
    refused = pytest.raises(RgunitError, match=r"cannot hold this: .*NUL.*nothing was changed")
    with IndexStore.open(tmp_path / "moving", catalog=postgres) as store, refused:
        store.rebuild()
    with IndexStore.open(tmp_path / "moving") as store:  # and so it stays with SQLite
        store.rebuild()
        assert store.count() == 3 and store.verify().ok


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_holds_what_it_can(postgres, tmp_path, encoding):
    name = f"in_{encoding.lower()}"
    told(postgres, f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    url = postgres.replace("/postgres", f"/{name}")
    with IndexStore.create(tmp_path / "s", dim=3, attributes=["ü"], catalog=url) as store:
        assert store.add(EYE[:1], labels=[[1]], keys=["é"]).tolist() == [1]
        assert store.schema.names == ("ü",) and store.add(EYE[:1], labels=[[1]], keys=["é"]).tolist() == [1]
        if encoding == "LATIN1":
            with pytest.raises(RgunitError, match=r"cannot hold this: .*no equivalent in encoding"):
                store.add(EYE[1:2], keys=["日本"])
        else:
            assert store.add(EYE[1:2], keys=["日本"]).tolist() == store.add(EYE[1:2], keys=["日本"]).tolist()
        assert store.verify().ok


def test_moving_from_sqlite_is_a_rebuild_and_so_is_a_lost_database(tmp_path, postgres):
    with Workspace.create(tmp_path / "w") as workspace:
        workspace.add_run("translation", "demo", {"a": 1})
        workspace.store().add(EYE, keys=["a", "b", "c"], encoder="e")
        workspace.store().remove([2])
    (tmp_path / "w" / "catalog.db").unlink()
    for suffix in ("-wal", "-shm"):
        (tmp_path / "w" / f"catalog.db{suffix}").unlink(missing_ok=True)
    with Workspace.open(tmp_path / "w", catalog=postgres) as workspace:
        for asked in (workspace.runs, workspace.images):
            with pytest.raises(RgunitError, match=r"has no catalog on .* yet.*rebuild"):
                asked()
        workspace.store().rebuild()
        assert workspace.store().verify().ok and workspace.store().count() == 2 and workspace.runs()[0].id == "r1"
        assert workspace.store().add(EYE[:1], encoder="e").tolist() == [4]
    schema, own = marker.read(tmp_path / "w")
    assert own
    with Workspace.open(tmp_path / "w", catalog=postgres) as workspace:
        with workspace.catalog.writing(), workspace.catalog.transaction() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        assert not workspace.store().verify().ok
        workspace.store().rebuild()
        assert workspace.store().verify().ok and workspace.store().count() == 3


def test_a_copy_of_the_folder_does_not_touch_the_catalog_of_the_original(path, postgres, tmp_path):
    shutil.copytree(path, tmp_path / "copy")
    with IndexStore.open(tmp_path / "copy", catalog=postgres) as copy:
        for asked in (lambda: copy.add(EYE), copy.count, lambda: copy.search(EYE), lambda: copy.remove([1])):
            with pytest.raises(RgunitError, match=r"is a copy.*rebuild"):
                asked()
        copy.rebuild()
        assert copy.add(EYE).tolist() == [4, 5, 6] and copy.verify().ok
    with IndexStore.open(path, catalog=postgres) as store:
        assert store.count() == 3 and store.verify().ok
    path.rename(tmp_path / "moved")
    with IndexStore.open(tmp_path / "moved", catalog=postgres) as store:
        assert store.count() == 3


def test_two_that_make_a_workspace_at_once_make_one(postgres, tmp_path, monkeypatch):
    monkeypatch.setenv(URL, postgres)
    (tmp_path / "w" / "shards").mkdir(parents=True)
    both = [Catalog(tmp_path / "w") for _ in range(2)]  # neither has seen the other
    for one in both:
        one.migrate()
    assert both[0].database.schema == both[1].database.schema == marker.read(tmp_path / "w")[0]
    for number, one in enumerate(both):
        with IndexStore(one) as store:
            assert store.add(EYE[number : number + 1], encoder="e").tolist() == [number + 1]
    monkeypatch.setattr(Catalog, "exists", Mock(side_effect=[False, True, True, True]))  # made a moment after the look
    with Workspace.ensure(tmp_path / "w") as workspace:
        assert workspace.store().count() == 2 and workspace.store().verify().ok


def add_rows(path, url, part, rows, acknowledged=None):
    with IndexStore.open(path, catalog=url) as store:
        for number in range(rows):
            ids = store.add(np.full((2, 3), part + number / 100), keys=[f"{part}/{number}/{row}" for row in range(2)])
            if acknowledged is not None:
                os.write(acknowledged, int(ids[-1]).to_bytes(4, "little"))


def test_two_processes_write_at_once_and_lose_nothing(path, postgres):
    writers = [processes.Process(target=add_rows, args=(path, postgres, part, 15)) for part in (1, 2)]
    for writer in writers:
        writer.start()
    with IndexStore.open(path, catalog=postgres) as reader:  # and this one reads meanwhile: whole batches only
        seen = [reader.count()]
        while any(writer.is_alive() for writer in writers):
            seen.append(reader.count())
            assert (seen[-1] - 3) % 2 == 0 and seen[-1] >= seen[-2]
        for writer in writers:
            writer.join()
            assert writer.exitcode == 0
        assert reader.count() == 63 and reader.verify().ok, reader.verify().problems
        assert len(np.unique(reader.state().ids)) == 63


@pytest.mark.parametrize("step", ["write", "commit", "committed"])
def test_a_writer_that_dies_leaves_the_lock_and_what_it_returned(path, postgres, step):
    reader, writer = processes.Pipe(duplex=False)
    child = processes.Process(target=_die_at, args=(path, postgres, step, writer))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    returned = reader.recv()
    with IndexStore.open(path, catalog=postgres) as store:
        assert store.add(EYE[:1]).size == 1  # waits for the server to notice, and takes up what was sealed
        assert store.verify().ok, store.verify().problems
        assert store.count() >= 4 + returned and not list((path / "shards").glob("*.writing"))


def _die_at(path, url, step, pipe):
    with IndexStore.open(path, catalog=url) as store:
        store.add(EYE[:2])
        pipe.send(2)
        store.catalog.step = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == step else None
        store.add(EYE)


def _train(path, url, pipe):
    with Workspace.open(path, catalog=url) as workspace:
        pipe.send(workspace.add_run("translation", "demo", {}).id)
        pipe.recv()


def test_what_another_process_trains_stays_and_nothing_is_forgotten_meanwhile(path, postgres, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "pictures" / "red.png")
    with Workspace.open(path, catalog=postgres) as workspace:
        workspace.add_images(tmp_path / "pictures", origin="unlabelled")
    ours, theirs = multiprocessing.Pipe()
    process = processes.Process(target=_train, args=(path, postgres, theirs), daemon=True)
    process.start()
    run = ours.recv()
    with Workspace.open(path, catalog=postgres) as workspace:
        with pytest.raises(RgunitError, match=f"{run} is being trained"):
            workspace.delete_runs([run])
        told = f"run {run} is being trained by process {process.pid}: wait"
        with pytest.raises(Locked, match=told), workspace.taken(run):
            pass
        with pytest.raises(Locked, match=f"{run} is being trained, perhaps on them"):
            workspace.forget("origin=unlabelled")
        assert workspace.store().count() == 4 and not (path / "forgetting.json").exists()
        process.kill()
        process.join()
        with pytest.raises(RgunitError, match="any reason"), workspace.taken(run):
            raise RgunitError("any reason")
        assert workspace.delete_runs([run])[0].id == run
        assert workspace.forget("origin=unlabelled").removed == 1


def test_a_second_writer_waits_its_turn_or_is_told_who_writes(path, postgres, monkeypatch):
    monkeypatch.setattr(engine, "TURN", 0.2)
    with IndexStore.open(path, catalog=postgres) as first, IndexStore.open(path, catalog=postgres) as second:
        with first.catalog.held():
            with pytest.raises(Locked, match="written by this process"):
                second.add(EYE)
            assert second.count() == 3
        assert second.add(EYE).tolist() == [4, 5, 6]
        monkeypatch.setattr(engine, "TURN", 30.0)
        with first.catalog.held():
            thread = threading.Thread(target=lambda: second.remove([4]))
            thread.start()
            assert first.add(EYE[:1]).tolist() == [7]
        thread.join()
        assert first.count() == 6


def test_a_writer_whose_connection_is_lost_commits_nothing(path, postgres):
    with IndexStore.open(path, catalog=postgres) as store:

        def cut(name):
            if name == "commit":
                with store.catalog.database.engine.connect() as other:
                    mine = store.catalog.lock.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
                    store.catalog.lock.connection.rollback()
                    other.exec_driver_sql("SELECT pg_terminate_backend(?)", (mine,))
                    other.commit()

        store.catalog.step = cut
        with pytest.raises(RgunitError, match="cannot write"):
            store.add(EYE)
        store.catalog.step = lambda name: None
        assert store.count() == 3 and store.add(EYE).tolist() == [4, 5, 6] and store.verify().ok


CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'rgunit%%'"


def test_a_server_that_was_started_again_is_asked_again(path, postgres):
    with Workspace.open(path, catalog=postgres) as workspace:
        store = workspace.store()
        for change in (lambda: store.add(EYE), store.verify, workspace.runs, store.rebuild, lambda: store.remove([1])):
            told(postgres, CUT)
            change()
        assert store.count() == 5 and store.verify().ok


@pytest.mark.parametrize("step", ["begin", "write", "fsync", "rename", "fsync folder", "commit"])
def test_a_turn_that_is_lost_to_another_writer_costs_neither_anything(path, postgres, step):
    with IndexStore.open(path, catalog=postgres) as store, IndexStore.open(path, catalog=postgres) as other:

        def lose(name):
            if name == step:
                told(postgres, CUT)
                theirs.extend(other.add(EYE[:1] * number)[0] for number in (2, 3))

        theirs, store.catalog.step = [], lose
        if step in ("fsync folder", "commit"):  # sealed: the other one has committed it before its own
            assert store.add(EYE).tolist() == [4, 5, 6] and theirs == [7, 8]
        else:
            with pytest.raises(RgunitError, match="turn to write; nothing was changed"):
                store.add(EYE)
            assert theirs == [4, 5]
        store.catalog.step = lambda name: None
        assert store.add(EYE[:1]).tolist() == [theirs[-1] + 1] and store.verify().ok, store.verify().problems
        assert len(store.vectors(theirs)) == 2 and other.count() == store.count()


def test_a_commit_whose_answer_is_lost_is_a_commit(path, postgres, monkeypatch):
    with IndexStore.open(path, catalog=postgres) as store:
        commit = store.catalog.commit

        def cut(parts):
            commit(parts)
            raise sa.exc.OperationalError("COMMIT", None, Exception("the connection is lost"))

        monkeypatch.setattr(store.catalog, "commit", cut)
        assert store.add(EYE).tolist() == [4, 5, 6] and store.count() == 6 and store.verify().ok


def test_a_fork_does_not_end_its_parents_connections(path, postgres):
    with IndexStore.open(path, catalog=postgres) as store, store.catalog.held():
        store.add(EYE[:1])
        if not (child := os.fork()):
            try:
                assert not store.catalog.lock.held and store.count() == 4 and store.search(EYE[2], k=1).ids[0, 0] == 3
                store.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert store.add(EYE[:1]).tolist() == [5] and store.catalog.lock.held


def test_what_may_only_be_read_is_read(path, postgres):
    with reading_only(path), IndexStore.open(path, catalog=postgres) as store:
        assert store.count() == 3 and store.verify().ok
        with pytest.raises(ReadOnly, match="may only be read"):
            store.add(EYE)
    schema, _ = marker.read(path)
    with Catalog.open(path, url=postgres).database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE guest LOGIN")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO guest")
        connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO guest")
    with IndexStore.open(path, catalog=postgres.replace("rgunit@", "guest@")) as store:
        assert store.count() == 3 and store.search(EYE[1], k=1).ids.tolist() == [[2]]
        with pytest.raises(ReadOnly, match="may only be read by this user"):
            store.add(EYE)


def test_a_catalog_of_a_newer_version_is_refused(path, postgres):
    store = IndexStore.open(path, catalog=postgres)
    with store, store.catalog.writing(), store.catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(RgunitError, match="newer rgunit"):
        IndexStore.open(path, catalog=postgres)


def test_damage_is_found_and_mended(path, postgres):
    with IndexStore.open(path, catalog=postgres) as store:
        with store.catalog.writing(), store.catalog.transaction() as connection:
            connection.exec_driver_sql("UPDATE images SET split = 'test' WHERE id = 2")
        assert store.verify().problems == ["catalog.json: table images does not match the shards"]
        store.rebuild()
        assert store.verify().ok and store.count("split=train") == 3
