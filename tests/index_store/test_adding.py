"""Real collections: names, labels, splits and files as people have them, read right or refused by name."""

import json
import os
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store.errors import RgunitError, UsageError
from index_store.images import write_image
from index_store.learned import keep_learned, learned_from
from index_store.workspace import Workspace


def draw(folder, *names):
    for name in names:
        seed = sum(map(ord, f"{folder.name}/{name}")) + 1000 * len(name)
        write_image(folder / name, np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8))


@pytest.fixture
def workspace(tmp_path):
    with Workspace.create(tmp_path / "w") as made:
        yield made


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "d", "0.png", "1.png", "2.png")
    return tmp_path / "d"


def table(tmp_path, text, name="l.csv"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path / name


def labels_of(workspace, attribute):
    rows = workspace.images()
    column = workspace.schema.index(attribute)
    return {Path(path).name: int(bits[column]) for path, bits in zip(rows.paths, rows.labels, strict=True)}


# Pictures


def test_a_name_that_is_not_utf8_refuses_that_file_and_adds_the_others(folder, workspace):
    os.rename(folder / "2.png", os.fsencode(folder) + b"/caf\xe9.png")  # noqa: PTH104
    report = workspace.add_images(folder, origin="unlabelled")
    assert report.added == 2 and [one.path for one in report.rejected] == [f"{folder}/caf\\xe9.png"]
    assert "UTF-8" in report.rejected[0].reason


def test_composed_and_decomposed_names_of_files_and_attributes_are_one(tmp_path, workspace):
    composed, apart = (unicodedata.normalize(form, "Käse") for form in ("NFC", "NFD"))
    for folder, file, name, attribute in (("a", apart, composed, apart), ("b", composed, apart, composed)):
        draw(tmp_path / folder, f"{file}.png", "x.png")
        csv = table(tmp_path, f"image,{attribute}\n{name}.png,1\nx.png,0\n")
        assert workspace.add_images(tmp_path / folder, attributes=csv).added == 2
    assert workspace.schema.names == (composed,) and workspace.images().labels[:, 0].tolist() == [1, 0, 1, 0]


def test_links_that_lead_back_up_are_not_followed_and_each_picture_counts_once(tmp_path, workspace):
    draw(tmp_path / "d", "x/1.png", "y/2.png")
    draw(tmp_path, "outside.png")
    for place, target in (("x/up", ".."), ("y/up", ".."), ("x/root", "../.."), ("a", "x"), ("y/x", "../x")):
        (tmp_path / "d" / place).symlink_to(target)
    report = workspace.add_images(tmp_path / "d", origin="unlabelled")
    assert (report.added, report.duplicates, report.rejected) == (2, 0, [])
    csv = table(tmp_path, "image,A\na/1.png,1\ny/2.png,0\n")  # a name may lead through the link
    assert workspace.add_images(tmp_path / "d", attributes=csv).duplicates == 2


def test_dark_colour_of_16_bits_is_named_with_what_to_do(tmp_path, workspace):
    (tmp_path / "d").mkdir()
    for name, colour in (("dark", 2), ("alpha", 6)):
        for white in (4095, 65535):
            (tmp_path / "d" / f"{name}{white}.png").write_bytes(png_of_16_bits(colour, white))
    report = workspace.add_images(tmp_path / "d", origin="unlabelled", white_level=4095)
    assert report.dark == [str(tmp_path / "d" / f"{name}4095.png") for name in ("alpha", "dark")]
    (note,) = report.notes
    assert note.startswith("2 pictures of more than 8 bits") and note.endswith("save it with 8 bits a colour")


def png_of_16_bits(colour: int, white: int) -> bytes:
    """A PNG of 20 x 20 of a colour type (2: RGB, 6: with alpha, which is opaque), its brightest value `white`."""
    row = np.full((20, 3 if colour == 2 else 4), 65535, ">u2")
    row[:, :3] = np.linspace(0, white, 20)[:, None]
    data = {
        b"IHDR": struct.pack(">IIBBBBB", 20, 20, 16, colour, 0, 0, 0),
        b"IDAT": zlib.compress((b"\0" + row.tobytes()) * 20),
        b"IEND": b"",
    }
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in data.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_what_is_white_in_deep_grey_can_be_said_and_is_kept_with_the_image(tmp_path, workspace):
    grey = np.linspace(0, 4095, 400).reshape(20, 20).astype(np.uint16)
    (tmp_path / "d").mkdir()
    Image.fromarray(grey).save(tmp_path / "d" / "deep.png")
    draw(tmp_path / "d", "flat.png")
    report = workspace.add_images(tmp_path / "d", origin="unlabelled")
    assert report.dark == [str(tmp_path / "d" / "deep.png")] and workspace.load([1], 20).max() == 16
    report = workspace.add_images(tmp_path / "d", origin="unlabelled", white_level=4095)
    assert (report.dark, report.duplicates) == ([], 2) and workspace.load([1], 20).max() == 255
    assert workspace.images().fields == {"white_level": ["4095", None]}
    assert workspace.add_images(tmp_path / "d", origin="unlabelled").dark == []
    assert workspace.read(tmp_path / "d" / "deep.png").max() == 255
    workspace.store().rebuild()
    assert workspace.load([1], 20).max() == 255
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "d" / "beyond.tif")
    assert "--white-level 4095" in workspace.add_images(tmp_path / "d", origin="unlabelled").rejected[0].reason
    csv = table(tmp_path, "image,A,white_level\nbeyond.tif,1,8190\nflat.png,0,\n")
    assert workspace.add_images(tmp_path / "d", attributes=csv).added == 1 and workspace.load([3], 20).max() == 128
    with pytest.raises(RgunitError, match="row 1 has the white_level"):
        workspace.add_images(tmp_path / "d", attributes=table(tmp_path, "image,A,white_level\nflat.png,1,x\n"))


