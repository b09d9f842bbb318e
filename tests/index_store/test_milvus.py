"""Vectors on Milvus: the same store. `RGUNIT_TEST_VECTORS=milvus pytest tests/index_store` runs the whole suite of the
store on it; here is what it has of its own."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import warnings

import numpy as np
import pytest

from index_store import milvusheld
from index_store.engines import URL
from index_store.errors import RgunitError, UsageError
from index_store.milvusserver import Server
from index_store.store import IndexStore
from index_store.workspace import Workspace
from tests.milvus import free_port, program, server

EYE = np.eye(3, dtype=np.float32)
processes = multiprocessing.get_context("forkserver")


@pytest.fixture(autouse=True)
def _no_url_from_outside(monkeypatch):
    monkeypatch.delenv(URL, raising=False)


@pytest.fixture
def named(milvus, request, tmp_path):
    """A URL with a name that no other test uses, whose collections are dropped in the end."""
    name = f"t{abs(hash(request.node.name)) % 10**9}_{os.getpid()}"
    url = milvus.replace("?", f"/{name}?")
    yield url
    asked = Server(url)
    for one in asked.call("list_collections"):
        if one.startswith(name):
            asked.call("drop_collection", one)


@pytest.fixture
def path(tmp_path, named):
    with IndexStore.create(tmp_path / "s", dim=3, attributes=["a", "b"], groups=[["a", "b"]], vectors=named) as store:
        store.add(EYE, labels=[[1, 0], [0, -1], [-1, 1]], keys=["x", "y", "z?%"], split="train")
    return tmp_path / "s"


def collections(url):
    """Those of a URL's name."""
    asked = Server(url)
    return sorted(one for one in asked.call("list_collections") if one.startswith(asked.name))


def test_a_store_is_made_changed_compacted_and_opened_again(path, named):
    told = (path / "vectors.json").read_text()
    assert json.loads(told)["schema"] and "127.0.0.1" not in told and Server(named).name not in told
    with IndexStore.open(path, vectors=named) as store:
        assert store.search(EYE[1], k=2, where="-a").ids.tolist() == [[2, -1]]
        assert store.search(EYE[1], k=2, where="-a").plan == "Milvus FLAT: the rows that match"
        assert store._live._state is None  # a reader keeps no rows
        store.remove([3])
        assert store.search(EYE[2], k=3).ids.tolist() == [[1, 2, -1]]
        store.compact()
        assert store.add(EYE[:1]).tolist() == [4] and store.verify().ok, store.verify().problems
        with pickle.loads(pickle.dumps(store)) as other:
            assert other.search(EYE[0], k=2).ids.tolist() == [[1, 4]] and "Milvus" in other.search(EYE[0]).plan
        assert len(collections(named)) == 2


def test_content_and_style_are_fields_of_one_collection(tmp_path, named):
    rng = np.random.default_rng(1)
    parts = {"r2": 6, "r2.content": 9, "r2.style": 4}
    vectors = {name: rng.normal(size=(60, dim)).astype(np.float32) for name, dim in parts.items()}
    with Workspace.create(tmp_path / "w", vectors=named) as workspace:
        store = workspace.store()
        ids = store.add(vectors["r2"], labels=np.zeros((60, 0)), encoder="r2", fingerprint="f")
        store.attach(ids, vectors["r2.content"], encoder="r2.content", fingerprint="f")
        store.attach(ids[:40], vectors["r2.style"][:40], encoder="r2.style", fingerprint="f")
        assert len(collections(named)) == 2
        (held,) = [one for one in collections(named) if one != Server(named).name]
        fields = Server(named).described(held)
        assert {name: fields[name] for name in ("embedding", "content", "style")} == {
            "embedding": 6,
            "content": 9,
            "style": 4,
        }
        for name, part in vectors.items():
            count = 40 if name == "r2.style" else 60
            found = store.search(part[50:53] + 0.1, k=45, encoder=name, exclude=[ids[0]])
            gaps = ((part[50:53, None] + 0.1 - part[None, 1:count]) ** 2).sum(axis=2)
            expected = ids[1:][np.argsort(gaps, axis=1)[:, :45]]
            assert (found.ids[:, : expected.shape[1]] == expected).all() and found.plan.startswith("Milvus FLAT")
            assert (found.ids[:, expected.shape[1] :] == -1).all()
        fused = store.search_fused(
            {"r2.content": vectors["r2.content"][:1], "r2.style": vectors["r2.style"][:1]},
            {"r2.content": 1, "r2.style": 2},
            k=1,
        )
        assert fused.ids.tolist() == [[ids[0]]]
        store.attach(ids[40:], vectors["r2.style"][40:], encoder="r2.style", fingerprint="f")
        assert store.search(vectors["r2.style"][55], k=1, encoder="r2.style").ids.tolist() == [[ids[55]]]
        assert workspace.store().verify().ok, store.verify().problems


