import json
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import ColourEncoders, make_workspace, untrained

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from retrieval.evaluation import RetrievalProtocol, evaluate_queries, evaluate_retrieval
from retrieval.metrics import precision_at_k
from retrieval.retriever import Retriever, build_index


@pytest.fixture(scope="module")
def retriever(trained: tuple[Workspace, str], encoders: ColourEncoders) -> Retriever:
    return Retriever.open(*trained, encoders=encoders)


def test_the_summary_has_the_contracts_keys_and_is_json(retriever: Retriever) -> None:
    summary = evaluate_retrieval(retriever.workspace, retriever, split="test", k=5)
    scores = {"attributes", "content", "average", "per_attribute"}
    assert {"k", "queries", "random", *scores} <= set(summary)
    assert set(summary["random"]) == {"both", *scores}
    assert set(summary["per_attribute"]) == {"Red", "Green"}
    assert set(summary["baselines"]) == {
        *("content_only", "style_only", "late_fusion", "label_filter", "label_filter_content", "same_labels")
    }
    assert (summary["k"], summary["queries"]) == (5, 32)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["average"] == pytest.approx((summary["attributes"] + summary["content"]) / 2)
    assert summary["attributes"] == pytest.approx(np.mean(list(summary["per_attribute"].values())))


def test_training_beats_random_on_both_and_the_baselines_show_their_sides(retriever: Retriever) -> None:
    summary = evaluate_retrieval(retriever.workspace, retriever, split="train", k=5)
    assert summary["attributes"] > summary["random"]["attributes"] + 0.2
    assert summary["content"] > summary["random"]["content"]
    baselines = summary["baselines"]
    assert baselines["style_only"]["attributes"] > 0.95
    assert baselines["same_labels"]["attributes"] == 1
    assert baselines["content_only"]["content"] > summary["random"]["content"] + 0.1
    assert abs(baselines["content_only"]["attributes"] - summary["random"]["attributes"]) < 0.1
    assert summary["mean_average_precision"] > 0.5
    assert 0 < summary["recall"] <= 1


def test_what_each_query_met_adds_up_to_the_summary(retriever: Retriever) -> None:
    workspace = retriever.workspace
    told = evaluate_queries(workspace, retriever, RetrievalProtocol(k=5, seed=3))
    columns = workspace.schema.indices(["Red", "Green"])
    labels = {int(i): row for i, row in zip(workspace.images().ids, workspace.images().labels, strict=True)}
    near = np.array([[labels[int(i)] for i in row] for row in told.neighbour_ids])
    own = np.array([labels[int(i)] for i in told.query_ids])
    expected = precision_at_k(near[..., columns], told.targets)
    np.testing.assert_allclose(told.attributes, expected.mean(axis=1))
    assert told.summary["attributes"] == pytest.approx(expected.mean())
    content = precision_at_k(np.delete(near, columns, axis=2), np.delete(own, columns, axis=1))
    np.testing.assert_allclose(told.content, content.mean(axis=1))
    assert not (told.neighbour_ids == told.query_ids[:, None]).any()
    assert (np.diff(told.distances, axis=1) >= 0).all()
    kept = told.summary["by_change"]["Red"]
    assert kept["kept"]["queries"] + kept["flipped"]["queries"] == 32
    flips = (own[:, columns[0]] != told.targets[:, 0]).sum()
    assert kept["flipped"]["queries"] == flips
    assert told.summary == evaluate_retrieval(workspace, retriever, k=5, seed=3)
    assert told.summary != evaluate_retrieval(workspace, retriever, k=5, seed=4)


def test_the_index_gives_the_same_neighbours(retriever: Retriever) -> None:
    workspace, encoders = retriever.workspace, retriever.encoders
    build_index(workspace, retriever)
    told = evaluate_queries(workspace, retriever, RetrievalProtocol(k=5))
    images = torch.from_numpy(workspace.load(told.query_ids, 32)).permute(0, 3, 1, 2) / 127.5 - 1
    queries = retriever.embed(encoders.content(images), encoders.style_mean(torch.from_numpy(told.targets)))
    found = retriever.search(
        queries.numpy(), k=5, where="split=test origin=real", exclude=list(told.query_ids[:, None])
    )
    np.testing.assert_array_equal(found.ids, told.neighbour_ids)
    np.testing.assert_allclose(found.distances, told.distances, rtol=1e-3, atol=1e-4)


def test_random_is_the_mean_of_random_retrievals(retriever: Retriever) -> None:
    told = evaluate_queries(retriever.workspace, retriever, RetrievalProtocol(k=5))
    table = retriever.workspace.images("split=test")
    labels = table.labels[:, retriever.workspace.schema.indices(["Red", "Green"])]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(300):
        rows = np.array([rng.permutation(np.delete(np.arange(32), i))[:5] for i in range(32)])
        drawn.append(precision_at_k(labels[rows], told.targets).mean())
    assert told.summary["random"]["attributes"] == pytest.approx(np.mean(drawn), abs=0.01)


def test_without_other_attributes_content_is_null(tmp_path: Path) -> None:
    with make_workspace(tmp_path, count=30) as workspace:
        encoders = ColourEncoders(workspace.schema.names)
        retriever = untrained(workspace, encoders)
        summary = evaluate_retrieval(workspace, retriever, k=5)
        assert summary["content"] is None
        assert summary["average"] is None
        assert summary["random"]["content"] is None
        assert 0 <= summary["attributes"] <= 1


def test_too_few_images_are_told_with_the_number_needed(retriever: Retriever) -> None:
    with pytest.raises(RgunitError, match=r"split test has 32 real images .* P@40 needs at least 41"):
        evaluate_retrieval(retriever.workspace, retriever, k=40)
    with pytest.raises(RgunitError, match="split nowhere has 0"):
        evaluate_retrieval(retriever.workspace, retriever, split="nowhere")
