"""Which images, targets and noise a training step gets: a pure function of (seed, step, process).

Images come in epochs of a seeded permutation; a target is the label vector of another random training image of the
whole set (permuting inside a batch would do nothing at batch 1); unknown bits are drawn from the training prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from index_store.errors import RgunitError
from index_store.names import quoted
from index_store.workspace import Workspace
from retrieval.tensors import mirrored_pixels


@dataclass(frozen=True)
class Guides:
    """What a batch is shown of its neighbours.

    maps: of each of the method's queries, content [B, k, C, h, w] (C + 48 where guidance wants pixels); shown bool [B],
    which images see theirs (None: all); hidden bool [B, 1, h, w], what a reconstruction does not see of the source's
    content; real: further real images for D [B, 3, H, W] with their labels [B, A]; style [B, S], the neighbours' in
    place of the drawn one.
    """

    maps: tuple[Tensor, ...] = ()
    shown: Tensor | None = None
    hidden: Tensor | None = None
    real: tuple[Tensor, Tensor] | None = None
    style: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """One step's inputs on the device: B images, A attributes, S numbers of style.

    images [B, 3, H, W] in [−1, 1]; labels and target [B, A] in {1, 0, −1 = unknown} (a target knows all); noise
    [n, B, S] ~ N(0, 1), as many as the method asks for; references [B, 3, H, W], images of the target domain, for a
    method that draws domains; `domains`: which two they are, where there are more; `parts`
    uint8 [B, H, W] of drawings. `real`: what D is shown as real,
    images with their labels, where that is not `images`: in a chain of translations these are made. `hops`: the further
    chains of targets and noises (`Draw`). `encoded`: what frozen encoders gave for the images. held_out: images with
    their labels that nothing is learned from.
    """

    images: Tensor
    labels: Tensor
    target: Tensor
    noise: Tensor
    references: Tensor | None = None
    domains: tuple[int, int] | None = None
    parts: Tensor | None = None
    real: tuple[Tensor, Tensor] | None = None
    hops: tuple[tuple[tuple[Tensor, Tensor], ...], ...] = ()
    encoded: Any = None
    guides: Guides = Guides()
    held_out: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Draw:
    """One step's choice, on the host: B images, A used attributes.

    ids int64 [B]; mirrored bool [B]; labels int8 [B, A] as known (−1 unknown); target int8 [B, A] without unknowns;
    noise float32 [n, B, S] ~ N(0, 1); hops: for chains of 2, 3 … translations the target and noise of each, the last
    target being `target`; of domains also references int64 [B] and whether they are mirrored. `crops` uint8
    [B, S, S, 3] of the source picture and of the target picture, as they are shown. `domains`: the columns of the
    images' domain and of the references'. `parts` uint8 [B, H, W]: what a drawing shows at each pixel.
    """

    ids: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    labels: NDArray[np.int8]
    target: NDArray[np.int8]
    noise: Tensor
    references: NDArray[np.int64] | None = None
    references_mirrored: NDArray[np.bool_] | None = None
    crops: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None
    hops: tuple[tuple[tuple[NDArray[np.int8], Tensor], ...], ...] = ()
    domains: tuple[int, int] | None = None
    parts: NDArray[np.uint8] | None = None


class Epochs:
    """Which of n images each step draws: epoch after epoch, each a permutation that (key, epoch) decides.

    `world` processes share an epoch; each draws a `batch` a step.
    """

    def __init__(self, n: int, key: tuple[int, ...], *, batch: int, rank: int, world: int) -> None:
        self.n, self.batch, self.rank, self.world = n, batch, rank, world
        self._permutation = lru_cache(maxsize=4)(lambda epoch: np.random.default_rng([*key, epoch]).permutation(n))

    def rows(self, step: int) -> NDArray[np.int64]:
        """int64 [batch] in [0, n)."""
        positions = (step * self.world + self.rank) * self.batch + np.arange(self.batch)
        return np.array([self._permutation(int(p // self.n))[p % self.n] for p in positions])


class Sampler(Protocol):
    """Where the batches of a training come from."""

    @property
    def labels(self) -> NDArray[np.int8]:
        """int8 [n, A] of the images that are drawn."""

    @property
    def learned(self) -> Sequence[NDArray[np.int64]]:
        """The ids of all images that may be drawn."""

    def draw(self, step: int) -> Draw:
        """The batch of a step; the same for every call, whatever was drawn before."""


class LabelSampler:
    """Draws batches from the labelled real images of the training split; `noise`: how many vectors, how long."""

    def __init__(
        self,
        workspace: Workspace,
        attributes: tuple[str, ...],
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        mirror: bool = True,
        groups: Sequence[Sequence[int]] = (),
        noise: tuple[int, int],
        hops: int = 1,
    ) -> None:
        self.hops = hops
        table = workspace.images("split=train origin=real")
        labels = table.labels[:, workspace.schema.indices(attributes)]
        known = (labels >= 0).any(axis=1)
        self.ids, self.labels = table.ids[known], labels[known]
        self.batch, self.seed, self.rank, self.mirror = batch, seed, rank, mirror
        self.groups, self.noise = groups, noise
        if len(self.ids) < 2:
            splits = sorted(set(map(str, workspace.images("origin=real").split)) - {"train"})
            others = f"; its splits are {', '.join(splits)}: mend them by `rgunit add … --update`" if splits else ""
            raise RgunitError(
                f"training needs at least 2 labelled images in the split train, the workspace has {len(self.ids)}: "
                f"add images with `rgunit add DIR --attributes labels.csv`{others}"
            )
        if batch * world > len(self.ids):
            raise RgunitError(
                f"a batch of {batch * world} is larger than the {len(self.ids)} labelled training images: "
                f"lower the stage's batch (--set translation.batch=… or guided.batch=…) to {max(1, len(self.ids) // 2)}"
            )
        if len(np.unique(self.labels, axis=0)) < 2:
            raise RgunitError(
                f"all {len(self.ids)} training images have the same labels of {', '.join(map(quoted, attributes))}: "
                "there is no other domain to translate to; add images or choose other --attributes-used"
            )
        without = {
            "has": [name for name, column in zip(attributes, self.labels.T, strict=True) if not (column == 1).any()],
            "lacks": [name for name, column in zip(attributes, self.labels.T, strict=True) if not (column == 0).any()],
        }
        for verb, names in without.items():
            if names:
                raise RgunitError(
                    f"no training image is known that {verb} {', '.join(map(quoted, names))}, so nothing can be "
                    "learned of it: add images, or leave it out of --attributes-used"
                )
        counted = self.labels >= 0
        self.prior = (self.labels == 1).sum(0) / np.maximum(counted.sum(0), 1)
        self._epochs = Epochs(len(self.ids), (seed, 1), batch=batch, rank=rank, world=world)

    @property
    def learned(self) -> Sequence[NDArray[np.int64]]:
        """The ids of all images that may be drawn."""
        return (self.ids,)

    def draw(self, step: int) -> Draw:
        """The batch of a step; the same for every call, whatever was drawn before."""
        rows = self._epochs.rows(step)
        rng = np.random.default_rng([self.seed, 2, step, self.rank])
        others = (rows + rng.integers(1, len(self.ids), self.batch)) % len(self.ids)
        target = self.labels[others]
        guessed = (rng.random(target.shape) < self.prior).astype(np.int8)
        target = exclusive(np.where(target < 0, guessed, target), target, self.groups)
        noise = self._noise(torch.Generator().manual_seed(int(rng.integers(2**62))))
        mirrored = (rng.random(self.batch) < 0.5) & self.mirror
        chains = self._chains(step, self.labels[rows], target)
        return Draw(self.ids[rows], mirrored, self.labels[rows], target, noise, hops=chains)

    def _chains(
        self, step: int, labels: NDArray[np.int8], target: NDArray[np.int8]
    ) -> tuple[tuple[tuple[NDArray[np.int8], Tensor], ...], ...]:
        """For each number of hops from 2 the targets on the way, other than the source's, the last and the one before,
        as far as there are others."""
        rng = np.random.default_rng([self.seed, 10, step, self.rank])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chains = []
        for length in range(2, self.hops + 1):
            chain, before = [], labels
            for _ in range(length - 1):
                between = self._between(rng, target, before, labels)
                chain.append((between, self._noise(generator)))
                before = between
            chains.append((*chain, (target, self._noise(generator))))
        return tuple(chains)

    def _between(self, rng: np.random.Generator, *unlike: NDArray[np.int8]) -> NDArray[np.int8]:
        """Complete label vectors int8 [B, A] of training images, unlike all these, else the first two, where any is."""
        known = self._complete
        if not len(known):
            return unlike[0]
        chosen = []
        for vectors in zip(*unlike, strict=True):
            apart = [((known != one) & (one >= 0)).any(1) for one in vectors]
            among = next(some for some in (known[np.all(apart, 0)], known[np.all(apart[:2], 0)], known) if len(some))
            chosen.append(among[rng.integers(len(among))])
        return np.stack(chosen)

    @cached_property
    def _complete(self) -> NDArray[np.int8]:
        """The different label vectors int8 [n, A] of training images without an unknown bit."""
        return np.unique(self.labels[(self.labels >= 0).all(1)], axis=0)

    def _noise(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.noise[0], self.batch, self.noise[1], generator=generator)


class DomainSampler:
    """Draws batches of real training images of a source domain, and of a target domain beside them.

    `source` and `target` are filters (`+Glasses`, `-Glasses`). RgunitError for an empty domain, an image in both, or a
    batch larger than a domain.
    """

    def __init__(
        self,
        workspace: Workspace,
        attributes: tuple[str, ...],
        source: str,
        target: str,
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        mirror: bool = True,
    ) -> None:
        self.batch, self.seed, self.rank, self.mirror = batch, seed, rank, mirror
        columns = workspace.schema.indices(attributes)
        self.ids: list[NDArray[np.int64]] = []
        tables = []
        for name, where in (("source", source), ("target", target)):
            table = workspace.images(f"split=train origin=real {where}")
            if len(table) < max(2, batch * world):
                raise RgunitError(
                    f"the {name} domain {where!r} has {len(table)} training images, and a batch takes "
                    f"{max(2, batch * world)}: add images, lower the batch (--set translation.batch or guided.batch), "
                    f"or choose --{name} otherwise"
                )
            self.ids.append(table.ids)
            tables.append(table.labels[:, columns])
        if shared := np.intersect1d(self.ids[0], self.ids[1]).size:
            raise RgunitError(
                f"{shared} training images are in both domains, {source!r} and {target!r}: choose --source and "
                "--target that exclude each other"
            )
        self.labels, self._targets = tables
        self._epochs = [
            Epochs(len(ids), (seed, 1, domain), batch=batch, rank=rank, world=world)
            for domain, ids in enumerate(self.ids)
        ]

    @property
    def learned(self) -> Sequence[NDArray[np.int64]]:
        """The ids of all images that may be drawn."""
        return self.ids

    def draw(self, step: int) -> Draw:
        """The batch of a step; the same for every call, whatever was drawn before."""
        rows = [epochs.rows(step) for epochs in self._epochs]
        mirrored = (np.random.default_rng([self.seed, 2, step, self.rank]).random((2, self.batch)) < 0.5) & self.mirror
        return Draw(
            self.ids[0][rows[0]],
            mirrored[0],
            self.labels[rows[0]],
            self._targets[rows[1]],
            torch.zeros(0, self.batch, 0),
            self.ids[1][rows[1]],
            mirrored[1],
        )


class CropSampler:
    """Draws crops of one source picture and of one target picture, at their own resolution or shrunk.

    `source` and `target` are filters that one image each passes (`id=17`), of any split. In each step a picture is
    shrunk to 1/`zoom` … 1 of its width and of its height, but to no less than `size` pixels a side; then `batch`
    squares of that size are cut out anywhere, half of them mirrored. RgunitError for a filter that another number of
    images passes, and for one picture in both places.
    """

    def __init__(
        self,
        workspace: Workspace,
        source: str,
        target: str,
        *,
        size: int,
        batch: int,
        zoom: float,
        seed: int,
        rank: int = 0,
        world: int = 1,
        mirror: bool = True,
    ) -> None:
        self.size, self.batch, self.zoom, self.mirror = size, batch, zoom, mirror
        self.seed, self.rank = seed, rank
        ids: list[int] = []
        self.pictures: list[Image.Image] = []
        for name, where in (("source", source), ("target", target)):
            table = workspace.images(f"origin=real|unlabelled {where}")
            if len(table) != 1:
                raise RgunitError(
                    f"--{name} {where!r} is {len(table)} images, and one is needed: name it by its path, or by "
                    "its number (id=17)"
                )
            ids.append(int(table.ids[0]))
            self.pictures.append(Image.fromarray(table.read(0)))
        if ids[0] == ids[1]:
            raise RgunitError(f"source and target are the same picture, id={ids[0]}: choose two")
        self.ids, self.both = np.full(batch, ids[0]), np.array(ids, np.int64)
        self.labels: NDArray[np.int8] = np.zeros((1, 0), np.int8)

    @property
    def learned(self) -> Sequence[NDArray[np.int64]]:
        """The ids of all images that may be drawn."""
        return (self.both,)

    def draw(self, step: int) -> Draw:
        """The batch of a step; the same for every call, whatever was drawn before."""
        rng = np.random.default_rng([self.seed, 2, step, self.rank])
        source, target = (self._crops(picture, rng) for picture in self.pictures)
        none = np.zeros((self.batch, 0), np.int8)
        unmirrored = np.zeros(self.batch, np.bool_)
        return Draw(self.ids, unmirrored, none, none, torch.zeros(0, self.batch, 0), crops=(source, target))

    def whole(self, most: int = 512) -> NDArray[np.uint8]:
        """The source [1, H, W, 3] for a sample picture, its sides multiples of 8 and at most `most` pixels."""
        picture = self.pictures[0]
        share = min(1.0, most / max(picture.size))
        sides = [max(self.size, round(side * share / 8) * 8) for side in picture.size]
        return np.asarray(picture.resize((sides[0], sides[1]), Image.Resampling.BILINEAR))[None]

    def _crops(self, picture: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
        shares = rng.uniform(1 / self.zoom, 1, 2)
        width, height = (max(self.size, round(side * share)) for side, share in zip(picture.size, shares, strict=True))
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        left = rng.integers(width - self.size + 1, size=self.batch)
        top = rng.integers(height - self.size + 1, size=self.batch)
        crops = [pixels[y : y + self.size, x : x + self.size] for x, y in zip(left, top, strict=True)]
        return mirrored_pixels(np.stack(crops), (rng.random(self.batch) < 0.5) & self.mirror)


def exclusive(labels: NDArray[np.int8], known: NDArray[np.int8], groups: Sequence[Sequence[int]]) -> NDArray[np.int8]:
    """labels int8 [B, A] in which a guessed bit (known −1) is no second member of its exclusive group.

    A guess gives way to a bit that is known true, else to the group's first guess; known bits stay as given.
    """
    labels = labels.copy()
    for group in groups:
        members, given = labels[:, list(group)], known[:, list(group)]
        guesses = (given < 0) & (members == 1)
        first = np.cumsum(guesses, axis=1) == 1
        keep = first & ~(given == 1).any(1, keepdims=True)
        labels[:, list(group)] = np.where(guesses & ~keep, 0, members)
    return labels


def shifted(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Images [B, 3, S, S] all shifted by up to S/16 pixels to either side, edges reflected."""
    size = images.shape[-1]
    reach = size // 16
    top, left = rng.integers(0, 2 * reach + 1, size=2)
    return F.pad(images, (reach,) * 4, mode="reflect")[:, :, top : top + size, left : left + size]
