"""`rgunit index`: what it says of files, what it merges, and what it does not load."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cli.main import main
from index_store.workspace import GeneratedImage, Workspace
from tests.places import ROOT

HEAVY = ("torch", "torchvision", "faiss", "sqlalchemy.orm", "alembic")
TELL = "import sys, json; from cli.main import main; status = main(sys.argv[1:]); "
TELL += f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr); sys.exit(status)"


def process(path, *words):
    """Run `rgunit index …` in a process: exit status, its JSON object, which heavy modules it loaded."""
    command = [sys.executable, "-c", TELL, "-w", str(path), "--json", "index", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout), json.loads(done.stderr.splitlines()[-1])


@pytest.fixture
def index(capsys):
    """Run `rgunit index …` in this process: exit status, its JSON object."""

    def call(path, *words):
        capsys.readouterr()
        status = main(["-w", str(path), "--json", "index", *map(str, words)])
        return status, json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def path(tmp_path):
    """A workspace with 6 pictures of its user's, 2 generated ones, and vectors in several sealed files."""
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(pictures / f"{number}.png")
    with Workspace.create(tmp_path / "w") as workspace:
        workspace.add_images(pictures, origin="unlabelled")
        ids = workspace.images().ids
        pixels = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        made = [GeneratedImage(pixels + one, int(ids[0]), np.zeros(0, np.int8), "r1") for one in range(2)]
        workspace.add_generated(made)
        for number in ids:
            workspace.put_vectors([number], rng.normal(size=(1, 4)), encoder="r2", fingerprint="f")
    return tmp_path / "w"


def test_info_verify_and_remove_load_nothing_heavy(path):
    for words in (["info"], ["verify"], ["remove", "--id", 1]):
        status, told, loaded = process(path, *words)
        assert (status, loaded) == (0, []), (words, told)


def test_compact_merges_files_and_keeps_ids(path, index):
    with Workspace.open(path) as workspace:
        before = workspace.store().search(np.zeros(4), encoder="r2")
    status, told = index(path, "compact")
    assert status == 0 and told["ok"] is True and told["problems"] == []
    assert (told["vectors"], told["shards"], told["images"]) == (6, 1, 8)
    assert told["told"][0].endswith("sealed files merged into 2")
    assert len(list((path / "shards").iterdir())) == 2
    with Workspace.open(path) as workspace:
        after = workspace.store().search(np.zeros(4), encoder="r2")
    assert np.array_equal(before.ids, after.ids) and np.array_equal(before.distances, after.distances)


