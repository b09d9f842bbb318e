"""Out to other programs and in from them: what comes back is what was there, and nothing half-written stays."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from PIL import Image

from index_store import exporting, flatfile
from index_store.errors import DuplicateKey, RgunitError, UsageError
from index_store.exporting import export_vectors
from index_store.importing import import_vectors
from index_store.store import IndexStore
from index_store.workspace import Workspace

DIM, ROWS = 6, 50
NAMES = ["Male", "Hat, red"]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(exporting, "BLOCK_BYTES", 4 * DIM * 16)


@pytest.fixture
def filled(tmp_path):
    """A store of 47 rows in several shards, ids out of order, one encoder with keys and one attached to some rows."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    labels = rng.integers(-1, 2, (ROWS, 2)).astype(np.int8)
    store = IndexStore.create(tmp_path / "s", dim=DIM, attributes=NAMES, groups=[NAMES], encoder="clip")
    with store:
        keys = [f'ä{row},"{row}"' for row in range(ROWS)]
        for part in (slice(0, 20), slice(20, ROWS)):
            store.add(vectors[part], labels=labels[part], keys=keys[part], split="train", origin="unlabelled")
        store.attach(np.arange(30, 0, -1), vectors[29::-1] * 2, encoder="style", fingerprint="abc")
        store.remove([3, 4, 50])
        yield store


