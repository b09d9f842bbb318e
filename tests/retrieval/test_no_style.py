"""Retrieval on a translation model without a style: content alone, learned from views of one picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from index_store.errors import RgunitError, UsageError
from index_store.images import write_image
from index_store.workspace import GeneratedImage, Workspace
from retrieval.ablation import Plan, _Bench
from retrieval.config import RetrievalConfig
from retrieval.evaluation import RetrievalProtocol, choose, evaluate_queries
from retrieval.indexing import build_index
from retrieval.map import make_map
from retrieval.pool import ITSELF, OWN, STYLELESS, WITHOUT, open_pool
from retrieval.queries import compose
from retrieval.retriever import Retriever
from retrieval.scoring import score_random, score_same_labels
from retrieval.tensors import to_tensor
from retrieval.train import RetrievalTask
from tests.retrieval.colours import CONFIG, ColourEncoders, PlainEncoders, paint, save_run, train, untrained

VIEWS = CONFIG.model_copy(
    update={"objective": "parts", "pool": 1.0, "optimizer": "adam", "learning_rate": 1e-3, "components": 64}
)
COUNT = 192  # pictures in all, a third of them test ones


def draw_domains(path: Path) -> Path:
    """trainA, trainB, testA, testB: A is red, B is green, and a folder in each for every pattern."""
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        side, pattern = i % 2, int(rng.integers(8))
        folder = path / f"{'test' if i % 3 == 2 else 'train'}{'AB'[side]}" / f"p{pattern}"
        write_image(folder / f"{i:03d}.png", paint(rng, np.array([1 - side, side], np.int8), pattern))
    return path


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("domains")
    with Workspace.create(folder / "workspace") as made:
        made.add_images(draw_domains(folder / "pictures"))
        yield made


@pytest.fixture(scope="module")
def retriever(domains: Workspace) -> Retriever:
    """Trained, kept, opened again, and indexed."""
    encoders = PlainEncoders()
    task = RetrievalTask(domains, encoders, VIEWS, seed=0)
    told = train(task, 1000)  # a second
    assert all(np.isfinite(list(step.values())).all() for step in told)
    assert np.mean([step["loss"] for step in told[-20:]]) < 0.75 * np.mean([step["loss"] for step in told[:20]])
    opened = Retriever.open(domains, save_run(domains, task, encoders, VIEWS), encoders=encoders)
    build_index(domains, opened)
    return opened


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Pictures without attributes: a text column and a split are all that is told of them."""
    folder, rng = tmp_path_factory.mktemp("bare"), np.random.default_rng(1)
    rows = []
    for i in range(60):
        pattern = int(rng.integers(8))
        write_image(folder / "pictures" / f"{i}.png", paint(rng, np.array([1, 0], np.int8), pattern))
        rows.append([f"{i}.png", f"p{pattern}", "test" if i % 3 == 2 else "train"])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "pattern", "split"], *rows])
    with Workspace.create(folder / "workspace") as made:
        made.add_images(folder / "pictures", attributes=folder / "table.csv", origin="unlabelled")
        yield made


def test_a_pool_holds_an_image_its_translation_and_a_view(domains: Workspace) -> None:
    encoders, table = PlainEncoders(), domains.images("split=train")
    pool = open_pool(domains, encoders, table.ids, np.full((len(table), 2), -1, np.int8), kept=True)
    assert pool.content.shape == (len(table), STYLELESS, 4, 8, 8)
    assert pool.style.shape == pool.given.shape == (len(table), STYLELESS, 0)
    images = to_tensor(domains.load(table.ids, 32))
    with torch.no_grad():
        content = encoders.content(images)
        made = encoders.translate(images, content, encoders.style(images)).image
        np.testing.assert_allclose(pool.content[:, ITSELF], content.numpy(), atol=0.2)
        np.testing.assert_allclose(pool.content[:, OWN], encoders.content(made).numpy(), atol=0.2)
    before = len(encoders.encoded)
    again = open_pool(domains, encoders, table.ids, np.full((len(table), 2), -1, np.int8), kept=True)
    assert len(encoders.encoded) == before
    np.testing.assert_array_equal(pool.content, again.content)