# Labels


@pytest.mark.parametrize(
    ("cells", "bits"),
    [
        ("1.0 0.0 nan", [1, 0, -1]),
        ("1 NA 0", [1, -1, 0]),
        ("yes No YES", [1, 0, 1]),
        ("T F T", [1, 0, 1]),
        ("True None False", [1, -1, 0]),
        ("-1 1 n/a", [0, 1, -1]),
    ],
)
def test_a_column_that_nearly_is_an_attribute_becomes_one(tmp_path, folder, workspace, cells, bits):
    rows = "".join(f"{place}.png,{cell},{place % 2}\n" for place, cell in enumerate(cells.split()))
    report = workspace.add_images(folder, attributes=table(tmp_path, f"image,A,B\n{rows}"))
    assert workspace.schema.names == ("A", "B") and workspace.images().labels[:, 0].tolist() == bits
    assert report.notes == []


def test_a_column_that_became_text_is_told_with_the_reason_and_the_way_to_mend_it(tmp_path, folder, workspace):
    csv = table(tmp_path, "image,A,B,sex,name\n0.png,1,1,F,Ann\n1.png,maybe,0,F,Bo\n2.png,0,1,F,Cy\n")
    report = workspace.add_images(folder, attributes=csv)
    assert workspace.schema.names == ("B",) and sorted(workspace.images().fields) == ["A", "name", "sex"]
    told = " ".join(report.notes)
    assert "column A is kept as text: 1 of 3 values" in told and "'maybe' in row 2" in told and "--update" in told
    assert "column sex is kept as text: it holds nothing but 'F'" in told and "name" not in told
    csv = table(tmp_path, "image,A\n0.png,1\n1.png,\n2.png,0\n")
    assert "as it was added before" in workspace.add_images(folder, attributes=csv, origin="unlabelled").notes[0]
    report = workspace.add_images(folder, attributes=csv, update=True)
    assert labels_of(workspace, "A") == {"0.png": 1, "1.png": -1, "2.png": 0}
    assert "A" not in workspace.images().fields and report.updated == 3


