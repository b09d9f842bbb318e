"""A workspace that somebody else sends: no name in it leads out of it, and nothing but regular files is read."""

import fcntl
import json
import os
import shutil
import socket
import sqlite3
import time
from pathlib import Path

import faiss
import numpy as np
import pytest
from PIL import Image

from index_store import ann, places
from index_store.errors import ImageRefused, Locked, RgunitError
from index_store.features import Record, seal_file
from index_store.images import read_image
from index_store.index import CellIndex
from index_store.state import Segment
from index_store.store import IndexStore
from index_store.workspace import GeneratedImage, Workspace

pytestmark = [pytest.mark.sqlite, pytest.mark.files]  # what is sent is a copy, which is refused there

NAMES = ("../../victim", "/etc/hostname", "a/b", "..", "", "nul\0byte", "line\nbreak", "x" * 300, 3, None)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A workspace with pictures, made ones among them, vectors and a run."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "d").mkdir()
    for number in range(3):
        pixels = np.full((20, 20, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(folder / "d" / f"{number}.png")
    with Workspace.create(folder / "w") as workspace:
        workspace.add_images(folder / "d", origin="unlabelled")
        workspace.add_generated([GeneratedImage(pixels, 1, np.zeros(0, np.int8), "r1")])
        workspace.put_vectors([1, 2, 3], np.eye(3, dtype=np.float32), encoder="e", fingerprint="f")
        workspace.add_run("translation", "demo", {"a": 1})
    return folder / "w"


@pytest.fixture
def sent(tmp_path, built):
    """A copy of it that a test may change, and beside it a file that nobody may touch."""
    shutil.copytree(built, tmp_path / "w")
    (tmp_path / "victim").mkdir()
    for name in ("00000003-vectors.h5", "run.json", "1.png", "file"):
        (tmp_path / "victim" / name).write_text("precious")
    yield tmp_path / "w"
    left = {file.name: file.read_text() for file in (tmp_path / "victim").rglob("*") if file.is_file()}
    assert left == dict.fromkeys(("00000003-vectors.h5", "run.json", "1.png", "file"), "precious")


def change(folder, statement, *values):
    connection = sqlite3.connect(folder / "catalog.db")
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def use(folder):
    """Everything that opens, makes or deletes files, each on its own; what is refused is refused in one line."""
    told = []

    def tried(action):
        try:
            with Workspace.open(folder) as workspace:
                action(workspace)
        except RgunitError as error:
            assert "\n" not in str(error)
            told.append(str(error))

    tried(lambda w: told.extend(w.store().verify().problems))
    tried(lambda w: told.extend(w.check_images(every=True)))
    tried(lambda w: w.load([1, 4], 16))
    tried(lambda w: w.store().search(np.zeros(3), k=2))
    tried(lambda w: w.update_run("r1", steps=3))
    tried(lambda w: w.add_generated([GeneratedImage(np.zeros((20, 20, 3), np.uint8), 1, np.zeros(0, np.int8), "r1")]))
    tried(lambda w: w.store().compact())
    tried(lambda w: w.store().rebuild())
    tried(lambda w: w.add_run("retrieval", "demo", {}))
    tried(lambda w: w.store().compact())
    return told


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_plain_makes_no_path(tmp_path, name):
    for make in (places.inside, places.shard, lambda folder, one: places.run_folder(folder, 1, one)):
        with pytest.raises(places.Unsafe) as error:
            make(tmp_path, name)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
    if name not in (3, "/etc/hostname"):
        with pytest.raises(places.Unsafe):
            places.run_folder(tmp_path, name, "translation")
    with pytest.raises(places.Unsafe):
        places.shard(tmp_path, f"00000001-{name}.h5")


def test_plain_names_make_paths(tmp_path):
    assert places.shard(tmp_path, "00000001-vectors.h5") == tmp_path / "00000001-vectors.h5"
    assert places.run_folder(tmp_path, 7, "guided") == tmp_path / "runs" / "r7-guided"
    assert places.picture(tmp_path, "/far/away.png") == "/far/away.png"
    assert places.picture(tmp_path, "images/ä b%?#.png") == f"{tmp_path}/images/ä b%?#.png"


@pytest.mark.parametrize("file", ["../../victim/00000003-vectors.h5", "00000003-x.h5", "/dev/zero", "a\0.h5", 7])
def test_a_shard_of_another_name_is_never_opened_and_rebuild_drops_its_row(sent, file):
    change(
        sent, "INSERT INTO shards SELECT 99, 'vectors', ?, size, digest, rows, encoder FROM shards WHERE seq = 2", file
    )
    assert any("is no shard's name" in line for line in use(sent))
    with Workspace.open(sent) as workspace:
        assert workspace.store().verify().ok and workspace.store().search(np.eye(3)[1], k=1).ids.tolist() == [[2]]


@pytest.mark.parametrize("path", ["../victim/1.png", "images/generated/../../../victim/1.png", "a\0b", "", "x" * 5000])
def test_a_picture_that_leads_out_is_named_not_read_and_can_be_removed(sent, path):
    change(sent, "UPDATE images SET path = ? WHERE id = 4", path)
    assert any("leads out of the workspace and is not read" in line for line in use(sent))
    with Workspace.open(sent) as workspace:
        assert len(workspace.images()) >= 4
        workspace.store().remove([4])


def test_a_picture_behind_a_link_that_leads_out_is_not_read(sent):
    (sent / "photos").symlink_to(sent.parent / "victim")
    change(sent, "UPDATE images SET path = 'photos/1.png' WHERE id = 1")
    with Workspace.open(sent) as workspace:
        assert "photos/1.png: leads out" in workspace.check_images()[0]
        with pytest.raises(ImageRefused, match="leads-out-of-the-workspace"):
            workspace.load([1], 16)


@pytest.mark.parametrize(
    ("column", "value"),
    [("stage", "../../victim"), ("stage", "x/../../victim"), ("number", "1/../.."), ("number", -1), ("config", "[")],
)
def test_a_run_of_another_name_is_refused_and_rebuild_takes_it_out(sent, column, value):
    connection = sqlite3.connect(sent / "catalog.db")
    connection.execute("CREATE TABLE other AS SELECT * FROM runs")  # without the types that SQLite would enforce
    connection.execute("DROP TABLE runs")
    connection.execute("ALTER TABLE other RENAME TO runs")
    connection.execute(f"UPDATE runs SET {column} = ?", (value,))
    connection.commit()
    connection.close()
    assert any("run" in line for line in use(sent))
    with Workspace.open(sent) as workspace:
        assert workspace.store().verify().ok and workspace.runs()[0].stage == "translation"


@pytest.mark.parametrize(("key", "value"), [("stage", "../../victim"), ("number", "1"), ("number", 2), ("stage", None)])
def test_a_run_json_that_tells_another_place_is_not_followed(sent, key, value):
    file = sent / "runs" / "r1-translation" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    (sent / "catalog.db").unlink()
    assert any("run.json" in line for line in use(sent))


@pytest.mark.parametrize(
    "place",
    [
        *("lock", "catalog.db", "catalog.db-wal", "shards", "runs", "cache", "images", "images/generated"),
        *("runs/r1-translation", "runs/r1-translation/run.json", "runs/r1-translation/samples", "cache/pools"),
        *("runs/r1-translation/metrics.jsonl", "images/generated/r1", "images/generated/r1/00000004.png"),
        *("shards/00000001-images.h5", "report.html", "report.html.part", "catalog.db.writing"),
    ],
)
def test_a_link_that_leads_out_is_refused_before_anything_is_opened(sent, place):
    link = sent / place
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    whole = place in ("shards", "runs", "cache", "images") or "." not in link.name
    link.symlink_to(sent.parent / "victim" / ("" if whole and link.name != "lock" else "file"))
    told = use(sent)
    assert len(told) == 10 and all("is a link that leads out of" in line for line in told)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: socket.socket(socket.AF_UNIX).bind(str(path))])