def rows_of(store, encoder=None):
    """{key: (vector, labels, split, origin)} of an encoder."""
    state, table = store.snapshot(encoder)
    found = {}
    keys = exporting.keys_of(store.catalog, table.ids)
    for place in np.flatnonzero(table.rows >= 0):
        row = table.rows[place]
        labels = state.schema.unpack(state.known[row : row + 1], state.value[row : row + 1])[0]
        told = (state.names[state.split[row]], state.names[state.origin[row]])
        found[keys[place]] = (table.gather(np.array([place]))[0].tobytes(), labels.tobytes(), *told)
    return found


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_what_is_exported_comes_back_whole(filled, tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs the extra rgunit[parquet]")
    out = tmp_path / f"out.{form}" if form == "parquet" else tmp_path / "out"
    done = export_vectors(filled, out, form=form)
    assert done.rows == 47 and done.encoder == {"name": "clip", "fingerprint": "", "dim": DIM}
    with Workspace.create(tmp_path / "other") as other:
        made = import_vectors(other.store(), out)
        assert (made.rows, made.added, made.attached, made.known) == (47, 47, 0, 0)
        assert rows_of(other.store(), "clip") == rows_of(filled)
        assert other.schema == filled.schema and other.store().verify().ok
        again = import_vectors(other.store(), out)
        assert (again.added, again.known) == (0, 47)
    style = export_vectors(filled, tmp_path / f"style{out.suffix}", form=form, encoder="style", where="-Male")
    assert style.encoder["fingerprint"] == "abc" and style.rows == filled.count(
        "-Male id=" + "|".join(map(str, range(31)))
    )


def test_rows_without_keys_come_back_from_exports_of_a_part_each(filled, tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs the extra rgunit[parquet]")
    filled.add(np.arange(4 * DIM, dtype=np.float32).reshape(4, DIM), split=["a", "a", "b", "b"])
    with IndexStore.create(tmp_path / "t", dim=DIM, attributes=[]) as store:
        for split in ("b", "a"):
            for form in ("parquet", "npy"):
                out = tmp_path / f"{split}.{form}"
                export_vectors(filled, out, form=form, encoder="clip", where=f"split={split}")
                done = import_vectors(store, out)
                assert (done.added, done.known) == ((2, 0) if form == "parquet" else (0, 2))
        assert sorted(rows_of(store, "clip")) == [f"clip/{row}" for row in range(51, 55)]


def test_numpy_files_hold_what_they_say(filled, tmp_path):
    export_vectors(filled, tmp_path / "out", form="npy", encoder="style")
    vectors, ids = np.load(tmp_path / "out" / "vectors.npy"), np.load(tmp_path / "out" / "ids.npy")
    assert ids.tolist() == [row for row in range(1, 31) if row not in (3, 4)]
    assert np.array_equal(vectors, filled.vectors(ids, encoder="style"))
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["attributes"] == NAMES and about["rows"] == 28
    assert not list(tmp_path.glob("*.writing"))


def test_faiss_reads_what_was_written_and_flat_indexes_come_in(filled, tmp_path):
    export_vectors(filled, tmp_path / "out.faiss", form="faiss")
    index = faiss.read_index(str(tmp_path / "out.faiss"))
    assert (type(faiss.downcast_index(index)).__name__, index.ntotal, index.d) == ("IndexIDMap2", 47, DIM)
    queries = np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)
    assert np.array_equal(index.search(queries, 4)[1], filled.search(queries, k=4).ids)
    assert np.array_equal(index.reconstruct(7), filled.vectors([7])[0])
    plain = faiss.IndexFlatL2(DIM)
    plain.add(queries)
    faiss.write_index(plain, str(tmp_path / "plain.faiss"))
    with Workspace.create(tmp_path / "w") as other:
        assert import_vectors(other.store(), tmp_path / "out.faiss", encoder="clip").added == 47
        assert import_vectors(other.store(), tmp_path / "plain.faiss").added == 5
        assert rows_of(other.store(), "imported").keys() == {f"imported/{row}" for row in range(5)}
        assert "out/7" in rows_of(other.store(), "clip")


@pytest.mark.parametrize("factory", ["HNSW8", "PQ3x4", "IVF2,Flat", "IDMap,HNSW8"])
def test_other_faiss_indexes_are_refused_and_not_given_to_faiss(tmp_path, factory):
    index = faiss.index_factory(DIM, factory)
    vectors = np.random.default_rng(0).normal(size=(200, DIM)).astype(np.float32)
    index.train(vectors)
    index.add_with_ids(vectors, np.arange(200)) if "IDMap" in factory else index.add(vectors)
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    with pytest.raises(RgunitError, match=r"no FAISS index of plain vectors.*numpy\.save"):
        flatfile.read(tmp_path / "x.faiss")


def test_a_cut_faiss_file_is_refused_wherever_it_is_cut(filled, tmp_path):
    export_vectors(filled, tmp_path / "out.faiss", form="faiss")
    whole = (tmp_path / "out.faiss").read_bytes()
    for size in (0, 3, 37, 80, 90, len(whole) - 8 * 47 - 5, len(whole) - 1):
        (tmp_path / "cut.faiss").write_bytes(whole[:size])
        with pytest.raises(RgunitError, match=r"cut\.faiss"):
            import_vectors(filled, tmp_path / "cut.faiss")


def write_sources(folder: Path, dtype: str = "<f4") -> np.ndarray:
    vectors = np.random.default_rng(5).normal(size=(40, DIM)).astype(dtype)
    np.save(folder / "v.npy", vectors)
    (folder / "keys.txt").write_text("".join(f"pic {row}\n" for row in range(40)))
    lines = [f"pic {row},{row % 2},{'' if row == 7 else 1 - row % 2}" for row in range(39, 4, -1)]
    (folder / "labels.csv").write_text("name,Male,Hat\n" + "\n".join(lines))
    return vectors


@pytest.mark.parametrize("dtype", ["<f4", "<f2", ">f8"])
def test_vectors_with_keys_and_a_table_of_labels(tmp_path, dtype):
    vectors = write_sources(tmp_path, dtype)
    with Workspace.create(tmp_path / "w") as workspace:
        store = workspace.store()
        told = []
        done = import_vectors(
            store,
            tmp_path / "v.npy",
            encoder="clip",
            keys=tmp_path / "keys.txt",
            labels=tmp_path / "labels.csv",
            split="test",
            progress=lambda done, total: told.append((done, total)),
        )
        assert (done.added, done.unlabelled) == (40, 5) and told == [(16, 40), (32, 40), (40, 40)]
        assert (store.count("+Male"), store.count("?Hat"), store.count("+Hat split=test")) == (18, 6, 17)
        found = store.search(vectors[11].astype(np.float32), k=1, encoder="clip")
        assert exporting.keys_of(store.catalog, found.ids[0]) == ["pic 11"]


def test_a_table_of_labels_in_which_no_key_stands_is_refused(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(2, DIM, dtype=np.float32))
    (tmp_path / "keys.txt").write_bytes("a\nb\n".encode("utf-8-sig"))  # as some programs begin a text file
    (tmp_path / "labels.csv").write_text("name,Male\na.jpg,1\nb.jpg,0\n")
    given = {"keys": tmp_path / "keys.txt", "labels": tmp_path / "labels.csv"}
    with Workspace.create(tmp_path / "w") as workspace:
        with pytest.raises(RgunitError, match=r"labels of none of the keys: 'a.jpg' there, 'a' here"):
            import_vectors(workspace.store(), tmp_path / "v.npy", **given)
        assert workspace.store().count() == 0 and not workspace.schema.names
        (tmp_path / "labels.csv").write_text("name,Male\na,1\n")
        assert import_vectors(workspace.store(), tmp_path / "v.npy", **given).unlabelled == 1
        assert workspace.store().count("+Male") == 1


def test_columns_of_parquet_that_are_not_what_their_names_say(filled, tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra rgunit[parquet]")
    from pyarrow import parquet

    vector = arrow.array(np.eye(3).tolist())
    before = filled.state().sequence
    for number, (words, columns, about) in enumerate(
        (
            ("`vector` holds double, not lists", {"vector": arrow.array([1.0, 2.0])}, None),
            ("`vector` holds string, not lists", {"vector": arrow.array(["a"])}, None),
            ("the first row has no vector", {"vector": arrow.array([None, [1.0]])}, None),
            ("several lengths", {"vector": arrow.array([[1.0], [1.0, 2.0]])}, None),
            ("`labels` holds double, not a struct", {"vector": vector, "labels": arrow.array([0.5] * 3)}, None),
            ("`labels` holds struct<A: string>", {"vector": vector, "labels": arrow.array([{"A": "x"}] * 3)}, None),
            ("metadata `rgunit`", {"vector": vector}, b"{}}"),
            ("metadata `rgunit`", {"vector": vector}, b'{"encoder": {}}'),
        )
    ):
        table = arrow.table(columns).replace_schema_metadata({"rgunit": about} if about else None)
        parquet.write_table(table, tmp_path / f"{number}.parquet")
        with pytest.raises(RgunitError, match=words) as caught:
            import_vectors(filled, tmp_path / f"{number}.parquet")
        assert f"{number}.parquet" in str(caught.value) and "\n" not in str(caught.value)
    assert filled.state().sequence == before
    table = arrow.table(
        {"vector": vector, "key": arrow.array([0, 7, None]), "split": arrow.array([None, "test", None])}
    )
    parquet.write_table(table, tmp_path / "keys.parquet")
    with Workspace.create(tmp_path / "w") as workspace:
        import_vectors(workspace.store(), tmp_path / "keys.parquet", split="val")
        assert exporting.keys_of(workspace.catalog, np.arange(1, 4)) == ["0", "7", "imported/2"]
        assert workspace.store().count("split=val") == 2
    data = bytearray((tmp_path / "keys.parquet").read_bytes())
    data[4:40] = bytes(36)
    (tmp_path / "broken.parquet").write_bytes(data)
    with pytest.raises(RgunitError, match=r"broken\.parquet"):
        import_vectors(filled, tmp_path / "broken.parquet")


def test_labels_of_numpy_and_integer_keys(tmp_path):
    vectors = write_sources(tmp_path)
    labels = np.random.default_rng(0).integers(-1, 2, (40, 2)).astype(np.int8)
    np.save(tmp_path / "l.npy", labels)
    np.save(tmp_path / "k.npy", np.arange(40) * 10)
    with IndexStore.create(tmp_path / "s", dim=DIM, attributes=["Old"], encoder="e") as store:
        store.add(vectors[:1] + 1, keys=["there"], labels=[[1]])
        options = {
            "keys": tmp_path / "k.npy",
            "labels": tmp_path / "l.npy",
            "attributes": ["Hat", "Old"],
            "encoder": "e",
        }
        assert import_vectors(store, tmp_path / "v.npy", **options).added == 40
        assert store.schema.names == ("Old", "Hat")
        assert store.count("+Old") == 1 + (labels[:, 1] == 1).sum() and store.count("-Hat") == (labels[:, 0] == 0).sum()
        assert exporting.keys_of(store.catalog, np.array([1, 41])) == ["there", "390"]


def test_an_import_that_was_stopped_goes_on_and_two_encoders_share_their_rows(tmp_path):
    write_sources(tmp_path)

    def stop(done, total):
        if done > 16:
            raise KeyboardInterrupt

    with Workspace.create(tmp_path / "w") as workspace:
        store = workspace.store()
        with pytest.raises(KeyboardInterrupt):
            import_vectors(store, tmp_path / "v.npy", keys=tmp_path / "keys.txt", progress=stop)
        assert store.count() == 32
        done = import_vectors(store, tmp_path / "v.npy", keys=tmp_path / "keys.txt")
        assert (done.added, done.known) == (8, 32)
        np.save(tmp_path / "v2.npy", np.load(tmp_path / "v.npy")[:, :3])
        other = import_vectors(store, tmp_path / "v2.npy", keys=tmp_path / "keys.txt", encoder="dino")
        assert (other.added, other.attached, store.count()) == (0, 40, 40)
        np.save(tmp_path / "v.npy", np.load(tmp_path / "v.npy") + 1)
        with pytest.raises(DuplicateKey, match="pic 0"):
            import_vectors(store, tmp_path / "v.npy", keys=tmp_path / "keys.txt")
        assert store.verify().ok


def test_an_import_that_attached_vectors_goes_on_and_changes_nothing_when_repeated(tmp_path):
    vectors = write_sources(tmp_path)
    keys = (tmp_path / "keys.txt").read_text().splitlines()
    with IndexStore.create(tmp_path / "s", dim=4, attributes=["A"]) as store:
        store.add(np.ones((40, 4)), keys=keys, labels=np.zeros((40, 1), int), split="train")

        def stop(done, total):
            raise KeyboardInterrupt

        given = {"keys": tmp_path / "keys.txt", "encoder": "clip"}
        with pytest.raises(KeyboardInterrupt):
            import_vectors(store, tmp_path / "v.npy", progress=stop, **given)
        assert import_vectors(store, tmp_path / "v.npy", **given).known == 16
        sequence = store.state().sequence
        assert import_vectors(store, tmp_path / "v.npy", **given).known == 40
        assert store.state().sequence == sequence and store.count("-A") == 40
        np.save(tmp_path / "v.npy", np.where(np.arange(40)[:, None] == 20, vectors + 1, vectors))
        with pytest.raises(DuplicateKey, match=f"{keys[20]!r} has another vector"):
            import_vectors(store, tmp_path / "v.npy", **given)


def test_split_and_origin_of_rows_whose_source_tells_none(filled, tmp_path):
    write_sources(tmp_path)
    export_vectors(filled, tmp_path / "out", form="npy")
    rows = (tmp_path / "out" / "rows.csv").read_text()
    (tmp_path / "out" / "rows.csv").write_text(rows.replace(",train,unlabelled", ",,"))
    with Workspace.create(tmp_path / "w") as workspace:
        done = import_vectors(workspace.store(), tmp_path / "out", split="val", origin="unlabelled")
        assert workspace.store().count("split=val origin=unlabelled") == done.added == done.rows


def test_pictures_get_vectors_by_their_paths(tmp_path):
    (tmp_path / "d").mkdir()
    for number in range(3):
        Image.fromarray(np.full((20, 20, 3), 60 * number, np.uint8)).save(tmp_path / "d" / f"{number}.png")
    np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "keys.txt").write_text("".join(f"{tmp_path}/d/{number}.png\n" for number in (2, 0, 1)))
    with Workspace.create(tmp_path / "w") as workspace:
        workspace.add_images(tmp_path / "d", origin="unlabelled")
        done = import_vectors(
            workspace.store(), tmp_path / "v.npy", keys=tmp_path / "keys.txt", encoder="c", images=True
        )
        assert (done.attached, done.added) == (3, 0)
        found = workspace.store().search(np.eye(3, dtype=np.float32), k=1, encoder="c").ids[:, 0]
        assert [Path(workspace.images(ids=[one]).paths[0]).name for one in found] == ["2.png", "0.png", "1.png"]
        again = {"keys": tmp_path / "keys.txt", "encoder": "c", "images": True}
        assert import_vectors(workspace.store(), tmp_path / "v.npy", **again).known == 3
        np.save(tmp_path / "other.npy", 2 * np.eye(3, dtype=np.float32))
        with pytest.raises(DuplicateKey, match=r"2\.png' has another vector of encoder c"):
            import_vectors(workspace.store(), tmp_path / "other.npy", **again)
        (tmp_path / "twice.txt").write_text(f"{tmp_path}/d/0.png\n" * 2 + f"{tmp_path}/d/1.png\n")
        with pytest.raises(DuplicateKey, match=r"0\.png' has another vector of encoder e"):
            twice = {"keys": tmp_path / "twice.txt", "encoder": "e", "images": True}
            import_vectors(workspace.store(), tmp_path / "v.npy", **twice)
        (tmp_path / "keys.txt").write_text("a\nb\nc\n")
        with pytest.raises(RgunitError, match="'a' is no picture"):
            import_vectors(workspace.store(), tmp_path / "v.npy", keys=tmp_path / "keys.txt", encoder="d", images=True)
        assert workspace.store().count() == 3


def test_what_does_not_fit_is_refused_in_one_line_and_changes_nothing(filled, tmp_path):
    vectors = write_sources(tmp_path)
    before = filled.state().sequence
    np.save(tmp_path / "int.npy", np.arange(12).reshape(2, 6))
    np.save(tmp_path / "one.npy", np.arange(12.0))
    np.save(tmp_path / "object.npy", np.array([[{}]], object), allow_pickle=True)
    np.save(tmp_path / "wide.npy", np.zeros((4, 9), np.float32))
    np.save(tmp_path / "l.npy", np.zeros((40, 2), np.int8))
    np.save(tmp_path / "bad.npy", np.where(np.arange(40)[:, None] == 3, np.nan, vectors))
    np.save(tmp_path / "three.npy", np.full((40, 1), 3, np.int8))
    keys = (tmp_path / "keys.txt").read_text().splitlines()
    (tmp_path / "latin.txt").write_bytes("".join(f"é{key}\n" for key in keys).encode("latin-1"))
    (tmp_path / "strange.csv").write_text("key,Hat\nnobody,1\nno one,0\n")
    (tmp_path / "twice.csv").write_text(f"key,Hat\n{keys[0]},1\n{keys[1]},1\n{keys[0]},0\n")
    export_vectors(filled, tmp_path / "half", form="npy")
    np.save(tmp_path / "half" / "labels.npy", np.load(tmp_path / "half" / "labels.npy") * 0.5)
    for lacking in ("origin", "key"):
        export_vectors(filled, tmp_path / lacking, form="npy")
        rows = (tmp_path / lacking / "rows.csv").read_text()
        (tmp_path / lacking / "rows.csv").write_text(rows.replace(lacking, "other", 1))
    export_vectors(filled, tmp_path / "bare", form="npy")
    (tmp_path / "bare" / "rows.csv").unlink()
    (tmp_path / "same.txt").write_text("a\n" * 40)
    np.save(tmp_path / "true.npy", np.ones((40, 1), np.int8))
    (tmp_path / "short.txt").write_text("a\nb\n")
    (tmp_path / "x.bin").write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    v = tmp_path / "v.npy"
    for error, words, source, options in (
        (RgunitError, "does not exist", tmp_path / "no.npy", {}),
        (RgunitError, "ends on none of .npy, .faiss, .parquet", tmp_path / "x.bin", {}),
        (RgunitError, "about.json cannot be read", tmp_path / "folder", {}),
        (RgunitError, "not floating-point", tmp_path / "int.npy", {}),
        (RgunitError, "needs 2 axes", tmp_path / "one.npy", {}),
        (RgunitError, "cannot be read as a .npy", tmp_path / "object.npy", {}),
        (RgunitError, "9 numbers, encoder clip of 6", tmp_path / "wide.npy", {"encoder": "clip"}),
        (RgunitError, "2 keys for 40 vectors", v, {"keys": tmp_path / "short.txt"}),
        (RgunitError, r"not int8 \[40, 1\]", v, {"labels": tmp_path / "l.npy", "attributes": ["A"]}),
        (RgunitError, r"35 rows for 40 vectors", v, {"labels": tmp_path / "labels.csv"}),
        (UsageError, "need labels", v, {"attributes": ["A"]}),
        (RgunitError, "rows 0 to 15: labels must be 1", v, {"labels": tmp_path / "three.npy", "attributes": ["New"]}),
        (RgunitError, "rows 0 to 15: unknown origin 'mine'", v, {"origin": "mine"}),
        (
            DuplicateKey,
            "'a' has another vector",
            v,
            {"keys": tmp_path / "same.txt", "labels": tmp_path / "true.npy", "attributes": ["New"]},
        ),
        (RgunitError, "latin.txt cannot be read .*decode", v, {"keys": tmp_path / "latin.txt"}),
        (RgunitError, "twice, with other labels", v, {"keys": tmp_path / "keys.txt", "labels": tmp_path / "twice.csv"}),
        (RgunitError, "labels.npy holds float64, not int8", tmp_path / "half", {}),
        (RgunitError, "rows.csv .*lacks columns", tmp_path / "origin", {}),
        (RgunitError, "rows.csv .*lacks columns", tmp_path / "key", {}),
        (RgunitError, "rows.csv cannot be read .No such file", tmp_path / "bare", {}),
        (RgunitError, "rows 0 to 15: vectors must be finite", tmp_path / "bad.npy", {}),
    ):
        with pytest.raises(error, match=words) as caught:
            import_vectors(filled, source, **options)
        assert "\n" not in str(caught.value)
    assert filled.state().sequence == before
    for error, words, options in (
        (UsageError, "unknown format 'csv'", {"form": "csv"}),
        (RgunitError, "is there already", {"form": "npy", "path": v}),
        (RgunitError, "nothing was written", {"form": "npy", "where": "id=9999"}),
    ):
        with pytest.raises(error, match=words):
            export_vectors(filled, options.pop("path", tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_an_export_to_a_full_disk_or_below_a_file_says_so(filled, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", tmp_path / ("o" * 250)):
        with pytest.raises(RgunitError, match="cannot write"):
            export_vectors(filled, out, form="npy")
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(RgunitError, match="No space left on device; nothing was kept"):
        export_vectors(filled, tmp_path / "out", form="npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "s"]


def test_an_export_that_fails_leaves_nothing(filled, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    for form in ("npy", "faiss"):
        with pytest.raises(KeyboardInterrupt):
            export_vectors(filled, tmp_path / "out", form=form, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
