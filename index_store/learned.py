"""The images that a run learned from, kept in its folder.

The one idea: splits may change after a training, what was seen in it does not. So an evaluation asks the run, and those
that it came from, and not the split alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from index_store.errors import RgunitError
from index_store.runcare import named_by
from index_store.runs import RunRecord, list_runs
from index_store.whole import whole

if TYPE_CHECKING:
    from index_store.catalog import Catalog
    from index_store.workspace import Workspace

FILE = "learned.npy"
Ids = npt.NDArray[np.int64]
NOBODY: Ids = np.empty(0, np.int64)


def keep_learned(folder: Path, ids: npt.ArrayLike) -> None:
    """Add to the images that the run of a folder learned from."""
    every = np.union1d(_read(folder), np.asarray(ids, np.int64).ravel())
    _write(folder, every[every >= 0])


def keeps_learned(folder: Path) -> bool:
    """Whether the run of a folder says what it learned from."""
    return (folder / FILE).is_file()


def unlearn(folder: Path, ids: npt.ArrayLike) -> bool:
    """Take ids that are never used again out of those that the run of a folder learned from; whether any was there."""
    there = _read(folder)
    kept = np.setdiff1d(there, np.asarray(ids, np.int64))
    if len(kept) < len(there):
        _write(folder, kept)
    return len(kept) < len(there)


def _write(folder: Path, every: Ids) -> None:
    with whole(folder / FILE, durable=True) as part, part.open("wb") as file:
        np.save(file, every)


def learned_from(workspace: Workspace, runs: Iterable[RunRecord], *, deep: bool = True) -> Ids:
    """The ids of the images that any of the runs, or (if `deep`) one that it came from, learned from, ascending.

    A run that was trained before runs kept them tells none.
    """
    known = {run.id: run for run in workspace.runs()}
    wanted = [run.id for run in runs]
    every = [np.empty(0, np.int64)]
    for name in wanted:  # grows by the runs that these came from
        if (run := known.get(name)) is None:
            continue
        every.append(_read(run.path))
        wanted += [one for one in named_by(run, known.values()) if deep and one not in wanted]
    return np.unique(np.concatenate(every))


def pass_on(catalog: Catalog, changed: Mapping[int, int]) -> None:
    """Where a run learned from an image whose file was changed {old id: new id}, count the new one as learned from."""
    old = np.array(sorted(changed), np.int64)
    for run in list_runs(catalog):
        if not run.path.is_symlink() and len(there := np.intersect1d(_read(run.path), old)):
            keep_learned(run.path, [changed[int(one)] for one in there])


def left_out(ids: Ids, learned: Ids, split: str) -> npt.NDArray[np.bool_]:
    """bool [n]: which images of a split may not be judged, since a run learned from them; none of split train."""
    return np.isin(ids, learned) if split != "train" else np.zeros(len(ids), np.bool_)


def count_left_out(workspace: Workspace, split: str, learned: Ids) -> int:
    """How many real images of a split may not be judged."""
    return int(left_out(workspace.images(f"split={split} origin=real").ids, learned, split).sum())


def barred_from(workspace: Workspace, split: str, runs: Iterable[RunRecord | None], note: Callable[[str], None]) -> Ids:
    """What the runs learned from; how many images of the split are left out for it is told to `note`."""
    learned = learned_from(workspace, [run for run in runs if run is not None])
    if count := count_left_out(workspace, split, learned):
        note(f"{count} images of split {split} are left out: the runs learned from them")
    return learned


def _read(folder: Path) -> Ids:
    """The ids that a run keeps, none for one that keeps none."""
    file = folder / FILE
    if not file.is_file():
        return np.empty(0, np.int64)
    try:
        ids = np.load(file, allow_pickle=False)
        if ids.ndim != 1 or ids.dtype != np.int64:
            raise ValueError("it holds no ids")
    except (OSError, ValueError, EOFError) as error:
        raise RgunitError(
            f"{file}: cannot be read ({error}), so it is not known what the run learned from: train it again"
        ) from error
    return np.asarray(ids)
