"""Models shared: what is written can be read back and does the same; what was tampered with is refused."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rgunit
from index_store.errors import Locked, RgunitError, UsageError
from index_store.workspace import Workspace
from retrieval.graphs import Traced, write_graph
from retrieval.onnx import session
from retrieval.tensors import to_tensor
from tests.translation.small import Notes, tiny
from translation.guidance import AttentionFusion, Guide, PatchGuidance, with_pixels
from translation.inference import translate_images
from translation.sharing import hub, importing
from translation.sharing.exporting import export_run
from translation.sharing.importing import import_model
from translation.sharing.package import MANIFEST
from translation.stages import train_guided
from translation.translator import Translator


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Workspace]:
    """r1 (translation), r2 (retrieval) and r3, guided by convolution; only read."""
    path = tmp_path_factory.mktemp("guided") / "workspace"
    shutil.copytree(template, path)
    with Workspace.open(path) as workspace:
        train_guided(workspace, tiny(), device="cpu")
        yield workspace


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, guided: Workspace) -> Path:
    """r3 with its collection, as one file."""
    out = tmp_path_factory.mktemp("shared") / "faces.zip"
    export_run(guided, "r3", "hub", out, with_index=True, licence="CC0")
    return out


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A picture that no workspace has."""
    noise = np.random.default_rng(5).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "foreign.png")
    return tmp_path / "foreign.png"


def unpacked(shared: Path, folder: Path) -> Path:
    with zipfile.ZipFile(shared) as packed:
        packed.extractall(folder)
    return folder


def test_a_newcomer_translates_guided_before_he_trains(
    guided: Workspace, shared: Path, foreign: Path, tmp_path: Path
) -> None:
    made = import_model(tmp_path / "new", shared)
    assert (made.run, made.stage, made.licence) == ("r3", "guided", "CC0")
    with Workspace.open(tmp_path / "new") as new:
        assert made.images == len(new.images()) == len(guided.images("split=train origin=real|unlabelled"))
        assert set(new.images().split) == {"train"} and new.schema == guided.schema
        rows = [
            translate_images(one, [foreign], to="+Glasses", out=tmp_path / out, device="cpu")[0]
            for one, out in ((guided, "theirs"), (new, "ours"))
        ]
        assert new.store().verify().ok
    assert len(rows[1]["neighbours"]) == len(rows[0]["neighbours"]) > 0
    theirs, ours = (np.asarray(Image.open(row["path"])) for row in rows)
    assert (theirs == ours).all()  # the pictures that guide are shared as the networks see them


def test_without_a_collection_it_says_that_nothing_guides(guided: Workspace, foreign: Path, tmp_path: Path) -> None:
    out = export_run(guided, "r3", "torch", tmp_path / "model").out
    assert not (out / "collection").exists() and not (out / "README.md").read_text().count(str(guided.path))
    import_model(tmp_path / "new", out)
    notes = Notes()
    with Workspace.open(tmp_path / "new") as new:
        rows = translate_images(new, [foreign], to="+Glasses", out=tmp_path / "o", device="cpu", progress=notes)
        assert rows[0]["neighbours"] == [] and any("unguided: no collection" in told for told in notes.told)
        with pytest.raises(RgunitError, match="without a collection"):
            translate_images(new, [foreign], to="+Glasses", guidance=1.0, out=tmp_path / "o", device="cpu")
        with pytest.raises(RgunitError, match="lacks what training needs"):
            train_guided(
                new, tiny("guided.neighbour_style=false"), neighbours="none", translation_run="r1", device="cpu"
            )