def test_every_training_image_teaches_labelled_or_not(bare: Workspace, tmp_path: Path) -> None:
    task = RetrievalTask(bare, PlainEncoders(()), VIEWS)
    assert task.ids.tolist() == bare.images("split=train").ids.tolist()
    with Workspace.create(tmp_path / "workspace") as mixed:
        mixed.add_images(draw_domains(tmp_path / "pictures"))
        more, rng = tmp_path / "more", np.random.default_rng(2)
        for i in range(3):
            write_image(more / f"{i}.png", paint(rng, np.array([1, 1], np.int8), i))
        mixed.add_images(more, origin="unlabelled")
        real = mixed.images("split=train origin=real").ids
        mixed.add_generated(
            [GeneratedImage(mixed.load(real[:1], 32)[0], int(real[0]), np.array([0, 1], np.int8), "r1")]
        )
        task = RetrievalTask(mixed, PlainEncoders(), VIEWS)
        assert task.ids.tolist() == mixed.images("split=train origin=real|unlabelled").ids.tolist()
        assert len(task.ids) == len(real) + 3


def test_a_batch_is_a_function_of_seed_and_step_and_training_goes_on_from_weights(domains: Workspace) -> None:
    encoders = PlainEncoders()
    whole, half, rest = (RetrievalTask(domains, encoders, VIEWS, seed=1) for _ in range(3))
    torch.testing.assert_close(whole.prepare(5).content, half.prepare(5).content, rtol=0, atol=0)
    train(whole, 4)
    train(half, 2)
    rest.network.load_state_dict(half.network.state_dict())
    rest.optimizers["embedding"].load_state_dict(half.optimizers["embedding"].state_dict())
    train(rest, 4, first=2)
    assert all(torch.equal(p, q) for p, q in zip(whole.network.parameters(), rest.network.parameters(), strict=True))


