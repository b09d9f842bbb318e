from pathlib import Path

import numpy as np
import pytest
import torch

import retrieval.indexing
from index_store.errors import RgunitError, UsageError
from index_store.workspace import GeneratedImage, Workspace
from retrieval.composing import descendants
from retrieval.indexing import build_index
from retrieval.metrics import smallest, squared_distances
from retrieval.pictures import Picture
from retrieval.queries import ComposedQuery, compose
from retrieval.retriever import Retriever
from retrieval.tensors import fingerprint
from retrieval.train import RetrievalTask
from tests.retrieval.colours import CONFIG, ColourEncoders, make_workspace, untrained


@pytest.fixture(scope="module")
def indexed(trained: tuple[Workspace, str], encoders: ColourEncoders) -> Retriever:
    workspace, run = trained
    retriever = Retriever.open(workspace, run, encoders=encoders)
    build_index(workspace, retriever, batch=20)
    return retriever


def test_a_run_opens_with_the_weights_that_were_trained(
    trained: tuple[Workspace, str], encoders: ColourEncoders
) -> None:
    workspace, run = trained
    task = RetrievalTask(workspace, encoders, CONFIG, seed=0)
    retriever = Retriever.open(workspace, encoders=encoders)
    assert (retriever.run.id, retriever.encoder_name, retriever.dim) == (run, run, 16)
    task.network.load_state_dict(retriever.network.state_dict())
    images = workspace.load(workspace.images().ids[:5], 32)
    floats = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    expected = task.network.eval()(encoders.content(floats), encoders.style(floats)).detach().numpy()
    np.testing.assert_allclose(retriever.embed_images(images), expected, rtol=1e-4, atol=1e-5)
    assert retriever.embed_images(images).dtype == np.float32
    assert retriever.embed_images(images[:0]).shape == (0, 16)


def test_the_fingerprint_changes_with_weights_and_with_encoders(trained: tuple[Workspace, str]) -> None:
    workspace, run = trained
    one = Retriever.open(workspace, run)
    assert Retriever.open(workspace, run).fingerprint == one.fingerprint
    assert fingerprint({"": one.network}, "other encoders") != one.fingerprint
    with torch.no_grad():
        one.network.mlp[0].bias[0] += 1e-3
    assert fingerprint({"": one.network}, one.run.config["encoders_fingerprint"]) != one.fingerprint


def test_what_is_indexed_is_found_exactly(indexed: Retriever) -> None:
    workspace = indexed.workspace
    table = workspace.images()
    vectors = indexed.embed_images(workspace.load(table.ids, 32))
    found = indexed.nearest(vectors, k=1)
    np.testing.assert_array_equal(found.ids[:, 0], table.ids)
    np.testing.assert_allclose(found.distances[:, 0], 0, atol=1e-4)
    found = indexed.nearest(vectors, k=5, exclude=list(table.ids[:, None]))
    others = squared_distances(vectors, vectors) + np.diag(np.full(len(table), np.inf))
    rows, distances = smallest(others, 5)
    np.testing.assert_array_equal(found.ids, table.ids[rows])
    np.testing.assert_allclose(found.distances, distances, rtol=1e-3, atol=1e-4)


def test_an_interrupted_build_goes_on_where_it_was(
    tmp_path: Path, encoders: ColourEncoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval.indexing, "SEAL", 16)
    with make_workspace(tmp_path, count=40) as workspace:
        retriever = untrained(workspace, encoders)

        def stop(done: int, total: int) -> None:
            assert total == 40
            if done >= 24:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_index(workspace, retriever, batch=8, progress=stop)
        missing = workspace.missing_vectors(retriever.encoder_name, retriever.fingerprint)
        assert len(missing) == 16  # the 24 embedded before are kept, sealed or not
        told: list[tuple[int, int]] = []
        assert build_index(workspace, retriever, batch=10, progress=lambda *at: told.append(at)) == 16
        assert told == [(10, 16), (16, 16)]
        assert build_index(workspace, retriever) == 0
        assert workspace.store().verify().ok


def test_only_what_the_filter_names_is_indexed(tmp_path: Path, encoders: ColourEncoders) -> None:
    with make_workspace(tmp_path, count=30) as workspace:
        retriever = untrained(workspace, encoders)
        with pytest.raises(RgunitError, match="rgunit index build"):
            retriever.nearest(np.zeros(16), k=3)
        assert build_index(workspace, retriever, where="split=train") == 20
        found = retriever.nearest(np.zeros(16), k=25)  # more than there are
        assert (found.ids[0] >= 0).sum() == 20
        assert (found.ids[0, 20:] == -1).all()
        assert np.isinf(found.distances[0, 20:]).all()


