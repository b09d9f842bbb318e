"""Labels in an answer: what is known to contradict comes last, and what fits stands in order of content."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from index_store.attributes import AttributeSchema
from index_store.errors import UsageError
from retrieval.baselines import filter_by_labels, prefer_labels
from retrieval.evaluation import RetrievalProtocol, choose, embed_set, evaluate_vectors, visible
from retrieval.indexing import build_index
from retrieval.labels import asked_labels
from retrieval.metrics import squared_distances
from retrieval.retriever import Retriever
from retrieval.scoring import rank
from tests.retrieval.colours import ColourEncoders, make_workspace, untrained

USED = ("Red", "Green")


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, encoders: ColourEncoders) -> Iterator[Retriever]:
    """72 pictures, 24 of them without labels of the style, and a network with its first weights."""
    with make_workspace(tmp_path_factory.mktemp("labels"), count=72, unlabelled=24) as workspace:
        retriever = untrained(workspace, encoders)
        build_index(workspace, retriever)
        yield retriever


def not_red(retriever: Retriever) -> int:
    """The row of a picture that is known not to be red."""
    return int(np.flatnonzero(retriever.workspace.images().labels[:, 0] == 0)[0])


def test_the_order_of_an_answer_is_that_of_its_labels(indexed: Retriever) -> None:
    table, row = indexed.workspace.images(), not_red(indexed)
    labels = table.labels[:, indexed.workspace.schema.indices(USED)]
    target = np.array([1, labels[row, 1]])
    ids, plain = (
        [one.image_id for one in indexed.search(table.paths[row], edit="+Red", k=71, labels=how)]
        for how in ("prefer", "ignore")
    )
    assert sorted(ids) == sorted(plain) == sorted(set(table.ids.tolist()) - {int(table.ids[row])})
    found = labels[table.places(np.array(ids))]
    fits, against = (found == target).all(axis=1), ((found >= 0) & (found != target)).sum(axis=1)
    assert (np.diff(against) >= 0).all() and set(against) == {0, 1, 2} and 0 < fits.sum() < (against == 0).sum()
    content = indexed.named_vectors(indexed.workspace.load(table.ids, 32))[1]
    gaps = squared_distances(content[[row]], content)[0][table.places(np.array(ids))]
    assert (np.diff(gaps[fits]) >= -1e-6).all()  # those that fit by content, all others by the embedding
    in_plain = (labels[table.places(np.array(plain))] == target).all(axis=1)
    for which in (0, 1, 2):
        part = [i for i, count, fit in zip(ids, against, fits, strict=True) if count == which and not fit]
        assert part == [i for i in plain if i in part]
    agreeing = np.isin(plain, np.array(ids)[against == 0])
    assert fits[against == 0].tolist() == in_plain[agreeing].tolist()  # they have kept their places
    required = indexed.search(table.paths[row], edit="+Red", k=71, labels="require")
    assert [one.image_id for one in required] == np.array(ids)[fits].tolist()
    short = indexed.search(table.paths[row], edit="+Red", k=5)
    assert [one.image_id for one in short] == ids[:5]


def test_labels_that_were_only_read_off_a_picture_ask_for_nothing(indexed: Retriever) -> None:
    foreign = np.random.default_rng(3).integers(0, 255, (32, 32, 3), np.uint8)
    alike = [indexed.search(foreign, k=40, labels=how).neighbours for how in ("prefer", "ignore")]
    assert alike[0] == alike[1]
    with pytest.raises(UsageError, match="--labels require: no label is asked for"):
        indexed.search(foreign, labels="require")
    reds = indexed.search(foreign, edit="+Red", k=71, labels="require")
    assert {one.attributes["Red"] for one in reds} == {1}
    assert {one.attributes["Green"] for one in reds} == {0, 1}  # nobody knows what it was
    with pytest.raises(UsageError, match="one of prefer, require, ignore, not 'never'"):
        indexed.search(foreign, labels="never")


def test_the_filter_decides_before_the_labels(indexed: Retriever) -> None:
    path = indexed.workspace.images().paths[not_red(indexed)]
    found = indexed.search(path, k=9, where="+Red")
    assert {one.attributes["Red"] for one in found} == {1} and len(found) == 9
    with pytest.raises(UsageError, match="require asks for -Red, which the filter"):
        indexed.search(path, where="+Red", labels="require")


def test_content_alone_looks_at_the_labels_of_an_edit_only(indexed: Retriever) -> None:
    path = indexed.workspace.images().paths[not_red(indexed)]
    alike = [indexed.search(path, content_weight=1, k=20, labels=how).neighbours for how in ("prefer", "ignore")]
    assert alike[0] == alike[1]
    found = indexed.search(path, edit="+Red", content_weight=1, k=8)
    assert {one.attributes["Red"] for one in found} <= {1, None}
    assert [one.distance for one in found] == sorted(one.distance for one in found)


def test_of_several_pictures_a_label_counts_that_most_are_known_to_have() -> None:
    target, edit = np.array([1, 0, 1], np.int8), AttributeSchema(("a", "b", "c")).edit("-b")
    known = [np.array(row, np.int8) for row in ([1, 0, -1], [1, 1, -1], [0, -1, 1])]
    assert asked_labels(target, known, None).tolist() == [1, -1, -1]
    assert asked_labels(target, known, edit).tolist() == [1, 0, -1]
    assert asked_labels(target, [None, *known[:1]], None).tolist() == [-1, -1, -1]
    assert asked_labels(target, [], None).tolist() == [-1, -1, -1]


def test_the_evaluation_measures_what_a_query_answers(indexed: Retriever) -> None:
    workspace = indexed.workspace
    table, case = choose(workspace, USED, RetrievalProtocol(k=5, unlabelled=True))
    vectors, _ = embed_set(workspace, indexed, table.ids, case)
    found = prefer_labels(case, vectors.queries, vectors.images, vectors.content)
    for query, target, rows in list(zip(case.rows, case.targets, found, strict=True))[:8]:
        edit = " ".join(f"{name}={bit}" for name, bit in zip(USED, target, strict=True))
        told = indexed.search(table.paths[query], edit=edit, k=5, where="split=test")
        assert [one.image_id for one in told] == table.ids[rows].tolist()


def test_where_no_label_is_known_the_order_is_the_embeddings(indexed: Retriever) -> None:
    workspace = indexed.workspace
    table, case = choose(workspace, USED, RetrievalProtocol(k=5))
    vectors, _ = embed_set(workspace, indexed, table.ids, case)
    args = vectors.queries, vectors.images, vectors.content
    alone = rank(*args[:2], case)[0]
    np.testing.assert_array_equal(prefer_labels(case, *args, visible(case, 1.0)), alone)
    summary = evaluate_vectors(case, vectors)[0]
    shares = {row["known"]: row for row in summary["labels_known"]}
    assert list(shares) == [1.0, 0.25, 0.0]
    assert shares[0.0]["labels_prefer"]["average"] == summary["average"]
    assert shares[1.0]["labels_prefer"]["average"] == summary["labels_prefer"]["average"]
    low, high = summary["labels_prefer"]["interval"]
    assert low <= summary["labels_prefer"]["average"] <= high
    filtered = filter_by_labels(case, *args[:2])
    assert summary["labels_prefer"]["attributes"] >= (case.used[filtered] == case.targets[:, None]).mean() - 1e-9
    without = replace(case, used=case.used[:, :0], targets=case.targets[:, :0])
    np.testing.assert_array_equal(prefer_labels(without, *args), alone)
