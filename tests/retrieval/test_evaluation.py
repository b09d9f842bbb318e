import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from index_store.duplicates import near_pairs, perceptual_hash
from index_store.errors import RgunitError, UsageError
from index_store.workspace import GeneratedImage, Workspace
from retrieval.composing import descendants
from retrieval.content_models import keep_model
from retrieval.evaluation import (
    RetrievalProtocol,
    choose,
    embed_set,
    evaluate_queries,
    evaluate_vectors,
)
from retrieval.indexing import build_index
from retrieval.metrics import precision_at_k
from retrieval.retriever import Retriever
from retrieval.scoring import rank, score
from tests.retrieval.colours import ColourEncoders, fill, make_workspace, untrained


@pytest.fixture(scope="module")
def retriever(trained: tuple[Workspace, str], encoders: ColourEncoders) -> Retriever:
    return Retriever.open(*trained, encoders=encoders)


def test_the_summary_has_the_contracts_keys_and_is_json(retriever: Retriever) -> None:
    summary = evaluate_queries(retriever.workspace, retriever, RetrievalProtocol(split="test", k=5)).summary
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
    summary = evaluate_queries(retriever.workspace, retriever, RetrievalProtocol(split="train", k=5)).summary
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
    assert told.summary == evaluate_queries(workspace, retriever, RetrievalProtocol(k=5, seed=3)).summary
    assert told.summary != evaluate_queries(workspace, retriever, RetrievalProtocol(k=5, seed=4)).summary


