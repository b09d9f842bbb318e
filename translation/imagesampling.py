"""Which images and noise a step of a generator gets that makes images from noise: a function of (seed, step, process).

The counterpart of `sampling.py` for methods that draw images of one domain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from translation.sampling import Draw, Epochs


class ImageSampler:
    """Draws `batch` training images of a domain, in epochs of a seeded permutation, and noise for each.

    `where` is a filter. With `attributes` only images whose labels of them are all known, and as targets the labels of
    images drawn at random; without any also unlabelled ones. A domain smaller than a batch is drawn repeatedly.
    RgunitError for fewer than two images.
    """

    def __init__(
        self,
        workspace: Workspace,
        attributes: Sequence[str],
        where: str,
        *,
        batch: int,
        noise: tuple[int, int],
        seed: int,
        rank: int = 0,
        world: int = 1,
        mirror: bool = True,
    ) -> None:
        self.batch, self.noise, self.mirror = batch, noise, mirror
        self.seed, self.rank = seed, rank
        table = workspace.images(f"split=train origin={'real' if attributes else 'real|unlabelled'} {where}".strip())
        labels = table.labels[:, workspace.schema.indices(attributes)]
        complete = (labels >= 0).all(axis=1)
        self.ids, self.labels = table.ids[complete], labels[complete]
        if len(self.ids) < 2:
            told = f" with known labels of {', '.join(attributes)}" if attributes else ""
            raise RgunitError(
                f"a generator needs at least 2 training images to learn from, and {where or 'the workspace'} has "
                f"{len(self.ids)}{told}: add images, or choose --target otherwise"
            )
        self._epochs = Epochs(len(self.ids), (seed, 1), batch=batch, rank=rank, world=world)

    @property
    def learned(self) -> Sequence[NDArray[np.int64]]:
        """The ids of all images that may be drawn."""
        return (self.ids,)

    def draw(self, step: int) -> Draw:
        """The batch of a step; the same for every call, whatever was drawn before."""
        rows = self._epochs.rows(step)
        rng = np.random.default_rng([self.seed, 2, step, self.rank])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(self.noise[0], self.batch, self.noise[1], generator=generator)
        mirrored = (rng.random(self.batch) < 0.5) & self.mirror
        return Draw(
            self.ids[rows],
            mirrored,
            self.labels[rows],
            self.labels[rng.integers(len(self.ids), size=self.batch)],
            noise,
        )
