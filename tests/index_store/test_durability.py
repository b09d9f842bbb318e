"""Nothing lost: killed writers, flipped bytes, full disks, readers beside a writer."""

import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from index_store import features
from index_store.errors import Locked, RgunitError
from index_store.store import IndexStore
from index_store.workspace import Workspace
from tests.catalogs import lose_catalog
from tests.milvus import behind

DIM = 8
STEPS = ("begin", "seal", "write", "fsync", "rename", "fsync folder", "commit", "committed")

processes = multiprocessing.get_context("forkserver")


def batch(number, rows=10):
    """Return the data of a batch: it follows from its number alone."""
    rng = np.random.default_rng(number)
    vectors = rng.normal(size=(rows, DIM)).astype(np.float32)
    labels = rng.integers(-1, 2, (rows, 3)).astype(np.int8)
    return vectors, labels, [f"{number}/{row}" for row in range(rows)]


def write_batches(path, acknowledged, stop_at=None, compact=False):
    """Add batches one after the other and tell each that was returned; die at a step of the third, if told to."""
    with IndexStore.open(path, wait=10) as store:
        start = store.count() // 10
        for number in range(start, start + 500):
            if stop_at is not None and number - start == 2:
                store.catalog.step = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == stop_at else None
                if compact:
                    store.compact()
            vectors, labels, keys = batch(number)
            store.add(vectors, labels=labels, keys=keys, split="train")
            os.write(acknowledged, number.to_bytes(4, "little"))
            if compact and number % 7 == 3:
                store.compact()


def start_writer(path, **options):
    """Start a writer; return the process and the end of the pipe that its acknowledgements come through."""
    reader, writer = processes.Pipe(duplex=False)
    process = processes.Process(target=_writer, args=(path, writer, options))
    process.start()
    writer.close()
    assert os.read(reader.fileno(), 4) == b"go.."
    return process, reader


def _writer(path, pipe, options):
    os.write(pipe.fileno(), b"go..")
    write_batches(path, pipe.fileno(), **options)


def acknowledged_by(reader, seen=b""):
    """Return the numbers of the batches that `add` had returned for, after those already `seen`."""
    data = seen
    while part := os.read(reader.fileno(), 65536):
        data += part
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def check_whole(path, returned):
    """After a kill: opens, verifies, holds whole batches only, all that were returned, and takes the next one."""
    with IndexStore.open(path) as store:
        report = store.verify()
        assert report.ok or behind(report), report.problems
        count = store.count()
        assert count % 10 == 0 and count // 10 >= max(returned, default=-1) + 1
        number = count // 10
        vectors, labels, keys = batch(number)
        ids = store.add(vectors, labels=labels, keys=keys, split="train")
        report = store.verify()
        assert report.ok, report.problems
        assert store.search(vectors, k=1).ids[:, 0].tolist() == ids.tolist()
        for old in [*returned[-2:], *returned[:1]]:
            vectors, labels, keys = batch(old)
            again = store.add(vectors, labels=labels, keys=keys, split="train")
            assert (store.search(vectors, k=1).ids[:, 0] == again).all()
        assert not list((path / "shards").glob("*.writing"))
    return number + 1


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("compact", [False, True])
def test_a_writer_that_dies_at_any_step_loses_nothing(tmp_path, step, compact):
    path = tmp_path / "s"
    IndexStore.create(path, dim=DIM, attributes=["a", "b", "c"]).close()
    process, reader = start_writer(path, stop_at=step, compact=compact)
    returned = acknowledged_by(reader)
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(returned) == 2
    check_whole(path, returned)


