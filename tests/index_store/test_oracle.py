"""Brute force is the oracle: whatever is added, removed, closed and reopened, a search finds the same as NumPy."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from index_store.errors import DuplicateKey
from index_store.store import IndexStore

DIM = 5
NAMES = ("a", "b", "c", "d e", "f", "g", "h", "i", "j")
TERMS = ["", "+a", "-b", "?c", '+"d e"', "+a -b", "+a +b ?f", "split=test", "origin=real", "+j split=train|test"]
TERMS += ["id=3|5|8|13|21|999", "+a id=2|4|6|8|10", "id=7", "id=0|1000000"]


class Oracle:
    """The rows of a store as plain Python, and searching them by brute force."""

    def __init__(self):
        self.rows = {}  # id -> (vector, labels, split, origin, key)

    def keeps(self, row, text):
        number, (_, labels, split, origin, _) = row
        for term in text.replace('"d e"', "d_e").split():
            if term.startswith("split="):
                if split not in term[6:].split("|"):
                    return False
            elif term.startswith("origin="):
                if origin not in term[7:].split("|"):
                    return False
            elif term.startswith("id="):
                if str(number) not in term[3:].split("|"):
                    return False
            elif labels[NAMES.index(term[1:].replace("_", " "))] != {"+": 1, "-": 0, "?": -1}[term[0]]:
                return False
        return True

    def search(self, query, k, text, exclude):
        found = []
        for number, row in self.rows.items():
            if number not in exclude and self.keeps((number, row), text):
                gap = np.asarray(row[0], np.float64) - np.asarray(query, np.float64)
                found.append((float(gap @ gap), number))
        return sorted(found)[:k]


def assert_same(oracle, ids, distances, query, k, text, exclude):
    """Same distances within 1e-3 relative, and ids that really have these distances."""
    expected = oracle.search(query, k, text, exclude)
    count = len(expected)
    assert (ids[:count] >= 0).all() and (ids[count:] == -1).all() and np.isinf(distances[count:]).all()
    assert len(set(ids[:count].tolist())) == count
    scale = float(np.asarray(query, np.float64) @ np.asarray(query, np.float64))
    tolerance = 1e-6 * (1 + scale)
    np.testing.assert_allclose(distances[:count], [gap for gap, _ in expected], rtol=1e-3, atol=tolerance)
    for number, distance in zip(ids[:count].tolist(), distances, strict=False):
        row = oracle.rows[number]
        assert number not in exclude and oracle.keeps((number, row), text)
        gap = np.asarray(row[0], np.float64) - np.asarray(query, np.float64)
        np.testing.assert_allclose(distance, gap @ gap, rtol=1e-3, atol=tolerance)


class StoreMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**32 - 1), offset=st.sampled_from([0.0, 0.0, 100.0]), grid=st.booleans())
    def begin(self, seed, offset, grid):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "store"
        self.rng, self.offset, self.grid = np.random.default_rng(seed), offset, grid
        self.oracle, self.used, self.number = Oracle(), set(), 0
        self.store = IndexStore.create(self.path, dim=DIM, attributes=NAMES)

    def draw(self, count):
        vectors = self.rng.normal(size=(count, DIM)) * 2
        if self.grid:
            vectors = np.round(vectors)  # many ties
        return (vectors + self.offset).astype(np.float32)

    @rule(count=st.integers(0, 40), keyed=st.booleans(), split=st.sampled_from(["train", "test", None]))
    def add(self, count, keyed, split):
        vectors, labels = self.draw(count), self.rng.integers(-1, 2, (count, len(NAMES))).astype(np.int8)
        origin = str(self.rng.choice(["real", "generated"]))
        keys = [f"key {self.number + row}" for row in range(count)] if keyed else None
        self.number += count
        ids = self.store.add(vectors, labels=labels, keys=keys, split=split, origin=origin)
        assert len(set(ids.tolist())) == count and not set(ids.tolist()) & self.used
        self.used |= set(ids.tolist())
        for row, number in enumerate(ids.tolist()):
            key = keys[row] if keys else None
            self.oracle.rows[number] = (vectors[row], labels[row], split or "", origin, key)

    @rule(other=st.booleans())
    def add_again(self, other):
        rows = [(number, row) for number, row in self.oracle.rows.items() if row[4]][:3]
        if not rows:
            return
        vectors = np.array([row[0] for _, row in rows]) + np.float32(other)
        labels = np.array([row[1] for _, row in rows])
        same = {name: [row[place] for _, row in rows] for place, name in ((4, "keys"), (2, "split"), (3, "origin"))}
        if other:
            with pytest.raises(DuplicateKey):
                self.store.add(vectors, labels=labels, **same)
        else:
            assert self.store.add(vectors, labels=labels, **same).tolist() == [number for number, _ in rows]

    @rule(share=st.floats(0, 1))
    def remove(self, share):
        gone = [number for number in self.oracle.rows if self.rng.random() < share * 0.5]
        assert self.store.remove([*gone, 10**6]) == len(gone)
        for number in gone:
            del self.oracle.rows[number]

    @rule()
    def reopen(self):
        self.store.close()
        self.store = IndexStore.open(self.path)

    @rule()
    def rebuild(self):
        self.store.rebuild()

    @rule()
    def compact(self):
        self.store.compact()

    @rule(
        queries=st.sampled_from([1, 3, 30]),
        k=st.integers(1, 12),
        texts=st.lists(st.sampled_from(TERMS), min_size=1, max_size=3),
        excluded=st.integers(0, 5),
        exact=st.booleans(),
    )
    def search(self, queries, k, texts, excluded, exact):
        vectors = self.draw(queries)
        where = texts[0] if len(texts) == 1 else [texts[row % len(texts)] for row in range(queries)]
        pool = np.array([*self.oracle.rows, -5], np.int64)
        exclude = [self.rng.choice(pool, excluded) for _ in range(queries)]
        found = self.store.search(vectors, k=k, where=where, exclude=exclude, exact=exact)
        assert found.ids.dtype == np.int64 and found.distances.dtype == np.float32 and found.plan
        for row in range(queries):
            text = where if isinstance(where, str) else where[row]
            out = set(exclude[row].tolist())
            assert_same(self.oracle, found.ids[row], found.distances[row], vectors[row], k, text, out)

    @invariant()
    def counts(self):
        if hasattr(self, "store"):
            for text in ("", "id=3|5|8|13", "split=test id=1|2|3|4|5|6"):
                assert self.store.count(text) == sum(self.oracle.keeps(item, text) for item in self.oracle.rows.items())

    def teardown(self):
        if hasattr(self, "store"):
            report = self.store.verify()
            assert report.ok, report.problems
            self.store.close()
            self.folder.cleanup()


StoreMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStore = StoreMachine.TestCase


@pytest.mark.slow
class TestStoreLong(StoreMachine.TestCase):
    settings = settings(
        max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.parametrize("queries", [1, 19, 20, 64])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_large_offsets_do_not_cost_neighbours(tmp_path, queries, offset):
    """FAISS's matrix product form (20 queries and more) would lose these by cancellation."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(3000, 16)) + offset).astype(np.float32)
    with IndexStore.create(tmp_path / "s", dim=16, attributes=[]) as store:
        ids = store.add(vectors)
        asked = (rng.normal(size=(queries, 16)) + offset).astype(np.float32)
        found = store.search(asked, k=10)
        gaps = ((asked[:, None].astype(np.float64) - vectors[None]) ** 2).sum(axis=2)
        assert (found.ids == ids[np.argsort(gaps, axis=1)[:, :10]]).all()
        np.testing.assert_allclose(found.distances, np.sort(gaps, axis=1)[:, :10], rtol=1e-3)


