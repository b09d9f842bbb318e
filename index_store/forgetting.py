"""Forgetting pictures: nothing of them stays in the workspace, neither in what is searched nor in what shows them.

The one idea: what is to be forgotten is written down first. Each step that follows may be done twice, so whoever was
killed is followed by the same call, which ends what was begun. That note goes last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from index_store import places, traces
from index_store.errors import Locked, RgunitError
from index_store.features import Record
from index_store.images import mark_of
from index_store.learned import FILE as LEARNED
from index_store.learned import keeps_learned, learned_from, unlearn
from index_store.maintenance import FORGETTING as NOTE
from index_store.maintenance import verify
from index_store.runs import CHECKPOINT, being_trained
from index_store.whole import sync_folder, write_json

if TYPE_CHECKING:
    from index_store.workspace import Workspace

COUNT = "forgotten"
"""A setting: how often something was forgotten, so that who serves the workspace sees it."""
LARGEST = 2**30  # bytes of the note
_MANY = 10_000  # ids in one statement
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Forgotten:
    """What was taken out, or (`dry_run`) would be.

    `removed` images, `generated` of them made from the others. `deleted` and `rewritten`: files and folders of the
    workspace, by their places in it. `outside`: the user's own files, which stay. `learned`: runs whose weights learned
    from them, or may have. `left`: files of the workspace that still name one; `unsure`: folders and files that may
    show one. `keeps`: what the database's engine keeps for a while, "" for nothing.
    """

    removed: int
    generated: int
    deleted: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    keeps: str = ""


@dataclass(frozen=True)
class _Note:
    """What is to be forgotten: ids, how many of them were made of others, places as the catalog has them, runs."""

    ids: list[int]
    generated: int
    stored: list[str]
    learned: list[str]


def forget(workspace: Workspace, ids: npt.ArrayLike, *, dry_run: bool = False) -> Forgotten:
    """Take images, and those that were generated from them, out of everything in the workspace; and end what an earlier
    call began.

    Rows, labels, vectors, caches, the workspace's own copies, pages, samples and lists that show or name them. Files
    outside the workspace are never touched. A damaged workspace is refused (RgunitError), and nothing has changed.
    """
    catalog = workspace.catalog
    if dry_run:
        note = _joined(_begun(workspace.path), _noted(workspace, _with_descendants(workspace, ids)))
        told = traces.sweep(workspace.path, _wanted(workspace, note), dry_run=True)
        told.rewritten.extend(_unlearn(workspace, note.ids, dry_run=True))
        told.deleted.extend(traces.drop_caches(workspace.path, dry_run=True) if note.ids else ())
        return _told(note, told, "")
    with catalog.held():
        wanted, begun = _with_descendants(workspace, ids), _begun(workspace.path)
        if not len(wanted) and not begun.ids:
            return Forgotten(0, 0)
        if busy := [run.id for run in workspace.runs() if being_trained(catalog, run)]:
            raise Locked(f"run {busy[0]} is being trained, perhaps on them: wait until it has finished, or stop it")
        if problems := [line for line in verify(catalog).problems if not line.startswith(NOTE)]:
            raise RgunitError(f"{problems[0]}: run `rgunit index rebuild` first; nothing was forgotten")
        note = _joined(begun, _noted(workspace, wanted))
        _write(workspace.path, note)
        catalog.step("noted")
        _remove_rows(workspace, np.array(note.ids, np.int64))
        catalog.step("removed")
        files = _wanted(workspace, note)
        told = traces.sweep(workspace.path, files)
        catalog.step("swept")
        told.rewritten.extend(_unlearn(workspace, note.ids))
        workspace.store().compact(check=False)
        told.deleted.extend(traces.drop_caches(workspace.path))
        catalog.step("compacted")
        engine = "Milvus has deleted rows on its disks until it compacts them" if workspace.store().vectors_url else ""
        keeps = "; ".join(filter(None, (catalog.erase(), engine)))
        catalog.step("erased")
        (workspace.path / NOTE).unlink()
        sync_folder(workspace.path)
        return _told(note, told, keeps)


def chosen(workspace: Workspace, where: str | None, ids: npt.ArrayLike | None) -> Ids:
    """The rows that pass a filter, or have these ids (less those that are being forgotten); none without either."""
    workspace.check_filter(where)
    if where is None and ids is None:
        return np.empty(0, np.int64)
    given = None if ids is None else np.setdiff1d(np.asarray(ids, np.int64), pending(workspace.path))
    return workspace.store().state().chosen(where, given)


def pending(folder: Path) -> Ids:
    """The ids that an earlier call began to forget."""
    return np.array(_begun(folder).ids, np.int64)


def _told(note: _Note, told: traces.Told, keeps: str) -> Forgotten:
    outside = [path for path in note.stored if path.startswith("/")]
    return Forgotten(
        removed=len(note.ids),
        generated=note.generated,
        deleted=sorted(told.deleted),
        rewritten=sorted(told.rewritten),
        outside=[path for path in outside if Path(path).exists()],
        learned=note.learned,
        left=sorted(told.left),
        unsure=sorted(told.unsure),
        keeps=keeps,
    )


def _with_descendants(workspace: Workspace, ids: npt.ArrayLike) -> Ids:
    """The ids, and those of all images that were generated from them, ascending."""
    found = wanted = np.unique(np.asarray(ids, np.int64))
    with workspace.catalog.reading() as connection:
        while len(wanted):
            children: list[int] = []
            for part in _parts(wanted.tolist()):
                query = f"SELECT id FROM images WHERE parent IN ({', '.join('?' * len(part))})"
                children += connection.exec_driver_sql(query, tuple(part)).scalars().all()
            wanted = np.setdiff1d(np.array(children, np.int64), found)
            found = np.union1d(found, wanted)
    return found


def _noted(workspace: Workspace, ids: Ids) -> _Note:
    """What a note says of images that are there."""
    stored: list[str] = []
    generated, chosen = 0, set(ids.tolist())
    with workspace.catalog.reading() as connection:
        for part in _parts(ids.tolist()):
            query = f"SELECT path, origin, parent FROM images WHERE id IN ({', '.join('?' * len(part))}) ORDER BY id"
            for path, origin, parent in connection.exec_driver_sql(query, tuple(part)):
                stored += [str(path)] if path is not None else []
                generated += origin == "generated" and parent in chosen
    learned = []
    for run in workspace.runs():
        if not (run.path / CHECKPOINT).exists() or not len(ids):
            continue
        if not keeps_learned(run.path) or len(np.intersect1d(learned_from(workspace, [run]), ids)):
            learned.append(run.id)
    return _Note(ids.tolist(), generated, stored, learned)


def _wanted(workspace: Workspace, note: _Note) -> traces.Wanted:
    """What must leave no trace, as files tell it; places that another image has now are none of it."""
    root, gone = workspace.path, set(note.ids)
    with workspace.catalog.reading() as connection:
        rows = connection.exec_driver_sql("SELECT id, path FROM images WHERE path IS NOT NULL").all()
    kept = {str(path) for number, path in rows if int(number) not in gone}
    named = {places.picture_or_none(root, "gone", one): one for one in note.stored if one not in kept}
    own = {
        path for path, one in named.items() if not one.startswith("/") and not places.leads_out(root, Path(path).parent)
    }
    return traces.Wanted(
        ids=frozenset(note.ids),
        paths=frozenset({*named, *(one for one in named.values() if "/" in one)}),
        own=frozenset(own),
        marks=frozenset(mark_of(Path(path)) for path in named),
        registered=frozenset(path for path in kept if not path.startswith("/")),
    )


def _remove_rows(workspace: Workspace, ids: Ids) -> None:
    """One change of the log, which readers see at once."""
    there = np.intersect1d(ids, workspace.store().state().ids)
    if len(there):
        header = {"settings": {f"meta.{COUNT}": str(workspace.forgotten() + 1)}}
        workspace.catalog.write(Record("remove", header, {"ids": there}))


def _unlearn(workspace: Workspace, ids: Sequence[int], *, dry_run: bool = False) -> list[str]:
    """Take ids out of what runs say that they learned from; the files that this changes."""
    runs = [run for run in workspace.runs() if len(np.intersect1d(learned_from(workspace, [run], deep=False), ids))]
    for run in () if dry_run else runs:
        unlearn(run.path, ids)
    return [f"runs/{run.path.name}/{LEARNED}" for run in runs]


def _begun(folder: Path) -> _Note:
    """What an earlier call noted and did not end."""
    try:
        told = json.loads(places.read_bytes(folder / NOTE, LARGEST))
        return _Note(
            [int(one) for one in told["ids"]],
            int(told["generated"]),
            [str(one) for one in told["stored"]],
            [str(one) for one in told["learned"]],
        )
    except FileNotFoundError:
        return _Note([], 0, [], [])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RgunitError(f"{folder / NOTE} cannot be read ({error}): delete it, and forget again") from error


def _joined(one: _Note, other: _Note) -> _Note:
    return _Note(
        sorted({*one.ids, *other.ids}),
        one.generated + (0 if set(other.ids) <= set(one.ids) else other.generated),
        list(dict.fromkeys([*one.stored, *other.stored])),
        sorted({*one.learned, *other.learned}, key=lambda run: int(run[1:])),
    )


def _write(folder: Path, note: _Note) -> None:
    """The note, durably, whole or not at all."""
    write_json(folder / NOTE, asdict(note), durable=True)


def _parts(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[start : start + _MANY] for start in range(0, len(ids), _MANY)]
