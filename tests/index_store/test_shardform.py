"""HDF5 shards of other hands: what HDF5 could lead to is not followed, and nothing of another shape is taken."""

import json
import shutil

import h5py
import numpy as np
import pytest

from index_store import features, seal
from index_store.errors import RgunitError
from index_store.features import Record, ShardDamaged
from index_store.store import IndexStore

pytestmark = pytest.mark.sqlite  # copies of one folder, and its files


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("built") / "s"
    with IndexStore.create(path, dim=4, attributes=["a"]) as store:
        ids = store.add(np.eye(4), labels=np.ones((4, 1), np.int8), keys=list("wxyz"))
        store.attach(ids, np.eye(4)[:, :2], encoder="other", fingerprint="f")
    return path


def remake(path, alter):
    """Change a shard's HDF5 content by `alter(file)`, and seal it rightly again."""
    data = path.read_bytes()
    length = seal._footer(np.frombuffer(data, np.uint8))[0]
    path.write_bytes(data[:length])
    with h5py.File(path, "r+", libver="latest") as file:
        alter(file)
    content = np.fromfile(path, np.uint8)
    path.write_bytes(content.tobytes() + seal.trailer(content))


def put(name, **options):
    def alter(file):
        del file[name]
        file.create_dataset(name, **options)

    return alter


def header(**changes):
    def alter(file):
        file.attrs["header"] = json.dumps(json.loads(file.attrs["header"]) | changes)

    return alter


def external(file):
    del file["vectors"]
    file.create_dataset("vectors", (4, 4), "f4", external=[("/etc/hostname", 0, 64)])


def virtual(file):
    del file["vectors"]
    layout = h5py.VirtualLayout((4, 4), "f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", (4, 4))
    file.create_virtual_dataset("vectors", layout)


def linked(link):
    def alter(file):
        del file["vectors"]
        file["vectors"] = link

    return alter


ATTACKS = {
    "external": external,
    "virtual": virtual,
    "external link": linked(h5py.ExternalLink("/tmp/other.h5", "/x")),
    "soft link": linked(h5py.SoftLink("/ids")),
    "gzip": put("vectors", data=np.eye(4, dtype="f4"), compression="gzip"),
    "chunks": put("vectors", data=np.eye(4, dtype="f4"), chunks=(2, 2)),
    "huge": put("vectors", shape=(2**40, 4), dtype="f4", chunks=(2, 4)),
    "doubles": put("vectors", data=np.eye(4)),
    "one axis": put("vectors", data=np.zeros(4, "f4")),
    "fewer rows": put("vectors", data=np.zeros((3, 4), "f4")),
    "other dimension": put("vectors", data=np.zeros((4, 5), "f4")),
    "texts": put("text.key", data=["a", "b"]),
    "name": lambda file: file.create_dataset("other", data=[1]),
    "group": lambda file: file.create_group("deeper"),
    "kind": header(kind="../x"),
    "encoder": header(encoder={"name": 3}),
    "settings": header(settings={"a": 1}),
    "attributes": header(attributes="a"),
    "next_id": header(next_id=-5),
    "base": header(base="first"),
    "no header": lambda file: file.attrs.__delitem__("header"),
}


@pytest.mark.files
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_shard_of_other_hands_is_refused_by_open_verify_and_rebuild(tmp_path, built, attack):
    shutil.copytree(built, tmp_path / "s")
    path = tmp_path / "s" / "shards" / "00000002-images.h5"
    remake(path, ATTACKS[attack])
    for call in (features.read, features.map_vectors):
        with pytest.raises(ShardDamaged, match=path.name) as error:
            call(path)
        assert "\n" not in str(error.value)
    with IndexStore.open(tmp_path / "s") as store:
        assert any(path.name in line for line in store.verify().problems)
        with pytest.raises(RgunitError, match=path.name):
            store.search(np.zeros(4))
        with pytest.raises(RgunitError, match=path.name):
            store.compact()
        with pytest.raises(RgunitError, match=path.name):
            store.rebuild()
    (tmp_path / "s" / "catalog.db").unlink()  # now the shards are all that there is
    with IndexStore.open(tmp_path / "s") as store, pytest.raises(RgunitError, match=path.name):
        store.rebuild()


def test_columns_that_do_not_fit_each_other_are_named(tmp_path, built):
    shutil.copytree(built, tmp_path / "s")
    arrays = {"ids": np.arange(50, 52), "known": np.zeros((2, 1), np.uint8), "value": np.zeros((2, 1), np.uint8)}
    record = Record("images", {"seq": 4}, arrays, {"split": ["train"], "origin": "real"})
    features.seal_file(tmp_path / "s" / "shards" / "00000004-images.h5", record)
    (tmp_path / "s" / "catalog.db").unlink()
    with IndexStore.open(tmp_path / "s") as store, pytest.raises(RgunitError, match=r"00000004-images\.h5"):
        store.rebuild()


def test_what_this_package_writes_is_plain(built):
    for path in (built / "shards").iterdir():
        assert features.read(path, check=True).kind in path.name
