"""A picture that was trained with, translated and paired is forgotten: no file of the workspace has anything of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

import rgunit
from index_store import traces
from index_store.images import shows, write_image
from index_store.workspace import Workspace
from retrieval.duplicates import find_duplicates
from translation.evaluation.evaluate import _Keeper
from translation.evaluation.protocol import kept_pairs
from translation.inference import translate_images
from translation.records import COLUMNS, FILE


def contents(file: Path) -> Iterator[bytes]:
    """The bytes of a file, and what is inside its compressed parts."""
    yield file.read_bytes()
    if file.suffix == ".png":
        yield np.asarray(Image.open(file).convert("RGB")).tobytes()
    elif file.suffix == ".h5":
        with h5py.File(file) as shard:
            yield from (column[()].tobytes() for column in shard.values())
    elif file.suffix == ".npz":
        with np.load(file) as arrays:
            yield from (arrays[name].tobytes() for name in arrays)
    elif file.suffix == ".db":
        with sqlite3.connect(file) as database:
            yield "\n".join(database.iterdump()).encode()


def found(folder: Path, secrets: dict[str, bytes]) -> set[tuple[str, str]]:
    """(file, what) of all that can be found."""
    return {
        (file.relative_to(folder).as_posix(), name)
        for file in folder.rglob("*")
        if file.is_file()
        for part in contents(file)
        for name, secret in secrets.items()
        if secret in part
    }


def test_nothing_that_was_made_with_it_shows_or_names_it(staged: Workspace, tmp_path: Path) -> None:
    root, schema = staged.path, staged.schema.subset(("Black_Hair", "Blond_Hair", "Glasses"))
    mother = int(staged.images("origin=generated").parent[0])
    pairs, _ = kept_pairs(staged.run("r1").path, staged, schema, split="test", limit=8, seed=0)
    other = int(pairs.source[0])
    shown = shows(root / "runs/r1-translation/samples/000004.png")
    assert shown and shown <= set(staged.images("split=test origin=real").ids.tolist())
    table = staged.images(ids=[mother, other])
    places = dict(zip(table.ids.tolist(), map(Path, table.paths), strict=True))
    translate_images(staged, list(places.values()), to="+Glasses", out=root / "out", device="cpu")
    with _Keeper(staged, pairs, root / "judged") as keep:
        keep("guided", np.arange(2), staged.load([mother, other], 32))
    find_duplicates(staged)  # keeps hashes
    write_image(root / "runs/r2-retrieval/samples/000001.png", np.hstack(staged.load([mother, other], 32)))

    store, secrets = staged.store(), {}
    for number, place in places.items():
        own, path = staged.images(ids=[number]), str(place)
        secrets |= {f"path {number}": path.encode(), f"bytes {number}": place.read_bytes()}
        secrets[f"pixels {number}"] = staged.load([number], 32)[0, 16].tobytes()
        secrets[f"drawing {number}"] = str(own.fields["drawing"][0]).encode()  # a text of its own
        for encoder in store.encoders():
            name = f"{encoder.name}@{encoder.fingerprint}"
            secrets[f"{encoder.name} {number}"] = store.vectors([number], encoder=name).tobytes()
    before = found(root, secrets)
    assert {what.split()[0] for _, what in before} | {"bytes"} == {what.split()[0] for what in secrets}
    assert {file for file, _ in before} >= {"catalog.db", "out/translations.csv", "judged/manifest.jsonl"}

    told = rgunit.forget(staged, ids=[mother, other])
    assert found(root, secrets) == set()
    assert told.generated >= 1 and told.learned == ["r1", "r2"] and not told.left and not told.unsure
    assert sorted(told.outside) == sorted(map(str, places.values())) and all(map(Path.exists, places.values()))
    assert (root / "runs/r1-translation/samples/000004.png").exists() == (other not in shown)
    assert not list((root / "out").glob("*.png")) and not list((root / "judged").rglob("*.png"))
    kept, stale = kept_pairs(staged.run("r1").path, staged, schema, split="test", limit=8, seed=0)
    assert not stale and other not in {*kept.source, *kept.reference, *kept.others} and len(kept) < len(pairs)
    assert staged.store().verify().ok
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert len(rgunit.query(staged, picture, to="+Glasses")) == 10


def test_lists_have_the_names_that_forgetting_knows() -> None:
    assert (traces.TRANSLATIONS, COLUMNS[0], COLUMNS[2:4]) == (FILE, "source", ["picture", "mask"])