@pytest.mark.parametrize(
    "name, text",
    [
        ("s.csv", 'image;A;"B;b"\n0.png;1;0\n1.png;0;1\n'),
        ("t.tsv", "image\tA\tB;b\r\n0.png\t1\t0\r\n1.png\t0\t1\r\n"),
        ("bom.csv", b"\xef\xbb\xbfimage,A,B;b\r\n0.png,1,0\r\n1.png,0,1\r\n"),
        ("wide.csv", "image\tA\tB;b\r\n0.png\t1\t0\r\n1.png\t0\t1\r\n".encode("utf-16")),
        ("array.json", json.dumps([{"image": "0.png", "A": 1, "B;b": 0}, {"image": "1.png", "A": 0, "B;b": 1}])),
        ("lines.jsonl", '{"image": "0.png", "A": true, "B;b": false}\n{"image": "1.png", "A": false, "B;b": true}\n'),
        ("index.csv", ",image,A,B;b\n0,0.png,1,0\n1,1.png,0,1\n"),
        ("names.csv", "image,A,B;b\n./0,1,0\n1,0,1\n"),
        ("back.csv", "image,A,B;b\n.\\0.png,1,0\n{folder}/1.png,0,1\n"),
    ],
)
def test_tables_as_other_tools_write_them(tmp_path, folder, workspace, name, text):
    text = text if isinstance(text, bytes) else text.replace("{folder}", str(folder))
    report = workspace.add_images(folder, attributes=table(tmp_path, text, name))
    assert (report.added, report.rejected) == (2, []) and workspace.schema.names == ("A", "B;b")
    assert workspace.images().labels.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("name", "text"),
    [("l.json", "{}"), ("l.json", "[]"), ("l.json", "[1]"), ("l.csv", "\n"), ("l.csv", b"image,A\n\xe9,1\n")],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path, folder, workspace, name, text):
    with pytest.raises(RgunitError, match=name) as error:
        workspace.add_images(folder, attributes=table(tmp_path, text, name))
    assert "\n" not in str(error.value)


def test_a_name_without_suffix_that_could_be_two_files_is_refused(tmp_path, folder, workspace):
    write_image(folder / "0.jpg", np.zeros((16, 16, 3), np.uint8))
    report = workspace.add_images(folder, attributes=table(tmp_path, "image,A\n0,1\n1,0\n"))
    assert report.added == 1 and "0.jpg, 0.png" in report.rejected[0].reason


# Splits


def test_splits_are_read_as_other_tools_write_them(tmp_path, workspace):
    words = ["Train", "TRAIN", "training", "0", "val", "Valid", "validation", "dev", "1", "Test", "2", "2.0", "NA"]
    draw(tmp_path / "d", *(f"{place}.png" for place in range(len(words))))
    rows = "".join(f"{place}.png,{word},{place % 2}\n" for place, word in enumerate(words))
    workspace.add_images(tmp_path / "d", attributes=table(tmp_path, f"image,split,A\n{rows}"))
    assert list(workspace.images().split[:12]) == ["train"] * 4 + ["val"] * 5 + ["test"] * 3
    assert workspace.images("split=Validation").ids.tolist() == workspace.images("split=val").ids.tolist()


def test_a_word_that_is_no_split_is_refused_with_those_that_are(tmp_path, folder, workspace):
    with pytest.raises(RgunitError, match=r"row 2 has the split 'trian'.*train, training, val.*--split"):
        workspace.add_images(folder, attributes=table(tmp_path, "image,split,A\n0.png,train,1\n1.png,trian,0\n"))
    assert len(workspace.images()) == 0
    workspace.add_images(folder, attributes=tmp_path / "l.csv", split="held")  # it was typed on purpose
    assert set(workspace.images().split) == {"held"}


