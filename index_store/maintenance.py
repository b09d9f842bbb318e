"""Checking a store, repairing it, and merging its shards.

The one idea: the sealed shards replayed in order must give exactly the catalog's tables. Where they do not, the
catalog is damaged and is made again from the shards; a damaged shard is repaired from its own seal.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from index_store import features, runs, seal
from index_store.ann import FOLDER as CELLS_FOLDER
from index_store.ann import SUFFIX as CELLS_SUFFIX
from index_store.catalog import Catalog
from index_store.compaction import merge
from index_store.errors import CatalogDamaged, RgunitError
from index_store.features import Record, Sealed
from index_store.models import METADATA, RUNS
from index_store.places import shard_seq
from index_store.replay import apply
from index_store.sqlite import connect
from index_store.whole import write_bytes

TABLES = {
    "attributes": "position, name",
    "attribute_groups": "position, members",
    "encoders": "name, fingerprint, dim",
    "images": "id, key, split, origin, known, value, path, sha256, width, height, parent, run, fields",
    "shards": "seq, kind, file, size, digest, rows",
    "settings": "key, value",
}

FORGETTING = "forgetting.json"
"""The note of pictures that are being forgotten; see `forgetting.py`."""

BEGUN = f"{FORGETTING}: was begun and not ended: `rgunit index remove --forget` ends it"
REBUILD = "`rgunit index rebuild` repairs what can be repaired"

Entry = tuple[int, Record, Sealed]


@dataclass(frozen=True)
class Report:
    """What `verify` found: `problems` are lines that name the file; `remedy`, empty where they say it themselves."""

    ok: bool
    problems: list[str] = field(default_factory=list)
    remedy: str = ""


@dataclass(frozen=True)
class _Row:
    """What the catalog says of a shard."""

    seq: int
    size: int
    digest: str
    fingerprint: str | None  # of the encoder of its vectors; "": nobody knows what made them


@dataclass(frozen=True)
class _Listed:
    """What the catalog holds: its place in the log, its shards by file, the tables' digests."""

    sequence: int
    shards: dict[str, _Row]
    tables: dict[str, str]
    problems: list[str]


STILL = 20.0  # seconds that a check waits for a writer that changes files faster than they are read


def verify(catalog: Catalog) -> Report:
    """Check every shard against its seal, the catalog's structure, and its tables against the log.

    A reader may call it while another process writes: what changed meanwhile is looked at again.
    """
    problems: list[str] = []
    until = time.monotonic() + STILL
    while True:
        try:
            listed = _listed(catalog)
        except CatalogDamaged as error:
            return Report(False, [f"{catalog.file.name}: {error.why}", *_damaged_files(catalog, {})], REBUILD)
        try:
            problems = listed.problems + _damaged_files(catalog, listed.shards) + runs.read_rows(catalog)[1]
            problems += runs.check_rows(catalog)
            if (catalog.folder / FORGETTING).exists():
                problems.append(BEGUN)
            if not any(file in problem for file in listed.shards for problem in problems):
                problems += _compare(catalog, listed)
        except FileNotFoundError as error:  # merged by a compaction a moment ago, or else it is missed the next time
            name = Path(str(error.filename)).name
            problems = [f"{name}: is missing"]
            if name not in listed.shards and time.monotonic() < until:
                continue  # merged before the catalog was read, and taken away only now: nobody misses it
        try:
            if not problems or _sequence(catalog) == listed.sequence or time.monotonic() > until:
                break
        except CatalogDamaged:
            break
    return Report(not problems, problems, REBUILD if set(problems) - {BEGUN} else "")


def rebuild(catalog: Catalog) -> list[str]:
    """Repair damaged shards from their seals, then the catalog from the shards; return what was wrong.

    A file of vectors alone that cannot be repaired is dropped where its encoder has a fingerprint: they can be embedded
    again. RgunitError names files that hold the only copy of something and cannot be repaired; nothing is lost then.
    """
    with catalog.held(repair=False):
        catalog.clean()
        try:
            known, told = _listed(catalog).shards, runs.mend_files(catalog)
        except CatalogDamaged:
            known, told = {}, []
        mended, lost = _mend_files(catalog, known)
        dropped = [file for file in lost if _made_again(catalog, file, known)]
        if len(dropped) < len(lost):
            names = ", ".join(sorted(set(lost) - set(dropped)))
            raise RgunitError(f"{catalog.shards}: {names} cannot be repaired: put a copy from a backup in its place")
        report = verify(catalog)
        if not report.ok:
            _replace(catalog, sealed_entries(catalog, without=dropped))
        else:
            catalog.recover()
        for file in dropped:  # the catalog does without them: only now
            catalog.shard(file).unlink(missing_ok=True)
        if dropped:
            compact(catalog, check=False)
        return [*told, *mended, *(f"{file}: its vectors are lost" for file in dropped), *report.problems]


