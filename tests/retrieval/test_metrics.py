import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.metrics import (
    average_precision,
    average_precision_at_k,
    precision_at_k,
    random_precision,
    recall_at_k,
    same_labels_precision,
    smallest,
)

nan = np.nan


def test_precision_at_k_is_the_share_that_agrees_with_the_target() -> None:
    neighbours = np.array([[[1, 0], [1, 1], [0, 0], [1, -1]]], np.int8)  # one query, four neighbours, two attributes
    np.testing.assert_allclose(precision_at_k(neighbours, np.array([[1, 0]], np.int8)), [[3 / 4, 2 / 3]])
    np.testing.assert_allclose(precision_at_k(neighbours, np.array([[0, 1]], np.int8)), [[1 / 4, 1 / 3]])
    np.testing.assert_allclose(precision_at_k(neighbours, np.array([[-1, 1]], np.int8)), [[nan, 1 / 3]])


def test_random_precision_by_hand() -> None:
    labels = np.array([[1], [1], [1], [0], [-1]], np.int8)
    own, target = np.array([0, 3, 4, -1]), np.array([[1], [1], [0], [0]], np.int8)
    # of the others: 2 of 3 known; 3 of 3; 1 of 4; and an outside query sees 1 of 4
    np.testing.assert_allclose(random_precision(labels, target, own)[:, 0], [2 / 3, 1, 1 / 4, 1 / 4])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 9), missing=st.booleans())
def test_random_precision_is_the_mean_over_every_other_image(seed: int, n: int, missing: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1 if missing else 0, 2, (n, 3)).astype(np.int8)
    target, own = rng.integers(0, 2, (n, 3)).astype(np.int8), np.arange(n)
    expected = np.concatenate([precision_at_k(np.delete(labels, i, 0)[None], target[i : i + 1]) for i in range(n)])
    np.testing.assert_allclose(random_precision(labels, target, own), expected)


def test_random_images_with_the_wanted_labels() -> None:
    used = np.array([[1], [1], [1], [0]], np.int8)
    other = np.array([[1], [0], [1], [0]], np.int8)
    own, wanted = np.arange(4), np.array([[1], [0], [0], [1]], np.int8)
    # Query 0 meets rows 1 and 2, of which one is like it; 1 and 2 meet row 3; 3 meets rows 0 to 2.
    expected = [1 / 2, 1, 0, 1 / 3]
    np.testing.assert_allclose(same_labels_precision(other, other[own], own, used, wanted)[:, 0], expected)
    alone = same_labels_precision(other[3:], other[3:], np.array([0]), used[3:], np.array([[0]], np.int8))
    assert np.isnan(alone).all()  # nobody else has them


def test_random_precision_leaves_out_the_family() -> None:
    labels = np.array([[1], [1], [0], [0], [-1]], np.int8)
    family, own = np.array([0, 0, 0, 1, 1]), np.array([0, 3])
    # Query 0 can draw only row 3 (0) and row 4 (unknown); query 3 draws rows 0, 1 (1, 1) and 2 (0).
    told = random_precision(labels, np.array([[0], [1]], np.int8), own, family)
    np.testing.assert_allclose(told[:, 0], [1, 2 / 3])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 50]))
def test_the_smallest_are_those_of_a_stable_sort(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, levels, (6, 9)).astype(np.float64)
    table[rng.random(table.shape) < 0.1] = np.inf
    columns, values = smallest(table, 5)
    np.testing.assert_array_equal(columns, np.argsort(table, axis=1, kind="stable")[:, :5])
    np.testing.assert_array_equal(values, np.sort(table, axis=1)[:, :5])


def test_average_precision_and_recall_by_hand() -> None:
    ranking = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_allclose(average_precision(ranking), [(1 + 2 / 3) / 2, 1 / 2, nan])
    np.testing.assert_allclose(recall_at_k(ranking, 2), [1 / 2, 1, nan])


def test_average_precision_of_the_first_page_by_hand() -> None:
    page = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]], bool)
    of = np.array([5, 2, 1, 4, 0])
    expected = [(1 + 2 / 3) / 3, (1 / 3) / 2, 1, 0, nan]
    np.testing.assert_allclose(average_precision_at_k(page, of), expected)