def test_a_split_that_is_typed_may_have_any_plain_name(tmp_path, folder, workspace):
    csv = table(tmp_path, "image,A\n0.png,1\n1.png,0\n2.png,1\n")
    for typed, kept in (("held", "held"), ("2024-03", "2024-03"), ("Training", "train")):
        workspace.add_images(folder, attributes=csv, split=typed, update=True)
        assert set(workspace.images().split) == {kept} and len(workspace.images(f"split={typed}")) == 3
    for typed in ("a b", "a,b", "a|b", "", "a=b", '"a"'):
        with pytest.raises(UsageError, match="--split"):
            workspace.add_images(folder, attributes=csv, split=typed)


def test_split_folders_are_splits_in_any_spelling(tmp_path, workspace):
    draw(tmp_path / "d", "Training/cat/0.png", "Training/dog/1.png", "VALID/cat/2.png", "Test/dog/3.png")
    workspace.add_images(tmp_path / "d")
    assert workspace.schema.names == ("cat", "dog") and list(workspace.images().split) == [
        "test",
        "train",
        "train",
        "val",
    ]
    draw(tmp_path / "e", "train/0.png", "dev/1.png")
    csv = table(tmp_path, "image,A\ntrain/0.png,1\ndev/1.png,0\n")
    workspace.add_images(tmp_path / "e", attributes=csv)
    assert list(workspace.images().split[4:]) == ["train", "val"]
    draw(tmp_path / "f", "train/9.png", "test/8.png")
    workspace.add_images(tmp_path / "f", origin="unlabelled")
    assert list(workspace.images("origin=unlabelled").split) == ["test", "train"]


def test_update_changes_labels_split_and_texts_and_says_what(tmp_path, folder, workspace):
    workspace.add_images(
        folder, attributes=table(tmp_path, "image,split,A,B,who\n0.png,train,1,1,x\n1.png,test,0,1,y\n")
    )
    csv = table(tmp_path, "image,split,A,B,who\n0.png,test,0,,x\n1.png,test,0,1,z\n")
    report = workspace.add_images(folder, attributes=csv)
    assert (report.duplicates, report.updated) == (2, 0)
    assert [one.reason.split(" already")[0] for one in report.rejected] == [
        "the same image has another value of A, split",
        "the same image has another value of who",
    ]
    report = workspace.add_images(folder, attributes=csv, update=True)
    assert (report.rejected, report.updated) == ([], 2)
    assert report.changes == {"A": 1, "B": 1, "split": 1, "who": 1}
    images = workspace.images()
    assert images.labels.tolist() == [[0, -1], [0, 1]] and list(images.split) == ["test", "test"]
    assert images.fields["who"] == ["x", "z"]
    assert workspace.add_images(folder, attributes=csv, update=True).updated == 0
    assert workspace.store().verify().ok


# Layouts


@pytest.mark.parametrize(
    "inside, suffix",
    [
        ("img_align_celeba", "jpg"),
        ("img_align_celeba_png", "png"),
        ("img_align_celeba/img_align_celeba", "jpg"),
        ("Img/img_align_celeba_png.7z/img_align_celeba_png", "png"),
    ],
)
def test_celebas_list_finds_those_of_its_pictures_that_are_there(tmp_path, workspace, inside, suffix):
    for number in range(150, 153):
        draw(tmp_path / "d", f"{inside}/{number:06d}.png")
        if suffix == "jpg":
            (tmp_path / "d" / inside / f"{number:06d}.png").rename(tmp_path / "d" / inside / f"{number:06d}.jpg")
    lines = "".join(f"{j:06d}.jpg  {(-1) ** j} 1\n" for j in range(1, 203))
    (tmp_path / "d" / "list_attr_celeba.txt").write_text(f"202\nBlack_Hair Male\n{lines}")
    report = workspace.add_images(tmp_path / "d")
    assert report.added == 3 and len(report.rows_without_file) == 199 and not report.files_without_row
    assert workspace.images().labels.tolist() == [[1, 1], [0, 1], [1, 1]]