STEPS = ["write", "commit", "committed", "sent", "mark", "half"]
KILLS = [(step, "write") for step in STEPS] + [("half", "rebuild")]
KILLS += [pytest.param(step, "rebuild", marks=pytest.mark.slow) for step in STEPS[:-1]]


@pytest.mark.sqlite  # on PostgreSQL each change follows once more, at its begin
@pytest.mark.parametrize(("step", "mends"), KILLS)
def test_a_writer_that_is_killed_between_the_two_engines_loses_nothing(path, named, step, mends):
    child = processes.Process(target=_die_at, args=(path, named, step))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    there = step not in ("write", "commit")  # in the catalog
    expected = [[4, 5, 2], [4, 2, 5]] if there else [[1, 2, 3]]
    with IndexStore.open(path, vectors=named) as store:
        found = store.search(EYE[0] * 0.9, k=3)
        assert found.ids.tolist()[0][0] == expected[0][0] and store.count() == (8 if there else 3)
        assert set(store.search(EYE, k=8).ids.ravel().tolist()) - {-1} == (
            {2, 3, *range(4, 10)} if there else {1, 2, 3}
        )
        assert found.plan.startswith("sealed files, for Milvus has not all" if there else "Milvus FLAT")
        assert store.search(EYE[0], k=9, where="+b").ids[0, 0] == (4 if there else 3)
        problems = store.verify().problems
        if there:
            assert problems == [f"{Server(named).name} on {Server(named).shown}: is at change 2, the catalog at 4"]
        if mends == "write":
            store.add(EYE[:1] * 3)  # also takes up what was sealed and not committed
        else:
            store.rebuild()
        assert store.verify().ok, store.verify().problems
        found = store.search(EYE[0], k=9, where="+b")
        assert found.plan.startswith("Milvus FLAT") and found.ids[0, 0] == (3 if step == "write" else 4)


def _die_at(path, url, step):
    """Remove a row and add six, killed at a step; `half`: when half of the rows are sent."""
    with IndexStore.open(path, vectors=url) as store:
        follow, store.catalog.follow = store.catalog.follow, lambda: None
        store.catalog.step = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == step == "write" else None
        if step in ("write", "commit"):
            follow()
        else:
            store.remove([1])
        store.catalog.follow = lambda: None
        milvusheld.MANY_IDS, calls, call = 3, [], Server.call

        def counted(self, what, *args, **named):
            calls.append(what)
            if step == "half" and calls.count("upsert") == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(self, what, *args, **named)

        Server.call = counted
        store.catalog.step = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == step else None
        labels = [[-1, 1]] * 6
        committed, store.catalog.follow = [], lambda: committed.append(1) or (follow() if len(committed) > 1 else None)
        store.add(np.concatenate([EYE * 0.9, EYE * 0.8]), labels=labels)


