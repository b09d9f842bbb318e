"""The true translations of drawn faces, which only evaluation knows: what a picture should become, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index_store.workspace import Workspace
from translation.drawings import true_translation

Ids = NDArray[np.int64]
Labels = NDArray[np.int8]
Images = NDArray[np.uint8]


class Truth(Protocol):
    """The true translations of drawn images, uint8 [n, S, S, 3], or None where they are not known."""

    def __call__(self, source: Ids, target: Labels) -> Images | None: ...


def truth_of(workspace: Workspace, names: tuple[str, ...], size: int) -> Truth | None:
    """The true translations of drawn faces; None for a collection that was not drawn."""
    if "drawing" not in workspace.images().fields:
        return None

    def truth(source: Ids, target: Labels) -> Images | None:
        table = workspace.images(ids=np.unique(source))
        drawings = dict(zip(table.ids.tolist(), table.fields["drawing"], strict=True))
        if any(drawings[int(i)] is None for i in source):
            return None
        return np.stack(
            [true_translation(str(drawings[int(i)]), row, names, size) for i, row in zip(source, target, strict=True)]
        )

    return truth


@dataclass(frozen=True)
class Goal:
    """What translations should become: `images` uint8 [n, S, S, 3], and where the edit acts, `edited` bool [n, S, S].

    An edit acts on the pixels in which the drawn truth differs from the drawn source, by any amount.
    """

    images: Images
    edited: NDArray[np.bool_]

    @staticmethod
    def of(truth: Truth, source: Ids, target: Labels) -> Goal | None:
        """The goal of each pair; None where the truth is not known."""
        images, drawn = truth(source, target), truth(source, np.full_like(target, -1))
        return None if images is None or drawn is None else Goal(images, (images != drawn).any(axis=3))