def test_the_csv_files_of_a_re_upload_of_celeba(tmp_path, workspace):
    draw(tmp_path / "d", "img_align_celeba/img_align_celeba/000001.jpg.png", "x.png")
    home = tmp_path / "d" / "img_align_celeba" / "img_align_celeba"
    (home / "000001.jpg.png").rename(home / "000001.jpg")
    (tmp_path / "d" / "x.png").rename(home / "000002.jpg")
    (tmp_path / "d" / "list_attr_celeba.csv").write_text("image_id,Male,Young\n000001.jpg,-1,1\n000002.jpg,1,-1\n")
    (tmp_path / "d" / "list_eval_partition.csv").write_text("image_id,partition\n000001.jpg,0\n000002.jpg,2\n")
    (tmp_path / "d" / "list_bbox_celeba.csv").write_text("image_id,x_1\n000001.jpg,95\n")
    assert workspace.add_images(tmp_path / "d").added == 2
    assert workspace.images().labels.tolist() == [[0, 1], [1, 0]] and list(workspace.images().split) == [
        "train",
        "test",
    ]


@pytest.mark.parametrize(
    "names, domains",
    [
        (["train_A/0.png", "train_B/1.png", "test_A/2.png", "test_B/3.png"], ("A", "B")),
        (["traina/0.png", "trainb/1.png", "testa/2.png", "testb/3.png"], ("A", "B")),
        (["trainPhoto/0.png", "trainSketch/1.png", "testPhoto/2.png", "testSketch/3.png"], ("Photo", "Sketch")),
        (["trainA/0.png", "trainB/1.png", "testA/2.png", "testB/3.png", "valA/4.png", "validB/5.png"], ("A", "B")),
    ],
)
def test_two_domains_in_other_spellings(tmp_path, workspace, names, domains):
    draw(tmp_path / "d", *names)
    assert workspace.add_images(tmp_path / "d").added == len(names)
    assert workspace.schema.names == domains and workspace.schema.groups == (domains,)
    assert workspace.store().count("split=test") == 2 and workspace.store().count(f"+{domains[0]} split=train") == 1


def test_domains_whose_names_begin_like_a_split_are_domains(tmp_path, workspace):
    draw(tmp_path / "d", "trains/0.png", "trainers/1.png", "Airport/2.png")
    workspace.add_images(tmp_path / "d")
    assert workspace.schema.names == ("Airport", "trainers", "trains")


@pytest.mark.parametrize("names", [["cat/0.png", "dog/1.png"], ["trainA/0.png", "trainB/1.png"]])
def test_files_that_belong_to_no_picture_never_hide_the_layout(tmp_path, workspace, names):
    folder = tmp_path / "d"
    draw(folder, *names)
    for place in (folder, folder / names[0].split("/")[0]):
        for junk in ("Thumbs.db", ".DS_Store", "._x.jpg", "desktop.ini", "README", "README.md", "stray.csv"):
            (place / junk).write_bytes(b"junk")
    (folder / "__MACOSX").mkdir()
    report = workspace.add_images(folder)
    assert (report.added, report.rejected, len(workspace.schema)) == (2, [], 2)
    assert {Path(name).name for name in report.files_without_row} == {"README", "README.md", "stray.csv"}


# Pictures that change places


def test_pictures_that_exchange_names_keep_their_labels(tmp_path, folder, workspace):
    csv = table(tmp_path, "image,A,who\n0.png,1,zero\n1.png,0,one\n2.png,1,two\n")
    workspace.add_images(folder, attributes=csv)
    before = {number: workspace.load([number], 16) for number in (1, 2, 3)}
    for source, target in (("0.png", "x"), ("1.png", "0.png"), ("x", "1.png")):
        (folder / source).rename(folder / target)
    report = workspace.add_images(folder, origin="unlabelled")
    assert (report.added, len(report.moved), report.replaced, report.gone) == (0, 2, [], [])
    with Workspace.open(workspace.path) as again:
        for number, pixels in before.items():
            assert (again.load([number], 16) == pixels).all()
        assert [Path(path).name for path in again.images().paths] == ["1.png", "0.png", "2.png"]
        assert again.images().labels[:, 0].tolist() == [1, 0, 1] and again.store().verify().ok


