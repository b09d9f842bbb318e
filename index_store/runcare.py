"""What is done to runs that are there: which came from which, comparing, naming and deleting them.

The one idea: a run that another came from, or that one has judged, stays as long as that other one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from index_store import trash
from index_store.catalog import Catalog
from index_store.errors import Locked, RgunitError, UsageError, damage_named
from index_store.features import Record
from index_store.names import dotted, is_plain
from index_store.runs import HIGHEST, NAMES, RunRecord, being_trained, get_run, list_runs

NUMBER = "runs.number."
"""Settings: with a run's id behind, the number of the next image that it makes."""
_ID = re.compile(r"r\d+", re.ASCII)


def named_by(run: RunRecord, runs: Iterable[RunRecord]) -> list[str]:
    """The ids of those of `runs` that a run's settings name: what it was trained on, looks things up by, or judged."""
    texts = {text.removeprefix("store:") for text in _texts(run.config)}
    judged = run.config.get("runs")
    texts |= set(judged) if isinstance(judged, Mapping) else set()
    return [one.id for one in runs if one.id != run.id and (one.id in texts or (one.name and one.name in texts))]


def compared(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """{runs: ids, settings: {setting: {id: value}} of those that differ, metrics: {name: {id: last number}}}."""
    every = {run.id: run for run in runs}
    settings = {id: {"preset": run.preset, **dotted(run.config)} for id, run in every.items()}
    metrics = {id: {k: v for k, v in dotted(run.summary).items() if _is_number(v)} for id, run in every.items()}
    for id, run in every.items():
        metrics[id] |= {"steps": run.steps, "seconds": round(run.seconds, 1)}

    def rows(of: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        keys = dict.fromkeys(key for values in of.values() for key in values)
        return {
            key.removeprefix("config.").removeprefix("metrics."): {id: of[id].get(key) for id in of} for key in keys
        }

    differ = {key: row for key, row in rows(settings).items() if len({json.dumps(v) for v in row.values()}) > 1}
    return {"runs": list(every), "settings": differ, "metrics": rows(metrics)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def rename_run(catalog: Catalog, run: str, name: str) -> RunRecord:
    """Give a run a name, by which every command knows it beside its id; an empty one takes its name away.

    UsageError for a name that is none, another's, or looks like an id; RgunitError where settings of another run go by
    the old name.
    """
    if name and (not is_plain(name) or _ID.fullmatch(name)):
        raise UsageError(f"{name!r} is no name for a run: write a plain word, of letters, digits and . _ - (not r17)")
    with catalog.writing():
        record, every = get_run(catalog, run), list_runs(catalog)
        if other := next((one for one in every if one.name == name and name and one.id != record.id), None):
            raise UsageError(f"run {other.id} is called {name!r} already: choose another name")
        users = [one.id for one in every if record.name and record.name in _texts(one.config)]
        if users and name != record.name:
            raise RgunitError(f"the settings of {', '.join(users)} go by the name {record.name!r}: it has to stay")
        names = {one.id: one.name for one in every if one.name and one.id != record.id}
        told = json.dumps({**names, record.id: name} if name else names)
        catalog.write(Record("settings", {"settings": {NAMES: told}}))
        return get_run(catalog, record.id)


def delete_runs(catalog: Catalog, names: Sequence[str], *, images: bool = False) -> list[RunRecord]:
    """Delete runs with all of their files; return them, the last first.

    RgunitError, and nothing is deleted, where a run is being trained, another run that stays refers to it, or, without
    `images`, the workspace has images that it made (they are deleted with it). Killed at any instant it leaves each of
    them whole or gone, those that refer to others gone first.
    """
    with _writing(catalog):
        every = list_runs(catalog)
        chosen = {record.id: record for record in (get_run(catalog, name) for name in names)}
        for record in chosen.values():
            if being_trained(catalog, record):
                raise RgunitError(f"run {record.id} is being trained: stop it first (Ctrl-C keeps a checkpoint)")
            users = [one.id for one in every if one.id not in chosen and record.id in named_by(one, every)]
            if users:
                raise RgunitError(
                    f"run {record.id} is what {', '.join(users)} came from or judged: delete {_them(users)} too "
                    f"(`rgunit runs delete {' '.join([record.id, *users])}`), or keep it"
                )
            if not images and (made := made_by(catalog, record.id)):
                raise RgunitError(f"run {record.id} made {made} of the workspace's images: --images deletes them too")
        order = sorted(chosen.values(), key=lambda one: -int(one.id[1:]))  # a run names only older ones
        highest = int(order[0].id[1:]) if order else 0
        with catalog.reading() as connection, damage_named(catalog.file):
            before = int(catalog.setting(connection, HIGHEST) or 0)
        if highest > before:
            catalog.write(Record("settings", {"settings": {HIGHEST: str(highest)}}))
        for record in order:
            trash.put(record.path)
            trash.empty(catalog)
        return order


@contextmanager
def _writing(catalog: Catalog) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(catalog.writing())
        except Locked as error:
            raise Locked(f"{error} (a run that is being trained cannot be deleted)") from None
        yield


def made_by(catalog: Catalog, run: str) -> int:
    """How many images of the workspace a run made."""
    with catalog.reading() as connection:
        query = "SELECT count(*) FROM images WHERE run = ? AND origin = 'generated'"
        return int(connection.exec_driver_sql(query, (run,)).scalar() or 0)


def next_number(catalog: Catalog, run: str) -> int:
    """The number of the next image that a run makes: no number is used twice, also where its image was removed."""
    with catalog.reading() as connection, damage_named(catalog.file):
        return max(made_by(catalog, run), int(catalog.setting(connection, NUMBER + run) or 0))


def numbered(catalog: Catalog, runs: Sequence[str]) -> dict[str, Any]:
    """The part of a record's header that keeps `next_number`, where each of `runs` has made an image of the record."""
    told = {NUMBER + run: str(next_number(catalog, run) + more) for run, more in Counter(runs).items()}
    return {"settings": told}


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _texts(value: object) -> set[str]:
    """All texts in a run's settings."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        return {text for one in value.values() for text in _texts(one)}
    return {text for one in value for text in _texts(one)} if isinstance(value, list | tuple) else set()
