"""What a shared model is on the disk: a folder, or a zip of it, whose `rgunit.json` names every file by its hash.

The one idea: it comes from anybody. Nothing is read but files that the manifest names, by names of a few plain forms,
each of the size and hash that it tells; weights are safetensors, settings are checked JSON, pictures are PNG. No code
of a package is run, and nothing is written where it does not belong.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from index_store import places
from index_store.errors import RgunitError

MANIFEST = "rgunit.json"
CARD = "README.md"
VECTORS, LABELS = "collection/vectors.safetensors", "collection/labels.csv"
PICTURES = {"real": "collection/real", "unlabelled": "collection/unlabelled"}
LARGEST_MANIFEST = 256_000_000
LARGEST = 64 << 30  # bytes of a package
_NAME = re.compile(
    r"[a-z][a-z0-9_]{0,40}\.(safetensors|onnx|json)|collection/(vectors\.safetensors|labels\.csv)"
    r"|collection/(real|unlabelled)/[0-9]{8}\.png"
)

Form = Literal["torch", "hub", "onnx"]
Role = Literal["translation", "guided", "retrieval"]
Text = Annotated[str, StringConstraints(max_length=20_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SharedFile(_Strict):
    """A file of the package by its size and SHA-256 (hex)."""

    bytes: int = Field(ge=0, le=LARGEST)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class SharedRun(_Strict):
    """A run: its stage, the settings that it is built by, and the file of its weights (none in an ONNX package).

    `stands_on`: {what it is called in the run's settings: the place of that run in `Manifest.runs`}, all before it.
    """

    stage: Role
    preset: Annotated[str, StringConstraints(max_length=200)]
    steps: int = Field(ge=0)
    weights: str | None = None
    settings: dict[str, Any]
    stands_on: dict[Literal["translation_run", "retrieval_run"], int] = {}


class Collection(_Strict):
    """What guides: pictures of `size` px with labels and the vectors of the retrieval run, under a licence."""

    images: int = Field(ge=1, le=100_000_000)
    size: int = Field(ge=8, le=4096)
    licence: Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]


class Manifest(_Strict):
    """`rgunit.json`. The model that it shares is the last of `runs`."""

    format: Literal["rgunit"]
    version: Literal[1]
    form: Form
    made_by: Text
    command: Text
    attributes: list[Annotated[str, StringConstraints(min_length=1, max_length=500)]]
    groups: list[list[str]]
    runs: Annotated[list[SharedRun], Field(min_length=1, max_length=8)]
    collection: Collection | None = None
    parity: float | None = None
    files: dict[str, SharedFile]

    @model_validator(mode="after")
    def _fits(self) -> Manifest:
        for name in self.files:
            if not _NAME.fullmatch(name) or name == MANIFEST:
                raise ValueError(f"{places.told(name)} is no name of a file of a model")
        for place, run in enumerate(self.runs):
            if self.form != "onnx" and run.weights not in self.files:
                raise ValueError(f"the weights of its {run.stage} run are not among its files")
            if any(not 0 <= other < place for other in run.stands_on.values()):
                raise ValueError("a run stands on one that is not before it")
        wanted = {VECTORS, LABELS} if self.collection else set()
        if wanted - self.files.keys():
            raise ValueError("its collection has no vectors or labels")
        if self.collection and len(self.pictures()) != self.collection.images:
            raise ValueError(f"its collection has {len(self.pictures())} pictures, not {self.collection.images}")
        if sum(file.bytes for file in self.files.values()) > LARGEST:
            raise ValueError("it is larger than anything that is read")
        return self

    @property
    def main(self) -> SharedRun:
        """The run that was exported."""
        return self.runs[-1]

    def pictures(self) -> list[str]:
        """The names of the collection's pictures, in order of their numbers."""
        found = [name for name in self.files if name.startswith(tuple(PICTURES.values()))]
        return sorted(found, key=lambda name: PurePosixPath(name).name)


def seal(folder: Path, about: dict[str, Any]) -> Manifest:
    """Write `rgunit.json` of a folder, which names every file in it but the card."""
    listed = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": places.sha256_of(folder / name)}
        for name in listed
        if name not in (CARD, MANIFEST)
    }
    manifest = Manifest.model_validate({"format": "rgunit", "version": 1, **about, "files": files})
    for name in files:
        (folder / name).chmod(0o644)  # safetensors are written for their owner alone
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def pack(folder: Path, file: Path) -> None:
    """A folder as one zip."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as into:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                into.write(path, path.relative_to(folder).as_posix())


@contextmanager
def opened(source: Path, beside: Path) -> Iterator[tuple[Path, Manifest, str]]:
    """A package of a folder or a zip, checked: its folder, its manifest, and the hash of that.

    A zip is unpacked into a folder in `beside` that goes again. RgunitError names what is wrong with it.
    """
    if source.is_dir():
        manifest, digest = _read_manifest(source, source)
        for name, file in manifest.files.items():
            path = places.inside(source, *name.split("/"))
            try:
                size = path.stat().st_size
            except OSError:
                raise RgunitError(f"{source}: {name} is missing: fetch the model again") from None
            if size != file.bytes or places.sha256_of(path) != file.sha256:
                raise _changed(source, name)
        yield source, manifest, digest
        return
    with TemporaryDirectory(prefix=".import-", dir=beside) as temporary:
        folder = Path(temporary)
        try:
            with places.opened(source) as raw, zipfile.ZipFile(raw) as packed:
                manifest, digest = _unpack(source, packed, folder)
        # What zipfile raises for a version or a way of packing that it does not know is a NotImplementedError.
        except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
            raise RgunitError(f"{source} is no folder of a model and no whole zip of one ({error})") from None
        yield folder, manifest, digest


def _unpack(source: Path, packed: zipfile.ZipFile, folder: Path) -> tuple[Manifest, str]:
    """Unpack what the manifest names, no byte more than it tells; see `opened`."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in packed.infolist():
        if entry.is_dir():
            continue
        if entry.filename in entries:
            raise RgunitError(f"{source}: {places.told(entry.filename)} is in it twice: it is not to be trusted")
        if entry.flag_bits & 1 or stat.S_ISLNK(entry.external_attr >> 16):
            raise RgunitError(
                f"{source}: {places.told(entry.filename)} is a link or encrypted: it is not to be trusted"
            )
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RgunitError(f"{source}: {places.told(entry.filename)} is packed in another way: zip it anew")
        entries[entry.filename] = entry
    top = next((name.rpartition("/")[0] for name in entries if PurePosixPath(name).name == MANIFEST), "")
    prefix = f"{top}/" if top else ""
    if f"{prefix}{MANIFEST}" not in entries:
        raise RgunitError(f"{source} has no {MANIFEST}: it is no model of `rgunit export`")
    told = entries[f"{prefix}{MANIFEST}"]
    if told.file_size > LARGEST_MANIFEST:
        raise RgunitError(f"{source}: {MANIFEST} is larger than any is")
    with packed.open(told) as file:
        (folder / MANIFEST).write_bytes(file.read(LARGEST_MANIFEST))
    manifest, digest = _read_manifest(folder, source)
    for name, wanted in manifest.files.items():
        entry_of = entries.get(prefix + name)
        if entry_of is None:
            raise RgunitError(f"{source}: {name} is missing: fetch the model again")
        path = places.inside(folder, *name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        digested, left = hashlib.sha256(), wanted.bytes
        if entry_of.file_size != left or left > shutil.disk_usage(folder).free:
            raise _changed(source, name) if entry_of.file_size != left else RgunitError(f"no space for {source}")
        with packed.open(entry_of) as data, path.open("xb") as into:
            while block := data.read(min(left + 1, 1 << 20)):
                left -= len(block)
                if left < 0:
                    raise _changed(source, name)
                digested.update(block)
                into.write(block)
        if left or digested.hexdigest() != wanted.sha256:
            raise _changed(source, name)
    return manifest, digest


def _read_manifest(folder: Path, source: Path) -> tuple[Manifest, str]:
    """The manifest in a folder and its hash; messages name `source`."""
    try:
        data = places.read_bytes(folder / MANIFEST, LARGEST_MANIFEST)
    except OSError:
        raise RgunitError(f"{source} has no {MANIFEST}: it is no model of `rgunit export`") from None
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        told = str(first["msg"]).removeprefix("Value error, ")
        raise RgunitError(
            f"{source}: {MANIFEST}{f', {place}' if place else ''}: {told}: it is no model that this rgunit reads"
        ) from None
    except RecursionError:
        raise RgunitError(f"{source}: {MANIFEST} cannot be read") from None
    return manifest, hashlib.sha256(data).hexdigest()


def _changed(source: Path, name: str) -> RgunitError:
    return RgunitError(
        f"{source}: {name} is not the file that {MANIFEST} names (its hash differs): fetch the model again"
    )
