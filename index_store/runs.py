"""Training runs: a row in the catalog, a folder, and a `run.json` from which the row can be restored.

A number is never used twice, also where the last run was deleted: vectors and pictures go by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import Any

import sqlalchemy as sa

from index_store import places, trash
from index_store.catalog import Catalog
from index_store.errors import CatalogDamaged, Locked, RgunitError, UsageError, damage_named
from index_store.lock import WriterLock
from index_store.models import RUNS
from index_store.whole import write_json

FILE = "run.json"
LARGEST = 64_000_000  # bytes of it
CHECKPOINT = "checkpoint.safetensors"
"""The file of a run's folder that holds what was trained last."""
STATUS = ("running", "done", "stopped", "failed")
NAMES, HIGHEST = "runs.names", "runs.highest"
"""Settings: the names that runs were given, {id: name} as JSON, and the highest number of a run that was deleted."""


@dataclass(frozen=True)
class RunRecord:
    """One run: id `r1`, `r2`, … in order of creation over all stages; `path` is its folder, `name` its other name."""

    id: str
    stage: str
    preset: str
    steps: int
    status: str
    path: Path
    created: str
    seconds: float
    config: dict[str, Any]
    summary: dict[str, Any]
    name: str = ""

    @property
    def empty(self) -> bool:
        """Whether it failed before anything was kept: there is nothing to go on with or to take settings from."""
        return self.status == "failed" and not any(self.path.glob("checkpoint*"))

    def size(self) -> int:
        """Bytes of its files; names that share a file count once."""
        found = {one.st_ino: one.st_size for path in self.path.rglob("*") if S_ISREG((one := path.lstat()).st_mode)}
        return sum(found.values())


def add_run(catalog: Catalog, stage: str, preset: str, config: Mapping[str, Any]) -> RunRecord:
    """Make a run with its folder `runs/<id>-<stage>`, which this process trains from now on."""
    if stage not in places.STAGES:
        raise UsageError(f"run stage {stage!r}: choose one of {', '.join(places.STAGES)}")
    with catalog.writing():
        with catalog.reading() as connection:
            last = int(connection.execute(sa.select(sa.func.max(RUNS.c.number))).scalar() or 0)
            with damage_named(catalog.file):
                number = max(last, int(catalog.setting(connection, HIGHEST) or 0)) + 1
        values: dict[str, Any] = {
            "number": number,
            "stage": stage,
            "preset": preset,
            "steps": 0,
            "status": "running",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "config": json.dumps(dict(config)),
            "summary": "{}",
        }
        record = _record(catalog, values)
        record.path.mkdir(parents=True, exist_ok=True)
        with catalog.transaction() as connection:
            connection.execute(sa.insert(RUNS).values(**values))
        _write(record.path, values)
        _hold(catalog, record)
        return record


@contextmanager
def taken(catalog: Catalog, run: RunRecord) -> Iterator[None]:
    """Around the start of going on with a run, which this process then trains: others see it until `update_run` says
    how that ended, the workspace is closed, or the process dies. Locked where another one trains it."""
    _hold(catalog, run)
    try:
        yield
    except BaseException:
        _release(catalog, run.id)
        raise


def _hold(catalog: Catalog, run: RunRecord) -> None:
    """The writer's lock does not tell who trains what: where many write in turns (PostgreSQL), none is held."""
    with catalog.writing():
        lock = WriterLock(run.path, told=f"run {run.id} is being trained")
        if int(run.id[1:]) not in catalog.trained and lock.acquire():
            catalog.trained[int(run.id[1:])] = lock


def _release(catalog: Catalog, run: str) -> None:
    if (lock := catalog.trained.pop(int(run[1:]), None)) is not None:
        lock.release()


def being_trained(catalog: Catalog, run: RunRecord) -> bool:
    """Whether this process or another one trains a run now."""
    if int(run.id[1:]) in catalog.trained:
        return True
    lock = WriterLock(run.path)
    if not lock.file.exists():
        return False
    try:
        lock.acquire()
    except Locked:
        return True
    lock.release()
    return False


