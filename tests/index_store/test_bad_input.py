"""What cannot be meant is refused in one line, and changes nothing."""

import numpy as np
import pytest

from index_store.errors import UsageError
from index_store.store import IndexStore

HALF = "\ud800"  # half of a surrogate pair


@pytest.fixture
def store(tmp_path):
    with IndexStore.create(tmp_path / "s", dim=3, attributes=["a", "b"]) as store:
        store.add(np.eye(3), labels=[[1, 0], [0, 1], [-1, -1]], keys=["x", "y", "z"])
        yield store


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"k": 0}, "k must be"),
        ({"k": 2.5}, "k must be"),
        ({"k": "3"}, "k must be"),
        ({"k": True}, "k must be"),
        ({"queries": "abc"}, "must be numbers"),
        ({"queries": [{}]}, "must be numbers"),
        ({"queries": [np.nan, 0, 0]}, "finite"),
        ({"queries": [1e20, 0, 0]}, "must be shorter"),
        ({"queries": [1, 2]}, "have shape"),
        ({"where": 3}, "where must be"),
        ({"where": [3]}, "where must be"),
        ({"where": ["+a", "+b"]}, "1 queries but 2 filters"),
        ({"exclude": 1}, "exclude must be"),
        ({"k": 10**9}, "k = 1000000000 for . queries is too much"),
        ({"exclude": [1.5]}, "whole numbers"),
        ({"exclude": ["a"]}, "whole numbers"),
        ({"exclude": [[1], [2]]}, "1 queries but 2 arrays"),
    ],
)
def test_a_search_that_cannot_be_meant(store, given, told):
    with pytest.raises(UsageError, match=told) as error:
        store.search(**{"queries": [0, 0, 0], **given})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"vectors": 3.0}, "have shape"),
        ({"vectors": 3.0, "encoder": "new"}, "new encoder"),
        ({"vectors": "a"}, "must be numbers"),
        ({"vectors": [[1e30, 0, 0]]}, "must be shorter"),
        ({"labels": 1}, "labels of shape"),
        ({"labels": [[0.5, 0]]}, "labels must be"),
        ({"labels": [[np.nan, 0]]}, "labels must be"),
        ({"keys": "x"}, "a list of texts"),
        ({"keys": [HALF]}, "not valid Unicode"),
        ({"keys": [None]}, "not a text"),
        ({"split": 3}, "split must be"),
        ({"split": HALF}, "not valid Unicode"),
        ({"origin": "elsewhere"}, "unknown origin"),
    ],
)
def test_an_add_that_cannot_be_meant(store, given, told):
    with pytest.raises(UsageError, match=told):
        store.add(**{"vectors": [[1, 2, 3]], **given})
    assert store.count() == 3 and store.add([[1, 2, 3]]).tolist() == [4]


def test_ids_and_weights_that_cannot_be_meant(store, tmp_path):
    for ids in ([1.5], ["a"], None, [2**70]):
        with pytest.raises(UsageError, match="whole numbers"):
            store.remove(ids)
    with pytest.raises(UsageError, match="new encoder"):
        store.attach([1], 3.0, encoder="e", fingerprint="f")
    for weight in (float("nan"), float("inf"), -1, "a"):
        with pytest.raises(UsageError, match="weights must be"):
            store.search_fused({"default": [0, 0, 0]}, {"default": weight})
    assert store.count() == 3
    for given in ({"encoder": ""}, {"attributes": "ab"}, {"dim": 0}):
        with pytest.raises(UsageError):
            IndexStore.create(tmp_path / "t", **{"dim": 3, "attributes": [], **given})
    assert not (tmp_path / "t").exists()
