"""`Workspace`: a store together with the images that its rows stand for, and the runs trained on them.

The one idea: images are registered where they lie, first; vectors are attached to them later, under the name and
fingerprint of the encoder that made them. One catalog serves both.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from index_store import engines, forgetting, forking, places, runcare, runs
from index_store.attributes import AttributeSchema
from index_store.catalog import Catalog
from index_store.decoded import DecodedImages
from index_store.decoding import read_file
from index_store.errors import RgunitError, UsageError
from index_store.features import Record
from index_store.imagecheck import check_images
from index_store.images import Pixels, read_image, write_image
from index_store.imagetable import ImageTable, read_table
from index_store.ingest import AddReport, Progress, Rejection, add_images, stored_path
from index_store.names import split_meant
from index_store.presence import enough, missing_rows
from index_store.replay import schema_header
from index_store.runs import RunRecord
from index_store.store import IndexStore
from index_store.whole import sync_folder

__all__ = ["AddReport", "GeneratedImage", "ImageTable", "Rejection", "RunRecord", "Workspace"]

FOLDERS = ("shards", "images", "runs", "cache")


@dataclass(frozen=True)
class GeneratedImage:
    """A picture that a model made: pixels uint8 [H, W, 3], the id of its source, its labels int8 [A], its run."""

    pixels: Pixels
    parent: int
    target: npt.NDArray[np.int8]
    run: str


class Workspace:
    """A folder with images, labels, vectors and runs. A context manager; threads may share it."""

    def __init__(self, catalog: Catalog, vectors: str | None = None) -> None:
        self.path = catalog.folder
        self.catalog = catalog
        self._store = IndexStore(catalog, owner=False, vectors=vectors)
        self._table: tuple[tuple[Any, ...], ImageTable] | None = None
        self._version: tuple[int, ...] = ()
        self._meta: tuple[tuple[int, ...], dict[str, str | None]] = (), {}  # as of a version
        self._decoded = DecodedImages()
        forking.remember(self)
        self.left_out: npt.NDArray[np.int64] = np.empty(0, np.int64)
        for name in () if catalog.read_only else FOLDERS:
            (self.path / name).mkdir(exist_ok=True)

    @classmethod
    def create(cls, path: Path | str, *, catalog: str | None = None, vectors: str | None = None) -> Self:
        """Make a workspace; FileExistsError if there is one. `catalog`, `vectors`: as for `IndexStore.create`."""
        engines.reach(vectors)
        return cls(Catalog.create(Path(path), url=catalog), vectors)

    @classmethod
    def open(
        cls, path: Path | str, *, wait: float = 0.0, catalog: str | None = None, vectors: str | None = None
    ) -> Self:
        """Open a workspace; RgunitError if there is none. A change waits up to `wait` seconds for another writer."""
        folder = Path(path).absolute()
        if not Catalog.exists(folder):
            raise RgunitError(f"no workspace at {path}: run `rgunit -w {path} add …` first")
        engines.chosen(vectors, folder)  # refused before anything is opened
        return cls(Catalog.open(folder, wait, catalog), vectors)

    @classmethod
    def ensure(cls, path: Path | str) -> Self:
        """Open a workspace, made if there is none."""
        folder = Path(path).absolute()
        if not Catalog.exists(folder):
            with suppress(FileExistsError):  # made by another process just now
                return cls.create(folder)
        return cls.open(folder)

    def close(self) -> None:
        """Close files and release the writer's lock."""
        self._store.close()
        self.catalog.close()

    def after_fork(self) -> None:
        """In a forked child: no lock that a thread of the parent holds."""
        self._decoded.after_fork()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is opened again where it arrives, by its absolute place."""
        where = {"catalog": self.catalog.url, "vectors": self._store.vectors_url}
        return partial(type(self).open, str(self.path), wait=self.catalog.lock.wait, **where), ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def schema(self) -> AttributeSchema:
        """All attributes, in the column order of the first file, later columns appended."""
        return self._store.schema

    def store(self) -> IndexStore:
        """Return the vectors of this workspace (the same catalog; closed with the workspace)."""
        return self._store

    # Images

    def add_images(
        self,
        path: Path | str,
        *,
        attributes: Path | str | None = None,
        origin: str = "real",
        split: str | None = None,
        split_by: str | None = None,
        groups: Sequence[str] = (),
        progress: Progress | None = None,
        update: bool = False,
        white_level: float | None = None,
        domains: Sequence[str] = (),
    ) -> AddReport:
        """Register the images of a folder where they lie, in durable batches; running it again changes nothing.

        `attributes` is a CSV (or a `metadata.csv|jsonl` in the folder); `groups` like "Black_Hair|Blond_Hair";
        `progress(done, total)` is called after each file. Broken files are refused one by one with a reason. Of images
        that are known already `update` takes the labels, split and texts anew; else what contradicts is told.
        `white_level` is the value that is white in deep grey; `domains` are names of folders that are the domains.
        """
        return add_images(
            self.catalog,
            Path(path),
            attributes=None if attributes is None else Path(attributes),
            origin=origin,
            split=split,
            split_by=split_by,
            groups=groups,
            progress=progress,
            update=update,
            white_level=white_level,
            domains=domains,
        )

    def add_generated(self, items: Sequence[GeneratedImage]) -> npt.NDArray[np.int64]:
        """Write pictures as PNG under images/generated/RUN and register them; return their ids int64 [n].

        Labels of a row are its target over the workspace's schema; it has the split of its parent.
        """
        with self.catalog.writing():
            schema = self.schema
            ids = self.catalog.next_id() + np.arange(len(items), dtype=np.int64)
            if not len(items):
                return ids
            known, value = schema.pack(np.array([item.target for item in items], np.int8).reshape(len(items), -1))
            parents = np.array([item.parent for item in items], np.int64)
            table = self.images(ids=np.unique(parents[parents >= 0]))
            splits = dict(zip(table.ids.tolist(), table.split, strict=True))
            files = [
                places.inside(self.path, "images", "generated", item.run, f"{row:08d}.png")
                for row, item in zip(ids, items, strict=True)
            ]
            with ThreadPoolExecutor(max_workers=4) as pool:
                list(pool.map(lambda file, item: write_image(file, item.pixels, durable=True), files, items))
                hashes = list(pool.map(lambda file: hashlib.sha256(file.read_bytes()).hexdigest(), files))
            for folder in {file.parent for file in files}:
                sync_folder(folder)
            arrays: dict[str, npt.NDArray[Any]] = {
                "ids": ids,
                "known": known,
                "value": value,
                "parent": parents,
                "width": np.array([item.pixels.shape[1] for item in items], np.int64),
                "height": np.array([item.pixels.shape[0] for item in items], np.int64),
            }
            paths = [stored_path(self.path, file) for file in files]
            texts = {
                "key": paths,
                "path": paths,
                "sha256": hashes,
                "origin": "generated",
                "split": [str(splits.get(int(parent), "train")) for parent in parents],
                "run": [item.run for item in items],
            }
            header = schema_header(schema) | runcare.numbered(self.catalog, [item.run for item in items])
            self.catalog.write(Record("images", header, arrays, texts))
            return ids

    def images(self, where: str | None = None, *, ids: npt.ArrayLike | None = None) -> ImageTable:
        """Return the images that pass a filter, or those with the given ids, ascending; RgunitError for unknown ids."""
        table = self._all()
        if ids is not None:
            table = table.select(table.places(np.unique(np.asarray(ids, np.int64))))
        if where is None:
            return table
        keep = table.mask(self.schema.filter(where))
        return table.select(keep & ~np.isin(table.ids, self.left_out) if len(self.left_out) else keep)

    def check_filter(self, where: str | None) -> None:
        """Refuse a filter that cannot be read, or that names a split which no image is in; UsageError offers others."""
        wanted = self.schema.filter(where).split or frozenset()
        there = self._store.state().splits() if wanted else []
        meant = {name: split_meant(name) or name for name in (*wanted, *there)}
        strange = sorted(name for name in wanted if meant[name] not in {meant[other] for other in there})
        if strange:
            near = difflib.get_close_matches(strange[0], there, n=1, cutoff=0.5)
            told = f"did you mean {near[0]}?" if near else f"there are {', '.join(there) or 'no images'}"
            raise UsageError(f"filter {where!r}: no image is in the split {strange[0]!r}: {told}")

    def leave_out_missing(self, where: str, note: Callable[[str], None]) -> None:
        """From now on filters of this workspace pass no image whose file is gone, of those that pass `where`.

        What is left out is told to `note`; RgunitError where more than one and more than 1 % are gone.
        """
        self.left_out = np.empty(0, np.int64)
        table = self.images(where)
        missing = missing_rows(table)
        if (told := enough(table, missing)) is not None:
            note(told)
        self.left_out = table.ids[missing]

    def forget(
        self, where: str | None = None, *, ids: npt.ArrayLike | None = None, dry_run: bool = False
    ) -> forgetting.Forgotten:
        """Leave nothing of the images that pass a filter or have these ids; without either, end an earlier call."""
        return forgetting.forget(self, forgetting.chosen(self, where, ids), dry_run=dry_run)

    def forgotten(self) -> int:
        """How often images were forgotten: who keeps anything that shows images drops it where this grows."""
        return int(self.meta(forgetting.COUNT) or 0)

    def image_for_path(self, path: Path | str) -> int | None:
        """Return the id of a registered image by its content, of several with it the one at this path; by the path
        alone where the file is gone. None if it is not registered, or was changed since."""
        file = Path(path).absolute()
        place = stored_path(self.path, Path(str(file).encode(errors="replace").decode()))  # names may be any bytes
        if file.exists():
            return self.image_of(read_file(file), place)
        with self.catalog.reading() as connection:
            query = "SELECT id FROM images WHERE path = ? ORDER BY id LIMIT 1"
            found = connection.exec_driver_sql(query, (place,)).scalar()
        return None if found is None else int(found)

    def image_of(self, data: bytes, place: str = "") -> int | None:
        """Return the id of the registered image of these bytes, of several the one stored at `place`, else the oldest;
        None if there is none."""
        sha = hashlib.sha256(data).hexdigest()
        with self.catalog.reading() as connection:
            query = "SELECT id FROM images WHERE sha256 = ? ORDER BY path = ? DESC, id LIMIT 1"
            found = connection.exec_driver_sql(query, (sha, place)).scalar()
        return None if found is None else int(found)

    def read(self, path: Path | str, *, size: int | None = None) -> Pixels:
        """Decode a picture file from anywhere, with the white level that is known of it if the workspace has it."""
        number = self.image_for_path(path)
        if number is None:
            return read_image(path, size=size)
        table = self._all()
        return read_image(path, size=size, white=table.white(int(table.places(np.array([number]))[0])))

    def check_images(self, *, every: bool = False, progress: Progress | None = None) -> list[str]:
        """Return a line on each picture that is missing, on each generated one (with `every` on any) that has changed.
        `store().verify()` checks everything else."""
        return check_images(self.catalog, every=every, progress=progress)

    def load(self, ids: npt.ArrayLike, size: int) -> Pixels:
        """Decode images to uint8 [n, size, size, 3], centre-cropped and resized, in the order given."""
        wanted = np.asarray(ids, np.int64).ravel()
        table = self._all()
        places = table.places(wanted)
        pixels = np.empty((len(wanted), size, size, 3), np.uint8)
        for row, (number, place) in enumerate(zip(wanted.tolist(), places, strict=True)):
            known = (number, size, table.white(int(place)))
            decoded = self._decoded.get(known)
            if decoded is None:
                decoded = table.read(int(place), size)
                self._decoded.keep(known, decoded)
            pixels[row] = decoded
        return pixels

    def _all(self) -> ImageTable:
        """Return the table of all images at the last commit."""
        with self.catalog.guard:
            version = self.catalog.version()
            if self._table is not None and version == self._version:
                return self._table[1]
            with self.catalog.reading() as connection:
                query = "SELECT count(*), max(changed), (SELECT max(changed) FROM removed) FROM images"
                told = connection.exec_driver_sql(query).one()
                state = (*told, self.catalog.schema(connection), self.catalog.setting(connection, "fields"))
                if self._table is None or self._table[0] != state:
                    self._table = (state, read_table(connection, self.catalog))
            self._version = version
            return self._table[1]

    # Vectors

    def put_vectors(self, ids: npt.ArrayLike, vectors: npt.ArrayLike, *, encoder: str, fingerprint: str) -> None:
        """Attach vectors float32 [n, d] to images int64 [n]; durable on return, replaces nothing.

        Ids that already have a vector under the fingerprint are skipped.
        """
        self._store.attach(ids, vectors, encoder=encoder, fingerprint=fingerprint)

    def missing_vectors(self, encoder: str, fingerprint: str, where: str | None = None) -> npt.NDArray[np.int64]:
        """Return the ids of images that have no vector under the fingerprint, ascending."""
        ids, there = self.images(where).ids, self._store.vector_ids(encoder, fingerprint)
        known = np.zeros(1 + max(ids.max(initial=0), there.max(initial=0)), np.bool_)  # ids are small: no sorting
        known[there] = True
        return ids[~known[ids]]

    # Runs and settings

    def add_run(self, stage: str, preset: str, config: Mapping[str, Any]) -> RunRecord:
        """Register a run, which this process trains from now on, and make its folder."""
        return runs.add_run(self.catalog, stage, preset, config)

    def update_run(
        self,
        id: str,
        *,
        steps: int | None = None,
        status: str | None = None,
        seconds: float | None = None,
        summary: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Change what is known of a run; status is running, done, stopped or failed."""
        runs.update_run(self.catalog, id, steps=steps, status=status, seconds=seconds, summary=summary, config=config)

    def taken(self, id: str) -> AbstractContextManager[None]:
        """Around the start of going on with a run, which this process then trains; Locked where another one does."""
        return runs.taken(self.catalog, self.run(id))

    def runs(self, stage: str | None = None) -> list[RunRecord]:
        """Return the runs (of one stage), oldest first."""
        return runs.list_runs(self.catalog, stage)

    def run(self, id: str) -> RunRecord:
        """Return one run, by its id or its name; RgunitError lists them."""
        return runs.get_run(self.catalog, id)

    def rename_run(self, id: str, name: str) -> RunRecord:
        """Give a run a name by which it can be asked for too; "" takes it away."""
        return runcare.rename_run(self.catalog, id, name)

    def delete_runs(self, ids: Sequence[str], *, images: bool = False) -> list[RunRecord]:
        """Delete runs with their files, each whole or not at all; RgunitError where one is trained or referred to, or
        made images of the workspace (`images`: they are deleted too)."""
        return runcare.delete_runs(self.catalog, ids, images=images)

    def meta(self, key: str) -> str | None:
        """Return a small value that was set, None if it never was."""
        version = self.catalog.version()
        known, values = self._meta
        if known != version:
            known, values = self._meta = version, {}
        if key not in values:
            with self.catalog.reading() as connection:
                values[key] = self.catalog.setting(connection, f"meta.{key}")
        return values[key]

    def set_meta(self, key: str, value: str) -> None:
        """Keep a small value, durably."""
        if self.meta(key) != value:
            self.catalog.write(Record("settings", {"settings": {f"meta.{key}": value}}))