def test_the_embedding_is_the_content_vector_of_length_1(domains: Workspace, retriever: Retriever) -> None:
    images = domains.load(domains.images("split=test").ids[:9], 32)
    embedded, content = retriever.named_vectors(images)
    assert embedded.shape == (9, VIEWS.dim) and (retriever.dim, retriever.style_dim) == (VIEWS.dim, 0)
    np.testing.assert_allclose(embedded, content, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
    there = {info.name for info in domains.store().encoders()}
    assert there == set(retriever.encoder_names) == {retriever.run.id, f"{retriever.run.id}.content"}
    assert build_index(domains, retriever) == 0


def test_the_same_content_is_found_in_the_other_domain(domains: Workspace, retriever: Retriever) -> None:
    table = domains.images("split=test +A")
    field = dict(zip(domains.images().ids.tolist(), domains.images().fields["folder"], strict=True))
    right = []
    for image, path in zip(table.ids.tolist(), table.paths, strict=True):
        found = retriever.search(path, k=3, where="+B split=test")
        assert len(found) == 3 and all(one.attributes["B"] == 1 for one in found)
        assert found.target == {"A": None, "B": None}  # no label is looked for
        right += [field[one.image_id] == field[image] for one in found]
    assert np.mean(right) > 0.5  # by chance an eighth
    assert not {one.image_id for one in retriever.search(table.paths[0], k=200)} & {int(table.ids[0])}


def test_several_pictures_and_a_foreign_one_are_looked_for(retriever: Retriever) -> None:
    rng = np.random.default_rng(5)
    pictures = [paint(rng, np.array([1, 0], np.int8), 3) for _ in range(2)]
    assert len(retriever.search(pictures, k=4)) == len(retriever.search(pictures[0], k=4, content_weight=1.0)) == 4


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"edit": "+B"}, r"retrieval run r\d+, on translation run r0, has no style.*--where '\+Name' filters"),
        ({"style_of": np.zeros((32, 32, 3), np.uint8)}, r"has no style.*--style-of"),
        ({"content_weight": 0.5}, "content weight of 1"),
        ({"content_weight": 0.0}, "content weight of 1"),
    ],
)
def test_a_style_that_is_not_there_is_refused_in_one_line(
    retriever: Retriever, asked: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as error:
        retriever.search(np.zeros((32, 32, 3), np.uint8), **asked)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_composing_asks_for_no_label_whatever_the_model_says(domains: Workspace) -> None:
    class Silent(PlainEncoders):
        def style_labels(self, style: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(style), 0, dtype=torch.int8)

    image = np.zeros((32, 32, 3), np.uint8)
    for encoders in (PlainEncoders(), Silent(), PlainEncoders(())):
        query = compose(encoders, image, known_labels=np.ones(len(encoders.schema.names), np.int8))
        assert query.style.shape == (1, 0) and query.target.tolist() == [-1] * len(encoders.schema.names)
        with pytest.raises(UsageError, match="no style"):
            compose(encoders, image, style_of=image)


def test_content_alone_with_a_filter_a_query_is_brute_force(domains: Workspace, retriever: Retriever) -> None:
    table = domains.images()
    _, vectors = retriever.named_vectors(domains.load(table.ids, 32))
    where = ["+A", "+B split=train", None, f"id={table.ids[5]}|{table.ids[9]}"]
    keeps = [
        table.labels[:, 0] == 1,
        (table.labels[:, 1] == 1) & (table.split == "train"),
        np.ones(len(table), bool),
        np.isin(np.arange(len(table)), (5, 9)),
    ]
    found = retriever.nearest_weighted(vectors[:4], None, 1.0, k=3, where=where, exclude=list(table.ids[:4, None]))
    plain = retriever.nearest(vectors[:4], k=3, where=where, exclude=list(table.ids[:4, None]))
    np.testing.assert_array_equal(found.ids, plain.ids)
    for row, keep in enumerate(keeps):
        gaps = ((vectors[row].astype(np.float64) - vectors) ** 2).sum(1)
        gaps[~keep | (np.arange(len(table)) == row)] = np.inf
        best = np.argsort(gaps, kind="stable")[: min(3, int(np.isfinite(gaps).sum()))]
        assert (
            found.ids[row, : len(best)].tolist() == table.ids[best].tolist() and (found.ids[row, len(best) :] < 0).all()
        )


def test_content_alone_of_a_run_with_a_style_takes_a_filter_a_query_too(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "workspace") as workspace:
        workspace.add_images(draw_domains(tmp_path / "pictures"))
        styled = untrained(workspace, ColourEncoders(("A", "B")))
        build_index(workspace, styled)
        table = workspace.images()
        _, content, style = styled.named_vectors(workspace.load(table.ids[:4], 32))
        where = ["+A", "+B", "+A", "+B"]
        found = styled.nearest_weighted(content, style, 1.0, k=5, where=where)
        for row, side in enumerate((0, 1, 0, 1)):
            assert (table.labels[table.places(found.ids[row]), side] == 1).all()
            one = styled.nearest_weighted(content[row : row + 1], None, 1.0, k=5, where=where[row])
            assert one.ids[0].tolist() == found.ids[row].tolist()
        both = styled.nearest_weighted(content, style, 0.5, k=5, where=where)
        assert not np.array_equal(both.ids, found.ids)
        with pytest.raises(UsageError, match="no style"):
            styled.nearest_weighted(content, None, 0.5)


def test_two_domains_alone_leave_content_unjudged_but_for_a_text_column(retriever: Retriever) -> None:
    domains = retriever.workspace
    told = evaluate_queries(domains, retriever, RetrievalProtocol(k=5)).summary
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["content"], told["average"], told["content_by"], told["random"]["content"]) == (None, None, None, None)
    assert abs(told["attributes"] - told["random"]["attributes"]) < 0.15  # content does not know the target
    assert set(told["baselines"]) == {"content_only", "same_labels", "label_filter", "label_filter_content"}
    assert told["late_fusion_curve"] == [] and told["baselines"]["label_filter_content"]["attributes"] > 0.99

    found = evaluate_queries(domains, retriever, RetrievalProtocol(k=5, relevance="folder"))
    told = found.summary
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["content_by"] == "relevance" and told["content"] > told["random"]["content"] + 0.3
    field = dict(zip(domains.images().ids.tolist(), domains.images().fields["folder"], strict=True))
    hits = [
        [field[int(one)] == field[int(query)] for one in row]
        for query, row in zip(found.query_ids, found.neighbour_ids, strict=True)
    ]
    assert told["content"] == pytest.approx(np.mean(hits))
    np.testing.assert_allclose(found.content, np.mean(hits, axis=1))


def test_by_chance_a_text_column_is_met_as_often_as_random_images_meet_it(domains: Workspace) -> None:
    _, case = choose(domains, ("A", "B"), RetrievalProtocol(k=5, relevance="folder"))
    assert case.relevance is not None
    rng, own = np.random.default_rng(0), case.relevance[case.rows]
    others = [np.delete(np.arange(len(case.used)), row) for row in case.rows]
    drawn = [
        (case.relevance[rng.choice(rest, 5)] == one).mean()
        for _ in range(300)
        for rest, one in zip(others, own, strict=True)
    ]
    assert score_random(case)["content"] == pytest.approx(np.mean(drawn), abs=0.01)
    exact = []
    for rest, one, target in zip(others, own, case.targets, strict=True):
        among = rest[(case.used[rest] == target).all(axis=1)]
        exact.append((case.relevance[among] == one).mean())
    assert score_same_labels(case)["content"] == pytest.approx(np.mean(exact))