def compact(catalog: Catalog, *, check: bool = True) -> str:
    """Merge all shards into one with the rows and one for each encoder, without removed rows; ids stay.

    Returns a line on it. With `check` a damaged store is refused (RgunitError): its seals could repair it.
    """
    with catalog.writing():
        if check and (problems := verify(catalog).problems):
            raise RgunitError(f"{problems[0]}: run `rgunit index rebuild` first; nothing was merged")
        return merge(catalog)


def replay(entries: Sequence[Entry]) -> sa.Engine:
    """Apply records in order to an empty catalog in memory."""
    engine = connect(None)
    METADATA.create_all(engine)
    with engine.begin() as connection:
        for seq, record, sealed in entries:
            apply(connection, seq, record, sealed)
    return engine


def _made_again(catalog: Catalog, file: str, known: dict[str, _Row]) -> bool:
    """Whether what a lost shard holds can be made again: vectors alone, of weights that are known.

    Where the catalog cannot be read the shard's own header tells, if that can.
    """
    if not file.endswith(f"-vectors{features.SUFFIX}"):
        return False
    if known:
        return file not in known or known[file].fingerprint != ""  # what was never committed is nobody's only copy
    return bool(_header(catalog.shard(file)).get("encoder", {}).get("fingerprint"))


def sealed_entries(catalog: Catalog, *, upto: int | None = None, without: Sequence[str] = ()) -> list[Entry]:
    """Read the log from the files alone, from the last complete compaction on, as if the files `without` were not.

    RgunitError names what is missing, or what lies at one place twice.
    """
    entries: list[Entry] = []
    for seq, path in catalog.sealed_files():
        if path.name not in without and (upto is None or seq <= upto):
            if entries and entries[-1][0] == seq:
                raise RgunitError(
                    f"{catalog.shards}: {entries[-1][2].file} and {path.name} claim one place in the log: the newer "
                    "one was never committed; move it elsewhere"
                )
            record = features.read(path, check=True, vectors=False)
            entries.append((seq, record, Sealed(path.name, path.stat().st_size, seal.digest_of(path))))
    absent = [shard_seq(file) or 0 for file in without]
    groups: dict[int, list[int]] = {}  # of each compaction by its first place: its parts, and how many there are
    for _, record, _ in entries:
        if "base" in record.header:
            first, parts = record.header["first"], record.header["parts"]
            there = groups.setdefault(first, [sum(first <= seq < first + parts for seq in absent), parts])
            there[0] += 1
    start = max((first for first, (there, parts) in groups.items() if there == parts), default=1)
    entries = [
        (seq, record, sealed)
        for seq, record, sealed in entries
        if seq >= start and record.header.get("first", start) == start
    ]
    if not entries and groups:
        raise RgunitError(f"{catalog.shards}: files from {max(groups):08d} on are missing: put back copies of them")
    if not entries and (upto is None or upto > 0):
        raise RgunitError(f"{catalog.shards} holds no shard: there is nothing to restore {catalog.file.name} from")
    gaps = sorted(set(range(start, entries[-1][0] + 1)) - {seq for seq, _, _ in entries}) if entries else []
    if gaps and not without:
        raise RgunitError(f"{catalog.shards}: shard {gaps[0]:08d} is missing: put a copy from a backup in its place")
    return entries


def _sequence(catalog: Catalog) -> int:
    """Return the place of the last committed change in the log."""
    with catalog.reading() as connection:
        return catalog.sequence(connection)


def _listed(catalog: Catalog) -> _Listed:
    """Read the catalog; raises CatalogDamaged. While the sequence stays what it was, all of it is of one commit."""
    try:
        with catalog.reading() as connection:
            sequence = catalog.sequence(connection)  # first: a commit while the rest is read then shows
            problems = [f"{catalog.file.name}: {line}" for line in catalog.database.problems(connection)]
            query = "SELECT file, seq, size, digest, fingerprint FROM shards LEFT JOIN encoders ON id = encoder"
            shards = {}
            for file, seq, size, digest, fingerprint in connection.exec_driver_sql(query).all():
                try:
                    shards[catalog.shard(file).name] = _Row(int(seq), int(size), str(digest), fingerprint)
                except CatalogDamaged as error:
                    problems.append(f"{catalog.file.name}: {error.why}")
            return _Listed(sequence, shards, _digests(connection), problems)
    except CatalogDamaged:
        raise
    except (sa.exc.SQLAlchemyError, ValueError, TypeError, OverflowError) as error:
        raise CatalogDamaged(catalog.file, str(error).splitlines()[0]) from error


def _damaged_files(catalog: Catalog, listed: dict[str, _Row]) -> list[str]:
    """Return what is wrong with the shards: those in the catalog, and any other that lies there."""
    problems = []
    there = {path.name for _, path in catalog.sealed_files()}
    numbers = {shard_seq(name) for name in there}
    for file in sorted(there | set(listed)):
        path, row = catalog.shards / file, listed.get(file)
        if file not in there:
            known = row is not None and (row.seq in numbers or shard_seq(file) in numbers)
            problems.append(
                f"{catalog.file.name}: names {file}, which is not there" if known else f"{file}: is missing"
            )
            continue
        told, wrong = seal.check(path)
        if wrong and row and path.stat().st_size != row.size:
            problems.append(f"{file}: has {path.stat().st_size} bytes instead of {row.size}")
        elif wrong and (row or not listed):
            problems.append(f"{file}: {wrong}")
        elif row and not wrong and (told, path.stat().st_size) != (row.digest, row.size):
            problems.append(f"{catalog.file.name}: keeps another size or digest of {file}")
        elif not wrong:
            with suppress(features.ShardMissing):  # as above: told when the log is read
                problems += _malformed(path)
    for path in sorted((catalog.folder / CELLS_FOLDER).glob("*" + CELLS_SUFFIX)):
        with suppress(FileNotFoundError):  # derived: another process may take it away at any moment
            if wrong := seal.check(path)[1]:
                problems.append(f"{path.name}: {wrong}")
    return problems