def test_a_pipe_or_socket_in_a_workspace_is_refused(sent, make, monkeypatch):
    monkeypatch.chdir(sent)  # a socket's path is short
    make("cache/x")
    assert all("is neither a file nor a folder" in line for line in use(sent))


def test_links_that_stay_in_the_workspace_are_followed(sent):
    (sent / "runs" / "r1-translation").rename(sent / "runs" / "old")
    (sent / "runs" / "r1-translation").symlink_to("old")
    (sent.parent / "link").symlink_to(sent)
    (sent / "labels.csv").symlink_to(sent.parent / "victim" / "file")  # the user's own, which nothing here opens
    with Workspace.open(sent.parent / "link") as workspace:
        workspace.update_run("r1", steps=5)
        assert workspace.run("r1").steps == 5


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW x AS SELECT 1",
        "CREATE TRIGGER x AFTER INSERT ON images BEGIN DELETE FROM shards; END",
        "CREATE VIRTUAL TABLE x USING fts5(a)",
        "CREATE TABLE x (a, b AS (hex(zeroblob(100))))",
    ],
)
def test_a_catalog_that_computes_is_damaged_and_made_anew(sent, sql):
    change(sent, sql)
    assert any("holds more than tables" in line for line in use(sent))
    with Workspace.open(sent) as workspace:
        assert workspace.store().verify().ok


