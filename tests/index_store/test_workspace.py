"""Registering images with labels, generated images, vectors and runs."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store.errors import Locked, RgunitError, UnknownAttribute, UsageError
from index_store.images import write_image
from index_store.store import IndexStore
from index_store.workspace import GeneratedImage, Workspace


def draw(folder, names, seed=0):
    """Write one distinct picture a name."""
    rng = np.random.default_rng(seed)
    for name in names:
        write_image(folder / name, rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    draw(folder, [f"{i}.png" for i in range(6)])
    (tmp_path / "labels.csv").write_text(
        "image,identity,split,Dark,Blond,Male\n"
        "0.png,a,train,1,0,1\n1.png,a,train,0,1,0\n2.png,b,test,0,1,1\n3.png,b,test,1,0,\n4.png,c,train,0,0,1\n"
        "9.png,c,train,0,0,0\n"
    )
    return folder


@pytest.fixture
def workspace(tmp_path, faces):
    with Workspace.create(tmp_path / "w") as made:
        made.add_images(faces, attributes=tmp_path / "labels.csv", groups=["Dark|Blond"])
        yield made


def test_a_folder_with_a_csv_is_registered_where_it_lies(tmp_path, faces):
    with Workspace.create(tmp_path / "w") as workspace:
        report = workspace.add_images(faces, attributes=tmp_path / "labels.csv", groups=["Dark|Blond"])
        assert (report.added, report.duplicates, report.total) == (5, 0, 5)
        assert report.rows_without_file == ["9.png"] and report.files_without_row == ["5.png"]
        table = workspace.images()
        assert workspace.schema.names == ("Dark", "Blond", "Male") and workspace.schema.groups == (("Dark", "Blond"),)
        assert table.paths == [str(faces / f"{i}.png") for i in range(5)]
        assert table.labels.tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, -1], [0, 0, 1]]
        assert table.fields["identity"] == ["a", "a", "b", "b", "c"]
        assert list(workspace.images("split=test").ids) == [3, 4]
        assert len(workspace.images("?Male")) == 1 and len(workspace.images("+Male -Dark")) == 2


def test_the_same_folder_again_changes_nothing(tmp_path, faces, workspace):
    before = sorted(path.name for path in (tmp_path / "w" / "shards").iterdir())
    report = workspace.add_images(faces, attributes=tmp_path / "labels.csv")
    assert (report.added, report.duplicates, report.total) == (0, 5, 5)
    assert sorted(path.name for path in (tmp_path / "w" / "shards").iterdir()) == before


def test_a_second_file_adds_columns_and_fills_unknown_labels_only(tmp_path, faces, workspace):
    (tmp_path / "more.csv").write_text("image,Male,Hat,Age\n3.png,1,true,old\n0.png,0,false,\n")
    report = workspace.add_images(faces, attributes=tmp_path / "more.csv")
    assert report.duplicates == 2 and "another value of Male" in report.rejected[0].reason
    table = workspace.images()
    assert workspace.schema.names == ("Dark", "Blond", "Male", "Hat")
    assert table.labels[3].tolist() == [1, 0, 1, 1] and table.labels[0].tolist() == [1, 0, 1, 0]
    assert table.labels[1].tolist() == [0, 1, 0, -1]
    assert table.fields["Age"] == [None, None, None, "old", None]
    assert workspace.store().verify().ok


def test_an_unlabelled_image_becomes_real_when_its_labels_come(tmp_path, faces):
    with Workspace.create(tmp_path / "w") as workspace:
        assert workspace.add_images(faces, origin="unlabelled").added == 6
        assert set(workspace.images().split) == {"train"} and len(workspace.schema) == 0
        report = workspace.add_images(faces, attributes=tmp_path / "labels.csv")
        assert (report.added, report.duplicates) == (0, 5)
        assert len(workspace.images("origin=real")) == 5 and len(workspace.images("origin=unlabelled")) == 1
        assert len(workspace.images("+Male")) == 3 and len(workspace.images("split=test")) == 2


def test_broken_files_are_refused_one_by_one_and_the_rest_goes_on(tmp_path, faces):
    (faces / "broken.png").write_bytes((faces / "0.png").read_bytes()[:200])
    (faces / "note.txt").write_text("hello")
    Image.fromarray(np.full((30, 30), 9, np.uint8)).save(faces / "grey.png")
    with Workspace.create(tmp_path / "w") as workspace:
        report = workspace.add_images(faces, origin="unlabelled")
        assert report.added == 7 and report.converted == 1
        assert {Path(one.path).name: one.reason.split()[0] for one in report.rejected} == {
            "broken.png": "truncated",
            "note.txt": "not",
        }


def test_rows_that_point_outside_the_folder_are_rejected(tmp_path, faces):
    draw(tmp_path, ["secret.png"], seed=9)
    (tmp_path / "labels.csv").write_text(f"image,a\n../secret.png,1\n{tmp_path}/secret.png,1\n0.png,1\n")
    with Workspace.create(tmp_path / "w") as workspace:
        report = workspace.add_images(faces, attributes=tmp_path / "labels.csv")
        assert report.added == 1 and len(report.rejected) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,a\n0.png,1\n1.png,0\n2.png,-1\n", "mixes -1, 0 and 1"),
        ("image,name\n0.png,x\n", "no attribute column"),
        ("image,a\n", "no rows"),
        ("", "is empty"),
        ("image,a\n0.png\n", "line 2 has 1 columns"),
        ("image,a,a\n0.png,1,1\n", "twice"),
    ],
)
def test_a_csv_that_cannot_be_right_is_refused_in_one_line(tmp_path, faces, text, message):
    (tmp_path / "bad.csv").write_text(text)
    with Workspace.create(tmp_path / "w") as workspace:
        with pytest.raises(RgunitError, match=message) as error:
            workspace.add_images(faces, attributes=tmp_path / "bad.csv")
        assert "\n" not in str(error.value) and len(workspace.images()) == 0


def test_other_bad_input_is_one_line_too(tmp_path, faces, workspace):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RgunitError, match="no files"):
        workspace.add_images(tmp_path / "empty", origin="unlabelled")
    with pytest.raises(RgunitError, match="does not exist"):
        workspace.add_images(tmp_path / "absent", origin="unlabelled")
    with pytest.raises(RgunitError, match="--attributes"):
        workspace.add_images(faces)
    with pytest.raises(UnknownAttribute, match="Blond"):
        workspace.add_images(faces, attributes=tmp_path / "labels.csv", groups=["Dark|Blonde"])
    with pytest.raises(UsageError, match="split-by"):
        workspace.add_images(faces, attributes=tmp_path / "labels.csv", split_by="person")
    with pytest.raises(RgunitError, match="run `rgunit"):
        Workspace.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_minus_one_means_false_and_empty_means_unknown(tmp_path, faces):
    (tmp_path / "signs.csv").write_text("path,a,b\n0.png,-1,True\n1.png,1,false\n2.png,,\n")
    with Workspace.create(tmp_path / "w") as workspace:
        workspace.add_images(faces, attributes=tmp_path / "signs.csv")
        assert workspace.images().labels.tolist() == [[0, 1], [1, 0], [-1, -1]]


def test_without_a_split_a_fifth_is_test_and_people_stay_together(tmp_path):
    draw(tmp_path / "many", [f"{i}.png" for i in range(400)])
    rows = "".join(f"{i}.png,p{i // 4},{i % 2}\n" for i in range(400))
    (tmp_path / "many.csv").write_text("image,identity,a\n" + rows)
    with Workspace.create(tmp_path / "w") as workspace:
        workspace.add_images(tmp_path / "many", attributes=tmp_path / "many.csv")
        assert 50 < len(workspace.images("split=test")) < 110
    with Workspace.create(tmp_path / "v") as workspace:
        workspace.add_images(tmp_path / "many", attributes=tmp_path / "many.csv", split_by="identity")
        test, train = (set(workspace.images(f"split={name}").fields["identity"]) for name in ("test", "train"))
        assert test and train and not test & train


def test_generated_images_are_files_and_rows_with_their_source(tmp_path, workspace):
    source = workspace.images("split=test")
    pixels = workspace.load(source.ids[:1], 24)[0]
    target = workspace.schema.edit("+Dark").apply(source.labels[0])
    ids = workspace.add_generated([GeneratedImage(pixels, int(source.ids[0]), target, "r7")] * 2)
    made = workspace.images("origin=generated")
    assert made.ids.tolist() == ids.tolist() == [6, 7]
    assert made.labels.tolist() == [target.tolist()] * 2 and made.parent.tolist() == [source.ids[0]] * 2
    assert list(made.run) == ["r7"] * 2 and list(made.split) == ["test"] * 2
    assert (workspace.load(ids, 24) == pixels).all()
    assert all(path.startswith(str(tmp_path / "w" / "images" / "generated" / "r7")) for path in made.paths)


def test_a_workspace_can_be_moved(tmp_path, workspace):
    ids = workspace.add_generated([GeneratedImage(np.zeros((24, 24, 3), np.uint8), 1, np.zeros(3, np.int8), "r1")])
    workspace.close()
    (tmp_path / "w").rename(tmp_path / "moved")
    with Workspace.open(tmp_path / "moved") as moved:
        assert (moved.load(ids, 24) == 0).all()


def test_an_image_is_recognised_by_path_and_by_content(tmp_path, faces, workspace):
    assert workspace.image_for_path(faces / "2.png") == 3
    (tmp_path / "copy.png").write_bytes((faces / "2.png").read_bytes())
    assert workspace.image_for_path(tmp_path / "copy.png") == 3
    assert workspace.image_for_path(faces / "5.png") is None
    assert workspace.image_for_path(tmp_path / "absent.png") is None


def test_vectors_are_attached_once_under_a_fingerprint(workspace):
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    ids = workspace.images().ids
    workspace.put_vectors(ids[:3], vectors[:3], encoder="r2", fingerprint="aa")
    workspace.put_vectors(ids, vectors + 1, encoder="r2", fingerprint="aa")
    assert len(workspace.missing_vectors("r2", "aa")) == 0
    assert (workspace.store().vectors(ids[:3], encoder="r2") == vectors[:3]).all()
    assert (workspace.store().vectors(ids[3:], encoder="r2") == vectors[3:] + 1).all()
    assert workspace.missing_vectors("r2", "bb", "split=test").tolist() == [3, 4]
    workspace.put_vectors(ids, vectors[:, :4], encoder="content", fingerprint="cc")
    assert workspace.store().search(vectors[0, :4], k=1, encoder="content").ids.tolist() == [[1]]
    with pytest.raises(RgunitError, match="no image has id 99"):
        workspace.put_vectors(np.array([99]), vectors[:1], encoder="r2", fingerprint="aa")


def test_two_fingerprints_never_mix_in_a_search(workspace):
    vectors = np.eye(5, dtype=np.float32)
    ids = workspace.images().ids
    workspace.put_vectors(ids, vectors, encoder="r2", fingerprint="aa11")
    workspace.put_vectors(ids, vectors[::-1], encoder="r2", fingerprint="bb22")
    with pytest.raises(RgunitError, match="never mix"):
        workspace.store().search(vectors[0], encoder="r2")
    assert workspace.store().search(vectors[0], k=1, encoder="r2@aa").ids.tolist() == [[1]]
    assert workspace.store().search(vectors[0], k=1, encoder="r2@bb22").ids.tolist() == [[5]]


def test_runs_are_numbered_over_all_stages(workspace):
    first, second = workspace.add_run("translation", "demo", {"width": 1}), workspace.add_run("retrieval", "demo", {})
    workspace.update_run("r1", steps=7, status="done", seconds=1.5, summary={"loss": 0.5})
    assert [run.id for run in workspace.runs()] == ["r1", "r2"] and workspace.runs("retrieval")[0].id == "r2"
    run = workspace.run("r1")
    assert (run.steps, run.status, run.seconds, run.summary, run.config) == (
        7,
        "done",
        1.5,
        {"loss": 0.5},
        {"width": 1},
    )
    assert first.path.is_dir() and second.path.name == "r2-retrieval"
    with pytest.raises(RgunitError, match="r1"):
        workspace.run("r9")


def test_settings_are_kept(tmp_path, workspace):
    workspace.set_meta("a", "1")
    workspace.set_meta("a", "2")
    workspace.close()
    with Workspace.open(tmp_path / "w") as again:
        assert again.meta("a") == "2" and again.meta("b") is None


def test_threads_share_a_workspace(workspace):
    ids = workspace.images().ids
    workspace.put_vectors(ids, np.eye(5, dtype=np.float32), encoder="r2", fingerprint="aa")
    expected = workspace.load(ids, 16)

    def work(_: int) -> bool:
        found = workspace.store().search(np.eye(5, dtype=np.float32), k=1, encoder="r2")
        return bool((workspace.load(ids, 16) == expected).all() and (found.ids[:, 0] == ids).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))


@pytest.mark.sqlite
def test_a_second_writer_is_told_who_holds_the_lock(tmp_path, workspace):
    workspace.set_meta("held", "yes")
    code = (
        "import sys; from index_store.workspace import Workspace\n"
        "w = Workspace.open(sys.argv[1]); print(len(w.images()))\n"
        "try: w.set_meta('a', 'b')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "w")], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "5"
    assert done.stdout.splitlines()[1].startswith("Locked") and str(os.getpid()) in done.stdout
    with pytest.raises(Locked), Workspace.open(tmp_path / "w") as other:
        other.set_meta("a", "b")


def test_errors_and_attributes_import_nothing_heavy():
    code = (
        "import sys, index_store, index_store.errors, index_store.attributes\n"
        "assert not {'sqlalchemy', 'h5py', 'faiss', 'torch', 'PIL'} & set(sys.modules)\n"
        "import index_store.workspace\n"
        "assert not {'torch', 'faiss', 'alembic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_vectors_are_read_in_blocks_from_the_files_without_the_images_that_were_removed(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float32)
    with IndexStore.create(tmp_path / "s", dim=4, attributes=["A"], encoder="e") as store:
        ids = np.concatenate([store.add(part) for part in np.split(vectors, [10, 11])])
        store.remove(ids[[3, 20]])
        kept = np.setdiff1d(ids, ids[[3, 20]])
        np.testing.assert_array_equal(np.sort(store.vector_ids("e", "")), kept)
        blocks = list(store.blocks("e", "", rows=4))
        assert max(len(part) for part, _ in blocks) <= 4
        np.testing.assert_array_equal(np.concatenate([part for part, _ in blocks]), kept)
        np.testing.assert_array_equal(np.concatenate([part for _, part in blocks]), store.vectors(kept))
        assert list(store.blocks("other", "")) == [] and len(store.vector_ids("other", "")) == 0
