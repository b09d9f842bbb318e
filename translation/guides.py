"""Which images may guide (`guided.pool`): the one rule for training, use and evaluation.

Real and unlabelled images of split train; on request images that a generator drew from noise, itself trained on split
train alone, with all the runs that it came from. Translations never guide: they are made from an image, and an
evaluation would reward copying it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from index_store.learned import learned_from
from index_store.workspace import Workspace
from translation.runs import GENERATOR, MINER

LOOKED_UP = "train"
Pool = Literal["real", "generated", "both"]
ORIGINS: dict[Pool, str] = {"real": "real|unlabelled", "generated": "generated", "both": "real|unlabelled|generated"}


def guide_filter(pool: Pool = "real") -> str:
    """The filter of images that may guide; of generated ones `not_drawn` is left out."""
    return f"split={LOOKED_UP} origin={ORIGINS[pool]}"


def not_drawn(workspace: Workspace) -> NDArray[np.int64]:
    """The ids of generated images that may not guide: translations, and what came of more than split train."""
    table = workspace.images("origin=generated")
    good = {name for name in set(map(str, table.run)) if _of_train_alone(workspace, name)}
    drawn = (table.parent < 0) & np.isin(table.run.astype(str), sorted(good))
    return table.ids[~drawn]


def drawing_runs(workspace: Workspace, ids: NDArray[np.int64]) -> list[str]:
    """The runs that made those of the images that are generated: what is guided by them came from these runs too."""
    table = workspace.images(ids=np.unique(ids))
    return sorted({str(run) for run in table.run[table.origin == "generated"]}, key=lambda run: int(run[1:]))


def _of_train_alone(workspace: Workspace, name: str) -> bool:
    """Whether a run draws from noise and it is known that it and the runs before it learned from split train alone."""
    runs = [run for run in workspace.runs() if run.id == name and run.stage in (GENERATOR, MINER)]
    learned = learned_from(workspace, runs)
    table = workspace.images("origin=real|unlabelled")
    return len(learned) > 0 and bool((table.split[np.isin(table.ids, learned)] == LOOKED_UP).all())