def test_renumbered_pictures_are_followed(tmp_path, folder, workspace):
    csv = table(tmp_path, "image,A\n0.png,1\n1.png,0\n2.png,1\n")
    workspace.add_images(folder, attributes=csv)
    for number in (2, 1, 0):
        (folder / f"{number}.png").rename(folder / f"{number + 1}.png")
    draw(folder, "0.png")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes())
    write_image(folder / "0.png", np.full((16, 16, 3), 7, np.uint8))
    report = workspace.add_images(folder, origin="unlabelled")
    assert (report.added, len(report.moved), report.replaced) == (1, 3, [])
    assert labels_of(workspace, "A") == {"1.png": 1, "2.png": 0, "3.png": 1, "0.png": -1}


def test_pictures_that_exchanged_names_are_followed_also_where_only_one_is_added(tmp_path, folder, workspace):
    workspace.add_images(folder, attributes=table(tmp_path, "image,A\n0.png,1\n1.png,0\n2.png,1\n"))
    for source, target in (("0.png", "x"), ("1.png", "0.png"), ("x", "1.png")):
        (folder / source).rename(folder / target)
    report = workspace.add_images(folder / "0.png", origin="unlabelled")
    assert (report.added, len(report.moved), report.replaced) == (0, 2, [])
    assert labels_of(workspace, "A") == {"1.png": 1, "0.png": 0, "2.png": 1}
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "c.png").write_bytes((folder / "2.png").read_bytes())
    assert workspace.add_images(tmp_path / "copy", origin="unlabelled").moved == []  # a copy: the first place stays


def test_a_picture_that_was_retouched_under_its_name_is_another_image(tmp_path, folder, workspace):
    csv = table(tmp_path, "image,A\n0.png,1\n1.png,0\n2.png,1\n")
    workspace.add_images(folder, attributes=csv, split="test")
    write_image(folder / "1.png", np.full((16, 16, 3), 7, np.uint8))
    assert workspace.image_for_path(folder / "1.png") is None
    report = workspace.add_images(folder, attributes=csv)
    assert (report.added, report.duplicates, report.replaced) == (1, 2, [str(folder / "1.png")])
    images = workspace.images()
    assert images.ids.tolist() == [1, 3, 4] and set(images.split) == {"test"}  # it stays on its side
    assert (workspace.load([4], 16) == 7).all() and workspace.store().verify().ok


def test_a_retouched_picture_is_still_one_that_a_run_learned_from(tmp_path, folder, workspace):
    csv = table(tmp_path, "image,A\n0.png,1\n1.png,0\n2.png,1\n")
    workspace.add_images(folder, attributes=csv)
    run, other = (workspace.add_run("translation", "demo", {}) for _ in range(2))
    keep_learned(run.path, [1, 2])
    write_image(folder / "1.png", np.full((16, 16, 3), 7, np.uint8))
    workspace.add_images(folder, attributes=csv)
    assert learned_from(workspace, [run]).tolist() == [1, 2, 4] and len(learned_from(workspace, [other])) == 0


def test_a_picture_that_is_gone_is_told_and_found_again_elsewhere(tmp_path, folder, workspace):
    csv = table(tmp_path, "image,A\n0.png,1\n1.png,0\n2.png,1\n")
    workspace.add_images(folder, attributes=csv)
    (tmp_path / "new").mkdir()
    (folder / "1.png").rename(tmp_path / "new" / "other.png")
    with pytest.raises(RgunitError, match="rgunit add NEWPLACE"):
        workspace.load([2], 16)
    assert workspace.add_images(folder, attributes=csv).gone == [str(folder / "1.png")]
    report = workspace.add_images(tmp_path / "new", origin="unlabelled")
    assert (report.added, len(report.moved)) == (0, 1) and workspace.load([2], 16).shape == (1, 16, 16, 3)
