"""The planner: whatever it chooses finds what brute force finds, and says what was chosen and why."""

import numpy as np
import pytest

from index_store import ann
from index_store.index import CellIndex, exact_search
from index_store.store import IndexStore
from tests.catalogs import copy_store

pytestmark = pytest.mark.files

DIM = 16
COUNT = 20_000
SHARES = {"half": 0.5, "tenth": 0.1, "few": 0.005, "none": 0.0}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, DIM)).astype(np.float32)
    vectors = (centres[rng.integers(0, 300, COUNT)] + 0.4 * rng.normal(size=(COUNT, DIM))).astype(np.float32)
    labels = np.stack([rng.random(COUNT) < share for share in SHARES.values()], axis=1).astype(np.int8)
    far = vectors[:, 0] > np.quantile(vectors[:, 0], 0.8)  # a filter that depends on where a vector lies
    queries = (centres[rng.integers(0, 300, 60)] + 0.4 * rng.normal(size=(60, DIM))).astype(np.float32)
    return vectors, np.column_stack([labels, far]).astype(np.int8), queries


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("planner") / "s"
    vectors, labels, _ = data
    with IndexStore.create(path, dim=DIM, attributes=[*SHARES, "far"]) as store:
        store.add(vectors[:18_000], labels=labels[:18_000])
        store.add(vectors[18_000:], labels=labels[18_000:])
        told = store.rebuild()
        assert any("cells" in line for line in told) and any("in memory" in line for line in told)
    return path


def truth(data, where, k):
    vectors, labels, queries = data
    rows = (
        np.flatnonzero(labels[:, [*SHARES, "far"].index(where[1:])] == int(where[0] == "+"))
        if where
        else np.arange(COUNT)
    )
    gaps = ((queries[:, None] - vectors[None, rows]) ** 2).sum(axis=2) if len(rows) else np.zeros((len(queries), 0))
    return rows[np.argsort(gaps, axis=1)[:, :k]] + 1, np.sort(gaps, axis=1)[:, :k]


@pytest.mark.parametrize("where", [None, "+half", "+tenth", "+few", "+none", "+far", "-far", "-half"])
@pytest.mark.parametrize("k", [1, 10])
def test_every_selectivity_finds_what_matches(path, data, where, k):
    expected, gaps = truth(data, where, k)
    with IndexStore.open(path) as store:
        found = [store.search(query, k=k, where=where) for query in data[2]]
        ids = np.vstack([one.ids for one in found])
        assert (ids[:, expected.shape[1] :] == -1).all() and (ids[:, : expected.shape[1]] > 0).all()
        recall = np.mean([np.isin(expected[row], ids[row]).mean() for row in range(len(ids))]) if expected.size else 1
        assert recall >= 0.99, (where, recall, found[0].plan)
        exact = store.search(data[2], k=k, where=where, exact=True)
        assert (exact.ids[:, : expected.shape[1]] == expected).all()
        np.testing.assert_allclose(exact.distances[:, : gaps.shape[1]], gaps, rtol=1e-3)


def test_the_plan_says_what_was_chosen_and_against_what(path, data):
    with IndexStore.open(path) as store:
        plan = store.search(data[2][0]).plan
        assert "ms a query estimated" in plan and ("cells" in plan)
        assert store.search(data[2][0], exact=True).plan == f"exact scan of all {COUNT} rows (asked for)"
        assert "that match" in store.search(data[2][0], where="+few").plan


def test_cells_that_hold_too_few_matches_lead_to_an_exact_retry(path, data):
    """Asked at the other end of the space, the nearest cells hold nothing that the filter keeps."""
    from index_store import search
    from index_store.index import exact_search

    with IndexStore.open(path) as store:
        state, table = store.snapshot()
        cells = store.cells(table)
        subset = search.Subsets().get(state, table, "+far")
        query = np.zeros((1, DIM), np.float32)
        query[0, 0] = -20
        distances, places, again = search.search_cells(table, cells, subset, query, 10)
        assert again.tolist() == [0]
        best, rows = exact_search(query, table.gather(subset.places), 10)
        assert (subset.places[rows] == places).all() and np.allclose(best, distances)


@pytest.mark.parametrize("where", ["+tenth", "+first", "+far"])
def test_many_files_are_looked_into_as_deep_as_what_is_found_asks_for(tmp_path, monkeypatch, where):
    """Matches by chance, all of them in the first of four files, and all nearest ones in the last."""
    from index_store import live, local, search

    for module in (live, local):
        monkeypatch.setattr(module, "BIG_SEGMENT", 4000)  # so that files of 6,000 rows have cells of their own
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(100, DIM)).astype(np.float32)
    with IndexStore.create(tmp_path / "s", dim=DIM, attributes=["tenth", "first", "far"]) as store:
        every = []
        for part in range(4):
            own = centres[rng.integers(0, 100, 6000)] + 0.4 * rng.normal(size=(6000, DIM)).astype(np.float32)
            own = (own + (10 if part == 3 else 0)).astype(np.float32)
            labels = [
                rng.random(6000) < 0.1,
                np.full(6000, part == 0) & (rng.random(6000) < 0.3),
                rng.random(6000) < 0.2,
            ]
            store.add(own, labels=np.stack(labels, axis=1).astype(np.int8))
            every.append(own)
        store.rebuild()
        state, table = store.snapshot()
        cells, subset = store.cells(table), search.Subsets().get(state, table, where)
        assert all(cells) and max(search.depths(table, subset, 10)) < ann.depth_for(10, subset.share)
        queries = np.concatenate([every[0][:20], every[3][:20]])
        found = [search.search_cells(table, cells, subset, query[None], 10) for query in queries]
        exact = search.search_exact(table, subset, queries, 10)[1]
        recall = np.mean([np.isin(exact[row], one[1][0]).mean() for row, one in enumerate(found)])
        assert recall >= 0.99, recall
        assert sum(len(one[2]) for one in found) < len(queries), "not every query needs an exact scan"