@pytest.mark.sqlite  # the catalog is restored with the folder
def test_collections_that_are_ahead_of_a_restored_folder_are_named_and_made_anew(path, named, tmp_path):
    shutil.copytree(path, tmp_path / "before")
    with IndexStore.open(path, vectors=named) as store:
        store.add(EYE * 2)
    for part in ("shards", "catalog.db"):  # the folder's own inodes stay
        if (path / part).is_dir():
            for file in (path / part).iterdir():
                file.unlink()
            for file in (tmp_path / "before" / part).iterdir():
                shutil.copy(file, path / part)
        elif (path / part).exists():
            shutil.copy(tmp_path / "before" / part, path / part)
    for stale in path.glob("catalog.db-*"):
        stale.unlink()
    with IndexStore.open(path, vectors=named) as store:
        assert store.search(EYE[0] * 2, k=9).ids.tolist() == [[1, 2, 3, *[-1] * 6]]
        assert "is at change 3, the catalog at 2" in store.verify().problems[0]
        store.rebuild()
        assert store.verify().ok and store.search(EYE[0] * 2, k=4).ids.tolist() == [[1, 2, 3, -1]]
        assert store.add(EYE[:1]).tolist() == [4] and len(collections(named)) == 2


def test_rows_that_somebody_else_changed_are_told_and_mended(path, named):
    (held,) = [one for one in collections(named) if one != Server(named).name]
    asked = Server(named)
    (row,) = asked.call("query", held, filter="id in [2]", output_fields=["*"])
    asked.call("delete", held, ids=[1])
    asked.call("upsert", held, [row | {"id": 77}, row | {"split": "other"}])
    with IndexStore.open(path, vectors=named) as store:
        (told,) = store.verify().problems
        assert "lacks 1 rows, has 1 that are not in the catalog and 1 with other labels" in told and held in told
        store.rebuild()
        assert store.verify().ok and held not in collections(named) and len(collections(named)) == 2


def test_a_reader_goes_on_while_another_process_fills_the_collections_anew(path, named):
    with IndexStore.open(path, vectors=named) as reader:
        assert reader.search(EYE[1], k=1).plan.startswith("Milvus")
        with IndexStore.open(path, vectors=named.replace("FLAT", "HNSW")) as other:
            told = other.rebuild()
            assert "HNSW" in told[0]
        found = reader.search(EYE[1], k=1)
        assert found.ids.tolist() == [[2]] and found.plan.startswith("Milvus HNSW ef")


@pytest.mark.parametrize("index", ["HNSW", "IVF_SQ8", pytest.param("IVF_FLAT", marks=pytest.mark.slow)])
def test_an_approximate_index_is_as_deep_as_its_recall_needs_and_never_short(tmp_path, named, index):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1500, 8)).astype(np.float32)
    labels = (rng.random((1500, 1)) < 0.01).astype(np.int8)
    url = named.replace("FLAT", index)
    with IndexStore.create(tmp_path / "s", dim=8, attributes=["few"], vectors=url) as store:
        ids = store.add(vectors, labels=labels)
        (told,) = store.rebuild()
        assert "of the nearest 10" in told and index in told
        queries = rng.normal(size=(30, 8)).astype(np.float32)
        gaps = ((queries[:, None] - vectors[None]) ** 2).sum(axis=2)
        found = store.search(queries, k=10)
        truth = ids[np.argsort(gaps, axis=1)[:, :10]]
        assert np.mean([np.isin(one, two).mean() for one, two in zip(found.ids, truth, strict=True)]) > 0.98
        assert (store.search(queries, k=10, exact=True).ids == truth).all()
        count = int(labels.sum())
        few = store.search(queries, k=count + 3, where="+few")
        assert ((few.ids >= 0).sum(axis=1) == count).all() and "queries again by" in few.plan
        assert store.verify().ok


def test_attributes_beyond_the_room_make_the_collection_anew(path, named):
    names = [f"n{number}" for number in range(20)]
    csv = path.parent / "photos"
    csv.mkdir()
    with Workspace.open(path, vectors=named) as workspace:
        before = collections(named)
        from index_store.features import Record

        header = {"attributes": ["a", "b", *names], "groups": [["a", "b"]]}
        workspace.catalog.write(Record("schema", header))
        store = workspace.store()
        store.add(EYE[:1], labels=[[1, 0, *[1] * 20]])
        assert store.search(EYE[0], k=3, where="+n19").ids.tolist() == [[4, -1, -1]]
        assert store.search(EYE[0], k=3, where="?n19 +a").ids.tolist() == [[1, -1, -1]]
        assert store.verify().ok and collections(named) != before and len(collections(named)) == 2


