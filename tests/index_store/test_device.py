"""FAISS on a GPU: whatever is searched there, the answer is the CPU's. Without a GPU its CPU twins go the same way."""

import os
import pickle

import faiss
import numpy as np
import pytest

from index_store import index
from index_store.device import Device, Times, device_of
from index_store.errors import RgunitError, UsageError
from index_store.index import exact_search
from index_store.store import IndexStore
from tests.catalogs import copy_store

pytestmark = pytest.mark.files

DIM, COUNT = 16, 20_000
GPUS = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
MIB = 4


class Chosen(Device):
    """A device that is always taken for the faster one."""

    def cost(self, rows, dim, queries):
        return 0.0, 1.0


@pytest.fixture(params=["twin", "cuda"])
def make(request):
    if request.param == "cuda" and not GPUS:
        pytest.skip("needs a GPU and FAISS's GPU build")
    return lambda mib=MIB: Chosen(0 if request.param == "cuda" else None, mib)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, DIM)).astype(np.float32)
    vectors = (centres[rng.integers(0, 300, COUNT)] + 0.4 * rng.normal(size=(COUNT, DIM))).astype(np.float32)
    labels = np.stack([rng.random(COUNT) < share for share in (0.5, 0.04)], axis=1).astype(np.int8)
    queries = (centres[rng.integers(0, 300, 40)] + 0.4 * rng.normal(size=(40, DIM))).astype(np.float32)
    return vectors, labels, queries


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("device") / "s"
    vectors, labels, _ = data
    with IndexStore.create(path, dim=DIM, attributes=["half", "few"]) as store:
        store.add(vectors[:18_000], labels=labels[:18_000])
        store.add(vectors[18_000:], labels=labels[18_000:])
        store.remove([5, 17, 19_000])
    return path


def same(found, expected):
    assert np.array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-5)


@pytest.mark.parametrize("queries", [1, 19, 40])
@pytest.mark.parametrize("where", [None, "+half", "+few", "-few", "id=1|2|3"])
def test_answers_are_the_cpus(path, data, make, queries, where):
    with IndexStore.open(path) as store:
        asked = data[2][:queries]
        expected = store.search(asked, k=7, where=where, exact=True)
        store._device = make()
        found = store.search(asked, k=7, where=where, exact=True)
        same(found, expected)
        assert found.plan.startswith(
            expected.plan.removesuffix(" (asked for)") + f" on {store.device.name} (vectors kept"
        )
        same(
            store.search(asked, k=7, where=where, exclude=expected.ids[0, :2]), _without(store, asked, where, expected)
        )


def _without(store, asked, where, expected):
    device, store._device = store._device, None
    try:
        return store.search(asked, k=7, where=where, exclude=expected.ids[0, :2], exact=True)
    finally:
        store._device = device


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_large_offsets_and_ties_do_not_cost_neighbours(make, offset):
    rng = np.random.default_rng(1)
    vectors = (np.round(rng.normal(size=(3000, 4))) + offset).astype(np.float32)
    asked = (rng.normal(size=(30, 4)) + offset).astype(np.float32)
    expected = exact_search(asked, vectors, 10)
    found = exact_search(asked, vectors, 10, make())
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert np.array_equal(found[1], expected[1])


def test_vectors_are_kept_within_the_budget_and_the_plan_says_so(path, data, make):
    with IndexStore.open(path) as store:
        expected = store.search(data[2], k=5, exact=True)
        store._device = device = make(1)
        found = store.search(data[2], k=5, exact=True)  # 18,000 rows are 1.1 MiB: sent; 2,000 are kept
        same(found, expected)
        assert "sent there in blocks: 1 MiB are over 1 MiB" in found.plan
        kept = store.search(data[2], k=5, where="+few", exact=True)
        assert "vectors kept there: 0 of 1 MiB" in kept.plan and 0 < device.held_bytes <= 2**20
        blocks = [np.zeros((10_000, DIM), np.float32) + number for number in range(3)]
        for block in blocks:
            device.knn(data[2], block, 3)
        assert device.held_bytes == 10_000 * DIM * 4
    assert device.held_bytes == 0  # closed


def test_the_planner_measures_and_takes_what_is_faster(path, data, make, monkeypatch):
    with IndexStore.open(path) as store:
        device = make()
        for row, taken in ((1e-6, True), (1e3, False)):
            store._device = Device(device.number, MIB)
            monkeypatch.setattr(Device, "_measure", lambda self, dim, queries, row=row: Times(1.0, row, row, 0.5))
            store._engine.forget()
            assert (store._device.name in store.search(data[2], k=5).plan) == taken
        assert store._device.name not in store.search(data[2], k=3000, exact=True).plan  # more than FAISS finds there


def test_what_is_measured_is_positive(make):
    told = Device(make().number, MIB).times(8, 3)
    assert told.cpu > 0 and told.sent > 0 and min(told.call, told.row) >= 0


def test_cells_built_there_find_what_the_cpus_find(path, data, make, tmp_path):
    copy_store(path, tmp_path / "s")
    with IndexStore.open(tmp_path / "s") as store:
        expected = store.search(data[2], k=5, exact=True)
        store._device = make()
        assert any("cells" in line for line in store.rebuild())
        store._device = None
        found = store.search(data[2], k=5)
        assert (found.ids == expected.ids).mean() > 0.99 and store.verify().ok


def test_a_selector_never_reaches_the_device(path, data, make, monkeypatch):
    """FAISS's GPU indexes would drop it without a word."""
    device = make()
    seen = []
    kept = device._kept
    monkeypatch.setattr(device, "_kept", lambda vectors: seen.append(len(vectors)) or kept(vectors))
    with IndexStore.open(path) as store:
        store._device = device
        store.search(data[2], k=5, where="+few", exact=True)
        assert seen == [store.count("+few")]  # the rows that match, gathered; no search parameters at all


def test_a_forked_child_leaves_the_gpu_alone():
    device = Device(0)
    if not (child := os.fork()):
        os._exit(0 if not device.usable and not device.fits(5) else 1)
    assert os.waitpid(child, 0)[1] == 0 and device.usable


def test_devices_by_name(path):
    assert device_of("cpu") is None and device_of("mps") is None
    for name in ("gpu", "cuda:x", "cuda:-1", ""):
        with pytest.raises(UsageError, match="auto, cpu, cuda or cuda:N"):
            device_of(name)
    with pytest.raises(UsageError, match="1 MiB"):
        Device(0, 0)
    with pytest.raises(RgunitError, match=r"device cuda:99: FAISS finds (no GPU|\d+ GPUs) here.*--device cpu"):
        IndexStore.open(path, device="cuda:99")
    with IndexStore.open(path, device="auto", device_mib=7) as store:
        assert (store.device is None) == (GPUS == 0)
        with pickle.loads(pickle.dumps(store)) as other:
            assert (other.device is None) == (GPUS == 0)


def test_the_cpu_path_is_left_as_it_is(data):
    assert index.DEVICE_ERROR >= 1
    vectors, _, queries = data
    gaps, rows = exact_search(queries, vectors, 5)
    assert np.array_equal(rows, faiss.knn(queries, vectors, 5)[1]) and gaps.shape == (40, 5)
