import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.scoring import Case, draw_case, rank, rank_table, score, score_random, score_same_labels


def small(**kwargs: object) -> Case:
    """Six images; used: one attribute, other: two; queries are rows 0 and 3, asked for 0 and 1."""
    used = np.array([[1], [0], [0], [0], [1], [1]], np.int8)
    other = np.array([[1, 0], [1, 0], [0, 0], [1, 1], [1, -1], [0, 1]], np.int8)
    rows, targets = np.array([0, 3]), np.array([[0], [1]], np.int8)
    return Case(2, ("Hat",), used, other, rows, targets, **kwargs)  # type: ignore[arg-type]


def test_a_score_by_hand() -> None:
    told = score(small(), np.array([[1, 4], [4, 5]]))
    assert told["attributes"] == told["per_attribute"]["Hat"] == 3 / 4
    # content: first attribute 1, 1 of query 0; 1, 0 of query 3; second attribute: 1 of 1 known; 1 of 1 known
    assert told["content"] == pytest.approx((3 / 4 + 1) / 2)
    assert told["average"] == pytest.approx((3 / 4 + 7 / 8) / 2)
    assert told["both"] == 3 / 4
    # Query 0 wants rows 1, 2, 3 and has one in place 1: (1) / 2; query 3 wants 0, 4, 5 and has two of two.
    assert told["mean_average_precision_at_k"] == (1 / 2 + 1) / 2
    assert told["recall_at_k"] is None
    assert told["near_duplicates"] is None
    assert told["by_change"]["Hat"]["kept"] == {"queries": 0, "attributes": None, "content": None, "average": None}
    assert told["by_change"]["Hat"]["flipped"]["queries"] == 2


def test_relevance_is_asked_for_beside_the_labels() -> None:
    case = small(relevance=np.array([0, 0, 1, 1, 1, -1]))
    told = score(case, np.array([[1, 2], [4, 5]]))
    # Query 0 (relevance 0) has both in row 1 only; query 3 (relevance 1) in row 4, and row 5's is unknown.
    assert told["both"] == 2 / 3
    assert told["mean_average_precision_at_k"] == 1  # each has its only relevant image in place 1
    assert told["recall_at_k"] == 1
    assert score(case, np.array([[2, 3], [0, 1]]))["recall_at_k"] == 0
    alone = small(relevance=np.array([7, 0, 1, -1, 1, 1]))  # nobody is like query 0, and query 3's is unknown
    assert score(alone, np.array([[1, 2], [4, 5]]))["recall_at_k"] is None
    assert score(alone, np.array([[1, 2], [4, 5]]))["mean_average_precision_at_k"] is None


def test_near_duplicates_are_the_share_of_results_that_are_the_querys() -> None:
    case = small(duplicates=[np.array([1, 4]), np.empty(0, np.int64)])
    assert score(case, np.array([[1, 2], [1, 4]]))["near_duplicates"] == 1 / 4
    assert score(case, np.array([[1, -1], [4, 5]]))["near_duplicates"] == 1 / 3


def test_an_image_that_answers_many_queries_is_told() -> None:
    assert score(small(), np.array([[1, 2], [4, 1]]))["most_found"] == 1
    assert score(small(), np.array([[1, -1], [4, -1]]))["most_found"] == 0.5
    assert score(small(), np.full((2, 2), -1))["most_found"] is None


def test_unknown_labels_and_missing_neighbours_neither_match_nor_miss() -> None:
    used = np.array([[1, 0], [0, -1], [0, 0], [-1, -1]], np.int8)
    case = Case(3, ("A", "B"), used, np.empty((4, 0), np.int8), np.array([0]), np.array([[0, 0]], np.int8))
    told = score(case, np.array([[1, 3, -1]]))
    assert told["per_attribute"] == {"A": 1, "B": None}
    assert (told["both"], told["content"], told["average"]) == (None, None, None)
    assert score(case, np.array([[1, 2, 3]]))["both"] == 1


