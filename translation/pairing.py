"""Domains of which only some pairs are trained: which they are, and batches of them (mix-and-match networks).

Domains are the members of one exclusive group; an image is of the only member that its labels call true.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.names import quoted
from index_store.workspace import Workspace
from translation.sampling import Draw, Epochs

Pair = tuple[int, int]


def group_schema(schema: AttributeSchema, names: Sequence[str], method: str) -> AttributeSchema:
    """Of the attributes `schema` those of the only exclusive group among them; `names`: what the user named, if he did.

    UsageError where there is no group, more than one, or where names beside the group were given.
    """
    told = ", ".join(map(quoted, schema.names))
    if not schema.groups:
        raise UsageError(
            f"{method} needs domains that exclude each other, and none of {told} do: say which by `rgunit add … "
            "--groups 'A|B|C'`, or name two or more of a group by --attributes-used"
        )
    if len(schema.groups) > 1:
        raise UsageError(
            f"{method} takes the domains of one exclusive group, and there are "
            f"{' and '.join('|'.join(group) for group in schema.groups)}: name one group's by --attributes-used"
        )
    (group,) = schema.groups
    if beside := [name for name in names if name not in group]:
        raise UsageError(
            f"{', '.join(map(quoted, beside))} is no domain beside {'|'.join(group)}: {method} takes the members of "
            "one exclusive group, so leave it out of --attributes-used"
        )
    return schema.subset(group)


def anchor_of(names: Sequence[str], anchor: str) -> int:
    """The column of the anchor, by default the first. UsageError for a name that is none of them."""
    if not anchor:
        return 0
    if anchor not in names:
        raise UsageError(
            f"translation.anchor={anchor} is no domain of this run: it is one of {', '.join(map(quoted, names))}"
        )
    return list(names).index(anchor)


def trained_pairs(count: int, anchor: int, everything: bool = False) -> list[Pair]:
    """The pairs (other, anchor) of `count` domains, or all pairs."""
    if everything:
        return list(itertools.combinations(range(count), 2))
    return [(other, anchor) for other in range(count) if other != anchor]


def members(labels: NDArray[np.int8]) -> NDArray[np.int64]:
    """Of labels int8 [n, A] the column that alone is true, −1 where none or more than one is."""
    true = labels == 1
    return np.where(true.sum(1) == 1, true.argmax(1), -1)


class PairSampler:
    """Draws for step t images of both domains of pair t mod P: real images of the training split.

    A batch's `images` and `labels` are of the first domain, its `references` and `target` of the second, `domains` are
    their columns. RgunitError for a domain with fewer images than a batch.
    """

    def __init__(
        self,
        workspace: Workspace,
        attributes: tuple[str, ...],
        pairs: Sequence[Pair],
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        mirror: bool = True,
    ) -> None:
        self.pairs = list(pairs)
        self.batch, self.seed, self.rank, self.mirror = batch, seed, rank, mirror
        table = workspace.images("split=train origin=real")
        labels = table.labels[:, workspace.schema.indices(attributes)]
        domain = members(labels)
        self.ids: list[NDArray[np.int64]] = [table.ids[domain == column] for column in range(len(attributes))]
        for name, ids in zip(attributes, self.ids, strict=True):
            if len(ids) < max(2, batch * world):
                raise RgunitError(
                    f"the domain {quoted(name)} has {len(ids)} training images of its own, and a batch takes "
                    f"{max(2, batch * world)}: add images, lower the batch (--set translation.batch), or leave the "
                    "domain out of --attributes-used"
                )
        self.labels: NDArray[np.int8] = np.eye(len(attributes), dtype=np.int8)[domain[domain >= 0]]
        self._epochs = {
            (pair, domain): Epochs(len(self.ids[domain]), (seed, 1, pair, domain), batch=batch, rank=rank, world=world)
            for pair, domains in enumerate(self.pairs)
            for domain in domains
        }

    @property
    def learned(self) -> Sequence[NDArray[np.int64]]:
        """The ids of all images that may be drawn."""
        return self.ids

    def draw(self, step: int) -> Draw:
        """The batch of a step; the same for every call, whatever was drawn before."""
        turn, pair = divmod(step, len(self.pairs))
        ids, labels = [], []
        for domain in self.pairs[pair]:
            ids.append(self.ids[domain][self._epochs[pair, domain].rows(turn)])
            labels.append(np.tile(np.eye(len(self.ids), dtype=np.int8)[domain], (self.batch, 1)))
        mirrored = (np.random.default_rng([self.seed, 2, step, self.rank]).random((2, self.batch)) < 0.5) & self.mirror
        return Draw(
            ids[0],
            mirrored[0],
            labels[0],
            labels[1],
            torch.zeros(0, self.batch, 0),
            ids[1],
            mirrored[1],
            domains=self.pairs[pair],
        )
