"""Asking with pictures: from anywhere, several at once, content and style weighed, by a model of the user's."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from retrieval import Neighbour, Results, Retriever, content_model
from retrieval.content_models import forget_model, keep_model, kept_model
from retrieval.indexing import build_content, build_index
from retrieval.loading import load_encoders
from retrieval.metrics import squared_distances
from retrieval.scales import scale_of
from tests.retrieval.colours import ColourEncoders, make_workspace, untrained


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, encoders: ColourEncoders) -> Iterator[Retriever]:
    with make_workspace(tmp_path_factory.mktemp("search"), count=40) as workspace:
        retriever = untrained(workspace, encoders)
        build_index(workspace, retriever)
        yield retriever


def vectors_of(retriever: Retriever) -> list[np.ndarray]:
    workspace = retriever.workspace
    return retriever.named_vectors(workspace.load(workspace.images().ids, 32))


def test_answers_are_records_with_paths_and_pixels(indexed: Retriever) -> None:
    table = indexed.workspace.images()
    found = indexed.search(table.paths[0], edit="+Red", k=3, labels="ignore")
    assert isinstance(found, Results) and len(found) == 3 and found[:2] == tuple(found)[:2]
    first = found[0]
    assert isinstance(first, Neighbour) and first.rank == 1 and first.origin == "real"
    assert first.path == Path(table.paths[int(table.places(np.array([first.image_id]))[0])])
    assert first.array().shape == (32, 32, 3) and first.array(16).shape == (16, 16, 3)
    assert first.image().size == (32, 32)
    assert set(first.attributes) == {"Red", "Green", "Tall", "Third"} and found.target["Red"] == 1
    assert [one.distance for one in found] == sorted(one.distance for one in found)


def test_a_file_a_pil_image_and_an_array_of_any_size_ask_the_same(indexed: Retriever, tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 255, (90, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "foreign.png")
    answers = [
        indexed.search(source, edit="+Green", k=5).neighbours
        for source in (tmp_path / "foreign.png", str(tmp_path / "foreign.png"), Image.fromarray(pixels), pixels)
    ]
    assert answers[0] == answers[1] == answers[2] == answers[3]


def test_without_an_edit_what_is_like_the_picture_is_found(indexed: Retriever) -> None:
    table, (embedded, _, _) = indexed.workspace.images(), vectors_of(indexed)
    distances = squared_distances(embedded[:1], embedded)[0]
    distances[0] = np.inf
    found = indexed.search(table.paths[0], k=6, labels="ignore")
    assert [one.image_id for one in found] == table.ids[np.argsort(distances, kind="stable")[:6]].tolist()


def test_a_picture_is_recognised_by_its_bytes_and_never_its_own_neighbour(indexed: Retriever, tmp_path: Path) -> None:
    table = indexed.workspace.images()
    shutil.copy(table.paths[3], tmp_path / "copy.png")
    found = indexed.search(tmp_path / "copy.png", k=100)
    assert len(found) == 39 and table.ids[3] not in [one.image_id for one in found]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_content_and_style_are_weighed_each_by_its_mean_distance(indexed: Retriever, weight: float) -> None:
    workspace, (_, content, style) = indexed.workspace, vectors_of(indexed)
    np.testing.assert_allclose(np.linalg.norm(content, axis=1), 1, rtol=1e-5)
    scales = []
    for name, vectors in zip(indexed.encoder_names[1:], (content, style), strict=True):
        every = squared_distances(vectors, vectors).mean()  # over all ordered pairs, an image with itself among them
        assert scale_of(workspace, name, indexed.fingerprint) == pytest.approx(every, rel=1e-4)
        scales.append(every)
    table = workspace.images()
    wanted = indexed.encoders.style_mean(torch.tensor([[1, int(table.labels[0, 1])]])).numpy()
    distances = weight * squared_distances(content[:1], content)[0] / scales[0]
    distances += (1 - weight) * squared_distances(wanted, style)[0] / scales[1]
    distances[0] = np.inf
    order = np.argsort(distances, kind="stable")[:5]
    found = indexed.search(table.paths[0], edit="+Red", content_weight=weight, k=5, labels="ignore")
    np.testing.assert_allclose([one.distance for one in found], distances[order], rtol=1e-3, atol=1e-5)
    assert "@" not in found.plan


def test_a_workspace_may_be_named_by_its_folder(indexed: Retriever, encoders: ColourEncoders) -> None:
    with Retriever.open(indexed.workspace.path, encoders=encoders) as retriever:
        assert retriever.run.id == indexed.run.id
        assert len(retriever.search(retriever.workspace.images().paths[0], k=2)) == 2
    with pytest.raises(RgunitError, match="no workspace at"):
        Retriever.open(indexed.workspace.path / "none")


def test_what_cannot_be_asked_is_told_in_one_line(indexed: Retriever, tmp_path: Path) -> None:
    path = indexed.workspace.images().paths[0]
    (tmp_path / "broken.png").write_bytes(Path(path).read_bytes()[:200])
    Image.new("RGB", (9, 9)).save(tmp_path / "tiny.png")
    for error, words, source, how in (
        (UsageError, "unknown attribute 'Rod': did you mean Red", path, {"edit": "+Rod"}),
        (UsageError, "Tall cannot be edited: the style was trained on Red, Green", path, {"edit": "+Tall"}),
        (UsageError, "must lie in 0 … 1, not 1.5", path, {"content_weight": 1.5}),
        (UsageError, "-k must be at least 1", path, {"k": 0}),
        (UsageError, "unknown origin 'reel'", path, {"origin": "reel"}),
        (UsageError, "contradicts itself", path, {"origin": "real", "where": "origin=generated"}),
        (UsageError, "at least one picture", [], {}),
        (RgunitError, "truncated or damaged", tmp_path / "broken.png", {}),
        (RgunitError, "too small", tmp_path / "tiny.png", {}),
        (RgunitError, "too small", np.zeros((8, 8, 3), np.uint8), {}),
        (RgunitError, "too large", Image.new("1", (9000, 9000)), {}),
        (RgunitError, r"must be uint8 \[height, width, 3\], not float64", np.zeros((40, 40, 3)), {}),
    ):
        with pytest.raises(error, match=words) as refused:
            indexed.search(source, **how)  # type: ignore[arg-type]
        assert "\n" not in str(refused.value)


def test_an_index_without_content_vectors_is_refused(tmp_path: Path, encoders: ColourEncoders) -> None:
    with make_workspace(tmp_path, count=20) as workspace:
        retriever = untrained(workspace, encoders)
        path = workspace.images().paths[0]
        with pytest.raises(RgunitError, match=r"no vectors r1 .*`rgunit index build`"):
            retriever.search(path, edit="+Red")
        ids = workspace.images().ids
        embedded = retriever.embed_images(workspace.load(ids, 32))
        workspace.put_vectors(ids, embedded, encoder="r1", fingerprint=retriever.fingerprint)
        assert len(retriever.search(path, edit="+Red", k=3)) == 3
        with pytest.raises(RgunitError, match=r"no vectors r1\.content .*`rgunit index build`"):
            retriever.search(path, edit="+Red", content_weight=0.5)
        assert build_index(workspace, retriever) == 20  # an index of before is filled up
        assert len(retriever.search(path, edit="+Red", content_weight=0.5, k=3)) == 3
        assert workspace.store().verify().ok


def test_a_model_of_the_users_may_be_the_content(
    tmp_path: Path, encoders: ColourEncoders, write_network: Callable[[Path, list[int | str]], Path]
) -> None:
    file = write_network(tmp_path / "colour.onnx", ["n", 3, 16, 16])
    with make_workspace(tmp_path, count=24) as workspace:
        retriever = untrained(workspace, encoders)
        build_index(workspace, retriever)
        table = workspace.images()
        before = retriever.search(table.paths[0], content_weight=1, k=5)
        model = keep_model(workspace, file, "0,0,32,32@32")
        with pytest.raises(RgunitError, match=f"no vectors {model.encoder_name} of the content model"):
            retriever.search(table.paths[0], content_weight=1)
        assert build_content(workspace, model) == 24
        assert build_content(workspace, model) == 0
        file.unlink()  # the workspace has its own copy
        features = content_model(workspace.path / "models" / f"{model.sha256[:16]}.onnx", "0,0,32,32@32")(
            workspace.load(table.ids, 32)
        )
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
        distances = squared_distances(features[:1], features)[0]
        distances[0] = np.inf
        found = retriever.search(table.paths[0], content_weight=1, k=5)
        assert [one.image_id for one in found] == table.ids[np.argsort(distances, kind="stable")[:5]].tolist()
        assert model.encoder_name in found.plan
        kept = kept_model(workspace)
        assert kept is not None and kept.fingerprint == model.fingerprint
        (workspace.path / "models" / f"{model.sha256[:16]}.onnx").unlink()
        with pytest.raises(RgunitError, match=r"colour\.onnx is not in .* any more"):
            Retriever.open(workspace, encoders=encoders).search(table.paths[0], content_weight=1)
        forget_model(workspace)
        assert retriever.search(table.paths[0], content_weight=1, k=5).neighbours == before.neighbours


def test_encoders_come_from_the_package_that_announces_the_runs_stage(
    trained: tuple[Workspace, str], encoders: ColourEncoders
) -> None:
    workspace, run = trained
    stranger = workspace.add_run("miner", "tiny", {})
    record = workspace.run(run)
    record.config["translation_run"] = stranger.id
    with pytest.raises(RgunitError, match="nothing installed reads runs of stage miner"):
        load_encoders(workspace, record, torch.device("cpu"))
