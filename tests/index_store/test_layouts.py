"""Every way in: CSV, imagefolder metadata, CelebA's own files, one folder a domain."""

import json

import numpy as np
import pytest

from index_store.errors import RgunitError
from index_store.images import write_image
from index_store.workspace import Workspace


def draw(folder, names):
    for name in names:
        rng = np.random.default_rng(abs(hash((str(folder), name))) % 2**32)
        write_image(folder / name, rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))


@pytest.fixture
def workspace(tmp_path):
    with Workspace.create(tmp_path / "w") as made:
        yield made


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_imagefolder_metadata_in_the_folder(tmp_path, workspace, kind):
    folder = tmp_path / "data"
    draw(folder, ["a/0.png", "b/1.png", "2.png"])
    rows = [("a/0.png", True, "hello"), ("b/1.png", False, None), ("2.png", None, "bye")]
    if kind == "csv":
        text = "file_name,smiling,text\n" + "".join(f"{n},{'' if s is None else s},{t or ''}\n" for n, s, t in rows)
    else:
        text = "\n".join(json.dumps({"file_name": n, "smiling": s, "text": t}) for n, s, t in rows)
    (folder / f"metadata.{kind}").write_text(text)
    report = workspace.add_images(folder)
    assert report.added == 3 and not report.rejected and not report.files_without_row
    table = workspace.images()
    assert table.labels[:, 0].tolist() == [1, 0, -1] and table.fields["text"] == ["hello", None, "bye"]


def test_imagefolder_metadata_below_splits(tmp_path, workspace):
    folder = tmp_path / "data"
    draw(folder, ["train/0.png", "train/1.png", "validation/0.png"])
    (folder / "train" / "metadata.csv").write_text("file_name,a\n0.png,1\n1.png,0\n")
    (folder / "validation" / "metadata.csv").write_text("file_name,a,b\n0.png,1,1\n")
    assert workspace.add_images(folder).added == 3
    assert list(workspace.images().split) == ["train", "train", "val"]
    assert workspace.images().labels.tolist() == [[1, -1], [0, -1], [1, 1]]


@pytest.mark.parametrize("place", ["", "Anno"])
def test_celebas_own_layout(tmp_path, workspace, place):
    folder = tmp_path / "celeba"
    names = ["000001.jpg", "000002.jpg", "000003.jpg"]
    draw(folder / "img_align_celeba", [name.replace("jpg", "png") for name in names])
    for name in names:
        (folder / "img_align_celeba" / name.replace("jpg", "png")).rename(folder / "img_align_celeba" / name)
    (folder / place).mkdir(exist_ok=True)
    (folder / place / "list_attr_celeba.txt").write_text(
        "3\nBlack_Hair Male \n000001.jpg -1  1\n000002.jpg  1 -1\n000003.jpg -1 -1\n"
    )
    (folder / place / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n")
    (folder / place / "identity_CelebA.txt").write_text("000001.jpg 1\n000002.jpg 1\n000003.jpg 0\n")
    report = workspace.add_images(folder)
    assert report.added == 3 and not report.rejected
    table = workspace.images()
    assert workspace.schema.names == ("Black_Hair", "Male")
    assert table.labels.tolist() == [[0, 1], [1, 0], [0, 0]]
    assert list(table.split) == ["train", "val", "test"] and table.fields["identity"] == ["1", "1", "0"]


def test_a_celeba_file_that_is_not_one_is_refused(tmp_path, workspace):
    draw(tmp_path / "data", ["0.png"])
    (tmp_path / "list_attr_celeba.txt").write_text("hello\nyou\n")
    with pytest.raises(RgunitError, match="CelebA"):
        workspace.add_images(tmp_path / "data", attributes=tmp_path / "list_attr_celeba.txt")


def test_one_folder_a_domain_is_an_exclusive_group(tmp_path, workspace):
    folder = tmp_path / "pacs"
    draw(folder, ["art/dog/0.png", "art/1.png", "photo/2.png", "sketch/3.png"])
    report = workspace.add_images(folder)
    assert report.added == 4
    assert workspace.schema.names == ("art", "photo", "sketch") and workspace.schema.groups == (
        ("art", "photo", "sketch"),
    )
    assert workspace.images().labels.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert set(workspace.images("+art").fields["folder"]) == {"dog", None}


def test_domains_below_splits(tmp_path, workspace):
    draw(tmp_path / "d", ["train/cat/0.png", "train/dog/1.png", "test/dog/2.png"])
    workspace.add_images(tmp_path / "d")
    table = workspace.images()
    assert workspace.schema.names == ("cat", "dog") and sorted(table.split) == ["test", "train", "train"]
    assert len(workspace.images("+dog split=test")) == 1


def test_a_plain_folder_without_labels_is_no_domain(tmp_path, workspace):
    draw(tmp_path / "d", ["0.png", "x/1.png", "y/2.png"])
    with pytest.raises(RgunitError, match="no labels"):
        workspace.add_images(tmp_path / "d")
    assert workspace.add_images(tmp_path / "d", origin="unlabelled").added == 3
    assert len(workspace.schema) == 0