def test_the_index_gives_the_same_neighbours(retriever: Retriever) -> None:
    workspace, encoders = retriever.workspace, retriever.encoders
    build_index(workspace, retriever)
    told = evaluate_queries(workspace, retriever, RetrievalProtocol(k=5))
    images = torch.from_numpy(workspace.load(told.query_ids, 32)).permute(0, 3, 1, 2) / 127.5 - 1
    queries = retriever.embed(encoders.content(images), encoders.style_mean(torch.from_numpy(told.targets)))
    found = retriever.nearest(
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
        summary = evaluate_queries(workspace, retriever, RetrievalProtocol(k=5)).summary
        assert summary["content"] is None
        assert summary["average"] is None
        assert summary["random"]["content"] is None
        assert 0 <= summary["attributes"] <= 1


def test_too_few_images_are_told_with_the_number_needed(retriever: Retriever) -> None:
    with pytest.raises(RgunitError, match=r"split test has 32 real images .* P@40 needs at least 41"):
        evaluate_queries(retriever.workspace, retriever, RetrievalProtocol(k=40))
    with pytest.raises(RgunitError, match="split nowhere has 0"):
        evaluate_queries(retriever.workspace, retriever, RetrievalProtocol(split="nowhere"))


def test_labels_are_for_scoring_and_never_for_searching(retriever: Retriever) -> None:
    table, case = choose(retriever.workspace, ("Red", "Green"), RetrievalProtocol(split="train", k=5))
    vectors, _ = embed_set(retriever.workspace, retriever, table.ids, case)
    summary, rows, distances = evaluate_vectors(case, vectors)
    order = np.random.default_rng(0).permutation(len(table))
    mixed = replace(case, used=case.used[order], other=case.other[order])
    shuffled, same_rows, same_distances = evaluate_vectors(mixed, vectors)
    np.testing.assert_array_equal(rows, same_rows)
    np.testing.assert_array_equal(distances, same_distances)
    assert shuffled["attributes"] < summary["attributes"] - 0.1  # and yet it is scored by them
    again, _ = embed_set(retriever.workspace, retriever, table.ids, mixed)
    for name, values in vars(vectors).items():
        np.testing.assert_array_equal(values, getattr(again, name))


def test_hidden_labels_change_what_searches_by_them_only(retriever: Retriever) -> None:
    told = {
        share: evaluate_queries(retriever.workspace, retriever, RetrievalProtocol(k=5, hidden=share)).summary
        for share in (0.0, 0.75, 1.0)
    }
    filters = [told[share]["baselines"].pop("label_filter")["attributes"] for share in told]
    contents = [told[share]["baselines"].pop("label_filter_content") for share in told]
    assert filters[0] == 1 > filters[1] > filters[2] == told[0.0]["attributes"]
    assert contents[2] == told[0.0]["baselines"]["content_only"]
    preferred = [told[share].pop("labels_prefer")["attributes"] for share in told]
    assert preferred[0] == 1 > preferred[1] > preferred[2] == told[0.0]["attributes"]
    assert told[0.0] == told[0.75] == told[1.0]


def test_unlabelled_images_are_searched_on_request(tmp_path: Path, encoders: ColourEncoders) -> None:
    with make_workspace(tmp_path, count=60, unlabelled=24) as workspace:
        retriever = untrained(workspace, encoders)
        alone = evaluate_queries(workspace, retriever, RetrievalProtocol(k=5))
        told = evaluate_queries(workspace, retriever, RetrievalProtocol(k=5, unlabelled=True))
        assert (alone.summary["queries"], alone.summary["images"]) == (12, 12)
        assert (told.summary["queries"], told.summary["images"]) == (12, 20)
        np.testing.assert_array_equal(told.query_ids, alone.query_ids)
        np.testing.assert_array_equal(told.targets, alone.targets)
        labels = workspace.images(ids=np.unique(told.neighbour_ids)).labels
        assert (labels[:, :2] < 0).any()


def test_what_was_generated_from_a_query_is_never_its_neighbour(tmp_path: Path, encoders: ColourEncoders) -> None:
    with make_workspace(tmp_path, count=30) as workspace:
        retriever = untrained(workspace, encoders)
        real = workspace.images("split=test")
        pixels, target = workspace.load(real.ids, 32), np.array([1, 1, -1, -1], np.int8)
        first = workspace.add_generated(
            [GeneratedImage(p, int(i), target, "r1") for p, i in zip(pixels, real.ids, strict=True)]
        )
        workspace.add_generated([GeneratedImage(p, int(i), target, "r1") for p, i in zip(pixels, first, strict=True)])
        told = evaluate_queries(workspace, retriever, RetrievalProtocol(k=27, generated=True))
        assert (told.summary["queries"], told.summary["images"]) == (10, 30)
        assert (told.neighbour_ids >= 0).all()
        for query, found in zip(told.query_ids, told.neighbour_ids, strict=True):
            assert not {int(one) for one in descendants(workspace, [int(query)])} & set(found.tolist())
        assert evaluate_queries(workspace, retriever, RetrievalProtocol(k=5)).summary["images"] == 10


def test_relevance_by_a_text_column(tmp_path: Path, encoders: ColourEncoders) -> None:
    folder = fill(tmp_path / "pictures", count=60)
    text = (folder / "labels.csv").read_text().splitlines()
    whose = ["who", *(f"p{i % 5}" if i % 7 else "" for i in range(60))]
    (folder / "labels.csv").write_text("\n".join(f"{row},{who}" for row, who in zip(text, whose, strict=True)))
    with Workspace.create(tmp_path / "workspace") as workspace:
        workspace.add_images(folder, attributes=folder / "labels.csv")
        retriever = untrained(workspace, encoders)
        told = evaluate_queries(workspace, retriever, RetrievalProtocol(k=5, relevance="who"))
        table = workspace.images("split=test")
        name = dict(zip(table.ids.tolist(), table.fields["who"], strict=True))
        hits = [
            any(name[int(i)] == name[int(query)] for i in found)
            for query, found in zip(told.query_ids, told.neighbour_ids, strict=True)
            if name[int(query)]
        ]
        assert told.summary["recall_at_k"] == pytest.approx(np.mean(hits))
        assert told.summary["both"] < evaluate_queries(workspace, retriever, RetrievalProtocol(k=5)).summary["both"]
        with pytest.raises(UsageError, match=r"no text column is called 'whom'; the images have: who"):
            evaluate_queries(workspace, retriever, RetrievalProtocol(relevance="whom"))


def test_near_duplicates_of_the_query_are_counted(tmp_path: Path, encoders: ColourEncoders) -> None:
    folder = fill(tmp_path / "pictures", count=30)
    for i in (2, 5):  # each of two test pictures once more, a little brighter
        twin = Image.open(folder / f"{i:03d}.png").point(lambda level: min(level + 3, 255))
        twin.save(folder / f"twin{i}.png")
    rows = (folder / "labels.csv").read_text().splitlines()
    twins = [rows[i + 1].replace(f"{i:03d}.png", f"twin{i}.png") for i in (2, 5)]
    (folder / "labels.csv").write_text("\n".join([*rows, *twins]))
    with Workspace.create(tmp_path / "workspace") as workspace:
        workspace.add_images(folder, attributes=folder / "labels.csv")
        told = evaluate_queries(workspace, untrained(workspace, encoders), RetrievalProtocol(k=11))
        assert told.summary["images"] == 12
        # All of the others are among eleven neighbours: each pair of alike pictures is met twice.
        pairs = near_pairs(perceptual_hash(workspace.load(told.query_ids, 32)))
        assert len(pairs) >= 2
        assert told.summary["near_duplicates"] == pytest.approx(2 * len(pairs) / (12 * 11))


def test_the_content_of_the_baselines_is_the_users_own_model_where_there_is_one(
    tmp_path: Path, encoders: ColourEncoders, write_network: Callable[[Path, list[int | str]], Path]
) -> None:
    with make_workspace(tmp_path, count=30) as workspace:
        retriever = untrained(workspace, encoders)
        own = evaluate_queries(workspace, retriever, RetrievalProtocol(k=5)).summary
        model = keep_model(workspace, write_network(tmp_path / "colour.onnx", ["n", 3, 16, 16]), None)
        told = evaluate_queries(workspace, retriever, RetrievalProtocol(k=5)).summary
        assert (own["content_vectors"], told["content_vectors"]) == (f"{retriever.run.id}.content", model.encoder_name)
        table, case = choose(workspace, encoders.schema.names, RetrievalProtocol(k=5))
        vectors = model(workspace.load(table.ids, model.side))
        expected = score(case, rank(vectors[case.rows], vectors, case)[0])
        assert {**told["baselines"]["content_only"], "near_duplicates": None} == expected
        assert told["attributes"] == own["attributes"]  # the run itself is as it was
        assert told["baselines"]["content_only"] != own["baselines"]["content_only"]