def test_cells_from_the_centroids_of_another_file_find_as_much(data):
    vectors, _, queries = data
    first, second = vectors[:10_000], vectors[10_000:]
    like = CellIndex.build(first, 256).centroids
    assert like.shape == (256, DIM) and like.dtype == np.float32
    cold, warm = CellIndex.build(second, 256), CellIndex.build(second, 256, like=like)
    assert not np.array_equal(warm.centroids, like), "k-means goes on from there"
    (_, true), found = exact_search(queries, second, 10), {}
    for name, index in {"cold": cold, "warm": warm}.items():
        ids = index.search(queries, 10, 8)[1]
        found[name] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, true, strict=True)])
        assert np.array_equal(np.sort(index.search(queries, 10, 256)[1]), np.sort(true)), "no row is lost"
    assert found["warm"] > found["cold"] - 0.03
    other = CellIndex.build(second, 128, like=like)
    assert np.array_equal(other.centroids, CellIndex.build(second, 128).centroids), "of another number: not used"


def test_the_centroids_of_a_file_that_lies_elsewhere_are_not_used(data):
    vectors, _, _ = data
    away = vectors[:10_000] + 30
    cold, warm = CellIndex.build(away, 256), CellIndex.build(away, 256, like=vectors[:256])
    assert np.array_equal(warm.centroids, cold.centroids)


def test_a_store_full_of_one_vector_gets_cells_too(tmp_path):
    """All rows fall into one cell, and the others stay empty."""
    vectors = np.zeros((18_000, 4), np.float32)
    vectors[:3] = np.eye(3, 4)
    with IndexStore.create(tmp_path / "s", dim=4, attributes=["a"]) as store:
        ids = store.add(vectors, labels=np.zeros((18_000, 1), np.int8))
        assert any("rows" in line for line in store.rebuild())
        assert store.search(vectors[1], k=1).ids[0].tolist() == [ids[1]]


def test_new_rows_are_found_at_once_and_removed_ones_never(path, data, tmp_path):
    copy_store(path, tmp_path / "s")
    with IndexStore.open(tmp_path / "s") as store:
        new = store.add(data[2][:3])
        assert store.search(data[2][:3], k=1).ids[:, 0].tolist() == new.tolist()
        before = store.search(data[2][3], k=5).ids[0]
        store.remove(before[:2])
        assert store.search(data[2][3], k=3).ids[0].tolist() == before[2:].tolist()
        assert store.verify().ok


def test_cells_are_derived_deleted_or_damaged_they_cost_nothing_but_time(path, data, tmp_path):
    copy_store(path, tmp_path / "s")
    expected, _ = truth(data, None, 10)
    file = next((tmp_path / "s" / ann.FOLDER).glob("*" + ann.SUFFIX))
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    file.write_bytes(damaged)
    with IndexStore.open(tmp_path / "s") as store:
        assert file.name in store.verify().problems[0]
        assert (store.search(data[2], k=10).ids == expected).all()
        store.rebuild()
        assert store.verify().ok
    file.unlink()
    with IndexStore.open(tmp_path / "s") as store:
        assert store.verify().ok and (store.search(data[2], k=10).ids == expected).all()
        store.rebuild()
        assert file.exists()
        store.compact()
        assert not file.exists() and store.verify().ok
        assert "cells" in store.search(data[2][0]).plan


def test_readers_get_on_while_another_process_takes_cells_away_and_makes_them_again(path, tmp_path):
    """What is loaded is whole or nothing, whatever lies in the file's place when."""
    import threading

    copy_store(path, tmp_path / "s")
    file = next((tmp_path / "s" / ann.FOLDER).glob("*" + ann.SUFFIX))
    shard, whole = file.name.removesuffix(ann.SUFFIX) + ".h5", file.read_bytes()
    done = threading.Event()

    def take_and_make():
        number = 0
        while not done.is_set():
            number += 1
            file.unlink(missing_ok=True)
            fresh = file.with_name("fresh")
            fresh.write_bytes(whole if number % 2 else whole[: 1000 * (number % 50)])
            fresh.rename(file)
            done.wait(0.005 if number % 2 else 0)

    other = threading.Thread(target=take_and_make)
    other.start()
    found = []
    while len(found) < 200 or (not any(found) and len(found) < 5000):
        found.append(ann.load_cells(tmp_path / "s", shard, (18_000, DIM)))
    done.set()
    other.join()
    assert all(cells is None or cells.index.rows == 18_000 for cells in found)
    assert any(found)