def _malformed(path: Path) -> list[str]:
    """Return what is wrong with a shard whose seal is right: it was sealed by other hands."""
    try:
        features.read(path, only=())
    except features.ShardMissing:
        raise
    except features.ShardDamaged as error:
        return [str(error)]
    return []


def _compare(catalog: Catalog, listed: _Listed) -> list[str]:
    """Replay the log and compare it with the catalog."""
    there = [path.name for _, path in catalog.sealed_files()]
    now = _sequence(catalog)  # asked after the files: what a writer has committed meanwhile is not too many
    newer = [name for name in there if shard_seq(name) > now]
    problems = []
    if len(newer) > 1 and not any("base" in _header(catalog.shards / name) for name in newer):
        problems.append(f"{catalog.file.name}: lacks {len(newer)} sealed batches, from {min(newer)} on")
    try:
        engine = replay(sealed_entries(catalog, upto=listed.sequence))
    except features.ShardMissing as error:  # it was there when the folder was read
        raise FileNotFoundError(errno.ENOENT, "is missing", str(error).partition(":")[0]) from None
    except (RgunitError, sa.exc.SQLAlchemyError) as error:
        return [*problems, f"{catalog.file.name}: does not fit the shards ({str(error).splitlines()[0]})"]
    with engine.connect() as connection:
        expected = _digests(connection)
    engine.dispose()
    for table, digest in expected.items():
        if digest != listed.tables[table]:
            problems.append(f"{catalog.file.name}: table {table} does not match the shards")
    return problems


def _header(path: Path) -> dict[str, Any]:
    """Return the header of a shard, empty if it cannot be read."""
    try:
        return dict(features.read(path, vectors=False).header)
    except features.ShardDamaged:
        return {}


def _mend_files(catalog: Catalog, known: dict[str, _Row]) -> tuple[list[str], list[str]]:
    """Repair the damaged shards; return lines about those repaired, and the files that are lost.

    A shard that fits its own seal is left alone, whatever the catalog says of it: the catalog may be what is damaged.
    """
    mended, lost = [], []
    there = {path.name for _, path in catalog.sealed_files()}
    numbers = {shard_seq(name) for name in there}
    for file in sorted(there | set(known)):
        path = catalog.shard(file)
        row = known.get(file)
        if file not in there:
            if row and row.seq not in numbers and shard_seq(file) not in numbers:
                lost.append(file)
            continue
        if not seal.check(path)[1]:
            continue
        whole = seal.mend(path, row.size, row.digest) if row else None
        whole = whole or seal.mend(path, None, None)
        if whole is None:
            lost.append(file)
            continue
        write_bytes(path, whole, durable=True)
        mended.append(f"{file}: repaired")
    return mended, lost


def _replace(catalog: Catalog, entries: Sequence[Entry]) -> None:
    """Put a catalog made from the log in the place of the old one."""

    def fill(connection: sa.Connection) -> None:
        for seq, record, sealed in entries:
            apply(connection, seq, record, sealed)
        if rows := runs.read_rows(catalog)[0]:
            connection.execute(sa.insert(RUNS), rows)

    try:
        catalog.database.replace(fill)
    except sa.exc.IntegrityError as error:
        why = str(error.orig).partition("\n")[0]
        raise RgunitError(f"{catalog.shards}: its files contradict each other ({why}); nothing was changed") from error
    except sa.exc.DatabaseError as error:  # no right to make tables, a full disk, a text that this engine cannot hold
        raise RgunitError(f"{catalog.refused(error)}; nothing was changed") from error


def _digests(connection: sa.Connection) -> dict[str, str]:
    """Return a digest of each table that the log determines, whatever the order in which an engine keeps it."""
    digests = {}
    for table, columns in TABLES.items():
        digest = hashlib.sha256()
        query = f"SELECT {columns} FROM {table}"
        if table == "images":  # which may be many millions: read in their order, a few at a time
            streamed = {"stream_results": True, "yield_per": 10_000}
            rows = connection.exec_driver_sql(f"{query} ORDER BY id", execution_options=streamed)
            texts: Iterable[str] = (repr(tuple(row)) for row in rows)
        else:
            texts = sorted(repr(tuple(row)) for row in connection.exec_driver_sql(query))
        for text in texts:
            digest.update(text.encode(errors="surrogatepass"))
        digests[table] = digest.hexdigest()
    return digests