def test_a_damaged_name_is_named_and_mended(tmp_path, milvus):
    with IndexStore.create(tmp_path / "s", dim=3, attributes=[], vectors=milvus) as store:
        store.add(EYE)
        (tmp_path / "s" / "vectors.json").write_text("{")
        assert "vectors.json is damaged" in store.verify().problems[0]
        store.rebuild()
        assert store.verify().ok and store.search(EYE[2], k=1).ids.tolist() == [[3]]


# Which server is asked, and what goes wrong


def test_which_server_is_asked_is_not_for_the_folder_to_say(path, named, monkeypatch):
    with pytest.raises(RgunitError, match=r"on Milvus.*--vectors URL or RGUNIT_VECTORS.*--vectors files"):
        IndexStore.open(path)
    with IndexStore.open(path, vectors="files") as store:
        assert store.search(EYE[1], k=1).plan == "exact scan of all 3 rows" and store.verify().ok
        store.add(EYE[:1] * 2)  # the collections are behind then
    monkeypatch.setenv(URL, named)
    with IndexStore.open(path) as store:
        found = store.search(EYE[0] * 2, k=1)
        assert found.ids.tolist() == [[4]] and "has not all of the last changes" in found.plan
        store.rebuild()
        assert store.search(EYE[0] * 2, k=1).plan == "Milvus FLAT: all rows"


def test_a_store_that_was_searched_in_its_files_moves_by_rebuild(tmp_path, milvus):
    with IndexStore.create(tmp_path / "s", dim=3, attributes=[]) as store:
        store.add(EYE)
    with IndexStore.open(tmp_path / "s", vectors=milvus) as store:
        assert (
            "has nothing of them yet" in store.search(EYE[0]).plan
            and "no vectors of s yet" in store.verify().problems[0]
        )
        store.rebuild()
        assert store.search(EYE[2], k=1).ids.tolist() == [[3]] and store.search(EYE[2]).plan == "Milvus FLAT: all rows"
        assert store.verify().ok


@pytest.mark.sqlite  # a copy has a catalog of its own
def test_other_peoples_collections_are_left_alone(path, named, tmp_path, milvus):
    with pytest.raises(RgunitError, match=r"holds the vectors of another workspace.*choose another name"):
        IndexStore.create(tmp_path / "t", dim=3, attributes=[], vectors=named)
    shutil.copytree(path, tmp_path / "copy")
    with IndexStore.open(tmp_path / "copy", vectors=named) as copy:
        for tried in (lambda: copy.search(EYE), lambda: copy.add(EYE), copy.rebuild):
            with pytest.raises(RgunitError, match="this is a copy of its folder"):
                tried()
    with IndexStore.open(tmp_path / "copy", vectors=milvus) as copy:
        copy.rebuild()
        assert copy.add(EYE).tolist() == [4, 5, 6] and copy.verify().ok
    other = Server(named.replace("?", "_other?"))
    other.make(other.name, [("id", "INT64", {"is_primary": True}), ("v", "FLOAT_VECTOR", {"dim": 2})], "FLAT")
    with IndexStore.open(path, vectors=other.url) as store, pytest.raises(RgunitError, match="none of rgunit's"):
        store.add(EYE)
    with IndexStore.open(path, vectors=named) as store:
        assert store.count() == 3 and store.verify().ok