def test_graphs_of_any_batch_agree_with_pytorch(guided: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: make setup")
    made = export_run(guided, "r3", "onnx", tmp_path / "graphs")
    assert made.parity is not None and made.parity <= 1e-4
    translator = Translator.load(guided, "r3")
    images = to_tensor(guided.load(guided.images("origin=real").ids[:5], 32))
    content, style = translator.content(images), translator.style(images)
    graph = session(made.out / "translator.onnx")
    for batch in (1, 2, 5):
        given = {"images": images[:batch], "style": style[:batch].roll(1, 0)}
        near = torch.stack([content[:batch].flip(0)] * translator.neighbours, 1)
        right = translator.translate(images[:batch], content[:batch], given["style"], guide=Guide(near))
        answer = graph.run(None, {n: t.contiguous().numpy() for n, t in (*given.items(), ("neighbours", near))})
        for got, want in zip(answer, (right.image, right.mask), strict=True):
            assert want is not None and np.abs(got - want.numpy()).max() <= 1e-4


def test_guidance_by_patches_has_a_graph_of_any_batch(guided: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: make setup")
    shutil.copytree(guided.path, tmp_path / "w")
    with Workspace.open(tmp_path / "w") as workspace:
        train_guided(workspace, tiny("guided.guidance=patches", "guided.neighbour_start=0.3"), device="cpu")
        made = export_run(workspace, "r4", "onnx", tmp_path / "graphs")
        translator = Translator.load(workspace, "r4")
        images = to_tensor(workspace.load(workspace.images("origin=real").ids[:5], 32))
    assert made.parity is not None and made.parity <= 1e-4
    content, style, graph = translator.content(images), translator.style(images), session(made.out / "translator.onnx")
    for batch in (1, 2, 5):
        near = torch.stack([with_pixels(content, images)[:batch].flip(0)] * translator.neighbours, 1)
        right = translator.translate(images[:batch], content[:batch], style[:batch], guide=Guide(near))
        given = {"images": images[:batch], "style": style[:batch], "neighbours": near}
        answer = graph.run(None, {name: tensor.contiguous().numpy() for name, tensor in given.items()})
        assert np.abs(answer[0] - right.image.numpy()).max() <= 1e-4
        assert (
            np.abs(answer[0] - translator.translate(images[:batch], content[:batch], style[:batch]).image.numpy()).max()
            > 0.01
        )


def test_so_have_patches_of_several_places(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: make setup")
    patches = PatchGuidance(4)
    content, near = torch.randn(3, 4, 40, 40), torch.randn(3, 2, 52, 40, 40)
    assert patches.step(40) == 2
    graph = Traced({"patches": patches}, lambda content, near: (patches.look(content, near),))
    assert write_graph(tmp_path / "look.onnx", graph, {"content": content, "near": near}, ("look",)) <= 1e-4


def test_so_has_attention(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed: make setup")
    fusion = AttentionFusion(32, start=0.3)
    content, near = torch.randn(3, 32, 8, 8), torch.randn(3, 2, 32, 8, 8)
    graph = Traced({"fusion": fusion}, lambda content, near: (fusion.branches(content, near)[1],))
    assert write_graph(tmp_path / "fusion.onnx", graph, {"content": content, "near": near}, ("fused",)) <= 1e-4


@pytest.mark.parametrize("name", ["model.safetensors", "collection/vectors.safetensors", "collection/labels.csv"])
def test_a_tampered_file_is_refused_by_its_hash(shared: Path, tmp_path: Path, name: str) -> None:
    folder = unpacked(shared, tmp_path / "model")
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(RgunitError, match=f"{name} is not the file"):
        import_model(tmp_path / "new", folder)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.update(version=2), "version"),
        (lambda m: m.update(more=1), "more"),
        (lambda m: m["files"].update({"../../evil.safetensors": m["files"]["model.safetensors"]}), "no name of a file"),
        (lambda m: m["files"].update({"collection/real/x.pkl": m["files"]["model.safetensors"]}), "no name of a file"),
        (lambda m: m["runs"][-1].update(weights="other.safetensors"), "not among its files"),
        (lambda m: m["runs"][-1]["settings"]["config"]["networks"].update(width=0.125), "does not hold the networks"),
        (lambda m: m["runs"][-1]["settings"].update(attributes_used=["Nose"]), "Nose"),
        (lambda m: m["collection"].update(licence=" "), "licence"),
        (lambda m: m["runs"][0]["settings"]["config"].update(method="os.system"), "unknown method"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused(shared: Path, tmp_path: Path, change, told: str) -> None:
    folder = unpacked(shared, tmp_path / "model")
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RgunitError, match=told):
        import_model(tmp_path / "new", folder)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["_put_vectors", "save_tensors"])
def test_what_fails_half_way_leaves_a_workspace_as_it_was(shared: Path, tmp_path: Path, monkeypatch, name: str) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    with Workspace.create(tmp_path / "w") as workspace:
        own = workspace.add_run("translation", "demo", {}).id
        workspace.update_run(own, status="done")
    monkeypatch.setattr(importing, name, full)
    for place in ("w", "new"):
        with pytest.raises(OSError, match="disk is full"):
            import_model(tmp_path / place, shared)
    assert not (tmp_path / "new").exists()
    with Workspace.open(tmp_path / "w") as workspace:
        assert [run.id for run in workspace.runs()] == [own] and not len(workspace.images())
        assert workspace.store().verify().ok and not any((workspace.path / "images" / "imported").iterdir())
    monkeypatch.undo()
    assert import_model(tmp_path / "w", shared).images


def test_what_others_write_while_an_import_fails_stays(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    Workspace.create(tmp_path / "w").close()

    def meanwhile(workspace: Workspace, *_: object) -> None:
        workspace.add_images(tmp_path / "red.png", origin="unlabelled")
        workspace.update_run(workspace.add_run("translation", "demo", {}).id, status="done")
        raise OSError("the disk is full")

    monkeypatch.setattr(importing, "_put_vectors", meanwhile)
    with pytest.raises(OSError, match="disk is full"):
        import_model(tmp_path / "w", shared)
    with Workspace.open(tmp_path / "w") as workspace:
        assert len(workspace.images()) == len(workspace.runs()) == 1


def test_a_workspace_that_somebody_is_making_meanwhile_is_not_taken_away(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Workspace.ensure

    def just_made(path: Path) -> Workspace:
        other = Workspace.create(path)
        other.catalog.begin()
        held.append(other)
        return opened(path)

    held: list[Workspace] = []
    monkeypatch.setattr(importing.Workspace, "ensure", just_made)
    with pytest.raises(Locked, match="being written"):
        import_model(tmp_path / "new", shared)
    held[0].close()
    with Workspace.open(tmp_path / "new") as workspace:
        assert workspace.store().verify().ok


def test_a_zip_cannot_write_elsewhere(shared: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.zip"
    shutil.copyfile(shared, evil)
    with zipfile.ZipFile(evil, "a") as packed:
        packed.writestr("../escaped.txt", "x")
        packed.writestr("/tmp/escaped.txt", "x")
    import_model(tmp_path / "w" / "new", evil)  # what the manifest does not name is not even unpacked
    assert not list(tmp_path.rglob("escaped.txt")) and not list((tmp_path / "w").glob(".import-*"))
    with zipfile.ZipFile(evil, "a") as packed, pytest.warns(UserWarning):
        packed.writestr("model.safetensors", "x")
    with pytest.raises(RgunitError, match="twice"):
        import_model(tmp_path / "other", evil)
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(RgunitError, match=r"no whole zip|packed in another way"):
        import_model(tmp_path / "other", tmp_path / "no.zip")
    with pytest.raises(RgunitError, match="another SHA-256"):
        import_model(tmp_path / "other", shared, sha256="0" * 64)


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_bytes_are_damaged_is_refused_in_one_line(tmp_path: Path, packing: int) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", packing) as packed:
        packed.writestr(MANIFEST, "x" * 1000)
    data = bytearray((tmp_path / "bad.zip").read_bytes())
    data[30 + len(MANIFEST)] = 255  # where the packed bytes begin
    (tmp_path / "bad.zip").write_bytes(data)
    with pytest.raises(RgunitError, match=r"no whole zip|packed in another way"):
        import_model(tmp_path / "w", tmp_path / "bad.zip")


def test_what_cannot_be_exported_is_named_before_any_work(guided: Workspace, tmp_path: Path) -> None:
    for options, told in (
        ({"with_index": True}, "--licence"),
        ({"licence": "CC0"}, "--with-index"),
    ):
        with pytest.raises(UsageError, match=told):
            export_run(guided, "r3", "hub", tmp_path / "out", **options)
    with pytest.raises(UsageError, match="nothing guides"):
        export_run(guided, "r1", "hub", tmp_path / "out", with_index=True, licence="CC0")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").touch()
    with pytest.raises(UsageError, match="there already"):
        export_run(guided, "r1", "hub", tmp_path / "there")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".export-*"))


def test_a_folder_of_the_hubs_form_is_loaded_and_saved_again(guided: Workspace, foreign: Path, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: make setup")
    with rgunit.Translator.open(guided, "r3", device="cpu") as own:
        theirs = own.translate(foreign, to="+Glasses")[0]
        own.save_pretrained(tmp_path / "first", licence="CC0")
        own.save_pretrained(tmp_path / "bare")
    with rgunit.Translator.from_pretrained(tmp_path / "first", device="cpu") as model:
        place = model.workspace.path
        model.save_pretrained(tmp_path / "second")  # what guides it came with a licence
    assert (
        not place.exists() and json.loads((tmp_path / "first" / "config.json").read_text())["library_name"] == "rgunit"
    )
    with rgunit.Translator.from_pretrained(str(tmp_path / "second"), device="cpu") as model:
        ours = model.translate(foreign, to="+Glasses")[0]
    assert (ours.pixels == theirs.pixels).all() and len(ours.neighbours) == len(theirs.neighbours) > 0
    with rgunit.Translator.from_pretrained(tmp_path / "bare", device="cpu") as model:
        assert model.translate(foreign, to="+Glasses", guidance=0.0)[0].neighbours == ()
    with pytest.raises(UsageError, match="there already"), rgunit.Translator.open(guided, "r3", device="cpu") as own:
        own.save_pretrained(tmp_path / "first")
    (tmp_path / "first" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(RgunitError, match="is not the file"):
        rgunit.Translator.from_pretrained(tmp_path / "first")
    with pytest.raises(RgunitError, match="no folder nobody/nothing, and no such model could be fetched"):
        rgunit.Translator.from_pretrained("nobody/nothing", local_files_only=True, cache_dir=tmp_path / "empty")


def test_without_the_hubs_library_the_extra_is_named(
    guided: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hub._shared.cache_clear()
    with pytest.raises(RgunitError, match=r"pip install 'rgunit\[hub\]'"):
        rgunit.Translator.from_pretrained(tmp_path)
    with pytest.raises(RgunitError, match=r"rgunit\[hub\]"), rgunit.Translator.open(guided, "r1") as own:
        own.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
