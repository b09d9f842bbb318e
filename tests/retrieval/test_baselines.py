import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.baselines import WEIGHTS, filter_by_labels, late_fusion, mean_squared_distance, simple_retrievals
from retrieval.scoring import Case, draw_case, score


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def case(k: int = 2) -> Case:
    """Row 0 asks for label 1. Content: rows 1, 2 are near; style: rows 3, 4 are; the second attribute is content."""
    used = np.array([[0], [0], [0], [1], [1]], np.int8)
    other = np.array([[1], [1], [1], [0], [1]], np.int8)
    return Case(k, ("A",), used, other, np.array([0]), np.array([[1]], np.int8))


CONTENT, STYLE, WANTED = column(0, 1, 2, 9, 3), column(-1, -2, -3, 1, 2), column(1)


def test_each_simple_retrieval_by_hand() -> None:
    scores, curve = simple_retrievals(case(), CONTENT, STYLE, WANTED)
    told = {name: (row["attributes"], row["content"]) for name, row in scores.items()}
    assert told["content_only"] == (0, 1)  # rows 1, 2
    assert told["style_only"] == (1, 1 / 2)  # rows 3, 4
    assert told["same_labels"] == (1, 1 / 2)
    # Of rows 1 to 4, content's distances are 1, 4, 81, 9 in units of 20, style's 9, 16, 0, 1 in units of 6.88.
    # At weight 0.6 the sums are .55, 1.05, 2.43, .33: rows 4 and 1. At 0.1 they are 1.18, 2.11, .41, .18: rows 4 and 3.
    assert mean_squared_distance(CONTENT) == pytest.approx(20)
    assert mean_squared_distance(STYLE) == pytest.approx(6.88)
    assert [row["weight"] for row in curve] == list(WEIGHTS)
    assert (curve[5]["attributes"], curve[5]["content"]) == (1 / 2, 1)
    assert (curve[0]["attributes"], curve[0]["content"]) == (1, 1 / 2)
    assert scores["late_fusion"]["average"] == max(row["average"] for row in curve) == 3 / 4
    assert {name: scores["late_fusion"][name] for name in curve[0]} in curve


def test_without_an_average_the_best_weight_is_that_of_both() -> None:
    bare = Case(**{**vars(case()), "other": np.empty((5, 0), np.int8)})
    scores, curve = simple_retrievals(bare, CONTENT, STYLE, WANTED)
    assert scores["late_fusion"]["average"] is None
    assert scores["late_fusion"]["both"] == max(row["both"] for row in curve) == 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), weight=st.floats(0.05, 0.95))
def test_late_fusion_is_the_sum_of_scaled_distances(seed: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (9, 2)).astype(np.int8)
    asked = draw_case(["A"], labels[:, :1], labels[:, 1:], k=4)
    content, style, wanted = (rng.normal(size=(9, d)).astype(np.float32) for d in (3, 2, 2))
    apart = [((a[:, None].astype(float) - b[None]) ** 2).sum(2) for a, b in ((content, content), (wanted, style))]
    units = [((a[:, None].astype(float) - a[None]) ** 2).sum(2).mean() for a in (content, style)]
    table = weight * apart[0] / units[0] + (1 - weight) * apart[1] / units[1]
    np.fill_diagonal(table, np.inf)
    (rows,) = late_fusion(asked, [(content, content), (wanted, style)], [(weight, 1 - weight)], block=2)
    np.testing.assert_array_equal(rows, np.argsort(table, axis=1, kind="stable")[:, :4])


def test_the_label_filter_puts_what_contradicts_last() -> None:
    assert filter_by_labels(case(3), column(0), CONTENT).tolist() == [[4, 3, 1]]  # right labels first, then distance
    known = np.array([[0], [-1], [0], [1], [-1]], np.int8)
    assert filter_by_labels(case(3), column(0), CONTENT, known).tolist() == [[1, 4, 3]]  # unknown ones by distance
    hidden = np.full((5, 1), -1, np.int8)
    assert filter_by_labels(case(3), column(0), CONTENT, hidden).tolist() == [[1, 2, 4]]  # the distance alone


def test_all_labels_known_make_the_filter_perfect_on_attributes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (200, 6)).astype(np.int8)
    asked = draw_case(["A", "B"], labels[:, :2], labels[:, 2:])
    vectors = rng.normal(size=(200, 5)).astype(np.float32)
    assert score(asked, filter_by_labels(asked, vectors, vectors))["attributes"] == 1