def test_random_by_hand() -> None:
    told = score_random(small(relevance=np.array([0, 0, 1, 1, 1, -1])))
    # Query 0 asks 0: rows 1, 2, 3 of 1…5; query 3 asks 1: rows 0, 4, 5 of the others.
    assert told["attributes"] == 3 / 5
    # Among the four others with known relevance, one has both for either query.
    assert told["both"] == pytest.approx(1 / 4)
    assert score_random(small())["both"] == 3 / 5
    assert score_same_labels(small())["attributes"] == 1
    # Query 0 among 1, 2, 3: 2/3 and 2/3; query 3 among 0, 4, 5: 2/3 and 1 of 2 known.
    assert score_same_labels(small())["content"] == pytest.approx((2 / 3 + (2 / 3 + 1 / 2) / 2) / 2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_random_is_the_mean_over_all_images_allowed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    used, other = rng.integers(-1, 2, (9, 2)).astype(np.int8), rng.integers(-1, 2, (9, 2)).astype(np.int8)
    relevance, family = rng.integers(-1, 2, 9), rng.integers(0, 5, 9)
    used[0] = 1
    case = draw_case(["A", "B"], used, other, seed=seed, relevance=relevance, family=family)
    every = np.array([np.where(family == family[row], -1, np.arange(9)) for row in case.rows])
    told, meant = score_random(case), score(case, every)
    singles = [score(Case(**{**vars(case), "rows": case.rows[[i]], "targets": case.targets[[i]]}), every[[i]])
               for i in range(len(case.rows))]  # fmt: skip
    both = [one["both"] for one in singles if one["both"] is not None]
    assert told["both"] == (pytest.approx(np.mean(both)) if both else None)
    for name in ("attributes", "content", "average"):
        assert told[name] == (None if meant[name] is None else pytest.approx(meant[name]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rank_is_brute_force_without_the_family(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, vectors = rng.normal(size=(9, 4)).astype(np.float32), rng.normal(size=(9, 4)).astype(np.float32)
    labels, family = rng.integers(0, 2, (9, 2)).astype(np.int8), np.array([0, 0, 1, 2, 3, 4, 5, 5, 5])
    case = draw_case(["A", "B"], labels, labels[:, :0], k=5, family=family)
    rows, distances = rank(queries, vectors, case, block=2)
    for i in range(9):
        plain = ((queries[i] - vectors) ** 2).sum(1)
        plain[family == family[i]] = np.inf
        np.testing.assert_array_equal(rows[i], np.argsort(plain, kind="stable")[:5])
        np.testing.assert_allclose(distances[i], np.sort(plain)[:5], rtol=1e-4, atol=1e-5)


def test_a_table_ranks_in_order_of_row_and_says_where_nobody_is_left() -> None:
    labels = np.array([[1], [0], [1], [1]], np.int8)
    case = draw_case(["A"], labels, labels[:, :0], k=5)
    table = np.array([[0, 2, 1, 1], [5, 0, np.inf, 5.0]])
    told = rank_table(table, case, slice(0, 2))
    np.testing.assert_array_equal(told, [[2, 3, 1, -1, -1], [0, 3, -1, -1, -1]])


def test_queries_are_the_fully_labelled_images_and_targets_their_label_vectors() -> None:
    used = np.array([[1, 0], [1, -1], [0, 0], [-1, -1], [1, 1]], np.int8)
    case = draw_case(["A", "B"], used, used[:, :0], seed=3)
    np.testing.assert_array_equal(case.rows, [0, 2, 4])
    expected = used[[0, 2, 4]][np.random.default_rng(3).integers(3, size=3)]
    np.testing.assert_array_equal(case.targets, expected)
    some = draw_case(["A", "B"], used, used[:, :0], queries=np.array([True, True, True, True, False]))
    np.testing.assert_array_equal(some.rows, [0, 2])
    assert not (some.targets == 1).all(axis=1).any()
    with pytest.raises(ValueError, match="no image has all"):
        draw_case(["A", "B"], used[3:4], used[3:4, :0])


def test_two_thousand_queries_are_scored_in_half_a_second() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (2000, 40)).astype(np.int8)
    case = draw_case(list("ABCDE"), labels[:, :5], labels[:, 5:], relevance=rng.integers(0, 500, 2000))
    neighbours = rng.integers(0, 2000, (2000, 10))
    start = time.process_time()
    score(case, neighbours)
    assert time.process_time() - start < 0.5