def test_two_named_vectors_are_fused_exactly(tmp_path):
    rng = np.random.default_rng(1)
    content, style = (rng.normal(size=(500, dim)).astype(np.float32) for dim in (12, 6))
    labels = rng.integers(0, 2, (500, 1)).astype(np.int8)
    with IndexStore.create(tmp_path / "s", dim=12, attributes=["a"], encoder="content") as store:
        ids = store.add(content, labels=labels)
        store.attach(ids[::-1][:400], style[::-1][:400], encoder="style", fingerprint="f")
        asked = {"content": rng.normal(size=(3, 12)), "style": rng.normal(size=(3, 6))}
        found = store.search_fused(asked, {"content": 0.3, "style": 2.0}, k=7, where="+a", exclude=ids[490:])
        gaps = 0.3 * ((asked["content"][:, None] - content) ** 2).sum(2) + 2 * (
            (asked["style"][:, None] - style) ** 2
        ).sum(2)
        gaps[:, (labels[:, 0] == 0) | (np.arange(500) < 100) | (np.arange(500) >= 490)] = np.inf
        assert (found.ids == ids[np.argsort(gaps, axis=1)[:, :7]]).all()
        np.testing.assert_allclose(found.distances, np.sort(gaps, axis=1)[:, :7], rtol=1e-3)


def test_fused_queries_may_each_have_their_own_filter(tmp_path):
    rng = np.random.default_rng(2)
    content, labels = rng.normal(size=(300, 6)).astype(np.float32), rng.integers(0, 2, (300, 1)).astype(np.int8)
    with IndexStore.create(tmp_path / "s", dim=6, attributes=["a"], encoder="content") as store:
        ids = store.add(content, labels=labels)
        asked = rng.normal(size=(4, 6)).astype(np.float32)
        where = ["+a", "-a", None, "id=7|8|9"]
        found = store.search_fused({"content": asked}, {"content": 0.5}, k=5, where=where, exclude=ids[:4])
        keeps = [labels[:, 0] == 1, labels[:, 0] == 0, np.ones(300, bool), np.isin(ids, (7, 8, 9))]
        for row, keep in enumerate(keeps):
            gaps = np.where(keep & (np.arange(300) >= 4), 0.5 * ((asked[row] - content) ** 2).sum(1), np.inf)
            best = np.argsort(gaps)[: min(5, int(np.isfinite(gaps).sum()))]
            assert (
                found.ids[row, : len(best)].tolist() == ids[best].tolist() and (found.ids[row, len(best) :] < 0).all()
            )


def test_many_ids_left_out_of_every_query(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    with IndexStore.create(tmp_path / "s", dim=4, attributes=[]) as store:
        ids = store.add(vectors)
        found = store.search(vectors[:3], k=120, exclude=ids[:400])
        assert (np.sort(found.ids, axis=1)[:, 20:] == ids[400:]).all() and (found.ids[:, 100:] == -1).all()