def kill_at_random(tmp_path, times, compact):
    rng = np.random.default_rng(0)
    seen = 0
    for number in range(times):
        path = tmp_path / str(number // 25)
        if not path.exists():
            IndexStore.create(path, dim=DIM, attributes=["a", "b", "c"]).close()
        process, reader = start_writer(path, compact=compact)
        first = b""  # some batches and then a random moment: as random on a busy machine as on an idle one
        for _ in range(rng.integers(0, 4)):
            first += os.read(reader.fileno(), 4)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        returned = acknowledged_by(reader, first)
        seen += len(returned)
        check_whole(path, returned)
    assert seen > 0


@pytest.mark.slow
def test_kill_9_at_random_instants_loses_nothing(tmp_path):
    kill_at_random(tmp_path, 25, compact=True)


@pytest.mark.slow
def test_kill_9_at_200_random_instants_loses_nothing(tmp_path):
    kill_at_random(tmp_path, 200, compact=True)


def test_a_killed_creation_can_be_opened_or_made_again(tmp_path):
    for delay in (0.0, 0.02, 0.05, 0.1, 0.15):
        path = tmp_path / str(delay)
        process = processes.Process(target=_create, args=(path,))
        process.start()
        time.sleep(delay)
        process.kill()
        process.join()
        with Workspace.ensure(path) as workspace:
            workspace.set_meta("a", "b")
            assert workspace.store().verify().ok


def test_a_creation_that_was_killed_before_its_first_change_is_taken_over(tmp_path):
    Workspace.create(tmp_path / "s").close()  # as far as a killed IndexStore.create may have come
    with IndexStore.create(tmp_path / "s", dim=2, attributes=["a"]) as store:
        assert store.add([[1, 2]]).tolist() == [1]
    with pytest.raises(FileExistsError):
        IndexStore.create(tmp_path / "s", dim=2, attributes=["a"])


def test_a_damaged_list_of_shards_makes_no_writer_delete_one(sample):
    before = sorted(path.name for path in (sample / "shards").iterdir())
    with IndexStore.open(sample) as store, store.catalog.writing(), store.catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE shards SET file = 'x' || file WHERE seq = (SELECT max(seq) FROM shards) - 1")
    with IndexStore.open(sample) as store:
        with store.catalog.held():
            pass
        assert sorted(path.name for path in (sample / "shards").iterdir()) == before
        assert not store.verify().ok
        store.rebuild()
        assert store.verify().ok


def _create(path):
    Workspace.create(path).close()


@pytest.fixture
def sample(tmp_path):
    """A closed store with several shards of every kind, and what it answers."""
    path = tmp_path / "sample"
    with IndexStore.create(path, dim=DIM, attributes=["a", "b", "c"], groups=[["a", "b"]]) as store:
        for number in range(3):
            vectors, labels, keys = batch(number, 60)
            ids = store.add(vectors, labels=labels, keys=keys, split="train")
        store.remove(ids[:5])
        store.attach(ids[5:30], batch(7, 25)[0][:, :4], encoder="other", fingerprint="ff")
        store.compact()
        vectors, labels, keys = batch(9, 80)
        ids = store.add(vectors, labels=labels, keys=keys, split="test", origin="unlabelled")
        store.remove(ids[:5])
        store.attach(ids[5:30], batch(8, 25)[0][:, :4], encoder="other", fingerprint="ff")
    return path


def answers(path):
    """Return everything a user can learn from a store."""
    with IndexStore.open(path) as store:
        state = store.state()
        queries = batch(1, 20)[0]
        told = [state.ids, state.known, state.value, np.array([state.names[code] for code in state.split])]
        told.append(np.array([state.names[code] for code in state.origin]))
        for where in (None, "+a", "-b split=train", "?c origin=unlabelled"):
            found = store.search(queries, k=9, where=where)
            told += [found.ids, found.distances]
        found = store.search(queries[:, :4], k=40, encoder="other")
        told += [found.ids, found.distances]
        with store.catalog.reading() as connection:
            keys = connection.exec_driver_sql("SELECT id, key FROM images ORDER BY id").all()
        return told, [tuple(row) for row in keys], state.schema, state.encoders, store.catalog.next_id()


def same(left, right):
    """Whether two sets of answers agree."""
    arrays = all(np.array_equal(one, other) for one, other in zip(left[0], right[0], strict=True))
    return arrays and left[1:] == right[1:]


def damage_and_mend(path, scratch, places, seed, cut):
    """Damage one place after the other; verify names the file (or no answer changes), rebuild mends it."""
    expected = answers(path)
    rng = np.random.default_rng(seed)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    weights = np.array([file.stat().st_size for file in files], float)
    noticed = 0
    for _ in range(places):
        chosen = files[rng.choice(len(files), p=0.5 * weights / weights.sum() + 0.5 / len(files))]
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(path, scratch)
        victim = scratch / chosen.relative_to(path)
        data = bytearray(victim.read_bytes())
        place = int(rng.integers(len(data)))
        if cut:
            del data[max(place, len(data) - 3000) :]
        else:
            data[place] ^= int(rng.integers(1, 256))
        victim.write_bytes(data)
        with IndexStore.open(scratch) as store:
            report = store.verify()
            if report.ok:
                assert same(answers(scratch), expected), f"{victim.name} at {place}: not noticed"
                continue
            noticed += 1
            assert any(victim.name in problem for problem in report.problems), (victim.name, report.problems)
            store.rebuild()
            report = store.verify()
            assert report.ok, (victim.name, place, report.problems)
        assert same(answers(scratch), expected), f"{victim.name} at {place}: not mended"
    return noticed


@pytest.mark.files
@pytest.mark.sqlite
def test_flipped_bytes_are_found_named_and_mended(tmp_path, sample):
    assert damage_and_mend(sample, tmp_path / "scratch", 60, 0, cut=False) > 30


@pytest.mark.files
@pytest.mark.sqlite
def test_files_cut_short_are_found_named_and_mended(tmp_path, sample):
    assert damage_and_mend(sample, tmp_path / "scratch", 15, 1, cut=True) > 10


@pytest.mark.slow
@pytest.mark.files
@pytest.mark.sqlite
def test_bytes_flipped_at_300_places_are_found_named_and_mended(tmp_path, sample):
    assert damage_and_mend(sample, tmp_path / "scratch", 300, 2, cut=False) > 150


def test_half_written_files_are_cleaned_by_the_next_writer_only(sample):
    folders = [sample / name for name in ("cache", "runs/r1-translation", "images/generated/r1")]
    for folder in folders:
        folder.mkdir(parents=True)
    names = (
        "shards/00000099-images.h5",
        "cache/1.cells.h5",
        "runs/r1-translation/run.json",
        "images/generated/r1/1.png",
    )
    half = [sample / f"{name}.writing" for name in names]
    for file in half:
        file.write_bytes(b"half")
    with IndexStore.open(sample) as store:
        assert store.verify().ok and store.count() and all(file.exists() for file in half)
        store.add(batch(50)[0])
        assert not any(file.exists() for file in half)


def test_a_run_json_that_cannot_be_read_is_named_and_written_again(tmp_path):
    with Workspace.create(tmp_path / "w") as workspace:
        workspace.set_meta("a", "b")
        file = workspace.add_run("translation", "demo", {"a": 1}).path / "run.json"
    whole = file.read_text()
    file.write_text(whole[:-5])
    with Workspace.open(tmp_path / "w") as workspace:
        assert "run.json" in workspace.store().verify().problems[0]
        workspace.store().rebuild()
        assert workspace.store().verify().ok and file.read_text() == whole
        lose_catalog(tmp_path / "w")
    with Workspace.open(tmp_path / "w") as workspace:
        file.write_text("{}")
        workspace.store().rebuild()  # neither the catalog nor the file has the run: it stays named
        assert "run.json" in workspace.store().verify().problems[0] and workspace.runs() == []


@pytest.mark.sqlite
def test_what_could_not_be_applied_at_first_is_applied_before_the_next_change(tmp_path, monkeypatch):
    """A full disk while a killed writer's batch is applied: the next one must not be sealed under its number."""
    with IndexStore.create(tmp_path / "s", dim=DIM, attributes=["a", "b", "c"]) as store:
        store.add(batch(0)[0])
        features.seal(store.catalog.shards, 3, features.Record("remove", {}, {"ids": np.array([1])}), lambda name: None)
    with IndexStore.open(tmp_path / "s") as store:
        with monkeypatch.context() as patch:
            patch.setattr(store.catalog, "commit", _no_room)
            for _ in range(2):
                with pytest.raises(RgunitError, match=r"is full; 00000003-remove\.h5 is still to be applied"):
                    store.add(batch(1)[0])
        assert store.add(batch(1)[0])[0] == 11
        assert store.count() == 19 and store.verify().ok


def _no_room(parts):
    raise sa.exc.OperationalError("", None, sqlite3.OperationalError("database or disk is full"))


def test_a_lost_catalog_is_restored_from_the_shards(tmp_path, sample):
    expected = answers(sample)
    name = lose_catalog(sample)
    with IndexStore.open(sample) as store:
        assert name.partition(".")[0] in store.verify().problems[0]
        with pytest.raises(RgunitError, match="rebuild"):
            store.count()
        store.rebuild()
        assert store.verify().ok
    assert same(answers(sample), expected)


def test_a_lost_shard_of_rows_is_an_error_that_names_it(sample):
    victim = next((sample / "shards").glob("*-images.h5"))
    victim.unlink()
    with IndexStore.open(sample) as store:
        assert victim.name in store.verify().problems[0]
        with pytest.raises(RgunitError, match=victim.name):
            store.rebuild()


def test_a_lost_shard_of_attached_vectors_is_dropped_to_be_embedded_again(sample):
    with IndexStore.open(sample) as store:
        with store.catalog.reading() as connection:
            query = "SELECT file FROM shards WHERE kind = 'vectors' AND rows = 25 ORDER BY seq DESC LIMIT 1"
            file = connection.exec_driver_sql(query).scalar()
        before = len(store.vector_ids("other", "ff"))
    (sample / "shards" / file).unlink()
    with IndexStore.open(sample) as store:
        store.rebuild()
        assert store.verify().ok and len(store.vector_ids("other", "ff")) == before - 25


def _spoil(file):
    """Flip a bit in each of eight neighbouring blocks: more than the parity mends."""
    data = bytearray(file.read_bytes())
    for at in range(100_000, 100_000 + 8 * 4096, 4096):
        data[at] ^= 1
    file.write_bytes(data)


def test_of_merged_files_the_vectors_that_can_be_made_again_are_dropped(tmp_path):
    path, vectors = tmp_path / "s", np.random.default_rng(0).normal(size=(3000, 64)).astype("f4")
    with IndexStore.create(path, dim=8, attributes=["a"]) as store:
        ids = store.add(vectors[:, :8], labels=np.ones((3000, 1), int))
        store.attach(ids, vectors, encoder="other", fingerprint="ff")
        store.compact()
    victim = max((path / "shards").glob("*-vectors.h5"), key=lambda file: file.stat().st_size)
    _spoil(victim)
    with IndexStore.open(path) as store:
        assert victim.name in store.verify().problems[0]
        assert any(victim.name in line and "lost" in line for line in store.rebuild())
        assert store.verify().ok and store.count("+a") == 3000 and not len(store.vector_ids("other", "ff"))
        assert np.array_equal(store.vectors(ids, encoder="default"), vectors[:, :8])
        assert store.attach(ids, vectors, encoder="other", fingerprint="ff") == 3000


@pytest.mark.sqlite
@pytest.mark.parametrize("merged", [True, False])
def test_vectors_of_which_nobody_knows_what_made_them_are_never_dropped(tmp_path, merged):
    path, vectors = tmp_path / "s", np.random.default_rng(0).normal(size=(3000, 64)).astype("f4")
    with IndexStore.create(path, dim=8, attributes=[]) as store:
        ids = store.add(vectors[:, :8])
        store.attach(ids, vectors, encoder="clip", fingerprint="")
        if merged:
            store.compact()
    victim = max((path / "shards").glob("*-vectors.h5"), key=lambda file: file.stat().st_size)
    _spoil(victim)
    before = victim.read_bytes()
    with IndexStore.open(path) as store:
        for _ in range(2):
            with pytest.raises(RgunitError, match=f"{victim.name} cannot be repaired: put a copy from a backup"):
                store.rebuild()
        assert victim.read_bytes() == before
        assert (store.vectors(ids, encoder="clip") == vectors).all(axis=1).sum() > 2900
    catalog = (path / "catalog.db").read_bytes()
    (path / "catalog.db").write_bytes(b"junk")  # not even where the catalog cannot tell what made them
    with IndexStore.open(path) as store, pytest.raises(RgunitError, match=f"{victim.name} cannot be repaired"):
        store.rebuild()
    assert victim.read_bytes() == before
    (path / "catalog.db").write_bytes(catalog)
    victim.unlink()
    with IndexStore.open(path) as store, pytest.raises(RgunitError, match=victim.name):
        store.rebuild()


@pytest.mark.parametrize("at", ["write", "fsync", "rename", "fsync folder", "commit"])
def test_a_change_after_an_interrupt_in_the_same_process_leaves_a_store_that_can_be_rebuilt(tmp_path, at):
    def interrupt(name):
        if name == at:
            raise KeyboardInterrupt

    with IndexStore.create(tmp_path / "s", dim=4, attributes=[]) as store:
        store.add(np.eye(4))
        store.catalog.step = interrupt
        with pytest.raises(KeyboardInterrupt):
            store.add(2 * np.eye(4))
        store.catalog.step = lambda name: None
        store.remove([1])
        assert store.count() == 3 and store.verify().ok
    lose_catalog(tmp_path / "s")
    with IndexStore.open(tmp_path / "s") as store:
        store.rebuild()
        assert store.count() == 3 and store.verify().ok


def test_two_files_at_one_place_of_the_log_are_named(tmp_path):
    with IndexStore.create(tmp_path / "s", dim=4, attributes=[]) as store:
        store.add(np.eye(4))
        store.remove([1])
    shards = tmp_path / "s" / "shards"
    removed = next(shards.glob("*-remove.h5"))
    twin = removed.with_name(removed.name.replace("remove", "labels"))
    twin.write_bytes(removed.read_bytes())
    lose_catalog(tmp_path / "s")
    with IndexStore.open(tmp_path / "s") as store, pytest.raises(RgunitError, match=f"{twin.name} and {removed.name}"):
        store.rebuild()


def test_readers_never_fail_and_never_see_half_a_batch(tmp_path):
    path = tmp_path / "s"
    IndexStore.create(path, dim=DIM, attributes=["a", "b", "c"]).close()
    writer, pipe = start_writer(path, compact=True)
    first = os.read(pipe.fileno(), 4)
    readers = [processes.Process(target=_read, args=(path, 2.0)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    writer.kill()
    writer.join()
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert acknowledged_by(pipe, first)


def _read(path, seconds):
    end = time.monotonic() + seconds
    last = 0
    with IndexStore.open(path) as store:
        while time.monotonic() < end:
            count = store.count()
            assert count % 10 == 0 and count >= last, (count, last)
            last = count
            found = store.search(np.zeros((2, DIM)), k=100_000)
            assert (found.ids[0] >= 0).sum() % 10 == 0 and (found.ids[0] >= 0).sum() >= count
            with IndexStore.open(path) as other:
                assert other.count("split=train") >= count
                report = other.verify()
                assert report.ok, report.problems


@pytest.mark.sqlite
def test_a_second_writer_waits_for_a_given_time(tmp_path):
    path = tmp_path / "s"
    with IndexStore.create(path, dim=DIM, attributes=["a", "b", "c"]) as store:
        begun = time.monotonic()
        with IndexStore.open(path, wait=0.3) as other, pytest.raises(Locked, match="this process"):
            other.add(batch(0)[0])
        assert time.monotonic() - begun > 0.25
        process, pipe = start_writer(path)  # waits up to 10 s
        time.sleep(0.3)
        store.close()
        assert os.read(pipe.fileno(), 4)
        process.kill()
        process.join()


@pytest.mark.sqlite
def test_a_full_disk_is_a_clear_error_and_changes_nothing(tmp_path):
    path = tmp_path / "s"
    with IndexStore.create(path, dim=DIM, attributes=["a", "b", "c"]) as store:
        vectors, labels, keys = batch(0)
        store.add(vectors, labels=labels, keys=keys)
    process = processes.Process(target=_fill_disk, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    with IndexStore.open(path) as store:
        assert store.verify().ok and store.count() == 10


def _fill_disk(path):
    """The operating system refuses files beyond a size: first the shard is refused, then SQLite's log."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with IndexStore.open(path) as store:
        for limit, rows in ((100_000, 20_000), (120_000, 2_000)):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            vectors, labels, keys = batch(1, rows)
            with pytest.raises(RgunitError, match="nothing was changed") as error:
                store.add(vectors, labels=labels, keys=keys)
            assert "\n" not in str(error.value)
            assert store.count() == 10 and len(list(Path(path, "shards").iterdir())) == 2
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert store.verify().ok