def test_compact_refuses_what_is_damaged_and_changes_nothing(path, index):
    shard = max((path / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    before = sorted(file.name for file in (path / "shards").iterdir())
    status, told = index(path, "compact")
    assert status == 1 and shard.name in told["error"] and "index rebuild`" in told["error"]
    assert sorted(file.name for file in (path / "shards").iterdir()) == before
    assert index(path, "rebuild")[0] == 0 and index(path, "compact")[0] == 0


def test_verify_names_the_remedy_that_helps(path, index, rgunit):
    pytest.importorskip("pymilvus", reason="pymilvus is not installed: nothing is searched on Milvus")
    told = rgunit("-w", path, "--vectors", "milvus+http://127.0.0.1:9/x", "--json", "index", "verify")
    assert told.status == 1 and "start it" in told.json["error"] and "rebuild" not in told.json["error"]
    (path / "forgetting.json").write_text("{}")
    status, told = index(path, "verify")
    assert status == 1 and told["error"].endswith("index remove --forget` ends it")
    shard = max((path / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    status, told = index(path, "verify")
    assert status == 1 and told["error"].startswith("2 problems") and told["error"].endswith("what can be repaired")


def test_verify_names_pictures_that_are_missing_or_changed(path, index):
    made = sorted((path / "images" / "generated" / "r1").iterdir())
    own = sorted((path.parent / "pictures").iterdir())
    made[0].unlink()
    made[1].write_bytes(made[1].read_bytes() + b"x")
    own[1].write_bytes(own[1].read_bytes() + b"x")
    status, told = index(path, "verify")
    assert status == 1 and told["ok"] is False and told["error"].startswith("2 problems, the first: ")
    for file, wrong in zip(made, ("is missing", "is not the picture"), strict=True):
        (line,) = [line for line in told["problems"] if file.name in line]
        assert wrong in line and "rgunit index remove --id" in line
    own[2].unlink()
    status, told = index(path, "verify", "--images")
    assert status == 1 and len(told["problems"]) == 4
    assert any(own[1].name in line and "is not the picture" in line for line in told["problems"])
    assert any(own[2].name in line and "is missing" in line for line in told["problems"])
    ids = [line.split("--id ")[1].split("`")[0] for line in told["problems"]]
    assert index(path, "remove", *[word for number in ids for word in ("--id", number)])[0] == 0
    assert index(path, "verify", "--images")[1]["ok"] is True


def test_forget_leaves_nothing_and_says_what_stays(path, index, capsys):
    own = path.parent / "pictures" / "0.png"
    assert main(["-w", str(path), "index", "remove", "--id", "1", "--forget", "--dry-run"]) == 0
    assert "3 images would be forgotten (2 of them generated" in capsys.readouterr().out
    status, told = index(path, "remove", "--id", 1, "--forget")
    assert (status, told["ok"], told["images"], told["vectors"], told["dry_run"]) == (0, True, 5, 5, False)
    assert (told["removed"], told["generated"], told["outside"]) == (3, 2, [str(own)]) and own.exists()
    assert not list((path / "images" / "generated").rglob("*.png")) and len(told["deleted"]) == 2
    assert index(path, "remove", "--forget")[1]["removed"] == 0
    status, told = index(path, "remove", "--id", 1, "--forget")
    assert status == 1 and told["error"] == "no image has id 1"
    assert index(path, "remove", "--id", 2, "--dry-run")[0] == 2


def test_imported_vectors_without_an_image_are_removed_as_images_are(tmp_path, index):
    path = tmp_path / "vectors"
    np.save(tmp_path / "v.npy", np.eye(6, dtype=np.float32))
    np.save(tmp_path / "l.npy", np.array([[1], [1], [0], [0], [-1], [-1]], np.int8))
    given = ("--labels", tmp_path / "l.npy", "--attributes", "Z", "--split", "train")
    assert index(path, "import", tmp_path / "v.npy", *given)[1]["added"] == 6
    assert index(path, "remove", "--id", 1)[1]["removed"] == 1
    assert index(path, "remove", "--where", "?Z split=train")[1]["removed"] == 2
    assert index(path, "remove", "--where", "+Z", "--forget")[1]["removed"] == 1
    assert index(path, "remove", "--where", "split=tset")[0] == 2
    with Workspace.open(path) as workspace:
        assert workspace.store().state().ids.tolist() == [3, 4] and workspace.store().verify().ok


def test_an_import_that_is_refused_leaves_no_workspace(tmp_path, index):
    np.save(tmp_path / "v.npy", np.full((3, 2), np.nan, np.float32))
    status, told = index(tmp_path / "new", "import", tmp_path / "v.npy")
    assert status == 1 and "finite" in told["error"] and not (tmp_path / "new").exists()
    np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "keys.txt").write_text("a\n")
    assert index(tmp_path / "new", "import", tmp_path / "v.npy", "--keys", tmp_path / "keys.txt")[0] == 1
    assert not (tmp_path / "new").exists()


def test_vectors_are_searched_on_milvus_by_url_and_the_folder_names_no_server(path, rgunit, milvus):
    before = os.environ.get("RGUNIT_VECTORS")
    told = rgunit("-w", path, "--vectors", milvus, "--json", "index", "rebuild")
    assert told.status == 0 and told.json["ok"] and "6 rows of r2, FLAT" in told.json["mended"][0]
    assert os.environ.get("RGUNIT_VECTORS") == before
    assert rgunit("-w", path, "--json", "index", "info").status == 1
    assert "--vectors URL or RGUNIT_VECTORS" in rgunit("-w", path, "index", "info").error
    assert rgunit("-w", path, "--vectors", "files", "--json", "index", "verify").json["ok"]
    told = rgunit("-w", path, "index", "remove", "--id", "1", "--vectors", milvus, "--json")
    assert told.json["removed"] == 1 and told.json["ok"] and told.json["vectors"] == 5
    with Workspace.open(path, vectors=milvus) as workspace:
        assert workspace.store().search(np.zeros(4), encoder="r2", k=6).plan == "Milvus FLAT: all rows"
        (held,) = workspace.store()._engine._mark.held.values()
        workspace.store()._engine.server.call("delete", held.name, ids=[2])
    told = rgunit("-w", path, "--vectors", milvus, "--json", "index", "verify")
    assert told.status == 1 and "lacks 1 rows" in told.json["problems"][0] and "index rebuild" in told.json["error"]
    assert rgunit("-w", path, "--vectors", milvus, "--json", "index", "rebuild").json["ok"]
    for url, status, said in (("http://h/x", 2, "milvus+http://HOST"), ("milvus+http://127.0.0.1:9/x", 1, "cannot be")):
        told = rgunit("-w", path, "--vectors", url, "--json", "index", "verify")
        assert told.status == status and said in told.json["error"]