def test_a_catalog_with_values_of_another_kind_is_damaged_in_one_line(sent):
    change(sent, "UPDATE encoders SET dim = 'many'")
    change(sent, "UPDATE settings SET value = 'x' WHERE key = 'sequence'")
    assert any("is damaged" in line for line in use(sent))
    with IndexStore.open(sent) as store:
        assert store.verify().ok


def test_only_regular_files_are_read_and_none_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    socket.socket(socket.AF_UNIX).bind(str(tmp_path / "s"))
    (tmp_path / "link.png").symlink_to("/dev/zero")
    begun = time.monotonic()
    for file in (tmp_path / "pipe.png", tmp_path / "s", tmp_path / "link.png", tmp_path):
        with pytest.raises(ImageRefused, match=r"is no regular file|is a folder"):
            read_image(file)
    with pytest.raises(ImageRefused, match="cannot be read"):
        read_image("nul\0.png")
    assert time.monotonic() - begun < 1


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path):
    with (tmp_path / "hole.png").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ImageRefused, match="are too large"):
        read_image(tmp_path / "hole.png")


def test_generated_pictures_lie_below_their_run_only(sent):
    with Workspace.open(sent) as workspace, pytest.raises(places.Unsafe):
        workspace.add_generated(
            [GeneratedImage(np.zeros((20, 20, 3), np.uint8), 1, np.zeros(0, np.int8), "../../../victim")]
        )
    assert not list(Path(sent).rglob("*.writing"))


def test_a_journal_that_names_another_file_is_refused_before_sqlite_deletes_that(sent):
    """SQLite rolls a journal back when it opens a catalog, and deletes the file that the journal names."""
    victim = str(sent.parent / "victim" / "file").encode()
    head = bytes.fromhex("d9d505f920a163d7") + (1).to_bytes(4, "big") + bytes(4) + (1).to_bytes(4, "big")
    journal = (head + (512).to_bytes(4, "big") + (4096).to_bytes(4, "big")).ljust(512, b"\0")
    name = victim + len(victim).to_bytes(4, "big") + sum(victim).to_bytes(4, "big") + head[:8]
    (sent / "catalog.db-journal").write_bytes(journal + bytes(4) + name)
    assert len(told := use(sent)) == 10 and all("names another file" in line for line in told)


def test_the_text_of_a_lock_is_shown_only_where_it_is_a_number(sent):
    (sent / "lock").write_text("\x1b[2Jgone")
    with IndexStore.open(sent) as store, (sent / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Locked, match="written by process unknown"):
            store.remove([1])


@pytest.mark.parametrize(
    "attack", ["kind", "fewer rows", "rows that are not there", "file", "probes", "costs", "rubbish"]
)
def test_cells_of_other_hands_are_not_used(tmp_path, attack):
    """A derived index is FAISS's own format, which trusts what it reads and may open other files."""
    vectors = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    cells = ann.build_cells(Segment(("x.h5",), np.arange(600), vectors, mapped=True))
    ann.save_cells(tmp_path, "x.h5", cells)
    assert ann.load_cells(tmp_path, "x.h5", vectors.shape) is not None
    assert ann.load_cells(tmp_path, "x.h5", (600, 5)) is None
    data, header = cells.index.pack(), {"shard": "x.h5", "probes": list(cells.probes), "costs": vars(cells.costs)}
    if attack == "kind":
        flat = faiss.IndexFlatL2(4)
        flat.add(vectors)
        data = faiss.serialize_index(flat)
    elif attack == "fewer rows":
        data = CellIndex.build(vectors[:500], 16).pack()
    elif attack == "rows that are not there":
        data[-8:] = 255
    elif attack == "file":
        place = bytes(data).index(b"ilar")
        data[place : place + 4] = list(b"ilod")
    elif attack == "rubbish":
        data[60:] = 255
    else:
        header[attack] = [10**9] * 3 if attack == "probes" else {"scan": "x"}
    seal_file(ann.cells_path(tmp_path, "x.h5"), Record("cells", header, {"index": np.array(data, np.uint8)}))
    assert ann.load_cells(tmp_path, "x.h5", vectors.shape) is None