def test_without_any_attribute_a_text_column_judges(bare: Workspace) -> None:
    encoders = PlainEncoders(())
    retriever = Retriever.open(bare, _first_weights(bare, encoders), encoders=encoders)
    told = evaluate_queries(bare, retriever, RetrievalProtocol(k=5, relevance="pattern")).summary
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["queries"], told["attributes"], told["average"], told["per_attribute"]) == (20, None, None, {})
    assert 0 <= told["content"] <= 1 and 0 < told["random"]["content"] < 1 and 0 <= told["mean_average_precision"] < 1
    assert told["random"]["both"] == pytest.approx(told["random"]["content"])
    with pytest.raises(UsageError, match=r"name a text column by --relevance \(the images have pattern\)") as error:
        evaluate_queries(bare, retriever, RetrievalProtocol(k=5))
    assert "\n" not in str(error.value)
    with pytest.raises(RgunitError, match="split test has 20 images: P@40 needs at least 41"):
        evaluate_queries(bare, retriever, RetrievalProtocol(k=40, relevance="pattern"))
    build_index(bare, retriever)
    assert len(retriever.search(bare.images().paths[0], k=4)) == 4


def _first_weights(workspace: Workspace, encoders: PlainEncoders, config: RetrievalConfig = VIEWS) -> str:
    return save_run(workspace, RetrievalTask(workspace, encoders, config, seed=1), encoders, config)


def test_attributes_beside_those_in_use_may_teach_and_judge(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "workspace") as workspace:
        workspace.add_images(draw_domains(tmp_path / "pictures"))
        encoders = PlainEncoders(("A",))
        task = RetrievalTask(workspace, encoders, VIEWS.model_copy(update={"content_teacher": "labels"}))
        assert task.source.pool.content.shape[1] == WITHOUT and task.network.labels == 1  # type: ignore[attr-defined]
        assert np.isfinite(train(task, 2)[-1]["loss"])
        assert RetrievalTask(workspace, encoders, VIEWS).network.labels == 0  # auto: views
        retriever = Retriever.open(workspace, _first_weights(workspace, encoders), encoders=encoders)
        told = evaluate_queries(workspace, retriever, RetrievalProtocol(k=5, relevance="folder")).summary
        assert told["content_by"] == "attributes" and told["content"] is not None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objective": "triplet", "pool": 0.0}, "objective=triplet.*no style.*objective=parts.*pool=1"),
        ({"objective": "info_nce"}, "objective=info_nce.*no style"),
        ({"content_teacher": "labels"}, "attributes beside those in use"),
    ],
)
def test_what_needs_a_style_is_refused_with_the_remedy(
    domains: Workspace, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(RgunitError, match=said) as error:
        RetrievalTask(domains, PlainEncoders(), VIEWS.model_copy(update=settings))
    assert "\n" not in str(error.value)


def test_one_picture_is_too_few(tmp_path: Path) -> None:
    write_image(tmp_path / "one" / "0.png", np.zeros((32, 32, 3), np.uint8))
    with Workspace.create(tmp_path / "workspace") as workspace:
        workspace.add_images(tmp_path / "one", origin="unlabelled")
        with pytest.raises(RgunitError, match="two training images or more, and there are 1"):
            RetrievalTask(workspace, PlainEncoders(()), VIEWS)


def test_the_sample_grid_shows_others_than_the_query(domains: Workspace) -> None:
    task = RetrievalTask(domains, PlainEncoders(), VIEWS)
    grid = task.sample_grid({})
    assert grid.shape == (6 * 32, 7 * 32, 3)
    np.testing.assert_array_equal(grid, task.sample_grid({}))
    for row in np.split(grid, 6):
        query, _, *others = np.split(row, 7, axis=1)
        assert not any(np.array_equal(query, other) for other in others)


def test_a_map_by_style_and_the_ablation_are_refused(domains: Workspace, retriever: Retriever) -> None:
    with pytest.raises(UsageError, match="no style to lay images out by"):
        make_map(domains, retriever, by="style", method="pca")
    assert len(make_map(domains, retriever, by="content", method="pca").table) == COUNT
    with pytest.raises(UsageError, match="ablation compares ways to join content and style"):
        _Bench(domains, PlainEncoders(), Plan(domains.path, "r0", VIEWS, 2, RetrievalProtocol(k=5)))
