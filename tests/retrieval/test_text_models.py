"""A text-image model of the user's: what it sees and reads, and questions in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from retrieval.indexing import build_index, build_words
from retrieval.picture_preparation import Preparation
from retrieval.scales import spread
from retrieval.text_models import SETTING, TextModel, forget_text_model, keep_text_model, kept_text_model
from retrieval.words import read_words, search_text
from tests.retrieval.colours import ColourEncoders, make_workspace, untrained
from tests.retrieval.textmodels import colour_model, write_json

pytest.importorskip("tokenizers", reason="tokenizers is not installed, so no words can be asked: make setup")
CLIP = {
    "do_center_crop": True,
    "crop_size": {"height": 10, "width": 10},
    "size": {"shortest_edge": 12},
    "resample": 3,
    "image_mean": [0.48, 0.45, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_model(tmp_path_factory.mktemp("models") / "colours")


def wrong(labels: dict[str, int | None], target: dict[str, int | None]) -> list[str]:
    return [name for name, bit in target.items() if labels[name] == 1 - (bit or 0)]


def nearest(vectors: np.ndarray, query: np.ndarray) -> list[int]:
    return np.argsort(-(vectors @ query), kind="stable").tolist()


def test_words_alone_find_by_cosine(tmp_path: Path, model: Path) -> None:
    with make_workspace(tmp_path, count=24) as workspace:
        kept = keep_text_model(workspace, model)
        with pytest.raises(RgunitError, match=f"no vectors {kept.encoder_name} of its text model yet"):
            search_text(workspace, "red")
        assert build_words(workspace, kept) == 24 and build_words(workspace, kept) == 0
        table = workspace.images("origin=real|unlabelled")
        means = np.stack([table.read(row).mean(axis=(0, 1)) for row in range(len(table))])
        order = nearest(means / np.linalg.norm(means, axis=1, keepdims=True), np.array([1, 0, 0]))
        found = search_text(workspace, "a Red thing", k=5)
        assert [one.image_id for one in found] == table.ids[order[:5]].tolist()
        cosine = (means[order[0]] / np.linalg.norm(means[order[0]]))[0]
        assert found[0].distance == pytest.approx(2 - 2 * cosine, abs=1e-3)
        assert found.text == "a Red thing" and kept.encoder_name in found.plan
        assert all(one.attributes["Red"] == 0 for one in search_text(workspace, "red", k=5, where="-Red"))
        assert "left out" in search_text(workspace, "red green blue red green blue red").plan


def test_words_and_a_picture_decide_alike(tmp_path: Path, model: Path, encoders: ColourEncoders) -> None:
    with make_workspace(tmp_path, count=24) as workspace:
        retriever = untrained(workspace, encoders)
        build_index(workspace, retriever)
        build_words(workspace, keep_text_model(workspace, model))
        path, ids = workspace.images().paths[0], workspace.images().ids[1:]
        words = read_words(workspace, "blue")
        own = f"{retriever.encoder_name}@{retriever.fingerprint}"
        picture = retriever.search(path, edit="+Red", labels="ignore", k=23)
        distance = {one.image_id: one.distance for one in picture}
        stored = workspace.store().vectors(ids, encoder=words.encoder)
        apart = {int(i): float(np.square(v - words.vector[0]).sum()) for i, v in zip(ids, stored, strict=True)}
        found = retriever.search(path, edit="+Red", text="blue", labels="ignore", k=23)
        assert own.partition("@")[0] in found.plan and words.encoder.partition("@")[0] in found.plan

        # The mean of both distances, each over its standard deviation: the ranking by the mean of standard scores.
        every = workspace.images("origin=real|unlabelled").ids
        texts = np.square(workspace.store().vectors(every, encoder=words.encoder) - words.vector).sum(axis=1)
        assert spread(workspace, {words.encoder: words.vector}, {words.encoder: 1.0}) == pytest.approx(texts.std())
        left = {one.image_id: 2 * one.distance - apart[one.image_id] / float(texts.std()) for one in found}
        unit = [left[number] / distance[number] for number in distance]  # the picture's distances, in one unit
        np.testing.assert_allclose(unit, unit[0], rtol=1e-3)
        assert [one.distance for one in found] == sorted(one.distance for one in found)
        preferred = retriever.search(path, edit="+Red", text="blue", k=23)
        against = [len(wrong(one.attributes, preferred.target)) for one in preferred]
        assert against == sorted(against), "known contradictions come last"
        weighted = retriever.search(path, text="blue", content_weight=0.5, k=3)
        assert len(weighted) == 3 and "style" in weighted.plan


def test_a_model_is_kept_by_its_digest_and_forgotten(tmp_path: Path, model: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(model, source)
    with make_workspace(tmp_path, count=12) as workspace:
        assert kept_text_model(workspace) is None
        with pytest.raises(RgunitError, match="no text model, which --text needs: run `rgunit index build"):
            search_text(workspace, "red")
        made = keep_text_model(workspace, source)
        assert [one.name for one in (workspace.path / "models").iterdir()] == [made.fingerprint[:16]]
        build_words(workspace, made)
        shutil.rmtree(source)  # the workspace has its own copy
        kept = kept_text_model(workspace)
        assert kept is not None and kept.fingerprint == made.fingerprint
        np.testing.assert_array_equal(kept.words("green"), made.words("green"))
        folder = workspace.path / "models" / made.fingerprint[:16]
        (folder / "onnx" / "vision_model.onnx").write_bytes(b"other")  # words do not need it
        assert len(search_text(workspace, "red", k=3)) == 3
        with pytest.raises(RgunitError, match="is no ONNX network"):
            TextModel(folder, kept.files).pictures(np.zeros((1, 8, 8, 3), np.uint8))
        (folder / "tokenizer.json").write_text("{}")
        with pytest.raises(RgunitError, match=r"tokenizer\.json is not what was indexed"):
            TextModel(folder, kept.files).words("red")
        shutil.rmtree(folder)
        with pytest.raises(RgunitError, match=r"the text model .* is not in .* any more"):
            search_text(workspace, "red")
        forget_text_model(workspace)
        assert kept_text_model(workspace) is None


@pytest.mark.parametrize("said", ["[1]", "no JSON", '{"folder": "x"}', '{"folder": "../..", "files": 3}'])
def test_a_foreign_workspace_may_say_anything_of_its_model(workspace: Workspace, said: str) -> None:
    workspace.set_meta(SETTING, said)
    with pytest.raises(RgunitError, match="index build --text-model FOLDER"):
        kept_text_model(workspace)
    forget_text_model(workspace)


def test_a_damaged_copy_is_told_and_made_again(tmp_path: Path, model: Path) -> None:
    with make_workspace(tmp_path, count=12) as workspace:
        kept = keep_text_model(workspace, model)
        build_words(workspace, kept)
        copy = workspace.path / "models" / kept.fingerprint[:16] / "tokenizer.json"
        copy.write_text(copy.read_text() + " ")
        with pytest.raises(RgunitError, match=r"tokenizer.json is not what was indexed: run `rgunit index build"):
            search_text(workspace, "red")
        copy.unlink()
        with pytest.raises(RgunitError, match=r"tokenizer.json cannot be read"):
            search_text(workspace, "red")
        keep_text_model(workspace, model)
        assert len(search_text(workspace, "red", k=3)) == 3
        with pytest.raises(UsageError, match="no text in UTF-8"):
            search_text(workspace, "red\udcff")


def test_what_is_no_text_model_is_refused_in_one_line(tmp_path: Path, model: Path, workspace: Workspace) -> None:
    def broken(name: str, change: object) -> Path:
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model, folder)
        path = folder / name
        if change is None:
            path.unlink()
        elif isinstance(change, bytes):
            path.write_bytes(change)
        else:
            write_json(path, {**json.loads(path.read_text()), **change})  # type: ignore[dict-item]
            write_json(
                folder / "tokenizer_config.json", {"model_max_length": 10**30, "pad_token": {"content": "<pad>"}}
            )
        return folder

    size = "preprocessor_config.json"
    for name, change, words in (
        ("onnx/text_model.onnx", None, r"has no onnx/text_model\.onnx: a text model is a folder with"),
        ("onnx/text_model.onnx", b"\x00\x01", r"text_model\.onnx is no ONNX network"),
        ("onnx/vision_model.onnx", b"", "is no ONNX network"),
        ("onnx/vision_model.onnx", external(), "keeps its weights in another file"),
        ("tokenizer.json", b"{}", r"tokenizer\.json is no tokenizer"),
        (size, {"image_processor_type": "X"}, "must say model_max_length"),
        (size, b"[]", "is no JSON object"),
        (size, {"size": {"longest_edge": 8}}, "is no size from 1 to"),
        (size, {"size": {"shortest_edge": 8}}, "no fixed size"),
        (size, {"do_pad": True}, "asks for do_pad"),
        (size, {"image_std": [0, 0, 0]}, "image_std 0 is no number"),
        (size, {"resample": 9}, "resample 9 is none of Pillow's"),
    ):
        with pytest.raises(RgunitError, match=words) as refused:
            keep_text_model(workspace, broken(name, change))
        assert "\n" not in str(refused.value)
    with pytest.raises(RgunitError, match="pictures are 3 numbers and words 5, not of one space"):
        keep_text_model(workspace, colour_model(tmp_path / "five", text_numbers=5))
    for change in ({}, {"image_processor_type": "SiglipImageProcessor"}):  # its length is not told then, but known
        TextModel(broken(size, change)).check()
    with pytest.raises(UsageError, match="there are no words"):
        TextModel(model).words("  ")
    assert kept_text_model(workspace) is None and not (workspace.path / "models").exists()


def external() -> bytes:
    """A graph whose one weight lies in another file."""
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    value = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])
    inner = helper.make_graph([], "inner", [], [value], [tensor])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)  # also inside a node's graph
    return helper.make_model(helper.make_graph([node], "g", [], [value])).SerializeToString()


@pytest.mark.parametrize(("height", "width"), [(30, 20), (12, 12), (5, 40), (9, 700)])
def test_pictures_are_cut_and_scaled_as_the_configuration_says(height: int, width: int) -> None:
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    middle, square = (
        Preparation.of(CLIP),
        Preparation.of({**CLIP, "do_center_crop": False, "size": {"height": 6, "width": 9}}),
    )
    assert middle.pixels(image).shape == (10, 10, 3) and square.pixels(image).shape == (6, 9, 3)
    values = middle.scaled(np.full((2, 10, 10, 3), 255, np.uint8))
    np.testing.assert_allclose(values[1, :, 0, 0], (1 - np.array(CLIP["image_mean"])) / CLIP["image_std"], rtol=1e-5)
    long = np.full((9 if height < width else 900, 900 if height < width else 9, 3), 200, np.uint8)
    assert (middle.pixels(long) == 200).all(), "of a strip the middle"
    small = Preparation.of({**CLIP, "crop_size": 20}).pixels(image)
    assert small.shape == (20, 20, 3) and not small[0].any(), "black where the cut is larger than the picture"