def test_a_collection_of_another_dimension_is_refused_and_mended(path, named):
    (held,) = [one for one in collections(named) if one != Server(named).name]
    asked = Server(named)
    asked.call("drop_collection", held)
    asked.make(held, [("id", "INT64", {"is_primary": True}), ("embedding", "FLOAT_VECTOR", {"dim": 5})], "FLAT")
    with IndexStore.open(path, vectors=named) as store:
        with pytest.raises(RgunitError, match="has embedding vectors of 5 numbers, not of 3: `rgunit index rebuild`"):
            store.search(EYE[0])
        assert "not of 3" in store.verify().problems[0]
        store.rebuild()
        assert store.search(EYE[0], k=1).ids.tolist() == [[1]] and store.verify().ok


@pytest.mark.parametrize(
    "url",
    [
        "milvus+ftp://h/x",
        "milvus+http:///x",
        "http://h/x",
        "milvus+http://h/a-b",
        "x",
        "milvus+http://h/n?index=PQ",
        "milvus+http://h:x/n",
        "milvus+http://h/n?nprobe=3",
        "milvus+http://h/faces_0123456789ab",
    ],
)
def test_another_url_is_refused_and_nothing_is_made(tmp_path, url):
    with pytest.raises(UsageError, match=r"^[^\n]*$"):
        IndexStore.create(tmp_path / "s", dim=2, attributes=[], vectors=url)
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_named_without_its_password(path, tmp_path):
    program()
    url = f"milvus+http://me:s3cret@127.0.0.1:{free_port()}/faces"
    with IndexStore.open(path, vectors=url) as store:
        for tried in (lambda: store.search(EYE), lambda: store.add(EYE), store.rebuild):
            with pytest.raises(
                RgunitError, match=r"Milvus on http://127\.0\.0\.1:\d+ cannot be reached.*start it"
            ) as error:
                tried()
            assert "s3cret" not in str(error.value) and "\n" not in str(error.value)
        report = store.verify()
        assert "cannot be reached" in report.problems[0] and not report.remedy, "nothing to rebuild"
        assert store.count() == 3
    with pytest.raises(RgunitError, match="cannot be reached"):
        IndexStore.create(tmp_path / "t", dim=2, attributes=[], vectors=url)
    assert not (tmp_path / "t").exists()
    for file in path.rglob("*"):
        assert file.is_dir() or b"s3cret" not in file.read_bytes()


def test_without_pymilvus_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(RgunitError, match=r"pip install 'rgunit\[milvus\]'"):
        IndexStore.create(tmp_path / "s", dim=2, attributes=[], vectors="milvus+http://h/x")


def test_a_server_that_is_lost_just_after_a_commit_costs_nothing(tmp_path):
    program()
    (tmp_path / "m").mkdir()
    port = free_port()
    url = f"milvus+http://127.0.0.1:{port}/lost?index=FLAT"
    with server(tmp_path / "m", port) as process:
        store = IndexStore.create(tmp_path / "s", dim=3, attributes=[], vectors=url)
        store.add(EYE)
        store.catalog.step = lambda name: (process.kill(), process.wait()) if name == "committed" else None
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert store.add(EYE * 2).tolist() == [4, 5, 6]
        assert "cannot be reached" in str(told[0].message)
        store.catalog.step = lambda name: None
        with pytest.raises(RgunitError, match="cannot be reached"):
            store.add(EYE * 3)
        assert store.count() == 6
    with server(tmp_path / "m", port):
        assert store.search(EYE[0] * 2, k=1).ids.tolist() == [[4]]
        assert store.add(EYE * 3).tolist() == [7, 8, 9] and store.verify().ok, store.verify().problems
        assert store.search(EYE[0] * 2, k=1).plan == "Milvus FLAT: all rows"
        store.close()


def test_a_forked_child_searches(path, named):
    with IndexStore.open(path, vectors=named) as store:
        assert store.search(EYE[0], k=1).ids.tolist() == [[1]]
        if not (child := os.fork()):
            try:
                signal.alarm(20)
                os._exit(int(store.search(EYE[2], k=1).ids.tolist() != [[3]]))
            finally:
                os._exit(3)
        assert os.waitpid(child, 0)[1] == 0
        assert store.search(EYE[1], k=1).ids.tolist() == [[2]]
