"""Every way in: CSV, imagefolder metadata, CelebA's own files, trainA and trainB, one folder a domain."""

import json
from pathlib import Path

import numpy as np
import pytest

from index_store.errors import RgunitError
from index_store.files import image_files
from index_store.images import write_image
from index_store.layouts import check_readings, understood
from index_store.splits import draw_splits, untested
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


def test_two_domains_in_cyclegans_own_folders(tmp_path, workspace):
    folder = tmp_path / "horse2zebra"
    draw(folder, ["trainA/0.png", "trainA/wild/1.png", "trainB/2.png", "testA/3.png", "testB/4.png", "valB/5.png"])
    draw(folder, ["valA/6.png", "trainB/.hidden/7.png", "trainB/.8.png"])
    (folder / "README.txt").write_text("from somewhere")
    report = workspace.add_images(folder)
    assert (report.added, report.rejected, report.files_without_row) == (7, [], ["README.txt"])
    assert (workspace.schema.names, workspace.schema.groups) == (("A", "B"), (("A", "B"),))
    table = workspace.images()
    rows = {tuple(Path(path).relative_to(folder).parts): place for place, path in enumerate(table.paths)}
    for parts, place in rows.items():
        assert table.labels[place].tolist() == ([1, 0] if parts[0].endswith("A") else [0, 1])
        assert parts[0].startswith(table.split[place])
        assert table.fields["folder"][place] == ("wild" if len(parts) == 3 else None)
    assert (workspace.add_images(folder).added, len(workspace.images())) == (0, 7)
    assert workspace.images("+B id=1|2|3|4|5|6|7|8").ids.tolist() == workspace.images("+B").ids.tolist()
    assert workspace.images("id=3").ids.tolist() == [3] and len(workspace.images("id=8")) == 0


def test_two_domains_without_test_folders_lose_a_fifth_to_the_test_split(tmp_path, workspace):
    folder = tmp_path / "d"
    draw(folder, [f"{name}/{i}.png" for name in ("trainA", "trainB") for i in range(60)] + ["valA/0.png", "valB/0.png"])
    workspace.add_images(folder)
    for domain in "AB":
        assert 3 <= workspace.store().count(f"+{domain} split=test") <= 25
        assert workspace.store().count(f"+{domain} split=val") == 1
    assert workspace.store().count("split=train|test") == 120


def test_a_picture_of_both_train_and_test_is_a_test_picture(tmp_path, workspace):
    folder = tmp_path / "d"
    draw(folder, ["trainA/0.png", "trainB/1.png", "testA/0.png", "testB/1.png"])
    (folder / "trainA" / "copy.png").write_bytes((folder / "testA" / "0.png").read_bytes())
    assert workspace.add_images(folder).duplicates == 1
    assert len(workspace.images("split=test +A")) == 1 and len(workspace.images("split=train +A")) == 1


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["trainA/0.png"], "no trainB"),
        (["trainA/0.png", "trainB/1.png", "testA/2.png"], "no testB"),
        (["testA/0.png", "testB/1.png"], "no trainA, trainB"),
        (["trainA/0.png", "trainb/1.png"], r"no trainB \(trainb\?\)"),
        (["trainA/0.png", "trainB/1.png", "trainC/2.png"], "trainC beside them"),
        (["trainA/0.png", "trainB/"], "no image in trainB"),
        (["trainA/0.png", "trainB/1.png", "testA/", "testB/"], "no image in testA, testB"),
    ],
)
def test_half_of_two_domains_is_refused_by_name(tmp_path, workspace, names, said):
    folder = tmp_path / "d"
    draw(folder, [name for name in names if not name.endswith("/")])
    for name in names:
        (folder / name).mkdir(exist_ok=True) if name.endswith("/") else None
    with pytest.raises(RgunitError, match=said) as error:
        workspace.add_images(folder)
    assert "\n" not in str(error.value) and len(workspace.schema) == len(workspace.images()) == 0


def test_a_workspace_inside_the_collection_is_no_domain_of_it(tmp_path):
    for names in (["trainA/0.png", "trainB/1.png"], ["cat/0.png", "dog/1.png"]):
        folder = tmp_path / names[0].split("/")[0]
        draw(folder, names)
        with Workspace.create(folder / "workspace") as inside:
            assert inside.add_images(folder).added == 2 and len(inside.schema) == 2
            assert inside.add_images(folder).duplicates == 2


def test_links_that_lead_back_are_not_followed(tmp_path):
    """One to the folder above, two folders that lead to each other; one to elsewhere is. Each picture counts once."""
    draw(tmp_path / "d", ["x/1.png", "y/2.png", ".hidden/3.png", "left/4.png"])
    draw(tmp_path / "else", ["5.png"])
    for link, target in (("x/up", ".."), ("x/y", "../y"), ("y/x", "../x"), ("other", "../else")):
        (tmp_path / "d" / link).symlink_to(target, target_is_directory=True)
    found = [str(file.relative_to(tmp_path / "d")) for file in image_files(tmp_path / "d", leave=[tmp_path / "d/left"])]
    assert sorted(found) == ["other/5.png", "x/1.png", "y/2.png"]


def _classes(root: Path, *domains: str) -> None:
    """Two pictures of two classes in each domain."""
    for domain in domains:
        draw(root / domain, [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(2)])


def test_two_domains_out_of_four_are_named(tmp_path: Path) -> None:
    _classes(tmp_path / "pacs", "art", "cartoon", "photo", "sketch")
    with Workspace.create(tmp_path / "w") as workspace:
        report = workspace.add_images(tmp_path / "pacs", domains=["photo", "sketch"])
        assert (report.added, len(report.files_without_row)) == (8, 8)
        assert workspace.schema.names == ("photo", "sketch") and workspace.schema.groups == (("photo", "sketch"),)
        assert sorted(set(workspace.images().fields["folder"])) == ["cat", "dog"]
        again = workspace.add_images(tmp_path / "pacs" / "sketch", domains=["photo", "sketch"])
        assert (again.added, again.duplicates) == (0, 4)
    told = understood([report.reading])
    assert told == ["2 domains: photo (4), sketch (4); the folders inside them (cat, dog) are the text column folder"]


def test_folders_that_could_be_either_are_asked_about(tmp_path: Path) -> None:
    _classes(tmp_path, "photo", "sketch")
    with pytest.raises(
        RgunitError, match=r"2 domains: cat, dog; each of them lies in photo and in sketch: did you mean"
    ):
        check_readings([tmp_path / "photo", tmp_path / "sketch"])
    check_readings([tmp_path])
    check_readings([tmp_path / "photo"])
    with Workspace.create(tmp_path / "w") as workspace:
        with pytest.raises(RgunitError, match="lies in the domains cat and photo"):
            workspace.add_images(tmp_path / "photo", domains=["cat", "photo"])
        with pytest.raises(RgunitError, match="no image lies in a folder zebra"):
            workspace.add_images(tmp_path / "photo", domains=["zebra"])


def test_domains_below_train_alone_leave_no_test_image(tmp_path: Path) -> None:
    _classes(tmp_path / "d" / "train", "photo", "sketch")
    with Workspace.create(tmp_path / "w") as workspace:
        assert untested(workspace) is None
        workspace.add_images(tmp_path / "d")
        assert "`rgunit split --test 0.2` draws some" in (untested(workspace) or "")
        draw_splits(workspace, test=0.5)
        assert untested(workspace) is None