def update_run(
    catalog: Catalog,
    run: str,
    *,
    steps: int | None = None,
    status: str | None = None,
    seconds: float | None = None,
    summary: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Change what is known of a run; a status other than `running` ends its training by this process."""
    if status is not None and status not in STATUS:
        raise UsageError(f"run status {status!r}: choose one of {', '.join(STATUS)}")
    changes: dict[str, Any] = {"steps": steps, "status": status, "seconds": seconds}
    changes["summary"] = None if summary is None else json.dumps(dict(summary))
    changes["config"] = None if config is None else json.dumps(dict(config))
    changes = {name: value for name, value in changes.items() if value is not None}
    with catalog.writing():
        record = get_run(catalog, run)
        if changes:
            with catalog.transaction() as connection:
                connection.execute(sa.update(RUNS).where(RUNS.c.number == int(record.id[1:])).values(**changes))
        with catalog.reading() as connection:
            row = connection.execute(sa.select(RUNS).where(RUNS.c.number == int(record.id[1:]))).mappings().one()
        _write(record.path, dict(row))
        if status not in (None, "running"):
            _release(catalog, record.id)


def list_runs(catalog: Catalog, stage: str | None = None) -> list[RunRecord]:
    """Return the runs, oldest first."""
    columns = [column.name for column in RUNS.columns]
    with catalog.reading() as connection:
        found = connection.exec_driver_sql(f"SELECT {', '.join(columns)} FROM runs ORDER BY number")
        rows = [dict(zip(columns, row, strict=True)) for row in found if stage is None or row.stage == stage]
        with damage_named(catalog.file):
            names = _object(catalog.setting(connection, NAMES) or "{}")
    gone = trash.leaving(catalog.folder)
    records = [_known(catalog, row, names) for row in rows]
    return [record for record in records if record.path.name not in gone]


def get_run(catalog: Catalog, run: str) -> RunRecord:
    """Return one run by its id or its name; RgunitError lists those that there are."""
    runs = list_runs(catalog)
    for record in runs:
        if run in (record.id, record.name or None):
            return record
    there = ", ".join(f"{record.id} ({record.name or record.stage})" for record in runs)
    raise RgunitError(f"there is no run {run!r}: {f'there are {there}' if there else 'nothing was trained yet'}")


def _known(catalog: Catalog, row: Mapping[str, Any], names: Mapping[str, Any]) -> RunRecord:
    """`_record`, made once for as long as its row says the same; each caller gets dictionaries of its own."""
    told = (*row.values(), names.get(f"r{row['number']}", ""))
    held = catalog.records.get(row["number"])
    if held is None or held[0] != told:
        held = catalog.records[row["number"]] = told, _record(catalog, row, names)
    record: RunRecord = held[1]
    return replace(record, config=dict(record.config), summary=dict(record.summary))


def _record(catalog: Catalog, row: Mapping[str, Any], names: Mapping[str, Any] | None = None) -> RunRecord:
    """Return a row of the catalog as a RunRecord; CatalogDamaged where it is none."""
    with damage_named(catalog.file):
        try:
            path = places.run_folder(catalog.folder, row["number"], row["stage"])
        except places.Unsafe as error:
            raise CatalogDamaged(catalog.file, str(error)) from error
        return RunRecord(
            f"r{row['number']}",
            str(row["stage"]),
            str(row["preset"]),
            int(row["steps"]),
            str(row["status"]),
            path,
            str(row["created"]),
            float(row["seconds"]),
            _object(row["config"]),
            _object(row["summary"]),
            str((names or {}).get(f"r{row['number']}", "")),
        )


def _object(text: str) -> dict[str, Any]:
    """The JSON object of a text; ValueError where it is none."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("a run's settings are no JSON object")
    return found


def _write(folder: Path, row: Mapping[str, Any]) -> None:
    """Write `run.json` durably, whole or not at all."""
    write_json(folder / FILE, dict(row), durable=True)


def read_rows(catalog: Catalog) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what the `run.json` files tell, as rows of the catalog, and a line on each that cannot be read."""
    rows, problems = [], []
    for file in sorted((catalog.folder / "runs").glob("*/" + FILE)):
        if file.parent.name.endswith(trash.SUFFIX):
            continue
        row = _read(file)
        try:
            if row is None or _record(catalog, row).path != file.parent:
                problems.append(f"{file.parent.name}/{FILE}: cannot be read")
            else:
                rows.append(row)
        except CatalogDamaged as error:
            problems.append(f"{file.parent.name}/{FILE}: {error.why}")
    return rows, problems


def check_rows(catalog: Catalog) -> list[str]:
    """Return a line on each run of the catalog that can be none."""
    problems = []
    with catalog.reading() as connection:
        for row in connection.execute(sa.select(RUNS)).mappings():
            try:
                _record(catalog, dict(row))
            except CatalogDamaged as error:
                problems.append(f"{catalog.file.name}: a run: {error.why}")
    return problems


def mend_files(catalog: Catalog) -> list[str]:
    """Write the `run.json` files that cannot be read again, as the catalog has them; return a line on each."""
    mended, gone = [], trash.leaving(catalog.folder)
    with catalog.reading() as connection:
        rows = [dict(row) for row in connection.execute(sa.select(RUNS)).mappings()]
    for row in rows:
        try:
            folder = _record(catalog, row).path
            if folder.name in gone:
                continue
        except CatalogDamaged as error:
            mended.append(f"{FILE}: of a run that is left out: {error.why}")
            continue
        if _read(folder / FILE) is None:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder, row)
            mended.append(f"{folder.name}/{FILE}: repaired")
    return mended


def _read(file: Path) -> dict[str, Any] | None:
    """Return what a `run.json` tells, None if it cannot be read."""
    try:
        row = json.loads(places.read_bytes(file, LARGEST))
        return {column.name: row[column.name] for column in RUNS.columns}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