def test_a_query_finds_neither_generated_images_nor_itself_nor_its_offspring(
    tmp_path: Path, encoders: ColourEncoders
) -> None:
    with make_workspace(tmp_path, count=20) as workspace:
        retriever = untrained(workspace, encoders)
        source = int(workspace.images().ids[0])
        pixels = workspace.load([source], 32)[0]
        target = np.array([1, 0, 1, 0], np.int8)
        (child,) = workspace.add_generated([GeneratedImage(pixels, source, target, "r9")])
        (grandchild, stranger) = workspace.add_generated(
            [
                GeneratedImage(pixels[::-1], int(child), target, "r9"),
                GeneratedImage(pixels[:, ::-1] // 2, int(source) + 1, target, "r9"),
            ]
        )
        build_index(workspace, retriever)
        np.testing.assert_array_equal(descendants(workspace, [source]), sorted([source, child, grandchild]))

        real = set(workspace.images("origin=real").ids.tolist())
        assert {one.image_id for one in retriever.search(pixels, edit="+Red", k=30)} == real
        own = Picture(pixels, source)
        found = retriever.search(own, edit="+Red", k=30)
        assert {one.image_id for one in found} == real - {source}
        assert [one.rank for one in found] == list(range(1, 20))
        generated = retriever.search(own, edit="+Red", k=30, origin="generated")
        assert [one.image_id for one in generated] == [stranger]
        with pytest.raises(UsageError, match="at least 1"):
            retriever.search(pixels, edit="+Red", k=0)


def test_edits_are_answered_with_pictures_of_that_style(indexed: Retriever, encoders: ColourEncoders) -> None:
    workspace = indexed.workspace
    table = workspace.images("split=test")
    labels = table.labels[:, workspace.schema.indices(["Red", "Green"])]
    hits = []
    for row in range(12):
        edit = "-Red +Green" if labels[row, 0] else "+Red -Green"
        found = indexed.search(table.paths[row], edit=edit, k=5)
        assert table.paths[row] not in [str(one.path) for one in found]
        hits += [all(one.attributes[name] == bit for name, bit in found.target.items()) for one in found]
    assert np.mean(hits) > 0.8


def test_encoders_that_it_was_not_trained_on_are_refused(trained: tuple[Workspace, str]) -> None:
    workspace, run = trained
    other = ColourEncoders()
    other.fingerprint = "f" * 64
    with pytest.raises(RgunitError, match=rf"{run} is older than its translator: .* run r0 .*`rgunit index build`"):
        Retriever.open(workspace, run, encoders=other)
    other = ColourEncoders(("Green", "Red"))
    with pytest.raises(RgunitError, match="attributes Red, Green, the translator on Green, Red"):
        Retriever.open(workspace, run, encoders=other)


def test_missing_and_damaged_runs_are_told_in_one_line(tmp_path: Path, encoders: ColourEncoders) -> None:
    with make_workspace(tmp_path, count=20) as workspace:
        with pytest.raises(RgunitError, match="run `rgunit train retrieval` first"):
            Retriever.open(workspace)
        stage1 = workspace.add_run("translation", "tiny", {})
        with pytest.raises(RgunitError, match="trained translation, not retrieval"):
            Retriever.open(workspace, stage1.id)
        empty = workspace.add_run("retrieval", "tiny", {})
        with pytest.raises(RgunitError, match="has no checkpoint yet"):
            Retriever.open(workspace, empty.id)
        good = untrained(workspace, encoders)
        assert Retriever.open(workspace).run.id == good.run.id  # the latest that has a checkpoint
        (Path(good.run.path) / "checkpoint.safetensors").write_bytes(b"nothing of the kind")
        with pytest.raises(RgunitError, match="does not hold the embedding network") as caught:
            Retriever.open(workspace)
        assert "\n" not in str(caught.value)
        with pytest.raises(RgunitError, match="there is no run 'r0'"):  # the translator that it was trained on
            Retriever(workspace, good.run, good.network, encoders_fingerprint="x").embed_images(
                np.zeros((1, 32, 32, 3), np.uint8)
            )


def test_a_query_is_a_pair_of_one(encoders: ColourEncoders, indexed: Retriever) -> None:
    query = compose(encoders, np.zeros((32, 32, 3), np.uint8), edit=encoders.schema.edit("+Red"))
    assert isinstance(query, ComposedQuery)
    assert indexed.embed(query.content, query.style).shape == (1, 16)
